"""ONNX operators element by element: arithmetic, functions, activations."""

from math import erf as _erf_number

import numpy as np

from .table import float_of, in_float, op, two_operands


def _unary(name, function):
    op(name)(lambda node, x: np.asarray(function(x)).astype(x.dtype, copy=False))


for _name, _function in {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "Neg": np.negative,
    "Reciprocal": lambda x: np.ones((), x.dtype) / x,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Sqrt": np.sqrt,
    "Tan": np.tan,
    "Tanh": np.tanh,
    "Identity": lambda x: x,
}.items():
    if _name != "Identity":
        _unary(_name, _function)


@op("Identity")
def identity(node, x):
    """Any value, as it is."""
    return x


# ---- two operands


def _int_div(a, b):
    """Towards zero, as in C; 0 where b is 0."""
    safe = np.where(b == 0, np.ones((), b.dtype), b)
    quotient = np.floor_divide(a, safe)
    if a.dtype.kind == "i":
        quotient = quotient + ((quotient < 0) & (quotient * safe != a))
    return np.where(b == 0, 0, quotient).astype(a.dtype)


@two_operands("Add")
def add(node, a, b):
    """a + b."""
    return np.add(a, b, dtype=a.dtype)


@two_operands("Sub")
def sub(node, a, b):
    """a - b."""
    return np.subtract(a, b, dtype=a.dtype)


@two_operands("Mul")
def mul(node, a, b):
    """a b."""
    return np.multiply(a, b, dtype=a.dtype)


@two_operands("Div")
def div(node, a, b):
    """a / b; whole numbers towards zero."""
    return _int_div(a, b) if a.dtype.kind in "iu" else np.divide(a, b)


@two_operands("Pow")
def power(node, a, b):
    """a to the power b, in a's dtype."""
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        wide = np.power(a.astype(np.float64), b.astype(np.float64))
        exact = np.power(a.astype(np.int64), np.maximum(b, 0).astype(np.int64))
        return np.where(b >= 0, exact, wide.astype(np.int64)).astype(a.dtype)
    return np.power(a, b).astype(a.dtype, copy=False)


@op("Mod")
def mod(node, a, b):
    """The remainder, with the sign of b, or of a where fmod is set."""
    if node.get("fmod", 0):
        return np.fmod(a, b).astype(a.dtype, copy=False)
    if a.dtype.kind == "f" and node.opset < 28:
        raise ValueError("Mod of floats needs fmod=1")
    return np.mod(a, b).astype(a.dtype, copy=False)


def _many(function):
    def combine(node, *arrays):
        result = arrays[0]
        for array in arrays[1:]:
            result = function(result, array)
        return np.asarray(result).astype(arrays[0].dtype, copy=len(arrays) == 1)

    return combine


op("Max")(_many(np.maximum))
op("Min")(_many(np.minimum))
op("Sum")(_many(np.add))


@op("Mean")
def mean(node, *arrays):
    """The mean of all arrays, element by element."""
    return (_many(np.add)(node, *arrays) / len(arrays)).astype(arrays[0].dtype)


@op("Clip")
def clip(node, x, low=None, high=None):
    """min(max(x, low), high)."""
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    y = x if low is None else np.maximum(x, np.asarray(low).astype(x.dtype))
    y = y if high is None else np.minimum(y, np.asarray(high).astype(x.dtype))
    return np.array(y) if y is x else y


# ---- activations


def sigmoid_of(x):
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, small) / (1 + small)).astype(x.dtype, copy=False)


def softplus_of(x):
    """log(1 + exp(x)) without overflow."""
    return (np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))).astype(x.dtype, copy=False)


_erf = np.frompyfunc(_erf_number, 1, 1)


def erf_of(x):
    """The error function."""
    from ..infer import ops

    if x.size > 10_000 and x.dtype in (np.float32, np.float64):
        return ops.definition("erf").evaluate({}, x)
    return np.asarray(_erf(x.astype(np.float64)), x.dtype)


ACTIVATIONS = {
    "Relu": lambda x, a, b: np.maximum(x, np.zeros((), x.dtype)),
    "Sigmoid": lambda x, a, b: sigmoid_of(x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Softplus": lambda x, a, b: softplus_of(x),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "LeakyRelu": lambda x, a, b: np.where(x < 0, x * a, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
    "Elu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "HardSigmoid": lambda x, a, b: np.clip(x * a + b, 0, 1),
    "Affine": lambda x, a, b: x * a + b,
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "Selu": lambda x, a, b: b * np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x),
    "Celu": lambda x, a, b: np.maximum(x, 0) + np.minimum(0, a * np.expm1(np.minimum(x, 0) / a)),
}
DEFAULTS = {
    "LeakyRelu": (0.01, 0.0),
    "ThresholdedRelu": (1.0, 0.0),
    "Elu": (1.0, 0.0),
    "HardSigmoid": (0.2, 0.5),
    "Affine": (1.0, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "Selu": (1.67326319217681884765625, 1.05070102214813232421875),
    "Celu": (1.0, 0.0),
}


def _activation(name):
    function, (alpha, beta) = ACTIVATIONS[name], DEFAULTS.get(name, (0.0, 0.0))
    second = "gamma" if name == "Selu" else "beta"

    def evaluate(node, x):
        result = function(x, x.dtype.type(node.get("alpha", alpha)), x.dtype.type(node.get(second, beta)))
        return result.astype(x.dtype, copy=False)

    op(name)(evaluate if name == "Relu" else in_float(evaluate))


for _name in ACTIVATIONS:
    if _name not in ("Tanh", "Affine", "ScaledTanh"):
        _activation(_name)


@op("PRelu")
def prelu(node, x, slope):
    """x, or slope x where x < 0; slope broadcast to the right-hand axes."""
    if slope.ndim == 1 and x.ndim > 2 and slope.size > 1 and slope.shape[0] != x.shape[-1]:
        slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return np.where(x < 0, x * slope, x).astype(x.dtype)


@op("Gelu")
@in_float
def gelu(node, x):
    """x Phi(x), or its tanh form."""
    if node.get("approximate", "none") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), x.dtype)
    return np.asarray(0.5 * x * (1 + erf_of((x / np.sqrt(2)).astype(x.dtype))), x.dtype)


@op("Erf")
@in_float
def erf(node, x):
    """The error function."""
    return erf_of(x)


@op("HardSwish")
@in_float
def hard_swish(node, x):
    """x clip(x / 6 + 1/2, 0, 1)."""
    return (x * np.clip(x / 6 + 0.5, 0, 1)).astype(x.dtype)


@op("Mish")
@in_float
def mish(node, x):
    """x tanh(softplus(x))."""
    return x * np.tanh(softplus_of(x))


@op("Swish")
@in_float
def swish(node, x):
    """x sigmoid(alpha x)."""
    return x * sigmoid_of(x * x.dtype.type(node.get("alpha", 1.0)))


@op("Shrink")
def shrink(node, x):
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    bias, limit = node.get("bias", 0.0), node.get("lambd", 0.5)
    return np.where(x < -limit, x + bias, np.where(x > limit, x - bias, 0)).astype(x.dtype)


@op("Dropout")
def dropout(node, x, ratio=None, training=None):
    """x; a mask of ones.  With training_mode and a ratio, random: elements are left out and the rest scaled."""
    share = float(ratio) if ratio is not None else (0.5 if node.opset >= 12 else node.get("ratio", 0.5))
    keep = np.ones(x.shape, bool)
    if training is not None and bool(training) and share > 0:
        seed = node.get("seed")
        keep = np.random.RandomState(seed).uniform(0, 1, x.shape) >= share
        x = (keep * x / (1 - share)).astype(x.dtype)
    return np.array(x), keep


def softmax_of(x, axis):
    """exp(x) / sum exp(x) along an axis."""
    if x.size == 0:
        return x
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _log_softmax(x, axis):
    if x.size == 0:
        return x
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))


def _hardmax(x, axis):
    y = np.zeros_like(x)
    np.put_along_axis(y, np.expand_dims(x.argmax(axis=axis), axis), 1, axis)
    return y


def _along(function):
    """Before opset 13: of all axes from `axis` on together."""

    def evaluate(node, x):
        if node.opset >= 13:
            return function(x, node.get("axis", -1)).astype(x.dtype, copy=False)
        axis = node.get("axis", 1) % max(1, x.ndim + (node.get("axis", 1) == x.ndim))
        flat = x.reshape(int(np.prod(x.shape[:axis])), -1) if x.size else x
        return function(flat, -1).astype(x.dtype, copy=False).reshape(x.shape)

    return in_float(evaluate)


op("Softmax")(_along(softmax_of))
op("LogSoftmax")(_along(_log_softmax))
op("Hardmax")(_along(_hardmax))


@op("CumSum", "CumProd")
def cumulative(node, x, axis):
    """Sums (products) of all before and with each element; exclusive: without it; reverse: from the end."""
    axis, sums = int(np.asarray(axis).reshape(-1)[0]), node.op == "CumSum"
    turned = np.flip(x, axis) if node.get("reverse", 0) else x
    y = (np.cumsum if sums else np.cumprod)(turned, axis=axis, dtype=x.dtype)
    if node.get("exclusive", 0):
        y = np.roll(y, 1, axis)
        first = [slice(None)] * x.ndim
        first[axis] = slice(0, 1)
        y[tuple(first)] = 0 if sums else 1
    return np.ascontiguousarray(np.flip(y, axis)) if node.get("reverse", 0) else y


@op("Det")
def det(node, x):
    """The determinant of each matrix."""
    return np.linalg.det(x.astype(float_of(x))).astype(x.dtype)
