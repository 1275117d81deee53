"""The transforms of Winograd convolution in plain Python; the compiled forms are in `simd_winograd.py` and
`simd_winograd_backward.py` (see `simd_python.py`)."""

import numpy as np

from . import simd_python as base

# of F(M, 3), each with both signs; besides infinity, and 0 where M is even
WINOGRAD_POINTS = {1: (), 2: (1.0,), 3: (0.5, 1.5), 4: (0.75, 1.5)}


def winograd_alpha(size):
    """A, the values that M outputs under three weights are made of; a size of 1 stands for no transform at all."""
    return size + 2 if size > 1 else 1


def winograd_matrices(size):
    """B^T (A, A), G (A, 3) and A^T (M, A) of F(M, 3), A = M + 2, in float64; of a size of 1 the number 1 each."""
    if size == 1:
        return (np.ones((1, 1)),) * 3
    points = [0.0] * (size % 2 == 0) + [sign * p for p in WINOGRAD_POINTS[size] for sign in (1, -1)]
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


def winograd_apart(x, xi, low, high, step, r, ri, pitch, size):
    rows, alpha = winograd_matrices(size)[0], winograd_alpha(size)
    for lane in range(base.LANES):
        places = [i * step + lane for i in range(alpha)]
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


def _planes(array, index, plane, height, width):
    shape = winograd_alpha(height), winograd_alpha(width)
    return np.array([base._take(array, index + f * plane) for f in range(shape[0] * shape[1])]).reshape(*shape, -1)


def winograd_columns(r, ri, pitch, v, vi, plane, height, width):
    result = np.einsum("ai,ijl->ajl", winograd_matrices(height)[0], _planes(r, ri, pitch, height, width))
    for f, values in enumerate(result.reshape(-1, base.LANES)):
        base._take(v, vi + f * plane)[:] = values


def _outputs(m, mi, plane, shift, height, width):
    rows, columns = winograd_matrices(height)[2], winograd_matrices(width)[2]
    return np.einsum("ia,jb,abl->ijl", rows, columns, _planes(m, mi, plane, height, width)) + shift


def winograd_out(m, mi, plane, bias, oi, y, yi, row, height, width):
    result = _outputs(m, mi, plane, bias[oi], height, width).transpose(0, 2, 1)
    for i, pixels in enumerate(result.reshape(height, -1)):
        base._take(y, yi + i * row, pixels.size)[:] = pixels


def winograd_out_apart(m, mi, plane, bias, oi, y, yi, row, height, width):
    result = _outputs(m, mi, plane, bias[oi], height, width)
    for n, pixels in enumerate(result.reshape(height * width, -1)):
        base._take(y, yi + n * row)[:] = pixels


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
    result = np.einsum("ar,abl,bs->rsl", weights, _planes(u, ui, plane, size, size), weights)
    base._take(w, wi, 9 * base.LANES)[:] = result.ravel()


def winograd_weights(w, wi, u, ui, plane, height, width):
    rows, columns = winograd_matrices(height)[1], winograd_matrices(width)[1]
    shape = rows.shape[1], columns.shape[1]
    taps = base._take(w, wi, shape[0] * shape[1] * base.LANES).reshape(*shape, base.LANES)
    for f, values in enumerate(np.einsum("ar,rsl,bs->abl", rows, taps, columns).reshape(-1, base.LANES)):
        base._take(u, ui + f * plane)[:] = values
