"""Rows of outputs under the taps of one kernel, as register operations: one vector is LANES outputs of a row.

A tile is R vectors, one below the other.  A table lists column taps; each has K row taps at equal distances, whose
weights stay in registers while every loaded vector of the input feeds up to K of the R outputs.  Lanes and rows in the
padding are masked and never read: which rows are inside is a number for each group of rows, bit t of it for row t.
FLAT tiles lie in one row, vector after vector, and the K taps of an entry are as far apart as the vectors, so that they
share loads as well.  Conventions as in `simd.py`; the plain-Python twins are in `simd_python.py`.
"""

from contextlib import nullcontext

import numpy as np
from llvmlite import ir
from numba import from_dtype
from numba.core import cgutils, types

from . import _config
from .simd_place import (
    Place,
    _below,
    _call,
    _check_inside,
    _clip,
    _const,
    _fma,
    _i1,
    _i8,
    _i32,
    _i64,
    _literals,
    _splat,
    _suffix,
    _vec_of,
    operation,
)
from .simd_window import _check_run, _ints

ENTRY = 4  # numbers of a table entry: element of the input, its column, its group of rows, element of the weights


@operation
def numbers_at(typing, address, NAMES):
    """The whole numbers at an address as a record with these field names, a string of words."""
    if not isinstance(NAMES, types.StringLiteral):
        return None
    record = from_dtype(np.dtype([(name, "i8") for name in NAMES.literal_value.split()]))

    def codegen(context, b, sig, args):
        return b.inttoptr(args[0], context.get_value_type(record))

    return record(types.intp, NAMES), codegen


def _alive(b, condition):
    """A block that runs where the condition, None for always, holds."""
    return nullcontext() if condition is None else b.if_then(condition, likely=True)


def _bit(b, bits, number):
    return b.icmp_signed("!=", b.and_(bits, _i64(1 << number)), _i64(0))


class _Numbers:
    """Whole numbers of an array from an index on, which debug mode checks."""

    def __init__(self, context, b, array_type, array, index):
        self.context, self.b, self.index = context, b, index
        struct = context.make_array(array_type)(context, b, array)
        self.data, self.size = struct.data, b.extract_value(struct.shape, 0)

    def load(self, offset, count=1):
        b, at = self.b, self.b.add(self.index, offset)
        if _config.DEBUG:
            _check_inside(self.context, b, at, _i64(count), self.size)
        values = [b.load(b.gep(self.data, [b.add(at, _i64(i))])) for i in range(count)]
        return values if count > 1 else values[0]


class _Lines:
    """The input of a tile under one entry of the table: what each of its G column taps sees, for LANES outputs."""

    def __init__(self, b, place, valid, numbers, sizes):
        self.b, self.place, self.vec, self.valid = b, place, place.vec, valid
        self.x_row, self.left, self.right, self.step = numbers
        self.g, self.sw, self.edge, self.flat = sizes
        self.parts = 2 if self.sw == 2 else 1

    def begin(self, offset, column, group):
        """Take up an entry of the table."""
        self.offset, self.column = offset, column
        if self.edge:
            b, vec = self.b, self.vec
            self.rows = self.valid.load(group)
            self.first, self.width, step = (
                _splat(b, vec, b.trunc(v, _i32), _i32)
                for v in (b.sub(column, self.left), b.sub(self.right, self.left), self.step)
            )
            if self.sw == 0:
                self.first = b.add(self.first, b.mul(_ints(vec, range(vec.lanes)), step))
            self.masks = [] if self.flat else [self._mask(0, p) for p in range(self.parts + (self.g == 3))]

    def _mask(self, t, part):
        """The lanes of a loaded vector whose column lies inside: their distances from the left edge, as numbers without
        a sign, are less than that of the right edge."""
        b, vec, shift = self.b, self.vec, part * self.vec.lanes
        if self.sw == 0:
            far = b.mul(self.x_row, _i64(t)) if self.flat else _i64(0)
            columns = b.add(self.first, _splat(b, vec, b.trunc(far, _i32), _i32))
        else:
            shift += t * self.sw * vec.lanes
            columns = b.add(self.first, _ints(vec, range(shift, shift + vec.lanes)))
        mask = b.icmp_unsigned("<", columns, self.width)
        if part == 2:  # of the vector behind a pair the first lane alone is of use
            mask = b.and_(mask, ir.Constant(mask.type, [1] + [0] * (vec.lanes - 1)))
        return mask

    def inside(self, t):
        """Whether row t lies in the image; None where all do."""
        return _bit(self.b, self.rows, t) if self.edge else None

    def _check(self, at, column, part, step):
        """In debug mode: the lanes inside, at a distance of `step`, must lie in the array."""
        if not _config.DEBUG:
            return
        b, lanes = self.b, self.vec.lanes
        first, last = b.sub(self.left, column), b.sub(self.right, column)
        low = b.sdiv(b.add(first, b.sub(step, _i64(1))), step)
        high = b.sdiv(b.add(last, b.sub(step, _i64(1))), step)
        low, high = (_clip(b, b.sub(v, _i64(part * lanes)), _i64(0), _i64(lanes)) for v in (low, high))
        with b.if_then(b.icmp_signed("<", low, high)):
            for lane in (low, b.sub(high, _i64(1))):
                self.place.scalar(b.add(at, b.mul(lane, step)))

    def _load(self, t, part):
        b, column = self.b, self.column
        at, mask = b.add(self.offset, b.mul(self.x_row, _i64(t))), None
        if self.flat:
            column = b.add(column, b.mul(self.x_row, _i64(t)))
        if self.edge:
            mask = self._mask(t, part) if self.flat else self.masks[part]
        if self.sw == 0:
            return self._gather(at, column, mask)
        place = b.add(at, _i64(part * self.vec.lanes))
        if self.edge:
            self._check(place, column, part, _i64(1))
            return self.place.masked_load(place, mask)
        if part < 2:
            return self.place.load(place)
        empty = ir.Constant(self.vec.ir, ir.Undefined)
        return b.insert_element(empty, b.load(self.place.scalar(place)), _i32(0))

    def _gather(self, at, column, mask):
        b, vec = self.b, self.vec
        self._check(at, column, 0, self.step)
        if mask is None:
            mask = ir.Constant(ir.VectorType(_i1, vec.lanes), [1] * vec.lanes)
        itemsize = vec.element.bitwidth // 8
        lane = ir.Constant(ir.VectorType(_i64, vec.lanes), [itemsize * i for i in range(vec.lanes)])
        base = _splat(b, vec, b.ptrtoint(self.place.scalar(at, check=False), _i64), _i64)
        addresses = b.add(base, b.mul(lane, _splat(b, vec, self.step, _i64)))
        pointers = b.inttoptr(addresses, ir.VectorType(vec.ir.element.as_pointer(), vec.lanes))
        name = f"llvm.masked.gather.{_suffix(vec)}.v{vec.lanes}p0"
        return _call(b, name, vec.ir, pointers, _i32(itemsize), mask, _const(vec, 0.0))

    def taps(self, t):
        """What each of the G column taps sees in row t: lane i is column tap + i*SW."""
        b, vec, lanes = self.b, self.vec, self.vec.lanes
        if self.sw != 2:
            return [self._load(t, 0)]
        pair = [self._load(t, p) for p in range(2)]
        even, odd = (b.shuffle_vector(*pair, _ints(vec, [2 * i + s for i in range(lanes)])) for s in range(2))
        if self.g < 3:
            return [even, odd][: self.g]
        return [even, odd, b.shuffle_vector(even, self._load(t, 2), _ints(vec, range(1, lanes + 1)))]


def _entries(context, b, table_type, table, first, last):
    """Each entry of a table: four numbers, within a loop that is not to be unrolled: that would cost registers."""
    numbers = _Numbers(context, b, table_type, table, _i64(0))
    before, loop, done = b.block, b.append_basic_block("entry"), b.append_basic_block("entry.done")
    b.cbranch(b.icmp_signed("<", first, last), loop, done)
    b.position_at_end(loop)
    k = b.phi(_i64)
    k.add_incoming(first, before)
    yield numbers.load(b.mul(k, _i64(ENTRY)), ENTRY)
    following = b.add(k, _i64(1))
    k.add_incoming(following, b.block)
    jump = b.cbranch(b.icmp_signed("<", following, last), loop, done)
    jump.set_metadata("llvm.loop", _no_unrolling(b.module, loop.name))
    b.position_at_end(done)


def _no_unrolling(module, name):
    """The metadata of a loop; it begins with itself, as LLVM wants it."""
    switch = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = module.add_metadata([ir.MetaDataString(module, name), switch])
    loop.operands = (loop, switch)
    return loop


def _users(t, count, k, sh):
    """(output row, row tap) of everything that row t feeds."""
    return [(m, t - m * sh) for m in range(count) if 0 <= t - m * sh < k]


class _Taps:
    """The weights of an entry of the table: K x G values, one in every lane each."""

    def __init__(self, b, place, w_row, w_col):
        self.b, self.place, self.w_row, self.w_col = b, place, w_row, w_col

    def take(self, offset, k, g):
        b, values = self.b, {}
        for r in range(k):
            for c in range(g):
                at = b.add(offset, b.add(b.mul(self.w_row, _i64(r)), b.mul(self.w_col, _i64(c))))
                values[r, c] = _splat(b, self.place.vec, b.load(self.place.scalar(at)))
        return values


@operation
def slide_rows(
    typing, acc, x, xi, x_row, valid, vi, left, right, step, w, wi, w_row, w_col, table, first1, last1, first2, last2,
    K1, G1, K2, G2, SH, SW, R, EDGE, FLAT,
):  # fmt: skip
    """acc[m][i] + the sum over entries e = first1 .. last1-1, row taps r < K1 and column taps g < G1 of

        w[wi + e.weights + r*w_row + g*w_col] * x[xi + e.element + (m*SH + r)*x_row + g + i*SW]

    and over the entries, row taps and column taps of first2, last2, K2 and G2.

    SW 0: any step along the row, `step`, by gathering.  EDGE: row t = m*SH + r is in the padding unless bit t of
    valid[vi + e.group] is set, and the column e.column + g + i*SW (FLAT: + t*x_row) unless it is in [left, right).
    Without EDGE whole vectors are read: up to 2*LANES columns from e.column on for SW 2, one more for G 3.
    """
    sizes = _literals(K1, G1, K2, G2, SH, SW, R, EDGE, FLAT)
    if sizes is None:
        return None
    k1, g1, k2, g2, sh, sw, count, edge, flat = sizes
    vec = _vec_of(x)

    def codegen(context, b, sig, args):
        place, weights = Place(context, b, x, args[1], args[2]), Place(context, b, w, args[9], args[10])
        inside, taps = _Numbers(context, b, valid, args[4], args[5]), _Taps(b, weights, args[11], args[12])
        tile = [cgutils.alloca_once_value(b, value) for value in cgutils.unpack_tuple(b, args[0], count)]
        for k, g, first, last in ((k1, g1, *args[14:16]), (k2, g2, *args[16:18])):
            lines = _Lines(b, place, inside, (args[3], *args[6:9]), (g, sw, edge, flat))
            for offset, column, group, weight in _entries(context, b, table, args[13], first, last) if k else ():
                lines.begin(offset, column, group)
                splats = taps.take(weight, k, g)
                for t in range((count - 1) * sh + k):
                    users = _users(t, count, k, sh)
                    with _alive(b, lines.inside(t)):
                        for c, value in enumerate(lines.taps(t) if users else ()):
                            for m, r in users:
                                b.store(_fma(b, vec, splats[r, c], value, b.load(tile[m])), tile[m])
        return context.make_tuple(b, sig.return_type, [b.load(value) for value in tile])

    n = types.intp
    arguments = (acc, x, n, n, valid, *[n] * 4, w, n, n, n, table, *[n] * 4, K1, G1, K2, G2, SH, SW, R, EDGE, FLAT)
    return acc(*arguments), codegen


@operation
def prefetch_rows(typing, x, xi, x_row, COUNT, WRITE):
    """Ask for the cache lines of x[xi + t*x_row], t < COUNT, to be read or written soon; an index out of range does no
    harm."""
    sizes = _literals(COUNT, WRITE)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        place = Place(context, b, x, args[0], args[1])
        for t in range(sizes[0]):
            line = b.bitcast(place.vector(b.mul(args[2], _i64(t)), False), _i8.as_pointer())
            _call(b, "llvm.prefetch.p0", ir.VoidType(), line, _i32(sizes[1]), _i32(3), _i32(1))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, COUNT, WRITE), codegen


def _row_masks(b, vec, keep, columns, count, flat):
    """(whether, how many lanes, their mask) for each row of a tile: what is to be stored."""
    for m in range(count):
        run = b.sub(columns, _i64(m * vec.lanes)) if flat else columns
        yield _bit(b, keep, m), run, _below(b, vec, run)


@operation
def start_rows(typing, y, yi, y_row, keep, columns, bias, accumulate, R, FLAT):
    """R vectors of `bias`; with `accumulate` the old values y[yi + m*y_row + i] are added.

    Only those of rows whose bit in `keep` is set and columns i < columns (FLAT: m*LANES + i) are read.
    """
    sizes = _literals(R, FLAT)
    if sizes is None:
        return None
    count, flat = sizes
    vec = _vec_of(y)

    def codegen(context, b, sig, args):
        place, start = Place(context, b, y, args[0], args[1]), _splat(b, vec, args[5])
        y_row, keep, columns = args[2:5]
        tile = [cgutils.alloca_once_value(b, start) for _ in range(count)]
        with b.if_then(b.icmp_signed("!=", args[6], _i64(0)), likely=False):
            for m, (whether, run, mask) in enumerate(_row_masks(b, vec, keep, columns, count, flat)):
                with b.if_then(whether):
                    offset = b.mul(y_row, _i64(m))
                    _check_run(b, place, offset, run)
                    b.store(b.fadd(start, place.masked_load(offset, mask)), tile[m])
        return context.make_tuple(b, sig.return_type, [b.load(value) for value in tile])

    n = types.intp
    return types.UniTuple(vec, count)(y, n, n, n, n, y.dtype, n, R, FLAT), codegen


@operation
def finish_rows(typing, acc, y, yi, y_row, keep, columns, R, EDGE, FLAT):
    """y[yi + m*y_row + i] = acc[m][i]; with EDGE only what `start_rows` would read."""
    sizes = _literals(R, EDGE, FLAT)
    if sizes is None:
        return None
    count, edge, flat = sizes

    def codegen(context, b, sig, args):
        place, (y_row, keep, columns) = Place(context, b, y, args[1], args[2]), args[3:6]
        tile = cgutils.unpack_tuple(b, args[0], count)
        if not edge:
            for m, value in enumerate(tile):
                place.store(value, b.mul(y_row, _i64(m)))
            return context.get_dummy_value()
        for m, (whether, run, mask) in enumerate(_row_masks(b, place.vec, keep, columns, count, flat)):
            with b.if_then(whether):
                offset = b.mul(y_row, _i64(m))
                _check_run(b, place, offset, run)
                place.masked_store(tile[m], offset, mask)
        return context.get_dummy_value()

    n = types.intp
    return types.void(acc, y, n, n, n, n, R, EDGE, FLAT), codegen
