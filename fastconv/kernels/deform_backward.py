"""Gradients of deformable convolution and aggregation.

With g[p, t, c] the gradient of the sample of pixel p, tap t, channel c (a product of weights and gy; of an aggregation
gy itself), v[e] its four corners and w[e] their weights:

data       gx[corner e, c] += m w[e] g[p, t, c], and, from the four sums d[e] = sum over c of g v[e],
           gmask = sum w[e] d[e],  goffset = m (sum dw[e]/dh d[e], sum dw[e]/dw d[e])
weights    gw[o, t, c] = sum over images and pixels of gy[o, p] sample[p, t, c]
"""

from functools import cache, lru_cache
from itertools import pairwise

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window
from ..simd_vector import fma_vector, splat_vector, store_window, sum_vector
from .deform import (
    GEOMETRY,
    VALUES,
    channels_last,
    layout_row,
    make_locate,
    make_sample,
    register_tile,
)
from .gathers import split, zeros
from .gemm import make_panel_product

PIXELS = 128  # of one step of a tile
BLOCK = 64  # channels of a tile at most

DataBlock = Block(
    "DeformBackwardData",
    {
        **dict.fromkeys(("x", "offset", "mask", "w", "gy", "zeros", "gx", "parts", "scratch")),
        **dict.fromkeys(("taps", "blocks", "steps"), "i8"),
    },
    GEOMETRY + "blocks_count icg oc ocg ic_pitch block_pitch values_at samples_at want_x want_offset",
)


@cache
def make_spread(dtype):
    """What one tap's sample gradients mean for the image, the offsets and the mask."""
    LANES = lanes(dtype)
    ZERO, ONE = np.dtype(dtype).type(0), np.dtype(dtype).type(1)

    @helper
    def load_part(x, i, left):
        """The vector at x[i], zeros beyond `left` values."""
        return load_vector(x, i) if left >= LANES else load_window(x, i, 1, 0, left, 1)

    @helper
    def spread(where, values, count, g, gi, pitch, channels, gx, base):
        """gx[base + corner + c] += weight * g[gi + j*pitch + c] for the four corners of each sample j."""
        for j in range(count):
            for e in range(4):
                at, weight = base + where[4 * j + e], splat_vector(gx, values[8 * j + e])
                for v in range(0, channels, LANES):
                    value = fma_vector(load_vector(g, gi + j * pitch + v), weight, load_vector(gx, at + v))
                    store_window(value, gx, at + v, channels - v)

    @helper
    def slopes(where, values, count, g, gi, pitch, channels, x, base, parts, at, plane):
        """parts[at + k*plane + j]: the gradient of the offset along h (k = 0), along w (1), and of the mask (2)."""
        for j in range(count):
            zero = splat_vector(x, ZERO)
            s0, s1, s2, s3 = zero, zero, zero, zero
            a, b, c, d = where[4 * j], where[4 * j + 1], where[4 * j + 2], where[4 * j + 3]
            for v in range(0, channels, LANES):
                value, left = load_part(g, gi + j * pitch + v, channels - v), channels - v
                s0 = fma_vector(load_part(x, base + a + v, left), value, s0)
                s1 = fma_vector(load_part(x, base + b + v, left), value, s1)
                s2 = fma_vector(load_part(x, base + c + v, left), value, s2)
                s3 = fma_vector(load_part(x, base + d + v, left), value, s3)
            d0, d1, d2, d3 = sum_vector(s0), sum_vector(s1), sum_vector(s2), sum_vector(s3)
            m, fh, fw = values[8 * j + 4], values[8 * j + 5], values[8 * j + 6]
            parts[at + j] = m * ((ONE - fw) * (d2 - d0) + fw * (d3 - d1))
            parts[at + plane + j] = m * ((ONE - fh) * (d1 - d0) + fh * (d3 - d2))
            top, low = (ONE - fw) * d0 + fw * d1, (ONE - fw) * d2 + fw * d3
            parts[at + 2 * plane + j] = (ONE - fh) * top + fh * low

    return spread, slopes


@cache
def make_data(dtype, MR, NR, WEIGHTS):
    """The gradients of image, offset and mask for a register tile of MR pixels x NR vectors of input channels.

    Without WEIGHTS gy is channels-last and is the sample gradient of every tap.
    """
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    locate, (spread, slopes) = make_locate(dtype), make_spread(dtype)
    product = make_panel_product(MR, NR, LANES)

    @tile_body(DataBlock, dtype)
    def deform_bwd_data_channels_last(block, tile, worker):
        """Tile: (image, block of channels): its part of gx, and its share of the offset's and the mask's gradients."""
        a = fields(block)
        x, gx, w = array_at(a.x, a.x_size, KIND), array_at(a.gx, a.gx_size, KIND), array_at(a.w, a.w_size, KIND)
        offset, mask = array_at(a.offset, a.offset_size, KIND), array_at(a.mask, a.mask_size, KIND)
        gy, zeros = array_at(a.gy, a.gy_size, KIND), array_at(a.zeros, a.zeros_size, KIND)
        parts, taps = array_at(a.parts, a.parts_size, KIND), array_at(a.taps, a.taps_size, "i8")
        blocks, steps = array_at(a.blocks, a.blocks_size, "i8"), array_at(a.steps, a.steps_size, "i8")
        memory = a.scratch + worker * a.scratch_size * ITEM
        s, where = array_at(memory, a.scratch_size, KIND), array_at(memory, a.values_at * ITEM // 8, "i8")
        values = s[a.values_at :]
        image, i = tile // a.blocks_count, tile % a.blocks_count
        c0, channels, q, group = blocks[4 * i], blocks[4 * i + 1], blocks[4 * i + 2], blocks[4 * i + 3]
        pixels, base = a.oh * a.ow, image * (a.ih * a.iw + 1) * a.pitch + c0
        chunks = (pixels + PIXELS - 1) // PIXELS
        for chunk in range(chunks):
            p = pixels * chunk // chunks
            count = pixels * (chunk + 1) // chunks - p
            for t in range(a.taps_count):
                locate(a, taps, offset, mask, image, q, t, p, count, where, values)
                if WEIGHTS:
                    columns = (channels + LANES - 1) // LANES * LANES
                    wi = (group * a.taps_count + t) * a.ocg * a.ic_pitch + c0 - group * a.icg
                    product(
                        *(gy, (image * a.oc + group * a.ocg) * pixels + p, 1, count, w, wi, columns, steps, 0, a.ocg),
                        *(s, a.samples_at, a.block_pitch, zeros, 0, False),
                    )
                    g, gi, g_pitch = s, a.samples_at, a.block_pitch
                else:
                    g, gi, g_pitch = gy, (image * pixels + p) * a.pitch + c0, a.pitch
                if a.want_x:
                    spread(where, values, count, g, gi, g_pitch, channels, gx, base)
                if a.want_offset:
                    at = (tile * a.taps_count + t) * 3 * pixels + p
                    slopes(where, values, count, g, gi, g_pitch, channels, x, base, parts, at, pixels)

    return deform_bwd_data_channels_last


WeightsBlock = Block(
    "DeformBackwardWeights",
    {
        **dict.fromkeys(("x", "offset", "mask", "gy", "zeros", "gw", "scratch")),
        **dict.fromkeys(("taps", "blocks", "steps"), "i8"),
    },
    GEOMETRY + "images oc ocg block_pitch values_at samples_at",
)


@cache
def make_weights(dtype, MR, NR):
    """The weight gradient for a register tile of MR output channels x NR vectors of input channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    locate, sample, product = make_locate(dtype), make_sample(LANES), make_panel_product(MR, NR, LANES)

    @tile_body(WeightsBlock, dtype)
    def deform_conv_bwd_weights_channels_last(block, tile, worker):
        """Tile: (block of input channels, tap); sums over images and pixels in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        offset, mask = array_at(a.offset, a.offset_size, KIND), array_at(a.mask, a.mask_size, KIND)
        zeros, taps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.taps, a.taps_size, "i8")
        blocks, steps = array_at(a.blocks, a.blocks_size, "i8"), array_at(a.steps, a.steps_size, "i8")
        memory = a.scratch + worker * a.scratch_size * ITEM
        s, where = array_at(memory, a.scratch_size, KIND), array_at(memory, a.values_at * ITEM // 8, "i8")
        i, t = tile // a.taps_count, tile % a.taps_count
        c0, channels, q, group = blocks[4 * i], blocks[4 * i + 1], blocks[4 * i + 2], blocks[4 * i + 3]
        out = tile * a.ocg * a.block_pitch
        columns = (channels + LANES - 1) // LANES * LANES
        pixels, add = a.oh * a.ow, False
        for image in range(a.images):
            base, gradient = image * (a.ih * a.iw + 1) * a.pitch + c0, (image * a.oc + group * a.ocg) * pixels
            for p in range(0, pixels, PIXELS):
                count = min(PIXELS, pixels - p)
                locate(a, taps, offset, mask, image, q, t, p, count, where, s[a.values_at :])
                sample(
                    *(x, base, where, s[a.values_at :], 0, count, channels, s, a.samples_at, a.block_pitch, False),
                )
                product(
                    *(gy, gradient + p, pixels, a.ocg, s, a.samples_at, columns, steps, 0, count),
                    *(gw, out, a.block_pitch, zeros, 0, add),
                )
                add = True

    return deform_conv_bwd_weights_channels_last


# ---- programs


@lru_cache(maxsize=256)
def _blocks(spec):
    """(table of blocks, length of a block's row, where a group of offsets begins)."""
    LANES = lanes(spec.dtype)
    blocks = spec.blocks(min(BLOCK, split(split(spec.ic, 2), LANES) * LANES))  # two at least: one image, two threads
    groups = np.array([b[2] for b in blocks])
    pitch = split(max(b[1] for b in blocks), LANES) * LANES
    return np.array(blocks, np.int64), pitch, np.searchsorted(groups, np.arange(spec.og))


def _scratch(spec, count):
    """(start of values, start of samples) in the working memory of a tile for `count` pixels."""
    values_at = count * 4 * 8 // np.dtype(spec.dtype).itemsize
    return values_at, values_at + count * VALUES


def _steps(count, left, right):
    return np.stack([np.arange(count) * left, np.arange(count) * right], axis=1).ravel()


def data_rows(spec, last, offset, mask, w, gy, needs):
    """(rows, finish), `last` the channels-last image: finish() gives (gx, goffset, gmask) once the rows have run; None
    where needs[i] is False.
    """
    blocks, pitch, _ = _blocks(spec)
    gx_last = channels_last(spec, zero=True) if needs[0] else None
    want_offset = needs[1] or needs[2]
    share = (spec.n, len(blocks), len(spec.taps), 3, spec.pixels)
    parts = _memory.empty(share if want_offset else (0,), spec.dtype)
    values_at, samples_at = _scratch(spec, PIXELS)
    LANES, ocg, icg = lanes(spec.dtype), spec.oc // spec.g, spec.ic // spec.g
    ic_pitch = split(icg, LANES) * LANES
    rows = []
    if spec.oc:
        packed = np.zeros(spec.g * len(spec.taps) * ocg * ic_pitch + pitch, spec.dtype)
        view = packed[: packed.size - pitch].reshape(spec.g, len(spec.taps), ocg, ic_pitch)
        view[..., :icg] = w.reshape(spec.g, ocg, icg, len(spec.taps)).transpose(0, 3, 1, 2)
        gradient = gy
    else:
        packed = zeros(1, spec.dtype)
        gradient = _memory.empty((spec.n * spec.pixels * spec.pitch + LANES,), spec.dtype)
        rows.append(layout_row(gy, gradient, spec.ic, spec.pixels, 0))
    chunks = split(spec.pixels, PIXELS)
    body = make_data(spec.dtype, *register_tile(spec.pixels // chunks, pitch // LANES), bool(spec.oc))
    values = {
        **{"x": last, "offset": offset, "mask": offset if mask is None else mask, "w": packed, "gy": gradient},
        **{"zeros": zeros(PIXELS, spec.dtype), "gx": packed if gx_last is None else gx_last, "parts": parts},
        **{"taps": spec.tap_table.ravel(), "blocks": blocks.ravel(), "steps": _steps(ocg, spec.pixels, ic_pitch)},
        **spec.numbers(),
        **{
            "blocks_count": len(blocks),
            "icg": icg,
            "oc": spec.oc,
            "ocg": ocg,
            "ic_pitch": ic_pitch,
            "block_pitch": pitch,
        },
        **{"values_at": values_at, "samples_at": samples_at, "want_x": int(needs[0]), "want_offset": int(want_offset)},
    }
    work = DeformBackwardData.cost(spec)
    rows.append(Row(body, spec.n * len(blocks), values, work, samples_at + PIXELS * pitch))
    gx = None
    if gx_last is not None:
        gx = _memory.empty((spec.n, spec.ic, spec.ih, spec.iw), spec.dtype)
        rows.append(layout_row(gx, gx_last, spec.ic, spec.ih * spec.iw, 1, back=True))
    return rows, lambda: (gx, *_offset_gradients(spec, parts, needs))


def _offset_gradients(spec, parts, needs):
    """(goffset, gmask) from the blocks' shares, added in order."""
    if not (needs[1] or needs[2]):
        return None, None
    first = [*_blocks(spec)[2].tolist(), parts.shape[1]]  # blocks of each offset group
    sums = np.stack([parts[:, a:b].sum(1) for a, b in pairwise(first)], 1)  # (n, og, taps, 3, pixels)
    goffset = gmask = None
    if needs[1]:
        goffset = np.ascontiguousarray(sums[:, :, :, :2]).reshape(spec.n, -1, spec.oh, spec.ow)
    if needs[2]:
        gmask = np.ascontiguousarray(sums[:, :, :, 2]).reshape(spec.n, -1, spec.oh, spec.ow)
    return goffset, gmask


def weights_rows(spec, last, offset, mask, gy):
    """(rows, finish), `last` the channels-last image: finish() gives gw (oc, icg, taps) once the rows have run."""
    blocks, pitch, _ = _blocks(spec)
    LANES, ocg, taps = lanes(spec.dtype), spec.oc // spec.g, len(spec.taps)
    gw = _memory.empty((len(blocks), taps, ocg, pitch), spec.dtype)
    values_at, samples_at = _scratch(spec, PIXELS)
    values = {
        **{"x": last, "offset": offset, "mask": offset if mask is None else mask, "gy": gy, "gw": gw},
        **{"zeros": zeros(ocg, spec.dtype), "taps": spec.tap_table.ravel(), "blocks": blocks.ravel()},
        "steps": _steps(PIXELS, 1, pitch),
        **spec.numbers(),
        **{"images": spec.n, "oc": spec.oc, "ocg": ocg},
        **{"block_pitch": pitch, "values_at": values_at, "samples_at": samples_at},
    }
    body = make_weights(spec.dtype, *register_tile(ocg, pitch // LANES))
    row = Row(body, len(blocks) * taps, values, DeformBackwardWeights.cost(spec), samples_at + PIXELS * pitch)

    def finish():
        result = np.empty((spec.oc, spec.ic // spec.g, taps), spec.dtype)
        for (c0, channels, _, group), share in zip(blocks.tolist(), gw, strict=True):
            first = c0 - group * (spec.ic // spec.g)
            out = result[group * ocg : (group + 1) * ocg, first : first + channels]
            out[...] = share[:, :, :channels].transpose(1, 2, 0)
        return result

    return [row], finish


# ---- implementations: buffers are the arguments of the functions above; after the rows have run,
# buffers["finish"]() gives the gradients


@implements("deform_conv.bwd_data", rank=90)
class DeformBackwardData(Impl):
    """The gradients of image, offset and mask."""

    name = "deform_conv_bwd_data_patches"

    @staticmethod
    def cost(spec):
        return spec.n * spec.pixels * len(spec.taps) * spec.ic * (max(spec.oc // spec.g, 1) / 50 + 0.5)

    @staticmethod
    def emit(spec, buffers):
        rows, buffers["finish"] = data_rows(spec, **buffers)
        return rows


@implements("deform_aggregate.bwd_data", rank=90)
class DeformAggregateBackwardData(DeformBackwardData):
    """The same without weights."""

    name = "deform_aggregate_bwd_data_channels_last"


@implements("deform_conv.bwd_weights", rank=90)
class DeformBackwardWeights(Impl):
    """The gradient of the weights."""

    name = "deform_conv_bwd_weights_patches"

    @staticmethod
    def cost(spec):
        return spec.n * spec.pixels * len(spec.taps) * spec.ic * (spec.oc // spec.g / 50 + 0.1)

    @staticmethod
    def emit(spec, buffers):
        rows, buffers["finish"] = weights_rows(spec, **buffers)
        return rows
