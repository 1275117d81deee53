"""Adaptive pooling forward, values alone: rows first, then columns with planes in the lanes.

The rows of each window are combined as vectors along the row.  The combined rows of LANES planes are then transposed,
so that uneven windows of columns are runs of whole vectors; the outputs of a tile are transposed back.  No branch
depends on a single window: one output row of a plane after the other, the processor guessed wrong at each.
"""

from functools import cache, lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector, transpose_block
from ..simd_math import max_vector
from ..simd_vector import add_vector, keep_lanes, mul_vector, splat_vector, store_window
from .adaptive_pool import mean_tables
from .window import SIZES

SUM, MAX = 0, 1
_TABLES = {"shares": None, "column_shares": None, "spans": "i8", "first": "i8", "end": "i8"}
ColumnsBlock = Block(
    "AdaptiveColumns", {"x": None, "y": None, **_TABLES, "scratch": None}, numbers=f"{SIZES} planes splits pitch part"
)


@cache
def make_combine_rows(OP, LANES):
    """OP: SUM or MAX, where NaN wins."""
    combine = max_vector if OP == MAX else add_vector

    @helper
    def combine_rows(x, p0, p1, p2, p3, iw, high, deep, area, s, si, pitch):
        """s[si + k*pitch + j] = x[pk + d*area + h*iw + j] combined over h < high and d < deep, for j < iw, k < 4; up to
        LANES-1 values more of each row are overwritten."""
        for v in range(0, pitch, LANES):
            columns = iw - v
            t0, t1 = load_window(x, p0 + v, 1, 0, columns, 1), load_window(x, p1 + v, 1, 0, columns, 1)
            t2, t3 = load_window(x, p2 + v, 1, 0, columns, 1), load_window(x, p3 + v, 1, 0, columns, 1)
            at, left = v, high
            for _ in range(deep * high - 1):
                at, left = at + iw, left - 1
                if left == 0:
                    at, left = at + area - high * iw, high
                t0 = combine(t0, load_window(x, p0 + at, 1, 0, columns, 1))
                t1 = combine(t1, load_window(x, p1 + at, 1, 0, columns, 1))
                t2 = combine(t2, load_window(x, p2 + at, 1, 0, columns, 1))
                t3 = combine(t3, load_window(x, p3 + at, 1, 0, columns, 1))
            store_vector(t0, s, si + v)
            store_vector(t1, s, si + pitch + v)
            store_vector(t2, s, si + 2 * pitch + v)
            store_vector(t3, s, si + 3 * pitch + v)

    return combine_rows


@cache
def make_combine_columns(OP, LANES):
    combine = max_vector if OP == MAX else add_vector

    @helper
    def combine_columns(s, t, to, first, end, least, ow, share, shares):
        """s[to + j*LANES :] = the vectors s[t + c*LANES :] combined over first[j] <= c < end[j], of which there are
        `least` or one more; a sum is multiplied by share * shares[j]."""
        for j in range(ow):
            at = t + first[j] * LANES
            total = load_vector(s, at)
            for _ in range(least - 1):
                at += LANES
                total = combine(total, load_vector(s, at))
            more = load_vector(s, t + (end[j] - 1) * LANES)
            if OP == SUM:
                total = add_vector(total, keep_lanes(more, (end[j] - first[j] - least) * LANES))
                total = mul_vector(total, splat_vector(s, share * shares[j]))
            else:
                total = combine(total, more)
            store_vector(total, s, to + j * LANES)

    return combine_columns


@lru_cache
def make_adaptive_columns(dtype, OP):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    combine_rows, combine_columns = make_combine_rows(OP, LANES), make_combine_columns(OP, LANES)

    @tile_body(ColumnsBlock, dtype)
    def adaptive_pool_fwd_columns(block, tile, worker):
        """Tile: `part` output rows of LANES planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        first, end = array_at(a.first, a.first_size, "i8"), array_at(a.end, a.end_size, "i8")
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.column_shares, a.column_shares_size, KIND)
        spans = array_at(a.spans, a.spans_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        iw, ow, pitch, area, volume = a.iw, a.ow, a.pitch, a.ih * a.iw, a.id * a.ih * a.iw
        t = LANES * pitch  # where the transposed rows begin; behind them the transposed outputs, and a block of them
        out, count, least = t + LANES * pitch, a.od * a.oh, (iw + ow - 1) // ow
        back = out + LANES * ((a.part * ow + LANES - 1) // LANES * LANES)
        plane, o0 = tile // a.splits * LANES, tile % a.splits * a.part
        planes, o1 = min(LANES, a.planes - plane), min(o0 + a.part, count)
        for o in range(o0, o1):
            deep, high = spans[4 * o + 1] - spans[4 * o], spans[4 * o + 3] - spans[4 * o + 2]
            corner, last = spans[4 * o] * area + spans[4 * o + 2] * iw, planes - 1
            for i in range(0, LANES, 4):  # four planes at once; beyond the last one, that one again
                p0 = corner + (plane + min(i, last)) * volume
                p1 = corner + (plane + min(i + 1, last)) * volume
                p2 = corner + (plane + min(i + 2, last)) * volume
                p3 = corner + (plane + min(i + 3, last)) * volume
                combine_rows(x, p0, p1, p2, p3, iw, high, deep, area, s, i * pitch, pitch)
            for v in range(0, pitch, LANES):
                transpose_block(s, v, pitch, s, t + v * LANES, LANES)
            to = out + (o - o0) * ow * LANES
            combine_columns(s, t, to, first, end, least, ow, shares[o], columns)
        size, y_first = (o1 - o0) * ow, (plane * count + o0) * ow
        for j in range(0, size, LANES):
            transpose_block(s, out + j * LANES, LANES, s, back, LANES)
            for i in range(planes):
                store_window(load_vector(s, back + i * LANES), y, y_first + i * count * ow + j, size - j)

    return adaptive_pool_fwd_columns


# ---- implementations

MOST_COLUMNS = 1024  # LANES rows and their transpose lie in half of a first-level or second-level cache
OUTPUTS = 256  # of a plane in one tile


def _row_work(spec, each):
    """Nanoseconds of one output row of LANES planes: `each` for a vector of a row, then blocks and columns."""
    LANES = lanes(spec.dtype)
    rows = (-(-spec.id // spec.od) + 0.5) * (spec.ih / spec.oh + 0.7)
    vectors = -(-spec.iw // LANES)
    return LANES * (each * rows + 1) * vectors + 25 * vectors + each * (spec.iw + 2 * spec.ow) + 3 * spec.ow


class _Columns(Impl):
    op, each = SUM, 0.4

    @classmethod
    def when(cls, spec):
        if 0 in (spec.planes, spec.in_pixels, spec.out_pixels):
            return "needs an image"
        if spec.iw > MOST_COLUMNS:
            return f"needs rows of at most {MOST_COLUMNS} columns, has {spec.iw}"
        return "gives no indices" if spec.indices else None

    @classmethod
    def cost(cls, spec):
        return -(-spec.planes // lanes(spec.dtype)) * spec.od * spec.oh * _row_work(spec, cls.each)

    @classmethod
    def emit(cls, spec, buffers):
        LANES, rows, work = lanes(spec.dtype), spec.od * spec.oh, _row_work(spec, cls.each)
        part = min(rows, max(1, OUTPUTS // spec.ow))
        splits, pitch = -(-rows // part), -(-spec.iw // LANES) * LANES
        tiles = -(-spec.planes // LANES) * splits
        scratch = LANES * (2 * pitch + -(-part * spec.ow // LANES) * LANES + LANES)
        values = {"x": buffers["x"], "y": buffers["y"], **mean_tables(spec)}
        values |= {"planes": spec.planes, "splits": splits, "pitch": pitch, "part": part}
        return [Row(make_adaptive_columns(spec.dtype, cls.op), tiles, values, tiles * part * work, scratch)]


@implements("adaptive_avg_pool.fwd", rank=15)
class ColumnsAverage(_Columns):
    """Any sizes."""

    name = "adaptive_avg_pool_fwd_columns"


@implements("adaptive_max_pool.fwd", rank=15)
class ColumnsMaximum(_Columns):
    """Any sizes, values alone."""

    name, op, each = "adaptive_max_pool_fwd_columns", MAX, 0.8
