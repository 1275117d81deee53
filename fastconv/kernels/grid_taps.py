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
    {"grid": None, "at": "i8", "w": None, "dw": None, "scratch": None},
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
    def cubic(t, slope, count, w, dw):
        """w, dw[k * CHUNK + p]: the weight of tap k of point p, t beyond the second, and its derivative times slope."""
        for k in range(4):
            inner, shift = k == 1 or k == 2, real(k - 1)
            for p in range(count):
                x = abs(t[p] - shift)
                sign = slope[p] if t[p] >= shift else -slope[p]
                near, far = (A2 * x - A3) * x * x + real(1), ((A * x - A5) * x + A8) * x - A4
                near_slope = (real(3) * A2 * x - real(2) * A3) * x
                far_slope = (real(3) * A * x - A10) * x + A8
                w[k * CHUNK + p] = near if inner else far
                dw[k * CHUNK + p] = (near_slope if inner else far_slope) * sign

    @helper
    def cubic_places(first, count, size, padding, align, at, s):
        """at[k * CHUNK + p]: the pixel of tap k of point p, each folded into the image by itself."""
        for k in range(4):
            position, ignored = s[:CHUNK], s[CHUNK : 2 * CHUNK]
            for p in range(count):
                position[p] = real(first[p] + (k - 1))
            folded(position, ignored, count, size, padding, align)
            for p in range(count):
                at[k * CHUNK + p] = int(position[p])

    return cubic, cubic_places


@cache
def make_axis(dtype):
    """The taps of one axis, in the precision of the arrays."""
    real, folded = np.dtype(dtype).type, make_folded(dtype)
    cubic, cubic_places = make_cubic(dtype)

    @helper
    def positions(grid, start, axes, count, size, align, position, slope):
        """Where the coordinates grid[start + p * axes], from -1 to 1, lie among the pixels."""
        length = real(size - 1) if align else real(size)
        shift = real(0) if align else real(1)
        for p in range(count):
            position[p] = ((grid[start + p * axes] + real(1)) * length - shift) / real(2)
            slope[p] = length / real(2)

    @helper
    def split_positions(position, count, first):
        """first: the pixel at or before each position; position: how far it is beyond that; what is no number, or far
        outside, is outside."""
        for p in range(count):
            x = position[p] if abs(position[p]) < real(1e9) else real(-100)
            whole = np.floor(x)
            first[p] = int(whole)
            position[p] = x - whole

    @helper
    def axis_taps(grid, start, axes, count, size, mode, padding, align, at, w, dw, first, s):
        """at, w, dw[k * CHUNK + p]: position of tap k of point p (-1: outside), weight, its derivative by the
        coordinate."""
        t, slope = s[:CHUNK], s[CHUNK : 2 * CHUNK]
        positions(grid, start, axes, count, size, align, t, slope)
        if mode != CUBIC:
            folded(t, slope, count, size, padding, align)
        split_positions(t, count, first)
        if mode == NEAREST:
            for p in range(count):
                up = (t[p] > real(0.5)) | ((t[p] == real(0.5)) & (first[p] % 2 != 0))
                at[p] = first[p] + (1 if up else 0)
                w[p], dw[p] = real(1), real(0)
        elif mode == LINEAR:
            for p in range(count):
                at[p], at[CHUNK + p] = first[p], first[p] + 1
                w[p], w[CHUNK + p] = real(1) - t[p], t[p]
                dw[p], dw[CHUNK + p] = -slope[p], slope[p]
        else:
            cubic(t, slope, count, w, dw)
            cubic_places(first, count, size, padding, align, at, s)
        each = 1 if mode == NEAREST else 2 * mode
        for k in range(each):
            for p in range(k * CHUNK, k * CHUNK + count):
                at[p] = at[p] if (at[p] >= 0) & (at[p] < size) else -1

    return axis_taps


@helper
def combined_places(at, o, z_at, y_at, x_at, z, y, x, count, ih, iw, outside):
    """at[o + p]: the pixel of one tap of each point, `outside` where it lies beyond the image."""
    for p in range(count):
        i, j, k = z_at[z + p], y_at[y + p], x_at[x + p]
        at[o + p] = outside if (i < 0) | (j < 0) | (k < 0) else (i * ih + j) * iw + k


@helper
def combined_weights(w, o, z_w, y_w, x_w, z, y, x, count):
    """w[o + p]: the product of the weights of three axes."""
    for p in range(count):
        w[o + p] = x_w[x + p] * y_w[y + p] * z_w[z + p]


@cache
def make_taps(dtype):
    KIND, ITEM, real = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, np.dtype(dtype).type
    axis_taps, EACH = make_axis(dtype), 4 * CHUNK

    @tile_body(TapsBlock, dtype)
    def grid_sample_taps(block, tile, worker):
        """at, w[tile, tap, p] and, if `derive`, dw[tile, axis, tap, p], axis 0: x.  Tile: a run of points."""
        a = fields(block)
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i8")
        w, dw = array_at(a.w, a.w_size, KIND), array_at(a.dw, a.dw_size, KIND)
        base = a.scratch + worker * a.scratch_size * ITEM
        first, places = array_at(base, CHUNK, "i8"), array_at(base + 8 * CHUNK, 3 * EACH, "i8")
        s = array_at(base + 8 * (CHUNK + 3 * EACH), 6 * EACH + 2 * CHUNK, KIND)
        weights, slopes, spare = s[: 3 * EACH], s[3 * EACH : 6 * EACH], s[6 * EACH :]
        n, start = tile // a.chunks, tile % a.chunks * CHUNK
        count, each, size = min(CHUNK, a.points - start), 1 if a.mode == NEAREST else 2 * a.mode, a.taps * CHUNK
        places[2 * EACH : 2 * EACH + CHUNK] = 0
        weights[2 * EACH : 2 * EACH + CHUNK] = real(1)
        for axis in range(a.axes):
            length = a.iw if axis == 0 else a.ih if axis == 1 else a.id
            there, own, slope = places[axis * EACH :], weights[axis * EACH :], slopes[axis * EACH :]
            begin = (n * a.points + start) * a.axes + axis
            axis_taps(grid, begin, a.axes, count, length, a.mode, a.padding, a.align, there, own, slope, first, spare)
        z_at, y_at, z_w, y_w = places[2 * EACH :], places[EACH:], weights[2 * EACH :], weights[EACH:]
        o = 0
        for z in range(0, CHUNK * (each if a.axes == 3 else 1), CHUNK):
            for y in range(0, CHUNK * each, CHUNK):
                for x in range(0, CHUNK * each, CHUNK):
                    k = tile * size + o
                    combined_places(at, k, z_at, y_at, places, z, y, x, count, a.ih, a.iw, a.outside)
                    at[k + count : k + CHUNK] = a.outside
                    combined_weights(w, k, z_w, y_w, weights, z, y, x, count)
                    if a.derive:
                        k = a.axes * tile * size + o
                        combined_weights(dw, k, z_w, y_w, slopes, z, y, x, count)
                        combined_weights(dw, k + size, z_w, slopes[EACH:], weights, z, y, x, count)
                        if a.axes == 3:
                            combined_weights(dw, k + 2 * size, slopes[2 * EACH :], y_w, weights, z, y, x, count)
                    o += CHUNK

    return grid_sample_taps


SCRATCH_BYTES = 8 * (CHUNK + 12 * CHUNK)  # of whole numbers, before 26 CHUNK reals
