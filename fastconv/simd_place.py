"""What all SIMD intrinsics stand on: the vector type, LLVM instructions on it, and places in arrays, which debug mode
checks.
"""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic, models, register_model

from . import _config, simd_python, simd_python_masked, simd_python_winograd
from .simd_isa import isa

_i1, _i8, _i32, _i64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


# ---- the vector type


def lanes(dtype):
    """Values of a dtype in one vector."""
    return simd_python.LANES if config.DISABLE_JIT else isa.lanes(np.dtype(dtype).itemsize)


class Vec(types.Type):
    """One vector register of float32 or float64 values."""

    def __init__(self, element):
        self.element, self.lanes = element, isa.lanes(element.bitwidth // 8)
        self.ir = ir.VectorType(ir.FloatType() if element is types.float32 else ir.DoubleType(), self.lanes)
        super().__init__(name=f"Vec({self.lanes} x {element})")


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        super().__init__(manager, vec, vec.ir)


_VECS = {element: Vec(element) for element in (types.float32, types.float64)}


def _vec_of(array):
    return _VECS[array.dtype]


def _suffix(vec):
    return f"v{vec.lanes}f{vec.element.bitwidth}"


def _const(vec, value):
    return ir.Constant(vec.ir, [value] * vec.lanes)


def _call(b, name, result, *args):
    return b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(result, [a.type for a in args]), name), args)


def _fma(b, vec, x, y, z):
    # Without the instruction llvm.fma is a library call for every lane; fmuladd is a multiplication and an addition
    # there.
    return _call(b, f"llvm.{'fma' if isa.fma else 'fmuladd'}.{_suffix(vec)}", vec.ir, x, y, z)


def _splat(b, vec, scalar, element=None):
    kind = vec.ir if element is None else ir.VectorType(element, vec.lanes)
    undef = ir.Constant(kind, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_i32, vec.lanes), [0] * vec.lanes)
    return b.shuffle_vector(b.insert_element(undef, scalar, _i32(0)), undef, zeros)


def _lane_numbers(vec, first=0):
    # 32-bit numbers: as many as float32 lanes, so that a comparison is one instruction
    return ir.Constant(ir.VectorType(_i32, vec.lanes), [first + i for i in range(vec.lanes)])


def _below(b, vec, count, first=0):
    """The mask of lanes with first + lane < count."""
    return b.icmp_signed("<", _lane_numbers(vec, first), _splat(b, vec, b.trunc(count, _i32), _i32))


def _between(b, vec, low, high, first=0):
    """The mask of lanes with low <= first + lane < high."""
    lane = _lane_numbers(vec, first)
    low, high = (_splat(b, vec, b.trunc(bound, _i32), _i32) for bound in (low, high))
    return b.and_(b.icmp_signed(">=", lane, low), b.icmp_signed("<", lane, high))


def _clip(b, value, low, high):
    value = b.select(b.icmp_signed("<", value, low), low, value)
    return b.select(b.icmp_signed(">", value, high), high, value)


# ---- places in arrays


def _check_inside(context, b, first, extent, size):
    """IndexError unless 0 <= first and first + extent <= size."""
    outside = b.or_(b.icmp_signed("<", first, _i64(0)), b.icmp_signed(">", b.add(first, extent), size))
    with b.if_then(outside, likely=False):
        context.call_conv.return_user_exc(b, IndexError, ("a kernel reached beyond its array",))


class Place:
    """An element of an array: makes pointers and, in debug mode, checks that what is touched lies inside."""

    def __init__(self, context, b, array_type, array, index):
        self.context, self.b, self.vec = context, b, _vec_of(array_type)
        struct = context.make_array(array_type)(context, b, array)
        self.data, self.index = struct.data, index
        self.size = b.extract_value(struct.shape, 0)

    def _check(self, offset, extent):
        _check_inside(self.context, self.b, self.b.add(self.index, offset), extent, self.size)

    def scalar(self, offset, check=True):
        if _config.DEBUG and check:
            self._check(offset, _i64(1))
        return self.b.gep(self.data, [self.b.add(self.index, offset)])

    def vector(self, offset, extent=None):
        """A pointer to the vector at offset; extent: how many lanes are touched, None for all, False for no check."""
        if _config.DEBUG and extent is not False:
            self._check(offset, _i64(self.vec.lanes) if extent is None else extent)
        pointer = self.b.gep(self.data, [self.b.add(self.index, offset)])
        return self.b.bitcast(pointer, self.vec.ir.as_pointer())

    def load(self, offset):
        value = self.b.load(self.vector(offset))
        value.align = self.vec.element.bitwidth // 8
        return value

    def store(self, value, offset):
        self.b.store(value, self.vector(offset)).align = self.vec.element.bitwidth // 8

    def masked_load(self, offset, mask):
        align, zero = _i32(self.vec.element.bitwidth // 8), _const(self.vec, 0.0)
        name = f"llvm.masked.load.{_suffix(self.vec)}.p0"
        return _call(self.b, name, self.vec.ir, self.vector(offset, False), align, mask, zero)

    def load_bits(self, offset, bits):
        """The vector at offset where the lane's bit is set, 0 elsewhere; bits: a whole number of as many bits as
        lanes."""
        b = self.b
        self._check_bits(offset, bits)
        return self.masked_load(offset, b.bitcast(bits, ir.VectorType(ir.IntType(1), self.vec.lanes)))

    def store_bits(self, value, offset, bits):
        """Store the lanes whose bit is set."""
        b = self.b
        self._check_bits(offset, bits)
        self.masked_store(value, offset, b.bitcast(bits, ir.VectorType(ir.IntType(1), self.vec.lanes)))

    def _check_bits(self, offset, bits):
        if _config.DEBUG:
            b, wide = self.b, self.b.zext(bits, _i64)
            with b.if_then(b.icmp_unsigned("!=", wide, _i64(0))):
                self.scalar(b.add(offset, b.cttz(wide, ir.IntType(1)(1))))
                self.scalar(b.add(offset, b.sub(_i64(63), b.ctlz(wide, ir.IntType(1)(1)))))

    def masked_store(self, value, offset, mask):
        align = _i32(self.vec.element.bitwidth // 8)
        name = f"llvm.masked.store.{_suffix(self.vec)}.p0"
        _call(self.b, name, ir.VoidType(), value, self.vector(offset, False), align, mask)

    def prefetch(self, offset, write):
        """Ask for the cache line at an offset; one out of range does no harm."""
        line = self.b.bitcast(self.vector(offset, False), _i8.as_pointer())
        _call(self.b, "llvm.prefetch.p0", ir.VoidType(), line, _i32(int(write)), _i32(3), _i32(1))

    def gather(self, offset, step, low, high):
        """The vector of the values at offset + lane*step for low <= lane < high, 0 elsewhere."""
        b, vec, itemsize = self.b, self.vec, self.vec.element.bitwidth // 8
        lane = ir.Constant(ir.VectorType(_i64, vec.lanes), [itemsize * i for i in range(vec.lanes)])
        base = _splat(b, vec, b.ptrtoint(self.scalar(offset, check=False), _i64), _i64)
        addresses = b.add(base, b.mul(lane, _splat(b, vec, step, _i64)))
        pointers = b.inttoptr(addresses, ir.VectorType(vec.ir.element.as_pointer(), vec.lanes))
        align, mask = _i32(itemsize), _between(b, vec, low, high)
        name = f"llvm.masked.gather.{_suffix(vec)}.v{vec.lanes}p0"
        return _call(b, name, vec.ir, pointers, align, mask, _const(vec, 0.0))


def _literals(*sizes):
    """The values of compile-time numbers, or None if one is not known when the kernel is compiled."""
    if all(isinstance(size, types.IntegerLiteral) for size in sizes):
        return tuple(size.literal_value for size in sizes)
    return None


def operation(typing) -> Any:
    """An intrinsic under its own name; without the JIT, the twin of that name."""
    if config.DISABLE_JIT:
        twins = (simd_python, simd_python_masked, simd_python_winograd)
        module = next(module for module in twins if hasattr(module, typing.__name__))
        return getattr(module, typing.__name__)
    return intrinsic(prefer_literal=True)(typing)
