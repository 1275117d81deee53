"""Flat runs of pixels with masks and gaps, of `simd_vector.py`, in plain Python (see `simd_python.py`)."""

from itertools import product

import numpy as np

from . import simd_python as base


def _masked(x, xi, bits):
    return np.array([x[xi + lane] if bits >> lane & 1 else 0 for lane in range(base.LANES)], x.dtype)


def masked_fma_loop(acc, a, ai, a_m, a_c, b, bi, b_c, channels, steps, masks, mi, taps, mr, nr):
    acc = list(acc)
    for t, c, n in product(range(taps), range(channels), range(nr)):
        row = _masked(b, bi + c * b_c + steps[3 * t + 1] + n * base.LANES, masks[mi + steps[3 * t + 2] + n])
        for m in range(mr):
            acc[m * nr + n] = acc[m * nr + n] + a[ai + m * a_m + c * a_c + steps[3 * t]] * row
    return acc


def masked_dot_loop(acc, g, gi, g_m, x, xi, x_c, steps, si, masks, mi, inside, count, mr, channels, taps):
    acc = list(acc)
    for v in range(count):
        for i, (m, c, t) in enumerate(product(range(mr), range(channels), range(taps))):
            gradient = _masked(g, gi + m * g_m + v * base.LANES, masks[mi + inside + v])
            place, bits = xi + c * x_c + steps[si + 2 * t] + v * base.LANES, masks[mi + steps[si + 2 * t + 1] + v]
            acc[i] = acc[i] + gradient * _masked(x, place, bits)
    return acc


def store_sums(acc, y, yi, count):
    for i in range(count):
        y[yi + i] = acc[i].sum(dtype=y.dtype)


def _gaps(c, ci, c_m, keep, places, v, skip, mr, nr):
    """(number of the vector in the tile, its lanes that count, the part of c that they go to)."""
    for m in range(skip, mr):
        for n in range(nr):
            lanes = [lane for lane in range(base.LANES) if keep[v + n] >> lane & 1]
            yield m * nr + n, lanes, base._take(c, ci + m * c_m + places[v + n], len(lanes))


def add_squeezed(acc, c, ci, c_m, keep, places, v, mr, nr):
    tile = [value.copy() for value in acc]
    for i, lanes, old in _gaps(c, ci, c_m, keep, places, v, 0, mr, nr):
        tile[i][lanes] += old
    return tuple(tile)


def store_squeezed(acc, c, ci, c_m, keep, places, v, skip, mr, nr):
    for i, lanes, place in _gaps(c, ci, c_m, keep, places, v, skip, mr, nr):
        place[:] = acc[i][lanes]


def pick_lanes(x, xi, places, pi, span):
    run = base._take(x, xi, span * base.LANES)
    return np.array([run[p] if p >= 0 else 0 for p in base._take(places, pi)], x.dtype)


def pick_pair(first, second, places, pi):
    both = np.concatenate([first, second])
    return np.array([both[p] if p >= 0 else 0 for p in base._take(places, pi)], both.dtype)


def store_interleaved(c, ci, c_m, y, yi, low, high, rows):
    for i in range(base.LANES):
        for m in range(rows):
            if low <= i * rows + m < high:
                base._take(y, yi + i * rows + m, 1)[0] = base._take(c, ci + m * c_m + i, 1)[0]


def window_dots(acc, x, xi, x_row, step, w, wi, w_row, rows, count):
    for r in range(rows):
        weights = base._take(w, wi + r * w_row)
        acc = [value + base._take(x, xi + r * x_row + n * step) * weights for n, value in enumerate(acc)]
    return acc


def window_sums(acc, g, gi, x, xi, x_row, step, count, height):
    for k in range(count):
        acc = [value + g[gi + k] * base._take(x, xi + r * x_row + k * step) for r, value in enumerate(acc)]
    return acc
