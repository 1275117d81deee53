"""A linear map of images that is one small matrix per axis: resizing, and with the matrices transposed its gradient.

y[plane, z, i, j] = sum over taps a of z, b of i, c of j of D[z, a] H[i, b] W[j, c] x[plane, d[z, a], h[i, b], w[j, c]]

The rows under an output row are combined first, then the combined row is resampled: outputs are the lanes, whose taps
lie close together and are picked from a few loaded vectors; where they lie too far apart, one output comes after the
other.  Taps are added in the order of the table.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector
from ..simd_permute import pick_lanes
from ..simd_vector import fma_vector, mul_vector, store_window

_WHOLE, _REAL = ("d_at", "d_n", "h_at", "h_n", "w_at", "w_n", "bases"), ("d_w", "h_w", "w_w")
SeparableBlock = Block(
    "Separable",
    {"x": None, "y": None, "whole": "i8", "real": None, "places": "i4", "scratch": None},
    f"id ih iw od oh ow kd kh kw even rows part {' '.join(_WHOLE)} {' '.join(_REAL)}",
)
MOST_EVEN = 8  # taps of an axis up to which missing taps are filled up with weights 0
SPANS = (2, 4)  # vectors that the taps of one vector of outputs may lie in


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
def make_picked(dtype, SPAN):
    LANES = lanes(dtype)

    @helper
    def pick_row(y, o, s, start, a, bases, places, weights):
        """y[o + j] = the sum over k of weights[k, j] s[start + base + places[k, j]], a base for each vector."""
        pitch = (a.ow + LANES - 1) // LANES * LANES
        for j in range(0, a.ow, LANES):
            base = start + bases[np.uintp(j // LANES)]
            total = mul_vector(load_vector(weights, j), pick_lanes(s, base, places, j, SPAN))
            for k in range(pitch + j, a.kw * pitch, pitch):
                total = fma_vector(load_vector(weights, k), pick_lanes(s, base, places, k, SPAN), total)
            store_window(total, y, o + j, a.ow - j)

    return pick_row


@cache
def make_separable(dtype, SPAN):
    """SPAN: vectors in which the taps of one vector of outputs lie, 0 if there are too many."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    pick_row = make_picked(dtype, SPAN or 2)

    @tile_body(SeparableBlock, dtype)
    def resample_separable(block, tile, worker):
        """Tile: `part` output rows (plane, z, i)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        whole, real = array_at(a.whole, a.whole_size, "i8"), array_at(a.real, a.real_size, KIND)
        d_at, d_n, d_w = whole[a.d_at :], whole[a.d_n :], real[a.d_w :]
        h_at, h_n, h_w = whole[a.h_at :], whole[a.h_n :], real[a.h_w :]
        w_at, w_n, w_w = whole[a.w_at :], whole[a.w_n :], real[a.w_w :]
        places, bases = array_at(a.places, a.places_size, "i4"), whole[a.bases :]
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        first = tile * a.part
        plane, z, i = first // (a.od * a.oh), first // a.oh % a.od, first % a.oh
        for r in range(first, min(first + a.part, a.rows)):
            at = ((plane * a.id + d_at[z * a.kd]) * a.ih + h_at[i * a.kh]) * a.iw
            single = d_n[z] == 1 and h_n[i] == 1 and d_w[z * a.kd] * h_w[i * a.kh] == 1
            if d_n[z] == 0 or h_n[i] == 0:
                y[r * a.ow : (r + 1) * a.ow] = y.dtype.type(0)
            elif SPAN and single and at + max(a.iw, SPAN * LANES) <= a.x_size:
                pick_row(y, r * a.ow, x, at, a, bases, places, w_w)
            elif SPAN == 0 and single:
                resample_row(y[r * a.ow : (r + 1) * a.ow], x[at : at + a.iw], a, w_at, w_w, w_n)
            else:
                combine_rows(s, x, a, d_at, d_w, d_n, h_at, h_w, h_n, plane, z, i)
                if SPAN:
                    pick_row(y, r * a.ow, s, 0, a, bases, places, w_w)
                else:
                    resample_row(y[r * a.ow : (r + 1) * a.ow], s, a, w_at, w_w, w_n)
            i += 1
            if i == a.oh:
                i, z = 0, z + 1
                if z == a.od:
                    z, plane = 0, plane + 1

    return resample_separable


def _picked(axis, vector):
    """(span, bases, places, weights) of an axis for `pick_row`, or None if its taps lie too far apart.

    places: of each tap and output, -1 for a tap that an output does not have; both tables in whole vectors.
    """
    taken = np.arange(axis.taps) < axis.counts[:, None]
    pitch = -(-axis.out // vector) * vector
    low, high = np.full(pitch, axis.size), np.full(pitch, -1)
    low[: axis.out] = np.where(taken, axis.at, axis.size).min(1, initial=axis.size)
    high[: axis.out] = np.where(taken, axis.at, -1).max(1, initial=-1)
    low, high = low.reshape(-1, vector).min(1), high.reshape(-1, vector).max(1)
    widest = int((high - low).max(initial=0)) + 1
    span = next((span for span in SPANS if widest <= span * vector), None)
    if span is None or axis.taps > MOST_EVEN:
        return None
    bases = np.clip(low, 0, max(0, axis.size - span * vector))
    places, weights = np.full((axis.taps, pitch), -1, np.int32), np.zeros((axis.taps, pitch))
    places[:, : axis.out] = np.where(taken, axis.at - bases.repeat(vector)[: axis.out, None], -1).T
    weights[:, : axis.out] = np.where(taken, axis.weights, 0).T
    return span, bases.astype(np.int64), places.ravel(), weights.ravel()


def tables(axes, dtype):
    """The buffers and numbers of three axes, for `row`; the last axis is stored tap by tap."""
    values, parts = {}, {}
    for name, axis, order in zip("dhw", axes, "CCF", strict=True):
        parts[f"{name}_at"], parts[f"{name}_w"] = axis.at.ravel(order), axis.weights.ravel(order)
        parts[f"{name}_n"] = axis.counts
        values.update({f"i{name}": axis.size, f"o{name}": axis.out, f"k{name}": axis.taps})
    values["even"] = int(axes[2].taps <= MOST_EVEN and axes[2].counts.min(initial=1) > 0)
    picked = _picked(axes[2], lanes(dtype))
    span, bases, places, weights = picked or (0, np.zeros(1, np.int64), np.zeros(1, np.int32), parts["w_w"])
    parts |= {"bases": bases, "w_w": weights}
    for buffer, names, kind in (("whole", _WHOLE, np.int64), ("real", _REAL, dtype)):
        values[buffer] = np.concatenate([parts[name] for name in names]).astype(kind)
        starts = np.cumsum([0] + [len(parts[name]) for name in names])
        values |= dict(zip(names, starts.tolist(), strict=False))
    values["places"] = places
    row_work = 20 + 0.05 * values["kd"] * values["kh"] * values["iw"]
    row_work += (0.15 if span else 0.6) * values["kw"] * values["ow"]
    scratch = max(values["iw"], span * lanes(dtype))
    return values, make_separable(np.dtype(dtype).name, span), row_work, scratch


def row(tables, x, y):
    """The row that computes y from x, for the `tables` of three axes."""
    values, body, row_work, scratch = tables
    rows = prod(y.shape[:-1])
    part = max(1, min(rows, int(20_000 / row_work)))
    return Row(body, -(-rows // part), {**values, "x": x, "y": y, "rows": rows, "part": part}, rows * row_work, scratch)
