"""Copies between any two memory orders, and pixels repeated whole numbers of times."""

from functools import lru_cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import store_window

OUTER = 4  # axes around the innermost two
SIDE, LONG = 16, 2048  # a tile's part of the second last and of the last axis
NANOSECONDS = 0.6  # for one element

MoveBlock = Block("MoveBlock", "x y", "d1 d2 d3 m n ms ns x0 x1 x2 x3 xm xn y0 y1 y2 y3 ym yn")
RepeatBlock = Block("RepeatBlock", "x y scratch", "rows width part down")


@lru_cache
def make_move(dtype):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @helper
    def dense_run(x, xi, y, yi, n):
        for i in range(0, n - LANES + 1, LANES):
            store_vector(load_vector(x, xi + i), y, yi + i)
        i, rest = n // LANES * LANES, n % LANES
        if rest:
            store_window(load_window(x, xi + i, 1, 0, rest, 1), y, yi + i, rest)

    @tile_body(MoveBlock, dtype)
    def move(block, tile, worker):
        """y = x on strided arrays.  Tile: outer axes (r), `SIDE` of the second last axis, `LONG` of the last."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        long, rest = tile % a.ns, tile // a.ns
        side, r = rest % a.ms, rest // a.ms
        i3, rest = r % a.d3, r // a.d3
        i2, rest = rest % a.d2, rest // a.d2
        i1, i0 = rest % a.d1, rest // a.d1
        first, start = side * SIDE, long * LONG
        last, count = min(first + SIDE, a.m), min(LONG, a.n - start)
        xi = i0 * a.x0 + i1 * a.x1 + i2 * a.x2 + i3 * a.x3 + first * a.xm + start * a.xn
        yi = i0 * a.y0 + i1 * a.y1 + i2 * a.y2 + i3 * a.y3 + first * a.ym + start * a.yn
        for _ in range(first, last):
            if a.xn == 1 and a.yn == 1:
                dense_run(x, xi, y, yi, count)
            elif a.yn == 1:
                for i in range(count):
                    y[np.uintp(yi + i)] = x[np.uintp(xi + i * a.xn)]
            else:
                for i in range(count):
                    y[np.uintp(yi + i * a.yn)] = x[np.uintp(xi + i * a.xn)]
            xi += a.xm
            yi += a.ym

    return move


def _joined(shape, x, y):
    """[size, step of x, step of y] of as few axes as can be, in the order in which y is written."""
    axes = sorted(([n, a, b] for n, a, b in zip(shape, x, y, strict=True) if n != 1), key=lambda axis: -axis[2])
    joined = []
    for size, *steps in axes:
        if joined and joined[-1][1:] == [size * step for step in steps]:
            joined[-1] = [joined[-1][0] * size, *steps]
        else:
            joined.append([size, *steps])
    return joined


def move_row(x, y, shape, x_steps, y_steps):
    """The row that copies elements of x to y: a shape and the strides, in elements, of both; None if it has too many
    axes."""
    axes = _joined(shape, x_steps, y_steps)
    if len(axes) > 1 and axes[-1][0] < 8:  # a longer loop inside, as long as y stays in few lines
        best = max(range(len(axes)), key=lambda i: (axes[i][0] >= 8, -min(axes[i][2], axes[i][1] or axes[i][2])))
        axes.append(axes.pop(best))
    if len(axes) > 2:  # beside the last axis the one along which x lies in lines
        near = min(range(len(axes) - 1), key=lambda i: axes[i][1] or axes[i][2])
        axes.insert(-1, axes.pop(near))
    if len(axes) > OUTER + 2:
        return None
    axes = [[1, 0, 0]] * (OUTER + 2 - len(axes)) + axes
    sizes = [axis[0] for axis in axes]
    (m, n), outer = sizes[-2:], prod(sizes[:-2])
    numbers = {"d1": sizes[1], "d2": sizes[2], "d3": sizes[3], "m": m, "n": n}
    numbers |= {"ms": -(-m // SIDE), "ns": -(-n // LONG)}
    for column, operand in enumerate("xy", 1):
        steps = [axis[column] for axis in axes]
        numbers |= {f"{operand}{name}": step for name, step in zip("0123mn", steps, strict=True)}
    dense = axes[-1][1] == axes[-1][2] == 1
    work = prod(sizes) * (NANOSECONDS / 4 if dense else NANOSECONDS) + 5 * outer * m
    return Row(make_move(y.dtype.name), outer * numbers["ms"] * numbers["ns"], {"x": x, "y": y, **numbers}, work)


@lru_cache
def make_repeat(across, dtype):
    """The body for pixels repeated `across` times along a line."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)

    @tile_body(RepeatBlock, dtype)
    def repeat(block, tile, worker):
        """y[r, d, i * across + k] = x[r, i] for all d < down, k < across.  Tile: `part` rows of x."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        wide = a.width * across
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            row = x[r * a.width : (r + 1) * a.width]
            for i in range(a.width):
                for k in range(across):
                    s[np.uintp(i * across + k)] = row[i]
            for d in range(a.down):
                yi = (r * a.down + d) * wide
                for i in range(0, wide - LANES + 1, LANES):
                    store_vector(load_vector(s, i), y, yi + i)
                i, rest = wide // LANES * LANES, wide % LANES
                if rest:
                    store_window(load_window(s, i, 1, 0, rest, 1), y, yi + i, rest)

    return repeat


def repeat_row(x, y, down, across):
    """The row y (..., h * down, w * across) of the pixels of x (..., h, w), each repeated."""
    width, rows = x.shape[-1], prod(x.shape[:-1])
    row_work = 10 + width * across * (0.4 + 0.1 * down)
    part = max(1, min(rows, int(20_000 / row_work)))
    numbers = {"rows": rows, "width": width, "part": part, "down": down}
    values = {"x": x, "y": y, **numbers}
    return Row(make_repeat(across, x.dtype.name), -(-rows // part), values, rows * row_work, width * across)
