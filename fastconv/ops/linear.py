"""Fully connected layer: y = x W^T + b."""

import math

from .. import _config
from ..autograd import sum_to
from ..autograd.op import ArrayOp
from .checks import floating, same_dtype
from .conv import conv2d
from .matmul import ProductNN, ProductNT, ProductTN


class Linear(ArrayOp):
    """x (rows, I), weight (O, I), bias (O) or None -> (rows, O)."""

    name = "linear"

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save(x if ctx.needs[1] else None, weight if ctx.needs[0] else None)
        # a product may sum in another order for another number of rows, a convolution of one pixel an image does not
        alone = _config.batch_invariant() and 0 not in (*x.shape, len(weight))
        out = conv2d(x[..., None, None], weight[..., None, None])[..., 0, 0] if alone else ProductNT.apply(x, weight)
        if bias is not None:
            out += bias
        return out

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        return (
            ProductNN.apply(g, weight) if ctx.needs[0] else None,
            ProductTN.apply(g, x) if ctx.needs[1] else None,
            sum_to(g, g.shape[1:]) if ctx.needs[2] else None,
        )


def linear(input, weight, bias=None):
    """input (..., I), weight (O, I), bias (O) -> (..., O). With weight (I) and a 0-d bias the last axis goes."""
    input = floating("linear", "input", input)
    weight = same_dtype("linear", "weight", weight, input)
    bias = same_dtype("linear", "bias", bias, input)
    if weight.ndim not in (1, 2):
        raise ValueError(f"linear: weight must be (out_features, in_features), got shape {weight.shape}")
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"linear: weight expects {weight.shape[-1]} input features, input has "
            f"{input.shape[-1] if input.ndim else 'none'}; input shape {input.shape}, weight shape {weight.shape}"
        )
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"linear: bias must have shape {weight.shape[:-1]}, got {bias.shape}")
    rows = input if input.ndim == 2 else input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    matrix = weight if weight.ndim == 2 else weight.reshape(1, -1)
    vector = bias.reshape(-1) if bias is not None and bias.ndim == 0 else bias
    out = Linear.apply(rows, matrix, vector)
    return out if input.ndim == weight.ndim == 2 else out.reshape(input.shape[:-1] + weight.shape[:-1])
