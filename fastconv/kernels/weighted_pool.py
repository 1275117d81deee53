"""Weighted means of windows, y = sum of w(x) x / sum of w(x), and their gradient.

SOFT: w = e^x, computed as e^(x - m), m the largest value of the rows under an output row.  A window whose weights all
but vanish beside m is computed once more, with its own maximum.  Else w = x, 0 where x is negative; 0 / 0 gives 0.
Rows under an output row are combined first, then the combined rows along the row.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import div_vector, exp_vector
from ..simd_vector import add_vector, fma_vector, relu_vector, splat_vector, store_window, sub_vector
from ..simd_window import MAX_NAN, reduce_run
from .window import (
    GEOMETRY,
    fill_row,
    geometry,
    rows_per_tile,
    scatter_strided,
    valid_outputs,
    valid_taps,
)

ForwardBlock = Block("WeightedPool", "x y scratch", numbers=f"{GEOMETRY} pitch rows part")
BackwardBlock = Block("WeightedPoolBackward", "gx gy x y scratch", numbers=f"{GEOMETRY} pitch planes part")

_VANISHED = {"f4": 1e-20, "f8": 1e-200}  # a sum of weights, beside 1 for the largest, that has lost its accuracy


@helper
def largest_number(x, first, end):
    """The largest of x[first : end]; NaN is passed over."""
    m = x.dtype.type(-np.inf)
    for j in range(first, end):
        m = x[j] if x[j] > m else m
    return m


@helper
def largest(x, a, row, d1, h1):
    """The largest number under an output row whose window begins in row `row` of all planes; NaN is passed over."""
    m = x.dtype.type(-np.inf)
    for d in range(d1):
        first = (row + d * a.ih) * a.iw
        found = reduce_run(x, first, h1 * a.iw, MAX_NAN)
        found = found if found == found else largest_number(x, first, first + h1 * a.iw)
        m = found if found > m else m
    return m


@lru_cache
def make_sum_strided(dtype, STEP):
    """STEP: the stride along a row if it is 1 or 2, else 0."""
    LANES = lanes(dtype)

    @helper
    def sum_strided(out, s, a):
        """out[j] = the sum over the window's columns of s."""
        for j in range(0, a.ow, LANES):
            total = splat_vector(s, s.dtype.type(0))
            for w in range(a.kw):
                inside = (a.iw - w - j * a.sw + a.sw - 1) // a.sw  # windows from j on whose column w is in the row
                if inside > 0:
                    high = min(LANES, min(a.ow - j, inside))
                    total = add_vector(total, load_window(s, j * a.sw + w, a.sw, 0, high, STEP))
            store_vector(total, out, j)

    return sum_strided


@helper
def spread_strided(s, out, a):
    """s = the sum of out over the windows that hold each column."""
    fill_row(s, s.dtype.type(0))
    for w in range(a.kw):
        first, end = valid_outputs(w, a.iw, a.ow, a.sw)
        if first < end:
            scatter_strided(s[first * a.sw + w :], out[first:end], a.sw)


@lru_cache
def make_weights(dtype, SOFT):
    LANES = lanes(dtype)

    @helper
    def weigh(e, x, first, n, m):
        """e = the weights of the row x[first : first + n]."""
        high = splat_vector(x, m)
        for j in range(0, n, LANES):
            value = load_window(x, first + j, 1, 0, min(LANES, n - j), 1)
            store_vector(exp_vector(sub_vector(value, high)) if SOFT else relu_vector(value), e, j)

    @helper
    def add_row(total, moment, x, first, n, m, start):
        """total += the weights of the row x[first : first + n], moment += weights times values; `start`: from 0."""
        high, zero = splat_vector(x, m), splat_vector(x, x.dtype.type(0))
        for j in range(0, n, LANES):
            value = load_window(x, first + j, 1, 0, min(LANES, n - j), 1)
            weight = exp_vector(sub_vector(value, high)) if SOFT else relu_vector(value)
            store_vector(add_vector(zero if start else load_vector(total, j), weight), total, j)
            store_vector(fma_vector(weight, value, zero if start else load_vector(moment, j)), moment, j)

    return weigh, add_row


@helper
def alone(x, a, row, d1, h1, w0, w1):
    """(m, sum, mean) of one window by itself: its maximum, the sum of e^(x - m), and the weighted mean."""
    zero = x.dtype.type(0)
    m, total, mean = x.dtype.type(-np.inf), zero, zero
    for t in range(d1 * h1):
        start = (row + t // h1 * a.ih + t % h1) * a.iw
        for j in range(start + w0, start + w1):
            m = x[j] if x[j] > m else m
    for t in range(d1 * h1):
        start = (row + t // h1 * a.ih + t % h1) * a.iw
        for j in range(start + w0, start + w1):
            e = np.exp(x[j] - m)
            total += e
            mean += e * x[j]
    return m, total, mean / total


@lru_cache
def make_weighted_forward(dtype, SOFT, STEP):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    LEAST, (_, add_row), sum_strided = _VANISHED[KIND], make_weights(dtype, SOFT), make_sum_strided(dtype, STEP)

    @tile_body(ForwardBlock, dtype)
    def weighted_pool_fwd_separable(block, tile, worker):
        """Tile: `part` output rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        scratch, n = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND), a.iw
        total, moment = scratch[: a.pitch], scratch[a.pitch : 2 * a.pitch]
        share, mean, real = scratch[2 * a.pitch : 3 * a.pitch], scratch[3 * a.pitch :], scratch.dtype.type
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, z0, i0 = r // (a.od * a.oh), r // a.oh % a.od * a.sd, r % a.oh * a.sh
            d1, h1 = valid_taps(z0, a.id, a.kd, 1)[1], valid_taps(i0, a.ih, a.kh, 1)[1]
            row = (plane * a.id + z0) * a.ih + i0
            m = largest(x, a, row, d1, h1) if SOFT else real(0)
            for t in range(d1 * h1):
                add_row(total, moment, x, (row + t // h1 * a.ih + t % h1) * n, n, m, t == 0)
            sum_strided(mean, moment, a)
            sum_strided(share, total, a)
            out, lost = y[r * a.ow : (r + 1) * a.ow], False
            for j in range(0, a.ow, LANES):
                store_window(div_vector(load_vector(mean, j), load_vector(share, j)), y, r * a.ow + j, a.ow - j)
            for j in range(a.ow):
                lost = lost | ((share[j] < LEAST) if SOFT else (share[j] == 0))
            for j in range(a.ow if lost else 0):
                if SOFT and share[j] < LEAST:
                    out[j] = alone(x, a, row, d1, h1, j * a.sw, min(j * a.sw + a.kw, n))[2]
                elif not SOFT and share[j] == 0:
                    out[j] = real(0)

    return weighted_pool_fwd_separable


@helper
def spread_alone(gx, gy, y, x, a, row, d1, h1, w0, w1):
    """What one window by itself adds to the gradient."""
    m, total, _ = alone(x, a, row, d1, h1, w0, w1)
    for t in range(d1 * h1):
        start = (row + t // h1 * a.ih + t % h1) * a.iw
        for j in range(start + w0, start + w1):
            gx[j] += gy * (np.exp(x[j] - m) / total) * (1 + x[j] - y)


@lru_cache
def make_weighted_backward(dtype, SOFT, STEP):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize
    LEAST, (weigh, _), sum_strided = _VANISHED[KIND], make_weights(dtype, SOFT), make_sum_strided(dtype, STEP)

    @tile_body(BackwardBlock, dtype)
    def weighted_pool_bwd_separable(block, tile, worker):
        """gx = w' (x A - B) + w A, where A is the sum of gy / total over the windows and B that of gy y / total.

        Tile: `part` planes.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        scratch, n = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND), a.iw
        e, total, moment = scratch[: a.pitch], scratch[a.pitch : a.pitch + n], scratch[2 * a.pitch : 2 * a.pitch + n]
        share, real = scratch[3 * a.pitch : 4 * a.pitch], scratch.dtype.type
        pixels, p0, p1 = a.id * a.ih * n, tile * a.part, min((tile + 1) * a.part, a.planes)
        fill_row(gx[p0 * pixels : p1 * pixels], real(0))
        for r in range(p0 * a.od * a.oh, p1 * a.od * a.oh):
            plane, z0, i0 = r // (a.od * a.oh), r // a.oh % a.od * a.sd, r % a.oh * a.sh
            d1, h1 = valid_taps(z0, a.id, a.kd, 1)[1], valid_taps(i0, a.ih, a.kh, 1)[1]
            row = (plane * a.id + z0) * a.ih + i0
            m = largest(x, a, row, d1, h1) if SOFT else real(0)
            fill_row(total, real(0))
            for t in range(d1 * h1):
                start = (row + t // h1 * a.ih + t % h1) * n
                weigh(e, x, start, n, m)
                for j in range(n):
                    total[j] += e[j]
            sum_strided(share, total, a)
            out, g = y[r * a.ow : (r + 1) * a.ow], gy[r * a.ow : (r + 1) * a.ow]
            for j in range(a.ow):
                if SOFT and share[j] < LEAST:
                    spread_alone(gx, g[j], out[j], x, a, row, d1, h1, j * a.sw, min(j * a.sw + a.kw, n))
                    share[j] = 0
                else:
                    share[j] = g[j] / share[j] if share[j] != 0 else real(0)
            spread_strided(total, share[: a.ow], a)
            for j in range(a.ow):
                share[j] *= out[j]
            spread_strided(moment, share[: a.ow], a)
            for t in range(d1 * h1):
                start = (row + t // h1 * a.ih + t % h1) * n
                source, target = x[start : start + n], gx[start : start + n]
                if SOFT:
                    weigh(e, x, start, n, m)
                    for j in range(n):
                        target[j] += e[j] * ((1 + source[j]) * total[j] - moment[j])
                else:
                    for j in range(n):
                        slope = 2 * source[j] * total[j] - moment[j]
                        target[j] += slope if source[j] > 0 or source[j] != source[j] else real(0)

    return weighted_pool_bwd_separable


# ---- implementations


def _row_work(spec, soft):
    """Nanoseconds of an output row: about 0.5 for each exponential."""
    return 50 + (0.8 if soft else 0.2) * spec.kd * spec.kh * spec.iw + (0.5 * spec.kw + 1) * spec.ow


def _pitch(spec):
    vector = lanes(spec.dtype)
    return -(-max(spec.iw, spec.ow) // vector) * vector


class _Weighted(Impl):
    soft = 1

    @classmethod
    def cost(cls, spec):
        return spec.planes * spec.od * spec.oh * _row_work(spec, cls.soft)


class _Forward(_Weighted):
    @classmethod
    def emit(cls, spec, buffers):
        rows = spec.planes * spec.od * spec.oh
        part = rows_per_tile(rows, _row_work(spec, cls.soft))
        values = {**buffers, **geometry(spec), "pitch": _pitch(spec), "rows": rows, "part": part}
        body = make_weighted_forward(spec.dtype, cls.soft, spec.sw if spec.sw < 3 else 0)
        return [Row(body, -(-rows // part), values, cls.cost(spec), scratch=4 * _pitch(spec))]


class _Backward(_Weighted):
    @classmethod
    def cost(cls, spec):
        return 2 * super().cost(spec)

    @classmethod
    def emit(cls, spec, buffers):
        part = rows_per_tile(spec.planes, cls.cost(spec) / max(spec.planes, 1))
        values = {**buffers, **geometry(spec), "pitch": _pitch(spec), "planes": spec.planes, "part": part}
        body = make_weighted_backward(spec.dtype, cls.soft, spec.sw if spec.sw < 3 else 0)
        return [Row(body, -(-spec.planes // part), values, cls.cost(spec), scratch=4 * _pitch(spec))]


@implements("soft_pool.fwd", rank=90)
class SoftForward(_Forward):
    """Any window."""

    name = "soft_pool_fwd_separable"


@implements("soft_pool.bwd", rank=90)
class SoftBackward(_Backward):
    """Any window."""

    name = "soft_pool_bwd_separable"


@implements("stochastic_pool_mean.fwd", rank=90)
class StochasticMean(_Forward):
    """Any window; the expected value of stochastic pooling."""

    name, soft = "stochastic_pool_mean_fwd_separable", 0


@implements("stochastic_pool_mean.bwd", rank=90)
class StochasticMeanBackward(_Backward):
    """Any window."""

    name, soft = "stochastic_pool_mean_bwd_separable", 0
