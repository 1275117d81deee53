"""The transforms of Winograd convolution in plain Python; the compiled forms are in `simd_winograd.py` and
`simd_winograd_backward.py` (see `simd_python.py`)."""

import numpy as np

from . import simd_python as base

# of F(M, R), written MR; each with both signs; besides infinity, and 0 where they would be an odd number without it
WINOGRAD_POINTS = {
    22: (1.0,),
    23: (1.0,),
    32: (1.0,),
    33: (0.5, 1.5),
    34: (0.75, 1.5),
    42: (0.5, 1.5),
    43: (0.75, 1.5),
    44: (0.375, 0.8125, 1.625),
    45: (0.5, 1.0, 2.0),
}


def winograd_stride(form):
    """S of the form MRS: M outputs, S pixels apart, under R weights; 1 of a form MR."""
    return form % 10 if form >= 100 else 1


def winograd_phases(form):
    """The forms of stride 1 that a form is made of: one for every S-th pixel and weight, from each of S starts."""
    stride = winograd_stride(form)
    outputs, taps = divmod(form // 10 if form >= 100 else form, 10)
    return [10 * outputs + (taps - phase + stride - 1) // stride for phase in range(stride)]


def winograd_sizes(form):
    """(A, M, R): the A = (M - 1) S + R values that M outputs under R weights are made of."""
    outputs = winograd_phases(form)[0] // 10
    taps = sum(phase % 10 for phase in winograd_phases(form))
    return (outputs - 1) * winograd_stride(form) + taps, outputs, taps


def winograd_lines(form):
    """Of the A transformed weights those that differ: a single weight is every one of its phase's."""
    return sum(1 if phase % 10 == 1 else winograd_sizes(phase)[0] for phase in winograd_phases(form))


def winograd_has_zero(form):
    return winograd_sizes(form)[0] % 2 == 0


def winograd_matrices(form):
    """B^T (A, A), G (A, R) and A^T (M, A) of F(M, R) in float64; the values are those of each phase in turn."""
    stride, (values, outputs, taps) = winograd_stride(form), winograd_sizes(form)
    if stride > 1:
        whole, start = (np.zeros((values, values)), np.zeros((values, taps)), np.zeros((outputs, values))), 0
        for phase, parts in enumerate(map(winograd_matrices, winograd_phases(form))):
            rows = slice(start, start + len(parts[0]))
            whole[0][rows, phase::stride], whole[1][rows, phase::stride], whole[2][:, rows] = parts
            start = rows.stop
        return whole
    if taps == 1:
        return np.eye(outputs), np.ones((outputs, 1)), np.eye(outputs)
    points = [0.0] * winograd_has_zero(form) + [sign * p for p in WINOGRAD_POINTS[form] for sign in (1, -1)]
    rows, weights = [], []
    for p in points:
        others = [q for q in points if q != p]
        rows.append([*np.poly(others)[::-1], 0.0])
        weights.append([p**k / np.prod([p - q for q in others]) for k in range(taps)])
    rows.append(np.poly(points)[::-1])
    output = [[p**i for p in points] + [float(i == outputs - 1)] for i in range(outputs)]
    return np.array(rows), np.array([*weights, [0.0] * (taps - 1) + [1.0]]), np.array(output)


def winograd_row(x, xi, low, high, r, ri, pitch, form):
    rows, (alpha, size, _) = winograd_matrices(form)[0], winograd_sizes(form)
    for lane in range(base.LANES):
        first = size * winograd_stride(form) * lane
        places = range(first, first + alpha)
        line = rows @ np.array([x[xi + i] if low <= i < high else 0 for i in places], x.dtype)
        for j, value in enumerate(line):
            base._take(r, ri + j * pitch)[lane] = value


def winograd_apart(x, xi, low, high, step, r, ri, pitch, form):
    rows, (alpha, _, _) = winograd_matrices(form)[0], winograd_sizes(form)
    for lane in range(base.LANES):
        places = [i * step + lane for i in range(alpha)]
        line = rows @ np.array([x[xi + i] if low <= i < high else 0 for i in places], x.dtype)
        for j, value in enumerate(line):
            base._take(r, ri + j * pitch)[lane] = value


def winograd_pieces(x, xi, table, ti, step, depth, row, column, xd, xh, xw, r, ri, pitch, form, count):
    rows, tiles, size = winograd_matrices(form)[0], base.LANES // count, winograd_sizes(form)[1]
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
    shape = winograd_sizes(height)[0], winograd_sizes(width)[0]
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
    for i, pixels in enumerate(result.reshape(len(result), -1)):
        base._take(y, yi + i * row, pixels.size)[:] = pixels


def winograd_out_apart(m, mi, plane, bias, oi, y, yi, row, column, height, width):
    for i, line in enumerate(_outputs(m, mi, plane, bias[oi], height, width)):
        for j, pixels in enumerate(line):
            base._take(y, yi + i * row + j * column)[:] = pixels


def winograd_out_pieces(m, mi, plane, bias, oi, y, yi, table, ti, step, size, accumulate, bounds, form, count):
    yd, yh, yw = size
    result = _outputs(m, mi, plane, bias[oi], form, form).transpose(0, 2, 1)  # row, tile, column
    for i, pixels in enumerate(result.reshape(len(result), count, -1)):
        for n, values in enumerate(pixels):
            source, h, bits, d = (int(value) for value in table[ti + n * step : ti + n * step + 4])
            for j, value in enumerate(values):
                if 0 <= d < yd and 0 <= h + i < yh and bits >> j & 1:
                    place = yi + source + i * yw + j
                    y[place] = np.clip(value + (y[place] if accumulate else 0), *bounds)


def winograd_gradient_row(gy, gi, high, r, ri, pitch, form):
    rows, size = winograd_matrices(form)[2].T, winograd_sizes(form)[1]
    for lane in range(base.LANES):
        places = range(size * lane, size * lane + size)
        for j, value in enumerate(rows @ np.array([gy[gi + i] if i < high else 0 for i in places], gy.dtype)):
            base._take(r, ri + j * pitch)[lane] = value


def winograd_gradient_pieces(gy, gi, table, ti, step, yd, yh, yw, r, ri, pitch, form, count):
    rows, tiles, size = winograd_matrices(form)[2].T, base.LANES // count, winograd_sizes(form)[1]
    for n in range(count):
        source, h, pixels, d = (int(value) for value in table[ti + n * step : ti + n * step + 4])
        for i in range(size):
            inside = 0 <= d < yd and 0 <= h + i < yh
            for tile in range(tiles):
                places = range(tile * size, tile * size + size)
                line = [gy[gi + source + i * yw + j] if inside and pixels >> j & 1 else 0 for j in places]
                for j, value in enumerate(rows @ np.array(line, gy.dtype)):
                    base._take(r, ri + ((size + 2) * i + j) * pitch)[n * tiles + tile] = value


def winograd_gradient_columns(r, ri, pitch, v, vi, plane, form):
    alpha, size, _ = winograd_sizes(form)
    rows = np.array([base._take(r, ri + f * pitch) for f in range(size * alpha)]).reshape(size, alpha, -1)
    result = np.einsum("ia,ijl->ajl", winograd_matrices(form)[2], rows)
    for f, values in enumerate(result.reshape(-1, base.LANES)):
        base._take(v, vi + f * plane)[:] = values


def dot_products(a, ai, a_m, b, bi, b_n, count, c, ci, mr, nr):
    for m in range(mr):
        for n in range(nr):
            c[ci + m * nr + n] += base._take(a, ai + m * a_m, count) @ base._take(b, bi + n * b_n, count)


def winograd_weight_gradient(u, ui, plane, w, wi, form):
    weights = winograd_matrices(form)[1]
    result = np.einsum("ar,abl,bs->rsl", weights, _planes(u, ui, plane, form, form), weights)
    base._take(w, wi, 9 * base.LANES)[:] = result.ravel()


def winograd_weights(w, wi, u, ui, plane, height, width):
    count = winograd_sizes(height)[2] * winograd_sizes(width)[2]
    _transform_weights(base._take(w, wi, count * base.LANES), u, ui, plane, height, width)


def winograd_picked_weights(w, wi, places, u, ui, plane, height, width, span):
    count = winograd_sizes(height)[2] * winograd_sizes(width)[2]
    where = base._take(places, 0, count * base.LANES)
    _transform_weights(np.array([w[wi + place] for place in where]), u, ui, plane, height, width)


def _transform_weights(taps, u, ui, plane, height, width):
    rows, columns = (winograd_matrices(form)[1][: winograd_lines(form)] for form in (height, width))
    taps = taps.reshape(rows.shape[1], columns.shape[1], base.LANES)
    for f, values in enumerate(np.einsum("ar,rsl,bs->abl", rows, taps, columns).reshape(-1, base.LANES)):
        base._take(u, ui + f * plane)[:] = values
