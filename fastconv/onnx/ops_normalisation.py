"""ONNX normalisations."""

import numpy as np

from .table import float_of, in_float, op


def _column(values, ndim):
    return values.reshape(-1, *(1,) * (ndim - 2))


@op("BatchNormalization")
def batch_normalization(node, x, scale, shift, mean, var):
    """(x - mean) / sqrt(var + epsilon) scale + shift; in training with the batch's own statistics."""
    dtype, epsilon = float_of(x), node.get("epsilon", 1e-5)
    wide = x.astype(dtype)
    training = bool(node.get("training_mode", 0)) if node.opset >= 14 else False
    if not training:
        factor = scale.astype(dtype) / np.sqrt(var.astype(dtype) + dtype.type(epsilon))
        rest = shift.astype(dtype) - mean.astype(dtype) * factor
        return (wide * _column(factor, x.ndim) + _column(rest, x.ndim)).astype(x.dtype)
    axes = (0, *range(2, x.ndim))
    own_mean, own_var = wide.mean(axis=axes), wide.var(axis=axes)
    keep = node.get("momentum", 0.9)
    y = (wide - _column(own_mean, x.ndim)) / np.sqrt(_column(own_var, x.ndim) + dtype.type(epsilon))
    y = y * _column(scale, x.ndim) + _column(shift, x.ndim)
    running = (mean * keep + own_mean * (1 - keep), var * keep + own_var * (1 - keep))
    return y.astype(x.dtype), running[0].astype(mean.dtype), running[1].astype(var.dtype)


@op("InstanceNormalization")
@in_float
def instance_normalization(node, x, scale, shift):
    """Each channel of each image by its own mean and deviation."""
    axes = tuple(range(2, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    var = np.square(centred).mean(axis=axes, keepdims=True)
    y = centred / np.sqrt(var + x.dtype.type(node.get("epsilon", 1e-5)))
    return y * _column(scale, x.ndim) + _column(shift, x.ndim)


@op("GroupNormalization")
@in_float
def group_normalization(node, x, scale, shift):
    """Groups of channels by their own mean and deviation; scale and shift per group before opset 21."""
    groups = node.attrs["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    centred = parts - parts.mean(axis=2, keepdims=True)
    var = np.square(centred).mean(axis=2, keepdims=True)
    y = centred / np.sqrt(var + x.dtype.type(node.get("epsilon", 1e-5)))
    if scale.shape[0] == groups and node.opset < 21:
        return (y * scale.reshape(-1, 1) + shift.reshape(-1, 1)).reshape(x.shape)
    return y.reshape(x.shape) * _column(scale, x.ndim) + _column(shift, x.ndim)


@op("LayerNormalization")
def layer_normalization(node, x, scale, shift=None):
    """All axes from `axis` on by their own mean and deviation; also the mean and 1 / deviation."""
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    dtype = float_of(x)
    wide = x.astype(dtype)
    mean = wide.mean(axis=axes, keepdims=True)
    centred = wide - mean
    inverse = 1 / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + dtype.type(node.get("epsilon", 1e-5)))
    y = (centred * inverse).astype(x.dtype) * scale
    y = y if shift is None else y + shift
    return y.astype(x.dtype), mean.astype(np.float32), inverse.astype(np.float32)


@op("RMSNormalization")
def rms_normalization(node, x, scale):
    """x / root of the mean square over all axes from `axis` on."""
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    wide = x.astype(float_of(x))
    root = np.sqrt(np.square(wide).mean(axis=axes, keepdims=True) + wide.dtype.type(node.get("epsilon", 1e-5)))
    return ((wide / root).astype(x.dtype) * scale).astype(x.dtype)


@op("LRN")
@in_float
def local_response(node, x):
    """x / (bias + alpha / size * sum of squares of neighbouring channels) ** beta."""
    size = node.attrs["size"]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = np.pad(np.square(x), [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, i : i + x.shape[1]] for i in range(size))
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return (x / (bias + alpha / size * total) ** beta).astype(x.dtype)
