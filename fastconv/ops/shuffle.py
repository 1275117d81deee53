"""Values moved between channels and pixels, or among channels: each shuffle's gradient is its inverse.

pixel_shuffle     y[c, h*r + i, w*r + j] = x[(c*r + i)*r + j, h, w]   (Shi et al., arXiv 1609.05158)
pixel_unshuffle   its inverse
channel_shuffle   y[k*groups + g] = x[g*(c/groups) + k]               (ShuffleNet, arXiv 1707.01083)
channel_split     the channels in parts                               (ShuffleNet v2, arXiv 1807.11164)
"""

from functools import cache
from math import prod
from numbers import Integral

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from ..autograd import Op, split
from ..driver import Row
from ..packing import dense
from ..prepared import run_rows
from ..simd import array_at, fields
from . import checks
from .recall import recalled

ShuffleBlock = Block("PixelShuffle", "deep wide", "h w factor rows part to_wide")


@helper
def interleave(a, deep, wide, at, source):
    """wide[at + w*factor + j] = deep[source + j*h*w + w] for all j and w, or the other way round."""
    for j in range(a.factor):
        plane, first = deep[source + j * a.h * a.w : source + j * a.h * a.w + a.w], wide[at + j :]
        if a.to_wide and a.factor == 2:
            for w in range(a.w):
                first[np.uintp(2 * w)] = plane[w]
        elif a.to_wide:
            for w in range(a.w):
                first[np.uintp(w * a.factor)] = plane[w]
        else:
            for w in range(a.w):
                plane[w] = first[np.uintp(w * a.factor)]


@cache
def make_shuffle(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(ShuffleBlock, dtype)
    def pixel_shuffle(block, tile, worker):
        """deep (planes, factor, factor, h, w), wide (planes, h, factor, w, factor).

        Tile: `part` rows (plane, h, i).
        """
        a = fields(block)
        deep, wide = array_at(a.deep, a.deep_size, KIND), array_at(a.wide, a.wide_size, KIND)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            i, h, plane = r % a.factor, r // a.factor % a.h, r // (a.factor * a.h)
            source = ((plane * a.factor + i) * a.factor * a.h + h) * a.w
            interleave(a, deep, wide, r * a.w * a.factor, source)

    return pixel_shuffle


def _rows(deep, wide, factor, h, w, to_wide):
    rows, row_work = prod(wide.shape[:-1]), 20 + 0.5 * w * factor
    part = max(1, min(rows, int(20_000 / row_work)))
    numbers = {"h": h, "w": w, "factor": factor, "rows": rows, "part": part, "to_wide": to_wide}
    values = {"deep": deep, "wide": wide, **numbers}
    return (Row(make_shuffle(deep.dtype.name), -(-rows // part), values, rows * row_work),)


class PixelShuffle(Op):
    name = "pixel_shuffle"

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        (c, h, w), lead = x.shape[-3:], x.shape[:-3]
        shape = (*lead, c // factor**2, h * factor, w * factor)
        if x.dtype not in (np.float32, np.float64):
            deep = x.reshape(*lead, c // factor**2, factor, factor, h, w)
            n = deep.ndim
            return deep.transpose(*range(n - 4), n - 2, n - 4, n - 1, n - 3).reshape(shape)
        y = _memory.empty(shape, x.dtype)
        run_rows(_rows, (dense(x), y), factor, h, w, 1)
        return y

    @staticmethod
    def backward(ctx, g):
        return PixelUnshuffle.apply(g, ctx.factor), None


class PixelUnshuffle(Op):
    name = "pixel_unshuffle"

    @staticmethod
    def forward(ctx, y, factor):
        ctx.factor = factor
        (c, h, w), lead = y.shape[-3:], y.shape[:-3]
        h, w = h // factor, w // factor
        shape = (*lead, c * factor**2, h, w)
        if y.dtype not in (np.float32, np.float64):
            wide = y.reshape(*lead, c, h, factor, w, factor)
            n = wide.ndim
            return wide.transpose(*range(n - 4), n - 3, n - 1, n - 4, n - 2).reshape(shape)
        x = _memory.empty(shape, y.dtype)
        run_rows(_rows, (x, dense(y)), factor, h, w, 0)
        return x

    @staticmethod
    def backward(ctx, g):
        return PixelShuffle.apply(g, ctx.factor), None


class ChannelShuffle(Op):
    name = "channel_shuffle"

    @staticmethod
    def forward(ctx, x, axis, groups):
        channels = x.shape[axis]
        ctx.args = axis, channels // max(1, groups)
        split_shape = (*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :])
        return np.ascontiguousarray(x.reshape(split_shape).swapaxes(axis, axis + 1)).reshape(x.shape)

    @staticmethod
    def backward(ctx, g):
        axis, groups = ctx.args
        return (ChannelShuffle.apply(g, axis, groups) if groups else g), None, None


# ---- public functions


def _whole(op, name, value):
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{op}: {name} must be a whole number, given {value!r}")
    if value < 1:
        raise ValueError(f"{op}: {name} must be at least 1, given {value}")
    return int(value)


def _check_image(op, x):
    x = checks.array(op, "input", x)
    if x.ndim < 3:
        raise ValueError(f"{op}: input must have shape (..., c, h, w), given {x.shape}")
    return x


@recalled
def pixel_shuffle(input, upscale_factor):
    """input (..., c*r*r, h, w) -> (..., c, h*r, w*r) for upscale_factor r."""
    input = _check_image("pixel_shuffle", input)
    r = _whole("pixel_shuffle", "upscale_factor", upscale_factor)
    if input.shape[-3] % r**2:
        raise ValueError(
            f"pixel_shuffle: {input.shape[-3]} channels can't be split by upscale_factor {r} squared; "
            f"input {input.shape}"
        )
    return PixelShuffle.apply(input, r)


@recalled
def pixel_unshuffle(input, downscale_factor):
    """input (..., c, h*r, w*r) -> (..., c*r*r, h, w) for downscale_factor r."""
    input = _check_image("pixel_unshuffle", input)
    r = _whole("pixel_unshuffle", "downscale_factor", downscale_factor)
    if input.shape[-2] % r or input.shape[-1] % r:
        raise ValueError(
            f"pixel_unshuffle: height {input.shape[-2]} and width {input.shape[-1]} must be multiples of "
            f"downscale_factor {r}; input {input.shape}"
        )
    return PixelUnshuffle.apply(input, r)


def channel_shuffle(input, groups):
    """input (n, c, *) -> the same shape; with channels as (groups, c/groups), the two transposed."""
    input = checks.array("channel_shuffle", "input", input)
    if input.ndim < 3:
        raise ValueError(f"channel_shuffle: input must have more than 2 dimensions, given {input.shape}")
    groups = _whole("channel_shuffle", "groups", groups)
    if input.shape[1] % groups:
        raise ValueError(f"channel_shuffle: {input.shape[1]} channels can't be split into {groups} groups")
    return ChannelShuffle.apply(input, 1, groups)


def channel_split(input, parts=2):
    """input (n, c, *) -> a tuple with some of the channels each: equal `parts`, or a list of channel counts."""
    input = checks.array("channel_split", "input", input)
    if input.ndim < 2:
        raise ValueError(f"channel_split: input must have shape (n, c, ...), given {input.shape}")
    channels = input.shape[1]
    if isinstance(parts, (tuple, list)):
        if any(isinstance(p, bool) or not isinstance(p, Integral) or p < 0 for p in parts) or sum(parts) != channels:
            raise ValueError(f"channel_split: channel counts must add up to {channels}, given {parts!r}")
        return split(input, list(parts), 1)
    parts = _whole("channel_split", "parts", parts)
    if channels % parts or not channels:
        raise ValueError(f"channel_split: {channels} channels can't be split into {parts} equal parts")
    return split(input, channels // parts, 1)
