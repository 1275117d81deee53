"""Normalisation of the channels of each pixel, on images as they lie: layer normalisation of (N, C, H, W) over C.

    y[n, c, p] = (x[n, c, p] - mean[n, p]) rstd[n, p] w[c] + b[c],   rstd = 1 / sqrt(variance + eps)

Lanes are pixels, so that nothing is moved into another order.  The mean first, then sums of the distances from it and
of their squares, by which it is corrected: it has twice the precision of the data (the corrected two-pass algorithm of
Chan, Golub and LeVeque 1983, The American Statistician 37, 242-247).
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_window
from ..simd_math import activation_vector, div_vector
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector

VECTORS = 4  # of pixels in a tile: runs of 256 bytes of each channel
NANOSECONDS = 0.35  # for one value

ChannelNormBlock = Block("ChannelNormBlock", "x w b y", "images channels pixels blocks", "eps")


@lru_cache
def make_channel_norm(dtype):
    KIND, FLOAT, LANES, RUN = np.dtype(dtype).str[1:], np.dtype(dtype).type, lanes(dtype), VECTORS * lanes(dtype)

    @helper
    def mean_of(x, xi, channels, pixels, left, share):
        """Of one vector of pixels; two sums, so that additions need not wait for each other."""
        even, odd = splat_vector(x, FLOAT(0)), splat_vector(x, FLOAT(0))
        for c in range(0, channels - 1, 2):
            even = add_vector(even, load_window(x, xi + c * pixels, 1, 0, left, 1))
            odd = add_vector(odd, load_window(x, xi + (c + 1) * pixels, 1, 0, left, 1))
        if channels % 2:
            even = add_vector(even, load_window(x, xi + (channels - 1) * pixels, 1, 0, left, 1))
        return mul_vector(add_vector(even, odd), share)

    @helper
    def deviations_of(x, xi, channels, pixels, left, mean):
        """Sums of d and of d^2, d = x - mean."""
        zero = splat_vector(x, FLOAT(0))
        total, more, even, odd = zero, zero, zero, zero
        for c in range(0, channels - 1, 2):
            first = sub_vector(load_window(x, xi + c * pixels, 1, 0, left, 1), mean)
            second = sub_vector(load_window(x, xi + (c + 1) * pixels, 1, 0, left, 1), mean)
            total, more = add_vector(total, first), add_vector(more, second)
            even, odd = fma_vector(first, first, even), fma_vector(second, second, odd)
        if channels % 2:
            last = sub_vector(load_window(x, xi + (channels - 1) * pixels, 1, 0, left, 1), mean)
            total, even = add_vector(total, last), fma_vector(last, last, even)
        return add_vector(total, more), add_vector(even, odd)

    @tile_body(ChannelNormBlock, dtype)
    def channel_norm(block, tile, worker):
        """Tile: (image, run of VECTORS vectors of pixels)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        w, b = array_at(a.w, a.w_size, KIND), array_at(a.b, a.b_size, KIND)
        image, start = tile // a.blocks, tile % a.blocks * RUN
        share, eps = splat_vector(x, FLOAT(1 / a.channels)), splat_vector(x, FLOAT(a.eps))
        one, zero = splat_vector(x, FLOAT(1)), splat_vector(x, FLOAT(0))
        for p in range(start, min(start + RUN, a.pixels), LANES):
            first, left = image * a.channels * a.pixels + p, a.pixels - p
            mean = mean_of(x, first, a.channels, a.pixels, left, share)
            total, squares = deviations_of(x, first, a.channels, a.pixels, left, mean)
            rest = mul_vector(total, share)  # what rounding left of the mean
            variance = sub_vector(mul_vector(squares, share), mul_vector(rest, rest))
            rstd = div_vector(one, activation_vector(add_vector(variance, eps), one, one, "sqrt"))
            shift = sub_vector(zero, mul_vector(rest, rstd))
            for c in range(a.channels):
                at = first + c * a.pixels
                scaled = fma_vector(sub_vector(load_window(x, at, 1, 0, left, 1), mean), rstd, shift)
                store_window(fma_vector(scaled, splat_vector(x, w[c]), splat_vector(x, b[c])), y, at, left)

    return channel_norm


def channel_norm_row(x, w, b, y, eps):
    """The row that normalises x (n, channels, pixels) into y, which may be x; w, b: (channels,), all dense."""
    images, channels, pixels = x.shape
    blocks = -(-pixels // (VECTORS * lanes(x.dtype)))
    values = {"x": x, "w": w, "b": b, "y": y, "images": images, "channels": channels, "pixels": pixels}
    values |= {"blocks": blocks, "eps": float(eps)}
    return Row(make_channel_norm(x.dtype.name), images * blocks, values, x.size * NANOSECONDS)
