"""Average pooling of any window, forward and backward; linear, so that each is the other's gradient.

y[r, j] = sum over the taps inside the image of x, divided by cd[od] * ch[oh] * cw[j]: the counted taps of the window
along each dimension (`PoolSpec.counts`), which is where count_include_pad, ceil_mode and divisor_override differ.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields
from .window import (
    GEOMETRY,
    add_row,
    add_strided,
    fill_row,
    geometry,
    rows_per_tile,
    scatter_strided,
    valid_outputs,
    valid_taps,
)

RowsBlock = Block("AveragePoolRows", "x y cd ch cw scratch", numbers=f"{GEOMETRY} rows part")
BackwardBlock = Block("AveragePoolBackward", "gx gy cd ch cw scratch", numbers=f"{GEOMETRY} rows part")


@helper
def rows_sum(s, x, a, plane, z, i):
    """s[j] = the sum of column j over the rows of the window of output row (z, i)."""
    fill_row(s, s.dtype.type(0))
    z0, i0 = z * a.sd - a.pd, i * a.sh - a.ph
    d0, d1 = valid_taps(z0, a.id, a.kd, 1)
    h0, h1 = valid_taps(i0, a.ih, a.kh, 1)
    for d in range(d0, d1):
        for h in range(h0, h1):
            start = ((plane * a.id + z0 + d) * a.ih + i0 + h) * a.iw
            add_row(s, x[start : start + a.iw])


@lru_cache
def make_average_rows(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(RowsBlock, dtype)
    def avg_pool_fwd_separable(block, tile, worker):
        """y[r, j], first down the columns, then along the row.  Tile: `part` output rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        cd, ch, cw = array_at(a.cd, a.cd_size, KIND), array_at(a.ch, a.ch_size, KIND), array_at(a.cw, a.cw_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            z, i = r // a.oh % a.od, r % a.oh
            rows_sum(s, x, a, r // (a.od * a.oh), z, i)
            out = y[r * a.ow : (r + 1) * a.ow]
            fill_row(out, out.dtype.type(0))
            for w in range(a.kw):
                offset = w - a.pw
                first, end = valid_outputs(offset, a.iw, a.ow, a.sw)
                if first < end:
                    add_strided(out[first:end], s[first * a.sw + offset :], a.sw)
            count = cd[z] * ch[i]
            for j in range(a.ow):
                out[j] /= count * cw[j]

    return avg_pool_fwd_separable


@helper
def covering(position, pad, kernel, stride, out):
    """(first, end) of the windows that hold an input position."""
    first = 0 if position + pad < kernel else (position + pad - kernel) // stride + 1
    return first, min((position + pad) // stride + 1, out)


@lru_cache
def make_average_backward(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(BackwardBlock, dtype)
    def avg_pool_bwd_separable(block, tile, worker):
        """gx[r, c] = the sum of gy / count over the windows that hold (r, c): first over rows, then columns.

        Tile: `part` input rows.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        cd, ch, cw = array_at(a.cd, a.cd_size, KIND), array_at(a.ch, a.ch_size, KIND), array_at(a.cw, a.cw_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.ow]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane = r // (a.id * a.ih)
            z0, z1 = covering(r // a.ih % a.id, a.pd, a.kd, a.sd, a.od)
            i0, i1 = covering(r % a.ih, a.ph, a.kh, a.sh, a.oh)
            fill_row(s, s.dtype.type(0))
            for z in range(z0, z1):
                for i in range(i0, i1):
                    start = ((plane * a.od + z) * a.oh + i) * a.ow
                    source, count = gy[start : start + a.ow], cd[z] * ch[i]
                    for j in range(a.ow):
                        s[j] += source[j] / (count * cw[j])
            out = gx[r * a.iw : (r + 1) * a.iw]
            fill_row(out, out.dtype.type(0))
            for w in range(a.kw):
                offset = w - a.pw
                first, end = valid_outputs(offset, a.iw, a.ow, a.sw)
                if first < end:
                    scatter_strided(out[first * a.sw + offset :], s[first:end], a.sw)

    return avg_pool_bwd_separable


# ---- implementations


@lru_cache(maxsize=256)
def count_arrays(spec):
    """The divisors along each dimension as arrays, read-only."""
    arrays = {
        name: np.array(counts, spec.dtype) for name, counts in zip(("cd", "ch", "cw"), spec.counts(), strict=True)
    }
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _forward_work(spec):
    return 30 + 0.1 * spec.kd * spec.kh * spec.iw + 0.2 * (spec.kw + 1) * spec.ow


def _backward_work(spec):
    windows = -(-spec.kd // spec.sd) * -(-spec.kh // spec.sh)
    return 30 + 0.3 * windows * spec.ow + 0.4 * spec.kw * spec.ow + 0.1 * spec.iw


def _rows(spec, body, buffers, plane_rows, row_work, scratch):
    rows = spec.planes * plane_rows
    part = rows_per_tile(rows, row_work)
    values = {**buffers, **count_arrays(spec), **geometry(spec), "rows": rows, "part": part}
    return Row(body, -(-rows // part), values, rows * row_work, scratch)


@implements("avg_pool.fwd", rank=90)
class AverageSeparable(Impl):
    """Any window."""

    name = "avg_pool_fwd_separable"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _forward_work(spec)

    @staticmethod
    def emit(spec, buffers):
        return [_rows(spec, make_average_rows(spec.dtype), buffers, spec.od * spec.oh, _forward_work(spec), spec.iw)]


@implements("avg_pool.bwd", rank=90)
class AverageBackward(Impl):
    """Any window."""

    name = "avg_pool_bwd_separable"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * spec.ih * _backward_work(spec)

    @staticmethod
    def emit(spec, buffers):
        return [
            _rows(spec, make_average_backward(spec.dtype), buffers, spec.id * spec.ih, _backward_work(spec), spec.ow)
        ]
