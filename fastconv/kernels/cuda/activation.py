"""Activations on the device: the formulas of `simd_formulas.py`, written out as Python and compiled by Numba.

A formula is run once on `Term`s, each operation of which writes one line of a function; the function is then compiled
like any other.  So what a name means stays written in one place for vectors, NumPy and the device.
"""

import math
from functools import lru_cache

import numpy as np

from ..._device import Rule
from ...simd_formulas import BACKWARD, FORWARD, FROM_OUTPUT, gelu
from .array import empty
from .elementwise import exp, log, sqrt, tanh
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch
from .shaping import dense

FUNCTIONS = {
    **{"exp": exp, "log": log, "sqrt": sqrt, "tanh": tanh, "erf": math.erf, "erfc": math.erfc},
    **{"expm1": np.expm1 if SIMULATED else math.expm1, "log1p": np.log1p if SIMULATED else math.log1p},
}


class Term:
    """A value of the function that is being written: the interface of `simd_formulas.PlainValue`."""

    def __init__(self, lines, text):
        self.lines = lines
        self.text = text

    def _of(self, other):
        return other.text if isinstance(other, Term) else f"REAL({float(other)!r})"

    def _new(self, text):
        name = f"t{len(self.lines)}"
        self.lines.append(f"    {name} = {text}")
        return Term(self.lines, name)

    def _binary(self, sign, other):
        return self._new(f"{self.text} {sign} {self._of(other)}")

    def __neg__(self):
        return self._new(f"-{self.text}")

    def __add__(self, other):
        return self._binary("+", other)

    __radd__ = __add__

    def __sub__(self, other):
        return self._binary("-", other)

    def __rsub__(self, other):
        return self._new(f"{self._of(other)} - {self.text}")

    def __mul__(self, other):
        return self._binary("*", other)

    def __truediv__(self, other):
        return self._binary("/", other)

    def __lt__(self, other):
        return self._binary("<", other)

    def __le__(self, other):
        return self._binary("<=", other)

    def __gt__(self, other):
        return self._binary(">", other)

    def __ge__(self, other):
        return self._binary(">=", other)

    def __or__(self, other):
        return self._binary("or", other)

    def pick(self, mask, yes, no):
        return self._new(f"{self._of(yes)} if {mask.text} else {self._of(no)}")

    def clip(self, low, high):
        out = self
        if low is not None:
            out = out.pick(out < low, low, out)
        return out if high is None else out.pick(out > high, high, out)

    def size(self):
        return self._new(f"abs({self.text})")

    def _call(self, function):
        return self._new(f"REAL({function}({self.text}))")

    def exp(self):
        return self._call("exp")

    def expm1(self):
        return self._call("expm1")

    def log(self):
        return self._call("log")

    def sqrt(self):
        return self._call("sqrt")

    def log1p_small(self):
        return self._call("log1p")

    def tanh(self):
        return self._call("tanh")

    def gelu(self):
        return gelu(self)

    def erf(self):
        return self._call("erf")

    def erfc_positive(self):
        return self._call("erfc")


def _written(formula, arguments, dtype):
    """The formula as a device function of values of this dtype."""
    lines = []
    out = formula(*(Term(lines, name) for name in arguments))
    text = "\n".join([f"def formula({', '.join(arguments)}):", *lines, f"    return {out.text}"])
    names = {**FUNCTIONS, "REAL": np.dtype(dtype).type}
    exec(text, names)
    return helper(names["formula"])


@lru_cache
def activation_function(name, dtype):
    """f(x, a, b) on the device."""
    return _written(FORWARD[name], ("x", "a", "b"), dtype)


@lru_cache
def gradient_function(name, dtype):
    """f(g, v, a, b) on the device; v: the output for names in FROM_OUTPUT, else the input."""
    return _written(BACKWARD[name], ("g", "v", "a", "b"), dtype)


@lru_cache
def make_activation(name, dtype):
    """y[i] = act(x[i]) for i < n."""
    act, U = activation_function(name, dtype), np.uint32

    @kernel(f"x:{dtype} y:{dtype} n a={dtype} b={dtype}")
    def activation(x, y, n, a, b):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            y[i] = act(x[i], a, b)
            i = U(i + step)

    return activation.of(name)


@lru_cache
def make_gradient(name, dtype):
    """gx[i] = act'(v[i]) g[i] for i < n."""
    slope, U = gradient_function(name, dtype), np.uint32

    @kernel(f"g:{dtype} v:{dtype} gx:{dtype} n a={dtype} b={dtype}")
    def activation_gradient(g, v, gx, n, a, b):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            gx[i] = slope(g[i], v[i], a, b)
            i = U(i + step)

    return activation_gradient.of(name)


def kernels(dtype):
    """For the test that compiles them."""
    for name in FORWARD:
        yield make_activation(name, dtype)
    for name in BACKWARD:
        yield make_gradient(name, dtype)


# ---- the ops


def _launched(made, arrays, alpha=0.0, beta=0.0):
    out = empty(arrays[0].shape, arrays[0].dtype)
    operands = (*map(dense, arrays), out, out.size, float(alpha), float(beta))
    launch(Row(made, blocks_for(out.size), THREADS, operands))
    return out


def activated(name, x, *parameters):
    """act(x) of an array."""
    return _launched(make_activation(name, x.dtype.name), (x,), *parameters)


def activation_gradient(name, g, v, *parameters):
    """The gradient from g, the output's, and v: the output for names in FROM_OUTPUT, else the input."""
    return _launched(make_gradient(name, g.dtype.name), (g, v), *parameters)


class Activation(Rule):
    """By the kernels of a name; a rule of its own for each op, since a rule does not see which op it serves."""

    name: str

    @classmethod
    def forward(cls, ctx, x, *parameters):
        if x.dtype.kind != "f":
            return np.maximum(x, 0) if cls.name == "relu" else np.minimum(np.maximum(x, 0), 6)
        out = activated(cls.name, x, *parameters)
        ctx.save(out if cls.name in FROM_OUTPUT else x)
        ctx.parameters = parameters
        return out

    @classmethod
    def backward(cls, ctx, g):
        (saved,) = ctx.saved
        return activation_gradient(cls.name, g, saved, *ctx.parameters), *[None] * len(ctx.parameters)


_OPS = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu_tanh": "GELUTanh",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "mish": "Mish",
    "softplus": "Softplus",
}
for _name, _op in _OPS.items():
    counterpart(f"activation.{_op}")(type(_op, (Activation,), {"name": _name}))


@counterpart("activation.PReLU")
class PReLU(Rule):
    """x where positive, weight * x elsewhere; backward is the op's own."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save(x, weight)
        return np.where(x > 0, x, x * weight)


@counterpart("erf.Erf")
class Erf(Rule):
    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return activated("erf", x)
