"""Arithmetic on single vectors, and product-like loops whose terms are not products.

Conventions as in `simd.py`: capitals are compile-time numbers; the plain-Python twins are in `simd_python.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from . import _config
from .simd_place import (
    Place,
    Vec,
    _below,
    _call,
    _clip,
    _const,
    _fma,
    _i32,
    _i64,
    _literals,
    _splat,
    _suffix,
    _vec_of,
    operation,
)

# ---- loops over k that keep a tile in registers


def _loop(context, b, sig, tile, steps, first, last, term):
    """The tile after `term(acc, a_offset, b_offset)` for each pair of offsets steps[2*k], steps[2*k + 1]."""
    table = context.make_array(sig)(context, b, steps).data
    acc = [cgutils.alloca_once_value(b, value) for value in tile]
    with cgutils.for_range_slice(b, first, last, _i64(1)) as (k, _):
        step = b.gep(table, [b.mul(k, _i64(2))])
        values = term([b.load(place) for place in acc], b.load(step), b.load(b.gep(step, [_i64(1)])))
        for place, value in zip(acc, values, strict=True):
            b.store(value, place)
    return [b.load(place) for place in acc]


def _operands(b, vec, left, right, a_m, mr, nr, a_offset, b_offset):
    """MR values of a, each in a whole vector, and NR vectors of b."""
    rows = [right.load(b.add(b_offset, _i64(n * vec.lanes))) for n in range(nr)]
    scalars = [left.scalar(b.add(a_offset, b.mul(a_m, _i64(m)))) for m in range(mr)]
    return [_splat(b, vec, b.load(scalar)) for scalar in scalars], rows


@operation
def distance_loop(typing, acc, a, ai, a_m, b_, bi, steps, first, last, sign, MR, NR):
    """acc[m, n] + sign * the sum over k = first .. last-1 of |a[ai + m*a_m + steps[2*k]] - b[k, n]|.

    b[k, n] = b[bi + steps[2*k + 1] + n*LANES : +LANES].  sign: 1 or -1 as a number that the compiler does not
    know: the accumulation is then a fused multiply-add, on units that the subtraction leaves idle (1.5 cycles instead
    of 2 on Zen 4).
    """
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes
    vec = _vec_of(a)

    def codegen(context, b, sig, args):
        left, right = Place(context, b, sig.args[1], args[1], args[2]), Place(context, b, sig.args[4], args[4], args[5])
        weight = _splat(b, vec, args[9])

        def term(tile, a_offset, b_offset):
            splats, rows = _operands(b, vec, left, right, args[3], mr, nr, a_offset, b_offset)
            result = []
            for m in range(mr):
                for n in range(nr):
                    distance = _call(b, f"llvm.fabs.{_suffix(vec)}", vec.ir, b.fsub(splats[m], rows[n]))
                    result.append(_fma(b, vec, distance, weight, tile[m * nr + n]))
            return result

        acc_in, (steps_in, first_in, last_in) = cgutils.unpack_tuple(b, args[0], mr * nr), args[6:9]
        tile = _loop(context, b, sig.args[6], acc_in, steps_in, first_in, last_in, term)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, a, ints, ints, b_, ints, steps, ints, ints, vec.element, MR, NR), codegen


@operation
def clipped_loop(typing, acc, x, xi, x_m, a, ai, a_m, b_, bi, steps, first, last, MR, NR):
    """acc[m, n] + the sum over k = first .. last-1 of clip(a[ai + m*a_m + steps[2*k]] - x[m, n], -1, 1) * b[k, n].

    x[m, n] = x[xi + m*x_m + n*LANES : +LANES] stays in registers; b[k, n] = b[bi + steps[2*k + 1] + n*LANES : +LANES].
    NaN passes through the clipping.
    """
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes
    vec = _vec_of(a)

    def codegen(context, b, sig, args):
        inputs = Place(context, b, sig.args[1], args[1], args[2])
        left, right = Place(context, b, sig.args[4], args[4], args[5]), Place(context, b, sig.args[7], args[7], args[8])
        fixed = [inputs.load(b.add(b.mul(args[3], _i64(m)), _i64(n * vec.lanes))) for m in range(mr) for n in range(nr)]
        low, high = _const(vec, -1.0), _const(vec, 1.0)

        def term(tile, a_offset, b_offset):
            splats, rows = _operands(b, vec, left, right, args[6], mr, nr, a_offset, b_offset)
            result = []
            for i, value in enumerate(tile):
                difference = b.fsub(splats[i // nr], fixed[i])
                difference = b.select(b.fcmp_ordered("<", difference, low), low, difference)
                difference = b.select(b.fcmp_ordered(">", difference, high), high, difference)
                result.append(_fma(b, vec, difference, rows[i % nr], value))
            return result

        acc_in, (steps_in, first_in, last_in) = cgutils.unpack_tuple(b, args[0], mr * nr), args[9:12]
        tile = _loop(context, b, sig.args[9], acc_in, steps_in, first_in, last_in, term)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, x, ints, ints, a, ints, ints, b_, ints, steps, ints, ints, MR, NR), codegen


# ---- single vectors


@operation
def splat_vector(typing, like, value):
    """The vector that holds `value` in every lane, for arrays like `like`."""
    vec = _vec_of(like)

    def codegen(context, b, sig, args):
        return _splat(b, vec, args[1])

    return vec(like, vec.element), codegen


def _arithmetic(compute):
    """The typing of an operation on vectors of one kind."""

    def typed(*vectors):
        if not all(isinstance(vector, Vec) for vector in vectors):
            return None
        vec = vectors[0]

        def codegen(context, b, sig, args):
            return compute(b, vec, *args)

        return vec(*[vec] * len(vectors)), codegen

    return typed


@operation
def fma_vector(typing, x, y, z):
    """x * y + z, rounded once where the machine can."""
    return _arithmetic(_fma)(x, y, z)


@operation
def add_vector(typing, x, y):
    """x + y."""
    return _arithmetic(lambda b, vec, x, y: b.fadd(x, y))(x, y)


@operation
def sub_vector(typing, x, y):
    """x - y."""
    return _arithmetic(lambda b, vec, x, y: b.fsub(x, y))(x, y)


@operation
def mul_vector(typing, x, y):
    """x * y."""
    return _arithmetic(lambda b, vec, x, y: b.fmul(x, y))(x, y)


@operation
def keep_lanes(typing, x, count):
    """x in the first `count` lanes, 0 in the others."""
    if not isinstance(x, Vec):
        return None

    def codegen(context, b, sig, args):
        return b.select(_below(b, x, args[1]), args[0], _const(x, 0.0))

    return x(x, types.intp), codegen


@operation
def relu_vector(typing, x):
    """The larger of x and 0; NaN stays."""
    return _arithmetic(lambda b, vec, x: b.select(b.fcmp_ordered("<", x, _const(vec, 0.0)), _const(vec, 0.0), x))(x)


@operation
def step_vector(typing, x):
    """1 where x > 0, else 0: the derivative of relu_vector."""
    one_zero = lambda vec: (_const(vec, 1.0), _const(vec, 0.0))  # noqa: E731
    return _arithmetic(lambda b, vec, x: b.select(b.fcmp_ordered(">", x, _const(vec, 0.0)), *one_zero(vec)))(x)


@operation
def sum_vector(typing, x):
    """The sum of the lanes: halves are added until one is left."""
    if not isinstance(x, Vec):
        return None

    def codegen(context, b, sig, args):
        value, half = args[0], x.lanes // 2
        while half:
            other = ir.Constant(ir.VectorType(_i32, x.lanes), [(i + half) % x.lanes for i in range(x.lanes)])
            value, half = b.fadd(value, b.shuffle_vector(value, value, other)), half // 2
        return b.extract_element(value, _i32(0))

    return x.element(x), codegen


@operation
def store_window(typing, value, y, yi, count):
    """y[yi + lane] = value[lane] for lane < count; nothing else is touched."""

    def codegen(context, b, sig, args):
        place = Place(context, b, y, args[1], args[2])
        if _config.DEBUG:
            place.vector(_i64(0), _clip(b, args[3], _i64(0), _i64(place.vec.lanes)))
        place.masked_store(args[0], _i64(0), _below(b, place.vec, args[3]))
        return context.get_dummy_value()

    return types.void(value, y, types.intp, types.intp), codegen


@operation
def gather_places(typing, x, xi, places, pi):
    """The vector of x[xi + places[pi + lane]], 0 where that place is negative."""

    def codegen(context, b, sig, args):
        source, vec = Place(context, b, x, args[0], args[1]), _vec_of(x)
        table = context.make_array(sig.args[2])(context, b, args[2]).data
        numbers = ir.VectorType(_i64, vec.lanes)
        place = b.load(b.bitcast(b.gep(table, [args[3]]), numbers.as_pointer()))
        place.align = 8
        mask = b.icmp_signed(">=", place, ir.Constant(numbers, [0] * vec.lanes))
        if _config.DEBUG:
            for lane in range(vec.lanes):
                with b.if_then(b.extract_element(mask, _i32(lane))):
                    source.scalar(b.extract_element(place, _i32(lane)))
        itemsize = vec.element.bitwidth // 8
        first = _splat(b, vec, b.ptrtoint(source.scalar(_i64(0), check=False), _i64), _i64)
        addresses = b.add(first, b.mul(place, ir.Constant(numbers, [itemsize] * vec.lanes)))
        pointers = b.inttoptr(addresses, ir.VectorType(vec.ir.element.as_pointer(), vec.lanes))
        name = f"llvm.masked.gather.{_suffix(vec)}.v{vec.lanes}p0"
        return _call(b, name, vec.ir, pointers, _i32(itemsize), mask, _const(vec, 0.0))

    return _vec_of(x)(x, types.intp, places, types.intp), codegen
