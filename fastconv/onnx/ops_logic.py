"""ONNX operators of comparison, logic and bits."""

import numpy as np

from .table import op, two_operands


def _compare(name, function):
    two_operands(name)(lambda node, a, b: np.asarray(function(a, b), bool))


for _name, _function in {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}.items():
    _compare(_name, _function)

for _name, _function in {
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}.items():
    op(_name)(lambda node, a, b, _function=_function: _function(a, b))

op("Not")(lambda node, x: np.logical_not(x))
op("BitwiseNot")(lambda node, x: np.invert(x))
op("IsNaN")(lambda node, x: np.isnan(x))


@op("IsInf")
def is_inf(node, x):
    """Whether elements are infinite, of the signs that are asked for."""
    found = np.zeros(x.shape, bool)
    if node.get("detect_positive", 1):
        found |= x == np.inf
    if node.get("detect_negative", 1):
        found |= x == -np.inf
    return found


@op("BitShift")
def bit_shift(node, x, count):
    """x shifted by count bits."""
    shift = np.left_shift if node.get("direction") == "LEFT" else np.right_shift
    bits = x.dtype.itemsize * 8
    moved = shift(x, np.minimum(count, bits - 1).astype(x.dtype))
    keeps_sign = x.dtype.kind == "i" and shift is np.right_shift
    return moved if keeps_sign else np.where(count >= bits, 0, moved).astype(x.dtype)


@op("Where")
def where(node, condition, a, b):
    """a where the condition holds, else b."""
    return np.where(condition, a, b).astype(a.dtype, copy=False)


@op("NonZero")
def non_zero(node, x):
    """The positions of what is not 0, one column each."""
    return np.array(np.nonzero(x), np.int64).reshape(x.ndim, -1)
