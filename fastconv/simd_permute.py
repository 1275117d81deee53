"""Lanes picked from a short run of an array by a table of places; conventions as in `simd.py`."""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from llvmlite import ir
from numba.core import types

from . import _config
from .simd_isa import isa
from .simd_place import (
    Place,
    _between,
    _call,
    _clip,
    _const,
    _i32,
    _i64,
    _literals,
    _suffix,
    _vec_of,
    operation,
)
from .simd_window import _interleave
from .simd_winograd import _weight_line, winograd_sizes


def _permuted(b, vec, first, second, place):
    """The lanes of two vectors, side by side, at these places; only the low bits of a place count."""
    kind, index = ("ps", ir.VectorType(_i32, vec.lanes)) if vec.lanes == 16 else ("pd", ir.VectorType(_i64, vec.lanes))
    place = place if vec.lanes == 16 else b.sext(place, index)
    return _call(b, f"llvm.x86.avx512.vpermi2var.{kind}.512", vec.ir, first, place, second)


def _places(context, b, vec, table_type, table, index):
    """The 32-bit places of a vector's lanes."""
    data = context.make_array(table_type)(context, b, table).data
    place = b.load(b.bitcast(b.gep(data, [index]), ir.VectorType(_i32, vec.lanes).as_pointer()))
    place.align = 4
    return place


def _load_span(b, source, span):
    """The vectors that `_pick` permutes."""
    if isa.name == "avx512":
        return [source.load(_i64(i * source.vec.lanes)) for i in range(span)]
    if _config.DEBUG:
        source.vector(_i64(0), _i64(span * source.vec.lanes))
    return []


def _pick(b, source, loaded, place):
    """The lanes of `loaded` at these places, 0 where they are negative; by a gather where there is no permutation."""
    vec, lanes, numbers = source.vec, source.vec.lanes, ir.VectorType(_i32, source.vec.lanes)
    mask = b.icmp_signed(">=", place, ir.Constant(numbers, [0] * lanes))
    if not loaded:
        pointers = b.gep(source.scalar(_i64(0), check=False), [_i64(0)])
        pointers.operands, pointers.indices = [pointers.operands[0], place], [place]
        pointers.type = ir.VectorType(pointers.type, lanes)
        name = f"llvm.masked.gather.{_suffix(vec)}.v{lanes}p0"
        return _call(b, name, vec.ir, pointers, _i32(vec.element.bitwidth // 8), mask, _const(vec, 0.0))
    value = _permuted(b, vec, *loaded[:2], place)
    if len(loaded) == 4:
        high = b.icmp_signed(">=", place, ir.Constant(numbers, [2 * lanes] * lanes))
        value = b.select(high, _permuted(b, vec, *loaded[2:], place), value)
    return b.select(mask, value, _const(vec, 0.0))


@operation
def pick_lanes(typing, x, xi, places, pi, SPAN):
    """The vector of x[xi + places[pi + lane]], 0 where that place (32 bits) is negative; all are below SPAN * LANES.

    SPAN is 2 or 4, and x[xi : xi + SPAN*LANES] is read as a whole: permuting loaded vectors costs a tenth of gathering.
    """
    sizes = _literals(SPAN)
    if sizes is None:
        return None
    span, vec = sizes[0], _vec_of(x)

    def codegen(context, b, sig, args):
        source = Place(context, b, x, args[0], args[1])
        place = _places(context, b, vec, sig.args[2], args[2], args[3])
        return _pick(b, source, _load_span(b, source, span), place)

    return vec(x, types.intp, places, types.intp, SPAN), codegen


@operation
def pick_pair(typing, first, second, places, pi):
    """The lanes of two vectors, side by side, at places[pi + lane] (32 bits); 0 where that is negative.  AVX-512."""
    lanes = first.lanes

    def codegen(context, b, sig, args):
        table = context.make_array(sig.args[2])(context, b, args[2]).data
        numbers = ir.VectorType(_i32, lanes)
        place = b.load(b.bitcast(b.gep(table, [args[3]]), numbers.as_pointer()))
        place.align = 4
        mask = b.icmp_signed(">=", place, ir.Constant(numbers, [0] * lanes))
        return b.select(mask, _permuted(b, first, args[0], args[1], place), _const(first, 0.0))

    return first(first, second, places, types.intp), codegen


@operation
def winograd_picked_weights(typing, w, wi, places, u, ui, plane, FH, FW, SPAN):
    """`winograd_weights` of weights that lie in a short run: the vector of tap t is w[wi + places[t*LANES + lane]].

    SPAN: as for `pick_lanes`; 0: the places of a tap are neighbours."""
    sizes = _literals(FH, FW, SPAN)
    if sizes is None:
        return None
    (height, width, span), vec = sizes, _vec_of(w)
    (_, _, rows), (beta, _, columns) = winograd_sizes(height), winograd_sizes(width)

    def codegen(context, b, sig, args):
        source, target = Place(context, b, w, *args[0:2]), Place(context, b, u, *args[3:5])
        loaded = _load_span(b, source, span) if span else []
        taps = []
        for t in range(rows * columns):
            place = _places(context, b, vec, sig.args[2], args[2], _i64(t * vec.lanes))
            if span:
                taps.append(_pick(b, source, loaded, place))
            else:
                taps.append(source.load(b.sext(b.extract_element(place, _i32(0)), _i64)))
        lines = [_weight_line(b, vec, taps[j::columns], height) for j in range(columns)]
        for i, row in enumerate(zip(*lines, strict=True)):
            for j, value in enumerate(_weight_line(b, vec, list(row), width)):
                target.store(value, b.mul(args[5], _i64(beta * i + j)))
        return context.get_dummy_value()

    return types.void(w, types.intp, places, u, types.intp, types.intp, FH, FW, SPAN), codegen


@operation
def store_interleaved(typing, c, ci, c_m, y, yi, low, high, ROWS):
    """y[yi + i*ROWS + m] = c[ci + m*c_m + i] for m < ROWS and i < LANES, where low <= i*ROWS + m < high."""
    sizes = _literals(ROWS)
    if sizes is None:
        return None
    rows, vec = sizes[0], _vec_of(c)

    def codegen(context, b, sig, args):
        source, target = Place(context, b, c, args[0], args[1]), Place(context, b, y, args[3], args[4])
        loaded = [source.load(b.mul(args[2], _i64(m))) for m in range(rows)]
        for p, value in enumerate(_interleave(b, vec, loaded)):
            first = p * vec.lanes
            if _config.DEBUG:
                low, high = (_clip(b, b.sub(v, _i64(first)), _i64(0), _i64(vec.lanes)) for v in args[5:7])
                with b.if_then(b.icmp_signed("<", low, high)):
                    target.scalar(b.add(_i64(first), low))
                    target.scalar(b.add(_i64(first), b.sub(high, _i64(1))))
            target.masked_store(value, _i64(first), _between(b, vec, *args[5:7], first))
        return context.get_dummy_value()

    return types.void(c, *[types.intp] * 2, y, *[types.intp] * 3, ROWS), codegen
