"""Binomial filter and downsampling along rows of any depth, and the adjoint.

The rows are combined first; their weights have the factor 2^(1 - K) of a binomial filter of K taps along a row.  Its
adjoint is K - 1 times the sum of neighbours, s[c] + s[c + 1].  Tile: `part` rows of what is computed.
"""

from functools import lru_cache
from math import comb, prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import add_vector, fma_vector, splat_vector, store_window
from .window import fill_row, rows_per_tile

_TABLES = {f"{axis}_{table}": kind for axis in "dh" for table, kind in (("at", "i8"), ("w", None), ("n", "i8"))}
BlurBlock = Block(
    "BlurPool",
    {"x": None, "y": None, **_TABLES, "border": "i8", "filter": None, "scratch": None},
    numbers="id ih iw od oh ow kd kh before after stride passes pitch rows part",
)


@lru_cache
def make_rows(dtype):
    LANES = lanes(dtype)

    @helper
    def combine(s, x, a, plane, z, i, d_at, d_w, d_n, h_at, h_w, h_n):
        """s = the weighted sum of the rows that row (z, i) of the result is made of; up to LANES-1 values more are
        overwritten."""
        iw = a.iw
        for v in range(0, iw, LANES):
            total = splat_vector(s, s.dtype.type(0))
            for k in range(z * a.kd, z * a.kd + d_n[z]):
                depth = (plane * a.id + d_at[k]) * a.ih
                for b in range(i * a.kh, i * a.kh + h_n[i]):
                    value = load_window(x, (depth + h_at[b]) * iw + v, 1, 0, iw - v, 1)
                    total = fma_vector(value, splat_vector(s, d_w[k] * h_w[b]), total)
            store_vector(total, s, v)

    return combine


@lru_cache
def make_sums(dtype):
    LANES = lanes(dtype)

    @helper
    def add_neighbours(s, count, passes):
        """s[c] += s[c + 1] for c < count, `passes` times."""
        for _ in range(passes):
            for v in range(0, count, LANES):
                store_vector(add_vector(load_vector(s, v), load_vector(s, v + 1)), s, v)

    return add_neighbours


@lru_cache
def make_blur(dtype, STEP):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    combine = make_rows(dtype)

    @tile_body(BlurBlock, dtype)
    def blur_pool_fwd_rows(block, tile, worker):
        """y[r, j] = the filtered row at column j * stride.  border: the columns that the padding repeats, -1 for 0."""
        a = fields(block)
        x, y, border = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.y, a.y_size, KIND),
            array_at(a.border, a.border_size, "i8"),
        )
        d_at, h_at = array_at(a.d_at, a.d_at_size, "i8"), array_at(a.h_at, a.h_at_size, "i8")
        d_n, h_n = array_at(a.d_n, a.d_n_size, "i8"), array_at(a.h_n, a.h_n_size, "i8")
        d_w, h_w = array_at(a.d_w, a.d_w_size, KIND), array_at(a.h_w, a.h_w_size, KIND)
        filter = array_at(a.filter, a.filter_size, KIND)
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s = scratch[: a.before + a.pitch]
        row, zero = s[a.before :], s.dtype.type(0)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            combine(row, x, a, r // (a.od * a.oh), r // a.oh % a.od, r % a.oh, d_at, d_w, d_n, h_at, h_w, h_n)
            for c in range(a.before):
                s[c] = row[border[c]] if border[c] >= 0 else zero
            for c in range(a.after):
                p = border[a.before + c]
                row[a.iw + c] = row[p] if p >= 0 else zero
            for j in range(0, a.ow, LANES):
                value, count = splat_vector(s, zero), min(LANES, a.ow - j)
                for k in range(a.passes + 1):
                    taps = load_window(s, j * a.stride + k, a.stride, 0, count, STEP)
                    value = fma_vector(taps, splat_vector(s, filter[k]), value)
                store_window(value, y, r * a.ow + j, count)

    return blur_pool_fwd_rows


@lru_cache
def make_blur_adjoint(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    combine, add_neighbours = make_rows(dtype), make_sums(dtype)

    @tile_body(BlurBlock, dtype)
    def blur_pool_bwd_rows(block, tile, worker):
        """y[r, c] = what the filter read there, weighted by x; i and o have changed places: x is the smaller one."""
        a = fields(block)
        x, y, border = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.y, a.y_size, KIND),
            array_at(a.border, a.border_size, "i8"),
        )
        d_at, h_at = array_at(a.d_at, a.d_at_size, "i8"), array_at(a.h_at, a.h_at_size, "i8")
        d_n, h_n = array_at(a.d_n, a.d_n_size, "i8"), array_at(a.h_n, a.h_n_size, "i8")
        d_w, h_w = array_at(a.d_w, a.d_w_size, KIND), array_at(a.h_w, a.h_w_size, KIND)
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s, small, width = scratch[: a.before + a.pitch], scratch[a.before + a.pitch :], a.before + a.ow + a.after
        row, zero = s[a.before :], s.dtype.type(0)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            combine(small, x, a, r // (a.od * a.oh), r // a.oh % a.od, r % a.oh, d_at, d_w, d_n, h_at, h_w, h_n)
            fill_row(s, zero)
            if a.stride == 2:
                for j in range(a.iw):
                    s[np.uintp(2 * j + a.passes)] = small[j]
            else:
                for j in range(a.iw):
                    s[np.uintp(j * a.stride + a.passes)] = small[j]
            add_neighbours(s, width, a.passes)
            for c in range(a.before):
                if border[c] >= 0:
                    row[border[c]] += s[c]
            for c in range(a.after):
                p = border[a.before + c]
                if p >= 0:
                    row[p] += row[a.ow + c]
            for c in range(0, a.ow, LANES):
                store_window(load_vector(row, c), y, r * a.ow + c, a.ow - c)

    return blur_pool_bwd_rows


# ---- rows of a program


def tables(axes, factor, kernel, stride, border, dtype):
    """The read-only tables and numbers of a map: the axes of depth and rows, and how columns are filtered.

    border: the columns that the padding before and after a row repeats, -1 for zeros; factor: of all weights.
    """
    values = {"before": (kernel - 1) // 2, "after": kernel // 2, "stride": stride, "passes": kernel - 1}
    for name, axis, scale in zip("dh", axes, (factor, 1.0), strict=True):
        values[f"{name}_at"] = np.ascontiguousarray(axis.at.ravel(), np.int64)
        values[f"{name}_w"] = np.ascontiguousarray(axis.weights.ravel() * scale, dtype)
        values[f"{name}_n"] = np.ascontiguousarray(axis.counts, np.int64)
        values.update({f"i{name}": axis.size, f"o{name}": axis.out, f"k{name}": axis.taps})
    binomial = np.array([comb(kernel - 1, k) for k in range(kernel)], dtype)
    return {**values, "border": np.array(border, np.int64), "filter": binomial}


def row(values, x, y, adjoint):
    """The row that computes y from x, for the `tables` of a map or of its adjoint."""
    dtype, iw, ow, vector = x.dtype.name, x.shape[-1], y.shape[-1], lanes(x.dtype)
    rows, wide = prod(y.shape[:-1]), max(iw, ow, (min(iw, ow) - 1) * values["stride"] + 1)
    pitch = -(-(wide + values["passes"]) // vector) * vector + 2 * vector
    work = 15 + (1 + values["kd"] * values["kh"] + 0.5 * values["passes"]) * wide / 8
    part = rows_per_tile(rows, work)
    numbers = {**values, "x": x, "y": y, "iw": iw, "ow": ow, "pitch": pitch, "rows": rows, "part": part}
    body = make_blur_adjoint(dtype) if adjoint else make_blur(dtype, values["stride"] if values["stride"] < 3 else 0)
    return Row(body, -(-rows // part), numbers, rows * work, scratch=values["before"] + 2 * pitch)
