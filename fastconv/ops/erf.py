"""The error function, which NumPy lacks: erf(x) = 2/sqrt(pi) * integral of exp(-t^2) from 0 to x.

Source of the rational approximations and their coefficients: W. J. Cody, "Rational Chebyshev approximations for the
error function", Mathematics of Computation 23 (1969), 631-637. Relative error below 1e-15 in float64.
"""

import math

import numpy as np

from ..autograd import Op, exp

# erf(x) = x P(x^2)/Q(x^2) for |x| <= 0.46875; highest power first.
_P1 = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3)
_Q1 = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# erfc(x) = exp(-x^2) P(x)/Q(x) for 0.46875 <= x <= 4
_P2 = (
    *(2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1),
    *(2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3),
    1.23033935479799725e3,
)
_Q2 = (
    *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3),
    *(3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)
# erfc(x) = exp(-x^2)/x (1/sqrt(pi) - P(1/x^2)/(x^2 Q(1/x^2))) for x >= 4
_P3 = (
    *(1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1),
    *(1.60837851487422766e-2, 6.58749161529837803e-4),
)
_Q3 = (
    *(1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2),
    2.33520497626869185e-3,
)


def _horner(coefficients, x):
    out = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out *= x
        out += x.dtype.type(c)
    return out


def _near(x):
    z = x * x
    return x * _horner(_P1, z) / _horner(_Q1, z)


def _middle(x):
    return 1 - np.exp(-x * x) * _horner(_P2, x) / _horner(_Q2, x)


def _far(x):
    x = np.minimum(x, 6)  # erfc(6) = 2e-17: erf is 1 from here on
    z = 1 / (x * x)
    tail = z * _horner(_P3, z) / _horner(_Q3, z)
    return 1 - np.exp(-x * x) / x * (1 / math.sqrt(math.pi) - tail)


def erf_array(x):
    """erf of a floating-point array, in its dtype."""
    size = np.abs(x)
    near, far = size <= 0.46875, size > 4
    # All values go through the middle form, the common case; the two others overwrite their few.
    out = np.asarray(_middle(np.clip(size, 0.46875, 4)))
    out[far] = _far(size[far])
    out = np.asarray(np.copysign(out, x))
    out[near] = _near(x[near])
    return out


class Erf(Op):
    name = "erf"

    @staticmethod
    def forward(ctx, x):
        ctx.save(x)
        return erf_array(np.asarray(x))

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        return g * (exp(x * x * -1.0) * (2 / math.sqrt(math.pi)))


def erf(x):
    """The error function of an array or a Tensor."""
    return Erf.apply(x)
