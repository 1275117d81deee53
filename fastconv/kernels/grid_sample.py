"""Sampling of images at the points of a grid: forward, gradient of the image, gradient of the grid.

Every output point is a weighted sum of taps: 1 (nearest), 2 or 4 (linear, cubic) per axis.  A tile computes the taps of
a run of points once, places and weights, and then goes through the channels.  Formulas: Jaderberg et al., arXiv
1506.02025; cubic convolution with a = -3/4 (Keys, 1981).
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import fma_vector, gather_places, splat_vector, store_window

NUMBERS = "id ih iw axes channels points chunk chunks mode padding align taps channel_part"
SampleBlock = Block("GridSample", "x grid y scratch", NUMBERS)
NEAREST, LINEAR, CUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2
CHUNK = 256  # points whose taps are computed at once


@cache
def make_folded(dtype):
    """Positions beyond the image, in the precision of the arrays."""
    real = np.dtype(dtype).type

    @helper
    def folded(position, size, padding, align):
        """(position inside the image, derivative): clipped to the border or reflected at it."""
        slope = real(1)
        if padding == REFLECTION:
            low = real(0) if align else real(-0.5)
            span = real(size - 1) if align else real(size)
            if span <= 0:
                return real(0), real(0)
            distance = position - low
            if distance < 0:
                distance, slope = -distance, real(-1)
            turns = np.floor(distance / span)
            rest = distance - turns * span
            if turns % 2 == 0:
                position = rest + low
            else:
                position, slope = span - rest + low, -slope
        if padding != ZEROS:
            if not position > 0:
                return real(0), real(0)
            if position >= size - 1:
                return real(size - 1), real(0)
        return position, slope

    return folded


@cache
def make_cubic_taps(dtype):
    real = np.dtype(dtype).type

    @helper
    def cubic_taps(w, dw, o, t, slope):
        """The weights of the four taps around a position, t beyond the second, and their derivatives times slope."""
        a = real(-0.75)
        for k in range(4):
            x = abs(t - real(k - 1))
            sign = real(1) if t >= real(k - 1) else real(-1)
            if k == 1 or k == 2:
                w[o + k] = ((a + 2) * x - (a + 3)) * x * x + 1
                dw[o + k] = (3 * (a + 2) * x - 2 * (a + 3)) * x * sign * slope
            else:
                w[o + k] = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
                dw[o + k] = ((3 * a * x - 10 * a) * x + 8 * a) * sign * slope

    return cubic_taps


@cache
def make_axis(dtype):
    """The taps of one axis, in the precision of the arrays."""
    real, folded, cubic_taps = np.dtype(dtype).type, make_folded(dtype), make_cubic_taps(dtype)

    @helper
    def axis_taps(coordinate, size, mode, padding, align, at, w, dw, o):
        """at, w, dw[o : o+taps]: position of each tap (-1: outside), weight, and its derivative by the coordinate."""
        if align:
            position, slope = (coordinate + real(1)) / real(2) * real(size - 1), real(size - 1) / real(2)
        else:
            position, slope = ((coordinate + real(1)) * real(size) - real(1)) / real(2), real(size) / real(2)
        if mode != CUBIC:
            position, change = folded(position, size, padding, align)
            slope *= change
        if not abs(position) < 1e9:
            position = real(-100)
        first = int(np.floor(position))
        t = position - real(first)
        if mode == NEAREST:
            up = t > real(0.5) or (t == real(0.5) and first % 2 != 0)
            at[o], w[o], dw[o] = first + 1 if up else first, real(1), real(0)
        elif mode == LINEAR:
            at[o], w[o], dw[o] = first, real(1) - t, -slope
            at[o + 1], w[o + 1], dw[o + 1] = first + 1, t, slope
        else:
            cubic_taps(w, dw, o, t, slope)
            for k in range(4):
                at[o + k] = int(folded(real(first - 1 + k), size, padding, align)[0])
        for k in range(1 if mode == NEAREST else 2 * mode):
            if at[o + k] < 0 or at[o + k] >= size:
                at[o + k] = -1

    return axis_taps


@cache
def make_point_taps(dtype):
    real, axis_taps, LANES = np.dtype(dtype).type, make_axis(dtype), lanes(dtype)

    @helper
    def point_taps(a, grid, first, count, at, w, dw, small_at, small_w, small_dw, derive):
        """at, w[k, p] and, if `derive`, dw[axis, k, p] of `count` points from `first` on; at -1: outside, axis 0: x."""
        each = 1 if a.mode == NEAREST else 2 * a.mode
        size = a.taps * a.chunk
        for p in range(count):
            small_at[8], small_w[8], small_dw[8] = 0, real(1), real(0)
            for axis in range(a.axes):
                length = a.iw if axis == 0 else a.ih if axis == 1 else a.id
                coordinate = grid[(first + p) * a.axes + axis]
                axis_taps(coordinate, length, a.mode, a.padding, a.align, small_at, small_w, small_dw, 4 * axis)
            k = p
            for z in range(8, 8 + (each if a.axes == 3 else 1)):
                for y in range(4, 4 + each):
                    for x in range(each):
                        inside = small_at[x] >= 0 and small_at[y] >= 0 and small_at[z] >= 0
                        at[k] = (small_at[z] * a.ih + small_at[y]) * a.iw + small_at[x] if inside else -1
                        w[k] = small_w[x] * small_w[y] * small_w[z]
                        if derive:
                            dw[k] = small_dw[x] * small_w[y] * small_w[z]
                            dw[size + k] = small_w[x] * small_dw[y] * small_w[z]
                            dw[2 * size + k] = small_w[x] * small_w[y] * small_dw[z]
                        k += a.chunk
        for p in range(count, min(a.chunk, count + LANES)):
            for k in range(p, size, a.chunk):
                at[k] = -1

    return point_taps


@cache
def make_working_memory(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @helper
    def working_memory(a, worker):
        """(at, w, dw, and the same for the axes of one point) in a worker's scratch."""
        base, size = a.scratch + worker * a.scratch_size * ITEM, a.taps * a.chunk
        at, small_at = array_at(base, size, "i8"), array_at(base + 8 * size, 16, "i8")
        memory = array_at(base + 8 * (size + 16), 4 * size + 32, KIND)
        return (
            at,
            memory[:size],
            memory[size : 4 * size],
            small_at,
            memory[4 * size : 4 * size + 16],
            memory[4 * size + 16 :],
        )

    return working_memory


@cache
def make_forward(dtype):
    """The image at the points."""
    KIND, LANES, real = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type
    point_taps, working_memory = make_point_taps(dtype), make_working_memory(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_fwd(block, tile, worker):
        """y[n, c, p] = the sum of the taps of point p.  Tile: (image, run of points)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        grid = array_at(a.grid, a.grid_size, KIND)
        at, w, dw, small_at, small_w, small_dw = working_memory(a, worker)
        n, start = tile // a.chunks, tile % a.chunks * a.chunk
        count, pixels, size = min(a.chunk, a.points - start), a.id * a.ih * a.iw, a.taps * a.chunk
        point_taps(a, grid, n * a.points + start, count, at, w, dw, small_at, small_w, small_dw, False)
        for c in range(n * a.channels, (n + 1) * a.channels):
            for p in range(0, count, LANES):
                total = splat_vector(x, real(0))
                for k in range(p, size, a.chunk):
                    total = fma_vector(load_vector(w, k), gather_places(x, c * pixels, at, k), total)
                store_window(total, y, c * a.points + start + p, count - p)

    return grid_sample_fwd


@cache
def make_input(dtype):
    """The gradient of the image."""
    KIND, real = np.dtype(dtype).str[1:], np.dtype(dtype).type
    point_taps, working_memory = make_point_taps(dtype), make_working_memory(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_input(block, tile, worker):
        """x[n, c, at] += w y[n, c, p], point by point.  Tile: (image, `channel_part` channels), whole planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        grid = array_at(a.grid, a.grid_size, KIND)
        at, w, dw, small_at, small_w, small_dw = working_memory(a, worker)
        parts, pixels = (a.channels + a.channel_part - 1) // a.channel_part, a.id * a.ih * a.iw
        n, c0 = tile // parts, tile % parts * a.channel_part
        c1 = min(c0 + a.channel_part, a.channels)
        x[(n * a.channels + c0) * pixels : (n * a.channels + c1) * pixels] = real(0)
        for start in range(0, a.points, a.chunk):
            count = min(a.chunk, a.points - start)
            point_taps(a, grid, n * a.points + start, count, at, w, dw, small_at, small_w, small_dw, False)
            for c in range(n * a.channels + c0, n * a.channels + c1):
                plane = x[c * pixels : (c + 1) * pixels]
                for k in range(0, a.taps * a.chunk, a.chunk):
                    for p in range(count):
                        i = at[k + p]
                        if i >= 0:
                            plane[np.uintp(i)] += w[k + p] * y[c * a.points + start + p]

    return grid_sample_bwd_input


@cache
def make_grid(dtype):
    """The gradient of the grid."""
    KIND, LANES, real = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type
    point_taps, working_memory = make_point_taps(dtype), make_working_memory(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_grid(block, tile, worker):
        """grid[n, p, axis] = the sum over channels and taps of y dw x.  Tile: (image, run of points)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        grid = array_at(a.grid, a.grid_size, KIND)
        at, w, dw, small_at, small_w, small_dw = working_memory(a, worker)
        n, start = tile // a.chunks, tile % a.chunks * a.chunk
        count, pixels, size = min(a.chunk, a.points - start), a.id * a.ih * a.iw, a.taps * a.chunk
        first = n * a.points + start
        point_taps(a, grid, first, count, at, w, dw, small_at, small_w, small_dw, True)
        for k in range(0, size, a.chunk):  # w becomes the sum over the channels of y times the tap's value
            for p in range(0, count, LANES):
                total = splat_vector(x, real(0))
                for c in range(n * a.channels, (n + 1) * a.channels):
                    gradient = load_window(y, c * a.points + start + p, 1, 0, count - p, 1)
                    total = fma_vector(gradient, gather_places(x, c * pixels, at, k + p), total)
                store_vector(total, w, k + p)
        for p in range(count):
            for axis in range(a.axes):
                total = real(0)
                for k in range(0, size, a.chunk):
                    if at[k + p] >= 0:
                        total += dw[axis * size + k + p] * w[k + p]
                grid[(first + p) * a.axes + axis] = total  # the point's coordinates are no longer needed

    return grid_sample_bwd_grid


def _row(make, size, mode, padding, align, x, grid, y):
    axes, channels = len(size), x.shape[1]
    taps, points = max(1, 2 * mode) ** axes, y[0, 0].size
    chunks, channel_part = -(-points // CHUNK), max(1, min(16, channels // 4))
    values = dict(zip(("id", "ih", "iw"), (1,) * (3 - axes) + tuple(size), strict=True))
    values |= {"x": x, "grid": grid, "y": y, "axes": axes, "channels": channels, "points": points, "chunk": CHUNK}
    values |= {"chunks": chunks, "mode": mode, "padding": padding, "align": int(align), "taps": taps}
    tiles = -(-channels // channel_part) if make is make_input else chunks
    scratch = 8 * (taps * CHUNK + 16) // x.dtype.itemsize + 4 * taps * CHUNK + 32
    work = x.shape[0] * points * taps * (4 + 1.0 * channels)
    return Row(make(x.dtype.name), x.shape[0] * tiles, values | {"channel_part": channel_part}, work, scratch)


def forward_row(*arguments):
    """The row that computes y; arguments: size, mode, padding, align, x, grid, y, none of them empty."""
    return _row(make_forward, *arguments)


def input_row(*arguments):
    """The row that computes the gradient in the place of x from that in the place of y."""
    return _row(make_input, *arguments)


def grid_row(*arguments):
    """The row that overwrites `grid` with its gradient."""
    return _row(make_grid, *arguments)
