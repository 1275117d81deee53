"""Maximum pooling of any window, forward with and without the position of the maximum, and backward.

y[r, j] = max over d, h, w of x[.., od*sd - pd + d*dd, oh*sh - ph + h*dh, j*sw - pw + w*dw], padding left out.
NaN is larger than everything; of equal values the first wins; a window with no tap inside gives -inf at position -1.
Positions are flat indices into the plane (id, ih, iw), int64, as in torch.nn.functional.max_pool2d.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..pool_specs import PoolSpec
from ..simd import array_at, fields
from .window import (
    GEOMETRY,
    argmax_strided,
    fill_row,
    geometry,
    max_row,
    max_strided,
    rows_per_tile,
    valid_outputs,
    valid_taps,
)

RowsBlock = Block("MaxPoolRows", "x y scratch", numbers=f"{GEOMETRY} rows part")
_PLANES = "big_pixels small_pixels planes part together"


@helper
def rows_maximum(s, x, a, plane, z, i):
    """s[j] = the maximum of column j over the rows of the window of output row (z, i)."""
    fill_row(s, s.dtype.type(-np.inf))
    z0, i0 = z * a.sd - a.pd, i * a.sh - a.ph
    d0, d1 = valid_taps(z0, a.id, a.kd, a.dd)
    h0, h1 = valid_taps(i0, a.ih, a.kh, a.dh)
    for d in range(d0, d1):
        for h in range(h0, h1):
            start = ((plane * a.id + z0 + d * a.dd) * a.ih + i0 + h * a.dh) * a.iw
            max_row(s, x[start : start + a.iw])


@lru_cache
def make_max_rows(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(RowsBlock, dtype)
    def max_pool_fwd_separable(block, tile, worker):
        """y[r, j], first down the columns, then along the row.  Tile: `part` output rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            rows_maximum(s, x, a, r // (a.od * a.oh), r // a.oh % a.od, r % a.oh)
            out = y[r * a.ow : (r + 1) * a.ow]
            fill_row(out, out.dtype.type(-np.inf))
            for w in range(a.kw):
                offset = w * a.dw - a.pw
                first, end = valid_outputs(offset, a.iw, a.ow, a.sw)
                if first < end:
                    max_strided(out[first:end], s[first * a.sw + offset :], a.sw)

    return max_pool_fwd_separable


@helper
def first_positions(at, a, d0, d1, h0, h1, row):
    """at[j] = the position of window j's first tap inside the image, or -1; row: the position of its first row."""
    for j in range(a.ow):
        start = j * a.sw - a.pw
        w0, w1 = valid_taps(start, a.iw, a.kw, a.dw)
        inside = (d0 < d1) & (h0 < h1) & (w0 < w1)
        at[j] = row + start + w0 * a.dw if inside else -1


@lru_cache
def make_argmax_rows(dtype, at):
    KIND, AT = np.dtype(dtype).str[1:], np.dtype(at).str[1:]

    @tile_body(Block(f"MaxPoolIndexRows{AT}", {"x": None, "y": None, "at": AT}, f"{GEOMETRY} rows part"), dtype)
    def max_pool_fwd_indices(block, tile, worker):
        """y[r, j] and its position, tap by tap along whole rows.  Tile: `part` output rows."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, AT)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z0, i0 = r // (a.od * a.oh), r // a.oh % a.od * a.sd - a.pd, r % a.oh * a.sh - a.ph
            d0, d1 = valid_taps(z0, a.id, a.kd, a.dd)
            h0, h1 = valid_taps(i0, a.ih, a.kh, a.dh)
            out, where = y[r * a.ow : (r + 1) * a.ow], at[r * a.ow : (r + 1) * a.ow]
            fill_row(out, out.dtype.type(-np.inf))
            first_positions(where, a, d0, d1, h0, h1, ((z0 + d0 * a.dd) * a.ih + i0 + h0 * a.dh) * a.iw)
            for d in range(d0, d1):
                for h in range(h0, h1):
                    row = ((z0 + d * a.dd) * a.ih + i0 + h * a.dh) * a.iw
                    for w in range(a.kw):
                        offset = w * a.dw - a.pw
                        first, end = valid_outputs(offset, a.iw, a.ow, a.sw)
                        if first < end:
                            start = row + first * a.sw + offset
                            source = x[plane * a.id * a.ih * a.iw + start :]
                            argmax_strided(out[first:end], where[first:end], source, a.sw, start)

    return max_pool_fwd_indices


@helper
def add_at(plane, pixels, position, value):
    """plane[position] += value where that is one of its pixels."""
    place = np.uintp(position)
    if place < pixels:
        plane[place] += value


@lru_cache
def make_scatter(dtype, at):
    KIND, AT = np.dtype(dtype).str[1:], np.dtype(at).str[1:]

    @tile_body(Block(f"MaxPoolScatter{AT}", {"big": None, "small": None, "at": AT}, _PLANES), dtype)
    def max_pool_bwd_scatter(block, tile, worker):
        """big[p, at[p, o]] += small[p, o], big being zero before; positions outside the plane are left out.

        Tile: `part` planes.
        """
        a = fields(block)
        big, small = array_at(a.big, a.big_size, KIND), array_at(a.small, a.small_size, KIND)
        at = array_at(a.at, a.at_size, AT)
        n, m, pixels = a.small_pixels, a.big_pixels, np.uintp(a.big_pixels)
        p, end = tile * a.part, min((tile + 1) * a.part, a.planes)
        while p + 4 <= end and a.together:
            fill_row(big[p * m : (p + 4) * m], big.dtype.type(0))
            for o in range(p * n, (p + 1) * n):
                for q in range(4):
                    add_at(big[(p + q) * m : (p + q + 1) * m], pixels, at[o + q * n], small[o + q * n])
            p += 4
        for q in range(p, end):
            plane = big[q * m : (q + 1) * m]
            fill_row(plane, plane.dtype.type(0))
            where, values = at[q * n : (q + 1) * n], small[q * n : (q + 1) * n]
            for o in range(n):
                add_at(plane, pixels, where[o], values[o])

    return max_pool_bwd_scatter


@lru_cache
def make_gather(dtype, at):
    KIND, AT = np.dtype(dtype).str[1:], np.dtype(at).str[1:]

    @tile_body(Block(f"MaxPoolGather{AT}", {"big": None, "small": None, "at": AT}, _PLANES), dtype)
    def max_pool_gather(block, tile, worker):
        """small[p, o] = big[p, at[p, o]], 0 for positions outside the plane.  Tile: `part` planes."""
        a = fields(block)
        big, small = array_at(a.big, a.big_size, KIND), array_at(a.small, a.small_size, KIND)
        at = array_at(a.at, a.at_size, AT)
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            plane = big[p * a.big_pixels : (p + 1) * a.big_pixels]
            for o in range(p * a.small_pixels, (p + 1) * a.small_pixels):
                small[o] = plane[np.uintp(at[o])] if 0 <= at[o] < a.big_pixels else plane.dtype.type(0)

    return max_pool_gather


# ---- implementations


def _row_work(spec):
    """Nanoseconds of an output row: about 0.15 a column for each vertical, 0.25 an output for each horizontal tap."""
    return 30 + 0.15 * spec.kd * spec.kh * spec.iw + 0.25 * spec.kw * spec.ow


@implements("max_pool.fwd", rank=90)
class MaxSeparable(Impl):
    """Any window, values alone."""

    name = "max_pool_fwd_separable"

    @staticmethod
    def when(spec):
        return "gives no indices" if spec.indices else None

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _row_work(spec)

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        part = rows_per_tile(rows, _row_work(spec))
        values = {"x": buffers["x"], "y": buffers["y"], **geometry(spec), "rows": rows, "part": part}
        return [Row(make_max_rows(spec.dtype), -(-rows // part), values, MaxSeparable.cost(spec), scratch=spec.iw)]


@implements("max_pool.fwd", rank=91)
class MaxIndices(Impl):
    """Any window, values and positions."""

    name = "max_pool_fwd_indices"

    @staticmethod
    def when(spec):
        return None if spec.indices else "computes indices that nobody wants"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.out_pixels * (2 + 0.6 * spec.taps)

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        part = rows_per_tile(rows, spec.ow * (2 + 0.6 * spec.taps))
        values = {name: buffers[name] for name in ("x", "y", "at")} | geometry(spec) | {"rows": rows, "part": part}
        return [Row(make_argmax_rows(spec.dtype, spec.at), -(-rows // part), values, MaxIndices.cost(spec))]


def _plane_work(spec):
    """Nanoseconds of a plane."""
    return 0.06 * spec.in_pixels + (0.9 + 0.011 * min(_overlap(spec), 30)) * spec.out_pixels


def _overlap(spec):
    """Windows over a pixel."""
    return spec.taps / (spec.sd * spec.sh * spec.sw) if isinstance(spec, PoolSpec) else 1


def planes_row(body, spec, big, small, at):
    """A row of the scatter or the gather between planes of in_pixels and of out_pixels."""
    work = _plane_work(spec)
    part = rows_per_tile(spec.planes, work)
    values = {"big": big, "small": small, "at": at, "big_pixels": spec.in_pixels, "small_pixels": spec.out_pixels}
    # Where windows overlap much, their maxima coincide, and additions to one pixel wait for each other: four planes at
    # once keep the machine busy (13x13, stride 1: 116 -> 61 us; with less overlap it is slower, 3x3: 95 -> 118 us).
    numbers = {"planes": spec.planes, "part": part, "together": int(_overlap(spec) > 30)}
    return Row(body, -(-spec.planes // part), {**values, **numbers}, work * spec.planes)


@implements("max_pool.bwd", rank=90)
class MaxScatter(Impl):
    """Any window."""

    name = "max_pool_bwd_scatter"

    @staticmethod
    def cost(spec):
        return spec.planes * _plane_work(spec)

    @staticmethod
    def emit(spec, buffers):
        return [planes_row(make_scatter(spec.dtype, spec.at), spec, buffers["gx"], buffers["gy"], buffers["at"])]


@implements("max_pool.gather", rank=90)
class MaxGather(Impl):
    """Any window: the backward pass of the backward pass."""

    name = "max_pool_gather"

    @staticmethod
    def cost(spec):
        return spec.planes * _plane_work(spec)

    @staticmethod
    def emit(spec, buffers):
        return [planes_row(make_gather(spec.dtype, spec.at), spec, buffers["x"], buffers["y"], buffers["at"])]
