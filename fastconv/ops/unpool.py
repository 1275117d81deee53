"""Maximum unpooling in 1, 2 and 3 dimensions: the partial inverse of maximum pooling, as in torch.nn.functional.

Input and int64 positions of one shape, (n, c, *size) or (c, *size) -> output (n, c, *out) or (c, *out), which holds
each value at its position in the plane and 0 elsewhere; of values with one position the last stays.  Source: Zeiler and
Fergus, "Visualizing and understanding convolutional networks", 2014, section 2.1.
"""

import numpy as np

from .. import _memory, prepared
from ..autograd.op import Op, value
from ..kernels import unpool as kernels
from ..packing import dense
from ..pool_specs import unpool_spec
from .checks import array
from .pool import MaxPoolGather


class MaxUnpool(Op):
    name = "max_unpool"

    @staticmethod
    def forward(ctx, x, at, spec, op):
        ctx.spec = spec
        ctx.save(at)
        y = _memory.empty(spec.x_shape if x.ndim == spec.ndim + 2 else spec.x_shape[1:], spec.dtype)
        bad = np.full(kernels.tiles(spec)[0], -1, np.int64)
        prepared.run("max_unpool.fwd", spec, {"x": dense(x), "y": y, "at": dense(at), "bad": bad})
        if bad.max(initial=-1) >= 0:
            wrong, pixels = at.ravel()[bad.max()], spec.in_pixels
            raise ValueError(
                f"{op}: indices must be from 0 to {pixels - 1}, positions in planes of "
                f"{'x'.join(map(str, spec.x_shape[2:]))}; given {wrong}"
            )
        return y

    @staticmethod
    def backward(ctx, gy):
        (at,) = ctx.saved
        return MaxPoolGather.apply(gy, at, ctx.spec), None, None, None


def _unpool(ndim, x, indices, kernel_size, stride, padding, output_size):
    op = f"max_unpool{ndim}d"
    array(op, "input", x)
    at = value(array(op, "indices", indices))
    if at.dtype != np.int64:
        raise TypeError(f"{op}: indices must be int64, given {at.dtype}")
    spec = unpool_spec(op, ndim, x.shape, kernel_size, stride, padding, output_size, x.dtype)
    if tuple(at.shape) != tuple(x.shape):
        raise ValueError(f"{op}: indices must have the input's shape {tuple(x.shape)}, given {tuple(at.shape)}")
    return MaxUnpool.apply(x, at, spec, op)


def max_unpool1d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put maxima back where they came from; see `max_unpool2d`.  Input (n, c, l) or (c, l)."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put maxima back where they came from.  Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).

    indices: int64, of the input's shape; flat positions in the output's planes, as `max_pool2d` returns them.
    kernel_size, stride (default: kernel_size), padding: of the pooling; a number or one per dimension.
    output_size: the output's spatial or whole size; by default (size - 1) * stride + kernel - 2 * padding, from which
    it may differ by less than a stride.
    Raises ValueError or TypeError for arguments that don't fit, and for positions outside the plane.
    """
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(input, indices, kernel_size, stride=None, padding=0, output_size=None):
    """Put maxima back where they came from; see `max_unpool2d`.  Input (n, c, d, h, w) or (c, d, h, w)."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)
