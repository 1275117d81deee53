"""The operations of `simd.py` in plain Python: what each one means, and what runs with NUMBA_DISABLE_JIT=1.

A vector is a NumPy array of LANES values, a tile a list of MR * NR of them.  Slow, and meant for reading, debugging and
a smoke test.
"""

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from .simd_formulas import BACKWARD, FORWARD, PlainValue

LANES = 4


def fields(block):
    return SimpleNamespace(**{name: block[name][0].item() for name in block.dtype.names})


def array_at(address, size, kind):
    dtype = np.dtype(kind)
    if size == 0:
        return np.empty(0, dtype)
    memory: Any = (ctypes.c_char * (int(size) * dtype.itemsize)).from_address(int(address))
    return np.frombuffer(memory, dtype)


def _take(x, index, count=LANES):
    if index < 0 or index + count > x.size:
        raise IndexError("a kernel reached beyond its array")
    return x[index : index + count]


def zero_tile(like, mr, nr):
    return [np.zeros(LANES, like.dtype) for _ in range(mr * nr)]


def fma_tile(acc, a, ai, a_m, b, bi, mr, nr):
    return [acc[m * nr + n] + a[ai + m * a_m] * _take(b, bi + n * LANES) for m in range(mr) for n in range(nr)]


def fma_loop(acc, a, ai, a_m, b, bi, steps, first, last, mr, nr):
    for k in range(first, last):
        acc = fma_tile(acc, a, ai + steps[2 * k], a_m, b, bi + steps[2 * k + 1], mr, nr)
    return acc


def fma_run(acc, a, ai, a_m, a_step, b, bi, b_step, p, pi, p_step, count, mr, nr):
    for k in range(count):
        acc = fma_tile(acc, a, ai + k * a_step, a_m, b, bi + k * b_step, mr, nr)
    return acc


def spread_fma_loop(acc, a, ai, rows, ri, b, bi, b_step, steps, first, count, height, width, nr):
    acc = list(acc)
    for k in range(count):
        columns = [_take(b, bi + k * b_step + n * LANES) for n in range(nr)]
        for i in range(height * width):
            value = a[ai + rows[ri + i // width] + steps[first + k] + i % width]
            for n, column in enumerate(columns):
                acc[i * nr + n] = acc[i * nr + n] + value * column
    return tuple(acc)


def prefetch_tile(c, ci, c_m, mr, nr):
    """Nothing to see: a hint to the processor."""


def load_tile(c, ci, c_m, mr, nr):
    return tuple(_take(c, ci + m * c_m + n * LANES).copy() for m in range(mr) for n in range(nr))


def add_bias(acc, bias, oi, mr, nr):
    return tuple(value + bias[oi + i // nr] for i, value in enumerate(acc))


def clamp_tile(acc, low, high, mr, nr):
    return tuple(np.minimum(np.maximum(value, value.dtype.type(low)), value.dtype.type(high)) for value in acc)


def _parts(c, ci, c_m, skip, columns, mr, nr):
    """(number of the vector in the tile, the lanes of c that it covers) of a part of a tile."""
    for m in range(skip, mr):
        for n in range(min(nr, -(-columns // LANES))):
            yield m * nr + n, _take(c, ci + m * c_m + n * LANES, min(LANES, columns - n * LANES))


def add_part(acc, c, ci, c_m, skip, columns, mr, nr):
    tile = [value.copy() for value in acc]
    for i, old in _parts(c, ci, c_m, skip, columns, mr, nr):
        tile[i][: old.size] += old
    return tuple(tile)


def store_tile(acc, c, ci, c_m, mr, nr):
    store_part(acc, c, ci, c_m, 0, nr * LANES, mr, nr)


def store_part(acc, c, ci, c_m, skip, columns, mr, nr):
    for i, place in _parts(c, ci, c_m, skip, columns, mr, nr):
        place[:] = acc[i][: place.size]


def load_window(x, xi, step, low, high, fixed):
    return np.array([x[xi + i * step] if low <= i < high else 0 for i in range(LANES)], x.dtype)


def load_bits(x, xi, bits):
    return np.array([x[xi + i] if bits >> i & 1 else 0 for i in range(LANES)], x.dtype)


def load_vector(x, xi):
    return _take(x, xi).copy()


def store_vector(value, y, yi):
    _take(y, yi)[:] = value


def zero_vector(y, yi):
    _take(y, yi)[:] = 0


def transpose_block(x, xi, x_row, y, yi, y_row):
    block = np.array([_take(x, xi + i * x_row) for i in range(LANES)])
    for j in range(LANES):
        _take(y, yi + j * y_row)[:] = block[:, j]


def call_body(body, block, tile, worker):
    raise RuntimeError("without the JIT the driver calls tile bodies as Python functions")


def fetch_add(counters, index, amount):
    before = counters[index]
    counters[index] += amount
    return before


def current_core():
    return -1


def wait_until(counters, index, value):
    raise RuntimeError("without the JIT there is one thread")


# ---- windows; the compiled forms are in `simd_window.py`


def _larger(a, b):
    return np.where((b > a) | np.isnan(b), b, a)


def pool_rows(x, xi, x_row, top, bottom, left, right, op, kh, kw, sh, sw, r, edge):
    fill = x.dtype.type(0 if op == 0 else -np.inf)
    tile = [np.full(LANES, fill) for _ in range(r)]
    for m in range(r):
        for t in range(m * sh, m * sh + kh):
            for k in range(kw):
                inside = (left, right) if edge else (0, x.size)
                value = _lanes_inside(x, xi + t * x_row, k, sw, *inside, fill, not edge or top <= t < bottom)
                tile[m] = tile[m] + value if op == 0 else _larger(tile[m], value)
    return (*tile, False)


def _lanes_inside(x, xi, k, sw, left, right, fill, row_inside):
    columns = [k + i * sw for i in range(LANES)]
    return np.array([x[xi + c] if row_inside and left <= c < right else fill for c in columns], x.dtype)


def divide_rows(acc, row_counts, ri, column_counts, ci, r):
    return [acc[m] / (row_counts[ri + m] * _take(column_counts, ci)) for m in range(r)]


def store_rows(acc, y, yi, y_row, rows, columns, r, edge):
    for m in range(min(r, rows) if edge else r):
        count = min(LANES, columns) if edge else LANES
        _take(y, yi + m * y_row, count)[:] = acc[m][:count]


def argmax_rows(
    x, xi, x_row, top, bottom, left, right, y, at, yi, y_row, rows, columns, base, op, kh, kw, sh, sw, r, edge
):
    for m in range(min(r, rows)):
        for j in range(min(LANES, columns)):
            best, place = None, -1
            for t in range(m * sh, m * sh + kh):
                for c in range(j * sw, j * sw + kw):
                    if not edge or (top <= t < bottom and left <= c < right):
                        value = x[xi + t * x_row + c]
                        if best is None or value > best or np.isnan(value):
                            best, place = value, base + t * x_row + c
            y[yi + m * y_row + j], at[yi + m * y_row + j] = best, place
    return False


def reduce_run(x, xi, size, op):
    run = _take(x, xi, size)
    return run.sum(dtype=x.dtype) if op == 0 else run.max()


def reduce_lanes(x, xi, size, op):
    run, fill = _take(x, xi, size), x.dtype.type(0 if op == 0 else -np.inf)
    rows = np.concatenate([run, np.full(-size % LANES, fill)]).reshape(-1, LANES)
    return rows.sum(0, dtype=x.dtype) if op == 0 else rows.max(0, initial=fill)


# ---- vector arithmetic; the compiled forms are in `simd_vector.py`


def distance_loop(acc, a, ai, a_m, b, bi, steps, first, last, sign, mr, nr):
    acc = list(acc)
    for k in range(first, last):
        for i in range(mr * nr):
            left, right = a[ai + i // nr * a_m + steps[2 * k]], _take(b, bi + steps[2 * k + 1] + i % nr * LANES)
            acc[i] = acc[i] + a.dtype.type(sign) * np.abs(left - right)
    return acc


def clipped_loop(acc, x, xi, x_m, a, ai, a_m, b, bi, steps, first, last, minus, mr, nr):
    acc = list(acc)
    for k in range(first, last):
        for i in range(mr * nr):
            m, n = divmod(i, nr)
            difference = a[ai + m * a_m + steps[2 * k]] - _take(x, xi + m * x_m + n * LANES)
            acc[i] = acc[i] + np.clip(difference, -1, 1) * _take(b, bi + steps[2 * k + 1] + n * LANES)
    return acc


def splat_vector(like, value):
    return np.full(LANES, value, like.dtype)


def fma_vector(x, y, z):
    return x * y + z


def add_vector(x, y):
    return x + y


def sub_vector(x, y):
    return x - y


def mul_vector(x, y):
    return x * y


def keep_lanes(x, count):
    return np.where(np.arange(LANES) < count, x, x.dtype.type(0))


def relu_vector(x):
    return np.where(x < 0, x.dtype.type(0), x)


def step_vector(x):
    return (x > 0).astype(x.dtype)


def exp_vector(x):
    return np.exp(x)


def sum_vector(x):
    return x.sum(dtype=x.dtype)


def store_window(value, y, yi, count):
    count = max(0, min(LANES, count))
    _take(y, yi, count)[:] = value[:count]


def spread_windows(gy, gi, count, row_count, column_counts, ci, gx, xi, x_row, rows, columns, kh, kw):
    for r in range(min(kh, rows)):
        for c in range(min(LANES * kw, columns)):
            j = c // kw
            gx[xi + r * x_row + c] = gy[gi + j] / (row_count * column_counts[ci + j]) if j < count else 0


def scatter_windows(gy, at, gi, count, base, gx, xi, x_row, rows, columns, kh, kw):
    for r in range(min(kh, rows)):
        for c in range(min(LANES * kw, columns)):
            j, position = c // kw, base + r * x_row + c
            gx[xi + r * x_row + c] = gy[gi + j] if j < count and at[gi + j] == position else 0


def gather_places(x, xi, places, pi):
    return np.array([x[xi + p] if p >= 0 else 0 for p in _take(places, pi)], x.dtype)


# ---- rows under the taps of one kernel; the compiled forms are in `simd_depthwise.py`


def numbers_at(address, names):
    words = names.split()
    return SimpleNamespace(**dict(zip(words, array_at(address, len(words), "i8").tolist(), strict=True)))


def _line(x, xi, column, step, left, right, edge):
    """x[xi + i*step] for each lane; with edge 0 where column + i*step is outside [left, right)."""
    inside = [not edge or left <= column + i * step < right for i in range(LANES)]
    return np.array([x[xi + i * step] if within else 0 for i, within in enumerate(inside)], x.dtype)


def slide_rows(
    acc, x, xi, x_row, valid, vi, left, right, step, w, wi, w_row, w_col, table, first1, last1, first2, last2, k1, g1,
    k2, g2, sh, sw, r, edge, flat,
):  # fmt: skip
    acc, step = list(acc), sw or step
    entries = [(e, k1, g1) for e in range(first1, last1)] + [(e, k2, g2) for e in range(first2, last2)]
    for entry, k, g in entries:
        offset, column, group, weight = table[4 * entry : 4 * entry + 4]
        for t in range((r - 1) * sh + k):
            if edge and not valid[vi + group] >> t & 1:
                continue
            for c in range(g):
                place = column + c + (t * x_row if flat else 0)
                value = _line(x, xi + offset + t * x_row + c, place, step, left, right, edge)
                for m in range(r):
                    if 0 <= t - m * sh < k:
                        acc[m] = acc[m] + w[wi + weight + (t - m * sh) * w_row + c * w_col] * value
    return acc


def prefetch_rows(x, xi, x_row, count, write):
    """Nothing to see: a hint to the processor."""


def _stored(keep, columns, r, edge, flat):
    """(row, its lanes) of what is stored."""
    for m in range(r):
        count = columns - (m * LANES if flat else 0)
        if not edge or (keep >> m & 1 and count > 0):
            yield m, min(count, LANES) if edge else LANES


def start_rows(y, yi, y_row, keep, columns, bias, accumulate, r, flat):
    tile = [np.full(LANES, bias, y.dtype) for _ in range(r)]
    for m, count in _stored(keep, columns, r, True, flat) if accumulate else ():
        tile[m][:count] += _take(y, yi + m * y_row, count)
    return tile


def finish_rows(acc, y, yi, y_row, keep, columns, r, edge, flat):
    for m, count in _stored(keep, columns, r, edge, flat):
        _take(y, yi + m * y_row, count)[:] = acc[m][:count]


def load_rows(y, yi, y_row, keep, columns, r, edge, flat):
    tile = [np.zeros(LANES, y.dtype) for _ in range(r)]
    for m, count in _stored(keep, columns, r, edge, flat):
        tile[m][:count] = _take(y, yi + m * y_row, count)
    return tile


def collect_rows(
    gy, x, xi, x_row, valid, vi, left, right, step, columns, s, si, w_row, w_col, table, first1, last1, first2, last2,
    k1, g1, k2, g2, sh, sw, r, edge, flat,
):  # fmt: skip
    step = sw or step
    entries = [(e, k1, g1) for e in range(first1, last1)] + [(e, k2, g2) for e in range(first2, last2)]
    for entry, k, g in entries:
        offset, column, group, weight = table[4 * entry : 4 * entry + 4]
        for t in range((r - 1) * sh + k):
            if edge and not valid[vi + group] >> t & 1:
                continue
            for c in range(g):
                place = column + c + (t * x_row if flat else 0)
                value = _line(x, xi + offset + t * x_row + c, place, step, left, right, edge)
                for m in range(r):
                    if 0 <= t - m * sh < k:
                        count = max(0, min(LANES, columns - (m * LANES if flat else 0))) if edge else LANES
                        at = si + (weight + (t - m * sh) * w_row + c * w_col) * LANES
                        _take(s, at, count)[:] += gy[m][:count] * value[:count]


def spread_rows(
    acc, x, xi, x_row, valid, vi, left, right, w, wi, w_row, table, first1, last1, first2, last2, first3, last3, first4,
    last4, k1, k2, sw, part, r, edge,
):  # fmt: skip
    acc = list(acc)
    kinds = ((first1, last1, k1, sw), (first2, last2, k1, part), (first3, last3, k2, sw), (first4, last4, k2, part))
    for entry, k, g in [(e, k, g) for first, last, k, g in kinds for e in range(first, last)]:
        offset, column, group, weight = table[4 * entry : 4 * entry + 4]
        for t in range(r - 1 + k):
            if not edge or valid[vi + group] >> t & 1:
                value = _line(x, xi + offset + t * x_row, column, 1, left, right, edge)
                for c in range(g):
                    for m in range(max(0, t - k + 1), min(r, t + 1)):
                        acc[c * r + m] = acc[c * r + m] + w[wi + weight + (t - m) * w_row + c] * value
    return acc


def weave_rows(acc, y, yi, y_row, keep, first, columns, accumulate, low, high, sw, r, edge):
    for m in (m for m in range(r) if not edge or keep >> m & 1):
        for c in range(max(first, 0), min(columns, sw * LANES)) if edge else range(sw * LANES):
            value, at = acc[c % sw * r + m][c // sw], yi + m * y_row + c
            y[at] = np.minimum(np.maximum(value + y[at] if accumulate else value, low), high)


def sum_lanes(s, si, y, yi, count):
    for j in range(min(count, LANES)):
        y[yi + j] = _take(s, si + j * LANES).sum(dtype=s.dtype)


# ---- functions and activations; the compiled forms are in `simd_math.py`


def expm1_vector(x):
    return PlainValue(x).expm1().array


def log_vector(x):
    return PlainValue(x).log().array


def tanh_vector(x):
    return PlainValue(x).tanh().array


def erf_vector(x):
    return PlainValue(x).erf().array


def erfc_vector(x):
    return PlainValue(x).erfc_positive().array


def max_vector(x, y):
    return np.maximum(x, y)


def div_vector(x, y):
    return x / y


def activation_vector(x, alpha, beta, name):
    return FORWARD[name](*map(PlainValue, (x, alpha, beta))).array


def activation_gradient_vector(g, v, alpha, beta, name):
    return BACKWARD[name](*map(PlainValue, (g, v, alpha, beta))).array


# ---- gradients of overlapping windows; the compiled forms are in `simd_collect.py`


def _slide(gx, xi, x_row, top, bottom, columns, oh, ow, first, sizes, total):
    """gx[xi + t*x_row + c] = total(t, c, windows (i, j) that hold it)."""
    kh, kw, sh, sw, pw = sizes
    for t in range(top, bottom):
        rows = [i for i in range(oh) if i * sh <= t < i * sh + kh]
        for c in range(min(LANES * sw, columns)):
            over = [j for j in range(ow) if 0 <= c + pw - (j - first) * sw < kw]
            gx[xi + t * x_row + c] = total(t, c, [(i, j) for i in rows for j in over])


def slide_maxima(
    gy, at, gi, plane_step, planes, oh, ow, first, base, gx, xi, x_row, top, bottom, columns, kh, kw, sh, sw, pw
):
    def total(t, c, windows):
        places = [gi + z * plane_step + i * ow + j for z in range(planes) for i, j in windows]
        return sum((gy[p] for p in places if at[p] == base + t * x_row + c), gx.dtype.type(0))

    _slide(gx, xi, x_row, top, bottom, columns, oh, ow, first, (kh, kw, sh, sw, pw), total)


def slide_means(
    gy, shares, along, gi, si, planes, oh, ow, first, gx, xi, x_row, top, bottom, columns, kh, kw, sh, sw, pw
):
    def total(_t, _c, windows):
        rows = [(z * oh + i, j) for z in range(planes) for i, j in windows]
        return sum((gy[gi + r * ow + j] * shares[si + r] * along[j] for r, j in rows), gx.dtype.type(0))

    _slide(gx, xi, x_row, top, bottom, columns, oh, ow, first, (kh, kw, sh, sw, pw), total)
