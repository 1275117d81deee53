"""Elementwise arithmetic and matrix products on arrays or Tensors alike, with broadcasting.

Python numbers take the dtype of the array they meet. Backward rules use the operators of Python, which arrays and
Tensors share, so every rule can itself be differentiated.
"""

import numpy as np

from .op import ArrayOp, value
from .shaping import reshape, sum_to, swap


class Add(ArrayOp):
    name = "add"

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = np.shape(a), np.shape(b)
        return np.add(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.shapes
        return sum_to(g, a) if ctx.needs[0] else None, sum_to(g, b) if ctx.needs[1] else None


class Sub(ArrayOp):
    name = "sub"

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = np.shape(a), np.shape(b)
        return np.subtract(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.shapes
        return sum_to(g, a) if ctx.needs[0] else None, sum_to(-g, b) if ctx.needs[1] else None


class Mul(ArrayOp):
    name = "mul"

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = np.shape(a), np.shape(b)
        ctx.save(a if ctx.needs[1] else None, b if ctx.needs[0] else None)
        return np.multiply(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved
        return (
            sum_to(g * b, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(g * a, ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Div(ArrayOp):
    name = "div"

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = np.shape(a), np.shape(b)
        with np.errstate(divide="ignore", invalid="ignore"):
            out = np.true_divide(a, b)
        ctx.save(b, out if ctx.needs[1] else None)
        return out

    @staticmethod
    def backward(ctx, g):
        b, out = ctx.saved
        ga = g / b
        return (
            sum_to(ga, ctx.shapes[0]) if ctx.needs[0] else None,
            sum_to(-(ga * out), ctx.shapes[1]) if ctx.needs[1] else None,
        )


class Pow(ArrayOp):
    name = "pow"

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = np.shape(a), np.shape(b)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            out = np.power(a, b)
        ctx.save(a, b, out if ctx.needs[1] else None)
        return out

    @staticmethod
    def backward(ctx, g):
        """b a^(b-1) and a^b log a; where the exponent (or a base of zero) makes the factor 0, so is the derivative."""
        a, b, out = ctx.saved
        ga = gb = None
        if ctx.needs[0]:
            if isinstance(b, (int, float)):
                ga = g * (b * a ** (b - 1)) if b != 0 else g * 0
            else:
                ga = g * b * a ** where(value(b) == 0, np.ones_like(value(b)), b - 1)
            ga = sum_to(ga, ctx.shapes[0])
        if ctx.needs[1]:
            if isinstance(a, (int, float)):
                safe = a or 1.0
            else:
                safe = where(value(a) == 0, np.ones_like(value(a)), a)
            gb = sum_to(g * (out * log(safe)), ctx.shapes[1])
        return ga, gb


class Neg(ArrayOp):
    name = "neg"

    @staticmethod
    def forward(ctx, x):
        return np.negative(x)

    @staticmethod
    def backward(ctx, g):
        return -g


class MatMul(ArrayOp):
    """a (.., m, k) @ b (.., k, n) -> (.., m, n), with the rules of `numpy.matmul` for vectors and leading axes."""

    name = "matmul"

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a if ctx.needs[1] else None, b if ctx.needs[0] else None)
        ctx.shapes = a.shape, b.shape
        return np.matmul(a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved
        sa, sb = ctx.shapes
        ma, mb = (1, *sa) if len(sa) == 1 else sa, (*sb, 1) if len(sb) == 1 else sb
        if len(sa) == 1:
            g = reshape(g, (*g.shape[:-1], 1, g.shape[-1]) if len(sb) > 1 else (1,))
        if len(sb) == 1:
            g = reshape(g, (*g.shape, 1))
        ga = gb = None
        if ctx.needs[0]:
            ga = reshape(sum_to(matmul(g, swap(reshape(b, mb), -1, -2)), ma), sa)
        if ctx.needs[1]:
            gb = reshape(sum_to(matmul(swap(reshape(a, ma), -1, -2), g), mb), sb)
        return ga, gb


class Exp(ArrayOp):
    name = "exp"

    @staticmethod
    def forward(ctx, x):
        with np.errstate(over="ignore"):
            out = np.exp(x)
        ctx.save(out)
        return out

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved
        return g * out


class Log(ArrayOp):
    name = "log"

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        return g / x


class Sqrt(ArrayOp):
    name = "sqrt"

    @staticmethod
    def forward(ctx, x):
        with np.errstate(invalid="ignore"):
            out = np.sqrt(x)
        ctx.save(out)
        return out

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved
        return g / (2 * out)


class Tanh(ArrayOp):
    name = "tanh"

    @staticmethod
    def forward(ctx, x):
        out = np.tanh(x)
        ctx.save(out)
        return out

    @staticmethod
    def backward(ctx, g):
        (out,) = ctx.saved
        return g * (1 - out * out)


class Abs(ArrayOp):
    name = "abs"

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return np.abs(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        return g * np.sign(value(x))


class Clip(ArrayOp):
    name = "clip"

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save(x)
        ctx.bounds = low, high
        return np.clip(x, low, high)

    @staticmethod
    def backward(ctx, g):
        """The gradient passes where the value did, the bounds included."""
        low, high = ctx.bounds
        x = value(ctx.saved[0])
        if low is None or high is None:
            inside = x <= high if low is None else x >= low
        else:
            inside = (x >= low) & (x <= high)
        return where(inside, g, np.zeros((), g.dtype)), None, None


class Where(ArrayOp):
    name = "where"

    @staticmethod
    def forward(ctx, condition, a, b):
        ctx.condition, ctx.shapes = condition, (np.shape(a), np.shape(b))
        return np.where(condition, a, b)

    @staticmethod
    def backward(ctx, g):
        zero = np.zeros((), g.dtype)
        return (
            None,
            sum_to(where(ctx.condition, g, zero), ctx.shapes[0]) if ctx.needs[1] else None,
            sum_to(where(ctx.condition, zero, g), ctx.shapes[1]) if ctx.needs[2] else None,
        )


def add(a, b):
    return Add.apply(a, b)


def sub(a, b):
    return Sub.apply(a, b)


def mul(a, b):
    return Mul.apply(a, b)


def div(a, b):
    return Div.apply(a, b)


def pow(a, b):
    return Pow.apply(a, b)


def neg(x):
    return Neg.apply(x)


def matmul(a, b):
    return MatMul.apply(a, b)


def exp(x):
    return Exp.apply(x)


def log(x):
    return Log.apply(x)


def sqrt(x):
    return Sqrt.apply(x)


def tanh(x):
    return Tanh.apply(x)


def abs(x):
    return Abs.apply(x)


def clip(x, low=None, high=None):
    return Clip.apply(x, low, high)


def where(condition, a, b):
    """`a` where the boolean array `condition` holds, `b` elsewhere; gradients flow to `a` and `b`."""
    return Where.apply(value(condition), a, b)
