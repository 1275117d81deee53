"""Maximum unpooling: every value goes to its position in a larger plane, which is 0 elsewhere."""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields
from .max_pool import MaxGather, MaxScatter
from .window import fill_row, rows_per_tile

UnpoolBlock = Block(
    "MaxUnpool", {"x": None, "y": None, "at": "i8", "bad": "i8"}, numbers="big_pixels small_pixels planes part"
)


@lru_cache
def make_unpool(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(UnpoolBlock, dtype)
    def max_unpool_fwd_scatter(block, tile, worker):
        """y[p, at[p, o]] = x[p, o], 0 elsewhere; of equal positions the last wins.  Tile: `part` planes.

        bad[tile] = the number of the tile's last position that lies outside its plane, which is left out; else -1.
        """
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        at, bad = array_at(a.at, a.at_size, "i8"), array_at(a.bad, a.bad_size, "i8")
        wrong = -1
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            plane = y[p * a.big_pixels : (p + 1) * a.big_pixels]
            fill_row(plane, plane.dtype.type(0))
            for o in range(p * a.small_pixels, (p + 1) * a.small_pixels):
                position = np.uintp(at[o])
                if position < np.uintp(a.big_pixels):
                    plane[position] = x[o]
                else:
                    wrong = o
        bad[tile] = wrong

    return max_unpool_fwd_scatter


def _work(spec):
    return 10 + 0.15 * spec.in_pixels + 1.0 * spec.out_pixels


def tiles(spec):
    """(tiles, planes of each)."""
    part = rows_per_tile(spec.planes, _work(spec))
    return -(-spec.planes // part), part


@implements("max_unpool.fwd", rank=90)
class UnpoolScatter(Impl):
    """Any positions."""

    name = "max_unpool_fwd_scatter"

    @staticmethod
    def cost(spec):
        return spec.planes * _work(spec)

    @staticmethod
    def emit(spec, buffers):
        count, part = tiles(spec)
        numbers = {"big_pixels": spec.in_pixels, "small_pixels": spec.out_pixels, "planes": spec.planes, "part": part}
        return [Row(make_unpool(spec.dtype), count, {**buffers, **numbers}, spec.planes * _work(spec))]


@implements("unpool_max_pool.gather", rank=90)
class UnpoolGather(MaxGather):
    """The gradient of unpooling."""

    name = "max_unpool_bwd_gather"


@implements("unpool_max_pool.bwd", rank=90)
class UnpoolAdd(MaxScatter):
    """The gradient of the gradient: values at equal positions are added."""

    name = "max_unpool_bwd_scatter"
