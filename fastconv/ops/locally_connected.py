"""Locally connected layer: a convolution whose every output pixel has weights of its own (LeCun 1989, "Generalization
and network design strategies", section 4; Taigman et al. 2014, DeepFace, section 3).

    y[n, o, i, j] = b[o, i, j] + sum over c, p, q of w[o, c, p, q, i, j] x[n, c, i sh + p dh - ph, j sw + q dw - pw]

x (n, ic, ih, iw), w (oc, ic, kh, kw, oh, ow), b (oc, oh, ow); x = 0 outside the image. Weights are read once: a tile
goes through all images with those of one output row. The map is linear in x and in w: it and its two adjoints are a
closed set of ops, so derivatives of any order exist.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from ..autograd import Op, reshape
from ..autograd import sum as sum_over
from ..driver import Row, launch
from ..packing import dense
from ..simd import array_at, fields, lanes, load_window
from ..simd_vector import add_vector, fma_vector, splat_vector, store_window
from ..specs import conv_spec
from .checks import floating, same_dtype

_NUMBERS = "n ic oc ih iw oh ow kh kw sh sw ph pw dh dw"
LocalBlock = Block("LocallyConnectedBlock", "x w b y", _NUMBERS)
LocalWeightsBlock = Block("LocallyConnectedWeightsBlock", "x gy gw", _NUMBERS)
LocalDataBlock = Block("LocallyConnectedDataBlock", "gy w gx", _NUMBERS)


@lru_cache
def make_window(dtype, STEP):
    """STEP: the step along the row, or 0 for any."""

    @helper
    def window(x, row, first, j, a):
        """x[row + (j + lane) sw + first], 0 outside the row's iw columns."""
        start = j * a.sw + first
        low = -(start // a.sw) if start < 0 else 0
        high = -(-(a.iw - start) // a.sw)
        return load_window(x, row + start, a.sw, low, min(high, a.ow - j), STEP)

    return window


@lru_cache
def make_forward(dtype, STEP):
    KIND, LANES, ZERO = dtype.str[1:], lanes(dtype), dtype.type(0)
    window = make_window(dtype, STEP)

    @helper
    def vector(x, w, image, o, i, j, a):
        """One vector of an output row, without the bias."""
        acc = splat_vector(x, ZERO)
        for c in range(a.ic):
            for p in range(a.kh):
                row = i * a.sh + p * a.dh - a.ph
                if 0 <= row < a.ih:
                    for q in range(a.kw):
                        value = window(x, ((image * a.ic + c) * a.ih + row) * a.iw, q * a.dw - a.pw, j, a)
                        at = ((((o * a.ic + c) * a.kh + p) * a.kw + q) * a.oh + i) * a.ow + j
                        acc = fma_vector(value, load_window(w, at, 1, 0, a.ow - j, 1), acc)
        return acc

    @tile_body(LocalBlock, dtype)
    def locally_connected_fwd(block, tile, worker):
        """Tile: (output channel, output row), all images."""
        a = fields(block)
        x, w = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND)
        b, y = array_at(a.b, a.b_size, KIND), array_at(a.y, a.y_size, KIND)
        o, i = tile // a.oh, tile % a.oh
        for image in range(a.n):
            for j in range(0, a.ow, LANES):
                bias = load_window(b, tile * a.ow + j, 1, 0, a.ow - j, 1)
                value = add_vector(vector(x, w, image, o, i, j, a), bias)
                store_window(value, y, ((image * a.oc + o) * a.oh + i) * a.ow + j, a.ow - j)

    return locally_connected_fwd


@lru_cache
def make_backward_weights(dtype, STEP):
    KIND, LANES, ZERO = dtype.str[1:], lanes(dtype), dtype.type(0)
    window = make_window(dtype, STEP)

    @helper
    def vector(x, gy, o, i, c, row, first, j, a):
        """The sum over images for one tap and one vector of an output row."""
        acc = splat_vector(x, ZERO)
        if 0 <= row < a.ih:
            for image in range(a.n):
                value = window(x, ((image * a.ic + c) * a.ih + row) * a.iw, first, j, a)
                slope = load_window(gy, ((image * a.oc + o) * a.oh + i) * a.ow + j, 1, 0, a.ow - j, 1)
                acc = fma_vector(value, slope, acc)
        return acc

    @tile_body(LocalWeightsBlock, dtype)
    def locally_connected_bwd_weights(block, tile, worker):
        """Tile: (output channel, output row), all taps."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        o, i = tile // a.oh, tile % a.oh
        for c in range(a.ic):
            for p in range(a.kh):
                for q in range(a.kw):
                    at = ((((o * a.ic + c) * a.kh + p) * a.kw + q) * a.oh + i) * a.ow
                    for j in range(0, a.ow, LANES):
                        value = vector(x, gy, o, i, c, i * a.sh + p * a.dh - a.ph, q * a.dw - a.pw, j, a)
                        store_window(value, gw, at + j, a.ow - j)

    return locally_connected_bwd_weights


@lru_cache
def make_backward_data(dtype):
    KIND, LANES = dtype.str[1:], lanes(dtype)

    @helper
    def spread(gy, w, gx, slope, weight, target, first, a):
        """gx[target + j sw + first] += gy[slope + j] w[weight + j] for the j that fall into the row."""
        low = -(first // a.sw) if first < 0 else 0
        high = min(a.ow, -(-(a.iw - first) // a.sw))
        if a.sw == 1:
            for j in range(low, high, LANES):
                left, at = high - j, target + j + first
                product = fma_vector(
                    load_window(gy, slope + j, 1, 0, left, 1),
                    load_window(w, weight + j, 1, 0, left, 1),
                    load_window(gx, at, 1, 0, left, 1),
                )
                store_window(product, gx, at, left)
        else:
            for j in range(low, high):
                gx[target + j * a.sw + first] += gy[slope + j] * w[weight + j]

    @tile_body(LocalDataBlock, dtype)
    def locally_connected_bwd_data(block, tile, worker):
        """Tile: (image, input channel, input row)."""
        a = fields(block)
        gy, w, gx = array_at(a.gy, a.gy_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.gx, a.gx_size, KIND)
        image, c, row, target = tile // a.ih // a.ic, tile // a.ih % a.ic, tile % a.ih, tile * a.iw
        gx[target : target + a.iw] = 0
        for p in range(a.kh):
            i = (row + a.ph - p * a.dh) // a.sh
            if 0 <= i < a.oh and i * a.sh == row + a.ph - p * a.dh:
                for o in range(a.oc):
                    slope = ((image * a.oc + o) * a.oh + i) * a.ow
                    for q in range(a.kw):
                        weight = ((((o * a.ic + c) * a.kh + p) * a.kw + q) * a.oh + i) * a.ow
                        spread(gy, w, gx, slope, weight, target, q * a.dw - a.pw, a)

    return locally_connected_bwd_data


def _launch(body, tiles, spec, **arrays):
    values = {name: dense(array) for name, array in arrays.items()}
    values |= {name: getattr(spec, name) for name in _NUMBERS.split()}
    launch(Row(body, tiles, values, spec.flops() * 0.1))


def _step(spec):
    return spec.sw if spec.sw <= 2 else 0


def _weight_shape(spec):
    return (*spec.w_shape, spec.oh, spec.ow)


class LocallyConnected(Op):
    """y from (x, w, b or None)."""

    name = "locally_connected"

    @staticmethod
    def forward(ctx, x, w, b, spec):
        ctx.save(x, w)
        ctx.spec = spec
        y = _memory.empty(spec.y_shape, x.dtype)
        b = np.zeros((spec.oc, spec.oh, spec.ow), x.dtype) if b is None else b
        _launch(make_forward(x.dtype, _step(spec)), spec.oc * spec.oh, spec, x=x, w=w, b=b, y=y)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        gx = LocallyConnectedData.apply(gy, w, ctx.spec) if ctx.needs[0] else None
        gw = LocallyConnectedWeights.apply(x, gy, ctx.spec) if ctx.needs[1] else None
        return gx, gw, sum_over(gy, 0) if ctx.needs[2] else None, None


class LocallyConnectedData(Op):
    """gx from (gy, w)."""

    name = "locally_connected_bwd_data"

    @staticmethod
    def forward(ctx, gy, w, spec):
        ctx.save(gy, w)
        ctx.spec = spec
        gx = _memory.empty(spec.x_shape, gy.dtype)
        _launch(make_backward_data(gy.dtype), spec.n * spec.ic * spec.ih, spec, gy=gy, w=w, gx=gx)
        return gx

    @staticmethod
    def backward(ctx, ggx):
        gy, w = ctx.saved
        g_gy = LocallyConnected.apply(ggx, w, None, ctx.spec) if ctx.needs[0] else None
        gw = LocallyConnectedWeights.apply(ggx, gy, ctx.spec) if ctx.needs[1] else None
        return g_gy, gw, None


class LocallyConnectedWeights(Op):
    """gw from (x, gy)."""

    name = "locally_connected_bwd_weights"

    @staticmethod
    def forward(ctx, x, gy, spec):
        ctx.save(x, gy)
        ctx.spec = spec
        gw = _memory.empty(_weight_shape(spec), x.dtype)
        _launch(make_backward_weights(x.dtype, _step(spec)), spec.oc * spec.oh, spec, x=x, gy=gy, gw=gw)
        return gw

    @staticmethod
    def backward(ctx, ggw):
        x, gy = ctx.saved
        gx = LocallyConnectedData.apply(gy, ggw, ctx.spec) if ctx.needs[0] else None
        g_gy = LocallyConnected.apply(x, ggw, None, ctx.spec) if ctx.needs[1] else None
        return gx, g_gy, None


def locally_connected2d(input, weight, bias=None, stride: Any = 1, padding: Any = 0, dilation: Any = 1):
    """A convolution without shared weights: every output pixel has its own.

    input (n, ic, ih, iw) or (ic, ih, iw), weight (oc, ic, kh, kw, oh, ow), bias (oc, oh, ow) or None; stride, padding
    and dilation as in conv2d. Raises ValueError or TypeError with given and wanted numbers.
    """
    op = "locally_connected2d"
    floating(op, "input", input)
    same_dtype(op, "weight", weight, input)
    same_dtype(op, "bias", bias, input)
    if weight is None or weight.ndim != 6:
        given = "None" if weight is None else tuple(weight.shape)
        raise ValueError(f"{op}: weight must be (oc, ic, kh, kw, oh, ow), given {given}")
    batched = input.shape if input.ndim != 3 else (1, *input.shape)
    spec = conv_spec(op, 2, batched, weight.shape[:4], None, stride, padding, dilation, 1, str(input.dtype))
    if tuple(weight.shape) != _weight_shape(spec):
        raise ValueError(f"{op}: weight must have shape {_weight_shape(spec)}, given {tuple(weight.shape)}")
    wanted = (spec.oc, spec.oh, spec.ow)
    if bias is not None and tuple(bias.shape) != wanted:
        raise ValueError(f"{op}: bias must have shape {wanted}, given {tuple(bias.shape)}")
    out = LocallyConnected.apply(reshape(input, spec.x_shape), weight, bias, spec)
    return out if input.ndim == 4 else out.reshape(spec.y_shape[1:])
