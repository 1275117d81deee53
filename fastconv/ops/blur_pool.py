"""Blur pooling: anti-aliased downsampling by a binomial filter, in 1, 2 and 3 dimensions.

y[i] = sum over k of b[k] x[i stride - K//2 + k (the even filters reach one further to the right)], b the binomial
coefficients of order K - 1 over their sum: [1 2 1]/4, [1 3 3 1]/8, [1 4 6 4 1]/16; along each dimension in turn.  The
padding keeps a stride of 1 at the input's size.  Linear: the gradient is the same map transposed.  Source: Zhang,
"Making convolutional networks shift-invariant again", 2019, arXiv 1904.11486, section 3.2.
"""

from functools import lru_cache
from math import comb

import numpy as np

from .. import _memory
from ..autograd.op import Op
from ..kernels import blur_pool as kernels
from ..kernels.separable import Axis, identity
from ..packing import dense
from ..pool_specs import check_input
from ..prepared import run_rows
from ..specs import whole_numbers
from . import pool
from .checks import array
from .recall import recalled

_MODES = ("reflect", "replicate", "zeros")


def _axis(size, kernel, stride, mode):
    out = (size - 1) // stride + 1
    source = np.arange(out)[:, None] * stride - (kernel - 1) // 2 + np.arange(kernel)
    inside = np.clip(source, 0, size - 1)
    weights = np.tile(np.array([comb(kernel - 1, k) for k in range(kernel)]) / 2.0 ** (kernel - 1), (out, 1))
    if mode == "zeros":
        weights = np.where(source == inside, weights, 0)
    elif mode == "reflect":
        inside = (size - 1) - np.abs((size - 1) - np.abs(source))
    return Axis(size, inside, weights, np.full(out, kernel))


def _border(size, kernel, mode):
    """The columns that the padding before and after a row repeats, -1 for zeros."""
    at = np.concatenate([np.arange(-((kernel - 1) // 2), 0), np.arange(size, size + kernel // 2)])
    if mode == "zeros":
        return np.full(len(at), -1)
    return np.clip(at, 0, size - 1) if mode == "replicate" else (size - 1) - np.abs((size - 1) - np.abs(at))


@lru_cache(maxsize=256)
def _maps(size, kernel, stride, mode, dtype, transposed):
    """(spatial output size, tables) of the map, or of its adjoint."""
    out = size if transposed else tuple((i - 1) // s + 1 for i, s in zip(size, stride, strict=True))
    axes = [_axis(i, k, s, mode) for i, k, s in zip(size[:-1], kernel[:-1], stride[:-1], strict=True)]
    axes = [identity(1)] * (2 - len(axes)) + [axis.transposed() if transposed else axis for axis in axes]
    border, factor = _border(size[-1], kernel[-1], mode), 2.0 ** (1 - kernel[-1])
    return out, kernels.tables(axes, factor, kernel[-1], stride[-1], border, dtype)


def _rows(x, y, settings, transposed):
    return (kernels.row(_maps(*settings, x.dtype.name, transposed)[1], x, y, transposed),)


class BlurPool(Op):
    """The map of `settings` (input size, kernel, stride, padding mode), or its adjoint."""

    name = "blur_pool"

    @staticmethod
    def forward(ctx, x, settings, transposed):
        ctx.settings, ctx.transposed = settings, transposed
        ndim = len(settings[0])
        size, _ = _maps(*settings, x.dtype.name, transposed)
        y = _memory.empty((*x.shape[: x.ndim - ndim], *size), x.dtype)
        run_rows(_rows, (dense(x), y), settings, transposed)
        return y

    @staticmethod
    def backward(ctx, g):
        return BlurPool.apply(g, ctx.settings, not ctx.transposed), None, None


def _blur(op, ndim, x, kernel_size, stride, padding_mode):
    check_input(op, ndim, array(op, "input", x).shape, x.dtype)
    kernel = whole_numbers(op, "kernel_size", kernel_size, ndim, 1)
    stride = whole_numbers(op, "stride", stride, ndim, 1)
    if padding_mode not in _MODES:
        raise ValueError(f"{op}: padding_mode must be one of {', '.join(_MODES)}, given {padding_mode!r}")
    size = tuple(x.shape[-ndim:])
    for i, k in zip(size, kernel, strict=True):
        if padding_mode == "reflect" and k // 2 >= i:
            raise ValueError(
                f"{op}: a filter of {k} reflects {k // 2} pixels at the border, more than {i} pixels have; "
                f"input shape {tuple(x.shape)}, kernel_size {kernel}"
            )
    return BlurPool.apply(x, (size, kernel, stride, padding_mode), False)


@recalled
def blur_pool1d(input, kernel_size=3, stride=2, padding_mode="reflect"):
    """Binomial filter and downsampling; see `blur_pool2d`.  Input (n, c, l) or (c, l)."""
    return _blur("blur_pool1d", 1, input, kernel_size, stride, padding_mode)


@recalled
def blur_pool2d(input, kernel_size=3, stride=2, padding_mode="reflect"):
    """Binomial filter and downsampling.  Input (n, c, h, w) or (c, h, w) -> output sizes (size - 1) // stride + 1.

    kernel_size: taps of the filter, stride: a number or one per dimension.
    padding_mode: reflect, replicate or zeros.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _blur("blur_pool2d", 2, input, kernel_size, stride, padding_mode)


@recalled
def blur_pool3d(input, kernel_size=3, stride=2, padding_mode="reflect"):
    """Binomial filter and downsampling; see `blur_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _blur("blur_pool3d", 3, input, kernel_size, stride, padding_mode)


def max_blur_pool2d(input, kernel_size=2, stride=2, padding=0, filter_size=3, padding_mode="reflect"):
    """Anti-aliased maximum pooling: `max_pool2d` with stride 1, then `blur_pool2d` with the stride (section 3.2).

    Input (n, c, h, w) or (c, h, w).  kernel_size, padding: of the maximum; filter_size: taps of the blur.
    """
    dense_maximum = pool.max_pool2d(input, kernel_size, 1, padding)
    return _blur("max_blur_pool2d", 2, dense_maximum, filter_size, stride, padding_mode)
