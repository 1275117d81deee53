"""Activations and their gradients as tile bodies: y = act(x), in place or not; gx = act'(x) gy.

What each name means is in `simd_formulas.py`.  The names with parameters take them as `alpha` and `beta`.
"""

from functools import lru_cache

import numpy as np

from .. import _memory
from .._jit import Block, tile_body
from ..driver import Row
from ..packing import dense
from ..prepared import run_rows
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_formulas import FROM_OUTPUT
from ..simd_math import activation_gradient_vector, activation_vector
from ..simd_vector import splat_vector, store_window

PART = 16384  # values of a tile: 64 KB, a few microseconds
# Nanoseconds for a float32 value on one thread beyond reading and writing it.
_MEMORY = 0.3
_COST = {
    **dict.fromkeys(("elu", "selu", "sigmoid", "silu", "gelu_tanh", "mish", "exp", "log"), 0.3),
    **dict.fromkeys(("tanh", "softplus", "gelu"), 0.4),
    "erf": 0.8,
}

ActivationBlock = Block("ActivationBlock", "x y", numbers="n part", reals="alpha beta")
GradientBlock = Block("ActivationGradientBlock", "g v gx", numbers="n part", reals="alpha beta")


@lru_cache
def make_activation(name, dtype):
    """The body that computes one activation."""
    KIND, LANES, NAME, FLOAT = dtype.str[1:], lanes(dtype), name, dtype.type

    @tile_body(ActivationBlock, dtype)
    def activation(block, tile, worker):
        """y[i] = act(x[i]); x and y may be one array.  Tile: a run of `part` values."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        alpha, beta = splat_vector(x, FLOAT(a.alpha)), splat_vector(x, FLOAT(a.beta))
        last = min((tile + 1) * a.part, a.n)
        i = tile * a.part
        while i + LANES <= last:
            store_vector(activation_vector(load_vector(x, i), alpha, beta, NAME), y, i)
            i += LANES
        if i < last:
            tail = load_window(x, i, 1, 0, last - i, 1)
            store_window(activation_vector(tail, alpha, beta, NAME), y, i, last - i)

    return activation


@lru_cache
def make_gradient(name, dtype):
    """The body that computes one activation's gradient."""
    KIND, LANES, NAME, FLOAT = dtype.str[1:], lanes(dtype), name, dtype.type

    @tile_body(GradientBlock, dtype)
    def activation_gradient(block, tile, worker):
        """gx[i] = act'(v[i]) g[i]; gx may be g or v.  Tile: a run of `part` values."""
        a = fields(block)
        g, v = array_at(a.g, a.g_size, KIND), array_at(a.v, a.v_size, KIND)
        gx = array_at(a.gx, a.gx_size, KIND)
        alpha, beta = splat_vector(g, FLOAT(a.alpha)), splat_vector(g, FLOAT(a.beta))
        last = min((tile + 1) * a.part, a.n)
        i = tile * a.part
        while i + LANES <= last:
            value = activation_gradient_vector(load_vector(g, i), load_vector(v, i), alpha, beta, NAME)
            store_vector(value, gx, i)
            i += LANES
        if i < last:
            g_tail, v_tail = load_window(g, i, 1, 0, last - i, 1), load_window(v, i, 1, 0, last - i, 1)
            store_window(activation_gradient_vector(g_tail, v_tail, alpha, beta, NAME), gx, i, last - i)

    return activation_gradient


def _row(body, name, size, arrays, alpha, beta):
    work = size * (_MEMORY * len(arrays) / 2 + _COST.get(name, 0.0))
    values = {**arrays, "n": size, "part": PART, "alpha": float(alpha), "beta": float(beta)}
    return Row(body, -(-size // PART), values, work)


def activation_row(name, x, y, alpha=0.0, beta=0.0):
    """The row that writes act(x) into y, which may be x: dense arrays of one dtype and size, float32 or float64."""
    return _row(make_activation(name, x.dtype), name, x.size, {"x": x, "y": y}, alpha, beta)


def gradient_row(name, g, v, gx, alpha=0.0, beta=0.0):
    """The row that writes the gradient into gx from g, the output's, and v: the output for names in FROM_OUTPUT, else
    the input.  Dense arrays as above; gx may be g or v."""
    return _row(make_gradient(name, g.dtype), name, g.size, {"g": g, "v": v, "gx": gx}, alpha, beta)


def _rows(x, y, name, *parameters):
    return [activation_row(name, x, y, *parameters)]


def _gradient_rows(g, v, gx, name, *parameters):
    return [gradient_row(name, g, v, gx, *parameters)]


def activated(name, x, *parameters):
    """act(x) of an array in any memory order; float16 is computed in float32.  parameters: alpha, beta."""
    if x.dtype == np.float16:
        return activated(name, x.astype(np.float32), *parameters).astype(np.float16)
    y = _memory.empty(x.shape, x.dtype)
    run_rows(_rows, (dense(x), y), name, *parameters)
    return y


def activation_gradient(name, g, v, *parameters):
    """The gradient of the input, like `activated`."""
    if g.dtype == np.float16:
        return activation_gradient(name, g.astype(np.float32), v.astype(np.float32), *parameters).astype(np.float16)
    gx = _memory.empty(g.shape, g.dtype)
    run_rows(_gradient_rows, (dense(g), dense(v), gx), name, *parameters)
    return gx


__all__ = [
    "FROM_OUTPUT",
    "activated",
    "activation_gradient",
    "activation_row",
    "gradient_row",
]
