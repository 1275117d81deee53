"""Depthwise convolution of small maps: a register holds one pixel of LANES channels.

Rows of a 6x6 map fill a third of the lanes when lanes are pixels, and a stride leaves fewer.  Here blocks of channels
and pixels are turned round on the way to a padded copy of the map in the first-level cache, where taps need no bounds;
results are turned round on the way back.  Everything about a problem is in tables of places, so strides, dilations and
the data gradient, for which the gradient is spread out between zeros, are the same code.
"""

from functools import cache, lru_cache
from itertools import product

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector, transpose_block, zero_vector
from ..simd_math import activation_vector
from ..simd_vector import add_vector, fma_vector, splat_vector, store_window
from ..specs import NO_EPILOGUE
from . import depthwise
from .gathers import split, zeros
from .window import rows_per_tile

_NUMBERS = "channels images part inputs outputs taps panel accumulate"
SmallBlock = Block(
    "DepthwiseSmall",
    {"x": None, "w": None, "bias": None, "y": None, "table": "i8", "scratch": None},
    _NUMBERS,
    "low high",
)
WeightsBlock = Block(
    "DepthwiseSmallWeights", {"x": None, "gy": None, "gw": None, "table": "i8", "scratch": None}, _NUMBERS
)


@cache
def make_turns(LANES):
    """(bring, take): blocks of LANES channels on the way to and from the form of one pixel a register."""

    @helper
    def bring(x, first, pitch, rows, count, squares, places, panel):
        """panel[places[k] + m] = x[first + m*pitch + k] for k < count and m < rows, 0 for other m < LANES."""
        turned = squares[LANES * LANES :]
        for k in range(0, count, LANES):
            width = min(LANES, count - k)
            if rows == LANES and first + k + (LANES - 1) * pitch + LANES <= x.size:
                transpose_block(x, first + k, pitch, turned, 0, LANES)
            else:
                for m in range(LANES):
                    row = load_window(x, first + m * pitch + k, 1, 0, width if m < rows else 0, 1)
                    store_vector(row, squares, m * LANES)
                transpose_block(squares, 0, LANES, turned, 0, LANES)
            for j in range(width):
                store_vector(load_vector(turned, j * LANES), panel, places[k + j])

    @helper
    def take(panel, y, first, pitch, rows, count, squares, accumulate, low, high):
        """y[first + m*pitch + k] = clamp(panel[k*LANES + m] (+ what y holds)) for k < count and m < rows."""
        low, high = splat_vector(y, y.dtype.type(low)), splat_vector(y, y.dtype.type(high))
        for k in range(0, count, LANES):
            width = min(LANES, count - k)
            transpose_block(panel, k * LANES, LANES, squares, 0, LANES)
            for m in range(rows):
                value, at = load_vector(squares, m * LANES), first + m * pitch + k
                if accumulate:
                    value = add_vector(value, load_window(y, at, 1, 0, width, 1))
                store_window(activation_vector(value, low, high, "clip"), y, at, width)

    return bring, take


@cache
def make_small(dtype):
    """The forward pass and the data gradient."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    bring, take = make_turns(LANES)

    @helper
    def slide(panel, weights, bias, bases, steps, taps, outputs, out):
        """out[o] = bias + the sum over taps t of panel[bases[o] + steps[2*t]] * weights[steps[2*t + 1]], four at once;
        the last four overlap those before them."""
        for start in range(0, outputs, 4):
            o = min(start, outputs - 4)
            b0, b1, b2, b3 = bases[o], bases[o + 1], bases[o + 2], bases[o + 3]
            s0, s1, s2, s3 = bias, bias, bias, bias
            for t in range(taps):
                step, w = steps[2 * t], load_vector(weights, steps[2 * t + 1])
                s0 = fma_vector(load_vector(panel, b0 + step), w, s0)
                s1 = fma_vector(load_vector(panel, b1 + step), w, s1)
                s2 = fma_vector(load_vector(panel, b2 + step), w, s2)
                s3 = fma_vector(load_vector(panel, b3 + step), w, s3)
            store_vector(s0, out, o * LANES)
            store_vector(s1, out, (o + 1) * LANES)
            store_vector(s2, out, (o + 2) * LANES)
            store_vector(s3, out, (o + 3) * LANES)

    @tile_body(SmallBlock, dtype)
    def conv_depthwise_small(block, tile, worker):
        """Tile: (LANES channels, `part` images)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, table = array_at(a.bias, a.bias_size, KIND), array_at(a.table, a.table_size, "i8")
        squares = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        weights = squares[2 * LANES * LANES :]
        panel = weights[a.taps * LANES :]
        out = panel[a.panel * LANES :]
        places, bases = table[a.taps :], table[a.taps + a.inputs :]
        steps = bases[a.outputs :]
        chunks = (a.images + a.part - 1) // a.part
        q, first = tile // chunks * LANES, tile % chunks * a.part
        rows = min(LANES, a.channels - q)
        bring(w, q * a.taps, a.taps, rows, a.taps, squares, table, weights)
        for i in range(a.panel):
            zero_vector(panel, i * LANES)
        start = load_window(bias, q, 1, 0, rows, 1)
        for image in range(first, min(first + a.part, a.images)):
            plane = image * a.channels + q
            bring(x, plane * a.inputs, a.inputs, rows, a.inputs, squares, places, panel)
            slide(panel, weights, start, bases, steps, a.taps, a.outputs, out)
            take(out, y, plane * a.outputs, a.outputs, rows, a.outputs, squares, a.accumulate, a.low, a.high)

    return conv_depthwise_small


@cache
def make_small_weights(dtype):
    """The weight gradient."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    bring, take = make_turns(LANES)

    @helper
    def collect(panel, grads, bases, steps, taps, outputs, sums):
        """sums[t] += the sum over outputs o of panel[bases[o] + steps[2*t]] * grads[o], three taps at once."""
        t = 0
        while t + 3 <= taps:
            d0, d1, d2 = steps[2 * t], steps[2 * t + 2], steps[2 * t + 4]
            s0, s1 = load_vector(sums, t * LANES), load_vector(sums, (t + 1) * LANES)
            s2 = load_vector(sums, (t + 2) * LANES)
            for o in range(outputs):
                b, g = bases[o], load_vector(grads, o * LANES)
                s0 = fma_vector(load_vector(panel, b + d0), g, s0)
                s1 = fma_vector(load_vector(panel, b + d1), g, s1)
                s2 = fma_vector(load_vector(panel, b + d2), g, s2)
            store_vector(s0, sums, t * LANES)
            store_vector(s1, sums, (t + 1) * LANES)
            store_vector(s2, sums, (t + 2) * LANES)
            t += 3
        while t < taps:
            d0, s0 = steps[2 * t], load_vector(sums, t * LANES)
            for o in range(outputs):
                s0 = fma_vector(load_vector(panel, bases[o] + d0), load_vector(grads, o * LANES), s0)
            store_vector(s0, sums, t * LANES)
            t += 1

    @tile_body(WeightsBlock, dtype)
    def conv_bwd_weights_depthwise_small(block, tile, worker):
        """Tile: LANES channels of all images."""
        a = fields(block)
        x, gy = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND)
        gw, table = array_at(a.gw, a.gw_size, KIND), array_at(a.table, a.table_size, "i8")
        squares = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        sums = squares[2 * LANES * LANES :]
        panel = sums[(a.taps + LANES) * LANES :]
        grads = panel[a.panel * LANES :]
        places, bases = table[a.outputs :], table[a.outputs + a.inputs :]
        steps = bases[a.outputs :]
        q = tile * LANES
        rows = min(LANES, a.channels - q)
        for i in range(a.taps):
            zero_vector(sums, i * LANES)
        for i in range(a.panel):
            zero_vector(panel, i * LANES)
        for image in range(a.images):
            plane = image * a.channels + q
            bring(x, plane * a.inputs, a.inputs, rows, a.inputs, squares, places, panel)
            bring(gy, plane * a.outputs, a.outputs, rows, a.outputs, squares, table, grads)
            collect(panel, grads, bases, steps, a.taps, a.outputs, sums)
        take(sums, gw, q * a.taps, a.taps, rows, a.taps, squares, 0, -np.inf, np.inf)

    return conv_bwd_weights_depthwise_small


# ---- programs

MOST_PLACES = 512  # vectors of a padded map: 32 KB
LEAST_OUTPUTS = 4
TURN_CYCLES = 14  # to turn one vector round, either way
TAP_CYCLES = 1.1  # of one product, its loads included
IMAGE_CYCLES = 300  # to begin and end an image
NANOSECONDS = 0.27


def _axes(spec):
    """For each dimension: input, output, kernel, stride, padding, dilation."""
    return (
        (spec.id, spec.od, spec.kd, spec.sd, spec.pd, spec.dd),
        (spec.ih, spec.oh, spec.kh, spec.sh, spec.ph, spec.dh),
        (spec.iw, spec.ow, spec.kw, spec.sw, spec.pw, spec.dw),
    )


def _forward_axis(size, out, kernel, stride, before, dilation):
    """(size of the padded map, places of the inputs, first places of the outputs, distances of the taps)."""
    padded = max(before + size, (out - 1) * stride + (kernel - 1) * dilation + 1)
    return (
        padded,
        range(before, before + size),
        range(0, out * stride, stride),
        range(0, kernel * dilation, dilation),
    )


def _data_axis(size, out, kernel, stride, before, dilation):
    """The same of the data gradient: gy spread out, under the taps turned round."""
    first, reach = (kernel - 1) * dilation - before, (kernel - 1) * dilation
    padded = max(size + reach, first + (out - 1) * stride + 1)
    return padded, range(first, first + out * stride, stride), range(size), range(reach, -1, -dilation)


def _places(axes, which, LANES):
    """The places of all combinations, in vectors of a padded map."""
    (_, height, width) = (axis[0] for axis in axes)
    parts = (axis[which] for axis in axes)
    return np.array([((d * height + h) * width + w) * LANES for d, h, w in product(*parts)], np.int64)


@lru_cache(maxsize=1024)
def _geometry(spec, backward):
    """(vectors of the padded map; places of what is brought, of outputs, of taps)."""
    axes = tuple((_data_axis if backward else _forward_axis)(*axis) for axis in _axes(spec))
    panel = axes[0][0] * axes[1][0] * axes[2][0]
    return panel, *(_places(axes, which, lanes(spec.dtype)) for which in (1, 2, 3))


def _refusal(spec, backward):
    refusal = depthwise.refusal(spec)
    if refusal:
        return refusal
    if spec.ocg != 1:
        return f"needs one output channel per group, has {spec.ocg}"
    if spec.dtype != "float32":
        return f"is tuned for float32, has {spec.dtype}"
    if spec.g < lanes(spec.dtype) // 2:
        return f"needs {lanes(spec.dtype) // 2} channels, has {spec.g}"
    if backward and any((kernel - 1) * dilation < before for _, _, kernel, _, before, dilation in _axes(spec)):
        return "needs padding within the reach of the kernel"
    outputs = spec.in_pixels if backward else spec.out_pixels
    if outputs < LEAST_OUTPUTS:
        return f"needs {LEAST_OUTPUTS} pixels, has {outputs}"
    sizes = [(_data_axis if backward else _forward_axis)(*axis)[0] for axis in _axes(spec)]
    if sizes[0] * sizes[1] * sizes[2] > MOST_PLACES:
        return f"needs a padded map of at most {MOST_PLACES} pixels, has {'x'.join(map(str, sizes))}"
    return None


@lru_cache(maxsize=1024)
def _cost(spec, backward):
    """Nanoseconds: turning pixels round, and the taps."""
    outputs = spec.in_pixels if backward else spec.out_pixels
    each = TURN_CYCLES * (spec.in_pixels + spec.out_pixels) + TAP_CYCLES * outputs * spec.taps + IMAGE_CYCLES
    return spec.n * split(spec.g, lanes(spec.dtype)) * each * NANOSECONDS * lanes(spec.dtype) / 16


@lru_cache(maxsize=1024)
def _plan(spec, backward):
    """(tiles, numbers, tables, scratch) of the forward pass or the data gradient."""
    LANES, work = lanes(spec.dtype), _cost(spec, backward)
    panel, places, bases, steps = _geometry(spec, backward)
    blocks = split(spec.g, LANES)
    part = rows_per_tile(spec.n, work / (blocks * spec.n), 6000)
    taps = np.arange(spec.taps) * LANES
    numbers = {
        **{"channels": spec.g, "images": spec.n, "part": part, "inputs": len(places), "outputs": len(bases)},
        **{"taps": spec.taps, "panel": panel},
        "table": np.concatenate([taps, places, bases, np.stack([steps, taps], axis=1).ravel()]),
    }
    scratch = (2 * LANES + spec.taps + panel + split(len(bases), LANES) * LANES) * LANES
    return blocks * split(spec.n, part), numbers, scratch


def _emit(spec, backward, arrays, epilogue):
    tiles, numbers, scratch = _plan(spec, backward)
    ends = {"low": epilogue.low, "high": epilogue.high, "accumulate": int(epilogue.accumulate)}
    return (Row(make_small(spec.dtype), tiles, {**numbers, **arrays, **ends}, _cost(spec, backward), scratch),)


@implements("conv.fwd", rank=9)
class ConvForward(Impl):
    name = "conv_fwd_depthwise_small"
    epilogue = True

    @staticmethod
    def when(spec):
        return _refusal(spec, False)

    @staticmethod
    def cost(spec):
        return _cost(spec, False)

    @staticmethod
    def emit(spec, buffers):
        bias = buffers.get("b")
        bias = zeros(spec.oc, spec.dtype) if bias is None else bias
        arrays = {"x": buffers["x"], "w": buffers["w"], "bias": bias, "y": buffers["y"]}
        return _emit(spec, False, arrays, buffers.get("epilogue", NO_EPILOGUE))


@implements("conv.bwd_data", rank=9)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_depthwise_small"

    @staticmethod
    def when(spec):
        return _refusal(spec, True)

    @staticmethod
    def cost(spec):
        return _cost(spec, True)

    @staticmethod
    def emit(spec, buffers):
        bias = zeros(spec.ic, spec.dtype)
        arrays = {"x": buffers["gy"], "w": buffers["w"], "bias": bias, "y": buffers["gx"]}
        return _emit(spec, True, arrays, NO_EPILOGUE)


@implements("conv.bwd_weights", rank=9)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_depthwise_small"

    @staticmethod
    def when(spec):
        return _refusal(spec, False)

    @staticmethod
    def cost(spec):
        return _cost(spec, False)

    @staticmethod
    def emit(spec, buffers):
        LANES = lanes(spec.dtype)
        panel, places, bases, steps = _geometry(spec, False)
        pixels = np.arange(len(bases)) * LANES
        numbers = {
            **{"channels": spec.g, "images": spec.n, "part": 1, "inputs": len(places), "outputs": len(bases)},
            **{"taps": spec.taps, "panel": panel, "accumulate": 0},
            "table": np.concatenate([pixels, places, bases, np.stack([steps, steps], axis=1).ravel()]),
        }
        scratch = (2 * LANES + spec.taps + LANES + panel + len(bases)) * LANES
        arrays = {"x": buffers["x"], "gy": buffers["gy"], "gw": buffers["gw"]}
        tiles = split(spec.g, LANES)
        return (Row(make_small_weights(spec.dtype), tiles, {**numbers, **arrays}, _cost(spec, False), scratch),)
