"""Reductions over all or some axes, on arrays or Tensors alike. Names and results follow torch (`dim`, `keepdim`)."""

import math
from typing import NamedTuple

import numpy as np

from .op import ArrayOp, value
from .shaping import expand, index, operator_index, reshape


class Sum(ArrayOp):
    name = "sum"

    @staticmethod
    def forward(ctx, x, axes, keepdim):
        ctx.shape, ctx.axes = x.shape, axes
        return x.sum(axis=axes, keepdims=keepdim)

    @staticmethod
    def backward(ctx, g):
        return _spread(g, ctx.shape, ctx.axes), None, None


class Mean(ArrayOp):
    name = "mean"

    @staticmethod
    def forward(ctx, x, axes, keepdim):
        ctx.shape, ctx.axes = x.shape, axes
        with np.errstate(invalid="ignore"):
            return np.true_divide(x.sum(axis=axes, keepdims=keepdim), _count(x.shape, axes))

    @staticmethod
    def backward(ctx, g):
        return _spread(g * (1.0 / max(_count(ctx.shape, ctx.axes), 1)), ctx.shape, ctx.axes), None, None


class Extreme(ArrayOp):
    """Largest (sign 1) or smallest (sign -1) value over `axes`; equal values share the gradient evenly."""

    name = "extreme"

    @staticmethod
    def forward(ctx, x, axes, keepdim, sign):
        kept = np.max(x, axis=axes, keepdims=True) if sign > 0 else np.min(x, axis=axes, keepdims=True)
        ctx.axes = axes
        if ctx.recording:
            hit = (x == kept) | (np.isnan(x) & np.isnan(kept))
            ctx.share = np.divide(hit, hit.sum(axis=axes, keepdims=True), dtype=x.dtype)
        return kept if keepdim else kept.reshape([n for i, n in enumerate(x.shape) if i not in axes])

    @staticmethod
    def backward(ctx, g):
        return _spread(g, ctx.share.shape, ctx.axes) * ctx.share, None, None, None


class Extremes(NamedTuple):
    """What `max(dim)` and `min(dim)` return."""

    values: object
    indices: np.ndarray


def sum(x, dim=None, keepdim=False):
    return Sum.apply(x, _axes(dim, x.ndim), keepdim)


def mean(x, dim=None, keepdim=False):
    if x.dtype.kind != "f":
        raise TypeError(f"mean: wants a floating-point tensor, got {x.dtype}")
    return Mean.apply(x, _axes(dim, x.ndim), keepdim)


def var(x, dim=None, correction=1, keepdim=False):
    """Mean squared distance from the mean, divided by (count - correction); `correction=1` is the unbiased estimate."""
    axes = _axes(dim, x.ndim)
    d = x - mean(x, axes, True)
    count = max(_count(x.shape, axes) - correction, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sum(d * d, axes, keepdim) / np.asarray(count, x.dtype)


def extreme(x, dim, keepdim, sign):
    """max (sign 1) or min (sign -1): over everything a value, over one axis (values, indices of the first)."""
    if x.size == 0 and (dim is None or x.shape[dim] == 0):
        raise ValueError(f"{'max' if sign > 0 else 'min'}: no values to choose from in shape {x.shape}, dim {dim}")
    if dim is None:
        return Extreme.apply(x, _axes(None, x.ndim), False, sign)
    axis = operator_index(dim, x.ndim)
    best = (np.argmax if sign > 0 else np.argmin)(value(x), axis=axis, keepdims=True)
    grid = list(np.ogrid[tuple(slice(n) for n in x.shape)])
    grid[axis] = best
    values = index(x, tuple(grid))
    if keepdim:
        return Extremes(values, best)
    return Extremes(reshape(values, x.shape[:axis] + x.shape[axis + 1 :]), best.squeeze(axis))


def _axes(dim, ndim):
    if dim is None:
        return tuple(range(ndim))
    axes = tuple(operator_index(d, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes {dim} name one axis twice")
    return axes


def _count(shape, axes):
    return math.prod(shape[a] for a in axes)


def _spread(g, shape, axes):
    """The gradient of a reduction, put back on every value that was reduced."""
    return expand(reshape(g, tuple(1 if i in axes else n for i, n in enumerate(shape))), shape)
