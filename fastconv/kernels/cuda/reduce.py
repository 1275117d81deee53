"""Sums, largest and smallest values over axes, and where they are.  The order of every sum is fixed, so results are the
same bits each time.

Kept and reduced axes are merged to at most three each.  Few long sums take a block each, whose threads add in shared
memory, and are cut into parts that are added afterwards; many short ones, or ones whose neighbours in memory belong to
other results, take a thread each.
"""

import math
from functools import cache

import numpy as np

from .array import CudaArray, empty
from .elementwise import copied, merged
from .gpu import SIMULATED, THREADS, TYPES, blocks_for, cuda, helper, int32, kernel, uint32

BLOCK = 4 if SIMULATED else 256  # threads that share one sum; a power of two
PART = 16 if SIMULATED else 1 << 14  # elements that a block adds
_JOIN = {
    "sum": lambda a, b: a + b,
    "max": lambda a, b: a if a != a or a >= b else b,
    "min": lambda a, b: a if a != a or a <= b else b,
}


@cache
def make_reduce(kind, dtype, result):
    """(block for each part of a result, thread for each result): out = the values of x at all reduced positions joined.

    n results; m reduced positions; d, s: sizes and steps of the kept axes, e, t: of the reduced ones.
    """
    join, OUT, STRIDES = helper(_JOIN[kind]), TYPES[result], int(math.log2(BLOCK))

    @helper
    def step(i, d, s):
        """What position i of three axes adds to an offset."""
        r = uint32(uint32(i) // uint32(d[2]))
        i2 = int32(uint32(i) - r * uint32(d[2]))
        i0 = int32(r // uint32(d[1]))
        i1 = int32(r - uint32(i0) * uint32(d[1]))
        return int32(i0 * s[0] + i1 * s[1] + i2 * s[2])

    @kernel(f"x:{dtype} out:{result} m parts part d*3 s*3 e*3 t*3")
    def by_blocks(x, out, m, parts, part, d, s, e, t):
        shared = cuda.shared.array(BLOCK, OUT)
        thread = cuda.threadIdx.x
        o = int32(uint32(cuda.blockIdx.x) // uint32(parts))
        first = int32(int32(cuda.blockIdx.x) - o * parts) * part
        end = min(int32(first + part), m)
        base = step(o, d, s)
        # The first value again and again where a thread has none: it changes neither a maximum nor a minimum.
        value = OUT(0) if kind == "sum" else OUT(x[uint32(base + step(first, e, t))])
        for i in range(first + thread, end, BLOCK):
            value = OUT(join(value, OUT(x[uint32(base + step(i, e, t))])))
        shared[thread] = value
        cuda.syncthreads()
        for level in range(STRIDES):
            half = BLOCK >> (level + 1)
            if thread < half:
                shared[thread] = OUT(join(shared[thread], shared[thread + half]))
            cuda.syncthreads()
        if thread == 0:
            out[uint32(cuda.blockIdx.x)] = shared[0]

    @kernel(f"x:{dtype} out:{result} n m d*3 s*3 e*3 t*3")
    def by_threads(x, out, n, m, d, s, e, t):
        for o in range(cuda.grid(1), n, cuda.gridsize(1)):
            base = step(o, d, s)
            value = OUT(x[uint32(base)])
            for i in range(1, m):
                value = OUT(join(value, OUT(x[uint32(base + step(i, e, t))])))
            out[uint32(o)] = value

    return by_blocks, by_threads


@cache
def make_first(kind, dtype):
    """out = where the first largest (smallest) value of each row of x (n, m) is; NaN is larger and smaller."""
    largest = kind == "max"

    @kernel(f"x:{dtype} out:int64 n m")
    def first(x, out, n, m):
        for o in range(cuda.grid(1), n, cuda.gridsize(1)):
            best, at = x[uint32(o * m)], 0
            for i in range(1, m):
                value = x[uint32(int32(o * m) + i)]
                better = value > best if largest else value < best
                if best == best and (better or value != value):
                    best, at = value, i
            out[uint32(o)] = at

    return first


def kernels(dtype):
    """For the test that compiles them."""
    yield from (*make_reduce("sum", dtype, dtype), *make_reduce("max", dtype, dtype))
    yield make_first("max", dtype)


def _axes(x, axis):
    if axis is None:
        return tuple(range(x.ndim))
    axes = tuple(a % x.ndim for a in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"axes {axis} name one axis twice")
    return axes


def _three(axes):
    axes = [[1, 0]] * (3 - len(axes)) + axes
    return tuple(a[0] for a in axes), tuple(a[1] for a in axes)


def reduced(kind, x, axis, keepdims):
    """ "sum", "max" or "min" of x over an axis, several or all; sums of bools and whole numbers are int64."""
    axes = _axes(x, axis)
    kept = [i for i in range(x.ndim) if i not in axes]
    whole = kind == "sum" and x.dtype.kind != "f"
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    out = empty(shape, np.int64 if whole else x.dtype)
    if x.size == 0:
        if out.size and kind != "sum":
            raise ValueError(f"{kind}: no values to choose from in shape {x.shape}")
        out.fill(0)
        return out
    if x.dtype == np.bool_ and kind != "sum":
        return reduced(kind, copied(x, np.dtype("int32")), axis, keepdims).astype(np.bool_)
    inner, outer = (merged([x.shape[i] for i in g], [x.steps[i] for i in g]) for g in (axes, kept))
    if len(inner) > 3 or len(outer) > 3:
        order = (*kept, *axes)
        flat = copied(x.transpose(order), x.dtype)
        return reduced(kind, flat.reshape(out.size, -1), 1, False).reshape(shape)
    _reduce_into(kind, x, out, inner, outer)
    return out


def _reduce_into(kind, x, out, inner, outer):
    m = math.prod(axis[0] for axis in inner)
    by_blocks, by_threads = make_reduce(kind, x.dtype.name, out.dtype.name)
    d, s = _three(outer)
    e, t = _three(inner)
    neighbours = outer[-1][1] == 1 and outer[-1][0] > 1  # results that lie side by side are read side by side
    if m < 2 * BLOCK or (neighbours and out.size >= 32 * BLOCK):
        by_threads(blocks_for(out.size), THREADS, x.raw, out.raw, out.size, m, d, s, e, t)
        return
    parts = -(-m // PART)
    partial = out if parts == 1 else empty((out.size, parts), out.dtype)
    by_blocks(out.size * parts, BLOCK, x.raw, partial.raw, m, parts, min(m, PART), d, s, e, t)
    if parts > 1:
        _reduce_into(kind, partial, out, [[parts, 1]], [[out.size, parts]])


def first_extreme(kind, x, axis, keepdims) -> CudaArray:
    """Where the first largest or smallest value along an axis is; of all axes, in C order."""
    if x.size == 0:
        raise ValueError(f"arg{kind}: no values to choose from in shape {x.shape}")
    axes = _axes(x, axis)
    order = (*[i for i in range(x.ndim) if i not in axes], *axes)
    moved = x.transpose(order) if x.ndim else x.reshape(1)
    rows = copied(moved, np.dtype("int32") if x.dtype == np.bool_ else x.dtype)
    m = math.prod(x.shape[a] for a in axes)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes)
    out = empty(shape, np.int64)
    make_first(kind, rows.dtype.name)(blocks_for(out.size), THREADS, rows.raw, out.raw, out.size, m)
    return out
