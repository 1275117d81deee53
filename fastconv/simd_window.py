"""Windows that slide over rows, as register operations: one vector is LANES neighbouring outputs of a row.

Each input row of a tile is loaded once: shifted for stride 1, else as SW vectors of which every tap keeps each SW-th
lane.  Lanes in the padding are masked and never read.  Conventions as in `simd.py`: capitals are compile-time numbers;
the plain-Python twins are in `simd_python.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from . import _config
from .simd_place import (
    Place,
    _below,
    _between,
    _call,
    _clip,
    _const,
    _i1,
    _i32,
    _i64,
    _literals,
    _splat,
    _suffix,
    _vec_of,
    operation,
)

SUM, MAX, MAX_NAN = 0, 1, 2  # MAX may lose a NaN, and says so


def _ints(vec, values):
    return ir.Constant(ir.VectorType(_i32, vec.lanes), list(values))


def _is_nan(b, value):
    return b.fcmp_unordered("uno", value, value)


def _any(b, vec, mask):
    return b.icmp_unsigned("!=", b.bitcast(mask, ir.IntType(vec.lanes)), ir.IntType(vec.lanes)(0))


def _combine(b, op, left, right):
    if op == SUM:
        return b.fadd(left, right)
    larger = b.select(b.fcmp_ordered(">", left, right), left, right)  # the machine's max: right if either is NaN
    return b.select(_is_nan(b, left), left, larger) if op == MAX_NAN else larger


def _tree(b, op, values):
    while len(values) > 1:
        values = [
            _combine(b, op, *values[i : i + 2]) if i + 1 < len(values) else values[i] for i in range(0, len(values), 2)
        ]
    return values[0]


def _check_run(b, place, offset, count):
    """In debug mode: the first `count` lanes at an offset must lie inside the array."""
    if _config.DEBUG:
        with b.if_then(b.icmp_signed(">", count, _i64(0))):
            place.vector(offset, _clip(b, count, _i64(0), _i64(place.vec.lanes)))


class _Rows:
    """The input rows of a tile: what each tap of a row sees, for LANES outputs."""

    def __init__(self, context, b, array_type, args, kw, sw, edge, fill):
        array, index, self.stride, self.top, self.bottom, self.left, self.right = args
        self.b, self.vec, self.kw, self.sw, self.edge = b, _vec_of(array_type), kw, sw, edge
        self.place, self.fill = Place(context, b, array_type, array, index), _const(self.vec, fill)
        self.groups = sorted({k // sw * sw for k in range(kw)})  # taps of a group share their loads
        lanes = self.vec.lanes
        self.masks = {
            (g, p): _between(b, self.vec, self.left, self.right, g + p * lanes) if edge else None
            for g in self.groups
            for p in range(sw)
        }

    def each(self, count, meet):
        """Call meet(t) for each of the first `count` rows; at run time rows outside the image are passed over."""
        b = self.b
        for t in range(count):
            if self.edge:
                inside = b.and_(b.icmp_signed(">=", _i64(t), self.top), b.icmp_signed("<", _i64(t), self.bottom))
                with b.if_then(inside, likely=True):
                    meet(t)
            else:
                meet(t)

    def _load(self, t, g, p):
        b, start = self.b, g + p * self.vec.lanes
        offset = b.add(b.mul(self.stride, _i64(t)), _i64(start))
        if not self.edge:
            return self.place.load(offset)
        if _config.DEBUG:
            low, high = (
                _clip(b, b.sub(v, _i64(start)), _i64(0), _i64(self.vec.lanes)) for v in (self.left, self.right)
            )
            with b.if_then(b.icmp_signed("<", low, high)):
                self.place.scalar(b.add(offset, low))
                self.place.scalar(b.add(offset, b.sub(high, _i64(1))))
        align, name = _i32(self.vec.element.bitwidth // 8), f"llvm.masked.load.{_suffix(self.vec)}.p0"
        pointer = self.place.vector(offset, False)
        return _call(b, name, self.vec.ir, pointer, align, self.masks[g, p], self.fill)

    def taps(self, t):
        """(what each tap sees in row t, the loaded vectors: together they hold every column of the row's windows)."""
        b, lanes, taps, seen = self.b, self.vec.lanes, [], []
        for g in self.groups:
            parts = [self._load(t, g, p) for p in range(self.sw)]
            seen += parts if g in (0, self.groups[-1]) or self.groups[-1] > lanes * self.sw else []
            for k in range(g, min(g + self.sw, self.kw)):
                value = parts[0]
                for p in range(1, self.sw):  # lane i is column k - g + i*sw of the group
                    columns = [k - g + i * self.sw for i in range(lanes)]
                    value = b.shuffle_vector(
                        value, parts[p], _ints(self.vec, [self._source(c, i, p) for i, c in enumerate(columns)])
                    )
                taps.append(value)
        return taps, seen

    def _source(self, column, lane, p):
        """Where a lane's column is when part p joins: in that part, already in place, in part 0, or not yet loaded."""
        lanes = self.vec.lanes
        if column // lanes == p:
            return lanes + column % lanes
        return column if p == 1 and column < lanes else lane


@operation
def pool_rows(typing, x, xi, x_row, top, bottom, left, right, OP, KH, KW, SH, SW, R, EDGE):
    """R rows of LANES outputs: sum or maximum (OP) of KH x KW windows at steps SH, SW; row 0, lane 0 begins at x[xi].

    EDGE: rows t of the input outside [top, bottom) and columns outside [left, right), counted from xi, are padding.
    Returns the rows and, for MAX, whether there may be a NaN among the inputs: the machine's maximum loses it.  To look
    after NaN in every maximum costs three instructions instead of one; the sum of the inputs, on idle units, tells too.
    """
    sizes = _literals(OP, KH, KW, SH, SW, R, EDGE)
    if sizes is None:
        return None
    op, kh, kw, sh, sw, count, edge = sizes
    vec = _vec_of(x)

    def codegen(context, b, sig, args):
        rows = _Rows(context, b, x, args[:7], kw, sw, edge, 0.0 if op == SUM else float("-inf"))
        acc = [cgutils.alloca_once_value(b, rows.fill) for _ in range(count)]
        total = cgutils.alloca_once_value(b, _const(vec, 0.0))

        def merge(t):
            users = [m for m in range(count) if 0 <= t - m * sh < kh]
            if users:
                taps, seen = rows.taps(t)
                for value in seen if op == MAX else []:
                    b.store(b.fadd(b.load(total), value), total)
                row = _tree(b, op, taps)
                for m in users:
                    b.store(_combine(b, op, b.load(acc[m]), row), acc[m])

        rows.each((count - 1) * sh + kh, merge)
        nan = _any(b, vec, _is_nan(b, b.load(total))) if op == MAX else _i1(0)
        return context.make_tuple(b, sig.return_type, [*map(b.load, acc), nan])

    result = types.Tuple([*[vec] * count, types.boolean])
    return result(x, *[types.intp] * 6, OP, KH, KW, SH, SW, R, EDGE), codegen


@operation
def divide_rows(typing, acc, row_counts, ri, column_counts, ci, R):
    """acc[m] / (row_counts[ri + m] * column_counts[ci : ci+LANES]) for each row m < R of `pool_rows`."""
    sizes = _literals(R)
    if sizes is None:
        return None
    vec = _vec_of(row_counts)

    def codegen(context, b, sig, args):
        rows, columns = (Place(context, b, row_counts, *args[i : i + 2]) for i in (1, 3))
        counts = columns.load(_i64(0))
        tile = cgutils.unpack_tuple(b, args[0])[: sizes[0]]
        quotients = [
            b.fdiv(value, b.fmul(_splat(b, vec, b.load(rows.scalar(_i64(m)))), counts)) for m, value in enumerate(tile)
        ]
        return context.make_tuple(b, sig.return_type, quotients)

    result = types.UniTuple(vec, sizes[0])
    return result(acc, row_counts, types.intp, column_counts, types.intp, R), codegen


def _store_rows(context, b, array_type, args, tile, edge):
    """Store the first `rows` rows and `columns` lanes of a tile; args: array, index, row length, rows, columns."""
    array, index, stride, rows, columns = args
    place, count = Place(context, b, array_type, array, index), len(tile)
    if not edge:
        for m in range(count):
            place.store(tile[m], b.mul(stride, _i64(m)))
        return
    mask = _below(b, place.vec, columns)
    for m in range(count):
        with b.if_then(b.icmp_signed("<", _i64(m), rows)):
            offset = b.mul(stride, _i64(m))
            _check_run(b, place, offset, columns)
            place.masked_store(tile[m], offset, mask)


@operation
def store_rows(typing, acc, y, yi, y_row, rows, columns, R, EDGE):
    """y[yi + m*y_row + j] = acc[m][j] for m < R; with EDGE only for m < rows and j < columns."""
    sizes = _literals(R, EDGE)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        tile = cgutils.unpack_tuple(b, args[0])[: sizes[0]]
        _store_rows(context, b, y, args[1:6], tile, sizes[1])
        return context.get_dummy_value()

    return types.void(acc, y, *[types.intp] * 4, R, EDGE), codegen


class _Winner:
    """The largest value so far of LANES windows, and the number of the tap that holds it."""

    def __init__(self, b, vec, first):
        self.b, self.vec = b, vec
        self.value = cgutils.alloca_once_value(b, _const(vec, float("-inf")))
        self.tap = cgutils.alloca_once_value(b, first)

    def meet(self, value, tap, op):
        b = self.b
        largest = b.load(self.value)
        wins = b.fcmp_ordered(">", value, largest)
        wins = b.or_(wins, _is_nan(b, value)) if op == MAX_NAN else wins
        b.store(b.select(wins, value, largest), self.value)
        b.store(b.select(wins, _ints(self.vec, [tap] * self.vec.lanes), b.load(self.tap)), self.tap)


def _first_taps(b, vec, rows, m, kh, kw, sh, sw):
    """The number of each lane's first tap inside the image, for row m of the outputs."""
    row = _clip(b, b.sub(rows.top, _i64(m * sh)), _i64(0), _i64(kh - 1))
    first = _splat(b, vec, b.trunc(b.mul(row, _i64(kw)), _i32), _i32)
    column = b.sub(_splat(b, vec, b.trunc(rows.left, _i32), _i32), _ints(vec, [i * sw for i in range(vec.lanes)]))
    zero = _ints(vec, [0] * vec.lanes)
    return b.add(first, b.select(b.icmp_signed(">", column, zero), column, zero))


def _positions(b, vec, taps, base, x_row, kw, sw):
    """base + tap // KW * x_row + tap % KW + lane*SW, in as many bits as base has."""
    wide = ir.VectorType(base.type, vec.lanes)
    row = b.udiv(taps, _ints(vec, [kw] * vec.lanes))
    column = b.add(
        b.sub(taps, b.mul(row, _ints(vec, [kw] * vec.lanes))), _ints(vec, [i * sw for i in range(vec.lanes)])
    )
    row, column = (b.sext(v, wide) if base.type != _i32 else v for v in (row, column))
    inside = b.add(column, b.mul(row, _splat(b, vec, x_row, base.type)))
    return b.add(_splat(b, vec, base, base.type), inside)


@operation
def argmax_rows(
    typing, x, xi, x_row, top, bottom, left, right, y, at, yi, y_row, rows, columns, base, OP, KH, KW, SH, SW, R, EDGE
):
    """`pool_rows` for the maximum and its position, stored in y and at for rows m < rows and lanes j < columns.

    base: the position of x[xi] in its plane.  Of equal values the first wins; with MAX_NAN the last NaN.
    Returns whether there may be a NaN among the inputs that MAX has lost.
    """
    sizes = _literals(OP, KH, KW, SH, SW, R, EDGE)
    if sizes is None:
        return None
    op, kh, kw, sh, sw, count, edge = sizes
    vec = _vec_of(x)

    def codegen(context, b, sig, args):
        rows = _Rows(context, b, x, args[:7], kw, sw, edge, float("-inf"))
        zero, total = _ints(vec, [0] * vec.lanes), cgutils.alloca_once_value(b, _const(vec, 0.0))
        winners = [
            _Winner(b, vec, _first_taps(b, vec, rows, m, kh, kw, sh, sw) if edge else zero) for m in range(count)
        ]

        def meet(t):
            users = [m for m in range(count) if 0 <= t - m * sh < kh]
            if users:
                taps, seen = rows.taps(t)
                for value in seen if op == MAX else []:
                    b.store(b.fadd(b.load(total), value), total)
                for k, value in enumerate(taps):
                    for m in users:
                        winners[m].meet(value, (t - m * sh) * kw + k, op)

        rows.each((count - 1) * sh + kh, meet)
        _store_winners(context, b, (y, at), args[7:14], winners, (kw, sh, sw, edge), rows.stride)
        return _any(b, vec, _is_nan(b, b.load(total))) if op == MAX else _i1(0)

    return types.boolean(x, *[types.intp] * 6, y, at, *[types.intp] * 5, OP, KH, KW, SH, SW, R, EDGE), codegen


def _store_winners(context, b, array_types, args, winners, sizes, x_row):
    """Store values and positions of the winners; args: y, at, index, row length, rows, columns, base."""
    y, at, index, stride, rows, columns, base = args
    kw, sh, sw, edge = sizes
    vec = winners[0].vec
    _store_rows(context, b, array_types[0], (y, index, stride, rows, columns), [b.load(w.value) for w in winners], edge)
    data, mask = context.make_array(array_types[1])(context, b, at).data, _below(b, vec, columns)
    bits = array_types[1].dtype.bitwidth
    base, x_row = (v if bits == 64 else b.trunc(v, _i32) for v in (base, x_row))
    for m, winner in enumerate(winners):
        with b.if_then(b.icmp_signed("<", _i64(m), rows)):
            first = b.add(base, b.mul(x_row, base.type(m * sh)))
            value = _positions(b, vec, b.load(winner.tap), first, x_row, kw, sw)
            pointer = b.gep(data, [b.add(index, b.mul(stride, _i64(m)))])
            pointer = b.bitcast(pointer, value.type.as_pointer())
            if edge:
                name = f"llvm.masked.store.v{vec.lanes}i{bits}.p0"
                _call(b, name, ir.VoidType(), value, pointer, _i32(bits // 8), mask)
            else:
                b.store(value, pointer).align = bits // 8


def _reduce(context, b, x, args, op):
    """The vector of the sums or maxima of every LANES-th value of a run, in four parts that wait for nobody."""
    place, size, vec = Place(context, b, x, args[0], args[1]), args[2], _vec_of(x)
    empty = _const(vec, 0.0 if op == SUM else float("-inf"))
    parts = [cgutils.alloca_once_value(b, empty) for _ in range(4)]
    block = _i64(4 * vec.lanes)
    whole = b.mul(b.sdiv(size, block), block)
    for index in parts:
        b.store(empty, index)
    with cgutils.for_range_slice(b, _i64(0), whole, block) as (i, _):
        for n, part in enumerate(parts):
            b.store(_combine(b, op, b.load(part), place.load(b.add(i, _i64(n * vec.lanes)))), part)
    for n, part in enumerate(parts):
        offset = b.add(whole, _i64(n * vec.lanes))
        left = b.sub(size, offset)
        _check_run(b, place, offset, left)
        align, name = _i32(vec.element.bitwidth // 8), f"llvm.masked.load.{_suffix(vec)}.p0"
        value = _call(b, name, vec.ir, place.vector(offset, False), align, _below(b, vec, left), empty)
        b.store(_combine(b, op, b.load(part), value), part)
    return _tree(b, op, list(map(b.load, parts)))


@operation
def reduce_lanes(typing, x, xi, size, OP):
    """The vector of the sums or maxima (MAX_NAN) of every LANES-th value of x[xi : xi+size], in a fixed order; 0 or
    -inf where there is none."""
    sizes = _literals(OP)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        return _reduce(context, b, x, args, sizes[0])

    return _vec_of(x)(x, types.intp, types.intp, OP), codegen


@operation
def reduce_run(typing, x, xi, size, OP):
    """The sum or maximum (MAX_NAN) of x[xi : xi+size]: LANES partial results, then across lanes, in a fixed order."""
    sizes = _literals(OP)
    if sizes is None:
        return None
    op, vec = sizes[0], _vec_of(x)

    def codegen(context, b, sig, args):
        value, half = _reduce(context, b, x, args, op), vec.lanes // 2
        while half:
            other = b.shuffle_vector(value, value, _ints(vec, [(i + half) % vec.lanes for i in range(vec.lanes)]))
            value, half = _combine(b, op, value, other), half // 2
        return b.extract_element(value, _i32(0))

    return vec.element(x, types.intp, types.intp, OP), codegen


# ---- backward, of windows side by side


def _interleave(b, vec, phases):
    """The vectors v with v[i*SW + s] = phases[s][i], side by side."""
    sw, lanes, result = len(phases), vec.lanes, []
    for p in range(sw):
        lane = [p * lanes + i for i in range(lanes)]
        value = phases[0]
        for s in range(
            sw
        ):  # the lanes of phase s join; those of phase 0 may all come at first, the rest stays in place
            take = [lanes + n // sw if n % sw == s else i if s else n // sw for i, n in enumerate(lane)]
            value = b.shuffle_vector(value, phases[s], _ints(vec, take))
        result.append(value)
    return result


class PixelRows:
    """Rows of LANES * SW neighbouring pixels, of which the first `columns` are stored."""

    def __init__(self, b, place, columns, sw):
        self.b, self.place, self.columns = b, place, columns
        self.masks = [_below(b, place.vec, columns, p * place.vec.lanes) for p in range(sw)]

    def store(self, phases, offset):
        """Store one row, at an offset: the SW vectors of its phases."""
        b, place, lanes = self.b, self.place, self.place.vec.lanes
        for p, value in enumerate(_interleave(b, place.vec, phases)):
            at = b.add(offset, _i64(p * lanes))
            _check_run(b, place, at, b.sub(self.columns, _i64(p * lanes)))
            place.masked_store(value, at, self.masks[p])


class _Windows:
    """LANES disjoint windows of KH x KW input pixels: stores what each pixel gets."""

    def __init__(self, context, b, array_type, args, kh, kw):
        array, index, self.stride, self.rows, columns = args
        self.b, self.kh, place = b, kh, Place(context, b, array_type, array, index)
        self.vec, self.pixels = place.vec, PixelRows(b, place, columns, kw)

    def store(self, row_of):
        """row_of(r): the KW phases of row r."""
        b = self.b
        for r in range(self.kh):
            with b.if_then(b.icmp_signed("<", _i64(r), self.rows)):
                self.pixels.store(row_of(r), b.mul(self.stride, _i64(r)))


def _gradients(context, b, array_type, args):
    """gy[i : i+count], zero in the other lanes; args: array, index, count."""
    place = Place(context, b, array_type, *args[:2])
    _check_run(b, place, _i64(0), args[2])
    return place.masked_load(_i64(0), _below(b, place.vec, args[2]))


@operation
def spread_windows(typing, gy, gi, count, row_count, column_counts, ci, gx, xi, x_row, rows, columns, KH, KW):
    """Disjoint windows: gx[xi + r*x_row + j*KW + s] = gy[gi + j] / (row_count * column_counts[ci + j]).

    For r < KH, s < KW and j < LANES, of those rows r < rows and columns j*KW + s < columns; 0 for j >= count.
    """
    sizes = _literals(KH, KW)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        windows = _Windows(context, b, gx, args[6:11], *sizes)
        counts = Place(context, b, column_counts, *args[4:6]).load(_i64(0))
        divisors = b.fmul(_splat(b, windows.vec, args[3]), counts)
        share = b.fdiv(_gradients(context, b, gy, args[:3]), divisors)
        windows.store(lambda r: [share] * sizes[1])
        return context.get_dummy_value()

    integers = types.intp
    return types.void(
        *(gy, integers, integers, gy.dtype, column_counts, integers, gx, integers, integers, integers, integers, KH, KW)
    ), codegen


def load_positions(b, vec, array_type, data, index, mask):
    """The low 32 bits of the positions at an index, -1 where they are masked."""
    bits = array_type.dtype.bitwidth
    kind = ir.VectorType(ir.IntType(bits), vec.lanes)
    pointer, nowhere = b.bitcast(b.gep(data, [index]), kind.as_pointer()), ir.Constant(kind, [-1] * vec.lanes)
    name = f"llvm.masked.load.v{vec.lanes}i{bits}.p0"
    value = _call(b, name, kind, pointer, _i32(bits // 8), mask, nowhere)
    return value if bits == 32 else b.trunc(value, ir.VectorType(_i32, vec.lanes))


@operation
def scatter_windows(typing, gy, at, gi, count, base, gx, xi, x_row, rows, columns, KH, KW):
    """Disjoint windows: each gy[gi + j] goes to its position at[gi + j], all other pixels get 0.

    base: the position of x[xi] in its plane.  Rows and columns as in `spread_windows`.
    """
    sizes = _literals(KH, KW)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        windows = _Windows(context, b, gx, args[5:10], *sizes)
        vec, mask = windows.vec, _below(b, windows.vec, args[3])
        values = _gradients(context, b, gy, (args[0], args[2], args[3]))
        positions = load_positions(b, vec, at, context.make_array(at)(context, b, args[1]).data, args[2], mask)
        lane = _ints(vec, [i * sizes[1] for i in range(vec.lanes)])
        tap = b.sub(positions, b.add(_splat(b, vec, b.trunc(args[4], _i32), _i32), lane))

        def row_of(r):
            first = b.trunc(b.mul(windows.stride, _i64(r)), _i32)
            taps = [_splat(b, vec, b.add(first, _i32(s)), _i32) for s in range(sizes[1])]
            return [b.select(b.icmp_signed("==", tap, number), values, _const(vec, 0.0)) for number in taps]

        windows.store(row_of)
        return context.get_dummy_value()

    return types.void(gy, at, *[types.intp] * 3, gx, *[types.intp] * 4, KH, KW), codegen
