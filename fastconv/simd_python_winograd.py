"""The transforms of Winograd convolution in plain Python; the compiled forms are in `simd_winograd.py` and
`simd_winograd_backward.py` (see `simd_python.py`)."""

import numpy as np

from . import simd_python as base

WINOGRAD_POINTS = {2: (1.0,), 4: (0.75, 1.5)}  # of F(M x M, 3 x 3), each with both signs; besides 0 and infinity


def winograd_matrices(size):
    """B^T (A, A), G (A, 3) and A^T (M, A) of F(M, 3), A = M + 2, in float64."""
    points = [0.0, *(sign * p for p in WINOGRAD_POINTS[size] for sign in (1, -1))]
    rows, weights = [], []
    for p in points:
        others = [q for q in points if q != p]
        rows.append([*np.poly(others)[::-1], 0.0])
        weights.append([p**k / np.prod([p - q for q in others]) for k in range(3)])
    rows.append(np.poly(points)[::-1])
    output = [[p**i for p in points] + [float(i == size - 1)] for i in range(size)]
    return np.array(rows), np.array([*weights, [0.0, 0.0, 1.0]]), np.array(output)


def winograd_row(x, xi, low, high, r, ri, pitch, size):
    rows = winograd_matrices(size)[0]
    for lane in range(base.LANES):
        places = range(size * lane, size * lane + size + 2)
        line = rows @ np.array([x[xi + i] if low <= i < high else 0 for i in places], x.dtype)
        for j, value in enumerate(line):
            base._take(r, ri + j * pitch)[lane] = value


def winograd_pieces(x, xi, table, ti, step, depth, row, column, xd, xh, xw, r, ri, pitch, size, count):
    rows, tiles = winograd_matrices(size)[0], base.LANES // count
    for n in range(count):
        source, h, pixels, d = (int(value) for value in table[ti + n * step : ti + n * step + 4])
        for i in range(size + 2):
            inside = 0 <= d + depth < xd and 0 <= h + row + i < xh
            for tile in range(tiles):
                places = [tile * size + j for j in range(size + 2)]
                bits = [inside and pixels >> column + j & 1 for j in places]
                line = [x[xi + source + i * xw + j] if bit else 0 for j, bit in zip(places, bits, strict=True)]
                for j, value in enumerate(rows @ np.array(line, x.dtype)):
                    base._take(r, ri + ((size + 2) * i + j) * pitch)[n * tiles + tile] = value


def _planes(array, index, plane, size):
    return np.array([base._take(array, index + f * plane) for f in range((size + 2) ** 2)]).reshape(
        size + 2, size + 2, -1
    )


def winograd_columns(r, ri, pitch, v, vi, plane, size):
    result = np.einsum("ai,ijl->ajl", winograd_matrices(size)[0], _planes(r, ri, pitch, size))
    for f, values in enumerate(result.reshape(-1, base.LANES)):
        base._take(v, vi + f * plane)[:] = values


def winograd_out(m, mi, plane, bias, oi, y, yi, row, size):
    output = winograd_matrices(size)[2]
    result = np.einsum("ia,jb,abl->ilj", output, output, _planes(m, mi, plane, size)) + bias[oi]
    for i, pixels in enumerate(result.reshape(size, -1)):
        base._take(y, yi + i * row, pixels.size)[:] = pixels


def winograd_gradient_row(gy, gi, high, r, ri, pitch, size):
    rows = winograd_matrices(size)[2].T
    for lane in range(base.LANES):
        places = range(size * lane, size * lane + size)
        for j, value in enumerate(rows @ np.array([gy[gi + i] if i < high else 0 for i in places], gy.dtype)):
            base._take(r, ri + j * pitch)[lane] = value


def winograd_gradient_pieces(gy, gi, table, ti, step, yd, yh, yw, r, ri, pitch, size, count):
    rows, tiles = winograd_matrices(size)[2].T, base.LANES // count
    for n in range(count):
        source, h, pixels, d = (int(value) for value in table[ti + n * step : ti + n * step + 4])
        for i in range(size):
            inside = 0 <= d < yd and 0 <= h + i < yh
            for tile in range(tiles):
                places = range(tile * size, tile * size + size)
                line = [gy[gi + source + i * yw + j] if inside and pixels >> j & 1 else 0 for j in places]
                for j, value in enumerate(rows @ np.array(line, gy.dtype)):
                    base._take(r, ri + ((size + 2) * i + j) * pitch)[n * tiles + tile] = value


def winograd_gradient_columns(r, ri, pitch, v, vi, plane, size):
    rows = np.array([base._take(r, ri + f * pitch) for f in range(size * (size + 2))]).reshape(size, size + 2, -1)
    result = np.einsum("ia,ijl->ajl", winograd_matrices(size)[2], rows)
    for f, values in enumerate(result.reshape(-1, base.LANES)):
        base._take(v, vi + f * plane)[:] = values


def dot_products(a, ai, a_m, b, bi, b_n, count, c, ci, mr, nr):
    for m in range(mr):
        for n in range(nr):
            c[ci + m * nr + n] += base._take(a, ai + m * a_m, count) @ base._take(b, bi + n * b_n, count)


def winograd_weight_gradient(u, ui, plane, w, wi, size):
    weights = winograd_matrices(size)[1]
    result = np.einsum("ar,abl,bs->rsl", weights, _planes(u, ui, plane, size), weights)
    base._take(w, wi, 9 * base.LANES)[:] = result.ravel()


def winograd_weights(w, wi, u, ui, plane, size):
    weights = winograd_matrices(size)[1]
    taps = base._take(w, wi, 9 * base.LANES).reshape(3, 3, base.LANES)
    for f, values in enumerate(np.einsum("ar,rsl,bs->abl", weights, taps, weights).reshape(-1, base.LANES)):
        base._take(u, ui + f * plane)[:] = values
