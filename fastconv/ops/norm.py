"""Batch, instance and group normalisation (arXiv:1502.03167, 1607.08022, 1803.08494).

x (N, C, *) is normalised by the mean and variance of a channel over the batch, of a channel of one image, or of a group
of channels of one image: y = (x - mean) rstd w[c] + b[c], rstd = 1 / sqrt(var + eps), the variance being that of all
values, not an estimate of their source's. The formulas of the gradients are in `kernels/norm.py`.
"""

import math

import numpy as np

from .. import _memory
from ..autograd import Op, Variable, reshape, value, where
from ..autograd import sum as sum_over
from ..autograd.op import is_watched
from ..kernels import batch_norm as in_training
from ..kernels.norm import COLUMNS, batch_groups, channel_groups, norm_gradient, norm_sums, normalise
from ..kernels.norm_layer import normalise_rows, rows_gradient, rows_weight_gradient
from ..packing import dense
from ..prepared import run_rows
from .checks import array, same_dtype, single_or_double

SHORT = 16  # rows of fewer values are laid out in longer ones


def _rows(x):
    """(N, C, *) as a dense (N, C, L)."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))


def _filled(parameter, channels, dtype, fill):
    return np.full(channels, fill, dtype) if parameter is None else dense(parameter)


def _given(mean, var, eps):
    """Statistics that do not depend on x, as the kernel keeps them."""
    stats = np.zeros((len(mean), COLUMNS))
    stats[:, 1], stats[:, 2], stats[:, 3] = mean, var, 1 / np.sqrt(var.astype(np.float64) + eps)
    return stats


# -- batches -----------------------------------------------------------------------------------------------------------


class BatchNorm(Op):
    name = "batch_norm"

    @staticmethod
    def forward(ctx, x, running_mean, running_var, weight, bias, training, momentum, eps):
        ctx.training, ctx.eps, ctx.clamp = training, eps, None
        if training and in_training.fits(x.shape):
            return _in_training(ctx, x, running_mean, running_var, weight, bias, momentum, FREE)
        flat = _long(x)
        out = _memory.empty(flat.shape, x.dtype)
        channels, groups = x.shape[1], batch_groups(*flat.shape[:2])
        stats = None if training else _given(running_mean, running_var, eps)
        parameters = _filled(weight, channels, x.dtype, 1), _filled(bias, channels, x.dtype, 0)
        stats = normalise(flat, out, *parameters, groups, eps, stats)
        if training:
            _update(running_mean, stats[:, 1], running_var, stats[:, 2], momentum, x.size // max(channels, 1))
        ctx.save(x, weight, bias)
        ctx.stats = stats
        return _back(out, x)

    @staticmethod
    def backward(ctx, g):
        x, weight, bias = ctx.saved
        if isinstance(g, Variable):
            gx, gw, gb = _backward_recorded(ctx, g, x, weight)
        elif ctx.clamp:
            gx, gw, gb = _backward_in_training(ctx, g, x, weight, bias)
        else:
            gx, gw, gb = _backward(ctx, g, x, weight)
        return gx, None, None, gw, gb, None, None, None


class ClampedBatchNorm(Op):
    """The batch norm of training and the ReLU or ReLU6 that follows it: v where low < v < high, else that bound."""

    name = "clamped_batch_norm"

    @staticmethod
    def forward(ctx, x, running_mean, running_var, weight, bias, momentum, eps, low, high):
        ctx.training, ctx.eps = True, eps
        return _in_training(ctx, x, running_mean, running_var, weight, bias, momentum, (low, high))

    @staticmethod
    def backward(ctx, g):
        x, weight, bias = ctx.saved
        if isinstance(g, Variable):
            scale = ctx.stats[:, 3] * (1 if weight is None else value(weight))
            shift = (0 if bias is None else value(bias)) - ctx.stats[:, 1] * scale
            column = (1, -1, *[1] * (x.ndim - 2))
            v = value(x) * scale.reshape(column) + shift.reshape(column)
            g = where((v <= ctx.clamp[0]) | (v >= ctx.clamp[1]), np.zeros((), g.dtype), g)
            gx, gw, gb = _backward_recorded(ctx, g, x, weight)
        else:
            gx, gw, gb = _backward_in_training(ctx, g, x, weight, bias)
        return gx, None, None, gw, gb, None, None, None, None


_TUNED = np.dtype(np.float32), np.dtype(np.float64)
FREE = math.nan, math.nan  # bounds of a clamp that does nothing


def _is_tracked(running, dtype):
    """Whether the kernel can update a running statistic itself."""
    return running is not None and running.dtype == dtype and running.flags.c_contiguous and running.flags.behaved


def _in_training(ctx, x, running_mean, running_var, weight, bias, momentum, clamp):
    """Forward by the kernels of training."""
    channels, dtype = x.shape[1], x.dtype
    track = _is_tracked(running_mean, dtype) and _is_tracked(running_var, dtype)
    none = None if track else np.empty(0, dtype)
    out, stats = _memory.empty(x.shape, dtype), np.empty((channels, COLUMNS))
    arrays = (
        *(dense(x), out, stats, _filled(weight, channels, dtype, 1), _filled(bias, channels, dtype, 0)),
        *((running_mean, running_var) if track else (none, none)),
        in_training.options_of(ctx.eps, momentum, *clamp),
    )
    run_rows(in_training.forward_rows, arrays, track)
    if not track:  # none, or of another kind
        _update(running_mean, stats[:, 1], running_var, stats[:, 2], momentum, x.size // channels)
    ctx.save(x, weight, bias)
    ctx.stats, ctx.clamp = stats, clamp
    return out


def _backward_in_training(ctx, g, x, weight, bias):
    channels, dtype, gx = x.shape[1], x.dtype, _memory.empty(x.shape, x.dtype)
    gw, gb = np.empty(channels, dtype), np.empty(channels, dtype)
    arrays = (
        *(dense(x), dense(g), gx, gw, gb, ctx.stats),
        *(_filled(weight, channels, dtype, 1), _filled(bias, channels, dtype, 0)),
        in_training.options_of(ctx.eps, 0.0, *ctx.clamp),
    )
    run_rows(in_training.backward_rows, arrays, ctx.clamp is not FREE)
    return gx, gw, gb


def _is_short(x):
    """Short rows of many images: better (1, C, N L) in a copy."""
    return math.prod(x.shape[2:]) < SHORT and x.shape[0] > 1


def _long(x):
    flat = _rows(x)
    return np.ascontiguousarray(flat.transpose(1, 0, 2)).reshape(1, x.shape[1], -1) if _is_short(x) else flat


def _back(out, x):
    """`out`, which lies like `_long(x)`, in x's shape."""
    if not _is_short(x):
        return out.reshape(x.shape)
    rows = out.reshape(x.shape[1], x.shape[0], math.prod(x.shape[2:]))
    return np.ascontiguousarray(rows.transpose(1, 0, 2)).reshape(x.shape)


def _update(running_mean, mean, running_var, var, momentum, n):
    """Running averages, in place; the variance kept is the unbiased one. Nothing happens for an empty batch."""
    if n == 0:
        return
    for running, batch in ((running_mean, mean), (running_var, var * (n / max(n - 1, 1)))):
        if running is not None:
            running *= 1 - momentum
            running += (momentum * batch).astype(running.dtype)


def _backward(ctx, g, x, weight):
    channels, flat, g_flat = x.shape[1], _long(x), _long(g)
    groups, weight = batch_groups(*flat.shape[:2]), _filled(weight, x.shape[1], x.dtype, 1)
    gx = None
    if ctx.training and ctx.needs[0]:
        gx, sums = norm_gradient(flat, g_flat, weight, groups, ctx.stats)
    else:
        sums = (
            norm_sums(flat, g_flat, groups, ctx.stats) if ctx.needs[3] or ctx.needs[4] else np.zeros((1, channels, 2))
        )
        if ctx.needs[0]:
            gx, slope = _memory.empty(flat.shape, x.dtype), np.zeros((channels, COLUMNS))
            slope[:, 3] = ctx.stats[:, 3]
            normalise(g_flat, gx, weight, np.zeros(channels, x.dtype), groups, 0.0, slope)
    gb, gw = sums[..., 0].sum(0), sums[..., 1].sum(0) * ctx.stats[:, 3]
    return None if gx is None else _back(gx, x), gw.astype(x.dtype), gb.astype(x.dtype)


def _backward_recorded(ctx, g, x, weight):
    """The same in Tensor arithmetic, statistics included, so that it can be differentiated."""
    axes = (0, *range(2, x.ndim))
    column = (1, -1, *[1] * (x.ndim - 2))
    n = max(math.prod(x.shape[a] for a in axes), 1)
    if ctx.training:
        centred = x - sum_over(x, axes, True) / n
        rstd = (sum_over(centred * centred, axes, True) / n + ctx.eps) ** -0.5
    else:
        mean, rstd = (ctx.stats[:, i].astype(x.dtype).reshape(column) for i in (1, 3))
        centred = x - mean
    xhat = centred * rstd
    sum_g, sum_gx = sum_over(g, axes, True), sum_over(g * xhat, axes, True)
    inner = g - sum_g / n - xhat * (sum_gx / n) if ctx.training else g
    gx = inner * rstd if weight is None else inner * (rstd * reshape(weight, column))
    return gx, reshape(sum_gx, (-1,)), reshape(sum_g, (-1,))


# -- groups of channels ------------------------------------------------------------------------------------------------


class GroupNorm(Op):
    """`groups` groups of neighbouring channels."""

    name = "group_norm"

    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        flat = _rows(x)
        n, channels, length = flat.shape
        out = _memory.empty(flat.shape, x.dtype)
        w, b = _filled(weight, channels, x.dtype, 1), _filled(bias, channels, x.dtype, 0)
        ctx.short = length < SHORT and channels > groups
        if ctx.short:
            rows = (n * groups, channels // groups * length)
            w, b = (np.repeat(a, length).reshape(groups, -1) for a in (w, b))
            ctx.stats = normalise_rows(flat.reshape(rows), out.reshape(rows), w, b, eps)
        else:
            ctx.stats = normalise(flat, out, w, b, channel_groups(n, channels, groups), eps)
        ctx.save(x, weight)
        ctx.groups, ctx.eps = groups, eps
        return out.reshape(x.shape)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        if isinstance(g, Variable):
            rule = _group_backward_recorded
        else:
            rule = _group_backward_short if ctx.short else _group_backward
        return *rule(ctx, g, x, weight), None, None


def _group_backward(ctx, g, x, weight):
    flat = _rows(x)
    n, channels, _ = flat.shape
    groups = channel_groups(n, channels, ctx.groups)
    gx, sums = norm_gradient(flat, _rows(g), _filled(weight, channels, x.dtype, 1), groups, ctx.stats)
    rstd = np.repeat(ctx.stats[:, 3].reshape(n, ctx.groups), channels // ctx.groups, axis=1)
    gw, gb = (sums[..., 1] * rstd).sum(0), sums[..., 0].sum(0)
    return gx.reshape(x.shape), gw.astype(x.dtype), gb.astype(x.dtype)


def _group_backward_short(ctx, g, x, weight):
    n, channels = x.shape[:2]
    length = math.prod(x.shape[2:])
    rows = (n * ctx.groups, channels // ctx.groups * length)
    x_rows, g_rows = _rows(x).reshape(rows), _rows(g).reshape(rows)
    w = np.repeat(_filled(weight, channels, x.dtype, 1), length).reshape(ctx.groups, -1)
    gx = rows_gradient(x_rows, g_rows, w, ctx.stats)
    gw, gb = rows_weight_gradient(x_rows, g_rows, ctx.stats, ctx.groups)
    return gx.reshape(x.shape), gw.reshape(channels, length).sum(1), gb.reshape(channels, length).sum(1)


def _group_backward_recorded(ctx, g, x, weight):
    """The same in Tensor arithmetic."""
    n, channels = x.shape[:2]
    inner, column = math.prod(x.shape[2:]), (1, channels, 1)
    rows, flat = (n * ctx.groups, channels // ctx.groups * inner), (n, channels, inner)
    size = max(rows[1], 1)
    centred = reshape(x, rows)
    centred = centred - sum_over(centred, 1, True) / size
    rstd = (sum_over(centred * centred, 1, True) / size + ctx.eps) ** -0.5
    xhat, g = centred * rstd, reshape(g, flat)
    gw, gb = sum_over(g * reshape(xhat, flat), (0, 2)), sum_over(g, (0, 2))
    weighted = reshape(g if weight is None else g * reshape(weight, column), rows)
    slope = weighted - sum_over(weighted, 1, True) / size - xhat * (sum_over(weighted * xhat, 1, True) / size)
    return reshape(slope * rstd, x.shape), gw, gb


# -- public functions --------------------------------------------------------------------------------------------------


def _check_input(op, x):
    x = single_or_double(op, "input", x)
    if x.ndim < 2:
        raise ValueError(f"{op}: input must be (N, C, ...), got shape {x.shape}")
    return x


def _check_channels(op, x, **named):
    """The arrays, those of a device ours."""
    named = {name: a if a is None else array(op, name, a) for name, a in named.items()}
    channels = x.shape[1]
    for name, a in named.items():
        if a is not None and a.shape != (channels,):
            raise ValueError(f"{op}: {name} must have shape ({channels},) for input {x.shape}, got {a.shape}")
    for name in ("weight", "bias"):
        same_dtype(op, name, named[name], x)
    return named.values()


def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """input (N, C, *) normalised per channel; running_mean, running_var, weight, bias: (C) or None.

    In training the batch's own statistics are used, and the running ones, where given, are updated in place:
    (1 - momentum) * old + momentum * new. In evaluation the running ones are used. An input (0) gives itself.
    """
    input, *arrays = _check_batch(input, running_mean, running_var, weight, bias, training, eps)
    if input.ndim == 1:
        return input * 1
    return BatchNorm.apply(input, *arrays, training, momentum, eps)


def _check_batch(input, running_mean, running_var, weight, bias, training, eps):
    """The arguments of a batch norm; running statistics as plain arrays."""
    if eps > 0 and training and _agree(input, running_mean, running_var, weight, bias):
        return input, running_mean, running_var, weight, bias
    input = single_or_double("batch_norm", "input", input)
    if input.ndim == 1 and not input.shape[0]:  # nothing, as torch takes it
        return input, None, None, None, None
    input = _check_input("batch_norm", input)
    if not training and (running_mean is None or running_var is None):
        raise ValueError("batch_norm: evaluation needs running_mean and running_var")
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    running_mean, running_var, weight, bias = _check_channels("batch_norm", input, **named)
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps}")
    if training and input.shape[0] * math.prod(input.shape[2:]) == 1:
        raise ValueError(f"batch_norm: training needs more than 1 value per channel, got input shape {input.shape}")
    return input, value(running_mean), value(running_var), weight, bias


def _agree(input, running_mean, running_var, weight, bias):
    """Whether these are what layers usually give: then there is nothing to check one by one."""
    x = value(input)
    if type(x) is not np.ndarray or x.ndim < 2 or x.dtype not in _TUNED or x.size <= x.shape[1]:
        return False
    shape, dtype = (x.shape[1],), x.dtype
    for a in (running_mean, running_var, value(weight), value(bias)):
        if type(a) is not np.ndarray or a.shape != shape or a.dtype != dtype:
            return False
    return True


def can_clamp(input):
    """Whether `clamped_batch_norm` takes this Tensor."""
    x = value(input)
    return isinstance(x, np.ndarray) and x.ndim >= 2 and in_training.fits(x.shape) and not is_watched()


def clamped_batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, high):
    """relu(batch_norm(...)) in training, with the same bits, in one pass: high is NaN; relu6: high is 6."""
    input, *arrays = _check_batch(input, running_mean, running_var, weight, bias, True, eps)
    return ClampedBatchNorm.apply(input, *arrays, momentum, eps, 0.0, high)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """input (N, C, *) normalised per image and group of C / num_groups channels; weight, bias: (C) or None.

    Wu and He 2018, arXiv:1803.08494, equation 1.
    """
    input = _check_input("group_norm", input)
    n, channels = input.shape[:2]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"group_norm: num_groups must divide the {channels} channels of input {input.shape}, got {num_groups}"
        )
    weight, bias = _check_channels("group_norm", input, weight=weight, bias=bias)
    if n * channels // num_groups * math.prod(input.shape[2:]) == 1:
        raise ValueError(f"group_norm: needs more than 1 value per group, got input {input.shape}, {num_groups} groups")
    return GroupNorm.apply(input, weight, bias, num_groups, eps)


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
):
    """input (N, C, *) normalised per image and channel; running_mean, running_var, weight, bias: (C) or None.

    With use_input_stats the running statistics, where given, are updated in place with the mean over the batch of
    each image's; without it they are used. Ulyanov et al. 2016, arXiv:1607.08022, equation 4.
    """
    op = "instance_norm"
    input = _check_input(op, input)
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    running_mean, running_var, weight, bias = _check_channels(op, input, **named)
    mean, var = value(running_mean), value(running_var)
    if not use_input_stats:
        if mean is None or var is None:
            raise ValueError(f"{op}: without use_input_stats running_mean and running_var are needed")
        return BatchNorm.apply(input, mean, var, weight, bias, False, momentum, eps)
    size = math.prod(input.shape[2:])
    if size == 1:
        raise ValueError(f"{op}: needs more than 1 value per channel and image, got input shape {input.shape}")
    if mean is not None or var is not None:
        x = value(input)
        flat = x.reshape(*x.shape[:2], size).astype(np.float64)
        own = flat.mean(2, keepdims=True)
        spread = ((flat - own) ** 2).mean(2)
        _update(mean, own[..., 0].mean(0), var, spread.mean(0), momentum, size if len(x) else 0)
    return GroupNorm.apply(input, weight, bias, input.shape[1], eps)
