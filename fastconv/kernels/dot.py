"""Convolution where the kernel covers the whole image, and fully connected layers: rows of weights times an image.

y[n, o] = bias[o] + sum over i of w[o, i] x[n, i], i over the channels and pixels of o's group.  Every weight is used
once for each image, so the time is that of reading them, from memory once for all images: as they lie, four rows side
by side, or, where they are too many for the caches, packed into one stream: eight rows, a vector of each in turn.
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window
from ..simd_vector import fma_vector, splat_vector, sum_vector
from ..specs import NO_EPILOGUE
from .gathers import NANOSECONDS_PER_FLOP, split, zeros

BYTES_PER_NANOSECOND = 12  # that one core reads

DotBlock = Block("DotBlock", "x w bias y", "images groups rows terms parts accumulate", "low high")


@helper
def finish(total, y, at, bias, o, accumulate, low, high):
    """y[at] = clamp(total + bias[o] (+ what y holds))."""
    value = total + bias[o]
    if accumulate:
        value += y[at]
    value = low if value < low else value  # NaN is neither below nor above, and stays
    y[at] = high if value > high else value


@cache
def make_products(dtype):
    """Helpers: the products of four rows, n apart, or of one row of w with x."""
    LANES, FLOAT = lanes(dtype), np.dtype(dtype).type

    @helper
    def four_rows(x, xi, w, wi, n):
        zero = splat_vector(x, FLOAT(0))
        a, b, c, d = zero, zero, zero, zero
        i = 0
        while i + LANES <= n:
            v = load_vector(x, xi + i)
            a = fma_vector(load_vector(w, wi + i), v, a)
            b = fma_vector(load_vector(w, wi + n + i), v, b)
            c = fma_vector(load_vector(w, wi + 2 * n + i), v, c)
            d = fma_vector(load_vector(w, wi + 3 * n + i), v, d)
            i += LANES
        if i < n:
            v = load_window(x, xi + i, 1, 0, n - i, 1)
            a = fma_vector(load_window(w, wi + i, 1, 0, n - i, 1), v, a)
            b = fma_vector(load_window(w, wi + n + i, 1, 0, n - i, 1), v, b)
            c = fma_vector(load_window(w, wi + 2 * n + i, 1, 0, n - i, 1), v, c)
            d = fma_vector(load_window(w, wi + 3 * n + i, 1, 0, n - i, 1), v, d)
        return sum_vector(a), sum_vector(b), sum_vector(c), sum_vector(d)

    @helper
    def one_row(x, xi, w, wi, n):
        a, i = splat_vector(x, FLOAT(0)), 0
        while i + LANES <= n:
            a = fma_vector(load_vector(w, wi + i), load_vector(x, xi + i), a)
            i += LANES
        if i < n:
            a = fma_vector(load_window(w, wi + i, 1, 0, n - i, 1), load_window(x, xi + i, 1, 0, n - i, 1), a)
        return sum_vector(a)

    return four_rows, one_row


@cache
def make_dot(dtype):
    KIND, FLOAT = np.dtype(dtype).str[1:], np.dtype(dtype).type
    four_rows, one_row = make_products(dtype)

    @tile_body(DotBlock, dtype)
    def conv_fwd_dot(block, tile, worker):
        """Tile: (group, part of its output channels), for all images."""
        a = fields(block)
        x, w = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND)
        y, bias = array_at(a.y, a.y_size, KIND), array_at(a.bias, a.bias_size, KIND)
        low, high, n = FLOAT(a.low), FLOAT(a.high), a.terms
        group, part = tile // a.parts, tile % a.parts
        o, last = group * a.rows + a.rows * part // a.parts, group * a.rows + a.rows * (part + 1) // a.parts
        pitch = a.groups * a.rows
        while o < last:
            height = 4 if o + 4 <= last else 1
            for image in range(a.images):
                xi, at = (image * a.groups + group) * n, image * pitch + o
                if height == 4:
                    first, second, third, fourth = four_rows(x, xi, w, o * n, n)
                    finish(first, y, at, bias, o, a.accumulate, low, high)
                    finish(second, y, at + 1, bias, o + 1, a.accumulate, low, high)
                    finish(third, y, at + 2, bias, o + 2, a.accumulate, low, high)
                    finish(fourth, y, at + 3, bias, o + 3, a.accumulate, low, high)
                else:
                    finish(one_row(x, xi, w, o * n, n), y, at, bias, o, a.accumulate, low, high)
            o += height

    return conv_fwd_dot


HEIGHT = 8  # rows that are read together, as packed


@cache
def make_packed_dot(dtype):
    KIND, FLOAT, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).type, lanes(dtype)

    @helper
    def eight_rows(x, xi, w, wi, n):
        zero = splat_vector(x, FLOAT(0))
        a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
        for i in range(0, n, LANES):
            v = load_vector(x, xi + i) if i + LANES <= n else load_window(x, xi + i, 1, 0, n - i, 1)
            a = fma_vector(load_vector(w, wi), v, a)
            b = fma_vector(load_vector(w, wi + LANES), v, b)
            c = fma_vector(load_vector(w, wi + 2 * LANES), v, c)
            d = fma_vector(load_vector(w, wi + 3 * LANES), v, d)
            e = fma_vector(load_vector(w, wi + 4 * LANES), v, e)
            f = fma_vector(load_vector(w, wi + 5 * LANES), v, f)
            g = fma_vector(load_vector(w, wi + 6 * LANES), v, g)
            h = fma_vector(load_vector(w, wi + 7 * LANES), v, h)
            wi += 8 * LANES
        first = sum_vector(a), sum_vector(b), sum_vector(c), sum_vector(d)
        return first, (sum_vector(e), sum_vector(f), sum_vector(g), sum_vector(h))

    @tile_body(DotBlock, dtype)
    def conv_fwd_dot_packed(block, tile, worker):
        """Tile: (group, part of its strips of eight output channels), for all images."""
        a = fields(block)
        x, w = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND)
        y, bias = array_at(a.y, a.y_size, KIND), array_at(a.bias, a.bias_size, KIND)
        low, high, n = FLOAT(a.low), FLOAT(a.high), a.terms
        group, part = tile // a.parts, tile % a.parts
        strips = (a.rows + HEIGHT - 1) // HEIGHT
        each = (n + LANES - 1) // LANES * LANES * HEIGHT
        for strip in range(strips * part // a.parts, strips * (part + 1) // a.parts):
            o = group * a.rows + strip * HEIGHT
            count = min(HEIGHT, a.rows - strip * HEIGHT)
            for image in range(a.images):
                xi, at = (image * a.groups + group) * n, image * a.groups * a.rows + o
                first, second = eight_rows(x, xi, w, (group * strips + strip) * each, n)
                for i in range(min(4, count)):
                    finish(first[i], y, at + i, bias, o + i, a.accumulate, low, high)
                for i in range(4, count):
                    finish(second[i - 4], y, at + i, bias, o + i, a.accumulate, low, high)

    return conv_fwd_dot_packed


def streamed(weight, groups):
    """Weights (oc, ...) as (groups, strips, vectors, HEIGHT, LANES), zeros behind the last row and term."""
    LANES, matrix = lanes(weight.dtype.name), weight.reshape(groups, len(weight) // groups, -1)
    strips, vectors = split(matrix.shape[1], HEIGHT), split(matrix.shape[2], LANES)
    packed = np.zeros((groups, strips, vectors, HEIGHT, LANES), weight.dtype)
    for strip in range(strips):
        rows = matrix[:, strip * HEIGHT : (strip + 1) * HEIGHT]
        whole = matrix.shape[2] // LANES * LANES
        shape = groups, rows.shape[1], -1, LANES
        packed[:, strip, : whole // LANES, : rows.shape[1]] = rows[..., :whole].reshape(shape).transpose(0, 2, 1, 3)
        packed[:, strip, -1, : rows.shape[1], : matrix.shape[2] - whole] = rows[..., whole:]
    return packed


CACHED = 1 << 22  # bytes of weights that may well be in a cache when they are wanted again
PART_BYTES = 1 << 18  # of weights that a tile reads


@implements("conv.fwd", rank=5)
class ConvForward(Impl):
    name = "conv_fwd_dot"
    epilogue = True

    @staticmethod
    def when(spec):
        kernel, padding = (spec.kd, spec.kh, spec.kw), (spec.pd, spec.ph, spec.pw)
        if spec.out_pixels != 1 or kernel != (spec.id, spec.ih, spec.iw) or any(padding):
            return "needs a kernel that covers the whole image"
        if 0 in (spec.n, spec.ic, spec.oc):
            return "needs an image"
        return None

    @staticmethod
    def cost(spec):
        """A load of weights for every multiplication, which for several images come from the cache."""
        return spec.flops() * NANOSECONDS_PER_FLOP * 1.3 + 10 * spec.oc * spec.n

    @staticmethod
    def pack(spec, weight):
        return streamed(weight, spec.g) if weight.nbytes >= CACHED else None

    @staticmethod
    def emit(spec, buffers):
        bias, epilogue = buffers.get("b"), buffers.get("epilogue", NO_EPILOGUE)
        bias = zeros(spec.oc, spec.dtype) if bias is None else bias
        terms = spec.icg * spec.taps
        nbytes = spec.ocg * terms * np.dtype(spec.dtype).itemsize
        parts = max(1, min(split(nbytes, PART_BYTES), split(spec.ocg, HEIGHT)))
        numbers = {"images": spec.n, "groups": spec.g, "rows": spec.ocg, "terms": terms, "parts": parts}
        values = {"x": buffers["x"], "w": buffers["w"], "bias": bias, "y": buffers["y"], **numbers}
        values |= {"low": epilogue.low, "high": epilogue.high, "accumulate": int(epilogue.accumulate)}
        work = spec.g * nbytes / BYTES_PER_NANOSECOND * (1 + 0.3 * spec.n)
        packed = buffers.get("packed")
        if packed is None:
            return (Row(make_dot(spec.dtype), spec.g * parts, values, work),)
        return (Row(make_packed_dot(spec.dtype), spec.g * parts, {**values, "w": packed}, work),)
