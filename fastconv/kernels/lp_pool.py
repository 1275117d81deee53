"""Power-average pooling: y = (K / count * sum over the window of x^p)^(1/p), and the two maps of its gradient.

Tile of the forward pass: `part` output rows, any plane; of the others: a run of `part` elements.  Exponents 1, 2 and 3
are products; any other one is the machine's power function.
"""

from functools import lru_cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements, select
from ..driver import Row
from ..simd import array_at, fields
from .average_pool import count_arrays
from .window import GEOMETRY, add_strided, fill_row, geometry, rows_per_tile, valid_outputs, valid_taps
from .window_pool import refusal, window_cost

ForwardBlock = Block("LpPool", "x y cd ch cw scratch", numbers=f"{GEOMETRY} rows part", reals="power taps")
MapBlock = Block("LpPoolMap", "x y", numbers="size part", reals="power taps")


@helper
def add_powers(s, x, kind, power):
    """s[j] += x[j]^p; kind is p where it is 1, 2 or 3."""
    if kind == 1:
        for j in range(s.size):
            s[j] += x[j]
    elif kind == 2:
        for j in range(s.size):
            s[j] += x[j] * x[j]
    elif kind == 3:
        for j in range(s.size):
            s[j] += x[j] * x[j] * x[j]
    else:
        for j in range(s.size):
            s[j] += x[j] ** power


@lru_cache
def make_lp_rows(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(ForwardBlock, dtype)
    def lp_pool_fwd_separable(block, tile, worker):
        """y[r, j], first down the columns, then along the row.  Tile: `part` output rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        cd, ch, cw = array_at(a.cd, a.cd_size, KIND), array_at(a.ch, a.ch_size, KIND), array_at(a.cw, a.cw_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        real = s.dtype.type
        power, root, kind = real(a.power), real(1 / a.power), int(a.power) if a.power in (1.0, 2.0, 3.0) else 0
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z, i = r // (a.od * a.oh), r // a.oh % a.od, r % a.oh
            d0, d1 = valid_taps(z * a.sd, a.id, a.kd, 1)
            h0, h1 = valid_taps(i * a.sh, a.ih, a.kh, 1)
            fill_row(s, real(0))
            for d in range(d0, d1):
                for h in range(h0, h1):
                    start = ((plane * a.id + z * a.sd + d) * a.ih + i * a.sh + h) * a.iw
                    add_powers(s, x[start : start + a.iw], kind, power)
            out = y[r * a.ow : (r + 1) * a.ow]
            fill_row(out, real(0))
            for w in range(a.kw):
                first, end = valid_outputs(w, a.iw, a.ow, a.sw)
                if first < end:
                    add_strided(out[first:end], s[first * a.sw + w :], a.sw)
            scale = real(a.taps) / (cd[z] * ch[i])
            for j in range(a.ow):
                out[j] = out[j] * (scale / cw[j])
            if kind == 2:
                for j in range(a.ow):
                    out[j] = np.sqrt(out[j])
            elif kind != 1:
                for j in range(a.ow):
                    out[j] = out[j] ** root

    return lp_pool_fwd_separable


@lru_cache
def make_lp_power(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def lp_pool_fwd_power(block, tile, worker):
        """y = x^p.  Tile: `part` elements."""
        a = fields(block)
        begin, end = tile * a.part, min((tile + 1) * a.part, a.size)
        x, y = array_at(a.x, a.x_size, KIND)[begin:end], array_at(a.y, a.y_size, KIND)[begin:end]
        fill_row(y, y.dtype.type(0))
        add_powers(y, x, int(a.power) if a.power in (1.0, 2.0, 3.0) else 0, y.dtype.type(a.power))

    return lp_pool_fwd_power


@lru_cache
def make_lp_root(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def lp_pool_fwd_root(block, tile, worker):
        """y = (K y)^(1/p).  Tile: `part` elements."""
        a = fields(block)
        y = array_at(a.y, a.y_size, KIND)[tile * a.part : min((tile + 1) * a.part, a.size)]
        taps, root = y.dtype.type(a.taps), y.dtype.type(1 / a.power)
        if a.power == 2.0:
            for j in range(y.size):
                y[j] = np.sqrt(y[j] * taps)
        elif a.power == 1.0:
            for j in range(y.size):
                y[j] *= taps
        else:
            for j in range(y.size):
                y[j] = (y[j] * taps) ** root

    return lp_pool_fwd_root


@lru_cache
def make_lp_outer(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def lp_pool_bwd_outer(block, tile, worker):
        """y = y * K * x^(1 - p), and 0 where x is 0.  Tile: `part` elements."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        real = y.dtype.type
        taps, power = real(a.taps), real(1 - a.power)
        for j in range(tile * a.part, min((tile + 1) * a.part, a.size)):
            if a.power == 2.0:
                share = taps / x[j]
            elif a.power == 1.0:
                share = taps
            else:
                share = taps * x[j] ** power
            y[j] = real(0) if x[j] == 0 else y[j] * share

    return lp_pool_bwd_outer


@lru_cache
def make_lp_inner(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def lp_pool_bwd_inner(block, tile, worker):
        """y = y * x^(p - 1).  Tile: `part` elements."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        power = y.dtype.type(a.power - 1)
        begin, end = tile * a.part, min((tile + 1) * a.part, a.size)
        if a.power == 2.0:
            for j in range(begin, end):
                y[j] *= x[j]
        elif a.power == 3.0:
            for j in range(begin, end):
                y[j] *= x[j] * x[j]
        else:
            for j in range(begin, end):
                y[j] *= x[j] ** power

    return lp_pool_bwd_inner


# ---- implementations


def _row_work(spec, power):
    element = 0.1 if power in (1, 2, 3) else 15.0
    return 30 + element * spec.kd * spec.kh * spec.iw + 0.25 * spec.kw * spec.ow + 2 * spec.ow


@implements("lp_pool.fwd", rank=90)
class LpSeparable(Impl):
    """Any window, any exponent."""

    name = "lp_pool_fwd_separable"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _row_work(spec, 2)

    @staticmethod
    def emit(spec, buffers):
        rows, power = spec.planes * spec.od * spec.oh, buffers["power"]
        work = _row_work(spec, power)
        part = rows_per_tile(rows, work)
        values = {"x": buffers["x"], "y": buffers["y"], **count_arrays(spec), **geometry(spec)}
        values |= {"rows": rows, "part": part, "power": float(power), "taps": float(spec.taps)}
        return [Row(make_lp_rows(spec.dtype), -(-rows // part), values, rows * work, scratch=spec.iw)]


def map_row(make, x, y, power, taps=1):
    """A row that changes y, element by element, by the outer or the inner map of the gradient."""
    work = 0.3 if power in (1, 2, 3) else 15.0
    size = prod(x.shape)
    part = rows_per_tile(size, work)
    values = {"x": x, "y": y, "size": size, "part": part, "power": float(power), "taps": float(taps)}
    return Row(make(x.dtype.name), -(-size // part), values, size * work)


@implements("lp_pool.fwd", rank=10)
class LpWindows(Impl):
    """Small windows: the power of every pixel once, the window kernels of the average, and the root."""

    name = "lp_pool_fwd_window"

    @staticmethod
    def when(spec):
        return refusal(spec)

    @staticmethod
    def cost(spec):
        return spec.planes * (0.3 * spec.in_pixels + 0.5 * spec.out_pixels) + window_cost(spec, 0.6)

    @staticmethod
    def emit(spec, buffers):
        x, y, power = buffers["x"], buffers["y"], buffers["power"]
        powers = x if power == 1 else buffers["powers"]  # as large as x, to work in
        rows = [] if power == 1 else [map_row(make_lp_power, x, powers, power)]
        rows += select("avg_pool.fwd", spec).emit(spec, {"x": powers, "y": y})
        return [*rows, map_row(make_lp_root, y, y, power, spec.taps)]
