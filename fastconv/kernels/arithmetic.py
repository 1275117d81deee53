"""Two arrays combined element by element with broadcasting, copies between any memory orders, and channels scaled.

Each in place where the output is the first operand, and clamped on the way.  NaN goes through.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import activation_vector, div_vector
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector

SPAN = 8192  # elements of a tile
NANOSECONDS = 0.15  # for one element in a cache
OUTER = 4  # axes that are walked around the innermost run

_WALK = "rows d1 d2 d3 n part chunks x0 x1 x2 x3 xn z0 z1 z2 z3 zn y0 y1 y2 y3"
CombineBlock = Block("CombineBlock", "x z y", _WALK, "low high")
AffineBlock = Block("AffineBlock", "x scale shift y", "planes period pixels part", "low high")


@helper
def _add(a, b):
    return a + b


@helper
def _sub(a, b):
    return a - b


@helper
def _mul(a, b):
    return a * b


@helper
def _div(a, b):
    return a / b


@helper
def _first(a, b):
    return a


OPERATIONS = {"add": _add, "sub": _sub, "mul": _mul, "div": _div, "copy": _first}


@helper
def _clamped(value, low, high):
    """NaN is neither below nor above, and stays."""
    value = low if value < low else value
    return high if value > high else value


_VECTORS = {"add": add_vector, "sub": sub_vector, "mul": mul_vector, "div": div_vector, "copy": _first}


@lru_cache
def make_run(operation, dtype):
    """A helper that combines runs: y[yi + i] = clamp(x[xi + i*xn] op z[zi + i*zn]) for i < n; vectors where x is dense
    and z dense or one value."""
    LANES = lanes(dtype)
    combined, vectors = OPERATIONS[operation], _VECTORS[operation]

    @helper
    def dense_run(x, xi, z, zi, y, yi, n, least, most):
        for i in range(0, n - LANES + 1, LANES):
            value = vectors(load_vector(x, xi + i), load_vector(z, zi + i))
            store_vector(activation_vector(value, least, most, "clip"), y, yi + i)
        i, rest = n // LANES * LANES, n % LANES
        if rest:
            value = vectors(load_window(x, xi + i, 1, 0, rest, 1), load_window(z, zi + i, 1, 0, rest, 1))
            store_window(activation_vector(value, least, most, "clip"), y, yi + i, rest)

    @helper
    def scalar_run(x, xi, other, y, yi, n, least, most):
        for i in range(0, n - LANES + 1, LANES):
            value = vectors(load_vector(x, xi + i), other)
            store_vector(activation_vector(value, least, most, "clip"), y, yi + i)
        i, rest = n // LANES * LANES, n % LANES
        if rest:
            value = vectors(load_window(x, xi + i, 1, 0, rest, 1), other)
            store_window(activation_vector(value, least, most, "clip"), y, yi + i, rest)

    @helper
    def run(x, xi, xn, z, zi, zn, y, yi, n, low, high):
        least, most = splat_vector(y, low), splat_vector(y, high)
        if xn == 1 and zn == 1:
            dense_run(x, xi, z, zi, y, yi, n, least, most)
        elif xn == 1 and zn == 0:
            scalar_run(x, xi, splat_vector(y, z[zi]), y, yi, n, least, most)
        else:
            for i in range(n):
                y[yi + i] = _clamped(combined(x[xi + i * xn], z[zi + i * zn]), low, high)

    return run


@lru_cache
def make_combine(operation, dtype):
    """The body for one operation of `OPERATIONS`."""
    KIND, FLOAT = np.dtype(dtype).str[1:], np.dtype(dtype).type
    run = make_run(operation, dtype)

    @tile_body(CombineBlock, dtype)
    def combine(block, tile, worker):
        """y = clamp(x op z) on strided arrays, y dense along its last axis.  Tile: `part` runs, or a chunk of one."""
        a = fields(block)
        x, z, y = array_at(a.x, a.x_size, KIND), array_at(a.z, a.z_size, KIND), array_at(a.y, a.y_size, KIND)
        low, high = FLOAT(a.low), FLOAT(a.high)
        first = tile // a.chunks * a.part
        start = a.n * (tile % a.chunks) // a.chunks
        count = a.n * (tile % a.chunks + 1) // a.chunks - start
        for r in range(first, min(first + a.part, a.rows)):
            i3, rest = r % a.d3, r // a.d3
            i2, rest = rest % a.d2, rest // a.d2
            i1, i0 = rest % a.d1, rest // a.d1
            xi = i0 * a.x0 + i1 * a.x1 + i2 * a.x2 + i3 * a.x3 + start * a.xn
            zi = i0 * a.z0 + i1 * a.z1 + i2 * a.z2 + i3 * a.z3 + start * a.zn
            yi = i0 * a.y0 + i1 * a.y1 + i2 * a.y2 + i3 * a.y3 + start
            run(x, xi, a.xn, z, zi, a.zn, y, yi, count, low, high)

    return combine


@lru_cache
def make_affine(dtype):
    KIND, FLOAT, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).type, lanes(dtype)

    @tile_body(AffineBlock, dtype)
    def affine(block, tile, worker):
        """y[p, :] = clamp(x[p, :] scale[p % period] + shift[p % period]).  Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        scale, shift = array_at(a.scale, a.scale_size, KIND), array_at(a.shift, a.shift_size, KIND)
        least, most = splat_vector(y, FLOAT(a.low)), splat_vector(y, FLOAT(a.high))
        for p in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            first, rest, c = p * a.pixels, a.pixels % LANES, p % a.period
            last = first + a.pixels - rest
            factor, term = splat_vector(y, scale[c]), splat_vector(y, shift[c])
            for i in range(first, last, LANES):
                value = fma_vector(load_vector(x, i), factor, term)
                store_vector(activation_vector(value, least, most, "clip"), y, i)
            if rest:
                value = fma_vector(load_window(x, last, 1, 0, rest, 1), factor, term)
                store_window(activation_vector(value, least, most, "clip"), y, last, rest)

    return affine


# ---- rows


class Walk(NamedTuple):
    """A shape and the strides, in elements, by which operands are read and the output is written."""

    shape: tuple
    x: tuple
    z: tuple
    y: tuple


def strides(shape):
    """The strides of a dense array, in elements."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def broadcast(shape, onto):
    """The strides with which a dense array of `shape` is read as one of shape `onto`."""
    lead = (0,) * (len(onto) - len(shape))
    return lead + tuple(0 if size == 1 else step for size, step in zip(shape, strides(shape), strict=True))


def _merged(walk):
    """The same walk with as few axes as can be: neighbours that every operand reads as one run are joined."""
    axes = []
    for size, *steps in zip(*walk, strict=True):
        if size == 1:
            continue
        if axes and all(before == size * step for before, step in zip(axes[-1][1:], steps, strict=True)):
            axes[-1] = [axes[-1][0] * size, *steps]
        else:
            axes.append([size, *steps])
    return axes or [[1, 0, 0, 1]]


def combine_row(operation, x, z, y, walk, low=-np.inf, high=np.inf):
    """The row that combines x and z, both dense, into y along a walk; None if it has too many axes.

    z: x itself for "copy".  The strides of y along the last axis must be 1, or the row is None as well.
    """
    axes = _merged(walk)
    if axes[-1][3] != 1:
        axes.append([1, 0, 0, 1])
    if len(axes) > OUTER + 1:
        return None
    if operation in ("add", "mul") and axes[-1][1] == 0:
        x, z, axes = z, x, [[size, other, one, out] for size, one, other, out in axes]
    axes = [[1, 0, 0, 0]] * (OUTER + 1 - len(axes)) + axes
    sizes = [axis[0] for axis in axes]
    rows, n = int(np.prod(sizes[:-1])), sizes[-1]
    chunks = max(1, round(n / SPAN))
    part = 1 if chunks > 1 else max(1, SPAN // (n + 8))
    numbers = {"rows": rows, "d1": sizes[1], "d2": sizes[2], "d3": sizes[3], "n": n, "part": part, "chunks": chunks}
    for column, operand in enumerate("xzy", 1):
        steps = [axis[column] for axis in axes]
        numbers |= {f"{operand}{i}": step for i, step in enumerate(steps[:-1])}
        numbers[f"{operand}n"] = steps[-1]
    work = rows * (n * NANOSECONDS + 4)
    body = make_combine(operation, y.dtype.name)
    values = {"x": x, "z": z, "y": y, **numbers, "low": float(low), "high": float(high)}
    return Row(body, -(-rows // part) * chunks, values, work)


def affine_row(x, scale, shift, y, low=-np.inf, high=np.inf):
    """The row y = clamp(x scale + shift) for x (planes, pixels); scale and shift: one value for each plane, or a number
    of them that divides the planes and repeats."""
    planes, pixels = x.shape
    part = max(1, SPAN // (pixels + 8))
    numbers = {"planes": planes, "period": scale.size, "pixels": pixels, "part": part}
    values = {"x": x, "scale": scale, "shift": shift, "y": y, **numbers, "low": float(low), "high": float(high)}
    return Row(make_affine(y.dtype.name), -(-planes // part), values, planes * (pixels * NANOSECONDS + 4))
