"""Activations. Names, parameters and results follow torch.nn.functional.

Each op saves its input or its output, whichever its rule needs. First derivatives are kernels; the rules of second
ones are written in Tensor arithmetic on smooth functions that are themselves ops, so derivatives of any order exist.
NaN goes through.
`inplace` is accepted and has no effect: inputs are never modified.
"""

import math
import warnings

import numpy as np

from .. import _memory
from ..autograd import Op, Variable, cast, clip, exp, sum_to, value, where
from ..autograd import sum as sum_over
from ..kernels.elementwise import FROM_OUTPUT, activated, activation_gradient
from ..kernels.softmax import gradient_row, softmax_row
from ..packing import dense
from ..prepared import run_rows
from .checks import array, floating, same_dtype
from .erf import erf
from .recall import recalled

DTYPES = "float16, float32, float64; relu and relu6 whole numbers too"

# Infinite inputs pass through 0 * inf and the like on their way to a right result, or a right NaN: no warnings.
_quiet = np.errstate(over="ignore", invalid="ignore")


def _zero(g):
    return np.zeros((), g.dtype)


class _Activation(Op):
    """y = act(x) by the kernels of this name; `recorded` is the rule in Tensor arithmetic, for second derivatives."""

    @classmethod
    def forward(cls, ctx, x, *parameters):
        out = activated(cls.name, x, *parameters) if x.dtype.kind == "f" else cls.whole(x)
        ctx.save(out if cls.name in FROM_OUTPUT else x)
        ctx.parameters = parameters
        return out

    @classmethod
    def backward(cls, ctx, g):
        (saved,) = ctx.saved
        if isinstance(g, Variable):
            gx = cls.recorded(g, saved, *ctx.parameters)
        else:
            gx = activation_gradient(cls.name, g, saved, *ctx.parameters)
        return gx, *[None] * len(ctx.parameters)

    @staticmethod
    def recorded(g, saved, *parameters):
        raise NotImplementedError

    @staticmethod
    def whole(x):
        """The activation of whole numbers, where there is one."""
        raise NotImplementedError


class ReLU(_Activation):
    name = "relu"

    @staticmethod
    def recorded(g, out):
        return where(value(out) <= 0, _zero(g), g)

    @staticmethod
    def whole(x):
        return np.maximum(x, 0)


class ReLU6(_Activation):
    name = "relu6"

    @staticmethod
    def recorded(g, x):
        x = value(x)
        return where((x <= 0) | (x >= 6), _zero(g), g)

    @staticmethod
    def whole(x):
        return np.clip(x, 0, 6)


class LeakyReLU(_Activation):
    name = "leaky_relu"

    @staticmethod
    def recorded(g, x, slope):
        return where(value(x) > 0, g, g * slope)


class PReLU(Op):
    """x where positive, weight * x elsewhere; `weight` already has a shape that broadcasts against x."""

    name = "prelu"

    @staticmethod
    @_quiet
    def forward(ctx, x, weight):
        ctx.save(x, weight)
        return np.where(x > 0, x, x * weight)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        positive = value(x) > 0
        gx = where(positive, g, g * weight) if ctx.needs[0] else None
        gw = sum_to(where(positive, _zero(g), g * x), weight.shape) if ctx.needs[1] else None
        return gx, gw


class ELU(_Activation):
    name = "elu"

    @staticmethod
    def recorded(g, x, alpha):
        return where(value(x) > 0, g, g * (alpha * exp(clip(x, None, 0))))


class Sigmoid(_Activation):
    name = "sigmoid"

    @staticmethod
    def recorded(g, out):
        return g * (out * (1 - out))


class Tanh(_Activation):
    name = "tanh"

    @staticmethod
    def recorded(g, out):
        return g * (1 - out * out)


class SiLU(_Activation):
    name = "silu"

    @staticmethod
    def recorded(g, x):
        s = Sigmoid.apply(x)
        return g * (s * (1 + x * (1 - s)))


class GELU(_Activation):
    """x Phi(x), Phi the normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""

    name = "gelu"

    @staticmethod
    def recorded(g, x):
        density = exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return g * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density)


class GELUTanh(_Activation):
    """x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): the approximation of arXiv:1606.08415, section 2."""

    name = "gelu_tanh"

    @staticmethod
    def recorded(g, x):
        t = Tanh.apply(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * (x * x))
        return g * (0.5 * (1 + t) + 0.5 * x * ((1 - t * t) * slope))


class Hardswish(_Activation):
    """x relu6(x + 3) / 6 (MobileNetV3, arXiv:1905.02244, section 5.2)."""

    name = "hardswish"

    @staticmethod
    def recorded(g, x):
        raw = value(x)
        return where(raw <= -3, _zero(g), where(raw < 3, g * (x * (1 / 3) + 0.5), g))


class Hardsigmoid(_Activation):
    name = "hardsigmoid"

    @staticmethod
    def recorded(g, x):
        x = value(x)
        return where((x <= -3) | (x >= 3), _zero(g), g * (1 / 6))


class Mish(_Activation):
    """x tanh(softplus(x)) (Misra 2019, arXiv:1908.08681)."""

    name = "mish"

    @staticmethod
    def recorded(g, x):
        t = Tanh.apply(Softplus.apply(x))
        return g * (t + x * ((1 - t * t) * Sigmoid.apply(x)))


class Softplus(_Activation):
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""

    name = "softplus"

    @staticmethod
    def recorded(g, x):
        return g * Sigmoid.apply(x)


def _softmax_rows(x, y, axis, log):
    return (softmax_row(x, y, axis, log),)


def _softmax_gradient_rows(g, y, gx, axis, log):
    return (gradient_row(g, y, gx, axis, log),)


class Softmax(Op):
    """e^x divided by its sum along an axis."""

    name = "softmax"
    log = False

    @classmethod
    def forward(cls, ctx, x, axis):
        half = x.dtype == np.float16
        x = dense(x.astype(np.float32) if half else x)
        out = _memory.empty(x.shape, x.dtype)
        run_rows(_softmax_rows, (x, out), axis, cls.log)
        out = out.astype(np.float16) if half else out
        ctx.save(out)
        ctx.axis = axis
        return out

    @classmethod
    def backward(cls, ctx, g):
        (out,) = ctx.saved
        if isinstance(g, Variable) or g.dtype == np.float16:
            return cls.recorded(g, out, ctx.axis), None
        gx = _memory.empty(g.shape, g.dtype)
        run_rows(_softmax_gradient_rows, (dense(g), out, gx), ctx.axis, cls.log)
        return gx, None

    @staticmethod
    def recorded(g, out, axis):
        return out * (g - sum_over(g * out, axis, True))


class LogSoftmax(Softmax):
    """The logarithm of softmax."""

    name = "log_softmax"
    log = True

    @staticmethod
    def recorded(g, out, axis):
        return g - exp(out) * sum_over(g, axis, True)


# -- public functions --------------------------------------------------------------------------------------------------


@recalled
def relu(input, inplace=False):
    """max(x, 0)."""
    return ReLU.apply(array("relu", "input", input))


@recalled
def relu6(input, inplace=False):
    """min(max(x, 0), 6)."""
    return ReLU6.apply(array("relu6", "input", input))


@recalled
def leaky_relu(input, negative_slope=0.01, inplace=False):
    """x where positive, negative_slope * x elsewhere."""
    return LeakyReLU.apply(floating("leaky_relu", "input", input), negative_slope)


def prelu(input, weight):
    """x where positive, weight * x elsewhere. `weight` has one element, or one per channel (axis 1)."""
    input = floating("prelu", "input", input)
    weight = same_dtype("prelu", "weight", weight, input)
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or weight.size not in (1, channels):
        raise ValueError(
            f"prelu: weight must have 1 or {channels} elements for input {input.shape}, got {weight.shape}"
        )
    shape = (-1, *[1] * (input.ndim - 2)) if weight.size > 1 else (1,) * min(input.ndim, 1)
    return PReLU.apply(input, weight.reshape(shape))


@recalled
def elu(input, alpha=1.0, inplace=False):
    """x where positive, alpha (e^x - 1) elsewhere."""
    return ELU.apply(floating("elu", "input", input), alpha)


@recalled
def gelu(input, approximate="none"):
    """x Phi(x): exact, or with approximate="tanh"."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return (GELUTanh if approximate == "tanh" else GELU).apply(floating("gelu", "input", input))


@recalled
def silu(input, inplace=False):
    """x sigmoid(x)."""
    return SiLU.apply(floating("silu", "input", input))


@recalled
def hardswish(input, inplace=False):
    """x relu6(x + 3) / 6."""
    return Hardswish.apply(floating("hardswish", "input", input))


@recalled
def hardsigmoid(input, inplace=False):
    """relu6(x + 3) / 6."""
    return Hardsigmoid.apply(floating("hardsigmoid", "input", input))


@recalled
def mish(input, inplace=False):
    """x tanh(log(1 + e^x))."""
    return Mish.apply(floating("mish", "input", input))


@recalled
def sigmoid(input):
    """1 / (1 + e^-x)."""
    return Sigmoid.apply(floating("sigmoid", "input", input))


@recalled
def tanh(input):
    """Hyperbolic tangent."""
    return Tanh.apply(floating("tanh", "input", input))


def softmax(input, dim=None, dtype=None):
    """e^x divided by its sum along `dim`; computed in `dtype` if given."""
    return _along(Softmax, input, dim, dtype)


def log_softmax(input, dim=None, dtype=None):
    """Logarithm of the softmax along `dim`."""
    return _along(LogSoftmax, input, dim, dtype)


def _along(op, x, dim, dtype):
    x = array(op.name, "input", x)
    x = floating(op.name, "input", x if dtype is None else cast(x, dtype))
    if x.ndim == 0:
        return op.apply(x.reshape(1), _axis(op.name, x.reshape(1), dim)).reshape(())
    return op.apply(x, _axis(op.name, x, dim))


def _axis(op, x, dim):
    if dim is None:
        dim = 0 if x.ndim in (1, 3) else 1
        warnings.warn(f"{op}: dim not given, taking {dim}; name it to be sure", UserWarning, stacklevel=4)
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"{op}: dim {dim} is out of range for input {x.shape} (wanted {-x.ndim} to {x.ndim - 1})")
    return dim % x.ndim
