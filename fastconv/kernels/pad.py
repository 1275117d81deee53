"""Borders around images: constants, or pixels of the image itself, in any of the modes of padding.

y[p, z, i, j] = x[p, depths[z], lines[i], columns[j]], or `fill` where one of these is negative; between its borders a
row is copied as it is.  Tile: `part` rows.
"""

from functools import lru_cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import store_window
from .window import SIZES, fill_row, rows_per_tile

AXES = 3
PadBlock = Block(
    "Pad",
    {"x": None, "y": None, "depths": "i8", "lines": "i8", "columns": "i8"},
    numbers=f"{SIZES} before rows part",
    reals="fill",
)


@lru_cache
def make_pad(dtype):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @helper
    def border(x, xi, y, yi, columns, first, end, fill):
        if first < end and columns[first] < 0:
            fill_row(y[yi + first : yi + end], fill)
        else:
            for j in range(first, end):
                y[np.uintp(yi + j)] = x[np.uintp(xi + columns[np.uintp(j)])]

    @tile_body(PadBlock, dtype)
    def pad(block, tile, worker):
        a = fields(block)
        x, y, columns = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.columns, a.ow, "i8")
        depths, lines = array_at(a.depths, a.depths_size, "i8"), array_at(a.lines, a.lines_size, "i8")
        fill, iw, ow, before = y.dtype.type(a.fill), a.iw, a.ow, a.before
        first, whole, rest = tile * a.part, iw // LANES * LANES, iw % LANES
        plane, z, i = first // (a.od * a.oh), first // a.oh % a.od, first % a.oh
        for r in range(first, min(first + a.part, a.rows)):
            d, h, yi = depths[z], lines[i], r * ow
            if d < 0 or h < 0:
                fill_row(y[yi : yi + ow], fill)
            else:
                xi = ((plane * a.id + d) * a.ih + h) * iw
                for j in range(0, whole, LANES):
                    store_vector(load_vector(x, xi + j), y, yi + before + j)
                if rest:
                    store_window(load_window(x, xi + whole, 1, 0, rest, 1), y, yi + before + whole, rest)
                border(x, xi, y, yi, columns, 0, before, fill)
                border(x, xi, y, yi, columns, before + iw, ow, fill)
            i += 1
            if i == a.oh:
                i, z = 0, z + 1
                if z == a.od:
                    z, plane = 0, plane + 1

    return pad


@lru_cache(maxsize=256)
def _table(sources):
    table = np.array(sources, np.int64)
    table.flags.writeable = False
    return table


def pad_rows(x, y, before, sources, fill):
    """The row that pads x (p, d, h, w) to y: before its columns `before` others; sources: of each depth, row and column
    of y the one of x that it copies, -1 for `fill`."""
    rows, work = prod(y.shape[:-1]), 8 + 0.1 * y.shape[-1]
    part = rows_per_tile(rows, work)
    values = {"x": x, "y": y, **dict(zip(("depths", "lines", "columns"), map(_table, sources), strict=True))}
    values |= dict(zip(SIZES.split(), (*x.shape[1:], *y.shape[1:]), strict=True))
    values |= {"before": before, "rows": rows, "part": part, "fill": fill}
    return (Row(make_pad(x.dtype.name), -(-rows // part), values, rows * work),)
