"""Local response normalisation of x (n, c, length) across neighbouring channels.

d[c] = k + alpha / size * sum of x[j]^2, j = c - size // 2 .. c + (size - 1) // 2,      y = x d^-beta
gx[c] = g d^-beta - 2 alpha beta / size x[c] * sum of t[j] over the j whose window holds c,   t = g x d^(-beta - 1)
"""

from functools import lru_cache

from .. import _memory
from .._jit import Block, helper, tile_body
from ..driver import Row
from ..prepared import run_rows
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import div_vector, exp_vector, log_vector
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window

PART = 4  # vectors of places of a tile

ResponseBlock = Block("ResponseBlock", "x y", "images channels length before after blocks", "scale beta k")
ResponseGradientBlock = Block(
    "ResponseGradientBlock", "x g gx scratch", "images channels length before after blocks", "scale beta k"
)


@lru_cache
def make_divisor(dtype):
    """The divisor of one vector of places, before the power."""
    FLOAT = dtype.type

    @helper
    def divisor(x, xi, channel, channels, length, before, after, left, scale, k):
        """k + scale * the sum of squares; xi: the place in channel 0."""
        total = splat_vector(x, FLOAT(0))
        for j in range(max(0, channel - before), min(channels, channel + after + 1)):
            value = load_window(x, xi + j * length, 1, 0, left, 1)
            total = fma_vector(value, value, total)
        return fma_vector(total, splat_vector(x, FLOAT(scale)), splat_vector(x, FLOAT(k)))

    return divisor


@lru_cache
def make_response(dtype):
    """Forward."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    divisor = make_divisor(dtype)

    @tile_body(ResponseBlock, dtype)
    def response_fwd(block, tile, worker):
        """Tile: (image, PART vectors of places), all channels."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        first, image = tile % a.blocks * PART * LANES, tile // a.blocks * a.channels * a.length
        power = splat_vector(x, FLOAT(-a.beta))
        for c in range(a.channels):
            for place in range(first, min(first + PART * LANES, a.length), LANES):
                i, left = image + place, a.length - place
                d = divisor(x, i, c, a.channels, a.length, a.before, a.after, left, a.scale, a.k)
                factor = exp_vector(mul_vector(power, log_vector(d)))
                value = mul_vector(load_window(x, i + c * a.length, 1, 0, left, 1), factor)
                store_window(value, y, i + c * a.length, left)

    return response_fwd


@lru_cache
def make_response_gradient(dtype):
    """Backward."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    divisor = make_divisor(dtype)

    @helper
    def terms(x, g, s, i, left, channels, length, before, after, scale, beta, k):
        """d^-beta and t of every channel, side by side in s."""
        power = splat_vector(x, FLOAT(-beta))
        for c in range(channels):
            d = divisor(x, i, c, channels, length, before, after, left, scale, k)
            factor = exp_vector(mul_vector(power, log_vector(d)))
            slope = mul_vector(load_window(g, i + c * length, 1, 0, left, 1), factor)
            value = mul_vector(slope, load_window(x, i + c * length, 1, 0, left, 1))
            store_vector(slope, s, 2 * c * LANES)
            store_vector(div_vector(value, d), s, (2 * c + 1) * LANES)

    @tile_body(ResponseGradientBlock, dtype)
    def response_bwd(block, tile, worker):
        """Tile: (image, PART vectors of places), all channels."""
        a = fields(block)
        x, g, gx = array_at(a.x, a.x_size, KIND), array_at(a.g, a.g_size, KIND), array_at(a.gx, a.gx_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * x.itemsize, a.scratch_size, KIND)
        first, image = tile % a.blocks * PART * LANES, tile // a.blocks * a.channels * a.length
        factor = splat_vector(x, FLOAT(-2 * a.scale * a.beta))
        for place in range(first, min(first + PART * LANES, a.length), LANES):
            i, left = image + place, a.length - place
            terms(x, g, s, i, left, a.channels, a.length, a.before, a.after, a.scale, a.beta, a.k)
            for c in range(a.channels):
                total = splat_vector(x, FLOAT(0))
                for j in range(max(0, c - a.after), min(a.channels, c + a.before + 1)):
                    total = add_vector(total, load_vector(s, (2 * j + 1) * LANES))
                total = mul_vector(mul_vector(total, factor), load_window(x, i + c * a.length, 1, 0, left, 1))
                store_window(add_vector(load_vector(s, 2 * c * LANES), total), gx, i + c * a.length, left)

    return response_bwd


def _row(body, arrays, size, alpha, beta, k, cost, scratch=0):
    first = next(iter(arrays.values()))
    n, channels, length = first.shape
    blocks = -(-length // (PART * lanes(first.dtype)))
    values = {**arrays, "images": n, "channels": channels, "length": length, "blocks": blocks}
    values |= {"before": size // 2, "after": (size - 1) // 2, "scale": alpha / size, "beta": float(beta), "k": float(k)}
    return Row(body, n * blocks if channels else 0, values, first.size * (cost + 0.1 * size), scratch)


def _response_rows(x, y, size, alpha, beta, k):
    return (_row(make_response(x.dtype), {"x": x, "y": y}, size, alpha, beta, k, 1.2),)


def _gradient_rows(x, g, gx, size, alpha, beta, k):
    scratch = 2 * x.shape[1] * lanes(x.dtype)
    arrays = {"x": x, "g": g, "gx": gx}
    return (_row(make_response_gradient(x.dtype), arrays, size, alpha, beta, k, 1.6, scratch),)


def respond(x, size, alpha, beta, k):
    """y for dense x (n, c, length)."""
    y = _memory.empty(x.shape, x.dtype)
    run_rows(_response_rows, (x, y), size, alpha, beta, k)
    return y


def respond_gradient(x, g, size, alpha, beta, k):
    """gx for dense x and g."""
    gx = _memory.empty(x.shape, x.dtype)
    run_rows(_gradient_rows, (x, g, gx), size, alpha, beta, k)
    return gx
