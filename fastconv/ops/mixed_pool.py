"""Mixtures of maximum and average pooling: y = g max + (1 - g) mean, in 1, 2 and 3 dimensions.

mixed_pool   g is one learned number, or one for each channel (equation 1)
gated_pool   g = sigmoid(the sum over the window of w x), w learned, one for all channels or one each (equation 4)

Input (n, c, *size) or (c, *size), float32 or float64 -> output (n, c, *out) or (c, *out).  Source: Lee, Gallagher, Tu,
"Generalizing pooling functions in convolutional neural networks: mixed, gated, and tree", 2016, arXiv 1509.08985.
"""

from numbers import Real

from ..autograd import reshape
from ..pool_specs import check_input
from . import pool
from .activation import sigmoid
from .checks import array, same_dtype
from .conv import conv1d, conv2d, conv3d


def _both(ndim, x, kernel_size, stride, padding, ceil_mode, count_include_pad):
    """(maxima, means) of the windows."""
    largest = (pool.max_pool1d, pool.max_pool2d, pool.max_pool3d)[ndim - 1]
    mean = (pool.avg_pool1d, pool.avg_pool2d, pool.avg_pool3d)[ndim - 1]
    return (
        largest(x, kernel_size, stride, padding, 1, ceil_mode),
        mean(x, kernel_size, stride, padding, ceil_mode, count_include_pad),
    )


def _mixed(ndim, x, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad):
    op = f"mixed_pool{ndim}d"
    check_input(op, ndim, array(op, "input", x).shape, x.dtype)
    if not isinstance(alpha, Real) or isinstance(alpha, bool):
        same_dtype(op, "alpha", alpha, x)
        channels = x.shape[-ndim - 1]
        if tuple(alpha.shape) not in ((), (1,), (channels,)):
            raise ValueError(
                f"{op}: alpha must be one number or one for each of the {channels} channels, "
                f"given shape {tuple(alpha.shape)}"
            )
        alpha = reshape(alpha, (-1, *[1] * ndim))
    largest, mean = _both(ndim, x, kernel_size, stride, padding, ceil_mode, count_include_pad)
    return _blend(alpha, largest, mean)


def _blend(gate, largest, mean):
    return mean + gate * (largest - mean)


def mixed_pool1d(input, alpha, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """alpha max + (1 - alpha) mean of windows; see `mixed_pool2d`.  Input (n, c, l) or (c, l)."""
    return _mixed(1, input, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad)


def mixed_pool2d(input, alpha, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """alpha max + (1 - alpha) mean of windows.  Input (n, c, h, w) or (c, h, w) -> (n, c, oh, ow) or (c, oh, ow).

    alpha: a number, or an array or Tensor of the input's dtype and shape (), (1,) or (c,), which gets a gradient.
    The other arguments are those of `max_pool2d` and `avg_pool2d`.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _mixed(2, input, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad)


def mixed_pool3d(input, alpha, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """alpha max + (1 - alpha) mean of windows; see `mixed_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _mixed(3, input, alpha, kernel_size, stride, padding, ceil_mode, count_include_pad)


def _gate(ndim, x, weight, stride, padding):
    """sigmoid of the weighted sums of the windows, in the shape of the pooled output."""
    conv, size, c = (conv1d, conv2d, conv3d)[ndim - 1], tuple(x.shape[-ndim:]), x.shape[-ndim - 1]
    if weight.ndim == ndim:  # one for all channels: each channel is an image of its own
        images = reshape(x, (-1, 1, *size))
        sums = conv(images, reshape(weight, (1, 1, *weight.shape)), None, stride, padding)
        return sigmoid(reshape(sums, (*x.shape[:-ndim], *sums.shape[2:])))
    return sigmoid(conv(x, reshape(weight, (c, 1, *weight.shape[1:])), None, stride, padding, 1, c))


def _gated(ndim, x, weight, stride, padding, count_include_pad):
    op = f"gated_pool{ndim}d"
    check_input(op, ndim, array(op, "input", x).shape, x.dtype)
    same_dtype(op, "weight", array(op, "weight", weight), x)
    channels = x.shape[-ndim - 1]
    if weight.ndim not in (ndim, ndim + 1) or (weight.ndim == ndim + 1 and weight.shape[0] != channels):
        raise ValueError(
            f"{op}: weight must have the window's {ndim} dimensions, with {channels} channels before them or without, "
            f"given shape {tuple(weight.shape)}"
        )
    kernel = tuple(weight.shape[-ndim:])
    stride = kernel if stride is None else stride
    largest, mean = _both(ndim, x, kernel, stride, padding, False, count_include_pad)
    return _blend(_gate(ndim, x, weight, stride, padding), largest, mean)


def gated_pool1d(input, weight, stride=None, padding=0, count_include_pad=True):
    """Max and mean of windows, mixed by a gate; see `gated_pool2d`.  Input (n, c, l) or (c, l)."""
    return _gated(1, input, weight, stride, padding, count_include_pad)


def gated_pool2d(input, weight, stride=None, padding=0, count_include_pad=True):
    """g max + (1 - g) mean of windows, g = sigmoid(sum over the window of weight x).

    Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).
    weight: (kh, kw), or (c, kh, kw) with one gate for each channel, in the input's dtype; the window is as large.
    stride (default: the window), padding (for the gate with 0): a number or one per dimension.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _gated(2, input, weight, stride, padding, count_include_pad)


def gated_pool3d(input, weight, stride=None, padding=0, count_include_pad=True):
    """Max and mean of windows, mixed by a gate; see `gated_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _gated(3, input, weight, stride, padding, count_include_pad)
