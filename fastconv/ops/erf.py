"""The error function: erf(x) = 2/sqrt(pi) * integral of exp(-t^2) from 0 to x, by the kernels of `simd_math.py`."""

import math

from ..autograd import Op, exp
from ..kernels.elementwise import activated


class Erf(Op):
    name = "erf"

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return activated("erf", x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        return g * (exp(x * x * -1.0) * (2 / math.sqrt(math.pi)))


def erf(x):
    """The error function of an array or a Tensor."""
    return Erf.apply(x)
