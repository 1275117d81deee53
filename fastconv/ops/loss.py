"""Losses. Names, parameters and results follow torch.nn.functional; `reduction` is "none", "mean" or "sum".

Options that torch takes after its deprecated arguments (`size_average`, `reduce`, left out here) are keyword-only.
"""

import math
import warnings

import numpy as np

from .._device import move
from ..autograd import Op, Variable, abs, mean, value, where
from ..autograd import sum as sum_over
from ..kernels.elementwise import activated
from .activation import Softplus, log_softmax, softmax
from .checks import array, floating, same_dtype


class CrossEntropy(Op):
    """Classes from logits in one go: x (N, C, L), target (N, L), weight (C) or None.

    With q = (1 - s) w_t onehot(t) + s/C w the loss of one position is -sum(q log softmax(x)), and its gradient
    softmax(x) sum(q) - q. Ignored positions have q = 0.
    """

    name = "cross_entropy"

    @staticmethod
    def forward(ctx, x, target, weight, ignore_index, reduction, smoothing):
        keep, index, w = _targets(x, target, weight, ignore_index)
        logs = log_softmax(x, 1)
        loss = (smoothing - 1) * w * np.take_along_axis(logs, index, 1)[:, 0]
        if smoothing:
            smooth = np.einsum("ncl,c->nl", logs, _class_weights(x, weight))
            loss -= np.where(keep, (smoothing / x.shape[1]) * smooth, 0)
        if ctx.recording:
            ctx.probability, ctx.index, ctx.w, ctx.keep = activated("exp", logs), index, w, keep
            ctx.weight, ctx.smoothing, ctx.reduction = weight, smoothing, reduction
            ctx.save(x)
        return _reduced(loss, reduction, w)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        each = _spread(g, ctx.reduction, ctx.w)
        share = ctx.smoothing / x.shape[1]
        q_total = (1 - ctx.smoothing) * ctx.w
        if ctx.smoothing:
            q_total = q_total + np.where(ctx.keep, share * _class_weights(x, ctx.weight).sum(), 0).astype(x.dtype)
        recorded = isinstance(g, Variable)
        p = softmax(x, 1) if recorded else ctx.probability
        if recorded:
            q = _distribution(ctx, x, share)
            gx = (p * q_total[:, None] - q) * each.reshape(each.shape[0], 1, *each.shape[1:])
        else:
            gx = p * (q_total * each)[:, None]
            if ctx.smoothing:
                gx -= (share * _class_weights(x, ctx.weight))[:, None] * np.where(ctx.keep, each, 0)[:, None]
            at = np.take_along_axis(gx, ctx.index, 1) - ((1 - ctx.smoothing) * ctx.w * each)[:, None]
            np.put_along_axis(gx, ctx.index, at, 1)
        return gx, None, None, None, None, None


class NLL(Op):
    """Classes from log-probabilities: x (N, C, L), target (N, L), weight (C) or None. Linear in x."""

    name = "nll_loss"

    @staticmethod
    def forward(ctx, x, target, weight, ignore_index, reduction):
        keep, index, w = _targets(x, target, weight, ignore_index)
        loss = np.where(keep, -w * np.take_along_axis(x, index, 1)[:, 0], 0).astype(x.dtype, copy=False)
        if ctx.recording:
            ctx.index, ctx.w, ctx.shape, ctx.reduction = index, w, x.shape, reduction
        return _reduced(loss, reduction, w)

    @staticmethod
    def backward(ctx, g):
        slope = np.zeros(ctx.shape, ctx.w.dtype)
        np.put_along_axis(slope, ctx.index, -ctx.w[:, None], 1)
        each = _spread(g, ctx.reduction, ctx.w)
        return slope * each.reshape(each.shape[0], 1, *each.shape[1:]), None, None, None, None


class Huber(Op):
    """d^2 / (2 beta) within beta of 0, |d| - beta/2 beyond."""

    name = "smooth_l1"

    @staticmethod
    def forward(ctx, d, beta):
        ctx.save(d)
        ctx.beta = beta
        size = np.abs(d)
        return np.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta)

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved
        raw = value(d)
        return where(np.abs(raw) < ctx.beta, g * (d * (1 / ctx.beta)), g * np.sign(raw)), None


def _targets(x, target, weight, ignore_index):
    """Which positions count (N, L), their class as an index (N, 1, L), and their weight, 0 where ignored."""
    keep = target != ignore_index
    index = np.where(keep, target, 0)
    w = keep.astype(x.dtype) if weight is None else np.where(keep, weight[index], 0).astype(x.dtype, copy=False)
    return keep, index[:, None], w


def _class_weights(x, weight):
    return np.ones(x.shape[1], x.dtype) if weight is None else weight


def _distribution(ctx, x, share):
    """q of the class comment, (N, C, L)."""
    q = np.zeros(x.shape, x.dtype)
    if ctx.smoothing:
        q += np.where(ctx.keep[:, None], (share * _class_weights(x, ctx.weight))[:, None], 0)
    at = np.take_along_axis(q, ctx.index, 1)
    np.put_along_axis(q, ctx.index, at + ((1 - ctx.smoothing) * ctx.w)[:, None], 1)
    return q


def _reduced(loss, reduction, w):
    """The weighted mean divides by the sum of weights: all ignored gives NaN, as in torch."""
    if reduction == "none":
        return loss
    if reduction == "sum":
        return np.asarray(loss.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(loss.sum() / w.sum())


def _spread(g, reduction, w):
    """The gradient of each position's loss, (N, L); where all are ignored the mean is NaN and its gradient 0."""
    if reduction == "none":
        return g
    total = w.sum() if reduction == "mean" else w.dtype.type(1)
    scale = np.where(total == 0, 0, 1 / np.where(total == 0, 1, total)).astype(w.dtype)
    return g * np.broadcast_to(scale, w.shape)


def _check_reduction(op, reduction):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def _reduce(loss, reduction):
    return loss if reduction == "none" else mean(loss) if reduction == "mean" else sum_over(loss)


# -- classes -----------------------------------------------------------------------------------------------------------


def cross_entropy(input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Cross entropy of logits, input (N, C), (C) or (N, C, ...).

    target: classes as integers, of input's shape without C, or probabilities of input's shape. weight: (C). Positions
    with the class `ignore_index` count for nothing. label_smoothing mixes in that much of the uniform distribution.
    """
    input = floating("cross_entropy", "input", input)
    target = array("cross_entropy", "target", target)
    _check_reduction("cross_entropy", reduction)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be from 0 to 1, got {label_smoothing}")
    if target.shape == input.shape and target.dtype.kind == "f":
        weight = _check_class_weight("cross_entropy", input, weight)
        if ignore_index >= 0:
            raise ValueError(f"cross_entropy: probabilities have no class to ignore, got ignore_index {ignore_index}")
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    shaped = _classes_last("cross_entropy", input, target, weight, ignore_index)
    out = CrossEntropy.apply(*shaped, ignore_index, reduction, label_smoothing)
    return out.reshape(target.shape) if reduction == "none" else out


def nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood of log-probabilities, input (N, C), (C) or (N, C, ...); arguments as in cross_entropy."""
    input = floating("nll_loss", "input", input)
    target = array("nll_loss", "target", target)
    _check_reduction("nll_loss", reduction)
    out = NLL.apply(*_classes_last("nll_loss", input, target, weight, ignore_index), ignore_index, reduction)
    return out.reshape(target.shape) if reduction == "none" else out


def _soft_cross_entropy(input, target, weight, reduction, smoothing):
    axis = 0 if input.ndim == 1 else 1
    classes = input.shape[axis]
    target = target * (1 - smoothing) + smoothing / classes if smoothing else target
    logs = log_softmax(input, axis)
    if weight is not None:
        logs = logs * weight.reshape(-1, *[1] * (input.ndim - 1 - axis))
    loss = sum_over(logs * target, axis) * -1
    if reduction == "mean":
        return sum_over(loss) / max(math.prod(loss.shape), 1)
    return _reduce(loss, reduction)


def _check_class_weight(op, input, weight):
    classes = input.shape[0 if input.ndim == 1 else 1]
    weight = same_dtype(op, "weight", weight, input)
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{op}: weight must have shape ({classes},), one per class, got {weight.shape}")
    return weight


def _classes_last(op, input, target, weight, ignore_index):
    """Checked, as x (N, C, L), target (N, L) and weight."""
    if input.ndim == 0:
        raise ValueError(f"{op}: input must be (C), (N, C) or (N, C, ...), got a single number")
    weight = _check_class_weight(op, input, weight)
    axis = 0 if input.ndim == 1 else 1
    wanted = input.shape[:axis] + input.shape[axis + 1 :]
    if target.shape != wanted:
        raise ValueError(f"{op}: target must have shape {wanted} for input {input.shape}, got {target.shape}")
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: target of classes must be integers, got {target.dtype}")
    classes = input.shape[axis]
    t = value(target)
    bad = (t != ignore_index) & ((t < 0) | (t >= classes))
    if bad.any():
        first = np.asarray(move(t, "cpu"))[np.asarray(move(bad, "cpu"))].flat[0]
        raise ValueError(f"{op}: target {first} is out of range for {classes} classes (0 to {classes - 1})")
    rows = 1 if axis == 0 else input.shape[0]
    spatial = math.prod(input.shape[axis + 1 :])
    return input.reshape(rows, classes, spatial), t.reshape(rows, spatial), value(weight)


# -- differences -------------------------------------------------------------------------------------------------------


def mse_loss(input, target, *, reduction="mean"):
    """Squared difference."""
    d = _difference("mse_loss", input, target, reduction)
    return _reduce(d * d, reduction)


def l1_loss(input, target, *, reduction="mean"):
    """Absolute difference."""
    return _reduce(abs(_difference("l1_loss", input, target, reduction)), reduction)


def smooth_l1_loss(input, target, *, reduction="mean", beta=1.0):
    """Squared difference / (2 beta) where it is below beta, absolute difference - beta/2 elsewhere."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    d = _difference("smooth_l1_loss", input, target, reduction)
    return _reduce(Huber.apply(d, beta) if beta else abs(d), reduction)


def _difference(op, input, target, reduction):
    input, target = floating(op, "input", input), floating(op, "target", target)
    _check_reduction(op, reduction)
    if input.shape != target.shape:
        try:
            np.broadcast_shapes(input.shape, target.shape)
        except ValueError:
            raise ValueError(f"{op}: target {target.shape} does not broadcast to input {input.shape}") from None
        text = f"{op}: target {target.shape} has another shape than input {input.shape}; they are broadcast"
        warnings.warn(text, UserWarning, stacklevel=3)
    return input - target


def binary_cross_entropy_with_logits(input, target, weight=None, *, reduction="mean", pos_weight=None):
    """-(pos_weight t log s + (1 - t) log(1 - s)), s = sigmoid(input), computed without overflow, times `weight`.

    target has input's shape; weight and pos_weight broadcast against it.
    """
    op = "binary_cross_entropy_with_logits"
    input, target = floating(op, "input", input), floating(op, "target", target)
    _check_reduction(op, reduction)
    if target.shape != input.shape:
        raise ValueError(f"{op}: target must have input's shape {input.shape}, got {target.shape}")
    softplus = Softplus.apply(-input)
    if pos_weight is not None:
        softplus = softplus * ((pos_weight - 1) * target + 1)
    loss = input * (1 - target) + softplus
    return _reduce(loss if weight is None else loss * weight, reduction)
