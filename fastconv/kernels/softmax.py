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
from ..simd import array_at, fields, lanes, load_window
from ..simd_math import div_vector, exp_vector, log_vector, max_vector
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector
from ..simd_window import MAX_NAN, reduce_run
from .sums import make_sums

TERMS = 32  # of a sum that are added in a row before they join the total

SoftmaxBlock = Block("SoftmaxBlock", "x y", "rows length inner part")
SoftmaxGradientBlock = Block("SoftmaxGradientBlock", "g y gx", "rows length inner part")


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

    @helper
    def total_columns(x, y, i, length, inner, count, shift):
        """y = e^(x - shift) and its sum."""
        total, part = splat_vector(x, FLOAT(0)), splat_vector(x, FLOAT(0))
        for k in range(length):
            value = exp_vector(sub_vector(load_window(x, i + k * inner, 1, 0, count, 1), shift))
            store_window(value, y, i + k * inner, count)
            part = add_vector(part, value)
            if k % TERMS == TERMS - 1:
                total, part = add_vector(total, part), splat_vector(x, FLOAT(0))
        return add_vector(total, part)

    @helper
    def softmax_column(x, y, i, length, inner, count):
        """One vector of columns."""
        shift = splat_vector(x, FLOAT(-np.inf))
        for k in range(length):
            shift = max_vector(shift, load_window(x, i + k * inner, 1, 0, count, 1))
        total = total_columns(x, y, i, length, inner, count, shift)
        for k in range(length):
            j = i + k * inner
            if LOG:
                value = sub_vector(sub_vector(load_window(x, j, 1, 0, count, 1), shift), log_vector(total))
            else:
                value = div_vector(load_window(y, j, 1, 0, count, 1), total)
            store_window(value, y, j, count)

    @tile_body(SoftmaxBlock, dtype)
    def softmax_columns(block, tile, worker):
        """Tile: `part` vectors of columns."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        width = -(-a.inner // LANES)
        for v in range(tile * a.part, min((tile + 1) * a.part, a.rows * width)):
            column = v % width * LANES
            softmax_column(x, y, v // width * a.length * a.inner + column, a.length, a.inner, a.inner - column)

    return softmax_columns


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

    @helper
    def total_columns(g, y, i, length, inner, count):
        """The sum of g, or of g y, along the axis."""
        total, part = splat_vector(g, FLOAT(0)), splat_vector(g, FLOAT(0))
        for k in range(length):
            slope = load_window(g, i + k * inner, 1, 0, count, 1)
            if LOG:
                part = add_vector(part, slope)
            else:
                part = fma_vector(slope, load_window(y, i + k * inner, 1, 0, count, 1), part)
            if k % TERMS == TERMS - 1:
                total, part = add_vector(total, part), splat_vector(g, FLOAT(0))
        return add_vector(total, part)

    @tile_body(SoftmaxGradientBlock, dtype)
    def softmax_bwd_columns(block, tile, worker):
        """Tile: `part` vectors of columns."""
        a = fields(block)
        g, y = array_at(a.g, a.g_size, KIND), array_at(a.y, a.y_size, KIND)
        gx = array_at(a.gx, a.gx_size, KIND)
        width = -(-a.inner // LANES)
        for v in range(tile * a.part, min((tile + 1) * a.part, a.rows * width)):
            column = v % width * LANES
            i, count = v // width * a.length * a.inner + column, a.inner - column
            total = total_columns(g, y, i, a.length, a.inner, count)
            for j in range(i, i + a.length * a.inner, a.inner):
                slope, value = load_window(g, j, 1, 0, count, 1), load_window(y, j, 1, 0, count, 1)
                if LOG:
                    slope = sub_vector(slope, mul_vector(exp_vector(value), total))
                else:
                    slope = mul_vector(value, sub_vector(slope, total))
                store_window(slope, gx, j, count)

    return softmax_bwd_columns


def _row(runs, columns, arrays, axis, log, cost):
    """The row for arrays of one shape; `cost`: nanoseconds for a value."""
    first = next(iter(arrays.values()))
    length = first.shape[axis]
    outer, inner = (int(np.prod(sizes)) for sizes in (first.shape[:axis], first.shape[axis + 1 :]))
    width = -(-inner // lanes(first.dtype))
    part = max(1, 8192 // max(1, length * min(inner, lanes(first.dtype))))
    body = runs(first.dtype, log) if inner == 1 else columns(first.dtype, log)
    values = {**arrays, "rows": outer, "length": length, "inner": inner, "part": part}
    return Row(body, -(-outer * width // part) if length else 0, values, first.size * cost)


def softmax_row(x, y, axis, log):
    """The row that writes the softmax of x along an axis, or its logarithm, into y; dense arrays."""
    return _row(make_softmax_runs, make_softmax_columns, {"x": x, "y": y}, axis, bool(log), 1.0)


def gradient_row(g, y, gx, axis, log):
    """The row that writes the input's gradient into gx from g, the output's, and the output y; dense arrays."""
    return _row(make_gradient_runs, make_gradient_columns, {"g": g, "y": y, "gx": gx}, axis, bool(log), 0.6)
