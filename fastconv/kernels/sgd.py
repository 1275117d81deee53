"""Stochastic gradient descent with momentum: one pass over all parameters, however many and small they are.

    d = g + decay p,   v = momentum v + fresh d  (at first v = d),   p -= lr (v, or d + momentum v with Nesterov's)

Signs are folded into the numbers.  `table` has a line for each parameter: addresses of p, g and v (0 without
momentum), number of values, and whether v is yet to be made.
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_window
from ..simd_vector import fma_vector, mul_vector, splat_vector, store_window

PART = 8192  # values of a tile
LINE = 5
SgdBlock = Block("SgdBlock", {"table": "i8", "tiles": "i8", "options": "f8"}, "moving nesterov")


@cache
def make_sgd(dtype):
    KIND, LANES, FLOAT = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type

    @helper
    def descend(p, g, v, first, last, options, moving, nesterov, begin):
        lr, momentum = splat_vector(p, FLOAT(options[0])), splat_vector(p, FLOAT(options[1]))
        fresh, decay, sign = splat_vector(p, FLOAT(options[2])), splat_vector(p, FLOAT(options[3])), FLOAT(options[4])
        sign = splat_vector(p, sign)
        for i in range(first, last, LANES):
            left = last - i
            value = load_window(p, i, 1, 0, left, 1)
            slope = fma_vector(value, decay, load_window(g, i, 1, 0, left, 1))
            step = mul_vector(slope, sign)
            if moving:
                speed = step
                if not begin:
                    speed = fma_vector(load_window(v, i, 1, 0, left, 1), momentum, mul_vector(slope, fresh))
                store_window(speed, v, i, left)
                step = fma_vector(speed, momentum, step) if nesterov else speed
            store_window(fma_vector(step, lr, value), p, i, left)

    @tile_body(SgdBlock, dtype)
    def sgd(block, tile, worker):
        """Tile: `PART` values of one parameter.  options: -lr, momentum, sign (1 - dampening), decay, sign."""
        a = fields(block)
        table, tiles = array_at(a.table, a.table_size, "i8"), array_at(a.tiles, a.tiles_size, "i8")
        options = array_at(a.options, a.options_size, "f8")
        line, first = LINE * tiles[2 * tile], tiles[2 * tile + 1]
        size = table[line + 3]
        p, g = array_at(table[line], size, KIND), array_at(table[line + 1], size, KIND)
        v = array_at(table[line + 2], size if a.moving else 0, KIND)
        last = min(first + PART, size)
        descend(p, g, v, first, last, options, a.moving, a.nesterov, table[line + 4])

    return sgd


def tiles_of(sizes):
    """The table of tiles for parameters of these sizes: number of the parameter, first value."""
    return np.array([(i, first) for i, size in enumerate(sizes) for first in range(0, size, PART)], np.int64).ravel()


def sgd_rows(table, tiles, options, dtype, moving, nesterov):
    """One step; what `table` leads to are dense arrays of `dtype` that stay alive until it has run."""
    count = tiles.size // 2
    values = {"table": table, "tiles": tiles, "options": options, "moving": moving, "nesterov": nesterov}
    return [Row(make_sgd(dtype), count, values, 0.2 * PART * count)]
