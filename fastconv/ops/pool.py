"""Maximum and average pooling, plain and adaptive, in 1, 2 and 3 dimensions, as in torch.nn.functional.

Input (n, c, *size) or (c, *size), float32 or float64 -> output (n, c, *out) or (c, *out).  Backward of a maximum
scatters each gradient to the position of its maximum; backward of that gathers.  Averages are linear: forward and
backward are each other's gradient.
"""

from typing import Any

import numpy as np

from .. import _memory, prepared
from .._device import DeviceArray, adopt
from ..autograd.op import Op, Variable
from ..kernels import (  # noqa: F401  (they register their implementations)
    adaptive_columns,
    adaptive_lines,
    adaptive_pool,
    average_pool,
    global_pool,
    max_pool,
    volume_pool,
    window_collect,
    window_pool,
    window_pool_backward,
)
from ..packing import dense
from ..pool_specs import adaptive_spec, pool_spec
from .recall import recalled


def _empty(shape, spec, like, dtype=None):
    """An output buffer; without the batch dimension where `like` has none."""
    return _memory.empty(shape if like.ndim == spec.ndim + 2 else shape[1:], dtype or spec.dtype)


def _run(operation, spec, **buffers):
    prepared.run(spec.prefix + operation, spec, buffers)


# ---- the operations


class MaxPool(Op):
    """y, or (y, at) with the int64 positions of the maxima in their planes."""

    name = "max_pool"

    @staticmethod
    def forward(ctx, x, spec, return_indices):
        if not (return_indices or ctx.needs[0]):
            y = _empty(spec.y_shape, spec, x)
            _run("max_pool.fwd", spec, x=dense(x), y=y)
            return y
        ctx.spec = spec = spec.with_indices if return_indices else spec.with_short_indices
        y, at = _empty(spec.y_shape, spec, x), _empty(spec.y_shape, spec, x, spec.at)
        _run("max_pool.fwd", spec, x=dense(x), y=y, at=at)
        ctx.save(at)
        return (y, at) if return_indices else y

    @staticmethod
    def backward(ctx, gy, _=None):
        (at,) = ctx.saved
        return MaxPoolBackward.apply(gy, at, ctx.spec), None, None


class MaxPoolBackward(Op):
    """gx[at[o]] += gy[o] in every plane."""

    name = "max_pool_backward"

    @staticmethod
    def forward(ctx, gy, at, spec):
        ctx.spec = spec
        ctx.save(at)
        gx = _empty(spec.x_shape, spec, gy)
        _run("max_pool.bwd", spec, gx=gx, gy=dense(gy), at=dense(at))
        return gx

    @staticmethod
    def backward(ctx, ggx):
        (at,) = ctx.saved
        return MaxPoolGather.apply(ggx, at, ctx.spec), None, None


class MaxPoolGather(Op):
    """y[o] = x[at[o]] in every plane."""

    name = "max_pool_gather"

    @staticmethod
    def forward(ctx, x, at, spec):
        ctx.spec = spec
        ctx.save(at)
        y = _empty(spec.y_shape, spec, x)
        _run("max_pool.gather", spec, x=dense(x), y=y, at=dense(at))
        return y

    @staticmethod
    def backward(ctx, gy):
        (at,) = ctx.saved
        return MaxPoolBackward.apply(gy, at, ctx.spec), None, None


class AvgPool(Op):
    """y = the mean of each window."""

    name = "avg_pool"

    @staticmethod
    def forward(ctx, x, spec):
        ctx.spec = spec
        y = _empty(spec.y_shape, spec, x)
        _run("avg_pool.fwd", spec, x=dense(x), y=y)
        return y

    @staticmethod
    def backward(ctx, gy):
        return AvgPoolBackward.apply(gy, ctx.spec), None


class AvgPoolBackward(Op):
    """gx = each mean's gradient, spread over its window."""

    name = "avg_pool_backward"

    @staticmethod
    def forward(ctx, gy, spec):
        ctx.spec = spec
        gx = _empty(spec.x_shape, spec, gy)
        _run("avg_pool.bwd", spec, gx=gx, gy=dense(gy))
        return gx

    @staticmethod
    def backward(ctx, ggx):
        return AvgPool.apply(ggx, ctx.spec), None


# ---- the functions


def _check_array(op, x) -> Any:
    if not isinstance(x, (np.ndarray, Variable)):
        x = adopt(x)
        if not isinstance(x, DeviceArray):
            raise TypeError(f"{op}: input must be a NumPy array or a Tensor, given {type(x).__name__}")
    return x


def _check_indices(op, return_indices):
    if not isinstance(return_indices, bool):
        raise TypeError(f"{op}: return_indices must be True or False, given {return_indices!r}")


def _max(ndim, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    op = f"max_pool{ndim}d"
    x = _check_array(op, x)
    _check_indices(op, return_indices)
    spec = pool_spec(op, ndim, x.shape, kernel_size, stride, padding, dilation, ceil_mode, x.dtype)
    return MaxPool.apply(x, spec, return_indices)


@recalled
def max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows; see `max_pool2d`.  Input (n, c, l) or (c, l)."""
    return _max(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@recalled
def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows.  Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).

    kernel_size, stride (default: kernel_size), padding (with -inf; at most half the kernel), dilation: a number or one
    per dimension.
    ceil_mode: a last window that hangs over the end is kept if it begins inside the image or its left padding.
    return_indices: also the int64 position of each maximum in its plane, flat; -1 where a window covers no pixel.  NaN
    wins, then the last NaN; of equal values the first.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _max(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@recalled
def max_pool3d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """Maximum over windows; see `max_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _max(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _average(ndim, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):
    op = f"avg_pool{ndim}d"
    x = _check_array(op, x)
    average = (count_include_pad, divisor_override)
    return AvgPool.apply(
        x, pool_spec(op, ndim, x.shape, kernel_size, stride, padding, 1, ceil_mode, x.dtype, average=average)
    )


@recalled
def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """Mean over windows; see `avg_pool2d`.  Input (n, c, l) or (c, l)."""
    return _average(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@recalled
def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Mean over windows.  Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).

    kernel_size, stride (default: kernel_size), padding (with 0; at most half the kernel): a number or one per
    dimension.
    count_include_pad: the padding counts as pixels; what a window of ceil_mode covers beyond the padding never does.
    divisor_override: divide by this number instead of the count.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _average(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@recalled
def avg_pool3d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """Mean over windows; see `avg_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _average(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _adaptive_average(ndim, x, output_size):
    op = f"adaptive_avg_pool{ndim}d"
    x = _check_array(op, x)
    return AvgPool.apply(x, adaptive_spec(op, ndim, x.shape, output_size, x.dtype))


@recalled
def adaptive_avg_pool1d(input, output_size):
    """Mean over windows that divide the input; see `adaptive_avg_pool2d`.  Input (n, c, l) or (c, l)."""
    return _adaptive_average(1, input, output_size)


@recalled
def adaptive_avg_pool2d(input, output_size):
    """Mean over windows that divide the input.  Input (n, c, h, w) or (c, h, w) -> (n, c, oh, ow) or (c, oh, ow).

    output_size: a number or one per dimension; None keeps the input's size.
    Window i covers [floor(i h / oh), ceil((i + 1) h / oh)): as even as can be, overlapping by at most one.
    """
    return _adaptive_average(2, input, output_size)


@recalled
def adaptive_avg_pool3d(input, output_size):
    """Mean over windows that divide the input; see `adaptive_avg_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _adaptive_average(3, input, output_size)


def _adaptive_max(ndim, x, output_size, return_indices):
    op = f"adaptive_max_pool{ndim}d"
    x = _check_array(op, x)
    _check_indices(op, return_indices)
    return MaxPool.apply(x, adaptive_spec(op, ndim, x.shape, output_size, x.dtype), return_indices)


@recalled
def adaptive_max_pool1d(input, output_size, return_indices=False):
    """Maximum over windows that divide the input; see `adaptive_max_pool2d`.  Input (n, c, l) or (c, l)."""
    return _adaptive_max(1, input, output_size, return_indices)


@recalled
def adaptive_max_pool2d(input, output_size, return_indices=False):
    """Maximum over the windows of `adaptive_avg_pool2d`; with return_indices also its position, as in `max_pool2d`."""
    return _adaptive_max(2, input, output_size, return_indices)


@recalled
def adaptive_max_pool3d(input, output_size, return_indices=False):
    """Maximum over windows that divide the input; see `adaptive_max_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _adaptive_max(3, input, output_size, return_indices)
