"""Pooling of whole planes to one value each: maximum, average, and the average's gradient.

y[p] = max or mean of x[p, :].  Tile: `part` planes.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, store_vector, transpose_block
from ..simd_math import div_vector, max_vector
from ..simd_vector import add_vector, splat_vector, store_window
from ..simd_window import MAX_NAN, SUM, reduce_lanes
from .window import fill_row, rows_per_tile

ReduceBlock = Block("GlobalPool", "x y scratch", numbers="pixels planes part", reals="count")
SpreadBlock = Block("GlobalPoolBackward", "gx gy", numbers="pixels planes part", reals="count")


@lru_cache
def make_global_pool(dtype, OP):
    """OP: SUM for the mean, MAX_NAN for the maximum."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    combine = max_vector if OP == MAX_NAN else add_vector

    @tile_body(ReduceBlock, dtype)
    def pool_fwd_global(block, tile, worker):
        """y[p] = the maximum of x[p, :], where NaN wins, or its sum / count, LANES planes at a time.

        Tile: `part` planes.
        """
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        end, count = min((tile + 1) * a.part, a.planes), y.dtype.type(a.count)
        for p in range(tile * a.part, end, LANES):
            planes = min(LANES, end - p)
            for i in range(planes):
                store_vector(reduce_lanes(x, (p + i) * a.pixels, a.pixels, OP), s, i * LANES)
            transpose_block(s, 0, LANES, s, LANES * LANES, LANES)
            total = load_vector(s, LANES * LANES)
            for i in range(LANES + 1, 2 * LANES):
                total = combine(total, load_vector(s, i * LANES))
            if OP == SUM:
                total = div_vector(total, splat_vector(s, count))
            store_window(total, y, p, planes)

    return pool_fwd_global


@lru_cache
def make_global_spread(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(SpreadBlock, dtype)
    def avg_pool_bwd_global(block, tile, worker):
        """gx[p, :] = gy[p] / count.  Tile: `part` planes."""
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        count = gy.dtype.type(a.count)
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            fill_row(gx[p * a.pixels : (p + 1) * a.pixels], gy[p] / count)

    return avg_pool_bwd_global


# ---- implementations


def _work(spec):
    """Nanoseconds of one plane."""
    return 3 + 0.03 * spec.in_pixels


@lru_cache(maxsize=1024)
def _plan(spec):
    """(tiles, numbers, work) of a row: all but its body and buffers."""
    vector = lanes(spec.dtype)
    part = -(-rows_per_tile(spec.planes, _work(spec)) // vector) * vector
    count = spec.divisor or spec.in_pixels
    numbers = {"pixels": spec.in_pixels, "planes": spec.planes, "part": part, "count": count}
    return -(-spec.planes // part), numbers, spec.planes * _work(spec)


def _rows(body, spec, buffers, scratch=0):
    tiles, numbers, work = _plan(spec)
    return [Row(body, tiles, {**buffers, **numbers}, work, scratch)]


def _reduction(op, spec, buffers):
    body, scratch = make_global_pool(spec.dtype, op), 2 * lanes(spec.dtype) ** 2
    return _rows(body, spec, {"x": buffers["x"], "y": buffers["y"]}, scratch)


class _Global(Impl):
    @staticmethod
    def when(spec):
        return None if spec.covers_all else "needs one window over the whole image"

    @staticmethod
    def cost(spec):
        return spec.planes * _work(spec)


@implements("avg_pool.fwd", rank=5)
class GlobalAverage(_Global):
    """One window over the whole image."""

    name = "avg_pool_fwd_global"

    @staticmethod
    def emit(spec, buffers):
        return _reduction(SUM, spec, buffers)


@implements("avg_pool.bwd", rank=5)
class GlobalAverageBackward(_Global):
    """One window over the whole image."""

    name = "avg_pool_bwd_global"

    @staticmethod
    def emit(spec, buffers):
        return _rows(make_global_spread(spec.dtype), spec, {"gx": buffers["gx"], "gy": buffers["gy"]})


@implements("max_pool.fwd", rank=5)
class GlobalMaximum(_Global):
    """One window over the whole image, values alone."""

    name = "max_pool_fwd_global"

    @staticmethod
    def when(spec):
        return "gives no indices" if spec.indices else _Global.when(spec)

    @staticmethod
    def emit(spec, buffers):
        return _reduction(MAX_NAN, spec, buffers)
