"""Adaptive pooling, maximum and average, forward and backward.

Window i of O over a size I covers [floor(i I / O), ceil((i + 1) I / O)): as even as can be, overlapping by at most one.
Maxima, their positions and NaN are as in `max_pool.py`.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements, select
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import add_vector, splat_vector, store_window
from . import separable
from .max_pool import MaxGather, MaxScatter
from .window import SIZES, fill_row, max_row, rows_per_tile, sizes

_COLUMNS = {"first": "i8", "end": "i8"}  # of the window of each output column
RowsBlock = Block("AdaptivePoolRows", {"x": None, "y": None, "scratch": None, **_COLUMNS}, numbers=f"{SIZES} rows part")

# 1 / pixels of a window is its row's share times its column's; spans: of each window row (first, end) depth and row
_SHARES = {"shares": None, "column_shares": None, "spans": "i8"}
MeanBlock = Block(
    "AdaptiveMean", {"x": None, "y": None, **_SHARES, "scratch": None, **_COLUMNS}, numbers=f"{SIZES} rows part"
)
MeanBackwardBlock = Block(
    "AdaptiveMeanBackward", {"gx": None, "gy": None, **_SHARES, "scratch": None, **_COLUMNS}, f"{SIZES} planes part"
)


@helper
def window_of(i, size, out):
    """(first, end) of window i."""
    return i * size // out, ((i + 1) * size + out - 1) // out


@lru_cache
def make_adaptive_average(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)

    @tile_body(MeanBlock, dtype)
    def adaptive_avg_pool_fwd_separable(block, tile, worker):
        """y[r, j] = the mean of window (r, j), first down the columns, then along the row.

        Tile: `part` output rows.
        """
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.column_shares, a.column_shares_size, KIND)
        spans = array_at(a.spans, a.spans_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        zero, least = splat_vector(s, s.dtype.type(0)), (a.iw + a.ow - 1) // a.ow
        count = a.od * a.oh
        plane, o = tile * a.part // count, tile * a.part % count
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            d0, d1, h0, h1 = spans[4 * o], spans[4 * o + 1], spans[4 * o + 2], spans[4 * o + 3]
            for v in range(0, a.iw, LANES):
                total = zero
                for d in range(d0, d1):
                    start = ((plane * a.id + d) * a.ih + h0) * a.iw + v
                    for p in range(start, start + (h1 - h0) * a.iw, a.iw):
                        total = add_vector(total, load_window(x, p, 1, 0, a.iw - v, 1))
                store_vector(total, s, v)
            share = shares[o]
            plane, o = (plane, o + 1) if o + 1 < count else (plane + 1, 0)
            for j in range(a.ow):  # windows have `least` columns or one more: no branch to guess
                w, total = first[j], s[first[j]]
                for k in range(1, least):
                    total += s[w + k]
                last = s[end[j] - 1]
                total += last if end[j] - w > least else s.dtype.type(0)
                y[r * a.ow + j] = total * (share * columns[j])

    return adaptive_avg_pool_fwd_separable


@lru_cache
def make_adaptive_average_backward(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)

    @tile_body(MeanBackwardBlock, dtype)
    def adaptive_avg_pool_bwd_separable(block, tile, worker):
        """gx[r, c] = the sum of gy / count over the windows that hold (r, c); a row of gy is spread over columns once.

        Tile: `part` planes.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.column_shares, a.column_shares_size, KIND)
        spans = array_at(a.spans, a.spans_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        zero, p0, p1 = s.dtype.type(0), tile * a.part, min((tile + 1) * a.part, a.planes)
        if a.od * a.oh == 0:
            fill_row(gx[p0 * a.id * a.ih * a.iw : p1 * a.id * a.ih * a.iw], zero)
        count, plane, o = a.od * a.oh, p0, 0
        for r in range(p0 * count, p1 * count):
            d0, d1, h0, h1 = spans[4 * o], spans[4 * o + 1], spans[4 * o + 2], spans[4 * o + 3]
            old_d = spans[4 * (o - a.oh) + 1] if o >= a.oh else 0  # what lies before was written by earlier windows
            old_h = spans[4 * o - 1] if o % a.oh else 0
            fill_row(s, zero)
            for j in range(a.ow):
                value = gy[r * a.ow + j] * (shares[o] * columns[j])
                for w in range(first[j], end[j]):
                    s[w] += value
            for v in range(0, a.iw, LANES):
                spread = load_vector(s, v)
                for d in range(d0, d1):
                    start = ((plane * a.id + d) * a.ih + h0) * a.iw + v
                    fresh = start + ((max(h0, old_h) - h0) * a.iw if d >= old_d else (h1 - h0) * a.iw)
                    for p in range(start, fresh, a.iw):
                        store_window(add_vector(load_window(gx, p, 1, 0, a.iw - v, 1), spread), gx, p, a.iw - v)
                    for p in range(fresh, start + (h1 - h0) * a.iw, a.iw):
                        store_window(spread, gx, p, a.iw - v)
            plane, o = (plane, o + 1) if o + 1 < count else (plane + 1, 0)

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
def make_adaptive_argmax(dtype, at):
    KIND, AT = np.dtype(dtype).str[1:], np.dtype(at).str[1:]
    block_type = Block(f"AdaptivePoolIndexRows{AT}", {"x": None, "y": None, "at": AT, **_COLUMNS}, f"{SIZES} rows part")

    @tile_body(block_type, dtype)
    def adaptive_max_pool_fwd_indices(block, tile, worker):
        """y[r, j] and its position in the plane.  Tile: `part` output rows."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, AT)
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
def columns_of(size, out):
    """The first column of each window and the one behind its last, read-only."""
    first = np.array([j * size // out for j in range(out)], np.int64)
    end = np.array([-(-(j + 1) * size // out) for j in range(out)], np.int64)
    first.flags.writeable = end.flags.writeable = False
    return {"first": first, "end": end}


def _rows(spec, body, buffers, rows, row_work, scratch):
    part = rows_per_tile(rows, row_work)
    values = {**buffers, **columns_of(spec.iw, spec.ow), **sizes(spec), "rows": rows, "part": part}
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


@lru_cache(maxsize=256)
def mean_tables(spec):
    """The numbers and the read-only tables of a mean and its gradient."""
    ends = [columns_of(*pair) for pair in ((spec.id, spec.od), (spec.ih, spec.oh), (spec.iw, spec.ow))]
    depth, rows, columns = (1 / (table["end"] - table["first"]) for table in ends)
    pairs = [np.stack([table["first"], table["end"]], 1) for table in ends[:2]]
    spans = np.concatenate([np.repeat(pairs[0], spec.oh, 0), np.tile(pairs[1], (spec.od, 1))], 1)
    shares = {"shares": np.outer(depth, rows).ravel().astype(spec.dtype), "column_shares": columns.astype(spec.dtype)}
    shares["spans"] = np.ascontiguousarray(spans).ravel()
    for values in shares.values():
        values.flags.writeable = False
    return {**shares, **ends[2], **sizes(spec)}


def _pitch(spec):
    """Columns in whole vectors."""
    vector = lanes(spec.dtype)
    return -(-spec.iw // vector) * vector


def _mean_work(spec):
    """Nanoseconds of an output row: a vector of each row of its windows, then the columns."""
    rows = -(-spec.id // max(spec.od, 1)) * -(-spec.ih // max(spec.oh, 1)) + 1
    return 15 + 1.5 * rows * _pitch(spec) / lanes(spec.dtype) + 0.5 * spec.iw + 2 * spec.ow


@lru_cache(maxsize=256)
def _picked(spec, transposed):
    """The tables of the mean, or of its gradient, as one small matrix per axis."""
    axes = []
    for size, out in ((spec.id, spec.od), (spec.ih, spec.oh), (spec.iw, spec.ow)):
        columns = columns_of(size, out)
        counts = columns["end"] - columns["first"]
        taps = np.arange(counts.max(initial=1))
        at = np.minimum(columns["first"][:, None] + taps, size - 1)
        weights = np.where(taps < counts[:, None], 1 / counts[:, None], 0)
        axis = separable.Axis(size, at, weights, counts)
        axes.append(axis.transposed() if transposed else axis)
    return separable.tables(axes, spec.dtype)


class _Picked(Impl):
    """Small windows along the row: resampling by a table."""

    transposed = False

    @classmethod
    def when(cls, spec):
        if 0 in (spec.planes, spec.in_pixels, spec.out_pixels):
            return "needs an image"
        if not cls.transposed and spec.ow < spec.iw:  # measured: 7x7 of 16x16 148 -> 233 us
            return "needs at least as many columns out as in"
        most = -(-spec.iw // spec.ow) + 1 if not cls.transposed else -(-spec.ow // spec.iw) + 1
        return None if most <= separable.MOST_EVEN else f"needs windows of at most {separable.MOST_EVEN - 1} columns"

    @classmethod
    def cost(cls, spec):
        # a sixteenth of a vector for each value read, next to the scalar columns of the kernel for any windows
        rows, other = (spec.od * spec.oh, spec.iw) if not cls.transposed else (spec.id * spec.ih, spec.ow)
        return spec.planes * rows * (20 + 0.05 * other)

    @classmethod
    def emit(cls, spec, buffers):
        x, y = (buffers["gy"], buffers["gx"]) if cls.transposed else (buffers["x"], buffers["y"])
        shapes = (-1, spec.id, spec.ih, spec.iw), (-1, spec.od, spec.oh, spec.ow)
        one, other = reversed(shapes) if cls.transposed else shapes
        return [separable.row(_picked(spec, cls.transposed), x.reshape(one), y.reshape(other))]


@implements("adaptive_avg_pool.fwd", rank=20)
class PickedAverage(_Picked):
    name = "adaptive_avg_pool_fwd_picked"


@implements("adaptive_avg_pool.bwd", rank=20)
class PickedAverageBackward(_Picked):
    name, transposed = "adaptive_avg_pool_bwd_picked", True


@implements("adaptive_avg_pool.fwd", rank=90)
class AdaptiveAverage(_Adaptive):
    """Any sizes."""

    name = "adaptive_avg_pool_fwd_separable"

    @staticmethod
    def emit(spec, buffers):
        rows, work = spec.planes * spec.od * spec.oh, _mean_work(spec)
        part = rows_per_tile(rows, work)
        values = {"x": buffers["x"], "y": buffers["y"], **mean_tables(spec), "rows": rows, "part": part}
        return [Row(make_adaptive_average(spec.dtype), -(-rows // part), values, rows * work, _pitch(spec))]


@implements("adaptive_avg_pool.bwd", rank=90)
class AdaptiveAverageBackward(Impl):
    """Any sizes."""

    name = "adaptive_avg_pool_bwd_separable"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _mean_work(spec)

    @staticmethod
    def emit(spec, buffers):
        work = spec.od * spec.oh * _mean_work(spec)
        part = rows_per_tile(spec.planes, work)
        values = {"gx": buffers["gx"], "gy": buffers["gy"], **mean_tables(spec), "planes": spec.planes, "part": part}
        body = make_adaptive_average_backward(spec.dtype)
        return [Row(body, -(-spec.planes // part), values, spec.planes * work, _pitch(spec))]


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
        return _rows(spec, make_adaptive_argmax(spec.dtype, spec.at), buffers, rows, work, 0)


@implements("adaptive_max_pool.bwd", rank=90)
class AdaptiveScatter(MaxScatter):
    """Any sizes."""

    name = "adaptive_max_pool_bwd_scatter"


@implements("adaptive_max_pool.gather", rank=90)
class AdaptiveGather(MaxGather):
    """Any sizes: the backward pass of the backward pass."""

    name = "adaptive_max_pool_gather"
