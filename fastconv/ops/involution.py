"""Involution: a kernel for every pixel, the same for the channels of a group (Li et al. 2021, arXiv 2103.06255).

x (n, c, h, w), kernel (n, groups, kh * kw, oh, ow) -> y (n, c, oh, ow), equation (4):

    y[n, c, p] = sum over taps t of kernel[n, g(c), t, p] x[n, c, p*stride + t*dilation - padding],   g(c) = c*groups //
    c_all

The gradients are linear in both operands as well, and their own gradients are again these three operations.
"""

from .. import _memory, prepared
from ..autograd import Op
from ..autograd.op import value
from ..kernels.involution import InvolutionSpec
from ..packing import dense
from ..specs import conv_spec, whole_numbers
from .checks import floating, same_dtype


def _compute(which, shape, spec, groups, **operands):
    """A new array of this shape from the two others: y from x and k, k from x and y, or x from k and y."""
    out = _memory.empty(shape, spec.dtype)
    buffers = {name: dense(array) for name, array in operands.items()}
    (missing,) = {"x", "k", "y"} - buffers.keys()
    spec = InvolutionSpec(spec, groups)
    prepared.run(f"involution.{which}", spec, {**buffers, missing: out})
    return out


def _kernel_shape(spec, groups):
    return spec.n, groups, spec.taps, spec.oh, spec.ow


class Involution(Op):
    """y from (x, k)."""

    name = "involution"

    @staticmethod
    def forward(ctx, x, k, spec, groups):
        ctx.save(x, k)
        ctx.spec, ctx.groups = spec, groups
        return _compute("fwd", (spec.n, spec.ic, spec.oh, spec.ow), spec, groups, x=x, k=k)

    @staticmethod
    def backward(ctx, gy):
        x, k = ctx.saved
        gx = InvolutionBackwardData.apply(gy, k, ctx.spec, ctx.groups) if ctx.needs[0] else None
        gk = InvolutionBackwardKernel.apply(x, gy, ctx.spec, ctx.groups) if ctx.needs[1] else None
        return gx, gk, None, None


class InvolutionBackwardData(Op):
    """gx from (gy, k)."""

    name = "involution_bwd_data"

    @staticmethod
    def forward(ctx, gy, k, spec, groups):
        ctx.save(gy, k)
        ctx.spec, ctx.groups = spec, groups
        return _compute("bwd_data", (spec.n, spec.ic, spec.ih, spec.iw), spec, groups, k=k, y=gy)

    @staticmethod
    def backward(ctx, ggx):
        gy, k = ctx.saved
        ggy = Involution.apply(ggx, k, ctx.spec, ctx.groups) if ctx.needs[0] else None
        gk = InvolutionBackwardKernel.apply(ggx, gy, ctx.spec, ctx.groups) if ctx.needs[1] else None
        return ggy, gk, None, None


class InvolutionBackwardKernel(Op):
    """gk from (x, gy)."""

    name = "involution_bwd_kernel"

    @staticmethod
    def forward(ctx, x, gy, spec, groups):
        ctx.save(x, gy)
        ctx.spec, ctx.groups = spec, groups
        return _compute("bwd_kernel", _kernel_shape(spec, groups), spec, groups, x=x, y=gy)

    @staticmethod
    def backward(ctx, ggk):
        x, gy = ctx.saved
        gx = InvolutionBackwardData.apply(gy, ggk, ctx.spec, ctx.groups) if ctx.needs[0] else None
        ggy = Involution.apply(x, ggk, ctx.spec, ctx.groups) if ctx.needs[1] else None
        return gx, ggy, None, None


def involution2d(input, kernel, kernel_size, stride=1, padding=0, dilation=1):
    """Involution: input (n, c, h, w), kernel (n, groups, kh * kw, oh, ow) -> (n, c, oh, ow); both may lack n.

    kernel may also be (n, groups * kh * kw, oh, ow), as a convolution gives it: the number of groups follows and must
    divide c.  Raises ValueError or TypeError with given and wanted numbers.
    """
    op = "involution2d"
    floating(op, "input", input)
    same_dtype(op, "kernel", kernel, input)
    if input.ndim not in (3, 4):
        raise ValueError(f"{op}: input must be (n, c, h, w) or (c, h, w), given shape {tuple(input.shape)}")
    if kernel.ndim not in (input.ndim, input.ndim + 1):
        raise ValueError(
            f"{op}: kernel must have {input.ndim} or {input.ndim + 1} dimensions, given shape {tuple(kernel.shape)}"
        )
    x, k = (input, kernel) if input.ndim == 4 else (input.reshape(1, *input.shape), kernel.reshape(1, *kernel.shape))
    size = whole_numbers(op, "kernel_size", kernel_size, 2, 1)
    padding = whole_numbers(op, "padding", padding, 2, 0)
    channels = x.shape[1]
    if not channels:
        raise ValueError(f"{op}: input must have at least one channel, given shape {tuple(input.shape)}")
    spec = conv_spec(op, 2, x.shape, (channels, 1, *size), None, stride, padding, dilation, channels, value(x).dtype)
    groups = k.shape[1] if k.ndim == 5 else k.shape[1] // spec.taps
    flat = groups, spec.taps
    if (flat if k.ndim == 5 else (groups * spec.taps,)) != tuple(k.shape[1:-2]) or not groups or channels % groups:
        raise ValueError(
            f"{op}: kernel must have groups x {spec.taps} taps with groups dividing {channels} channels, "
            f"given shape {tuple(kernel.shape)}"
        )
    wanted = _kernel_shape(spec, groups)
    if (k.shape[0], *k.shape[-2:]) != (wanted[0], *wanted[-2:]):
        raise ValueError(
            f"{op}: kernel must be for {spec.n} images of {wanted[-2:]}, given shape {tuple(kernel.shape)}"
        )
    y = Involution.apply(x, k.reshape(wanted), spec, groups)
    return y if input.ndim == 4 else y.reshape(y.shape[1:])
