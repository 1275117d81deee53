"""Batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167).

x (N, C, *) is normalised per channel: y = (x - mean) rstd w + b, rstd = 1 / sqrt(var + eps). The gradient, with the
sums over the n values of a channel, is gx = w rstd (g - sum(g)/n - xhat sum(g xhat)/n), xhat = (x - mean) rstd; with
statistics that do not depend on x (evaluation) only the first term remains.
"""

import math

import numpy as np

from ..autograd import Op, Variable, reshape
from ..autograd import sum as sum_over
from .checks import floating, same_dtype


class BatchNorm(Op):
    name = "batch_norm"

    @staticmethod
    def forward(ctx, x, running_mean, running_var, weight, bias, training, momentum, eps):
        flat = _flat(x)
        if training:
            mean, var, out = _batch_statistics(flat)
            _update(running_mean, mean, running_var, var, momentum, flat)
        else:
            mean, var = running_mean.astype(x.dtype, copy=False), running_var.astype(x.dtype, copy=False)
            out = None
        rstd = 1 / np.sqrt(var + x.dtype.type(eps))
        scale = rstd if weight is None else rstd * weight
        if out is None:
            shift = -mean * scale if bias is None else bias - mean * scale
            out = flat * scale[:, None]
            out += shift[:, None]
        else:
            out *= scale[:, None]
            if bias is not None:
                out += bias[:, None]
        ctx.save(x, weight)
        ctx.mean, ctx.rstd, ctx.training, ctx.eps = mean, rstd, training, eps
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        rule = _backward_recorded if isinstance(g, Variable) else _backward
        gx, gw, gb = rule(ctx, g, x, weight)
        return gx, None, None, gw, gb, None, None, None


def _flat(x):
    """(N, C, *) as (N, C, L)."""
    return x.reshape(x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def _batch_statistics(flat):
    """Mean, biased variance and the centred input, in two passes over x (N, C, L)."""
    n = flat.shape[0] * flat.shape[2]
    if n == 0:
        return (
            np.zeros(flat.shape[1], flat.dtype),
            np.zeros(flat.shape[1], flat.dtype),
            np.empty(flat.shape, flat.dtype),
        )
    mean = flat.sum(axis=2).sum(axis=0) / n
    centred = flat - mean[:, None]
    return mean, np.einsum("ncl,ncl->nc", centred, centred).sum(axis=0) / n, centred


def _update(running_mean, mean, running_var, var, momentum, flat):
    """Running averages, in place; the variance kept is the unbiased one. Nothing happens for an empty batch."""
    n = flat.shape[0] * flat.shape[2]
    if n == 0:
        return
    for running, batch in ((running_mean, mean), (running_var, var * (n / max(n - 1, 1)))):
        if running is not None:
            running *= 1 - momentum
            running += momentum * batch


def _backward(ctx, g, x, weight):
    shape = x.shape
    g, x = _flat(g), _flat(x)
    n = max(x.shape[0] * x.shape[2], 1)
    sum_g = g.sum(axis=2).sum(axis=0)
    centred = x - ctx.mean[:, None]
    sum_gx = np.einsum("ncl,ncl->nc", g, centred).sum(axis=0) * ctx.rstd
    gx = None
    if ctx.needs[0]:
        scale = ctx.rstd if weight is None else ctx.rstd * weight
        gx = g * scale[:, None]
        if ctx.training:
            centred *= (-scale * ctx.rstd * sum_gx / n)[:, None]
            gx += centred
            gx -= (scale * sum_g / n)[:, None]
        gx = gx.reshape(shape)
    return gx, sum_gx if ctx.needs[3] else None, sum_g if ctx.needs[4] else None


def _backward_recorded(ctx, g, x, weight):
    """The same in Tensor arithmetic, statistics included, so that it can be differentiated."""
    axes = (0, *range(2, x.ndim))
    column = (1, -1, *[1] * (x.ndim - 2))
    n = max(math.prod(x.shape[a] for a in axes), 1)
    if ctx.training:
        centred = x - sum_over(x, axes, True) / n
        rstd = (sum_over(centred * centred, axes, True) / n + ctx.eps) ** -0.5
    else:
        centred, rstd = x - ctx.mean.reshape(column), ctx.rstd.reshape(column)
    xhat = centred * rstd
    sum_g, sum_gx = sum_over(g, axes, True), sum_over(g * xhat, axes, True)
    inner = g - sum_g / n - xhat * (sum_gx / n) if ctx.training else g
    gx = inner * rstd if weight is None else inner * (rstd * reshape(weight, column))
    return gx, reshape(sum_gx, (-1,)), reshape(sum_g, (-1,))


def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """input (N, C, *) normalised per channel; running_mean, running_var, weight, bias: (C) or None.

    In training the batch's own statistics are used, and the running ones, where given, are updated in place:
    (1 - momentum) * old + momentum * new. In evaluation the running ones are used.
    """
    floating("batch_norm", "input", input)
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, ...), got shape {input.shape}")
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: evaluation needs running_mean and running_var")
    channels = input.shape[1]
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, a in named.items():
        if a is not None and a.shape != (channels,):
            raise ValueError(f"batch_norm: {name} must have shape ({channels},) for input {input.shape}, got {a.shape}")
    same_dtype("batch_norm", "weight", weight, input)
    same_dtype("batch_norm", "bias", bias, input)
    if training and input.size == channels:
        raise ValueError(f"batch_norm: training needs more than 1 value per channel, got input shape {input.shape}")
    mean, var = (a._data if isinstance(a, Variable) else a for a in (running_mean, running_var))
    return BatchNorm.apply(input, mean, var, weight, bias, training, momentum, eps)
