"""A linear map of images that is one small matrix per axis: resizing, and with the matrices transposed its gradient.

y[plane, z, i, j] = sum over taps a of z, b of i, c of j of D[z, a] H[i, b] W[j, c] x[plane, d[z, a], h[i, b], w[j, c]]

The rows under an output row are combined first, then the combined row is resampled.  Taps are added in the order of the
table.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields

_TABLES = {
    name: kind for axis in "dhw" for name, kind in ((f"{axis}_at", "i8"), (f"{axis}_n", "i8"), (f"{axis}_w", None))
}
SeparableBlock = Block(
    "Separable", {"x": None, "y": None, **_TABLES, "scratch": None}, "id ih iw od oh ow kd kh kw even rows part"
)
MOST_EVEN = 8  # taps of an axis up to which missing taps are filled up with weights 0


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis: output o is the sum of weights[o, k] x[at[o, k]] for k < counts[o]; further taps have weight 0."""

    size: int
    at: np.ndarray
    weights: np.ndarray
    counts: np.ndarray

    @property
    def out(self):
        return len(self.counts)

    @property
    def taps(self):
        return self.at.shape[1]

    def transposed(self):
        """The axis of the adjoint map: its taps are the outputs that saw a position, in their order."""
        valid = np.arange(self.taps) < self.counts[:, None]
        source, target = self.at[valid], np.repeat(np.arange(self.out), self.counts)
        order = np.lexsort((target, source))
        source, target, weights = source[order], target[order], self.weights[valid][order]
        counts = np.bincount(source, minlength=self.size)
        first = np.cumsum(counts) - counts
        shape = (self.size, max(1, int(counts.max(initial=0))))
        place = source, np.arange(len(source)) - first[source]
        at, filled = np.zeros(shape, np.int64), np.zeros(shape)
        at[:, :] = np.where(counts > 0, np.append(target, 0)[np.minimum(first, len(target))], 0)[:, None]
        at[place], filled[place] = target, weights
        return Axis(self.out, at, filled, counts)


def identity(size):
    """The axis that changes nothing."""
    return Axis(size, np.arange(size)[:, None], np.ones((size, 1)), np.ones(size, np.int64))


@helper
def combine_rows(s, x, a, d_at, d_w, d_n, h_at, h_w, h_n, plane, z, i):
    """s = the weighted sum of the rows under output row (z, i) of a plane."""
    first = True
    for k in range(d_n[z]):
        for b in range(h_n[i]):
            weight = d_w[z * a.kd + k] * h_w[i * a.kh + b]
            at = ((plane * a.id + d_at[z * a.kd + k]) * a.ih + h_at[i * a.kh + b]) * a.iw
            row = x[at : at + a.iw]
            if first:
                for j in range(a.iw):
                    s[j] = weight * row[j]
            else:
                for j in range(a.iw):
                    s[j] += weight * row[j]
            first = False
    if first:
        s[:] = s.dtype.type(0)


@helper
def resample_row(out, s, a, at, weights, counts):
    """out[j] = sum over k of weights[k, j] s[at[k, j]]; `even`: over all taps, else over counts[j]."""
    n = a.ow
    if a.even and a.kw == 1:
        for j in range(n):
            out[j] = weights[j] * s[np.uintp(at[j])]
    elif a.even and a.kw == 2:
        for j in range(n):
            out[j] = weights[j] * s[np.uintp(at[j])] + weights[n + j] * s[np.uintp(at[n + j])]
    elif a.even:
        for j in range(n):
            total = weights[j] * s[np.uintp(at[j])]
            for k in range(1, a.kw):
                total += weights[k * n + j] * s[np.uintp(at[k * n + j])]
            out[j] = total
    else:
        for j in range(n):
            total = s.dtype.type(0)
            for k in range(counts[j]):
                total += weights[k * n + j] * s[np.uintp(at[k * n + j])]
            out[j] = total


@cache
def make_separable(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(SeparableBlock, dtype)
    def resample_separable(block, tile, worker):
        """Tile: `part` output rows (plane, z, i)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        d_at, d_n = array_at(a.d_at, a.d_at_size, "i8"), array_at(a.d_n, a.d_n_size, "i8")
        h_at, h_n = array_at(a.h_at, a.h_at_size, "i8"), array_at(a.h_n, a.h_n_size, "i8")
        w_at, w_n = array_at(a.w_at, a.w_at_size, "i8"), array_at(a.w_n, a.w_n_size, "i8")
        d_w, h_w = array_at(a.d_w, a.d_w_size, KIND), array_at(a.h_w, a.h_w_size, KIND)
        w_w = array_at(a.w_w, a.w_w_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.iw]
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z, i = r // (a.od * a.oh), r // a.oh % a.od, r % a.oh
            out = y[r * a.ow : (r + 1) * a.ow]
            if d_n[z] == 1 and h_n[i] == 1 and d_w[z * a.kd] * h_w[i * a.kh] == 1:
                at = ((plane * a.id + d_at[z * a.kd]) * a.ih + h_at[i * a.kh]) * a.iw
                resample_row(out, x[at : at + a.iw], a, w_at, w_w, w_n)
            else:
                combine_rows(s, x, a, d_at, d_w, d_n, h_at, h_w, h_n, plane, z, i)
                resample_row(out, s, a, w_at, w_w, w_n)

    return resample_separable


def tables(axes, dtype):
    """The buffers and numbers of three axes, for `row`; the last axis is stored tap by tap."""
    values = {}
    for name, axis, order in zip("dhw", axes, "CCF", strict=True):
        values[f"{name}_at"] = np.ascontiguousarray(axis.at.ravel(order), np.int64)
        values[f"{name}_w"] = np.ascontiguousarray(axis.weights.ravel(order), dtype)
        values[f"{name}_n"] = np.ascontiguousarray(axis.counts, np.int64)
        values.update({f"i{name}": axis.size, f"o{name}": axis.out, f"k{name}": axis.taps})
    even = axes[2].taps <= MOST_EVEN and axes[2].counts.min(initial=1) > 0
    return {**values, "even": int(even)}


def row(values, x, y):
    """The row that computes y from x, for the `tables` of three axes."""
    rows = prod(y.shape[:-1])
    row_work = 30 + 0.1 * values["kd"] * values["kh"] * values["iw"] + 0.6 * values["kw"] * values["ow"]
    part = max(1, min(rows, int(20_000 / row_work)))
    numbers = {**values, "x": x, "y": y, "rows": rows, "part": part}
    return Row(make_separable(x.dtype.name), -(-rows // part), numbers, rows * row_work, values["iw"])
