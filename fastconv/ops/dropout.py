"""Dropout (Srivastava et al. 2014), spatial dropout (Tompson et al. 2015, arXiv:1411.4280) and stochastic depth
(Huang et al. 2016, arXiv:1603.09382).
"""

import numpy as np

from .._random import generator
from ..autograd import Op
from .checks import floating, probability


class Dropout(Op):
    """x times a random mask of 0 and 1 / (1 - p); `shape` broadcasts against x and is what shares one draw."""

    name = "dropout"

    @staticmethod
    def forward(ctx, x, p, shape):
        keep = generator().random(shape, np.float32) >= p
        ctx.mask = keep * x.dtype.type(0 if p == 1 else 1 / (1 - p))
        return x * ctx.mask

    @staticmethod
    def backward(ctx, g):
        return g * ctx.mask, None, None


def dropout(input, p=0.5, training=True, inplace=False):
    """Each element becomes 0 with probability p; the others are divided by 1 - p. Nothing happens unless `training`."""
    input = floating("dropout", "input", input)
    probability("dropout", p)
    return Dropout.apply(input, p, input.shape) if training and p else input


def dropout2d(input, p=0.5, training=True, inplace=False):
    """Whole channels (the first two axes count them) become 0 with probability p; the others are divided by 1 - p."""
    input = floating("dropout2d", "input", input)
    probability("dropout2d", p)
    if input.ndim < 2:
        raise ValueError(f"dropout2d: input must have at least 2 dimensions (N, C, ...), got shape {input.shape}")
    shape = (*input.shape[:2], *[1] * (input.ndim - 2))
    return Dropout.apply(input, p, shape) if training and p else input


def stochastic_depth(input, p, mode, training=True):
    """The whole input (mode "batch") or whole rows of it (mode "row", the first axis counts them) become 0 with
    probability p; the others are divided by 1 - p.  Nothing happens unless `training`.  As torchvision.ops has it.
    """
    input = floating("stochastic_depth", "input", input)
    probability("stochastic_depth", p)
    if mode not in ("batch", "row"):
        raise ValueError(f"stochastic_depth: mode must be 'batch' or 'row', got {mode!r}")
    if input.ndim < 1:
        raise ValueError(f"stochastic_depth: input must have at least 1 dimension, got shape {input.shape}")
    rows = input.shape[0] if mode == "row" else 1
    return Dropout.apply(input, p, (rows, *[1] * (input.ndim - 1))) if training and p else input
