"""Stochastic pooling: one value of each window, drawn with a probability in proportion to it.

Whole rows of windows at once, tap by tap: the first tap at which the running sum reaches u times the whole sum is
drawn.  Tile: `part` output rows.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields
from .window import GEOMETRY, fill_row, geometry, rows_per_tile, valid_outputs, valid_taps

StochasticBlock = Block(
    "StochasticPool", {"x": None, "y": None, "u": None, "at": "i8", "scratch": None}, numbers=f"{GEOMETRY} rows part"
)


@lru_cache
def make_stochastic(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(StochasticBlock, dtype)
    def stochastic_pool_fwd_taps(block, tile, worker):
        """y[r, j] = x at the tap that u[r, j] draws, at[r, j] its position; 0 and -1 where no tap is positive."""
        a = fields(block)
        x, y, u = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.u, a.u_size, KIND)
        at = array_at(a.at, a.at_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        bound, total, real = scratch[: a.ow], scratch[a.ow : 2 * a.ow], scratch.dtype.type
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z0, i0 = r // (a.od * a.oh), r // a.oh % a.od * a.sd, r % a.oh * a.sh
            h1 = valid_taps(i0, a.ih, a.kh, 1)[1]
            taps = valid_taps(z0, a.id, a.kd, 1)[1] * h1
            out, where = y[r * a.ow : (r + 1) * a.ow], at[r * a.ow : (r + 1) * a.ow]
            for draw in range(2):  # first the whole sums, then, added up in the same order, the draw
                if draw:
                    for j in range(a.ow):
                        bound[j] = total[j] * u[r * a.ow + j]
                    fill_row(where, -1)
                    fill_row(out, real(0))
                fill_row(total, real(0))
                for t in range(taps):
                    row = (z0 + t // h1) * a.ih + i0 + t % h1
                    source = x[(plane * a.id * a.ih + row) * a.iw : (plane * a.id * a.ih + row + 1) * a.iw]
                    for w in range(a.kw):
                        for j in range(valid_outputs(w, a.iw, a.ow, a.sw)[1]):
                            v = source[np.uintp(j * a.sw + w)]
                            v = v if v > 0 else real(0)
                            total[j] += v
                            if draw:
                                drawn = (where[j] < 0) & (v > 0) & (total[j] >= bound[j])
                                out[j] = v if drawn else out[j]
                                where[j] = row * a.iw + j * a.sw + w if drawn else where[j]

    return stochastic_pool_fwd_taps


# ---- implementations


def _row_work(spec):
    return 30 + 1.5 * spec.taps * spec.ow


@implements("stochastic_pool.fwd", rank=90)
class StochasticTaps(Impl):
    """Any window."""

    name = "stochastic_pool_fwd_taps"

    @staticmethod
    def cost(spec):
        return spec.planes * spec.od * spec.oh * _row_work(spec)

    @staticmethod
    def emit(spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        part = rows_per_tile(rows, _row_work(spec))
        values = {**buffers, **geometry(spec), "rows": rows, "part": part}
        body = make_stochastic(spec.dtype)
        return [Row(body, -(-rows // part), values, rows * _row_work(spec), scratch=2 * spec.ow)]
