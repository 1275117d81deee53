"""The taps of the points of a sampling grid: where in the image, with which weight, and the weight's derivatives.

A point has 1 (nearest), 2 or 4 (linear, cubic) taps per axis.  They are computed for a run of CHUNK points at a time,
step by step for all of them, so that every loop is one of plain arithmetic that the compiler puts into vectors.
Formulas: Jaderberg et al., arXiv 1506.02025; cubic convolution with a = -3/4 (Keys, 1981).
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..simd import array_at, fields

NEAREST, LINEAR, CUBIC = 0, 1, 2
ZEROS, BORDER, REFLECTION = 0, 1, 2
CHUNK = 256  # points of a run
TapsBlock = Block(
    "GridTaps",
    {"grid": None, "at": "i4", "w": None, "dw": None, "scratch": None},
    "id ih iw axes points chunks mode padding align taps outside derive",
)


@cache
def make_folded(dtype):
    """Positions beyond the image, in the precision of the arrays."""
    real = np.dtype(dtype).type

    @helper
    def reflected(position, slope, count, size, align):
        """Positions reflected at the image's ends; slopes change sign with the direction."""
        low, span = (real(0), real(size - 1)) if align else (real(-0.5), real(size))
        for p in range(count):
            distance = abs(position[p] - low)
            turns = np.floor(distance / span)
            rest = distance - turns * span
            odd = turns - real(2) * np.floor(turns * real(0.5)) != 0
            back = odd != (position[p] < low)
            position[p] = low + (span - rest if odd else rest)
            slope[p] = -slope[p] if back else slope[p]

    @helper
    def clipped(position, slope, count, size):
        """Positions moved to the nearest pixel of the image; those that move, and those at its ends, have no slope."""
        last = real(size - 1)
        for p in range(count):
            inside = (position[p] > 0) & (position[p] < last)
            end = last if position[p] >= last else real(0)
            slope[p] = slope[p] if inside else real(0)
            position[p] = position[p] if inside else end

    @helper
    def folded(position, slope, count, size, padding, align):
        if padding == REFLECTION:
            if size == 1 and align:
                position[:count] = real(0)
            else:
                reflected(position, slope, count, size, align)
        if padding != ZEROS:
            clipped(position, slope, count, size)

    return folded


@cache
def make_cubic(dtype):
    """The weights of four taps, and where they are."""
    real, folded = np.dtype(dtype).type, make_folded(dtype)
    A = real(-0.75)
    A2, A3, A5, A8, A4, A10 = A + real(2), A + real(3), real(5) * A, real(8) * A, real(4) * A, real(10) * A

    @helper
    def inner_weights(t, slope, shift, count, w, dw):
        """The weight of a tap at most one pixel away, `shift` from the first, and its derivative times slope."""
        for p in range(count):
            x = abs(t[p] - shift)
            w[p] = (A2 * x - A3) * x * x + real(1)
            dw[p] = (real(3) * A2 * x - real(2) * A3) * x * (slope[p] if t[p] >= shift else -slope[p])

    @helper
    def outer_weights(t, slope, shift, count, w, dw):
        """The same one to two pixels away."""
        for p in range(count):
            x = abs(t[p] - shift)
            w[p] = ((A * x - A5) * x + A8) * x - A4
            dw[p] = ((real(3) * A * x - A10) * x + A8) * (slope[p] if t[p] >= shift else -slope[p])

    @helper
    def cubic(t, slope, count, w, dw):
        """w, dw[k * CHUNK + p]: the weight of tap k of point p, t beyond the second, and its derivative times slope."""
        for k in range(4):
            if k == 1 or k == 2:
                inner_weights(t, slope, real(k - 1), count, w[k * CHUNK :], dw[k * CHUNK :])
            else:
                outer_weights(t, slope, real(k - 1), count, w[k * CHUNK :], dw[k * CHUNK :])

    @helper
    def cubic_places(first, count, size, padding, align, at, s):
        """at[k * CHUNK + p]: the pixel of tap k of point p, each folded into the image by itself."""
        position, ignored = s[:CHUNK], s[CHUNK : 2 * CHUNK]
        for k in range(4):
            there = at[k * CHUNK : (k + 1) * CHUNK]
            for p in range(count):
                position[p] = real(first[p] + (k - 1))
            folded(position, ignored, count, size, padding, align)
            for p in range(count):
                there[p] = np.int32(position[p])

    return cubic, cubic_places


@cache
def make_positions(dtype):
    real = np.dtype(dtype).type

    @helper
    def positions(grid, axes, count, size, align, position, slope):
        """Where the coordinates grid[p * axes], from -1 to 1, lie among the pixels."""
        if axes == 2:
            for p in range(count):
                position[p] = grid[2 * p]
        else:
            for p in range(count):
                position[p] = grid[3 * p]
        length = real(size - 1) if align else real(size)
        shift = real(0) if align else real(1)
        for p in range(count):
            position[p] = ((position[p] + real(1)) * length - shift) / real(2)
        slope[:count] = length / real(2)

    @helper
    def split_positions(position, count, first):
        """first: the pixel at or before each position; position: how far it is beyond that; what is no number, or far
        outside, is outside."""
        for p in range(count):
            x = position[p] if abs(position[p]) < real(1e9) else real(-100)
            whole = np.floor(x)
            first[p] = np.int32(whole)
            position[p] = x - whole

    return positions, split_positions


@cache
def make_axis(dtype):
    """The taps of one axis, in the precision of the arrays."""
    real, folded = np.dtype(dtype).type, make_folded(dtype)
    (cubic, cubic_places), (positions, split_positions) = make_cubic(dtype), make_positions(dtype)

    @helper
    def nearest(t, first, count, at, w):
        """The nearer of two pixels, of equally near ones the even one."""
        for p in range(count):
            up = (t[p] > real(0.5)) | ((t[p] == real(0.5)) & (first[p] & 1 != 0))
            at[p] = first[p] + (1 if up else 0)
            w[p] = real(1)

    @helper
    def linear(t, slope, first, count, at, at_next, w, w_next, dw, dw_next):
        for p in range(count):
            at[p], at_next[p] = first[p], first[p] + 1
        for p in range(count):
            w[p], w_next[p] = real(1) - t[p], t[p]
            dw[p], dw_next[p] = -slope[p], slope[p]

    @helper
    def axis_taps(grid, axes, count, size, mode, padding, align, at, w, dw, first, s):
        """at, w, dw[k * CHUNK + p]: position of tap k of point p (-1: outside), weight, its derivative by the
        coordinate."""
        t, slope = s[:CHUNK], s[CHUNK : 2 * CHUNK]
        positions(grid, axes, count, size, align, t, slope)
        if mode != CUBIC:
            folded(t, slope, count, size, padding, align)
        split_positions(t, count, first)
        if mode == NEAREST:
            nearest(t, first, count, at, w)
            dw[:count] = real(0)
        elif mode == LINEAR:
            linear(t, slope, first, count, at, at[CHUNK:], w, w[CHUNK:], dw, dw[CHUNK:])
        else:
            cubic(t, slope, count, w, dw)
            cubic_places(first, count, size, padding, align, at, s)
        for k in range(1 if mode == NEAREST else 2 * mode):
            there = at[k * CHUNK : k * CHUNK + count]
            for p in range(count):
                there[p] = there[p] if (there[p] >= 0) & (there[p] < size) else np.int32(-1)

    return axis_taps


@helper
def combined_places(at, z_at, y_at, x_at, count, ih, iw, outside):
    """at[p]: the pixel of one tap of each point, `outside` where it lies beyond the image."""
    for p in range(count):
        i, j, k = z_at[p], y_at[p], x_at[p]
        at[p] = np.int32(outside) if (i | j | k) < 0 else np.int32((i * ih + j) * iw + k)


@helper
def combined_weights(w, z_w, y_w, x_w, count):
    """w[p]: the product of the weights of three axes."""
    for p in range(count):
        w[p] = x_w[p] * y_w[p] * z_w[p]


@cache
def make_taps(dtype):
    KIND, ITEM, real = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, np.dtype(dtype).type
    axis_taps, EACH = make_axis(dtype), 4 * CHUNK

    @tile_body(TapsBlock, dtype)
    def grid_sample_taps(block, tile, worker):
        """at, w[tile, tap, p] and, if `derive`, dw[tile, axis, tap, p], axis 0: x.  Tile: a run of points."""
        a = fields(block)
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i4")
        w, dw = array_at(a.w, a.w_size, KIND), array_at(a.dw, a.dw_size, KIND)
        base = a.scratch + worker * a.scratch_size * ITEM
        first, places = array_at(base, CHUNK, "i4"), array_at(base + 4 * CHUNK, 3 * EACH, "i4")
        s = array_at(base + 4 * (CHUNK + 3 * EACH), 6 * EACH + 2 * CHUNK, KIND)
        weights, slopes, spare = s[: 3 * EACH], s[3 * EACH : 6 * EACH], s[6 * EACH :]
        n, start = tile // a.chunks, tile % a.chunks * CHUNK
        count, each, size = min(CHUNK, a.points - start), 1 if a.mode == NEAREST else 2 * a.mode, a.taps * CHUNK
        places[2 * EACH : 2 * EACH + CHUNK] = 0
        weights[2 * EACH : 2 * EACH + CHUNK] = real(1)
        for axis in range(a.axes):
            length = a.iw if axis == 0 else a.ih if axis == 1 else a.id
            there, own, slope = places[axis * EACH :], weights[axis * EACH :], slopes[axis * EACH :]
            points = grid[(n * a.points + start) * a.axes + axis :]
            axis_taps(points, a.axes, count, length, a.mode, a.padding, a.align, there, own, slope, first, spare)
        k, d = tile * size, tile * a.axes * size
        for z in range(2 * EACH, 2 * EACH + CHUNK * (each if a.axes == 3 else 1), CHUNK):
            for y in range(EACH, EACH + CHUNK * each, CHUNK):
                for x in range(0, CHUNK * each, CHUNK):
                    combined_places(at[k:], places[z:], places[y:], places[x:], count, a.ih, a.iw, a.outside)
                    at[k + count : k + CHUNK] = a.outside
                    combined_weights(w[k:], weights[z:], weights[y:], weights[x:], count)
                    if a.derive:
                        combined_weights(dw[d:], weights[z:], weights[y:], slopes[x:], count)
                        combined_weights(dw[d + size :], weights[z:], slopes[y:], weights[x:], count)
                        if a.axes == 3:
                            combined_weights(dw[d + 2 * size :], slopes[z:], weights[y:], weights[x:], count)
                    k, d = k + CHUNK, d + CHUNK

    return grid_sample_taps


SCRATCH_BYTES = 4 * (CHUNK + 12 * CHUNK)  # of whole numbers, before 26 CHUNK reals
