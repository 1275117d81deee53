"""Mathematical functions of whole vectors: exponential, logarithm, hyperbolic tangent, error function, activations.

All are polynomials after a reduction of the argument, without branches, and hold for every argument: infinities, NaN,
denormal arguments and results.  Their error is below 2 units in the last place (erfc: 7; tanh in float64: 3); the
coefficients are Chebyshev interpolations computed in 60 digits, whose own error is a small part of a unit.  The
reductions are from:

exp, expm1   x = n ln 2 + r, |r| <= ln(2)/2 (Tang 1989, ACM TOMS 15, 144-157)
log          x = 2^n (1 + s), log(1 + s) = 2 artanh(s / (2 + s)) (Tang 1990, ACM TOMS 16, 378-400)
erfc         (1 + 2t) e^(t^2) erfc(t) as a polynomial in (t - K) / (t + K), for all t >= 0 (Shepherd and Laframboise
             1981, Mathematics of Computation 36, 249-253)

Plain twins: `simd_python.py`; activations: `simd_formulas.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from . import simd_normal
from .simd_formulas import BACKWARD, FORWARD, gelu
from .simd_place import Vec, _call, _const, _fma, _suffix, operation
from .simd_vector import _arithmetic

# (e^r - 1 - r) / r^2 for |r| <= ln(2)/2
_EXPM1 = {
    32: (0.5, 0.1666657685, 0.04166655444, 0.008363202972, 0.001392621347),
    64: (
        *(0.5, 0.16666666666666671, 0.0416666666666666698, 0.00833333333332611205, 0.00138888888888837318),
        *(0.000198412698749012592, 2.48015873256053228e-5, 2.75572552979696444e-6, 2.75572735701021397e-7),
        *(2.51052595384484934e-8, 2.09147173417163759e-9),
    ),
}
# (2 artanh(f) - 2f) / f^3 in f^2, for f <= 0.1716 (log) and f <= 1/3 (log1p of 0 to 1)
_LOG = {
    32: (0.6666668506, 0.3998877067, 0.2958039828),
    64: (
        *(0.666666666666666665, 0.400000000000008797, 0.285714285708019569, 0.222222223920890079),
        *(0.181817956000607924, 0.153862418819385955, 0.132687147923480967, 0.130872361966596223),
    ),
}
_LOG1P = {
    32: (0.6666666732, 0.3999970623, 0.2859236343, 0.2170648396, 0.2322480326),
    64: (
        *(0.666666666666666669, 0.399999999999995221, 0.285714285716002313, 0.222222221982202454),
        *(0.181818198990068402, 0.153845439271767867, 0.133351794554637319, 0.117342679561724706),
        *(0.108452685027680124, 0.0749174033450949648, 0.156313433207555693),
    ),
}
# (tanh(x) / x - 1) / x^2 in x^2, for |x| <= 1/2 in float32
_TANH = (-0.333333328, 0.1333322578, -0.05393346915, 0.02147068303, -0.00694294175)
# erf(x)/x - 1 in x^2, for |x| <= 1
_ERF = {
    32: (
        *(0.1283791671, -0.3761262667, 0.1128359472, -0.02685421201, 0.005189087423, -0.0008016864287),
        7.875875063e-5,
    ),
    64: (
        *(0.12837916709551257, -0.376126389031837481, 0.112837916709548787, -0.0268661706450767932),
        *(0.00522397762481801447, -0.000854832698083378991, 0.000120553311116427109, -1.49255952668311816e-5),
        *(1.6461000484121368e-6, -1.6350312701054695e-7, 1.46597752740474358e-8, -1.13728488567916737e-9),
        5.9571761477489114e-11,
    ),
}
# (1 + 2t) e^(t^2) erfc(t) in (t - K) / (t + K); K; the t from which erfc is 0
_ERFC = {
    32: (
        (
            *(1.253008058, -0.1356211504, -0.04756232849, 0.1296467462, -0.1192717287, 0.06829294517),
            *(-0.02379575873, 0.002576125594, 0.002003469475, -0.0007856262976, -0.0002726707478),
        ),
        3.0,
        10.6,
    ),
    64: (
        (
            *(1.23751263083782758, -0.14024059858554669, 0.00358541548546353586, 0.0822767384901129617),
            *(-0.108803930141698766, 0.0923043211615067385, -0.0586933985906061249, 0.0283622774007073495),
            *(-0.00974657955012906474, 0.00175562601631940307, 0.000293713645197945544, -0.000290154968729754158),
            *(5.1648995064347805e-5, 2.23872991471177169e-5, -1.14431823447386728e-5, -9.80313074712995968e-7),
            *(1.74837724487491531e-6, -4.78819525792505673e-8, -2.52778119640079431e-7, 1.57287347089609647e-8),
            *(3.28519050474490459e-8, -7.72723576797986698e-10, -2.37530404761867426e-9),
        ),
        3.75,
        27.5,
    ),
}
# ln 2 in two parts, the first of few bits so that n times it is exact
_LN2 = {32: (0.693359375, -2.12194440054690583e-4), 64: (0.6931471803691238, 1.9082149292705877e-10)}
# arguments below the first give e^x = 0, above the second infinity
_EXP_RANGE = {32: (-104.0, 89.0), 64: (-746.0, 710.0)}
# bits of the mantissa, bias of the exponent, square root of a half, smallest normal number
_FORMAT = {
    32: (23, 127, 0x3F3504F3, 1.1754943508222875e-38),
    64: (52, 1023, 0x3FE6A09E667F3BCD, 2.2250738585072014e-308),
}


class _Mask:
    """Which lanes satisfy a condition."""

    def __init__(self, b, lanes):
        self.b, self.lanes = b, lanes

    def __or__(self, other):
        return _Mask(self.b, self.b.or_(self.lanes, other.lanes))


class Value:
    """A vector in code that is being generated, with operators; numbers beside it mean vectors of that number."""

    def __init__(self, b, vec, value):
        self.b, self.vec, self.value = b, vec, value
        self.bits = vec.element.bitwidth
        self.whole = ir.VectorType(ir.IntType(self.bits), vec.lanes)

    def of(self, value):
        return Value(self.b, self.vec, value)

    def _raw(self, other):
        return other.value if isinstance(other, Value) else _const(self.vec, float(other))

    def whole_bits(self, number):
        """A vector of whole numbers as wide as the lanes."""
        return ir.Constant(self.whole, [number] * self.vec.lanes)

    def __neg__(self):
        return self.of(self.b.fneg(self.value))

    def __add__(self, other):
        return self.of(self.b.fadd(self.value, self._raw(other)))

    __radd__ = __add__

    def __sub__(self, other):
        return self.of(self.b.fsub(self.value, self._raw(other)))

    def __rsub__(self, other):
        return self.of(self.b.fsub(self._raw(other), self.value))

    def __mul__(self, other):
        return self.of(self.b.fmul(self.value, self._raw(other)))

    def __truediv__(self, other):
        return self.of(self.b.fdiv(self.value, self._raw(other)))

    def __rtruediv__(self, other):
        return self.of(self.b.fdiv(self._raw(other), self.value))

    def _compare(self, sign, other):
        return _Mask(self.b, self.b.fcmp_ordered(sign, self.value, self._raw(other)))

    def __lt__(self, other):
        return self._compare("<", other)

    def __le__(self, other):
        return self._compare("<=", other)

    def __gt__(self, other):
        return self._compare(">", other)

    def __ge__(self, other):
        return self._compare(">=", other)

    def pick(self, mask, yes, no):
        """`yes` where the mask holds, else `no`."""
        return self.of(self.b.select(mask.lanes, self._raw(yes), self._raw(no)))

    def clip(self, low, high):
        """Not below `low`, not above `high`, either of them None for no bound; NaN stays."""
        out = self
        if low is not None:
            out = out.pick(out < low, low, out)
        return out if high is None else out.pick(out > high, high, out)

    def fma(self, factor, term):
        return self.of(_fma(self.b, self.vec, self.value, self._raw(factor), self._raw(term)))

    def _unary(self, name):
        return self.of(_call(self.b, f"llvm.{name}.{_suffix(self.vec)}", self.vec.ir, self.value))

    def size(self):
        """The absolute value."""
        return self._unary("fabs")

    def sqrt(self):
        """The square root; NaN below 0."""
        return self._unary("sqrt")

    def rint(self):
        """The nearest whole number."""
        return self._unary("rint")

    def with_sign_of(self, other):
        name = f"llvm.copysign.{_suffix(self.vec)}"
        return self.of(_call(self.b, name, self.vec.ir, self.value, other.value))

    def polynomial(self, coefficients):
        """coefficients[0] + coefficients[1] x + ..."""
        out = self.of(_const(self.vec, coefficients[-1]))
        for coefficient in coefficients[-2::-1]:
            out = out.fma(self, coefficient)
        return out

    def _reduce(self, low, high):
        """(n as whole numbers, e^r - 1) for the argument n ln 2 + r brought into low .. high; NaN comes out as r."""
        bounded = self.pick(self > low, self, low)  # NaN becomes `low`: n must be a number
        bounded = bounded.pick(bounded < high, bounded, high)
        n = (bounded * 1.4426950408889634).rint()
        ln2_high, ln2_low = _LN2[self.bits]
        r = self.of(self.b.select(self.b.fcmp_unordered("uno", self.value, self.value), self.value, bounded.value))
        r = n.fma(-ln2_low, n.fma(-ln2_high, r))
        return self.b.fptosi(n.value, self.whole), (r * r).fma(r.polynomial(_EXPM1[self.bits]), r)

    def _power_of_two(self, n):
        """2^n, for n that gives a normal number."""
        mantissa, bias, _, _ = _FORMAT[self.bits]
        shifted = self.b.shl(self.b.add(n, self.whole_bits(bias)), self.whole_bits(mantissa))
        return self.of(self.b.bitcast(shifted, self.vec.ir))

    def times_power_of_two(self, n):
        """self 2^n for whole numbers n, rounded once where that is no normal number: one instruction of AVX-512."""
        kind, vec = {32: "ps", 64: "pd"}[self.bits], self.vec
        mask = ir.IntType(max(vec.lanes, 8))
        types_in = [vec.ir, vec.ir, vec.ir, mask, ir.IntType(32)]
        name = f"llvm.x86.avx512.mask.scalef.{kind}.512"
        function = cgutils.get_or_insert_function(self.b.module, ir.FunctionType(vec.ir, types_in), name)
        return self.of(self.b.call(function, [self.value, n.value, self.value, mask(-1), ir.IntType(32)(4)]))

    def exp(self):
        low, high = _EXP_RANGE[self.bits]
        if self.vec.lanes * self.bits == 512:
            bounded = self.clip(low, high)
            n = (bounded * 1.4426950408889634).rint()
            ln2_high, ln2_low = _LN2[self.bits]
            r = n.fma(-ln2_low, n.fma(-ln2_high, bounded))
            return ((r * r).fma(r.polynomial(_EXPM1[self.bits]), r) + 1).times_power_of_two(n)
        n, rest = self._reduce(low, high)
        half = self.b.ashr(n, self.whole_bits(1))  # in two steps, since 2^n itself may be no normal number
        return (rest + 1) * self._power_of_two(half) * self._power_of_two(self.b.sub(n, half))

    def expm1(self):
        """e^x - 1, for x up to 88 (float32) or 709."""
        n, rest = self._reduce(-45.0, {32: 88.0, 64: 709.0}[self.bits])
        power = self._power_of_two(n)
        return power.fma(rest, power - 1)

    def tanh(self):
        grown = (self.size() * 2).clip(None, {32: 20.0, 64: 44.0}[self.bits]).expm1()
        far = (grown / (grown + 2)).with_sign_of(self)
        if self.bits == 64:
            return far
        square = self * self
        return self.pick(self.size() < 0.5, (square * self).fma(square.polynomial(_TANH), self), far)

    def _log_of(self, coefficients, n=None):
        """log(1 + self), plus n ln 2; the largest term is added last."""
        ratio, half = self / (self + 2), self * self * 0.5
        square = ratio * ratio
        small = ratio * (half + square * square.polynomial(coefficients))
        if n is None:
            return self - (half - small)
        ln2_high, ln2_low = _LN2[self.bits]
        return n.fma(ln2_high, self - (half - n.fma(ln2_low, small)))

    def log1p_small(self):
        """log(1 + x) for x from 0 to 1."""
        return self._log_of(_LOG1P[self.bits])

    def log(self):
        b, (mantissa, bias, root_half, least) = self.b, _FORMAT[self.bits]
        tiny = self < least
        x = self.pick(tiny, self * 2.0**mantissa, self)
        one = bias << mantissa
        bits = b.add(b.bitcast(x.value, self.whole), self.whole_bits(one - root_half))
        n = self.of(b.sitofp(b.sub(b.ashr(bits, self.whole_bits(mantissa)), self.whole_bits(bias)), self.vec.ir))
        n = n - n.pick(tiny, mantissa, 0)
        low = b.and_(bits, self.whole_bits((1 << mantissa) - 1))
        result = (self.of(b.bitcast(b.add(low, self.whole_bits(root_half)), self.vec.ir)) - 1)._log_of(
            _LOG[self.bits], n
        )
        result = result.pick(self < float("inf"), result, self)  # infinity and NaN
        result = result.pick(self <= 0, float("-inf"), result)
        return result.pick(self < 0, float("nan"), result)

    def erfc_positive(self):
        """erfc(t) for t >= 0, to full relative precision."""
        coefficients, centre, last = _ERFC[self.bits]
        t = self.clip(None, last)
        square = t * t
        missed = t.fma(t, -square)  # what rounding took from the square
        near, far = t + centre, t * 2 + 1
        inverse = 1 / (near * far)
        value = ((t - centre) * far * inverse).polynomial(coefficients) * (near * inverse)
        falling = (-square).exp()
        return (falling - falling * missed) * value

    def gelu(self):
        """x times the normal distribution function of x."""
        wide = self.bits == 32 and self.vec.lanes == 16
        return simd_normal.gelu(self) if wide else gelu(self)

    def erf(self):
        size = self.size()
        near = self.fma((self * self).polynomial(_ERF[self.bits]), self)
        far = (1 - size.erfc_positive()).with_sign_of(self)
        return self.pick(size < 1, near, far)


def _function(compute):
    """The typing of an operation that is a method of Value."""
    return _arithmetic(lambda b, vec, x: compute(Value(b, vec, x)).value)


@operation
def exp_vector(typing, x):
    """e^x."""
    return _function(Value.exp)(x)


@operation
def expm1_vector(typing, x):
    """e^x - 1, for x up to 88 (float32) or 709 (float64)."""
    return _function(Value.expm1)(x)


@operation
def log_vector(typing, x):
    """The natural logarithm; NaN below 0."""
    return _function(Value.log)(x)


@operation
def tanh_vector(typing, x):
    """The hyperbolic tangent."""
    return _function(Value.tanh)(x)


@operation
def erf_vector(typing, x):
    """The error function."""
    return _function(Value.erf)(x)


@operation
def erfc_vector(typing, x):
    """1 - erf(x) for x >= 0, precise where it is small."""
    return _function(Value.erfc_positive)(x)


@operation
def max_vector(typing, x, y):
    """The larger of x and y; NaN where either is."""
    return _arithmetic(_max)(x, y)


def _max(b, vec, x, y):
    x, y = Value(b, vec, x), Value(b, vec, y)
    return x.pick(_Mask(b, b.fcmp_unordered("uno", y.value, y.value)) | (y > x), y, x).value


@operation
def div_vector(typing, x, y):
    """x / y."""
    return _arithmetic(lambda b, vec, x, y: b.fdiv(x, y))(x, y)


@operation
def activation_vector(typing, x, alpha, beta, NAME):
    """The activation NAME of `simd_formulas.FORWARD`, with its parameters as vectors."""
    return _formula(FORWARD, (x, alpha, beta), NAME)


@operation
def activation_gradient_vector(typing, g, v, alpha, beta, NAME):
    """The gradient of activation NAME from g, that of its output, and v, its input or output (`FROM_OUTPUT`)."""
    return _formula(BACKWARD, (g, v, alpha, beta), NAME)


def _formula(table, vectors, name):
    if not isinstance(name, types.StringLiteral) or not all(isinstance(vector, Vec) for vector in vectors):
        return None
    vec, formula = vectors[0], table[name.literal_value]

    def codegen(context, b, sig, args):
        return formula(*[Value(b, vec, arg) for arg in args[:-1]]).value

    return vec(*vectors, name), codegen
