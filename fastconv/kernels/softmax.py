"""Softmax and its logarithm along one axis, and their gradients.

An array is (outer, length, inner), the softmax along `length`; x' = x - max, s = sum e^x':

    y = e^x' / s,         gx = y (g - sum(g y))              (softmax)
    y = x' - log s,       gx = g - e^y sum(g)                (its logarithm)

With inner = 1 a vector runs along the axis, else along `inner`.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import div_vector, exp_vector, log_vector, max_vector
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector
from ..simd_window import MAX_NAN, reduce_run
from .sums import make_sums

TERMS = 32  # of a sum that are added in a row before they join the total
COLUMNS = 256  # of a tile

SoftmaxBlock = Block("SoftmaxBlock", "x y scratch", "rows length inner part")
SoftmaxGradientBlock = Block("SoftmaxGradientBlock", "g y gx scratch", "rows length inner part")


@lru_cache
def make_softmax_runs(dtype, LOG):
    """inner = 1."""
    KIND, LANES = dtype.str[1:], lanes(dtype)
    sum_run, _ = make_sums(dtype)

    @helper
    def shift_run(x, y, i, n, shift):
        """y = e^(x - shift)."""
        shift = splat_vector(x, shift)
        for j in range(i, i + n, LANES):
            store_window(exp_vector(sub_vector(load_window(x, j, 1, 0, i + n - j, 1), shift)), y, j, i + n - j)

    @helper
    def finish_run(x, y, i, n, shift, total):
        """y / total, or the logarithm."""
        shift, factor = splat_vector(x, shift), splat_vector(x, x.dtype.type(1 / total))
        log_total = log_vector(splat_vector(x, x.dtype.type(total)))
        for j in range(i, i + n, LANES):
            left = i + n - j
            if LOG:
                value = sub_vector(sub_vector(load_window(x, j, 1, 0, left, 1), shift), log_total)
            else:
                value = mul_vector(load_window(y, j, 1, 0, left, 1), factor)
            store_window(value, y, j, left)

    @tile_body(SoftmaxBlock, dtype)
    def softmax_runs(block, tile, worker):
        """Tile: `part` rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for row in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            i = row * a.length
            shift = reduce_run(x, i, a.length, MAX_NAN)
            shift_run(x, y, i, a.length, shift)
            finish_run(x, y, i, a.length, shift, sum_run(y, i, a.length))

    return softmax_runs


@lru_cache
def make_softmax_columns(dtype, LOG):
    """inner > 1."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    add_terms = make_add_terms(dtype)

    @helper
    def exponentials(x, y, i, inner, n, most, total, part, k):
        """y = e^(x - most) of row k, added to the sums."""
        for v in range(0, n, LANES):
            j = i + k * inner + v
            value = exp_vector(sub_vector(load_window(x, j, 1, 0, n - v, 1), load_vector(most, v)))
            store_window(value, y, j, n - v)
            store_vector(add_vector(load_vector(part, v), value), part, v)
        add_terms(total, part, n, k)

    @helper
    def finish(x, y, i, length, inner, n, most, total):
        """The results from the maxima and the sums (LOG: their logarithms)."""
        for k in range(length):
            for v in range(0, n, LANES):
                j, scale = i + k * inner + v, load_vector(total, v)
                if LOG:
                    value = sub_vector(sub_vector(load_window(x, j, 1, 0, n - v, 1), load_vector(most, v)), scale)
                else:
                    value = mul_vector(load_window(y, j, 1, 0, n - v, 1), scale)
                store_window(value, y, j, n - v)

    @tile_body(SoftmaxBlock, dtype)
    def softmax_columns(block, tile, worker):
        """Tile: COLUMNS columns."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * x.itemsize, a.scratch_size, KIND)
        most, total, part = s[:COLUMNS], s[COLUMNS : 2 * COLUMNS], s[2 * COLUMNS :]
        column = tile % a.part * COLUMNS
        i, n = tile // a.part * a.length * a.inner + column, min(COLUMNS, a.inner - column)
        most[:], total[:], part[:] = -np.inf, 0, 0
        for k in range(a.length):
            for v in range(0, n, LANES):
                value = load_window(x, i + k * a.inner + v, 1, 0, n - v, 1)
                store_vector(max_vector(load_vector(most, v), value), most, v)
        for k in range(a.length):
            exponentials(x, y, i, a.inner, n, most, total, part, k)
        add_terms(total, part, n, -1)
        for v in range(0, n, LANES):
            value = load_vector(total, v)
            store_vector(log_vector(value) if LOG else div_vector(splat_vector(x, FLOAT(1)), value), total, v)
        finish(x, y, i, a.length, a.inner, n, most, total)

    return softmax_columns


@lru_cache
def make_add_terms(dtype):
    """Sums along k in two levels: a few terms at a time."""
    LANES, FLOAT = lanes(dtype), dtype.type

    @helper
    def add_terms(total, part, n, k):
        """After every TERMS terms (k = -1: after the last), total += part, part = 0."""
        if k % TERMS == TERMS - 1:
            for v in range(0, n, LANES):
                store_vector(add_vector(load_vector(total, v), load_vector(part, v)), total, v)
                store_vector(splat_vector(part, FLOAT(0)), part, v)

    return add_terms


@lru_cache
def make_gradient_runs(dtype, LOG):
    """inner = 1."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    sum_run, dot_run = make_sums(dtype)

    @tile_body(SoftmaxGradientBlock, dtype)
    def softmax_bwd_runs(block, tile, worker):
        """Tile: `part` rows."""
        a = fields(block)
        g, y = array_at(a.g, a.g_size, KIND), array_at(a.y, a.y_size, KIND)
        gx = array_at(a.gx, a.gx_size, KIND)
        for row in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            i, end = row * a.length, (row + 1) * a.length
            total = sum_run(g, i, a.length) if LOG else dot_run(g, i, y, i, a.length)
            total = splat_vector(g, FLOAT(total))
            for j in range(i, end, LANES):
                slope, value = load_window(g, j, 1, 0, end - j, 1), load_window(y, j, 1, 0, end - j, 1)
                if LOG:
                    slope = sub_vector(slope, mul_vector(exp_vector(value), total))
                else:
                    slope = mul_vector(value, sub_vector(slope, total))
                store_window(slope, gx, j, end - j)

    return softmax_bwd_runs


@lru_cache
def make_gradient_columns(dtype, LOG):
    """inner > 1."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    add_terms = make_add_terms(dtype)

    @helper
    def sums(g, y, i, inner, n, total, part, k):
        """g, or g y, of row k added to the sums."""
        for v in range(0, n, LANES):
            j = i + k * inner + v
            slope, acc = load_window(g, j, 1, 0, n - v, 1), load_vector(part, v)
            acc = add_vector(acc, slope) if LOG else fma_vector(slope, load_window(y, j, 1, 0, n - v, 1), acc)
            store_vector(acc, part, v)
        add_terms(total, part, n, k)

    @tile_body(SoftmaxGradientBlock, dtype)
    def softmax_bwd_columns(block, tile, worker):
        """Tile: COLUMNS columns."""
        a = fields(block)
        g, y = array_at(a.g, a.g_size, KIND), array_at(a.y, a.y_size, KIND)
        gx = array_at(a.gx, a.gx_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * g.itemsize, a.scratch_size, KIND)
        total, part = s[:COLUMNS], s[COLUMNS : 2 * COLUMNS]
        column = tile % a.part * COLUMNS
        i, n = tile // a.part * a.length * a.inner + column, min(COLUMNS, a.inner - column)
        total[:], part[:] = FLOAT(0), FLOAT(0)
        for k in range(a.length):
            sums(g, y, i, a.inner, n, total, part, k)
        add_terms(total, part, n, -1)
        for k in range(a.length):
            for v in range(0, n, LANES):
                j, scale = i + k * a.inner + v, load_vector(total, v)
                slope, value = load_window(g, j, 1, 0, n - v, 1), load_window(y, j, 1, 0, n - v, 1)
                if LOG:
                    slope = sub_vector(slope, mul_vector(exp_vector(value), scale))
                else:
                    slope = mul_vector(value, sub_vector(slope, scale))
                store_window(slope, gx, j, n - v)

    return softmax_bwd_columns


def _row(runs, columns, arrays, axis, log, cost):
    """The row for arrays of one shape; `cost`: nanoseconds for a value."""
    first = next(iter(arrays.values()))
    length = first.shape[axis]
    outer, inner = (int(np.prod(sizes)) for sizes in (first.shape[:axis], first.shape[axis + 1 :]))
    values = {**arrays, "rows": outer, "length": length, "inner": inner}
    if inner == 1:
        part = max(1, 8192 // max(1, length))
        tiles = -(-outer // part) if length else 0
        return Row(runs(first.dtype, log), tiles, values | {"part": part}, first.size * cost)
    part = -(-inner // COLUMNS)
    tiles = outer * part if length else 0
    return Row(columns(first.dtype, log), tiles, values | {"part": part}, first.size * cost, scratch=3 * COLUMNS)


def softmax_row(x, y, axis, log):
    """The row that writes the softmax of x along an axis, or its logarithm, into y; dense arrays."""
    return _row(make_softmax_runs, make_softmax_columns, {"x": x, "y": y}, axis, bool(log), 1.0)


def gradient_row(g, y, gx, axis, log):
    """The row that writes the input's gradient into gx from g, the output's, and the output y; dense arrays."""
    return _row(make_gradient_runs, make_gradient_columns, {"g": g, "y": y, "gx": gx}, axis, bool(log), 0.6)
