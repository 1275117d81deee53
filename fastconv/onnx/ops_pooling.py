"""ONNX poolings."""

import numpy as np

from .ops_shape import ints
from .shape_helpers import in_range
from .table import in_float, op
from .windows import explicit_pads, per_axis, pooled_size, windows


def pool_settings(node, sizes):
    """(kernel, stride, dilation, pads, output sizes) of a pooling."""
    ndim, kernel = len(sizes), tuple(node.attrs["kernel_shape"])
    if len(kernel) != ndim:
        raise ValueError(f"kernel_shape {kernel} does not fit {ndim} spatial axes")
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pads = explicit_pads(node, sizes, kernel, stride, dilation)
    ceil = bool(node.get("ceil_mode", 0)) and node.get("auto_pad", "NOTSET") == "NOTSET"
    axes = zip(sizes, kernel, stride, dilation, pads, strict=True)
    out = tuple(pooled_size(n, k, s, d, a, z, ceil) for n, k, s, d, (a, z) in axes)
    return kernel, stride, dilation, pads, out


@op("MaxPool")
def max_pool(node, x):
    """The largest of each window, and where it is in the flattened input."""
    kernel, stride, dilation, pads, out = pool_settings(node, x.shape[2:])
    ndim = len(kernel)
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    view = windows(x, least, out, kernel, stride, dilation, pads)
    y = view.max(axis=tuple(range(-ndim, 0)))
    if len(node.outputs) < 2:
        return y
    spatial = np.arange(int(np.prod(x.shape[2:]))).reshape(
        x.shape[2:], order="F" if node.get("storage_order", 0) else "C"
    )
    numbers = windows(spatial[None, None], -1, out, kernel, stride, dilation, pads)
    flat = view.reshape(*x.shape[:2], *out, -1)
    allowed = np.broadcast_to(numbers.reshape(1, 1, *out, -1), flat.shape)
    best = np.argmax((flat == y[..., None]) & (allowed >= 0), axis=-1)[..., None]
    places = np.take_along_axis(allowed, best, -1)[..., 0]
    first = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * ndim) * spatial.size
    return y, (places + first).astype(np.int64)


@op("AveragePool")
@in_float
def average_pool(node, x):
    """The mean of each window; padding counts where count_include_pad is set."""
    kernel, stride, dilation, pads, out = pool_settings(node, x.shape[2:])
    axes = tuple(range(-len(kernel), 0))
    total = windows(x, 0, out, kernel, stride, dilation, pads).sum(axis=axes)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if node.get("count_include_pad", 0):
        ones = np.pad(ones, [(0, 0), (0, 0), *pads], constant_values=1)
        pads = ((0, 0),) * len(pads)
    return total / windows(ones, 0, out, kernel, stride, dilation, pads).sum(axis=axes)


@op("LpPool")
@in_float
def lp_pool(node, x):
    """The p-norm of each window."""
    kernel, stride, dilation, pads, out = pool_settings(node, x.shape[2:])
    p, axes = node.get("p", 2), tuple(range(-len(kernel), 0))
    powers = np.abs(windows(x, 0, out, kernel, stride, dilation, pads)) ** p
    return (powers.sum(axis=axes) ** (1.0 / p)).astype(x.dtype)


@op("GlobalAveragePool")
@in_float
def global_average_pool(node, x):
    """The mean of each channel."""
    return x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalMaxPool")
def global_max_pool(node, x):
    """The largest of each channel."""
    return x.max(axis=tuple(range(2, x.ndim)), keepdims=True)


@op("GlobalLpPool")
@in_float
def global_lp_pool(node, x):
    """The p-norm of each channel."""
    p = node.get("p", 2)
    total = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True)
    return (total ** (1.0 / p)).astype(x.dtype)


@op("MaxUnpool")
def max_unpool(node, x, indices, wanted=None):
    """Values at the places they came from, 0 elsewhere."""
    ndim = x.ndim - 2
    kernel, stride = tuple(node.attrs["kernel_shape"]), per_axis(node, "strides", ndim)
    pads = node.get("pads") or (0,) * (2 * ndim)
    axes = zip(x.shape[2:], kernel, stride, pads[:ndim], pads[ndim:], strict=True)
    small = tuple((n - 1) * s + k - a - z for n, k, s, a, z in axes)
    shape = (*x.shape[:2], *small)
    y = np.zeros(shape if wanted is None else ints(wanted), x.dtype)
    places = in_range(indices.reshape(-1), int(np.prod(shape)))
    y[np.unravel_index(places, shape)] = x.reshape(-1)
    return y


@op("MaxRoiPool")
@in_float
def max_roi_pool(node, x, rois):
    """The largest of each bin of each box.  Girshick, Fast R-CNN (2015), section 2.1."""
    (height, width), scale = node.attrs["pooled_shape"], node.get("spatial_scale", 1.0)
    y = np.zeros((rois.shape[0], x.shape[1], height, width), x.dtype)
    for r, (image, *box) in enumerate(rois):
        x1, y1, x2, y2 = (int(np.floor(abs(v) * scale + 0.5) * np.sign(v)) for v in box)
        bins = []
        for first, last, count, size in ((y1, y2, height, x.shape[2]), (x1, x2, width, x.shape[3])):
            step = max(last - first + 1, 1) / count
            bins.append(
                [
                    (
                        min(max(int(np.floor(i * step)) + first, 0), size),
                        min(max(int(np.ceil((i + 1) * step)) + first, 0), size),
                    )
                    for i in range(count)
                ]
            )
        for i, j in np.ndindex(height, width):
            (top, bottom), (left, right) = bins[0][i], bins[1][j]
            if bottom > top and right > left:
                y[r, :, i, j] = x[int(image), :, top:bottom, left:right].max(axis=(1, 2))
    return y
