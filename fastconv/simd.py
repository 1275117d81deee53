"""Register tiles, single vectors and blocks of them as Numba intrinsics.

A vector holds LANES values of the dtype of the array it came from; a tile is a tuple of MR * NR vectors that LLVM keeps
in registers. Names in capitals are compile-time numbers: constants of a closure.  In debug mode every access is checked
against the array's true length. With NUMBA_DISABLE_JIT=1 the plain-Python twins of `simd_python.py` stand in, so that
kernels can be read step by step in a debugger.

The instruction set is the host's best, or FASTCONV_ISA; `isa.tile(m)` gives the register tile for it.
"""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from llvmlite import ir
from numba.core import cgutils, types
from numba.np import arrayobj

from . import _config
from .simd_isa import isa as isa
from .simd_place import (
    Place,
    _below,
    _between,
    _check_inside,
    _clip,
    _const,
    _fma,
    _i32,
    _i64,
    _literals,
    _splat,
    _vec_of,
    operation,
)
from .simd_place import lanes as lanes


@operation
def fields(typing, block):
    """The parameter block that a tile body was given, as a record with named fields."""

    def codegen(context, b, sig, args):
        return b.bitcast(args[0], context.get_value_type(sig.return_type))

    return block.dtype(block), codegen


_KINDS = {"f4": types.float32, "f8": types.float64, "i8": types.int64, "u1": types.uint8, "i4": types.int32}


@operation
def array_at(typing, address, size, KIND):
    """The array of `size` elements of dtype KIND at an address."""
    if not isinstance(KIND, types.StringLiteral):
        return None
    element = _KINDS[KIND.literal_value]
    array = types.Array(element, 1, "C")

    def codegen(context, b, sig, args):
        result = context.make_array(array)(context, b)
        data = b.inttoptr(args[0], context.get_data_type(element).as_pointer())
        itemsize = context.get_constant(types.intp, element.bitwidth // 8)
        arrayobj.populate_array(result, data=data, shape=[args[1]], strides=[itemsize], itemsize=itemsize, meminfo=None)
        return result._getvalue()

    return array(types.intp, types.intp, KIND), codegen


# ---- register tiles


@operation
def zero_tile(typing, like, MR, NR):
    """A tile of MR x NR vectors of zeros, for arrays like `like`."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    vec, count = _vec_of(like), sizes[0] * sizes[1]

    def codegen(context, b, sig, args):
        return context.make_tuple(b, sig.return_type, [_const(vec, 0.0)] * count)

    return types.UniTuple(vec, count)(like, MR, NR), codegen


def _fma_rows(b, vec, tile, left, right, a_m, mr, nr, a_offset, b_offset):
    """The tile plus the product of a column of a, MR values a_m apart, and a row of b, NR vectors."""
    rows = [right.load(b.add(b_offset, _i64(n * vec.lanes))) for n in range(nr)]
    result = []
    for m in range(mr):
        splat = _splat(b, vec, b.load(left.scalar(b.add(a_offset, b.mul(a_m, _i64(m))))))
        result += [_fma(b, vec, splat, rows[n], tile[m * nr + n]) for n in range(nr)]
    return result


@operation
def fma_tile(typing, acc, a, ai, a_m, b_, bi, MR, NR):
    """acc[m, n] + a[ai + m*a_m] * b[bi + n*LANES : +LANES], for all m < MR, n < NR."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        tile = cgutils.unpack_tuple(b, args[0], mr * nr)
        left, right = Place(context, b, sig.args[1], args[1], args[2]), Place(context, b, sig.args[4], args[4], args[5])
        tile = _fma_rows(b, _vec_of(sig.args[1]), tile, left, right, args[3], mr, nr, _i64(0), _i64(0))
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, a, types.intp, types.intp, b_, types.intp, MR, NR), codegen


def _accumulate(b, vec, first, last, start, step):
    """The tile after tile = step(k, tile) for k = first .. last-1, from `start`; its vectors are the loop's only
    variables besides k."""
    before, start = b.block, list(start)
    loop, done = b.append_basic_block("k"), b.append_basic_block("k.done")
    b.cbranch(b.icmp_signed("<", first, last), loop, done)
    b.position_at_end(loop)
    k, tile = b.phi(_i64), [b.phi(vec.ir) for _ in start]
    result, following = step(k, tile), b.add(k, _i64(1))
    after = b.block  # in debug mode the checks have split the block
    b.cbranch(b.icmp_signed("<", following, last), loop, done)
    k.add_incoming(first, before)
    k.add_incoming(following, after)
    b.position_at_end(done)
    end = [b.phi(vec.ir) for _ in start]
    for phi, first_value, next_value in zip([*tile, *end], start * 2, list(result) * 2, strict=True):
        phi.add_incoming(first_value, before)
        phi.add_incoming(next_value, after)
    return end


@operation
def fma_run(typing, acc, a, ai, a_m, a_step, b_, bi, b_step, p, pi, p_step, count, MR, NR):
    """The tile after acc = fma_tile(acc, a, ai + k*a_step, a_m, b, bi + k*b_step, MR, NR) for k < count; on the way it
    asks for the cache lines of p[pi + k*p_step], which may lie outside p."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec = _vec_of(sig.args[1])
        left, right = Place(context, b, a, args[1], args[2]), Place(context, b, b_, args[5], args[6])
        ahead = Place(context, b, p, args[8], args[9])

        def step(k, tile):
            ahead.prefetch(b.mul(k, args[10]), write=False)
            return _fma_rows(b, vec, tile, left, right, args[3], mr, nr, b.mul(k, args[4]), b.mul(k, args[7]))

        end = _accumulate(b, vec, _i64(0), args[11], cgutils.unpack_tuple(b, args[0], mr * nr), step)
        return context.make_tuple(b, sig.return_type, end)

    counts = [types.intp] * 3
    return acc(acc, a, *counts, b_, *counts[:2], p, *counts[:2], types.intp, MR, NR), codegen


@operation
def fma_loop(typing, acc, a, ai, a_m, b_, bi, steps, first, last, MR, NR):
    """The tile after acc = fma_tile(acc, a, ai + steps[2*k], a_m, b, bi + steps[2*k + 1], MR, NR) for k = first ..
    last-1.

    The whole loop is one operation, its accumulators are the loop's only variables: a loop written around fma_tile
    keeps copies of them.
    """
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec = _vec_of(sig.args[1])
        left, right = Place(context, b, sig.args[1], args[1], args[2]), Place(context, b, sig.args[4], args[4], args[5])
        steps_array = context.make_array(sig.args[6])(context, b, args[6])
        if _config.DEBUG:
            with b.if_then(b.icmp_signed("<", args[7], args[8])):
                start_at, count = (b.mul(_i64(2), value) for value in (args[7], b.sub(args[8], args[7])))
                _check_inside(context, b, start_at, count, b.extract_value(steps_array.shape, 0))

        def step(k, tile):
            place = b.gep(steps_array.data, [b.mul(k, _i64(2))])
            a_offset, b_offset = b.load(place), b.load(b.gep(place, [_i64(1)]))
            return _fma_rows(b, vec, tile, left, right, args[3], mr, nr, a_offset, b_offset)

        end = _accumulate(b, vec, args[7], args[8], cgutils.unpack_tuple(b, args[0], mr * nr), step)
        return context.make_tuple(b, sig.return_type, end)

    return acc(acc, a, types.intp, types.intp, b_, types.intp, steps, types.intp, types.intp, MR, NR), codegen


@operation
def load_tile(typing, c, ci, c_m, MR, NR):
    """The tile of the vectors c[ci + m*c_m + n*LANES : +LANES]."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec, place = _vec_of(c), Place(context, b, c, args[0], args[1])
        offsets = [b.add(b.mul(args[2], _i64(m)), _i64(n * vec.lanes)) for m in range(mr) for n in range(nr)]
        return context.make_tuple(b, sig.return_type, [place.load(offset) for offset in offsets])

    return types.UniTuple(_vec_of(c), mr * nr)(c, types.intp, types.intp, MR, NR), codegen


@operation
def add_bias(typing, acc, bias, oi, MR, NR):
    """acc[m, n] + bias[oi + m]."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        tile, values = cgutils.unpack_tuple(b, args[0], mr * nr), Place(context, b, bias, args[1], args[2])
        splats = [_splat(b, _vec_of(bias), b.load(values.scalar(_i64(m)))) for m in range(mr)]
        tile = [b.fadd(value, splats[i // nr]) for i, value in enumerate(tile)]
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, bias, types.intp, MR, NR), codegen


@operation
def clamp_tile(typing, acc, low, high, MR, NR):
    """Every value no less than `low` and no more than `high`; NaN stays NaN."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    vec = acc.dtype

    def codegen(context, b, sig, args):
        kind = vec.ir.element
        low, high = (
            _splat(b, vec, b.fptrunc(bound, kind) if vec.element is types.float32 else bound) for bound in args[1:3]
        )
        tile = []
        for value in cgutils.unpack_tuple(b, args[0], sizes[0] * sizes[1]):
            value = b.select(b.fcmp_ordered(">", low, value), low, value)
            tile.append(b.select(b.fcmp_ordered("<", high, value), high, value))
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, types.float64, types.float64, MR, NR), codegen


def _check_rows(b, place, c_m, skip, columns, mr, width):
    """In debug mode: the first `columns` of the rows from `skip` on must lie inside the array."""
    if _config.DEBUG:
        for m in range(mr):
            with b.if_then(b.icmp_signed(">=", _i64(m), skip)):
                place.vector(b.mul(c_m, _i64(m)), _clip(b, columns, _i64(0), _i64(width)))


@operation
def add_part(typing, acc, c, ci, c_m, skip, columns, MR, NR):
    """acc[m, n] + c[ci + m*c_m + n*LANES : +LANES] for the rows from `skip` on and the first `columns` columns; the
    rest of c is not read."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec, place, (c_m, skip, columns) = _vec_of(c), Place(context, b, c, args[1], args[2]), args[3:6]
        _check_rows(b, place, c_m, skip, columns, mr, nr * vec.lanes)
        tile = list(cgutils.unpack_tuple(b, args[0], mr * nr))
        for m in range(mr):
            count = b.select(b.icmp_signed(">=", _i64(m), skip), columns, _i64(0))
            for n in range(nr):
                offset = b.add(b.mul(c_m, _i64(m)), _i64(n * vec.lanes))
                old = place.masked_load(offset, _below(b, vec, count, n * vec.lanes))
                tile[m * nr + n] = b.fadd(tile[m * nr + n], old)
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, c, types.intp, types.intp, types.intp, types.intp, MR, NR), codegen


@operation
def store_tile(typing, acc, c, ci, c_m, MR, NR):
    """c[ci + m*c_m + n*LANES : +LANES] = acc[m, n]."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec, place = _vec_of(c), Place(context, b, c, args[1], args[2])
        for i, value in enumerate(cgutils.unpack_tuple(b, args[0], mr * nr)):
            place.store(value, b.add(b.mul(args[3], _i64(i // nr)), _i64(i % nr * vec.lanes)))
        return context.get_dummy_value()

    return types.void(acc, c, types.intp, types.intp, MR, NR), codegen


@operation
def store_part(typing, acc, c, ci, c_m, skip, columns, MR, NR):
    """store_tile for the rows from `skip` on and the first `columns` columns; nothing else is written."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        vec, place, (c_m, skip, columns) = _vec_of(c), Place(context, b, c, args[1], args[2]), args[3:6]
        _check_rows(b, place, c_m, skip, columns, mr, nr * vec.lanes)
        tile = cgutils.unpack_tuple(b, args[0], mr * nr)
        masks = [_below(b, vec, columns, n * vec.lanes) for n in range(nr)]
        for m in range(mr):
            with b.if_then(b.icmp_signed(">=", _i64(m), skip)):
                for n in range(nr):
                    offset = b.add(b.mul(c_m, _i64(m)), _i64(n * vec.lanes))
                    place.masked_store(tile[m * nr + n], offset, masks[n])
        return context.get_dummy_value()

    return types.void(acc, c, types.intp, types.intp, types.intp, types.intp, MR, NR), codegen


@operation
def prefetch_tile(typing, c, ci, c_m, MR, NR):
    """Ask for the cache lines of c[ci + m*c_m + n*LANES], m < MR, n < NR, to be written soon; an index out of range
    does no harm."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        place, vec = Place(context, b, c, args[0], args[1]), _vec_of(c)
        for m in range(mr):
            for n in range(nr):
                place.prefetch(b.add(b.mul(args[2], _i64(m)), _i64(n * vec.lanes)), write=True)
        return context.get_dummy_value()

    return types.void(c, types.intp, types.intp, MR, NR), codegen


# ---- single vectors and blocks


@operation
def load_window(typing, x, xi, step, low, high, STEP):
    """The vector of x[xi + lane*step] for low <= lane < high, 0 elsewhere.  STEP 1 or 2: the step; 0: any step, by
    gathering."""
    sizes = _literals(STEP)
    if sizes is None:
        return None
    fixed = sizes[0]

    def codegen(context, b, sig, args):
        place, vec, (step, low, high) = Place(context, b, x, args[0], args[1]), _vec_of(x), args[2:5]
        if _config.DEBUG:
            low, high = (_clip(b, bound, _i64(0), _i64(vec.lanes)) for bound in (low, high))
            with b.if_then(b.icmp_signed("<", low, high)):
                place.scalar(b.mul(low, step))
                place.scalar(b.mul(b.sub(high, _i64(1)), step))
        if fixed == 1:
            return place.masked_load(_i64(0), _between(b, vec, low, high))
        if fixed == 2:  # positions are the even lanes of two neighbouring vectors
            low2, high2 = b.mul(low, _i64(2)), b.sub(b.mul(high, _i64(2)), _i64(1))
            halves = (0, vec.lanes)
            parts = [place.masked_load(_i64(half), _between(b, vec, low2, high2, half)) for half in halves]
            even = ir.Constant(ir.VectorType(_i32, vec.lanes), [2 * i for i in range(vec.lanes)])
            return b.shuffle_vector(*parts, even)
        return place.gather(_i64(0), step, low, high)

    return _vec_of(x)(x, types.intp, types.intp, types.intp, types.intp, STEP), codegen


@operation
def load_bits(typing, x, xi, bits):
    """The vector of x[xi + lane] where bit `lane` of `bits` is set, 0 elsewhere."""

    def codegen(context, b, sig, args):
        place = Place(context, b, x, args[0], args[1])
        return place.load_bits(_i64(0), b.trunc(args[2], ir.IntType(place.vec.lanes)))

    return _vec_of(x)(x, types.intp, types.intp), codegen


@operation
def load_vector(typing, x, xi):
    """The vector x[xi : xi+LANES]."""

    def codegen(context, b, sig, args):
        return Place(context, b, x, args[0], args[1]).load(_i64(0))

    return _vec_of(x)(x, types.intp), codegen


@operation
def store_vector(typing, value, y, yi):
    """y[yi : yi+LANES] = value."""

    def codegen(context, b, sig, args):
        Place(context, b, y, args[1], args[2]).store(args[0], _i64(0))
        return context.get_dummy_value()

    return types.void(value, y, types.intp), codegen


@operation
def zero_vector(typing, y, yi):
    """y[yi : yi+LANES] = 0."""

    def codegen(context, b, sig, args):
        Place(context, b, y, args[0], args[1]).store(_const(_vec_of(y), 0.0), _i64(0))
        return context.get_dummy_value()

    return types.void(y, types.intp), codegen


@operation
def transpose_block(typing, x, xi, x_row, y, yi, y_row):
    """y[yi + j*y_row + i] = x[xi + i*x_row + j] for i, j < LANES: log2(LANES) rounds that swap half-blocks (Eklundh
    1972)."""

    def codegen(context, b, sig, args):
        vec = _vec_of(x)
        lanes, source = vec.lanes, Place(context, b, x, args[0], args[1])
        rows = [source.load(b.mul(args[2], _i64(i))) for i in range(lanes)]
        half = 1
        while half < lanes:
            low = [j if not j & half else lanes + j - half for j in range(lanes)]
            high = [j + half if not j & half else lanes + j for j in range(lanes)]
            low, high = (ir.Constant(ir.VectorType(_i32, lanes), mask) for mask in (low, high))
            rows = [b.shuffle_vector(rows[i & ~half], rows[i | half], high if i & half else low) for i in range(lanes)]
            half *= 2
        target = Place(context, b, y, args[3], args[4])
        for j, row in enumerate(rows):
            target.store(row, b.mul(args[5], _i64(j)))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, y, types.intp, types.intp), codegen
