"""Fractional maximum pooling: windows of one size at places that differ from plane to plane.

places: for each plane the first depths, rows and columns of its windows.  First the maxima down the columns, for whole
rows at once, with the number of the window's row that holds each; then along the row.  Maxima, their positions and NaN
are as in `max_pool.py`.  Tile: `part` output rows.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields
from .max_pool import MaxGather, MaxScatter
from .window import SIZES, fill_row, rows_per_tile, sizes

_PLACES = {"first_d": "i8", "first_h": "i8", "first_w": "i8"}
FractionalBlock = Block(
    "FractionalMax",
    {"x": None, "y": None, "at": "i8", **_PLACES, "scratch": None},
    numbers=f"{SIZES} kd kh kw rows part",
)


@helper
def columns_argmax(s, which, x, number):
    """Where x[j] is larger than s[j], or NaN: s[j] = x[j] and which[j] = number."""
    for j in range(s.size):
        v, m = x[j], s[j]
        wins = (v > m) | (v != v)
        s[j] = v if wins else m
        which[j] = number if wins else which[j]


@helper
def window_argmax(s, which, first, count):
    """(maximum, its column, its row in the window) of the columns first .. first + count - 1."""
    best, m, row = first, s[first], which[first]
    for c in range(first + 1, first + count):
        v, r = s[c], which[c]
        nan = v != v
        wins = (v > m) | ((v == m) & (r < row)) | (nan & ((m == m) | (r >= row)))
        best = c if wins else best
        m = v if wins else m
        row = r if wins else row
    return m, best, row


@lru_cache
def make_fractional(dtype, INDICES):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(FractionalBlock, dtype)
    def fractional_max_pool_fwd_columns(block, tile, worker):
        """y[p, z, i, j] = max over d, h, w of x[p, first_d[p, z] + d, first_h[p, i] + h, first_w[p, j] + w]."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, "i8")
        first_d, first_h = array_at(a.first_d, a.first_d_size, "i8"), array_at(a.first_h, a.first_h_size, "i8")
        first_w = array_at(a.first_w, a.first_w_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s, which, real = scratch[: a.iw], scratch[a.iw : 2 * a.iw], scratch.dtype.type
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z, i = r // (a.od * a.oh), r // a.oh % a.od, r % a.oh
            z0, i0 = first_d[plane * a.od + z], first_h[plane * a.oh + i]
            fill_row(s, real(-np.inf))
            fill_row(which, real(0))
            for t in range(a.kd * a.kh):
                start = ((plane * a.id + z0 + t // a.kh) * a.ih + i0 + t % a.kh) * a.iw
                columns_argmax(s, which, x[start : start + a.iw], real(t))
            for j in range(a.ow):
                m, column, row = window_argmax(s, which, first_w[plane * a.ow + j], a.kw)
                y[r * a.ow + j] = m
                if INDICES:
                    t = int(row)
                    at[r * a.ow + j] = ((z0 + t // a.kh) * a.ih + i0 + t % a.kh) * a.iw + column

    return fractional_max_pool_fwd_columns


# ---- implementations


def _row_work(spec):
    return 30 + 0.15 * spec.kd * spec.kh * spec.iw + 2 * spec.kw * spec.ow


@implements("fractional_max_pool.fwd", rank=90)
class FractionalColumns(Impl):
    """Any window, with positions where they are wanted."""

    name = "fractional_max_pool_fwd_columns"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _row_work(spec)

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        part = rows_per_tile(rows, _row_work(spec))
        at = buffers.get("at", np.empty(0, np.int64))
        values = {**buffers, "at": at, **sizes(spec), "kd": spec.kd, "kh": spec.kh, "kw": spec.kw}
        values |= {"rows": rows, "part": part}
        body = make_fractional(spec.dtype, int(spec.indices))
        return [Row(body, -(-rows // part), values, rows * _row_work(spec), scratch=2 * spec.iw)]


@implements("fractional_max_pool.bwd", rank=90)
class FractionalScatter(MaxScatter):
    """Any window."""

    name = "fractional_max_pool_bwd_scatter"


@implements("fractional_max_pool.gather", rank=90)
class FractionalGather(MaxGather):
    """Any window: the backward pass of the backward pass."""

    name = "fractional_max_pool_gather"
