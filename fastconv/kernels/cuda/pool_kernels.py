"""Pooling: one thread an output, gathers in both directions, so nothing is added in an order that varies.

An axis is six numbers, int32: size, outputs, kernel, stride, padding, dilation; planes are pooled along three of them.
Adaptive windows cover [floor(o I / O), ceil((o + 1) I / O)).  Positions in a plane are int64, as NumPy wants them;
index arithmetic is in 32 bits.
"""

from functools import lru_cache

import numpy as np

from .gpu import cuda, helper, kernel

U, S = np.uint32, np.int32


@lru_cache
def make_window(adaptive):
    """f(o, axis): (first, end) of the pixels under output o; taps are `dilation` apart."""

    def adaptive_window(o, axis):
        size, out, _, _, _, _ = axis
        first = U(U(o) * U(size)) // U(out)
        last = U(U(o + 1) * U(size) + U(out - 1)) // U(out)
        return S(first), S(last)

    def window(o, axis):
        size, _, kernel, stride, pad, dilation = axis
        first = S(o * stride - pad)
        last = S(first + (kernel - 1) * dilation + 1)
        if first < 0:
            first = S(first + S(U(dilation - 1 - first) // U(dilation)) * dilation)
        return first, min(last, S(size))

    return helper(adaptive_window if adaptive else window)


@lru_cache
def make_seen(adaptive):
    """f(i, axis): (first, end) of the outputs whose windows may hold pixel i."""

    def adaptive_seen(i, axis):
        size, out, _, _, _, _ = axis
        return S(U(U(i) * U(out)) // U(size)), S(U(U(i + 1) * U(out) + U(size - 1)) // U(size))

    def seen(i, axis):
        _, out, kernel, stride, pad, dilation = axis
        before = S(i + pad - (kernel - 1) * dilation)
        first = S(U(before + stride - 1) // U(stride)) if before > 0 else S(0)
        return first, min(S(S(U(i + pad) // U(stride)) + 1), S(out))

    return helper(adaptive_seen if adaptive else seen)


@helper
def place(i, d, h, w):
    """(plane, z, y, x) of flat index i in planes of d x h x w."""
    row = U(U(i) // U(w))
    slab = U(row // U(h))
    plane = U(slab // U(d))
    return plane, S(U(slab - plane * U(d))), S(U(row - slab * U(h))), S(U(U(i) - row * U(w)))


# ---- maxima


@lru_cache
def make_max_pool(adaptive, indices, dtype):
    """y[i], and at[i] with `indices`, of n outputs.  NaN wins, then the last NaN; of equal values the first."""
    window, INDICES, LOW = make_window(adaptive), indices, np.dtype(dtype).type(-np.inf)

    @kernel(f"x:{dtype} y:{dtype} at:{'int64' if indices else dtype} n d*6 h*6 w*6")
    def max_pool(x, y, at, n, d, h, w):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            plane, oz, oy, ox = place(i, d[1], h[1], w[1])
            z, z1 = window(oz, d)
            y0, y1 = window(oy, h)
            x0, x1 = window(ox, w)
            base = U(plane * U(d[0] * h[0] * w[0]))
            best, where = LOW, S(-1)
            while z < z1:
                v = y0
                while v < y1:
                    u = x0
                    while u < x1:
                        here = S((z * h[0] + v) * w[0] + u)
                        value = x[U(base + U(here))]
                        if value > best or where < 0 or value != value:
                            best, where = value, here
                        u = S(u + w[5])
                    v = S(v + h[5])
                z = S(z + d[5])
            y[i] = best
            if INDICES:
                at[i] = where
            i = U(i + step)

    return max_pool


@lru_cache
def make_max_pool_gradient(adaptive, dtype):
    """gx[i] = the sum of gy over the outputs whose maximum pixel i is, of n pixels, in the order of outputs."""
    seen, REAL = make_seen(adaptive), np.dtype(dtype).type

    @kernel(f"gy:{dtype} at:int64 gx:{dtype} n d*6 h*6 w*6")
    def max_pool_gradient(gy, at, gx, n, d, h, w):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            plane, z, v, u = place(i, d[0], h[0], w[0])
            here = S((z * h[0] + v) * w[0] + u)
            oz, z1 = seen(z, d)
            y0, y1 = seen(v, h)
            x0, x1 = seen(u, w)
            base = U(plane * U(d[1] * h[1] * w[1]))
            total = REAL(0)
            while oz < z1:
                oy = y0
                while oy < y1:
                    o = U(base + U((oz * h[1] + oy) * w[1] + x0))
                    last = U(o + U(max(x1 - x0, 0)))
                    while o < last:
                        if at[o] == here:
                            total += gy[o]
                        o = U(o + U(1))
                    oy = S(oy + 1)
                oz = S(oz + 1)
            gx[i] = total
            i = U(i + step)

    return max_pool_gradient


@lru_cache
def make_max_pool_gather(dtype):
    """y[i] = x[at[i]] in each plane, 0 where there is no maximum, of n outputs."""
    REAL = np.dtype(dtype).type

    @kernel(f"x:{dtype} at:int64 y:{dtype} n pixels outputs")
    def max_pool_gather(x, at, y, n, pixels, outputs):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            here = at[i]
            y[i] = REAL(0) if here < 0 else x[U(U(i // U(outputs)) * U(pixels) + U(here))]
            i = U(i + step)

    return max_pool_gather


# ---- means


@lru_cache
def make_count(adaptive):
    """f(o, axis, padded): the pixels that a mean counts along an axis; padded: the padding counts."""

    def adaptive_count(o, axis, padded):
        size, out, _, _, _, _ = axis
        last = U(U(o + 1) * U(size) + U(out - 1)) // U(out)
        return S(last - U(U(o) * U(size)) // U(out))

    def count(o, axis, padded):
        size, _, kernel, stride, pad, _ = axis
        first = S(o * stride - pad)
        low, high = (-pad, size + pad) if padded else (S(0), size)
        return S(min(first + kernel, high) - max(first, low))

    return helper(adaptive_count if adaptive else count)


@lru_cache
def make_average_pool(adaptive, dtype):
    """y[i] of n outputs.  padded: the padding counts; divisor: what to divide by instead of the count, 0: the count."""
    window, count, REAL = make_window(adaptive), make_count(adaptive), np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} n padded divisor d*6 h*6 w*6")
    def average_pool(x, y, n, padded, divisor, d, h, w):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            plane, oz, oy, ox = place(i, d[1], h[1], w[1])
            z, z1 = window(oz, d)
            y0, y1 = window(oy, h)
            x0, x1 = window(ox, w)
            base = U(plane * U(d[0] * h[0] * w[0]))
            total = REAL(0)
            while z < z1:
                v = y0
                while v < y1:
                    here = U(base + U((z * h[0] + v) * w[0] + x0))
                    last = U(here + U(max(x1 - x0, 0)))
                    while here < last:
                        total += x[here]
                        here = U(here + U(1))
                    v = S(v + 1)
                z = S(z + 1)
            size = divisor if divisor else S(count(oz, d, padded) * count(oy, h, padded) * count(ox, w, padded))
            y[i] = total / REAL(size)
            i = U(i + step)

    return average_pool


@lru_cache
def make_average_pool_gradient(adaptive, dtype):
    """gx[i] = the sum of gy / count over the outputs whose windows hold pixel i, of n pixels, in their order."""
    seen, count, REAL = make_seen(adaptive), make_count(adaptive), np.dtype(dtype).type

    @kernel(f"gy:{dtype} gx:{dtype} n padded divisor d*6 h*6 w*6")
    def average_pool_gradient(gy, gx, n, padded, divisor, d, h, w):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            plane, z, v, u = place(i, d[0], h[0], w[0])
            oz, z1 = seen(z, d)
            y0, y1 = seen(v, h)
            x0, x1 = seen(u, w)
            base = U(plane * U(d[1] * h[1] * w[1]))
            total = REAL(0)
            while oz < z1:
                oy = y0
                while oy < y1:
                    rows = S(count(oz, d, padded) * count(oy, h, padded))
                    ox = x0
                    while ox < x1:
                        size = divisor if divisor else S(rows * count(ox, w, padded))
                        total += gy[U(base + U((oz * h[1] + oy) * w[1] + ox))] / REAL(size)
                        ox = S(ox + 1)
                    oy = S(oy + 1)
                oz = S(oz + 1)
            gx[i] = total
            i = U(i + step)

    return average_pool_gradient


# ---- one window over all: a block for each plane


@lru_cache
def make_global_average(threads, dtype):
    """y[plane] = the sum of `pixels` values / divisor.  Block: a plane."""
    THREADS, REAL = threads, np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} pixels divisor={dtype}")
    def global_average(x, y, pixels, divisor):
        s = cuda.shared.array(THREADS, REAL)
        t, plane = U(cuda.threadIdx.x), U(cuda.blockIdx.x)
        i, last = U(plane * U(pixels) + t), U(U(plane + U(1)) * U(pixels))
        total = REAL(0)
        while i < last:
            total += x[i]
            i = U(i + U(THREADS))
        s[t] = total
        half = U(THREADS // 2)
        while half:
            cuda.syncthreads()
            if t < half:
                s[t] += s[U(t + half)]
            half = U(half >> U(1))
        if t == 0:
            y[plane] = s[0] / divisor

    return global_average


@helper
def beats(value, at, other, where):
    """Whether the maximum `value` at `at` gives way to `other` at `where`; no maximum: at -1."""
    if where < 0:
        return False
    if other != other:
        return value == value or where > at
    return other > value or at < 0 or (other == value and where < at)


@lru_cache
def make_global_max(threads, indices, dtype):
    """y[plane] and at[plane], of planes of `pixels` values.  Block: a plane."""
    THREADS, INDICES, REAL, beaten, LOW = threads, indices, np.dtype(dtype).type, beats, np.dtype(dtype).type(-np.inf)

    @kernel(f"x:{dtype} y:{dtype} at:{'int64' if indices else dtype} pixels")
    def global_max(x, y, at, pixels):
        values = cuda.shared.array(THREADS, REAL)
        places = cuda.shared.array(THREADS, np.int32)
        t, plane = U(cuda.threadIdx.x), U(cuda.blockIdx.x)
        i, base, best, where = t, U(plane * U(pixels)), LOW, S(-1)
        while i < U(pixels):
            value = x[U(base + i)]
            if value > best or where < 0 or value != value:
                best, where = value, S(i)
            i = U(i + U(THREADS))
        values[t] = best
        places[t] = where
        half = U(THREADS // 2)
        while half:
            cuda.syncthreads()
            o = U(t + half)
            if t < half and beaten(values[t], places[t], values[o], places[o]):
                values[t] = values[o]
                places[t] = places[o]
            half = U(half >> U(1))
        if t == 0:
            y[plane] = values[0]
            if INDICES:
                at[plane] = places[0]

    return global_max


def kernels(dtype):
    """For the test that compiles them."""
    for adaptive in (False, True):
        yield make_max_pool(adaptive, True, dtype)
        yield make_max_pool_gradient(adaptive, dtype)
        yield make_average_pool(adaptive, dtype)
        yield make_average_pool_gradient(adaptive, dtype)
    yield make_max_pool_gather(dtype)
    yield make_global_average(256, dtype)
    yield make_global_max(256, True, dtype)
