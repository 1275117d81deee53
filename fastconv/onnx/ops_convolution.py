"""ONNX convolutions."""

import itertools
from math import prod

import numpy as np

from .table import in_float, op
from .windows import explicit_pads, per_axis, pooled_size, windows


def conv_attrs(node, x_shape, w_shape):
    """The attributes of the `conv` of compiled networks."""
    ndim = len(w_shape) - 2
    if len(x_shape) != ndim + 2:
        raise ValueError(f"weight {tuple(w_shape)} wants an input of {ndim + 2} axes, given {tuple(x_shape)}")
    kernel = node.get("kernel_shape")
    if kernel is not None and tuple(kernel) != tuple(w_shape[2:]):
        raise ValueError(f"kernel_shape is {tuple(kernel)}, the weight has {tuple(w_shape[2:])}")
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pads = explicit_pads(node, x_shape[2:], w_shape[2:], stride, dilation)
    return {"stride": stride, "padding": pads, "dilation": dilation, "groups": node.get("group", 1)}


@op("Conv")
@in_float
def conv(node, x, w, b=None):
    """y[n, o] = b[o] + sum over channels and taps."""
    attrs = conv_attrs(node, x.shape, w.shape)
    pads = attrs["padding"]
    if any(p < 0 for pair in pads for p in pair):
        raise ValueError(f"pads must not be negative, given {pads}")
    return convolved(x, w, b, attrs)


def convolved(x, w, b, attrs):
    """A convolution by products of matrices, for any sizes; compiled networks have kernels for it."""
    kernel, groups = w.shape[2:], attrs["groups"]
    if x.shape[1] != groups * w.shape[1] or w.shape[0] % groups:
        raise ValueError(
            f"weight {w.shape} in {groups} groups wants {groups * w.shape[1]} channels, the input has {x.shape[1]}"
        )
    axes = zip(x.shape[2:], kernel, attrs["stride"], attrs["dilation"], attrs["padding"], strict=True)
    out = tuple(pooled_size(n, k, s, d, before, after, False) for n, k, s, d, (before, after) in axes)
    view = windows(x, 0, out, kernel, attrs["stride"], attrs["dilation"], attrs["padding"])
    ndim, per = len(kernel), w.shape[1]
    order = (0, 1, *range(2 + ndim, 2 + 2 * ndim), *range(2, 2 + ndim))
    columns = view.transpose(order).reshape(x.shape[0], groups, per * prod(kernel), prod(out))
    y = np.matmul(w.reshape(groups, w.shape[0] // groups, -1), columns).reshape(x.shape[0], w.shape[0], *out)
    return y if b is None else y + b.reshape(-1, *(1,) * ndim)


def transpose_pads(node, sizes, kernel, stride, dilation):
    """((before, after), ...) cut off the full result, and the output padding."""
    ndim = len(sizes)
    extra = tuple(node.get("output_padding") or (0,) * ndim)
    wanted = node.get("output_shape")
    auto = node.get("auto_pad", "NOTSET")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(n * s for n, s in zip(sizes, stride, strict=True))
    if wanted is None:
        return explicit_pads(node, sizes, kernel, stride, dilation), extra
    pairs = []
    for n, k, s, d, e, out in zip(sizes, kernel, stride, dilation, extra, wanted[-ndim:], strict=True):
        total = s * (n - 1) + e + d * (k - 1) + 1 - out
        first = 0 if total < 0 else total // 2 if auto == "SAME_UPPER" else total - total // 2
        pairs.append((first, total - first))
    return tuple(pairs), extra


def spread(x, w, stride, dilation, groups):
    """The full transposed convolution, nothing cut off."""
    kernel, per = w.shape[2:], w.shape[0] // groups
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels do not make {groups} groups")
    flat = x.reshape(x.shape[0], groups, per, -1)
    weight = w.reshape(groups, per, -1).transpose(0, 2, 1)
    columns = np.matmul(weight, flat).reshape(x.shape[0], groups * w.shape[1], *kernel, *x.shape[2:])
    axes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    y = np.zeros((*columns.shape[:2], *((n - 1) * s + d * (k - 1) + 1 for n, k, s, d in axes)), columns.dtype)
    return _added(y, columns, stride, dilation)


def _added(y, columns, stride, dilation):
    """Patches (N, C, kernel..., places...) added into y."""
    ndim = len(stride)
    kernel, counts = columns.shape[2 : 2 + ndim], columns.shape[2 + ndim :]
    for tap in np.ndindex(*kernel):
        axes = zip(tap, dilation, counts, stride, strict=True)
        key = tuple(slice(t * d, t * d + (c - 1) * s + 1, s) for t, d, c, s in axes)
        y[(slice(None), slice(None), *key)] += columns[(slice(None), slice(None), *tap)]
    return y


@op("ConvTranspose")
@in_float
def conv_transpose(node, x, w, b=None):
    """Each input pixel spreads over the output by the kernel: the gradient of a convolution."""
    ndim = w.ndim - 2
    if x.ndim != w.ndim or x.shape[1] != w.shape[0]:
        raise ValueError(f"weight {w.shape} does not fit input {x.shape}")
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pairs, extra = transpose_pads(node, x.shape[2:], w.shape[2:], stride, dilation)
    full = spread(x, w, stride, dilation, node.get("group", 1))
    grown = [(max(0, -a), max(0, e - z)) for (a, z), e in zip(pairs, extra, strict=True)]
    full = np.pad(full, [(0, 0), (0, 0), *grown])
    key = [slice(None), slice(None)]
    for (a, z), (more, _), e, size in zip(pairs, grown, extra, full.shape[2:], strict=True):
        key.append(slice(a + more, size - max(0, z - e)))
    y = np.ascontiguousarray(full[tuple(key)])
    return y if b is None else y + b.reshape(-1, *(1,) * ndim)


@op("ConvInteger")
def conv_integer(node, x, w, x_zero=None, w_zero=None):
    """A convolution of bytes, exact; padding is the zero point."""
    wide = x.astype(np.float64) - (0 if x_zero is None else float(np.asarray(x_zero).reshape(-1)[0]))
    weight = w.astype(np.float64)
    if w_zero is not None:
        weight = weight - np.asarray(w_zero, np.float64).reshape(-1, *(1,) * (w.ndim - 1))
    return np.rint(conv(node, wide, weight)).astype(np.int32)


def bilinear(image, places):
    """(C, points): image (C, sizes...) at places (ndim, points), 0 outside."""
    floors = np.floor(places).astype(np.int64)
    result = np.zeros((image.shape[0], places.shape[1]), image.dtype)
    for corner in itertools.product((0, 1), repeat=places.shape[0]):
        at = floors + np.array(corner)[:, None]
        weight = np.prod(1 - np.abs(places - at), axis=0)
        inside = np.all([(a >= 0) & (a < n) for a, n in zip(at, image.shape[1:], strict=True)], axis=0)
        safe = tuple(np.where(inside, a, 0) for a in at)
        result += image[(slice(None), *safe)] * (weight * inside).astype(image.dtype)
    return result


@op("DeformConv")
@in_float
def deform_conv(node, x, w, offset, b=None, mask=None):
    """A convolution whose taps are moved by `offset` and weighted by `mask`.

    Dai et al., Deformable convolutional networks (2017), equation 2; Zhu et al. (2018) for the mask.
    """
    ndim, kernel = w.ndim - 2, w.shape[2:]
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pairs = explicit_pads(node, x.shape[2:], kernel, stride, dilation)
    groups, maps, taps = node.get("group", 1), node.get("offset_group", 1), int(np.prod(kernel))
    out = offset.shape[2:]
    grid = np.indices(out).reshape(ndim, 1, -1) * np.array(stride).reshape(ndim, 1, 1)
    first = np.array([a for a, _ in pairs]).reshape(ndim, 1, 1)
    tap = (np.indices(kernel).reshape(ndim, -1) * np.array(dilation)[:, None])[:, :, None]
    base = (grid - first + tap).astype(x.dtype)
    columns = np.empty((x.shape[0], x.shape[1], taps, int(np.prod(out))), x.dtype)
    part = x.shape[1] // maps
    for n, m in np.ndindex(x.shape[0], maps):
        moves = offset[n].reshape(maps, taps, ndim, -1)[m].transpose(1, 0, 2)
        found = bilinear(x[n, m * part : (m + 1) * part], (base + moves).reshape(ndim, -1)).reshape(part, taps, -1)
        if mask is not None:
            found = found * mask[n].reshape(maps, taps, -1)[m]
        columns[n, m * part : (m + 1) * part] = found
    per = x.shape[1] // groups
    columns = columns.reshape(x.shape[0], groups, per * taps, -1)
    weight = w.reshape(groups, w.shape[0] // groups, per * taps)
    y = np.matmul(weight[None], columns).reshape(x.shape[0], w.shape[0], *out)
    return y if b is None else y + b.reshape(-1, *(1,) * ndim)


@op("Col2Im")
def col_to_im(node, columns, image, block):
    """Patches added up in an image, at their places."""
    image, block = (tuple(int(n) for n in a) for a in (image, block))
    ndim = len(image)
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pads = node.get("pads") or (0,) * (2 * ndim)
    padded = [n + pads[i] + pads[i + ndim] for i, n in enumerate(image)]
    counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(padded, block, stride, dilation, strict=True)]
    channels = columns.shape[1] // int(np.prod(block))
    parts = columns.reshape(columns.shape[0], channels, *block, *counts)
    y = np.zeros((columns.shape[0], channels, *padded), columns.dtype)
    _added(y, parts, stride, dilation)
    inner = tuple(slice(pads[i], pads[i] + n) for i, n in enumerate(image))
    return np.ascontiguousarray(y[(slice(None), slice(None), *inner)])
