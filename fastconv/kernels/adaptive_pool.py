"""Adaptive pooling, maximum and average, forward and backward.

Window i of O over a size I covers [floor(i I / O), ceil((i + 1) I / O)): as even as can be, overlapping by at most one.
Maxima, their positions and NaN are as in `max_pool.py`.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements, select
from ..driver import Row
from ..simd import array_at, fields
from .max_pool import MaxGather, MaxScatter
from .window import SIZES, add_row, fill_row, max_row, rows_per_tile, sizes

_COLUMNS = {"first": "i8", "end": "i8"}  # of the window of each output column
RowsBlock = Block("AdaptivePoolRows", {"x": None, "y": None, "scratch": None, **_COLUMNS}, numbers=f"{SIZES} rows part")
IndexRowsBlock = Block(
    "AdaptivePoolIndexRows", {"x": None, "y": None, "at": "i8", **_COLUMNS}, numbers=f"{SIZES} rows part"
)
BackwardBlock = Block(
    "AdaptivePoolBackward", {"gx": None, "gy": None, "scratch": None, **_COLUMNS}, numbers=f"{SIZES} rows part"
)


@helper
def window_of(i, size, out):
    """(first, end) of window i."""
    return i * size // out, ((i + 1) * size + out - 1) // out


@helper
def windows_over(position, size, out):
    """(first, end) of the windows that hold an input position."""
    return position * out // size, ((position + 1) * out + size - 1) // size


@lru_cache
def make_adaptive_average(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(RowsBlock, dtype)
    def adaptive_avg_pool_fwd_separable(block, tile, worker):
        """y[r, j] = the mean of window (r, j), first down the columns, then along the row.

        Tile: `part` output rows.
        """
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane = r // (a.od * a.oh)
            d0, d1 = window_of(r // a.oh % a.od, a.id, a.od)
            h0, h1 = window_of(r % a.oh, a.ih, a.oh)
            fill_row(s, s.dtype.type(0))
            for d in range(d0, d1):
                for h in range(h0, h1):
                    start = ((plane * a.id + d) * a.ih + h) * a.iw
                    add_row(s, x[start : start + a.iw])
            for j in range(a.ow):
                w0, w1 = first[j], end[j]
                total = s.dtype.type(0)
                for w in range(w0, w1):
                    total += s[w]
                y[r * a.ow + j] = total / s.dtype.type((d1 - d0) * (h1 - h0) * (w1 - w0))

    return adaptive_avg_pool_fwd_separable


@lru_cache
def make_adaptive_average_backward(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(BackwardBlock, dtype)
    def adaptive_avg_pool_bwd_separable(block, tile, worker):
        """gx[r, c] = the sum of gy / count over the windows that hold (r, c): first over rows, then columns.

        Tile: `part` input rows.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.ow]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane = r // (a.id * a.ih)
            z0, z1 = windows_over(r // a.ih % a.id, a.id, a.od)
            i0, i1 = windows_over(r % a.ih, a.ih, a.oh)
            fill_row(s, s.dtype.type(0))
            for z in range(z0, z1):
                for i in range(i0, i1):
                    d0, d1 = window_of(z, a.id, a.od)
                    h0, h1 = window_of(i, a.ih, a.oh)
                    count, start = s.dtype.type((d1 - d0) * (h1 - h0)), ((plane * a.od + z) * a.oh + i) * a.ow
                    for j in range(a.ow):
                        s[j] += gy[start + j] / count
            out = gx[r * a.iw : (r + 1) * a.iw]
            fill_row(out, out.dtype.type(0))
            for j in range(a.ow):
                w0, w1 = first[j], end[j]
                share = s[j] / s.dtype.type(w1 - w0)
                for w in range(w0, w1):
                    out[w] += share

    return adaptive_avg_pool_bwd_separable


@lru_cache
def make_adaptive_maximum(dtype):
    KIND = np.dtype(dtype).str[1:]
    ITEM = np.dtype(dtype).itemsize

    @tile_body(RowsBlock, dtype)
    def adaptive_max_pool_fwd_separable(block, tile, worker):
        """y[r, j] = the maximum of window (r, j), first down the columns, then along the row.

        Tile: `part` output rows.
        """
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane = r // (a.od * a.oh)
            d0, d1 = window_of(r // a.oh % a.od, a.id, a.od)
            h0, h1 = window_of(r % a.oh, a.ih, a.oh)
            fill_row(s, s.dtype.type(-np.inf))
            for d in range(d0, d1):
                for h in range(h0, h1):
                    start = ((plane * a.id + d) * a.ih + h) * a.iw
                    max_row(s, x[start : start + a.iw])
            for j in range(a.ow):
                w0, w1 = first[j], end[j]
                m = s[w0]
                for w in range(w0 + 1, w1):
                    v = s[w]
                    m = v if (v > m) | (v != v) else m
                y[r * a.ow + j] = m

    return adaptive_max_pool_fwd_separable


@lru_cache
def make_adaptive_argmax(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(IndexRowsBlock, dtype)
    def adaptive_max_pool_fwd_indices(block, tile, worker):
        """y[r, j] and its position in the plane.  Tile: `part` output rows."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, "i8")
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            pixels = a.id * a.ih * a.iw
            plane = x[r // (a.od * a.oh) * pixels : (r // (a.od * a.oh) + 1) * pixels]
            d0, d1 = window_of(r // a.oh % a.od, a.id, a.od)
            h0, h1 = window_of(r % a.oh, a.ih, a.oh)
            for j in range(a.ow):
                w0, w1 = first[j], end[j]
                best = (d0 * a.ih + h0) * a.iw + w0
                m = plane.dtype.type(-np.inf)
                for d in range(d0, d1):
                    for h in range(h0, h1):
                        for p in range((d * a.ih + h) * a.iw + w0, (d * a.ih + h) * a.iw + w1):
                            if plane[p] > m or plane[p] != plane[p]:
                                m, best = plane[p], p
                y[r * a.ow + j] = m
                at[r * a.ow + j] = best

    return adaptive_max_pool_fwd_indices


# ---- implementations


@lru_cache(maxsize=256)
def _columns(size, out):
    """The first column of each window and the one behind its last, read-only."""
    first = np.array([j * size // out for j in range(out)], np.int64)
    end = np.array([-(-(j + 1) * size // out) for j in range(out)], np.int64)
    first.flags.writeable = end.flags.writeable = False
    return {"first": first, "end": end}


def _rows(spec, body, buffers, rows, row_work, scratch):
    part = rows_per_tile(rows, row_work)
    values = {**buffers, **_columns(spec.iw, spec.ow), **sizes(spec), "rows": rows, "part": part}
    return [Row(body, -(-rows // part), values, rows * row_work, scratch)]


def _forward_work(spec):
    """Nanoseconds of one output row: every pixel once, then the columns of a row."""
    return 30 + 0.1 * spec.id * spec.ih / max(spec.od * spec.oh, 1) * spec.iw + 0.8 * spec.iw + 4 * spec.ow


class _Adaptive(Impl):
    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _forward_work(spec)


class _Even(Impl):
    """The output's size divides the input's: all windows are alike, and a plain pooling computes them."""

    plain: str

    @classmethod
    def when(cls, spec):
        return None if spec.even else "needs an input size that the output size divides"

    @classmethod
    def cost(cls, spec):
        return select(cls.plain, spec.even).cost(spec.even)

    @classmethod
    def emit(cls, spec, buffers):
        return select(cls.plain, spec.even).emit(spec.even, buffers)


@implements("adaptive_avg_pool.fwd", rank=10)
class EvenAverage(_Even):
    name, plain = "adaptive_avg_pool_fwd_even", "avg_pool.fwd"


@implements("adaptive_avg_pool.bwd", rank=10)
class EvenAverageBackward(_Even):
    name, plain = "adaptive_avg_pool_bwd_even", "avg_pool.bwd"


@implements("adaptive_max_pool.fwd", rank=10)
class EvenMaximum(_Even):
    name, plain = "adaptive_max_pool_fwd_even", "max_pool.fwd"


@implements("adaptive_avg_pool.fwd", rank=90)
class AdaptiveAverage(_Adaptive):
    """Any sizes."""

    name = "adaptive_avg_pool_fwd_separable"

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        return _rows(spec, make_adaptive_average(spec.dtype), buffers, rows, _forward_work(spec), spec.iw)


@implements("adaptive_avg_pool.bwd", rank=90)
class AdaptiveAverageBackward(Impl):
    """Any sizes."""

    name = "adaptive_avg_pool_bwd_separable"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * spec.ih * (30 + 4 * spec.ow + spec.iw)

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.id * spec.ih
        work = 30 + 4 * spec.ow + spec.iw
        return _rows(spec, make_adaptive_average_backward(spec.dtype), buffers, rows, work, spec.ow)


@implements("adaptive_max_pool.fwd", rank=90)
class AdaptiveMaximum(_Adaptive):
    """Any sizes, values alone."""

    name = "adaptive_max_pool_fwd_separable"

    @staticmethod
    def when(spec):
        return "gives no indices" if spec.indices else None

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        return _rows(spec, make_adaptive_maximum(spec.dtype), buffers, rows, _forward_work(spec), spec.iw)


@implements("adaptive_max_pool.fwd", rank=91)
class AdaptiveIndices(_Adaptive):
    """Any sizes, values and positions."""

    name = "adaptive_max_pool_fwd_indices"

    @staticmethod
    def when(spec):
        return None if spec.indices else "computes indices that nobody wants"

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        work = 20 + 1.0 * spec.in_pixels / max(spec.od * spec.oh, 1)
        return _rows(spec, make_adaptive_argmax(spec.dtype), buffers, rows, work, 0)


@implements("adaptive_max_pool.bwd", rank=90)
class AdaptiveScatter(MaxScatter):
    """Any sizes."""

    name = "adaptive_max_pool_bwd_scatter"


@implements("adaptive_max_pool.gather", rank=90)
class AdaptiveGather(MaxGather):
    """Any sizes: the backward pass of the backward pass."""

    name = "adaptive_max_pool_gather"
