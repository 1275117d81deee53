"""The transforms of Winograd convolution for tiles in pieces: a vector of tiles that lie in several places of an image,
each a vector of pixels wide or half of one, with their places in a table.

Forms, points and conventions as in `simd_winograd.py`; the plain-Python twins are in `simd_python_winograd.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from .simd_place import Place, _i64, _literals, _splat, operation
from .simd_python_winograd import winograd_sizes
from .simd_winograd import _input_line, _joined, _merge, _output, _shuffle, _split


def _entries(context, b, table_type, table, places):
    """The whole numbers of a table at these places."""
    data = context.make_array(table_type)(context, b, table).data
    return [b.load(b.gep(data, [place])) for place in places]


def _rows_of_pieces(context, b, table_type, table, ti, step, count, taps, sizes):
    """For each piece its place in x without the channel's, and a function that gives the bits of the pixels inside the
    image in row i and from column j on; see `winograd_pieces`."""
    (depth, row, column), (xd, xh) = taps, sizes
    for n in range(count):
        first = b.add(ti, b.mul(step, _i64(n)))
        source, h, pixels, d = _entries(context, b, table_type, table, [b.add(first, _i64(i)) for i in range(4)])
        inside = b.icmp_unsigned("<", b.add(d, depth), xd)
        pixels = b.select(inside, b.lshr(pixels, column), _i64(0))

        def bits(i, j, lanes, width, h=h, pixels=pixels):
            inside = b.icmp_unsigned("<", b.add(b.add(h, row), _i64(i)), xh)
            wide, narrow = ir.IntType(lanes), ir.IntType(width)
            there = b.select(inside, b.trunc(b.lshr(pixels, _i64(j)), narrow), narrow(0))
            return there if width == lanes else b.zext(there, wide)

        yield source, bits


def _piece_loader(context, b, array_type, array, index, pieces, width, size):
    """A function of a row and a column of tiles, `size` pixels wide, that lie in pieces: the phases of their pixels."""
    pieces = [(Place(context, b, array_type, array, b.add(index, source)), bits) for source, bits in pieces]
    lanes = pieces[0][0].vec.lanes
    halves = [*range(lanes // 2), *range(lanes, lanes + lanes // 2)]

    def load(i, j):
        offset = b.add(b.mul(width, _i64(i)), _i64(j))
        vectors = [place.load_bits(offset, bits(i, j, lanes, lanes * size // len(pieces))) for place, bits in pieces]
        if len(pieces) > size:
            vectors = [_shuffle(b, *pair, halves) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        return _split(b, vectors)

    return load


@operation
def winograd_pieces(typing, x, xi, table, ti, step, depth, row, column, xd, xh, xw, r, ri, pitch, F, N):
    """`winograd_row` for all rows of LANES tiles in N pieces that lie anywhere; N = F: each is a vector of pixels wide,
    N = 2 F: half a vector.

    r[ri + (A*i + j)*pitch : +LANES] = (B^T d)[j] for the rows i < A = F + 2.  Piece n has the entry (source, h, bits,
    d) at table[ti + n*step].  Its first pixel is x[xi + source], in row h + row and image d + depth; bit `column` and
    those behind it say whether that column and those behind it lie inside.  Other pixels are 0 and not read.
    """
    sizes = _literals(F, N)
    if sizes is None:
        return None
    (form, count), (alpha, size, _) = sizes, winograd_sizes(sizes[0])

    def codegen(context, b, sig, args):
        target = Place(context, b, r, *args[11:13])
        pieces = _rows_of_pieces(context, b, table, args[2], args[3], args[4], count, args[5:8], args[8:10])
        load = _piece_loader(context, b, x, args[0], args[1], pieces, args[10], size)
        for i in range(alpha):
            d = load(i, 0) + load(i, size)  # the second time for the first pixels behind each tile
            for j, value in enumerate(_input_line(b, target.vec, d[:alpha], form)):
                target.store(value, b.mul(args[13], _i64(alpha * i + j)))
        return context.get_dummy_value()

    return types.void(x, types.intp, table, *(types.intp,) * 8, r, types.intp, types.intp, F, N), codegen


def _write_piece(b, place, offset, bits, value, accumulate, bounds):
    """Store the lanes of `value` whose bit is set, plus what is there where that is wanted, clamped."""
    low, high = bounds
    with b.if_else(accumulate) as (then, otherwise):
        with then:
            sum_, then_block = b.fadd(value, place.load_bits(offset, bits)), b.block
        with otherwise:
            else_block = b.block
    value = _joined(b, place.vec, ([sum_], then_block), ([value], else_block))[0]
    value = b.select(b.fcmp_ordered(">", low, value), low, value)
    value = b.select(b.fcmp_ordered("<", high, value), high, value)
    whole = b.icmp_unsigned("==", bits, bits.type(-1))
    with b.if_else(whole) as (then, otherwise):
        with then:
            place.store(value, offset)
        with otherwise:
            place.store_bits(value, offset, bits)


@operation
def winograd_out_pieces(typing, m, mi, plane, bias, oi, y, yi, table, ti, step, size, accumulate, bounds, F, N):
    """`winograd_out` for tiles in N pieces as those of `winograd_pieces`, to their places in images of (depth, rows,
    columns) `size`: plus what is there where `accumulate` is not 0, and within `bounds` (low, high).  Pixels outside
    the image are not touched."""
    sizes = _literals(F, N)
    if sizes is None:
        return None
    (form, count), (_, width, _) = sizes, winograd_sizes(sizes[0])

    def codegen(context, b, sig, args):
        vec, zero = Place(context, b, y, *args[5:7]).vec, (_i64(0),) * 3
        depth, rows, columns = cgutils.unpack_tuple(b, args[10], 3)
        entries = args[7], args[8], args[9]
        pieces = list(_rows_of_pieces(context, b, table, *entries, count, zero, (depth, rows)))
        places = [(Place(context, b, y, args[5], b.add(args[6], source)), bits) for source, bits in pieces]
        narrow = vec.lanes * width // count  # pixels of a piece
        low, high = (
            _splat(b, vec, b.fptrunc(bound, vec.ir.element) if vec.element is types.float32 else bound)
            for bound in cgutils.unpack_tuple(b, args[12], 2)
        )
        accumulate = b.icmp_signed("!=", args[11], _i64(0))
        for i, pixels in enumerate(_output(context, b, m, bias, args[:5], form, form)):
            offset, values = b.mul(columns, _i64(i)), _merge(b, pixels)
            for n, (place, bits) in enumerate(places):
                start = n * narrow % vec.lanes  # of the piece in its vector
                inside = b.shl(bits(i, 0, vec.lanes, narrow), ir.IntType(vec.lanes)(start))
                value = values[n * narrow // vec.lanes]
                _write_piece(b, place, b.sub(offset, _i64(start)), inside, value, accumulate, (low, high))
        return context.get_dummy_value()

    places = (types.intp, table, types.intp, types.intp)
    return types.void(m, types.intp, types.intp, bias, types.intp, y, *places, size, types.intp, bounds, F, N), codegen
