"""An activation and the mean of each plane of its result, while that is in the first-level cache: what
squeeze-and-excite asks for (Hu et al. 2018, arXiv 1709.01507, equation 2)."""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import activation_vector
from ..simd_vector import add_vector, splat_vector, store_window, sum_vector
from .elementwise import activation_row

PART = 4096  # values of a tile, which are still in the first-level cache when they are added up

MeanBlock = Block("ActivationMeanBlock", "x y mean", numbers="planes pixels part")


@lru_cache
def make_activation_mean(name, dtype):
    KIND, LANES, NAME, FLOAT = dtype.str[1:], lanes(dtype), name, dtype.type

    @tile_body(MeanBlock, dtype)
    def activation_mean(block, tile, worker):
        """y[p, i] = act(x[p, i]), mean[p] that of y[p]; x and y may be one array.  Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        mean = array_at(a.mean, a.mean_size, KIND)
        zero = splat_vector(x, FLOAT(0))
        first, end = tile * a.part, min((tile + 1) * a.part, a.planes)
        i, last = first * a.pixels, end * a.pixels
        while i + LANES <= last:
            store_vector(activation_vector(load_vector(x, i), zero, zero, NAME), y, i)
            i += LANES
        if i < last:
            tail = load_window(x, i, 1, 0, last - i, 1)
            store_window(activation_vector(tail, zero, zero, NAME), y, i, last - i)
        for plane in range(first, end):
            i, last, even, odd = plane * a.pixels, (plane + 1) * a.pixels, zero, zero
            while i + 2 * LANES <= last:
                even, odd = add_vector(even, load_vector(y, i)), add_vector(odd, load_vector(y, i + LANES))
                i += 2 * LANES
            while i < last:
                odd = add_vector(odd, load_window(y, i, 1, 0, last - i, 1))
                i += LANES
            mean[plane] = sum_vector(add_vector(even, odd)) / FLOAT(a.pixels)

    return activation_mean


def activation_mean_row(name, x, y, mean):
    """The row that writes act(x) into y, which may be x, (planes, pixels), and the means of its planes into `mean`; for
    activations without parameters."""
    planes, pixels = x.shape
    part = max(1, PART // max(1, pixels))
    values = {"x": x, "y": y, "mean": mean, "planes": planes, "pixels": pixels, "part": part}
    work = activation_row(name, x.reshape(-1), y.reshape(-1)).work
    return Row(make_activation_mean(name, np.dtype(x.dtype)), -(-planes // part), values, work)
