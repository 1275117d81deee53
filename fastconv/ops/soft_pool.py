"""Soft pooling: the mean of each window, weighted by e^x.

y = sum of e^x x / sum of e^x; dy/dx_i = w_i (1 + x_i - y), w the weights over their sum.  Input (n, c, *size) or
(c, *size), float32 or float64 -> output (n, c, *out) or (c, *out).  Source: Stergiou, Poppe, Kalliatakis, "Refining
activation downsampling with SoftPool", ICCV 2021, arXiv 2101.00440, equations 1 to 3.
"""

from .. import _memory, prepared
from ..autograd.op import Op
from ..kernels import weighted_pool  # noqa: F401  (it registers its implementations)
from ..packing import dense
from ..pool_specs import pool_spec
from .checks import array


class WeightedPool(Op):
    """A weighted mean of each window; `operation` says with which weights."""

    name = "weighted_pool"
    twice = False

    @staticmethod
    def forward(ctx, x, spec, operation):
        ctx.spec, ctx.operation = spec, operation
        y = _memory.empty(spec.y_shape if x.ndim == spec.ndim + 2 else spec.y_shape[1:], spec.dtype)
        prepared.run(f"{operation}.fwd", spec, {"x": dense(x), "y": y})
        ctx.save(x, y)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, y = ctx.saved
        gx = _memory.empty(x.shape, x.dtype)
        buffers = {"gx": gx, "gy": dense(gy), "x": dense(x), "y": y}
        prepared.run(f"{ctx.operation}.bwd", ctx.spec, buffers)
        return gx, None, None


def _soft(ndim, x, kernel_size, stride, ceil_mode):
    op = f"soft_pool{ndim}d"
    spec = pool_spec(op, ndim, array(op, "input", x).shape, kernel_size, stride, 0, 1, ceil_mode, x.dtype)
    return WeightedPool.apply(x, spec, "soft_pool")


def soft_pool1d(input, kernel_size, stride=None, ceil_mode=False):
    """Mean over windows, weighted by e^x; see `soft_pool2d`.  Input (n, c, l) or (c, l)."""
    return _soft(1, input, kernel_size, stride, ceil_mode)


def soft_pool2d(input, kernel_size, stride=None, ceil_mode=False):
    """Mean over windows, weighted by e^x.  Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).

    kernel_size, stride (default: kernel_size): a number or one per dimension.
    ceil_mode: a last window that hangs over the end is kept; it is the mean of what lies inside.
    Any finite input is safe: weights are relative to the largest value nearby.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _soft(2, input, kernel_size, stride, ceil_mode)


def soft_pool3d(input, kernel_size, stride=None, ceil_mode=False):
    """Mean over windows, weighted by e^x; see `soft_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _soft(3, input, kernel_size, stride, ceil_mode)
