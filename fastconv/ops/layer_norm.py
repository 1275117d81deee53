"""Layer normalisation (Ba, Kiros and Hinton 2016, arXiv:1607.06450): over the last axes, with a weight and a bias for
each place.
"""

import math

import numpy as np

from .. import _memory
from ..autograd import Op, Variable, reshape
from ..autograd import sum as sum_over
from ..kernels.norm_layer import normalise_rows, rows_gradient, rows_weight_gradient
from ..packing import dense
from .checks import same_dtype, single_or_double


class LayerNorm(Op):
    """x (rows, length), weight and bias (length) or None."""

    name = "layer_norm"

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        out = _memory.empty(x.shape, x.dtype)
        bias = np.zeros((1, x.shape[1]), x.dtype) if bias is None else dense(bias).reshape(1, -1)
        ctx.stats = normalise_rows(dense(x), out, _weights(weight, x), bias, eps)
        ctx.save(x, weight)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        if isinstance(g, Variable):
            return *_backward_recorded(ctx, g, x, weight), None
        x, g = dense(x), dense(g)
        gx = rows_gradient(x, g, _weights(weight, x), ctx.stats) if ctx.needs[0] else None
        gw = gb = None
        if ctx.needs[1] or ctx.needs[2]:
            gw, gb = (part[0] for part in rows_weight_gradient(x, g, ctx.stats, 1))
        return gx, gw, gb, None


def _weights(weight, x):
    return np.ones((1, x.shape[1]), x.dtype) if weight is None else dense(weight).reshape(1, -1)


def _backward_recorded(ctx, g, x, weight):
    """The same in Tensor arithmetic, so that it can be differentiated."""
    size = max(x.shape[1], 1)
    centred = x - sum_over(x, 1, True) / size
    rstd = (sum_over(centred * centred, 1, True) / size + ctx.eps) ** -0.5
    xhat = centred * rstd
    weighted = g if weight is None else g * reshape(weight, (1, -1))
    slope = weighted - sum_over(weighted, 1, True) / size - xhat * (sum_over(weighted * xhat, 1, True) / size)
    return slope * rstd, sum_over(g * xhat, 0), sum_over(g, 0)


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """input (*, *normalized_shape) normalised over the last axes; weight, bias: normalized_shape or None.

    arXiv:1607.06450, equations 3 and 4.
    """
    input = single_or_double("layer_norm", "input", input)
    wanted = tuple(normalized_shape)
    if not wanted or input.shape[-len(wanted) :] != wanted:
        raise ValueError(f"layer_norm: normalized_shape must be the last axes of input {input.shape}, got {wanted}")
    weight = same_dtype("layer_norm", "weight", weight, input)
    bias = same_dtype("layer_norm", "bias", bias, input)
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != wanted:
            raise ValueError(f"layer_norm: {name} must have shape {wanted}, got {a.shape}")
    length = math.prod(wanted)
    rows = math.prod(input.shape[: input.ndim - len(wanted)])
    weight, bias = (None if a is None else a.reshape(length) for a in (weight, bias))
    return LayerNorm.apply(input.reshape(rows, length), weight, bias, eps).reshape(input.shape)
