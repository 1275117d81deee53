"""Power-average (LP) pooling in 1, 2 and 3 dimensions, as in torch.nn.functional: y = (sum of x^p)^(1/p).

Input (n, c, *size) or (c, *size), float32 or float64 -> output (n, c, *out) or (c, *out).  A window of ceil_mode that
hangs over the end counts as if its missing taps were like the others.  Source: Bruna, Szlam, LeCun, "Signal recovery
from pooling representations", 2014, section 2, and torch.nn.functional.lp_pool2d.

Gradient: gx = x^(p - 1) times the average pooling's gradient of K y^(1 - p) gy; 0 where a window's sum is 0, as in
torch.
"""

import numpy as np

from .. import _memory
from .._registry import select
from ..autograd import where
from ..autograd.op import Op, value
from ..kernels import lp_pool as kernels
from ..packing import dense
from ..pool_specs import pool_spec
from ..prepared import run_rows
from . import pool
from .checks import array


def _forward_rows(x, y, powers, spec, power):
    return select("lp_pool.fwd", spec).emit(spec, {"x": x, "y": y, "powers": powers, "power": power})


def _backward_rows(x, y, share, gx, spec, power):
    """`share` holds gy, and is written over."""
    rows = [kernels.map_row(kernels.make_lp_outer, y, share, power, spec.taps)]
    rows += select("avg_pool.bwd", spec).emit(spec, {"gx": gx, "gy": share})
    return rows if power == 1 else [*rows, kernels.map_row(kernels.make_lp_inner, x, gx, power)]


class LpPool(Op):
    name = "lp_pool"

    @staticmethod
    def forward(ctx, x, spec, power):
        ctx.spec, ctx.power = spec, power
        y = _memory.empty(spec.y_shape if x.ndim == spec.ndim + 2 else spec.y_shape[1:], spec.dtype)
        powers = None if power == 1 else _memory.empty(x.shape, x.dtype)
        run_rows(_forward_rows, (dense(x), y, powers), spec, power)
        ctx.save(x, y)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, y = ctx.saved
        spec, power = ctx.spec, ctx.power
        if not isinstance(gy, np.ndarray):  # by operations that are themselves differentiable
            zero = value(y) == 0
            share = where(zero, gy * 0, gy * where(zero, np.ones_like(value(y)), y) ** (1 - power) * spec.taps)
            spread = pool.AvgPoolBackward.apply(share, spec)
            return (spread if power == 1 else spread * x ** (power - 1)), None, None
        share = _memory.empty(gy.shape, gy.dtype)
        np.copyto(share, gy)
        gx = _memory.empty(x.shape, x.dtype)
        run_rows(_backward_rows, (dense(x), dense(y), share, gx), spec, power)
        return gx, None, None


def _check_kernel(op, ndim, kernel_size):
    given = len(kernel_size) if isinstance(kernel_size, (tuple, list)) else None
    if given is not None and (ndim == 1 or given != ndim):
        wanted = "a whole number" if ndim == 1 else f"a whole number or {ndim} of them"
        raise ValueError(f"{op}: kernel_size must be {wanted}, given {kernel_size!r}")


def _lp(ndim, x, norm_type, kernel_size, stride, ceil_mode):
    op = f"lp_pool{ndim}d"
    array(op, "input", x)
    if not isinstance(norm_type, (int, float, np.integer, np.floating)):
        raise TypeError(f"{op}: norm_type must be a number, given {norm_type!r}")
    if norm_type == 0 or norm_type != norm_type:
        raise ValueError(f"{op}: norm_type must be a number other than 0, given {norm_type}")
    _check_kernel(op, ndim, kernel_size)
    spec = pool_spec(op, ndim, x.shape, kernel_size, stride, 0, 1, ceil_mode, x.dtype, average=(True, None))
    if abs(norm_type) == float("inf"):
        sign = 1 if norm_type > 0 else -1
        return sign * pool.MaxPool.apply(sign * abs(x), spec, False)
    return LpPool.apply(x, spec, norm_type)


def lp_pool1d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """Power average over windows; see `lp_pool2d`.  Input (n, c, l) or (c, l)."""
    return _lp(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """Power average over windows: (sum of x^p)^(1/p).  Input (n, c, h, w) or (c, h, w) -> (n, c, oh, ow) or
    (c, oh, ow).

    norm_type: the exponent p, any number but 0; x^p is NaN for negative x and fractional p, as is the root of a
    negative sum.  Infinity: the maximum of the absolute values (minus infinity: their minimum).
    kernel_size, stride (default: kernel_size): a number or one per dimension.
    ceil_mode: a last window that hangs over the end is kept; its sum is scaled up to a whole window's.
    The gradient is 0 where the sum of a window is 0.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _lp(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(input, norm_type, kernel_size, stride=None, ceil_mode=False):
    """Power average over windows; see `lp_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _lp(3, input, norm_type, kernel_size, stride, ceil_mode)
