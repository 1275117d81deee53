"""Long one-dimensional convolutions of single channels by Fourier transforms of overlapping segments (overlap-save;
Oppenheim and Schafer, Discrete-Time Signal Processing, section 8.7.3).

A segment of N inputs gives N - K + 1 outputs: its transform times the conjugate of the kernel's, transformed back.
The lanes of a vector are channels; real and imaginary part are two segments that follow each other, since a kernel of
real numbers keeps them apart.  Radix 4; forwards by decimation in frequency, backwards in time (Gentleman and Sande
1966), so that nothing is put in order in between.  A value that is not finite spreads over the segments that have it.
"""

from functools import cache, lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector, transpose_block
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector
from .gathers import split, zeros

FftBlock = Block("FftConvolution", "x w bias y turns scratch", numbers="channels blocks iw ow kw pw n")


@helper
def turned(re, im, turns, at, sign):
    """(re, im) times the complex number at turns[at], or its conjugate where sign is -1."""
    c, s = splat_vector(turns, turns[at]), splat_vector(turns, sign * turns[at + 1])
    return sub_vector(mul_vector(re, c), mul_vector(im, s)), fma_vector(re, s, mul_vector(im, c))


@cache
def make_forwards(LANES):
    """The transform in place of n complex vectors at z[zi:], real parts first in each; its result is out of order."""

    @helper
    def forwards(z, zi, n, turns):
        one, table, quarter = turns.dtype.type(1), 0, n // 4
        while quarter:
            step = quarter * 2 * LANES
            for first in range(0, n, 4 * quarter):
                for j in range(quarter):
                    p = zi + (first + j) * 2 * LANES
                    q, r, s = p + step, p + 2 * step, p + 3 * step
                    ar, ai, cr, ci = (
                        load_vector(z, p),
                        load_vector(z, p + LANES),
                        load_vector(z, r),
                        load_vector(z, r + LANES),
                    )
                    br, bi, dr, di = (
                        load_vector(z, q),
                        load_vector(z, q + LANES),
                        load_vector(z, s),
                        load_vector(z, s + LANES),
                    )
                    er, ei, fr, fi = add_vector(ar, cr), add_vector(ai, ci), sub_vector(ar, cr), sub_vector(ai, ci)
                    gr, gi, hr, hi = add_vector(br, dr), add_vector(bi, di), sub_vector(br, dr), sub_vector(bi, di)
                    store_vector(add_vector(er, gr), z, p)
                    store_vector(add_vector(ei, gi), z, p + LANES)
                    re, im = turned(add_vector(fr, hi), sub_vector(fi, hr), turns, table + 6 * j, one)
                    store_vector(re, z, q)
                    store_vector(im, z, q + LANES)
                    re, im = turned(sub_vector(er, gr), sub_vector(ei, gi), turns, table + 6 * j + 2, one)
                    store_vector(re, z, r)
                    store_vector(im, z, r + LANES)
                    re, im = turned(sub_vector(fr, hi), add_vector(fi, hr), turns, table + 6 * j + 4, one)
                    store_vector(re, z, s)
                    store_vector(im, z, s + LANES)
            table, quarter = table + 6 * quarter, quarter // 4

    return forwards


@cache
def make_backwards(LANES):
    """n times what undoes `forwards`."""

    @helper
    def backwards(z, zi, n, turns):
        back, table, quarter = turns.dtype.type(-1), turns.size, 1
        while quarter < n:
            step, table = quarter * 2 * LANES, table - 6 * quarter
            for first in range(0, n, 4 * quarter):
                for j in range(quarter):
                    p = zi + (first + j) * 2 * LANES
                    q, r, s = p + step, p + 2 * step, p + 3 * step
                    ar, ai = load_vector(z, p), load_vector(z, p + LANES)
                    br, bi = turned(load_vector(z, q), load_vector(z, q + LANES), turns, table + 6 * j, back)
                    cr, ci = turned(load_vector(z, r), load_vector(z, r + LANES), turns, table + 6 * j + 2, back)
                    dr, di = turned(load_vector(z, s), load_vector(z, s + LANES), turns, table + 6 * j + 4, back)
                    er, ei, fr, fi = add_vector(ar, cr), add_vector(ai, ci), sub_vector(ar, cr), sub_vector(ai, ci)
                    gr, gi, hr, hi = add_vector(br, dr), add_vector(bi, di), sub_vector(br, dr), sub_vector(bi, di)
                    store_vector(add_vector(er, gr), z, p)
                    store_vector(add_vector(ei, gi), z, p + LANES)
                    store_vector(sub_vector(fr, hi), z, q)
                    store_vector(add_vector(fi, hr), z, q + LANES)
                    store_vector(sub_vector(er, gr), z, r)
                    store_vector(sub_vector(ei, gi), z, r + LANES)
                    store_vector(add_vector(fr, hi), z, s)
                    store_vector(sub_vector(fi, hr), z, s + LANES)
            quarter *= 4

    return backwards


@cache
def make_segments(LANES):
    @helper
    def read_segment(x, first, row, rows, start, size, z, zi, n, t):
        """z[zi + i*2*LANES + lane] = x[first + lane*row + start + i] for i < n, 0 outside 0 <= start + i < size and in
        lanes from `rows` on; t: where a block has place in z."""
        for i in range(0, n, LANES):
            for lane in range(LANES):
                low, high = -(start + i), (size - start - i if lane < rows else 0)
                store_vector(load_window(x, first + lane * row + start + i, 1, low, high, 1), z, t + lane * LANES)
            transpose_block(z, t, LANES, z, zi + i * 2 * LANES, 2 * LANES)

    @helper
    def write_segment(z, zi, count, t, y, first, row, rows, bias, oi):
        """y[first + lane*row + i] = z[zi + i*2*LANES + lane] + bias[oi + lane] for i < count and lane < rows."""
        for i in range(0, count, LANES):
            transpose_block(z, zi + i * 2 * LANES, 2 * LANES, z, t, LANES)
            for lane in range(rows):
                value = add_vector(load_vector(z, t + lane * LANES), splat_vector(y, bias[oi + lane]))
                store_window(value, y, first + lane * row + i, count - i)

    return read_segment, write_segment


@cache
def make_fft(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    forwards, backwards = make_forwards(LANES), make_backwards(LANES)
    read_segment, write_segment = make_segments(LANES)

    @tile_body(FftBlock, dtype)
    def conv_fwd_fft_segments(block, tile, worker):
        """Tile: (image, LANES channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, turns = array_at(a.bias, a.bias_size, KIND), array_at(a.turns, a.turns_size, KIND)
        z = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        n, valid, kernel = a.n, a.n - a.kw + 1, a.n * 2 * LANES
        t, channel = 2 * kernel, tile % a.blocks * LANES
        plane, rows = tile // a.blocks * a.channels + channel, min(LANES, a.channels - channel)
        nothing = splat_vector(z, z.dtype.type(0))
        read_segment(w, channel * a.kw, a.kw, rows, 0, a.kw, z, kernel, n, t)
        for i in range(n):
            store_vector(nothing, z, kernel + i * 2 * LANES + LANES)
        forwards(z, kernel, n, turns)
        for start in range(0, a.ow, 2 * valid):
            read_segment(x, plane * a.iw, a.iw, rows, start - a.pw, a.iw, z, 0, n, t)
            read_segment(x, plane * a.iw, a.iw, rows, start + valid - a.pw, a.iw, z, LANES, n, t)
            forwards(z, 0, n, turns)
            scale = splat_vector(z, z.dtype.type(1) / z.dtype.type(n))
            for i in range(0, kernel, 2 * LANES):
                re, im = load_vector(z, i), load_vector(z, i + LANES)
                c, s = (
                    mul_vector(load_vector(z, kernel + i), scale),
                    mul_vector(load_vector(z, kernel + i + LANES), scale),
                )
                store_vector(fma_vector(re, c, mul_vector(im, s)), z, i)
                store_vector(sub_vector(mul_vector(im, c), mul_vector(re, s)), z, i + LANES)
            backwards(z, 0, n, turns)
            at, left = plane * a.ow + start, a.ow - start
            write_segment(z, 0, min(valid, left), t, y, at, a.ow, rows, bias, channel)
            if left > valid:
                write_segment(z, LANES, min(valid, left - valid), t, y, at + valid, a.ow, rows, bias, channel)

    return conv_fwd_fft_segments


# ---- programs

SIZES = (256, 1024, 4096, 16384)
LEAST = 48  # taps of a kernel
PASS_NANOSECONDS, EDGE_NANOSECONDS = (
    1.5,
    4.0,
)  # of a complex vector in one of log4(n) passes; to read, write and multiply it


@lru_cache(maxsize=64)
def _turns(n, dtype):
    """exp(-2 pi i j m / size) for m = 1, 2, 3 and j < size / 4, size = n, n/4, .., 4."""
    tables = []
    while n > 1:
        angles = -2 * np.pi / n * np.arange(n // 4)[:, None] * np.arange(1, 4)
        tables.append(np.stack([np.cos(angles), np.sin(angles)], axis=-1).ravel())
        n //= 4
    turns = np.concatenate(tables).astype(dtype)
    turns.flags.writeable = False
    return turns


def _work(spec, n):
    """Nanoseconds of the convolution with segments of n."""
    passes, pairs = SIZES.index(n) + 4, split(spec.ow, 2 * (n - spec.kw + 1))
    far = 1 if n <= 4096 else 1.6  # beyond a second-level cache of 1 MB
    each = n * (2 * pairs + 1) * passes * PASS_NANOSECONDS * far + n * (pairs * 4 + 2) * EDGE_NANOSECONDS
    return spec.n * split(spec.oc, lanes(spec.dtype)) * each


def _size(spec):
    return min((n for n in SIZES if n > spec.kw), key=lambda n: _work(spec, n))


@implements("conv.fwd", rank=35)
class ConvForward(Impl):
    name = "conv_fwd_fft"

    @staticmethod
    def when(spec):
        if (spec.icg, spec.ocg) != (1, 1):
            return f"needs one channel in and out in a group, has {spec.icg} and {spec.ocg}"
        if (spec.id, spec.ih, spec.kd, spec.kh, spec.od, spec.oh) != (1,) * 6 or (spec.sw, spec.dw) != (1, 1):
            return "needs one dimension, stride 1 and dilation 1"
        if not LEAST <= spec.kw < SIZES[-1]:
            return f"needs a kernel of {LEAST} to {SIZES[-1] - 1} taps, has {spec.kw}"
        return "needs an image" if 0 in (spec.n, spec.in_pixels, spec.out_pixels) else None

    @staticmethod
    def cost(spec):
        return _work(spec, _size(spec))

    @staticmethod
    def emit(spec, buffers):
        LANES, n, bias = lanes(spec.dtype), _size(spec), buffers.get("b")
        blocks = split(spec.oc, LANES)
        values = {name: buffers[name] for name in ("x", "w", "y")} | {"turns": _turns(n, spec.dtype)}
        values |= {"bias": zeros(spec.oc, spec.dtype) if bias is None else bias, "channels": spec.oc, "blocks": blocks}
        values |= {"iw": spec.iw, "ow": spec.ow, "kw": spec.kw, "pw": spec.pw, "n": n}
        scratch = 4 * n * LANES + LANES * LANES
        return (Row(make_fft(spec.dtype), spec.n * blocks, values, _work(spec, n), scratch),)
