"""Shift of every channel by its own displacement (`kernels/shift.py`), displacements read on the device.

x (planes, h, w), plane p being channel p % channels; displacements (channels, 2), down and right, of which `sign` times
the value, rounded to even if `whole`, is taken.  What comes from outside the image is 0.
"""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from .array import empty
from .elementwise import sqrt
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch
from .shaping import dense

U, S = np.uint32, np.int32
BLOCK = 4 if SIMULATED else 256
BLOCKS = 4 if SIMULATED else 2048  # blocks that add the gradient of displacements at most


@helper
def inside(x, plane, i, j, h, w, zero):
    """The pixel (i, j) of a plane, 0 outside."""
    return x[U(U(plane * U(h) + U(i)) * U(w) + U(j))] if 0 <= i < h and 0 <= j < w else zero


@helper
def split(d, size):
    """(floor, fraction) of a displacement; what lies wholly outside the image is brought next to it."""
    if d < -size - 2:
        return S(-size - 2), d - d
    if d > size + 2:
        return S(size + 2), d - d
    low = S(d)
    if low > d:
        low = S(low - 1)
    return low, d - low


@lru_cache
def make_shift(dtype):
    """y[p, i, j] = x[p, i + down, j + right], bilinear."""
    pixel, parts, REAL = inside, split, np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} displacement:{dtype} n channels h w whole sign={dtype}")
    def shift(x, y, displacement, n, channels, h, w, whole, sign):
        """Thread: outputs, n in all."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            row = U(i // U(w))
            plane = U(row // U(h))
            c = U(U(plane % U(channels)) * U(2))
            down, right = displacement[c], displacement[U(c + U(1))]
            if whole:
                down, right = REAL(round(down)), REAL(round(right))
            dy, fy = parts(REAL(sign * down), h)
            dx, fx = parts(REAL(sign * right), w)
            fy, fx = REAL(fy), REAL(fx)
            v, u = S(S(row - plane * U(h)) + dy), S(S(i - row * U(w)) + dx)
            value = pixel(x, plane, v, u, h, w, REAL(0))
            if fy != 0 or fx != 0:
                top = value * (REAL(1) - fx) + pixel(x, plane, v, u + 1, h, w, REAL(0)) * fx
                low = pixel(x, plane, v + 1, u, h, w, REAL(0)) * (REAL(1) - fx)
                low += pixel(x, plane, v + 1, u + 1, h, w, REAL(0)) * fx
                value = top * (REAL(1) - fy) + low * fy
            y[i] = value
            i = U(i + step)

    return shift


@lru_cache
def make_displacement(dtype, threads=BLOCK):
    """The gradient of displacements, in parts."""
    THREADS, REAL, pixel, parts_of = threads, np.dtype(dtype).type, inside, split

    @kernel(f"x:{dtype} gy:{dtype} displacement:{dtype} parts:{dtype} images channels h w splits")
    def shift_displacement(x, gy, displacement, parts, images, channels, h, w, splits):
        """parts (channels, splits, 2): gy times the slope of y along h and w.  Block: (channel, split)."""
        a = cuda.shared.array(THREADS, REAL)
        b = cuda.shared.array(THREADS, REAL)
        t, block = U(cuda.threadIdx.x), U(cuda.blockIdx.x)
        c = U(block // U(splits))
        dy, fy = parts_of(displacement[U(c * U(2))], h)
        dx, fx = parts_of(displacement[U(c * U(2) + U(1))], w)
        fy, fx = REAL(fy), REAL(fx)
        i, along_h, along_w = U(U(block - c * U(splits)) * U(THREADS) + t), REAL(0), REAL(0)
        while i < U(images * h * w):
            row = U(i // U(w))
            image = U(row // U(h))
            plane = U(image * U(channels) + c)
            v, u = S(row - image * U(h)), S(i - row * U(w))
            g = gy[U(U(plane * U(h) + U(v)) * U(w) + U(u))]
            v, u = S(v + dy), S(u + dx)
            v00, v01 = pixel(x, plane, v, u, h, w, REAL(0)), pixel(x, plane, v, u + 1, h, w, REAL(0))
            v10, v11 = pixel(x, plane, v + 1, u, h, w, REAL(0)), pixel(x, plane, v + 1, u + 1, h, w, REAL(0))
            along_h += g * ((v10 - v00) * (REAL(1) - fx) + (v11 - v01) * fx)
            along_w += g * ((v01 - v00) * (REAL(1) - fy) + (v11 - v10) * fy)
            i = U(i + U(splits) * U(THREADS))
        a[t] = along_h
        b[t] = along_w
        half = U(THREADS >> 1)
        while half:
            cuda.syncthreads()
            if t < half:
                a[t] += a[U(t + half)]
                b[t] += b[U(t + half)]
            half = U(half >> U(1))
        if t == 0:
            parts[U(block * U(2))] = a[0]
            parts[U(block * U(2) + U(1))] = b[0]

    return shift_displacement


@lru_cache
def make_displacement_sum(dtype):
    """The parts added in order, and each channel's gradient divided by its length if wanted."""

    @kernel(f"parts:{dtype} g:{dtype} channels splits normalize")
    def shift_displacement_sum(parts, g, channels, splits, normalize):
        """g (channels, 2).  Thread: a channel."""
        c, step = cuda.grid(1), cuda.gridsize(1)
        while c < channels:
            along_h, along_w = 0.0, 0.0
            for i in range(splits):
                along_h += parts[2 * (c * splits + i)]
                along_w += parts[2 * (c * splits + i) + 1]
            length = sqrt(along_h * along_h + along_w * along_w)
            if not normalize or length == 0.0:
                length = 1.0
            g[2 * c] = along_h / length
            g[2 * c + 1] = along_w / length
            c += step

    return shift_displacement_sum


def kernels(dtype):
    """For the test that compiles them."""
    yield make_shift(dtype)
    yield make_displacement(dtype)
    yield make_displacement_sum(dtype)


# ---- the ops


def _moved(x, displacement, whole, sign):
    """x (n, channels, h, w) shifted by sign times the displacements (channels, 2) in x's dtype."""
    _, channels, h, w = x.shape
    y = empty(x.shape, x.dtype)
    arguments = dense(x), y, dense(displacement), y.size, channels, h, w, int(whole), float(sign)
    launch(Row(make_shift(x.dtype.name), blocks_for(y.size), THREADS, arguments))
    return y


@counterpart("shift.Shift")
class Shift(Rule):
    @staticmethod
    def forward(ctx, x, displacement):
        ctx.displacement = displacement
        return _moved(x, displacement.astype(x.dtype), False, 1)


@counterpart("shift.ActiveShift")
class ActiveShift(Rule):
    twice = False

    @staticmethod
    def forward(ctx, x, displacement, whole, normalize):
        ctx.save(x, displacement)
        ctx.whole, ctx.normalize = whole, normalize
        return _moved(x, displacement, whole, 1)

    @staticmethod
    def backward(ctx, gy):
        x, displacement = ctx.saved
        gx = _moved(gy, displacement, ctx.whole, -1) if ctx.needs[0] else None
        if not ctx.needs[1]:
            return gx, None, None, None
        (images, channels, h, w), dtype = x.shape, x.dtype
        splits = max(1, min(-(-images * h * w // (8 * BLOCK)), -(-BLOCKS // max(channels, 1))))
        parts, g = empty((channels, splits, 2), dtype), empty((channels, 2), dtype)
        arguments = dense(x), dense(gy), dense(displacement), parts, images, channels, h, w, splits
        total = parts, g, channels, splits, int(ctx.normalize)
        launch(
            Row(make_displacement(dtype.name), channels * splits, BLOCK, arguments),
            Row(make_displacement_sum(dtype.name), blocks_for(channels), THREADS, total),
        )
        return gx, g, None, None
