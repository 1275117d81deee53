"""Deformable convolution: each tap of each output pixel has an offset of its own, and a weight (the mask) if wanted.

    y[n, o, p] = b[o] + sum over c, t of w[o, c, t] m[n, t, p] x(n, c, p*stride + t*dilation - padding + d[n, t, p])

with x(.) bilinear and 0 outside (Dai et al. 2017, arXiv 1703.06211, equations 2 to 4; the mask: Zhu et al. 2018, arXiv
1811.11168, equation 1).  Channels fall into offset groups with offsets and masks of their own.

deform_aggregate2d leaves the weights out: each channel is the masked sum of its samples (DCNv4, Xiong et al. 2024,
arXiv 2401.06197, equation 2).  active_conv2d has one learned offset a tap, whatever the pixel (Jeon and Kim 2017, arXiv
1703.09076).
"""

from typing import Any

import numpy as np

from .. import _memory, prepared
from .._registry import select
from ..autograd import Op, expand
from ..autograd.op import value
from ..driver import launch
from ..kernels import deform_backward  # noqa: F401  (registers the gradients)
from ..kernels.deform import DeformSpec, channels_last, layout_row
from ..packing import dense
from ..specs import conv_spec, whole_numbers
from .checks import floating, same_dtype


def _channels_last(spec, x):
    last = channels_last(spec)
    prepared.run_rows(_layout_rows, (dense(x), last), spec)
    return last


def _layout_rows(x, last, spec):
    return (layout_row(x, last, spec.ic, spec.ih * spec.iw, 1),)


def _is_empty(spec):
    return 0 in (spec.n, spec.ic, spec.pixels, spec.ih * spec.iw)


class DeformConv(Op):
    """y from (x, offset, w, b or None, mask or None)."""

    name = "deform_conv"
    twice = False

    @staticmethod
    def forward(ctx, x, offset, w, b, mask, spec):
        ctx.save(x, offset, w, mask)
        ctx.spec = spec
        y = _memory.empty((spec.n, spec.oc, spec.oh, spec.ow), spec.dtype)
        if _is_empty(spec) or not spec.oc:
            y[...] = 0 if b is None else b[:, None, None]
            return y
        buffers = {"x": dense(x), "offset": dense(offset), "mask": dense(mask), "w": dense(w), "bias": dense(b), "y": y}
        prepared.run("deform_conv.fwd", spec, buffers)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, offset, w, mask = ctx.saved
        spec, needs = ctx.spec, (ctx.needs[0], ctx.needs[1], ctx.needs[4])
        gb = gy.reshape(spec.n, spec.oc, spec.pixels).sum(2).sum(0) if ctx.needs[3] else None
        if _is_empty(spec) or not spec.oc:
            gx, goffset, gw, gmask = (None if a is None else np.zeros_like(a) for a in (x, offset, w, mask))
            return gx, goffset, gw, gb, gmask, None
        gx = goffset = gw = gmask = None
        last, gy, offset, mask = _channels_last(spec, x), dense(gy), dense(offset), dense(mask)
        if any(needs):
            buffers = {"last": last, "offset": offset, "mask": mask, "w": w, "gy": gy, "needs": needs}
            launch(*select("deform_conv.bwd_data", spec).emit(spec, buffers))
            gx, goffset, gmask = buffers["finish"]()
        if ctx.needs[2]:
            buffers = {"last": last, "offset": offset, "mask": mask, "gy": gy}
            launch(*select("deform_conv.bwd_weights", spec).emit(spec, buffers))
            gw = buffers["finish"]().reshape(w.shape)
        return gx, goffset, gw, gb, gmask, None


class DeformAggregate(Op):
    """y from (x, offset, mask)."""

    name = "deform_aggregate"
    twice = False

    @staticmethod
    def forward(ctx, x, offset, mask, spec):
        ctx.save(x, offset, mask)
        ctx.spec = spec
        if _is_empty(spec):
            return np.zeros((spec.n, spec.ic, spec.oh, spec.ow), spec.dtype)
        y = _memory.empty((spec.n, spec.ic, spec.oh, spec.ow), spec.dtype)
        buffers = {"last": _channels_last(spec, x), "offset": dense(offset), "mask": dense(mask), "y": y}
        launch(*select("deform_aggregate.fwd", spec).emit(spec, buffers))
        return y

    @staticmethod
    def backward(ctx, gy):
        x, offset, mask = ctx.saved
        if _is_empty(ctx.spec):
            return np.zeros_like(x), np.zeros_like(offset), np.zeros_like(mask), None
        buffers = {"last": _channels_last(ctx.spec, x), "offset": dense(offset), "mask": dense(mask)}
        buffers |= {"w": None, "gy": dense(gy), "needs": ctx.needs[:3]}
        launch(*select("deform_aggregate.bwd_data", ctx.spec).emit(ctx.spec, buffers))
        return (*buffers["finish"](), None)


# ---- checks


def _check_maps(op, spec_size, offset, mask, taps):
    """The number of offset groups; offset and mask must have the output's size and channels for whole groups."""
    n, oh, ow = spec_size
    groups, left = divmod(offset.shape[1], 2 * taps)
    if left or not groups:
        raise ValueError(f"{op}: offset must have 2 x {taps} taps x offset groups channels, given {offset.shape[1]}")
    for name, array, channels in (("offset", offset, 2 * groups * taps), ("mask", mask, groups * taps)):
        if array is not None and tuple(array.shape) != (n, channels, oh, ow):
            raise ValueError(f"{op}: {name} must have shape {(n, channels, oh, ow)}, given {tuple(array.shape)}")
    return groups


def _batch(op, input, offset, mask) -> Any:
    """Input, offset and mask with a batch."""
    input = floating(op, "input", input)
    offset = same_dtype(op, "offset", offset, input)
    mask = same_dtype(op, "mask", mask, input)
    if input.ndim not in (3, 4):
        raise ValueError(f"{op}: input must be (n, c, h, w) or (c, h, w), given shape {input.shape}")
    for name, array in (("offset", offset), ("mask", mask)):
        if array is not None and array.ndim != input.ndim:
            raise ValueError(
                f"{op}: {name} must have {input.ndim} dimensions like the input, given {tuple(array.shape)}"
            )
    if input.ndim == 4:
        return input, offset, mask
    return tuple(None if a is None else a.reshape(1, *a.shape) for a in (input, offset, mask))


def _tap_places(spec):
    """(row, column) of every tap relative to the output pixel times the stride."""
    return tuple((i * spec.dh - spec.ph, j * spec.dw - spec.pw) for i in range(spec.kh) for j in range(spec.kw))


def _deform_spec(op, conv, offset_groups, taps, oc, groups, modulated):
    if conv.ic % offset_groups:
        raise ValueError(f"{op}: {conv.ic} input channels can't be split into {offset_groups} offset groups")
    return DeformSpec(
        *(conv.n, conv.ic, oc, groups, offset_groups, conv.ih, conv.iw, conv.oh, conv.ow, conv.sh, conv.sw),
        *(taps, modulated, conv.dtype),
    )


# ---- public functions


def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):
    """Deformable convolution v1 and, with a mask, v2; as torchvision.ops.deform_conv2d.

    input (n, ic, h, w), offset (n, 2 * offset groups * kh * kw, oh, ow) with (down, right) pairs in pixels, weight
    (oc, ic / groups, kh, kw), bias (oc,), mask (n, offset groups * kh * kw, oh, ow) -> (n, oc, oh, ow); all but weight
    and bias may lack n.  Groups follow from the shapes.  Gradients for all five arrays.  Raises ValueError or TypeError
    with given and wanted numbers.
    """
    op = "deform_conv2d"
    x, offsets, masks = _batch(op, input, offset, mask)
    weight = same_dtype(op, "weight", weight, x)
    bias = same_dtype(op, "bias", bias, x)
    if weight.ndim != 4 or not weight.shape[1] or x.shape[1] % weight.shape[1]:
        raise ValueError(
            f"{op}: weight must be (oc, ic / groups, kh, kw) for {x.shape[1]} input channels, "
            f"given {tuple(weight.shape)}"
        )
    groups = x.shape[1] // weight.shape[1] or 1
    padding = whole_numbers(op, "padding", padding, 2, 0)
    shapes = x.shape, weight.shape, None if bias is None else bias.shape
    conv = conv_spec(op, 2, *shapes, stride, padding, dilation, groups, value(x).dtype)
    offset_groups = _check_maps(op, (conv.n, conv.oh, conv.ow), offsets, masks, conv.taps)
    spec = _deform_spec(op, conv, offset_groups, _tap_places(conv), conv.oc, groups, mask is not None)
    y = DeformConv.apply(x, offsets, weight, bias, masks, spec)
    return y if input.ndim == 4 else y.reshape(y.shape[1:])


def deform_aggregate2d(
    input, offset, mask, kernel_size, stride=1, padding=0, dilation=1, offset_scale=1.0, remove_center=False
):
    """Each channel is the sum of its deformable samples, weighted by the mask: the operation of DCNv3 and DCNv4.

    input (n, c, h, w), offset (n, 2 * groups * taps, oh, ow), mask (n, groups * taps, oh, ow) -> (n, c, oh, ow); all
    may lack n.  taps = kh * kw, one less with remove_center, for which kh and kw must be odd.  Offsets are multiplied
    by offset_scale.  The mask is taken as it is: DCNv3 passes a softmax over taps, DCNv4 plain numbers.
    """
    op = "deform_aggregate2d"
    x, offsets, masks = _batch(op, input, offset, mask)
    kernel = whole_numbers(op, "kernel_size", kernel_size, 2, 1)
    padding = whole_numbers(op, "padding", padding, 2, 0)
    channels = x.shape[1]
    if mask is None:
        raise TypeError(f"{op}: mask must be an array or a Tensor, got None")
    if not channels:
        raise ValueError(f"{op}: input must have at least one channel, given shape {tuple(input.shape)}")
    conv = conv_spec(op, 2, x.shape, (channels, 1, *kernel), None, stride, padding, dilation, channels, value(x).dtype)
    taps = _tap_places(conv)
    if remove_center:
        if not kernel[0] % 2 or not kernel[1] % 2 or len(taps) == 1:
            raise ValueError(f"{op}: remove_center needs an odd kernel of more than one tap, given {kernel}")
        taps = taps[: len(taps) // 2] + taps[len(taps) // 2 + 1 :]
    groups = _check_maps(op, (conv.n, conv.oh, conv.ow), offsets, masks, len(taps))
    spec = _deform_spec(op, conv, groups, taps, 0, 1, True)
    y = DeformAggregate.apply(x, offsets if offset_scale == 1 else offsets * offset_scale, masks, spec)
    return y if input.ndim == 4 else y.reshape(y.shape[1:])


def active_conv2d(input, weight, position, bias=None, stride=1, padding=0, dilation=1):
    """Convolution whose taps lie where `position` says: (kh * kw, 2) displacements (down, right) from the plain places.

    input (n, ic, h, w) or (ic, h, w), weight (oc, ic / groups, kh, kw), bias (oc,).  Gradients for all four.
    """
    op = "active_conv2d"
    input = floating(op, "input", input)
    weight = same_dtype(op, "weight", weight, input)
    position = same_dtype(op, "position", position, input)
    if weight.ndim != 4 or tuple(position.shape) != (weight.shape[2] * weight.shape[3], 2):
        raise ValueError(
            f"{op}: position must have shape (kh * kw, 2) for a weight (oc, ic / groups, kh, kw), "
            f"given {tuple(position.shape)} for weight {tuple(weight.shape)}"
        )
    x = input if input.ndim == 4 else input.reshape(1, *input.shape)
    if x.ndim != 4 or not weight.shape[1] or x.shape[1] % weight.shape[1]:
        raise ValueError(f"{op}: weight {tuple(weight.shape)} does not fit input {tuple(input.shape)}")
    padding = whole_numbers(op, "padding", padding, 2, 0)
    groups = x.shape[1] // weight.shape[1] or 1
    conv = conv_spec(op, 2, x.shape, weight.shape, None, stride, padding, dilation, groups, value(x).dtype)
    offset = expand(position.reshape(1, -1, 1, 1), (conv.n, 2 * conv.taps, conv.oh, conv.ow))
    y = deform_conv2d(x, offset, weight, bias, stride, padding, dilation)
    return y if input.ndim == 4 else y.reshape(y.shape[1:])
