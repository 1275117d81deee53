"""Batch normalisation in training, and the clamp (ReLU, ReLU6) that follows it, in two passes over each channel.

x (n, channels, length) in dense rows; the values of a channel are its rows in all images.

    y = clamp(v, low, high),   v = (x - mean) rstd w + b,   rstd = 1 / sqrt(var + eps)
    gx = rstd w (g - S1 / size - (x - mean) rstd^2 S2 / size),   S1 = sum(g), S2 = sum(g (x - mean))
    gw = S2 rstd,   gb = S1;   with a clamp g counts only where low < v < high, and v is computed again from x

A channel's first pass leaves it in the core's cache for the second, whatever follows costs no pass of its own, and
nothing but x is kept for the way back.  Statistics as in `norm.py`: deviations from a first guess of the mean, summed
in registers for a few vectors, which may belong to several short rows, then in float64.  A bound that is NaN bounds
nothing.
"""

from functools import lru_cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import activation_gradient_vector, activation_vector
from ..simd_vector import add_vector, fma_vector, keep_lanes, splat_vector, store_window, sub_vector, sum_vector
from .norm import COLUMNS, make_moments, mean_and_variance
from .sums import VECTORS

LEAST_CHANNELS = 8  # fewer are not enough tiles for threads
LEAST_LENGTH = 4  # shorter rows waste most of each vector
_TILE_WORK = 8000  # nanoseconds

_NUMBERS = "n channels length part track"
BatchNormBlock = Block(
    "BatchNormBlock",
    {
        **dict.fromkeys(("x", "y", "weight", "bias", "running_mean", "running_var")),
        **{"stats": "f8", "options": "f8"},  # options: eps, momentum, low, high
    },
    _NUMBERS,
)
BatchNormGradientBlock = Block(
    "BatchNormGradientBlock",
    {**dict.fromkeys(("x", "g", "gx", "weight", "bias", "gw", "gb")), "stats": "f8", "options": "f8"},
    _NUMBERS,
)


@lru_cache
def make_deviations(dtype):
    """The sums over a channel that give its statistics."""
    LANES, FLOAT = lanes(dtype), dtype.type
    BLOCK = VECTORS * LANES

    @helper
    def deviations(x, first, step, rows, length, shift):
        """The sums of x - shift and of its square."""
        total, squares, zero, shift = 0.0, 0.0, splat_vector(x, FLOAT(0)), splat_vector(x, FLOAT(shift))
        s0, s1, q0, q1 = zero, zero, zero, zero
        held = 0
        for row in range(rows):
            i, last = first + row * step, first + row * step + length
            while i < last:
                start, stop = i, min(i + BLOCK, last)
                while i + 2 * LANES <= stop:
                    d0, d1 = sub_vector(load_vector(x, i), shift), sub_vector(load_vector(x, i + LANES), shift)
                    s0, s1 = add_vector(s0, d0), add_vector(s1, d1)
                    q0, q1 = fma_vector(d0, d0, q0), fma_vector(d1, d1, q1)
                    i += 2 * LANES
                while i < stop:
                    d0 = keep_lanes(sub_vector(load_window(x, i, 1, 0, stop - i, 1), shift), stop - i)
                    s0, q0 = add_vector(s0, d0), fma_vector(d0, d0, q0)
                    i += LANES
                i, held = stop, held + stop - start
                if held >= BLOCK:
                    total += sum_vector(add_vector(s0, s1))
                    squares += sum_vector(add_vector(q0, q1))
                    s0, s1, q0, q1 = zero, zero, zero, zero
                    held = 0
        return total + sum_vector(add_vector(s0, s1)), squares + sum_vector(add_vector(q0, q1))

    return deviations


@lru_cache
def make_products(dtype, CLAMPED):
    """(slope, products): what the clamp leaves of a gradient, and the sums over a channel on the way back."""
    LANES, FLOAT = lanes(dtype), dtype.type
    BLOCK = VECTORS * LANES

    @helper
    def slope(g, d, scale, bias, low, high):
        """g where the clamp leaves it."""
        if CLAMPED:
            return activation_gradient_vector(g, fma_vector(d, scale, bias), low, high, "clip")
        return g

    @helper
    def products(x, g, first, step, rows, length, mean, scale, bias, low, high):
        """The sums of g and of g (x - mean), g where the clamp leaves it."""
        total, products, zero = 0.0, 0.0, splat_vector(x, FLOAT(0))
        near, off = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        scale, bias = splat_vector(x, FLOAT(scale)), splat_vector(x, bias)
        low, high = splat_vector(x, FLOAT(low)), splat_vector(x, FLOAT(high))
        s0, s1, p0, p1 = zero, zero, zero, zero
        held = 0
        for row in range(rows):
            i, last = first + row * step, first + row * step + length
            while i < last:
                start, stop = i, min(i + BLOCK, last)
                while i + 2 * LANES <= stop:
                    d0 = sub_vector(sub_vector(load_vector(x, i), near), off)
                    d1 = sub_vector(sub_vector(load_vector(x, i + LANES), near), off)
                    g0 = slope(load_vector(g, i), d0, scale, bias, low, high)
                    g1 = slope(load_vector(g, i + LANES), d1, scale, bias, low, high)
                    s0, s1 = add_vector(s0, g0), add_vector(s1, g1)
                    p0, p1 = fma_vector(d0, g0, p0), fma_vector(d1, g1, p1)
                    i += 2 * LANES
                while i < stop:
                    d0 = sub_vector(sub_vector(load_window(x, i, 1, 0, stop - i, 1), near), off)
                    g0 = slope(load_window(g, i, 1, 0, stop - i, 1), d0, scale, bias, low, high)
                    s0, p0 = add_vector(s0, g0), fma_vector(d0, g0, p0)
                    i += LANES
                i, held = stop, held + stop - start
                if held >= BLOCK:
                    total += sum_vector(add_vector(s0, s1))
                    products += sum_vector(add_vector(p0, p1))
                    s0, s1, p0, p1 = zero, zero, zero, zero
                    held = 0
        return total + sum_vector(add_vector(s0, s1)), products + sum_vector(add_vector(p0, p1))

    return slope, products


@lru_cache
def make_batch_norm(dtype):
    """Forward."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    guess, _ = make_moments(dtype)
    deviations = make_deviations(dtype)

    @helper
    def apply_rows(x, y, first, step, rows, length, mean, scale, bias, low, high):
        """y = clamp((x - mean) scale + bias)."""
        near, off = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        scale, bias = splat_vector(x, FLOAT(scale)), splat_vector(x, bias)
        low, high = splat_vector(x, FLOAT(low)), splat_vector(x, FLOAT(high))
        for row in range(rows):
            i, last = first + row * step, first + row * step + length
            while i + LANES <= last:
                value = fma_vector(sub_vector(sub_vector(load_vector(x, i), near), off), scale, bias)
                store_vector(activation_vector(value, low, high, "clip"), y, i)
                i += LANES
            if i < last:
                value = sub_vector(sub_vector(load_window(x, i, 1, 0, last - i, 1), near), off)
                value = activation_vector(fma_vector(value, scale, bias), low, high, "clip")
                store_window(value, y, i, last - i)

    @helper
    def update(running_mean, running_var, channel, mean, variance, size, momentum):
        """Moving averages; the variance kept is the unbiased one."""
        variance *= size / max(size - 1, 1)
        running_mean[channel] = FLOAT(running_mean[channel] * (1 - momentum) + momentum * mean)
        running_var[channel] = FLOAT(running_var[channel] * (1 - momentum) + momentum * variance)

    @tile_body(BatchNormBlock, dtype)
    def batch_norm_fwd(block, tile, worker):
        """Tile: `part` channels."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        weight, bias = array_at(a.weight, a.weight_size, KIND), array_at(a.bias, a.bias_size, KIND)
        running_mean = array_at(a.running_mean, a.running_mean_size, KIND)
        running_var = array_at(a.running_var, a.running_var_size, KIND)
        stats, options = array_at(a.stats, a.stats_size, "f8"), array_at(a.options, a.options_size, "f8")
        step, size = a.channels * a.length, a.n * a.length
        for channel in range(tile * a.part, min((tile + 1) * a.part, a.channels)):
            first = channel * a.length
            shift = guess(x, first, a.length)
            total, squares = deviations(x, first, step, a.n, a.length, shift)
            mean, variance = mean_and_variance(shift, total, squares, size)
            rstd = 1 / np.sqrt(variance + options[0])
            stats[COLUMNS * channel] = shift
            stats[COLUMNS * channel + 1] = mean
            stats[COLUMNS * channel + 2] = variance
            stats[COLUMNS * channel + 3] = rstd
            apply_rows(
                *(x, y, first, step, a.n, a.length, mean, rstd * weight[channel], bias[channel]),
                *(options[2], options[3]),
            )
            if a.track:
                update(running_mean, running_var, channel, mean, variance, size, options[1])

    return batch_norm_fwd


@lru_cache
def make_batch_norm_gradient(dtype, CLAMPED):
    """Backward."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    slope, products = make_products(dtype, CLAMPED)

    @helper
    def slope_rows(x, g, gx, first, step, rows, length, mean, scale, bias, low, high, along, constant):
        """gx = g scale + (x - mean) along + constant."""
        near, off = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        scale, bias = splat_vector(x, FLOAT(scale)), splat_vector(x, bias)
        low, high = splat_vector(x, FLOAT(low)), splat_vector(x, FLOAT(high))
        along, constant = splat_vector(x, FLOAT(along)), splat_vector(x, FLOAT(constant))
        for row in range(rows):
            i, last = first + row * step, first + row * step + length
            while i + LANES <= last:
                d = sub_vector(sub_vector(load_vector(x, i), near), off)
                kept = slope(load_vector(g, i), d, scale, bias, low, high)
                store_vector(fma_vector(kept, scale, fma_vector(d, along, constant)), gx, i)
                i += LANES
            if i < last:
                d = sub_vector(sub_vector(load_window(x, i, 1, 0, last - i, 1), near), off)
                kept = slope(load_window(g, i, 1, 0, last - i, 1), d, scale, bias, low, high)
                store_window(fma_vector(kept, scale, fma_vector(d, along, constant)), gx, i, last - i)

    @tile_body(BatchNormGradientBlock, dtype)
    def batch_norm_bwd(block, tile, worker):
        """Tile: `part` channels."""
        a = fields(block)
        x, g, gx = array_at(a.x, a.x_size, KIND), array_at(a.g, a.g_size, KIND), array_at(a.gx, a.gx_size, KIND)
        weight, bias = array_at(a.weight, a.weight_size, KIND), array_at(a.bias, a.bias_size, KIND)
        gw, gb = array_at(a.gw, a.gw_size, KIND), array_at(a.gb, a.gb_size, KIND)
        stats, options = array_at(a.stats, a.stats_size, "f8"), array_at(a.options, a.options_size, "f8")
        step, size, low, high = a.channels * a.length, a.n * a.length, options[2], options[3]
        for channel in range(tile * a.part, min((tile + 1) * a.part, a.channels)):
            first = channel * a.length
            mean, rstd = stats[COLUMNS * channel + 1], stats[COLUMNS * channel + 3]
            scale, b = rstd * weight[channel], bias[channel]
            total, product = products(x, g, first, step, a.n, a.length, mean, scale, b, low, high)
            gw[channel], gb[channel] = FLOAT(product * rstd), FLOAT(total)
            along, constant = -product / size * rstd * rstd * scale, -total / size * scale
            slope_rows(x, g, gx, first, step, a.n, a.length, mean, scale, b, low, high, along, constant)

    return batch_norm_bwd


# ---- rows of a program


def fits(shape):
    """Whether these kernels do well on (n, channels, *size)."""
    return shape[1] >= LEAST_CHANNELS and prod(shape[2:]) >= LEAST_LENGTH and shape[0] > 0


def _row(body, shape, cost, values):
    """The row over x of this shape; cost: nanoseconds of a float32 value."""
    n, channels, length = shape[0], shape[1], prod(shape[2:])
    work = channels * n * (length * cost + 4) + 40 * channels
    part = max(1, min(channels // 2, int(_TILE_WORK * channels / work)))
    numbers = {"n": n, "channels": channels, "length": length, "part": part}
    return [Row(body, -(-channels // part), {**values, **numbers}, work)]


def forward_rows(x, y, stats, weight, bias, running_mean, running_var, options, track):
    """y from x, dense (n, channels, ...), and stats (channels, 4): guess, mean, variance, rstd.

    track: whether running_mean and running_var are there, to be updated; options: of `options_of`.
    """
    values = {"x": x, "y": y, "stats": stats, "weight": weight, "bias": bias, "options": options, "track": int(track)}
    running = {"running_mean": running_mean, "running_var": running_var}
    return _row(make_batch_norm(x.dtype), x.shape, 0.5, values | running)


def backward_rows(x, g, gx, gw, gb, stats, weight, bias, options, clamped):
    """gx, gw and gb from x, g and what the forward rows were given and gave; clamped: whether a bound is a number."""
    values = {"x": x, "g": g, "gx": gx, "gw": gw, "gb": gb, "stats": stats}
    values |= {"weight": weight, "bias": bias, "options": options, "track": 0}
    return _row(make_batch_norm_gradient(x.dtype, clamped), x.shape, 0.7, values)


@lru_cache
def options_of(eps, momentum, low, high):
    """The numbers that travel in an array."""
    return np.array([eps, momentum, low, high])
