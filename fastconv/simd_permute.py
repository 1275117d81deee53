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


def _permuted(b, vec, first, second, place):
    """The lanes of two vectors, side by side, at these places; only the low bits of a place count."""
    kind, index = ("ps", ir.VectorType(_i32, vec.lanes)) if vec.lanes == 16 else ("pd", ir.VectorType(_i64, vec.lanes))
    place = place if vec.lanes == 16 else b.sext(place, index)
    return _call(b, f"llvm.x86.avx512.vpermi2var.{kind}.512", vec.ir, first, place, second)


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
        source, lanes = Place(context, b, x, args[0], args[1]), vec.lanes
        table = context.make_array(sig.args[2])(context, b, args[2]).data
        numbers = ir.VectorType(_i32, lanes)
        place = b.load(b.bitcast(b.gep(table, [args[3]]), numbers.as_pointer()))
        place.align = 4
        mask = b.icmp_signed(">=", place, ir.Constant(numbers, [0] * lanes))
        if isa.name != "avx512":
            if _config.DEBUG:
                source.vector(_i64(0), _i64(span * lanes))
            pointers = b.gep(source.scalar(_i64(0), check=False), [_i64(0)])
            pointers.operands, pointers.indices = [pointers.operands[0], place], [place]
            pointers.type = ir.VectorType(pointers.type, lanes)
            name = f"llvm.masked.gather.{_suffix(vec)}.v{lanes}p0"
            return _call(b, name, vec.ir, pointers, _i32(vec.element.bitwidth // 8), mask, _const(vec, 0.0))
        loaded = [source.load(_i64(i * lanes)) for i in range(span)]
        value = _permuted(b, vec, *loaded[:2], place)
        if span == 4:
            high = b.icmp_signed(">=", place, ir.Constant(numbers, [2 * lanes] * lanes))
            value = b.select(high, _permuted(b, vec, *loaded[2:], place), value)
        return b.select(mask, value, _const(vec, 0.0))

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
