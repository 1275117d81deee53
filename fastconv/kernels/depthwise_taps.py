"""Depthwise convolution of wide kernels by long strides, with the taps of a row of the kernel in the lanes.

Such kernels shrink maps that bilinear interpolation has enlarged (the gradients of FCN's upsampling by 8 or 32: Long et
al. 2015, arXiv 1411.4038).  With outputs in the lanes their pixels lie a stride apart and must be gathered; a row of
taps meets neighbours.  An output is the sum of the lanes of its vector, a vector of outputs costs sixteen additions
and permutations more.  In the weight gradient the vectors are the result.
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import (
    array_at,
    fields,
    lanes,
    load_tile,
    load_vector,
    load_window,
    store_tile,
    store_vector,
    zero_tile,
    zero_vector,
)
from ..simd_taps import window_dots, window_sums
from ..simd_vector import fma_vector, splat_vector, store_sums, sum_vector
from .gathers import NANOSECONDS_PER_FLOP, zeros

GEOMETRY = "channels each xh xw yh yw kh kw sh sw ph pw first last"  # outputs first .. last-1 of a row see no padding
ForwardBlock = Block("DepthwiseTaps", "x w bias y", GEOMETRY)
WeightsBlock = Block("DepthwiseTapsWeights", "x gy gw", "images " + GEOMETRY)


@helper
def rows_inside(a, h):
    """(the first row of taps inside the image, the one behind the last) of an output row."""
    top = h * a.sh - a.ph
    return max(0, -top), min(a.kh, a.xh - top)


@cache
def make_forward(dtype):
    KIND, LANES, ZERO = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type(0)

    @helper
    def one_output(a, x, xi, w, wi, r0, r1, column):
        """The sum of the taps inside the image of the window that begins at a column; xi: the first pixel of its row
        r0."""
        total = splat_vector(x, ZERO)
        for r in range(r0, r1):
            for v in range(0, a.kw, LANES):
                low, high = max(0, -column - v), min(LANES, a.xw - column - v)
                pixels = load_window(x, xi + (r - r0) * a.xw + column + v, 1, low, high, 1)
                total = fma_vector(pixels, load_vector(w, wi + r * a.kw + v), total)
        return sum_vector(total)

    @tile_body(ForwardBlock, dtype)
    def conv_fwd_depthwise_taps(block, tile, worker):
        """Tile: (image, channel of the output)."""
        a = fields(block)
        x, w = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND)
        bias, y = array_at(a.bias, a.bias_size, KIND), array_at(a.y, a.y_size, KIND)
        channel = tile % a.channels
        plane = (tile // a.channels * (a.channels // a.each) + channel // a.each) * a.xh * a.xw
        wi, shift = channel * a.kh * a.kw, bias[channel]
        for h in range(a.yh):
            r0, r1 = rows_inside(a, h)
            xi, yi = plane + (h * a.sh - a.ph + r0) * a.xw, (tile * a.yh + h) * a.yw
            if r0 >= r1:
                y[yi : yi + a.yw] = shift
                continue
            whole = a.last - a.first >= LANES
            for i in range(a.first, a.last if whole else a.first, LANES):
                j = min(i, a.last - LANES)  # the last ones overlap
                acc = zero_tile(y, LANES, 1)
                for v in range(0, a.kw, LANES):
                    at = xi + j * a.sw - a.pw + v
                    acc = window_dots(acc, x, at, a.xw, a.sw, w, wi + r0 * a.kw + v, a.kw, r1 - r0, LANES)
                store_sums(acc, y, yi + j, LANES)
            for j in range(a.yw):
                if not whole or j < a.first or j >= a.last:
                    y[yi + j] = one_output(a, x, xi, w, wi, r0, r1, j * a.sw - a.pw)
                y[yi + j] += shift

    return conv_fwd_depthwise_taps


@cache
def make_weights(dtype, R):
    """The weight gradient, R rows of taps in registers."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @helper
    def add_window(a, g, x, xi, gw, wi, r0, r1, column):
        """The share of one output, of gradient g, in the rows r0 <= r < r1."""
        for r in range(r0, r1):
            for v in range(0, a.kw, LANES):
                low, high = max(0, -column - v), min(LANES, a.xw - column - v)
                pixels, at = load_window(x, xi + r * a.xw + column + v, 1, low, high, 1), wi + r * a.kw + v
                store_vector(fma_vector(pixels, splat_vector(gw, g), load_vector(gw, at)), gw, at)

    @tile_body(WeightsBlock, dtype)
    def conv_bwd_weights_depthwise_taps(block, tile, worker):
        """Tile: a channel of the output; sums over images and outputs in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        wi, inputs = tile * a.kh * a.kw, a.channels // a.each
        for i in range(wi, wi + a.kh * a.kw, LANES):
            zero_vector(gw, i)
        for image in range(a.images):
            plane = (image * inputs + tile // a.each) * a.xh * a.xw
            for h in range(a.yh):
                (r0, r1), gi = rows_inside(a, h), ((image * a.channels + tile) * a.yh + h) * a.yw
                xi = plane + (h * a.sh - a.ph) * a.xw
                whole = a.first < a.last and r0 == 0 and r1 == a.kh
                for r in range(0, a.kh if whole else 0, R):
                    for v in range(0, a.kw, LANES):
                        at, source = wi + r * a.kw + v, xi + r * a.xw + a.first * a.sw - a.pw + v
                        acc = load_tile(gw, at, a.kw, R, 1)
                        acc = window_sums(acc, gy, gi + a.first, x, source, a.xw, a.sw, a.last - a.first, R)
                        store_tile(acc, gw, at, a.kw, R, 1)
                for j in range(a.yw):
                    if not whole or j < a.first or j >= a.last:
                        add_window(a, gy[gi + j], x, xi, gw, wi, r0, r1, j * a.sw - a.pw)

    return conv_bwd_weights_depthwise_taps


# ---- programs

LOAD_CYCLES, SUM_CYCLES, EDGE_CYCLES = 1.7, 5, 12  # of a vector of taps; to add up the lanes of an output; at an edge


def _refusal(spec):
    LANES = lanes(spec.dtype)
    if spec.icg != 1:
        return f"needs one input channel per group, has {spec.icg}"
    if max(spec.kd, spec.sd, spec.id, spec.dh, spec.dw) > 1 or spec.pd:
        return "needs a plane and no dilation"
    if spec.kw % LANES:
        return f"needs rows of a multiple of {LANES} taps, has {spec.kw}"
    if 0 in (spec.n, spec.out_pixels, spec.in_pixels):
        return "needs an image"
    return None


def _numbers(spec):
    first = min(spec.ow, -(-spec.pw // spec.sw))
    last = max(first, min(spec.ow, (spec.iw + spec.pw - spec.kw) // spec.sw + 1))
    numbers = {"channels": spec.oc, "each": spec.ocg, "xh": spec.ih, "xw": spec.iw, "yh": spec.oh, "yw": spec.ow}
    numbers |= {name: getattr(spec, name) for name in ("kh", "kw", "sh", "sw", "ph", "pw")}
    return numbers | {"first": first, "last": last}


def _cost(spec, each):
    """What every output costs, and every vector of its taps, more where the window crosses an edge."""
    numbers = _numbers(spec)
    edges = spec.ow - (numbers["last"] - numbers["first"])
    vectors = spec.kh * spec.kw // lanes(spec.dtype)
    cycles = vectors * (LOAD_CYCLES * spec.ow + EDGE_CYCLES * edges) + each * spec.ow
    return 2 * lanes(spec.dtype) * NANOSECONDS_PER_FLOP * spec.n * spec.oc * spec.oh * cycles


@implements("conv.fwd", rank=12)
class ConvForward(Impl):
    name = "conv_fwd_depthwise_taps"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(spec, SUM_CYCLES)

    @staticmethod
    def emit(spec, buffers):
        bias = buffers.get("b")
        arrays = {"x": buffers["x"], "w": buffers["w"], "y": buffers["y"]}
        arrays["bias"] = zeros(spec.oc, spec.dtype) if bias is None else bias
        return (Row(make_forward(spec.dtype), spec.n * spec.oc, arrays | _numbers(spec), ConvForward.cost(spec)),)


@implements("conv.bwd_weights", rank=12)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_depthwise_taps"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(spec, 0)

    @staticmethod
    def emit(spec, buffers):
        R = next(rows for rows in (16, 8, 4, 2, 1) if spec.kh % rows == 0)
        arrays = {"x": buffers["x"], "gy": buffers["gy"], "gw": buffers["gw"], "images": spec.n}
        work = ConvBackwardWeights.cost(spec)
        return (Row(make_weights(spec.dtype, R), spec.oc, arrays | _numbers(spec), work),)
