"""ONNX operators on quantised numbers, exact."""

import numpy as np

from .ops_cast import dtype_of
from .ops_convolution import conv
from .table import Node, op


def _spread(values, x, axis, block):
    """Scales or zero points, one for all, for each slice of an axis, or for each block, for every element."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis % x.ndim)[tuple(slice(0, n) for n in x.shape)]
    return values.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def _limits(dtype):
    if dtype.name in ("int4", "uint4", "int2", "uint2"):
        bits = int(dtype.name.strip("uint"))
        return (0, 2**bits - 1) if dtype.name.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def quantised(x, scale, zero, dtype):
    """round(x / scale) + zero, within the dtype."""
    low, high = _limits(dtype)
    return np.clip(np.rint(x / scale) + zero, low, high).astype(np.int64).astype(dtype)


@op("QuantizeLinear")
def quantize_linear(node, x, scale, zero=None):
    """round(x / scale) + zero point, saturated."""
    axis, block, number = node.get("axis", 1), node.get("block_size", 0), node.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else dtype_of(number) if number else np.dtype("uint8")
    spread = _spread(scale, x, axis, block).astype(np.float32)
    if dtype.name.startswith("float"):
        from .ops_cast import cast_to

        return cast_to((x / spread).astype(np.float32), dtype, bool(node.get("saturate", 1)))
    wide = 0 if zero is None else _spread(zero, x, axis, block).astype(np.float64)
    return quantised(x.astype(np.float32), spread, wide, dtype)


@op("DequantizeLinear")
def dequantize_linear(node, x, scale, zero=None):
    """(x - zero point) scale."""
    axis, block = node.get("axis", 1), node.get("block_size", 0)
    wide = x.astype(np.float32)
    if zero is not None:
        wide = wide - _spread(zero, x, axis, block).astype(np.float32)
    number = node.get("output_dtype", 0)
    dtype = dtype_of(number) if number else scale.dtype
    return (wide * _spread(scale, x, axis, block).astype(np.float32)).astype(dtype)


@op("DynamicQuantizeLinear")
def dynamic_quantize_linear(node, x):
    """Bytes over the range of x, the scale and the zero point."""
    high, low = max(0, x.max(initial=0)), min(0, x.min(initial=0))
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    return quantised(x, scale, np.float32(zero), np.dtype("uint8")), np.asarray(scale), np.asarray(zero)


def _rows(zero, ndim):
    """A zero point for each row."""
    return zero.reshape(-1, 1) if np.ndim(zero) == 1 and np.size(zero) > 1 and ndim >= 2 else zero


@op("MatMulInteger")
def matmul_integer(node, a, b, a_zero=None, b_zero=None):
    """A product of byte matrices, in int32."""
    left = a.astype(np.int32) - (0 if a_zero is None else _rows(a_zero, a.ndim).astype(np.int32))
    right = b.astype(np.int32) - (0 if b_zero is None else b_zero.astype(np.int32))
    return np.matmul(left, right)


@op("QLinearMatMul")
def qlinear_matmul(node, a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    """A product of quantised matrices, quantised."""
    left = a.astype(np.int64) - _rows(a_zero, a.ndim).astype(np.int64)
    right = b.astype(np.int64) - b_zero.astype(np.int64)
    factor = _rows(a_scale, a.ndim).astype(np.float32) * b_scale.astype(np.float32) / y_scale.astype(np.float32)
    return quantised(np.matmul(left, right) * factor, 1.0, y_zero.astype(np.float64), y_zero.dtype)


@op("QLinearConv")
def qlinear_conv(node, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b=None):
    """A quantised convolution, quantised."""
    column = (-1, *(1,) * (w.ndim - 1))
    weight = w.astype(np.float64) - np.asarray(w_zero, np.float64).reshape(column)
    plain = Node("Conv", node.inputs, node.outputs, node.attrs, node.name, node.opset)
    y = np.rint(conv(plain, x.astype(np.float64) - float(x_zero.reshape(-1)[0]), weight))
    column = (-1, *(1,) * (w.ndim - 2))
    if b is not None:
        y = y + b.astype(np.float64).reshape(column)
    factor = x_scale.reshape(-1)[0].astype(np.float64) * w_scale.astype(np.float64) / y_scale.reshape(-1)[0]
    return quantised(
        y * (factor.reshape(column) if factor.size > 1 else factor.reshape(())),
        1.0,
        float(y_zero.reshape(-1)[0]),
        y_zero.dtype,
    )
