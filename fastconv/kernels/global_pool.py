"""Pooling of whole planes to one value each: maximum, average, and the average's gradient.

y[p] = max or mean of x[p, :].  Tile: `part` planes.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields
from ..simd_window import MAX_NAN, SUM, reduce_run
from .window import fill_row, rows_per_tile

ReduceBlock = Block("GlobalPool", "x y", numbers="pixels planes part", reals="count")
SpreadBlock = Block("GlobalPoolBackward", "gx gy", numbers="pixels planes part", reals="count")


@lru_cache
def make_global_average(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(ReduceBlock, dtype)
    def avg_pool_fwd_global(block, tile, worker):
        """y[p] = the sum of x[p, :] / count.  Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        count = y.dtype.type(a.count)
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            y[p] = reduce_run(x, p * a.pixels, a.pixels, SUM) / count

    return avg_pool_fwd_global


@lru_cache
def make_global_maximum(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(ReduceBlock, dtype)
    def max_pool_fwd_global(block, tile, worker):
        """y[p] = the maximum of x[p, :], where NaN wins.  Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            y[p] = reduce_run(x, p * a.pixels, a.pixels, MAX_NAN)

    return max_pool_fwd_global


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
    return 4 + 0.1 * spec.in_pixels


@lru_cache(maxsize=1024)
def _plan(make, spec):
    """(body, tiles, numbers, work) of a row: all but its buffers."""
    part = rows_per_tile(spec.planes, _work(spec))
    count = spec.divisor or spec.in_pixels
    numbers = {"pixels": spec.in_pixels, "planes": spec.planes, "part": part, "count": count}
    return make(spec.dtype), -(-spec.planes // part), numbers, spec.planes * _work(spec)


def _rows(make, spec, buffers):
    body, tiles, numbers, work = _plan(make, spec)
    return [Row(body, tiles, {**buffers, **numbers}, work)]


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
        return _rows(make_global_average, spec, {"x": buffers["x"], "y": buffers["y"]})


@implements("avg_pool.bwd", rank=5)
class GlobalAverageBackward(_Global):
    """One window over the whole image."""

    name = "avg_pool_bwd_global"

    @staticmethod
    def emit(spec, buffers):
        return _rows(make_global_spread, spec, {"gx": buffers["gx"], "gy": buffers["gy"]})


@implements("max_pool.fwd", rank=5)
class GlobalMaximum(_Global):
    """One window over the whole image, values alone."""

    name = "max_pool_fwd_global"

    @staticmethod
    def when(spec):
        return "gives no indices" if spec.indices else _Global.when(spec)

    @staticmethod
    def emit(spec, buffers):
        return _rows(make_global_maximum, spec, {"x": buffers["x"], "y": buffers["y"]})
