"""Local response normalisation across channels (Krizhevsky, Sutskever and Hinton 2012, section 3.3).

x (N, C, *): y[c] = x[c] / (k + alpha / size * sum of x[j]^2)^beta, j = c - size // 2 .. c + (size - 1) // 2, as in
torch, whose alpha is divided by `size`.
"""

import math

from ..autograd import Op, Variable, reshape
from ..kernels.norm_response import respond, respond_gradient
from ..packing import dense
from .checks import single_or_double
from .shape import pad


class LocalResponseNorm(Op):
    """x (N, C, L)."""

    name = "local_response_norm"

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):
        ctx.save(x)
        ctx.numbers = size, alpha, beta, k
        return respond(dense(x), size, alpha, beta, k)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        if isinstance(g, Variable):
            gx = _backward_recorded(x, g, *ctx.numbers)
        else:
            gx = respond_gradient(dense(x), dense(g), *ctx.numbers)
        return gx, None, None, None, None


def _backward_recorded(x, g, size, alpha, beta, k):
    """The same in Tensor arithmetic, so that it can be differentiated."""
    before, after = size // 2, (size - 1) // 2
    d = _window_sum(x * x, before, after) * (alpha / size) + k
    factor = d**-beta
    spread = _window_sum(g * x * factor / d, after, before)
    return g * factor - x * spread * (2 * alpha * beta / size)


def _window_sum(x, before, after):
    """Along the channels, c - before .. c + after."""
    channels = x.shape[1]
    padded = pad(x, (0, 0, before, after))
    total = padded[:, :channels]
    for i in range(1, before + after + 1):
        total = total + padded[:, i : i + channels]
    return total


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    """input (N, C, *), at least three axes: every value divided by a power of its neighbours' squares.

    Neighbours are `size` channels around it; see the module for the formula.
    """
    op = "local_response_norm"
    input = single_or_double(op, "input", input)
    if input.ndim < 3:
        raise ValueError(f"{op}: input must be (N, C, *) with at least 3 axes, got shape {input.shape}")
    if size < 1:
        raise ValueError(f"{op}: size must be at least 1, got {size}")
    flat = reshape(input, (*input.shape[:2], math.prod(input.shape[2:])))
    return LocalResponseNorm.apply(flat, size, alpha, beta, k).reshape(input.shape)
