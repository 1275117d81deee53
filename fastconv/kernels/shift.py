"""Shift of every channel by its own displacement, whole or fractional, and the gradient of the displacement.

With a displacement (dy, dx) = (floor, fraction) along each axis, and x = 0 outside the image:

    y[c, i, j] = sum over e, f in {0, 1} of wy[e] wx[f] x[c, i + floor_y + e, j + floor_x + f],   w = (1 - fraction,
    fraction)

The input gradient is the same shift of gy by the negative displacement.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_window
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector, sum_vector

ShiftBlock = Block("ShiftBlock", {"x": None, "y": None, "whole": "i8", "fraction": None}, "planes channels h w part")
DisplacementBlock = Block(
    "DisplacementBlock", {"x": None, "gy": None, "g": None, "whole": "i8", "fraction": None}, "images channels h w"
)


@lru_cache
def make_load(LANES):
    """A vector of a shifted row."""

    @helper
    def load_shifted(x, plane, row, column, h, w, j):
        """x[plane, row, column + lane] for lanes of the output row, whose lane 0 is pixel j; 0 outside the image."""
        inside = w if 0 <= row < h else column
        return load_window(x, plane + row * w + column, 1, -column, min(inside - column, w - j), 1)

    return load_shifted


@lru_cache
def make_shift(dtype):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    ONE = np.dtype(dtype).type(1)
    load_shifted = make_load(LANES)

    @helper
    def blend(x, plane, row, column, h, w, j, fy, fx):
        """One vector of fractional shift."""
        top = mul_vector(load_shifted(x, plane, row, column, h, w, j), splat_vector(x, ONE - fx))
        top = fma_vector(load_shifted(x, plane, row, column + 1, h, w, j), splat_vector(x, fx), top)
        low = mul_vector(load_shifted(x, plane, row + 1, column, h, w, j), splat_vector(x, ONE - fx))
        low = fma_vector(load_shifted(x, plane, row + 1, column + 1, h, w, j), splat_vector(x, fx), low)
        return fma_vector(low, splat_vector(x, fy), mul_vector(top, splat_vector(x, ONE - fy)))

    @tile_body(ShiftBlock, dtype)
    def shift_rows(block, tile, worker):
        """Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        whole, fraction = array_at(a.whole, a.whole_size, "i8"), array_at(a.fraction, a.fraction_size, KIND)
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            c, plane = p % a.channels, p * a.h * a.w
            dy, dx, fy, fx = whole[2 * c], whole[2 * c + 1], fraction[2 * c], fraction[2 * c + 1]
            for i in range(a.h):
                for j in range(0, a.w, LANES):
                    if fy == 0 and fx == 0:
                        value = load_shifted(x, plane, i + dy, j + dx, a.h, a.w, j)
                    else:
                        value = blend(x, plane, i + dy, j + dx, a.h, a.w, j, fy, fx)
                    store_window(value, y, plane + i * a.w + j, a.w - j)

    return shift_rows


@lru_cache
def make_displacement(dtype):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    ZERO, ONE = np.dtype(dtype).type(0), np.dtype(dtype).type(1)
    load_shifted = make_load(LANES)

    @helper
    def between(low, high, weight, first, second):
        """(1 - weight) * (second - first) of two pairs of vectors: `low` the first pair, `high` the second."""
        step = fma_vector(sub_vector(second[0], first[0]), low, mul_vector(sub_vector(second[1], first[1]), high))
        return mul_vector(weight, step)

    @tile_body(DisplacementBlock, dtype)
    def shift_bwd_displacement(block, tile, worker):
        """g[c] = sum over images and pixels of gy times the slope of y along h and along w.  Tile: a channel."""
        a = fields(block)
        x, gy, g = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.g, a.g_size, KIND)
        whole, fraction = array_at(a.whole, a.whole_size, "i8"), array_at(a.fraction, a.fraction_size, KIND)
        c = tile
        dy, dx, fy, fx = whole[2 * c], whole[2 * c + 1], fraction[2 * c], fraction[2 * c + 1]
        y0, y1, x0, x1 = (
            splat_vector(x, ONE - fy),
            splat_vector(x, fy),
            splat_vector(x, ONE - fx),
            splat_vector(x, fx),
        )
        gh, gw = ZERO, ZERO
        for n in range(a.images):  # each image has its own sum: the rounding errors of long sums shrink
            along_h, along_w = splat_vector(x, ZERO), splat_vector(x, ZERO)
            plane = (n * a.channels + c) * a.h * a.w
            for i in range(a.h):
                for j in range(0, a.w, LANES):
                    row, column = i + dy, j + dx
                    v00 = load_shifted(x, plane, row, column, a.h, a.w, j)
                    v01 = load_shifted(x, plane, row, column + 1, a.h, a.w, j)
                    v10 = load_shifted(x, plane, row + 1, column, a.h, a.w, j)
                    v11 = load_shifted(x, plane, row + 1, column + 1, a.h, a.w, j)
                    weight = load_window(gy, plane + i * a.w + j, 1, 0, a.w - j, 1)
                    along_h = add_vector(along_h, between(x0, x1, weight, (v00, v01), (v10, v11)))
                    along_w = add_vector(along_w, between(y0, y1, weight, (v00, v10), (v01, v11)))
            gh += sum_vector(along_h)
            gw += sum_vector(along_w)
        g[2 * c], g[2 * c + 1] = gh, gw

    return shift_bwd_displacement


def split_displacement(displacement, size):
    """(whole int64, fraction) of displacements (c, 2); what lies wholly outside the image is brought next to it."""
    whole = np.floor(displacement)
    fraction = displacement - whole
    far = np.array(size, np.float64) + 2
    beyond = np.abs(whole) > far
    whole = np.clip(whole, -far, far).astype(np.int64)
    return np.ascontiguousarray(whole), np.ascontiguousarray(np.where(beyond, 0, fraction).astype(displacement.dtype))


@dataclass(frozen=True)
class ShiftSpec:
    """n images of `channels` planes of h x w pixels."""

    n: int
    channels: int
    h: int
    w: int
    dtype: str

    @property
    def size(self):
        return self.n * self.channels * self.h * self.w

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))


@implements("shift.fwd", rank=90)
class ShiftForward(Impl):
    """y from x; going back, gx from gy by the opposite displacements."""

    name = "shift_fwd_rows"

    @staticmethod
    def cost(spec):
        return spec.size * 0.4

    @staticmethod
    def emit(spec, buffers):
        pixels = spec.h * spec.w
        part = max(1, 20_000 // max(1, pixels))
        values = {**buffers, "planes": spec.n * spec.channels, "channels": spec.channels}
        values |= {"h": spec.h, "w": spec.w, "part": part}
        tiles = -(-spec.n * spec.channels // part) if pixels else 0
        return (Row(make_shift(spec.dtype), tiles, values, ShiftForward.cost(spec)),)


@implements("shift.bwd_displacement", rank=90)
class ShiftBackwardDisplacement(Impl):
    """The gradient g (channels, 2) of the displacements."""

    name = "shift_bwd_displacement_channels"

    @staticmethod
    def cost(spec):
        return spec.size * 1.0

    @staticmethod
    def emit(spec, buffers):
        values = {**buffers, "images": spec.n, "channels": spec.channels, "h": spec.h, "w": spec.w}
        return (Row(make_displacement(spec.dtype), spec.channels, values, ShiftBackwardDisplacement.cost(spec)),)
