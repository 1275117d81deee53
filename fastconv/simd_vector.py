"""Arithmetic on single vectors, and product-like loops whose terms are not products.

Conventions as in `simd.py`: capitals are compile-time numbers; the plain-Python twins are in `simd_python.py`.
"""

from itertools import product

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
    _i1,
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
    entry, loop, done = b.block, b.append_basic_block("terms"), b.append_basic_block("terms.done")
    b.cbranch(b.icmp_signed("<", first, last), loop, done)
    b.position_at_end(loop)

    def body(k, acc):
        step = b.gep(table, [b.mul(b.add(first, k), _i64(2))])
        return term(acc, b.load(step), b.load(b.gep(step, [_i64(1)])))

    result, after = _phi_loop(b, tile, b.sub(last, first), body), b.block
    b.branch(done)
    b.position_at_end(done)
    merged = [b.phi(value.type) for value in tile]
    for phi, before, value in zip(merged, tile, result, strict=True):
        phi.add_incoming(before, entry)
        phi.add_incoming(value, after)
    return merged


def _operands(b, vec, left, right, a_m, mr, nr, a_offset, b_offset):
    """MR values of a, each in a whole vector, and NR vectors of b."""
    rows = [right.load(b.add(b_offset, _i64(n * vec.lanes))) for n in range(nr)]
    scalars = [left.scalar(b.add(a_offset, b.mul(a_m, _i64(m)))) for m in range(mr)]
    return [_splat(b, vec, b.load(scalar)) for scalar in scalars], rows


def _phi_loop(b, tile, count, body):
    """The tile after `body(k, tile)` for k < count, at least once; its vectors are the loop's only variables: with
    memory for them in between, LLVM keeps copies."""
    before, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("k.done")
    b.branch(loop)
    b.position_at_end(loop)
    k, acc = b.phi(_i64), [b.phi(value.type) for value in tile]
    result = body(k, acc)
    following, after = b.add(k, _i64(1)), b.block  # loops inside and debug mode's checks have split the block
    b.cbranch(b.icmp_signed("<", following, count), loop, done)
    b.position_at_end(done)
    for phi, start, value in zip((k, *acc), (_i64(0), *tile), (following, *result), strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(value, after)
    return result


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
def clipped_loop(typing, acc, x, xi, x_m, a, ai, a_m, b_, bi, steps, first, last, minus, MR, NR):
    """acc[m, n] + the sum over k = first .. last-1 of clip(a[ai + m*a_m + steps[2*k]] - x[m, n], -1, 1) * b[k, n].

    x[m, n] = x[xi + m*x_m + n*LANES : +LANES] stays in registers; b[k, n] = b[bi + steps[2*k + 1] + n*LANES : +LANES].
    NaN passes through the clipping.  minus: -1 as a number that the compiler does not know: the subtraction is then a
    fused multiply-add, on units that the clipping leaves idle.
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
        low, high, minus = _const(vec, -1.0), _const(vec, 1.0), _splat(b, vec, args[12])

        def term(tile, a_offset, b_offset):
            splats, rows = _operands(b, vec, left, right, args[6], mr, nr, a_offset, b_offset)
            result = []
            for i, value in enumerate(tile):
                difference = _fma(b, vec, fixed[i], minus, splats[i // nr])
                difference = b.select(b.fcmp_ordered("<", difference, low), low, difference)
                difference = b.select(b.fcmp_ordered(">", difference, high), high, difference)
                result.append(_fma(b, vec, difference, rows[i % nr], value))
            return result

        acc_in, (steps_in, first_in, last_in) = cgutils.unpack_tuple(b, args[0], mr * nr), args[9:12]
        tile = _loop(context, b, sig.args[9], acc_in, steps_in, first_in, last_in, term)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, x, ints, ints, a, ints, ints, b_, ints, steps, ints, ints, vec.element, MR, NR), codegen


class _MaskedReader:
    """Reading masks, LANES bits in whole bytes, and vectors through them."""

    def __init__(self, context, b, masks_type, masks, first, vec):
        self.b, self.vec, self.first = b, vec, first
        self.data = context.make_array(masks_type)(context, b, masks).data

    def mask(self, offset):
        b, lanes = self.b, self.vec.lanes
        pointer = b.gep(self.data, [b.add(self.first, offset)])
        word = b.load(b.bitcast(pointer, ir.IntType(max(8, lanes)).as_pointer()))
        word.align = 1
        word = b.trunc(word, ir.IntType(lanes)) if lanes < 8 else word
        return b.bitcast(word, ir.VectorType(_i1, lanes))

    def vector(self, place, offset, mask):
        for lane in range(self.vec.lanes if _config.DEBUG else 0):
            with self.b.if_then(self.b.extract_element(mask, _i32(lane))):
                place.scalar(self.b.add(offset, _i64(lane)))
        return place.masked_load(offset, mask)


@operation
def masked_fma_loop(typing, acc, a, ai, a_m, a_c, b_, bi, b_c, channels, steps, masks, mi, taps, MR, NR):
    """acc[m, n] + the sum over taps t and channels c of a[ai + m*a_m + c*a_c + steps[3*t]] * b[c, t, n], where b[c, t,
    n] = b[bi + c*b_c + steps[3*t + 1] + n*LANES : +LANES] in the lanes that masks[mi + steps[3*t + 2] :], a bit for a
    lane, has ones for; elsewhere b is 0 and not read.

    Channels are the inner loop, at least one: a mask is loaded once for all of them.
    """
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes
    vec = _vec_of(a)

    def codegen(context, b, sig, args):
        acc_in, a_in, ai_in, a_m_in, a_c_in, b_in, bi_in, b_c_in, channels_in, steps_in, masks_in, mi_in = args[:12]
        left, right = Place(context, b, a, a_in, ai_in), Place(context, b, b_, b_in, bi_in)
        size, read = max(1, vec.lanes // 8), _MaskedReader(context, b, masks, masks_in, mi_in, vec)
        table = context.make_array(steps)(context, b, steps_in).data

        def each_tap(t, tile):
            step = b.gep(table, [b.mul(t, _i64(3))])
            a_first, b_first, mask_offset = (b.load(b.gep(step, [_i64(i)])) for i in range(3))
            inside = [read.mask(b.add(mask_offset, _i64(n * size))) for n in range(nr)]

            def each_channel(c, tile):
                a_offset, b_offset = b.add(a_first, b.mul(c, a_c_in)), b.add(b_first, b.mul(c, b_c_in))
                rows = [read.vector(right, b.add(b_offset, _i64(n * vec.lanes)), inside[n]) for n in range(nr)]
                result = []
                for m in range(mr):
                    splat = _splat(b, vec, b.load(left.scalar(b.add(a_offset, b.mul(a_m_in, _i64(m))))))
                    result += [_fma(b, vec, splat, rows[n], tile[m * nr + n]) for n in range(nr)]
                return result

            return _phi_loop(b, tile, channels_in, each_channel)

        tile = _phi_loop(b, list(cgutils.unpack_tuple(b, acc_in, mr * nr)), args[12], each_tap)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, a, *[ints] * 3, b_, *[ints] * 3, steps, masks, *[ints] * 2, MR, NR), codegen


@operation
def masked_dot_loop(typing, acc, g, gi, g_m, x, xi, x_c, steps, si, masks, mi, inside, count, MR, C, T):
    """acc[m, c, t] + g[gi + m*g_m + v*LANES : +LANES] * x[xi + c*x_c + steps[si + 2*t] + v*LANES : +LANES], added up
    over v < count, at least one.

    Lanes of x count where masks[mi + steps[si + 2*t + 1] + v*LANES/8 :] has ones, those of g where masks[mi + inside +
    v*LANES/8 :] has; elsewhere they are 0 and not read.
    """
    sizes = _literals(MR, C, T)
    if sizes is None:
        return None
    mr, channels, taps = sizes

    def codegen(context, b, sig, args):
        acc_in, g_in, gi_in, g_m_in, x_in, xi_in, x_c_in, steps_in, si_in, masks_in, mi_in = args[:11]
        inside_in, count_in = args[11:13]
        gradient, image = Place(context, b, g, g_in, gi_in), Place(context, b, x, x_in, xi_in)
        read = _MaskedReader(context, b, masks, masks_in, mi_in, _vec_of(g))
        table = context.make_array(steps)(context, b, steps_in).data
        pairs = [[b.load(b.gep(table, [b.add(si_in, _i64(2 * t + i))])) for i in range(2)] for t in range(taps)]
        lanes = _vec_of(g).lanes

        def each_vector(v, tile):
            first, byte = b.mul(v, _i64(lanes)), b.mul(v, _i64(max(1, lanes // 8)))
            values = []
            for x_offset, mask_offset in pairs:
                mask, at = read.mask(b.add(mask_offset, byte)), b.add(x_offset, first)
                values.append([read.vector(image, b.add(at, b.mul(x_c_in, _i64(c))), mask) for c in range(channels)])
            mask, result = read.mask(b.add(inside_in, byte)), []
            for m in range(mr):
                value = read.vector(gradient, b.add(first, b.mul(g_m_in, _i64(m))), mask)
                for c, t in product(range(channels), range(taps)):
                    result.append(_fma(b, _vec_of(g), value, values[t][c], tile[len(result)]))
            return result

        tile = _phi_loop(b, list(cgutils.unpack_tuple(b, acc_in, mr * channels * taps)), count_in, each_vector)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, g, *[ints] * 2, x, *[ints] * 2, steps, ints, masks, *[ints] * 3, MR, C, T), codegen


@operation
def store_sums(typing, acc, y, yi, COUNT):
    """y[yi + i] = the sum of the lanes of acc[i], for i < COUNT; up to LANES-1 values more are overwritten."""
    sizes = _literals(COUNT)
    if sizes is None:
        return None
    vec = _vec_of(y)

    def halves(half):
        low = [j if not j & half else vec.lanes + j - half for j in range(vec.lanes)]
        high = [j + half if not j & half else vec.lanes + j for j in range(vec.lanes)]
        return [ir.Constant(ir.VectorType(_i32, vec.lanes), places) for places in (low, high)]

    def codegen(context, b, sig, args):
        place, tile = Place(context, b, y, args[1], args[2]), list(cgutils.unpack_tuple(b, args[0], sizes[0]))
        tile += [_const(vec, 0.0)] * (-len(tile) % vec.lanes)
        for first in range(0, len(tile), vec.lanes):
            rows, half = tile[first : first + vec.lanes], 1
            while len(rows) > 1:  # two vectors become one, in which each has every other lane, then two of four, ...
                low, high = halves(half)
                pairs = zip(rows[::2], rows[1::2], strict=True)
                rows = [b.fadd(b.shuffle_vector(p, q, low), b.shuffle_vector(p, q, high)) for p, q in pairs]
                half *= 2
            place.store(rows[0], _i64(first))
        return context.get_dummy_value()

    return types.void(acc, y, types.intp, COUNT), codegen


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
    """The vector of x[xi + places[pi + lane]], places in 32 bits, 0 where that place is negative."""

    def codegen(context, b, sig, args):
        source, vec = Place(context, b, x, args[0], args[1]), _vec_of(x)
        table = context.make_array(sig.args[2])(context, b, args[2]).data
        numbers = ir.VectorType(_i32, vec.lanes)
        place = b.load(b.bitcast(b.gep(table, [args[3]]), numbers.as_pointer()))
        place.align = 4
        mask = b.icmp_signed(">=", place, ir.Constant(numbers, [0] * vec.lanes))
        if _config.DEBUG:
            for lane in range(vec.lanes):
                with b.if_then(b.extract_element(mask, _i32(lane))):
                    source.scalar(b.sext(b.extract_element(place, _i32(lane)), _i64))
        # llvmlite builds no pointers by vectors of indices; the machine's gather wants just that: a base and 32 bits
        pointers = b.gep(source.scalar(_i64(0), check=False), [_i64(0)])
        pointers.operands, pointers.indices = [pointers.operands[0], place], [place]
        pointers.type = ir.VectorType(pointers.type, vec.lanes)
        name = f"llvm.masked.gather.{_suffix(vec)}.v{vec.lanes}p0"
        return _call(b, name, vec.ir, pointers, _i32(vec.element.bitwidth // 8), mask, _const(vec, 0.0))

    return _vec_of(x)(x, types.intp, places, types.intp), codegen


# ---- tiles whose vectors have gaps: the ends of rows


def _gaps(context, b, array_type, args, nr):
    """For each vector of a row of the tile: the lanes that count, how many, and where the first of them goes."""
    keep, places, v = args
    lanes = _vec_of(array_type).lanes
    masks, targets = (context.make_array(types.Array(types.int64, 1, "C"))(context, b, a).data for a in (keep, places))
    for n in range(nr):
        at = b.add(v, _i64(n))
        bits = b.trunc(b.load(b.gep(masks, [at])), ir.IntType(lanes))
        count = b.zext(_call(b, f"llvm.ctpop.i{lanes}", bits.type, bits), _i64)
        yield n, b.bitcast(bits, ir.VectorType(_i1, lanes)), count, b.load(b.gep(targets, [at]))


@operation
def add_squeezed(typing, acc, c, ci, c_m, keep, places, v, MR, NR):
    """acc[m, n] + what `store_squeezed` would store to, in the lanes that it would store."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        place, vec = Place(context, b, c, args[1], args[2]), _vec_of(c)
        tile = list(cgutils.unpack_tuple(b, args[0], mr * nr))
        for n, mask, count, target in _gaps(context, b, c, args[4:7], nr):
            for m in range(mr):
                offset = b.add(b.mul(args[3], _i64(m)), target)
                if _config.DEBUG:
                    place.vector(offset, count)
                pointer, name = place.vector(offset, False), f"llvm.masked.expandload.{_suffix(vec)}"
                old = _call(b, name, vec.ir, pointer, mask, _const(vec, 0.0))
                tile[m * nr + n] = b.fadd(tile[m * nr + n], old)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, c, ints, ints, keep, places, ints, MR, NR), codegen


@operation
def store_squeezed(typing, acc, c, ci, c_m, keep, places, v, skip, MR, NR):
    """c[ci + m*c_m + places[v + n] :] = the lanes of acc[m, n] whose bits are set in keep[v + n], side by side, for
    skip <= m < MR."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        place, vec = Place(context, b, c, args[1], args[2]), _vec_of(c)
        tile = cgutils.unpack_tuple(b, args[0], mr * nr)
        gaps = list(_gaps(context, b, c, args[4:7], nr))
        for m in range(mr):
            with b.if_then(b.icmp_signed(">=", _i64(m), args[7])):
                for n, mask, count, target in gaps:
                    value, offset = tile[m * nr + n], b.add(b.mul(args[3], _i64(m)), target)
                    if _config.DEBUG:
                        place.vector(offset, count)
                    name = f"llvm.experimental.vector.compress.{_suffix(vec)}"
                    value = _call(b, name, vec.ir, value, mask, ir.Constant(vec.ir, ir.Undefined))
                    place.masked_store(value, offset, _below(b, vec, count))
        return context.get_dummy_value()

    ints = types.intp
    return types.void(acc, c, ints, ints, keep, places, ints, ints, MR, NR), codegen
