"""Activations and their derivatives as formulas over vectors: what each name means, written once.

A formula gets values that know + - * / < <= > >= and the functions named in `simd_math.Value`, which become machine
code, or in `PlainValue`, which is NumPy.  `FORWARD[name](x, a, b)` is the activation; `BACKWARD[name](g, v, a, b)` its
gradient from that of the output, where v is the output for the names in `FROM_OUTPUT` and the input for the others.
a and b are the parameters of those that have any.  NaN goes through; where a slope is 0 by its branch the gradient is 0
even if g is infinite.
"""

import math

import numpy as np

_SIXTH = 1 / 6  # a division takes longer than all the rest of such a formula
_ROOT_HALF = math.sqrt(0.5)
_DENSITY = 1 / math.sqrt(2 * math.pi)
_GELU_SLOPE = math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715


def _sigmoid(x):
    """e^x / (1 + e^x) below 0, 1 / (1 + e^-x) above: no overflow, small results keep their relative precision."""
    small = (-x.size()).exp()
    return x.pick(x < 0, small, 1) / (small + 1)


def _silu(x):
    return x * _sigmoid(x)


def _normal_below(x):
    """The normal distribution function: half of erfc, so that its small values are precise too."""
    half = (x.size() * _ROOT_HALF).erfc_positive() * 0.5
    return x.pick(x < 0, half, 1 - half)


def gelu(x):
    """For registers of any kind; some have a way of their own."""
    return x * _normal_below(x)


def _gelu_inner(x):
    return (x + x * x * x * _GELU_CUBE) * (2 * _GELU_SLOPE)


def _tanh_softplus(x):
    """tanh(log(1 + e^x)) without overflow or cancellation: n / (n + 2), n = e (e + 2), e = e^x; 1 from x = 20 on."""
    e = x.clip(None, 20).exp()
    n = e * (e + 2)
    return n / (n + 2)


def _hardsigmoid(x):
    return (x + 3).clip(0, 6) * _SIXTH


def _elu(x, a):
    return x.pick(x > 0, x, x.clip(None, 0).expm1() * a)


FORWARD = {
    "relu": lambda x, a, b: x.clip(0, None),
    "relu6": lambda x, a, b: x.clip(0, 6),
    "clip": lambda x, a, b: x.clip(a, b),
    "leaky_relu": lambda x, a, b: x.pick(x > 0, x, x * a),
    "elu": lambda x, a, b: _elu(x, a),
    "selu": lambda x, a, b: _elu(x, a) * b,
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "tanh": lambda x, a, b: x.tanh(),
    "silu": lambda x, a, b: _silu(x),
    "gelu": lambda x, a, b: x.gelu(),
    "gelu_tanh": lambda x, a, b: x * _sigmoid(_gelu_inner(x)),
    "hardswish": lambda x, a, b: x * ((x + 3).clip(0, 6) * _SIXTH),
    "hardsigmoid": lambda x, a, b: _hardsigmoid(x),
    "mish": lambda x, a, b: x * _tanh_softplus(x),
    "softplus": lambda x, a, b: x.clip(0, None) + (-x.size()).exp().log1p_small(),
    "exp": lambda x, a, b: x.exp(),
    "log": lambda x, a, b: x.log(),
    "erf": lambda x, a, b: x.erf(),
    "sqrt": lambda x, a, b: x.sqrt(),
    "abs": lambda x, a, b: x.size(),
    "neg": lambda x, a, b: -x,
}


def _silu_slope(g, x):
    s = _sigmoid(x)
    return g * (s * (x * (1 - s) + 1))


def _gelu_slope(g, x):
    return g * (_normal_below(x) + x * ((x * x * -0.5).exp() * _DENSITY))


def _gelu_tanh_slope(g, x):
    x = x.clip(-30, 30)  # the slope is 0 or 1 there, and its terms stay finite
    s = _sigmoid(_gelu_inner(x))
    inner = x * x * (3 * _GELU_CUBE) + 1
    return g * (s + x * (s * (1 - s)) * (inner * (2 * _GELU_SLOPE)))


def _mish_slope(g, x):
    t = _tanh_softplus(x)
    return g * (t + x * ((1 - t * t) * _sigmoid(x)))


def _hardswish_slope(g, x):
    return x.pick(x <= -3, 0, x.pick(x < 3, g * (x * (1 / 3) + 0.5), g))


BACKWARD = {
    "relu": lambda g, v, a, b: g.pick(v <= 0, 0, g),
    "relu6": lambda g, v, a, b: g.pick((v <= 0) | (v >= 6), 0, g),
    "clip": lambda g, v, a, b: g.pick((v <= a) | (v >= b), 0, g),
    "leaky_relu": lambda g, v, a, b: g.pick(v > 0, g, g * a),
    "elu": lambda g, v, a, b: g.pick(v > 0, g, g * (v.clip(None, 0).exp() * a)),
    "sigmoid": lambda g, v, a, b: g * (v * (1 - v)),
    "tanh": lambda g, v, a, b: g * (1 - v * v),
    "silu": lambda g, v, a, b: _silu_slope(g, v),
    "gelu": lambda g, v, a, b: _gelu_slope(g, v),
    "gelu_tanh": lambda g, v, a, b: _gelu_tanh_slope(g, v),
    "hardswish": lambda g, v, a, b: _hardswish_slope(g, v),
    "hardsigmoid": lambda g, v, a, b: g.pick((v <= -3) | (v >= 3), 0, g * (1 / 6)),
    "mish": lambda g, v, a, b: _mish_slope(g, v),
    "softplus": lambda g, v, a, b: g * _sigmoid(v),
}
FROM_OUTPUT = {"relu", "sigmoid", "tanh"}


class PlainValue:
    """The interface of `simd_math.Value` over a NumPy array."""

    def __init__(self, array):
        self.array = array

    def _of(self, other):
        return other.array if isinstance(other, PlainValue) else self.array.dtype.type(other)

    def __neg__(self):
        return PlainValue(-self.array)

    def __add__(self, other):
        return PlainValue(self.array + self._of(other))

    __radd__ = __add__

    def __sub__(self, other):
        return PlainValue(self.array - self._of(other))

    def __rsub__(self, other):
        return PlainValue(self._of(other) - self.array)

    def __mul__(self, other):
        return PlainValue(self.array * self._of(other))

    def __truediv__(self, other):
        return PlainValue(self.array / self._of(other))

    def __lt__(self, other):
        return self.array < self._of(other)

    def __le__(self, other):
        return self.array <= self._of(other)

    def __gt__(self, other):
        return self.array > self._of(other)

    def __ge__(self, other):
        return self.array >= self._of(other)

    def pick(self, mask, yes, no):
        return PlainValue(np.where(mask, self._of(yes), self._of(no)))

    def clip(self, low, high):
        out = self
        if low is not None:
            out = out.pick(out < low, low, out)
        return out if high is None else out.pick(out > high, high, out)

    def size(self):
        return PlainValue(np.abs(self.array))

    def sqrt(self):
        return PlainValue(np.sqrt(self.array))

    def exp(self):
        return PlainValue(np.exp(self.array))

    def expm1(self):
        return PlainValue(np.expm1(self.array))

    def log(self):
        return PlainValue(np.log(self.array))

    def log1p_small(self):
        return PlainValue(np.log1p(self.array))

    def tanh(self):
        return PlainValue(np.tanh(self.array))

    def gelu(self):
        return gelu(self)

    def erf(self):
        return PlainValue(np.array([math.erf(v) for v in self.array], self.array.dtype))

    def erfc_positive(self):
        return PlainValue(np.array([math.erfc(v) for v in self.array], self.array.dtype))
