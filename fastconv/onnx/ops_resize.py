"""ONNX Resize and Upsample: one sparse map for each axis, applied one after the other."""

from functools import reduce

import numpy as np

from .ops_shape import ints
from .table import bounded, float_of, op


def _coordinates(mode, size, out, scale, roi):
    """Where each output pixel lies in the input."""
    x = np.arange(out, dtype=np.float64)
    if mode == "align_corners":
        length = out if abs(scale * size - out) >= 1 else scale * size  # as the standard has it: not a whole number
        return x * (size - 1) / (length - 1) if out > 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if out > 1:
            return start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
        return np.full(out, 0.5 * (start + end) * (size - 1))
    if mode == "pytorch_half_pixel" and out == 1:
        return np.zeros(out)
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if mode == "half_pixel_symmetric":
        adjustment = out / (scale * size)
        centre = size / 2
        return centre * (1 - adjustment) + (x + 0.5) / scale - 0.5
    if mode not in ("half_pixel", "pytorch_half_pixel"):
        raise ValueError(f"unknown coordinate_transformation_mode {mode!r}")
    return (x + 0.5) / scale - 0.5


def _nearest(places, mode):
    """The number of the nearest pixel."""
    if mode == "round_prefer_floor":
        return np.ceil(places - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(places + 0.5)
    if mode in ("floor", "ceil"):
        return np.floor(places) if mode == "floor" else np.ceil(places)
    raise ValueError(f"unknown nearest_mode {mode!r}")


def _triangle(t):
    return np.maximum(0, 1 - np.abs(t))


def cubic_filter(a):
    """The convolution kernel of Keys, Cubic convolution interpolation (1981)."""

    def weight(t):
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0))

    return weight


def axis_map(node, size, out, scale, roi):
    """(indices (out, taps), weights (out, taps) or None for copies, outside (out,) or None) of one axis."""
    mode = node.get("mode", "nearest")
    if node.op == "Upsample" or node.opset < 11:
        transform, rounding = "asymmetric", "floor"
    else:
        transform = node.get("coordinate_transformation_mode", "half_pixel")
        rounding = node.get("nearest_mode", "round_prefer_floor")
    places = _coordinates(transform, size, out, scale, roi)
    outside = (places < 0) | (places > size - 1) if transform == "tf_crop_and_resize" else None
    if mode == "nearest":
        return np.clip(_nearest(places, rounding), 0, size - 1).astype(np.int64)[:, None], None, outside
    if mode not in ("linear", "bilinear", "cubic"):
        raise ValueError(f"unknown mode {mode!r}")
    reach, weigh = (2, cubic_filter(node.get("cubic_coeff_a", -0.75))) if mode == "cubic" else (1, _triangle)
    shrink = min(scale, 1.0) if node.get("antialias", 0) else 1.0
    floors = np.floor(places)
    first = int(np.floor(-reach / shrink)) + 1
    taps = np.arange(first, 2 - first)
    numbers = floors[:, None] + taps
    weights = weigh((numbers - places[:, None]) * shrink)
    if node.get("exclude_outside", 0):
        weights = np.where((numbers < 0) | (numbers >= size), 0, weights)
    if shrink != 1.0 or node.get("exclude_outside", 0):
        weights = weights / weights.sum(axis=1, keepdims=True)
    return np.clip(numbers, 0, size - 1).astype(np.int64), weights, outside


def sizes_and_scales(node, shape, roi, scales, sizes):
    """(output shape, scale of each axis, roi of each axis)."""
    ndim = len(shape)
    axes = [a % ndim for a in node.get("axes") or range(ndim)]
    out, factors, parts = list(shape), [1.0] * ndim, [(0.0, 1.0)] * ndim
    if sizes is not None and np.size(sizes):
        wanted = dict(zip(axes, ints(sizes), strict=True))
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        ratios = [wanted[a] / shape[a] for a in axes]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            wanted = {a: int(np.floor(shape[a] * ratio + 0.5)) for a in axes}
            ratios = [ratio] * len(axes)
        for axis, ratio in zip(axes, ratios, strict=True):
            out[axis], factors[axis] = wanted[axis], ratio
    else:
        given = node.attrs["scales"] if scales is None else np.asarray(scales).reshape(-1)
        for axis, scale in zip(axes, given, strict=True):
            factors[axis] = float(scale)
            out[axis] = int(np.floor(shape[axis] * float(scale)))
    if roi is not None and np.size(roi):
        values = np.asarray(roi, np.float64).reshape(-1)
        for i, axis in enumerate(axes):
            parts[axis] = values[i], values[i + len(axes)]
    return tuple(out), factors, parts


@op("Resize", "Upsample")
def resize(node, x, *given):
    """x in another size: nearest, linear or cubic, along each axis."""
    if node.op == "Upsample" or node.opset < 11:
        roi, scales, sizes = None, given[0] if given else None, None
    else:
        roi, scales, sizes = (*given, None, None, None)[:3]
    scales = scales if scales is None or np.size(scales) or node.op == "Upsample" else None
    if node.opset >= 11 and scales is None and sizes is None:
        raise ValueError("needs scales or sizes")
    out, factors, parts = sizes_and_scales(node, x.shape, roi, scales, sizes)
    dtype = float_of(x)
    bounded(out, dtype)
    result, outside = x, []
    for axis, (size, wanted) in enumerate(zip(x.shape, out, strict=True)):
        if size == wanted and factors[axis] == 1 and parts[axis] == (0.0, 1.0):
            continue
        indices, weights, strange = axis_map(node, size, wanted, factors[axis], parts[axis])
        if strange is not None and strange.any():
            outside.append((axis, strange))
        if weights is None:
            result = np.take(result, indices[:, 0], axis)
            continue
        result, column = result.astype(dtype, copy=False), (-1, *(1,) * (x.ndim - 1 - axis))
        weights = weights.astype(dtype)
        taps = (np.take(result, indices[:, t], axis) * weights[:, t].reshape(column) for t in range(indices.shape[1]))
        result = reduce(np.add, taps)
    for axis, strange in outside:
        result = np.array(result)
        result[(slice(None),) * axis + (strange,)] = node.get("extrapolation_value", 0.0)
    if result.dtype != x.dtype:
        result = np.rint(result) if x.dtype.kind in "iu" else result
        result = np.clip(result, *_limits(x.dtype)) if x.dtype.kind in "iu" else result
    return np.array(result) if result is x else result.astype(x.dtype, copy=False)


def _limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max
