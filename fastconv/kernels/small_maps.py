"""Implicit GEMM for small maps: registers hold output channels instead of pixels.

A 7x7 map leaves a quarter of the lanes idle when lanes are pixels.  Here they are output channels: the weights of a
block of channels are transposed on the way into the first-level cache, every patch value is broadcast, and the tile of
(pixel, channel) sums is turned round when it is stored.  Where a row of the map fills a register tile, the input is
copied once, padding included, and taps are shifted views of the copy; smaller maps are packed tap by tap, so that
pixels of several rows and images share a tile.
"""

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..simd import array_at, fields, isa, lanes, load_vector, load_window, store_vector, transpose_block
from ..simd_math import activation_vector
from ..simd_vector import add_vector, splat_vector, store_window
from .gathers import (
    COPY_NUMBERS,
    GATHER_NUMBERS,
    GATHER_REALS,
    Plan,
    column_step,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    phases_of,
    split,
)
from .gemm import BIAS, make_strip_product
from .patches import make_copy_rows, make_pack_row

SmallBlock = Block(
    "SmallBlock",
    {
        **{"x": None, "w": None, "bias": None, "y": None, "zeros": None, "scratch": None},
        **{"places": "i8", "steps": "i8", "strips": "i8"},  # places: of phases or of taps (see make_pack_images)
    },
    GATHER_NUMBERS
    + COPY_NUMBERS
    + "images chunk_images pixels taps_count image_size panel_size block_channels w_taps part columns rows_blocks",
    GATHER_REALS,
)


@cache
def make_pack_images(STEP, LANES, BY_ROWS):
    """Bringing the channels of a chunk of images to the panel, as padded rows or tap by tap."""
    pack_row, copy_rows = make_pack_row(STEP, LANES), make_copy_rows(STEP, LANES)

    @helper
    def pack_patches(a, x, taps, chunk, images, group, c0, channels, panel):
        """panel[(c, t), image*pixels + p] = the patch value of pixel p."""
        for c in range(channels):
            for t in range(a.taps_count):
                at = (c * a.taps_count + t) * a.copy_pitch
                for i in range(images):
                    plane = ((chunk * a.chunk_images + i) * a.groups + group) * a.channels + c0 + c
                    pack_row(
                        *(a, x, plane * a.xd * a.xh * a.xw, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], 0, 0, 0),
                        *(a.pixels, panel, at + i * a.pixels),
                    )

    @helper
    def copy_images(a, x, phases, chunk, images, group, c0, channels, panel):
        """panel[image, c, phase, r, j]: the padded input, rows and columns split by phase (see copy_rows)."""
        for i in range(images):
            plane = ((chunk * a.chunk_images + i) * a.groups + group) * a.channels + c0
            copy_rows(
                *(a, x, plane * a.xd * a.xh * a.xw, channels, phases, 0, 0, a.copy_rows, 0, a.copy_pitch),
                *(panel, i * a.image_size),
            )

    return copy_images if BY_ROWS else pack_patches


@cache
def make_pack_weights(LANES):
    """Bringing the weights of a block of output channels to the cache, transposed."""

    @helper
    def transpose_run(a, w, first, length, rows, panel, at, square):
        """panel[at + k*columns + m] = w[first + m*w_row + k] for k < length and m < rows, LANES of each at a time.

        A block may write up to LANES rows of the panel, of which later blocks overwrite what is too much; blocks that
        would read beyond the weights go by way of `square`."""
        for m in range(0, rows, LANES):
            height = min(LANES, rows - m)
            for k in range(0, length, LANES):
                source, target = first + m * a.w_row + k, at + k * a.columns + m
                block, start, pitch = w, source, a.w_row
                if height < LANES or source + (LANES - 1) * a.w_row + LANES > a.w_size:
                    count = min(LANES, length - k)
                    for i in range(height):
                        store_vector(load_window(w, source + i * a.w_row, 1, 0, count, 1), square, i * LANES)
                    block, start, pitch = square, 0, LANES
                transpose_block(block, start, pitch, panel, target, a.columns)

    @helper
    def pack_weights(a, w, first, channels, rows, panel, square):
        """panel[(c, t) in the order of the weights, m]: one run where channels follow each other, else one a
        channel."""
        if a.w_channel == a.w_taps:
            transpose_run(a, w, first, channels * a.w_taps, rows, panel, 0, square)
        elif a.w_row == 1:
            for c in range(channels):
                for m in range(0, rows, LANES):
                    row = load_window(w, first + c * a.w_channel + m, 1, 0, min(LANES, rows - m), 1)
                    store_vector(row, panel, c * a.columns + m)
        else:
            for c in range(channels):
                at = c * a.w_taps * a.columns
                transpose_run(a, w, first + c * a.w_channel, a.w_taps, rows, panel, at, square)

    return pack_weights


@helper
def store_transposed(a, c, bias, bias_first, rows, y, yi):
    """y[yi + row*y_plane + place of pixel p] = c[p*part + row] + bias[row] (+ what y holds), clamped."""
    low, high = y.dtype.type(a.low), y.dtype.type(a.high)
    p = 0
    for d in range(a.grid_d):
        for h in range(a.grid_h):
            for w in range(a.grid_w):
                place = yi + d * a.y_d + h * a.y_h + w * a.y_w
                for row in range(rows):
                    value = c[p * a.part + row] + bias[bias_first + row]
                    if a.start != BIAS:
                        value += y[place + row * a.y_plane]
                    value = low if value < low else value
                    y[place + row * a.y_plane] = high if value > high else value
                p += 1


@cache
def make_store(LANES):
    """Storing the sums c[pixel*part + row] of one image, turned round, with what follows them."""

    @helper
    def store_blocks(a, c, bias, bias_first, rows, y, yi, square):
        """The same as `store_transposed` where pixels lie side by side, LANES pixels of LANES rows at a time."""
        low, high = splat_vector(y, y.dtype.type(a.low)), splat_vector(y, y.dtype.type(a.high))
        for m in range(0, rows, LANES):
            for p in range(0, a.pixels, LANES):
                transpose_block(c, p * a.part + m, a.part, square, 0, LANES)
                count = min(LANES, a.pixels - p)
                for i in range(min(LANES, rows - m)):
                    place = yi + (m + i) * a.y_plane + p
                    value = add_vector(load_vector(square, i * LANES), splat_vector(y, bias[bias_first + m + i]))
                    if a.start != BIAS:
                        value = add_vector(value, load_window(y, place, 1, 0, count, 1))
                    store_window(activation_vector(value, low, high, "clip"), y, place, count)

    @helper
    def store(a, c, bias, bias_first, rows, y, yi, square):
        if a.direct:
            store_blocks(a, c, bias, bias_first, rows, y, yi, square)
        else:
            store_transposed(a, c, bias, bias_first, rows, y, yi)

    return store


@cache
def make_small_maps(dtype, MR, NR, STEP, BY_ROWS):
    """The kernel for a register tile of MR pixels and NR vectors of channels, a column step (0: any), and whether the
    tiles follow the rows of the map."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    strip_product, store = make_strip_product(MR, NR, LANES), make_store(LANES)
    pack_images, pack_weights = make_pack_images(STEP, LANES, BY_ROWS), make_pack_weights(LANES)

    @tile_body(SmallBlock, dtype)
    def conv_gather_small_maps(block, tile, worker):
        """Tile: (images of one chunk, group, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, zeros = array_at(a.bias, a.bias_size, KIND), array_at(a.zeros, a.zeros_size, KIND)
        places, steps = array_at(a.places, a.places_size, "i8"), array_at(a.steps, a.steps_size, "i8")
        strips = array_at(a.strips, a.strips_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        square, panel = scratch[: LANES * LANES], scratch[LANES * LANES :]
        weights = panel[a.panel_size :]
        c = weights[(a.block_channels * a.w_taps + LANES) * a.columns :]

        part, rest = tile % a.parts, tile // a.parts
        group, chunk = rest % a.groups, rest // a.groups
        images = min(a.chunk_images, a.images - chunk * a.chunk_images)
        first = part * a.part
        rows = min(a.part, a.rows - first)
        pixels = images * a.pixels
        w_first = group * (a.w_size // a.groups) + first * a.w_row
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            pack_images(a, x, places, chunk, images, group, c0, channels, panel)
            last = channels * a.taps_count
            for m in range(0, rows, a.columns):
                width, panel_w, wi = min(a.columns, rows - m), weights, 0
                if a.w_strip:  # they are packed: (group, block of columns, channel and tap, column)
                    block_of = (group * a.rows_blocks + (first + m) // a.columns) * a.w_strip
                    panel_w, wi = w, block_of + c0 * a.w_taps * a.columns
                else:
                    pack_weights(a, w, w_first + m * a.w_row + c0 * a.w_channel, channels, width, weights, square)
                for p in range(0, pixels, MR):
                    top = min(p, pixels - MR)  # the last strip overlaps the one before it and skips its pixels
                    place = strips[p // MR] if BY_ROWS else top
                    strip_product(
                        *(panel, place, 1, panel_w, wi, width, steps, 0, last),
                        *(c, top * a.part + m, a.part, zeros, 0, p - top, c0 > 0),
                    )
        for i in range(images):
            y_first = (((chunk * a.chunk_images + i) * a.groups + group) * a.rows + first) * a.y_plane + a.y_first
            store(a, c[i * a.pixels * a.part :], bias, group * a.rows + first, rows, y, y_first, square)

    return conv_gather_small_maps


# ---- programs

BLOCK_K = 256
MOST_PIXELS = 256  # of all images in a tile
MOST_TAPS = 128
PART = 512  # output channels of a tile at most
LEAST_ROW = 4  # pixels of a row that are a register tile of their own
TRANSPOSE_CYCLES = 120  # of a block of LANES x LANES weights
RUN_CYCLES = 24  # to copy a short run of a row
STORE_NANOSECONDS = 0.5  # to turn round and store a sum
WEIGHT_NANOSECONDS = 0.08  # to bring a weight to the registers, once for each chunk of images


class _Shape(NamedTuple):
    """How a gather is tiled: images in a chunk, whether tiles follow the rows of the map, and the register tile."""

    images: int
    by_rows: bool
    MR: int
    NR: int


def _slowness(height, width):
    """Cycles of a step of a register tile, per product: loads and the latency of additions may be longer than the
    products."""
    return max(height * width, height + width + 2, 8) / (height * width)


def _width(height):
    """Vectors of channels beside `height` pixels: the sums, the vectors and one broadcast must fit the registers."""
    return min(6, (isa.registers - 1 - height % 2) // (height + 1))


@lru_cache(maxsize=1024)
def _shape(gather):
    images = max(1, min(gather.images, MOST_PIXELS // gather.pixels))
    row = gather.grid[2]
    heights = [h for h in range(LEAST_ROW, 15) if row % h == 0 and _width(h)] if gather.grid[0] == 1 else []
    if heights:
        height = min(heights, key=lambda h: _slowness(h, _width(h)))
        return _Shape(images, True, height, _width(height))
    pixels = gather.images % images * gather.pixels or images * gather.pixels  # the last chunk may be the smallest
    heights = [h for h in (1, 2, 4, 7, 8, 14) if h <= pixels and _width(h)]
    height = min(heights, key=lambda h: split(pixels, h) * h * _slowness(h, _width(h)))
    return _Shape(images, False, height, _width(height))


def _weight_taps(gather):
    """Taps that the weights have, of which the gather may use a part."""
    return min(gather.w_row, gather.w_channel)


def _layout(gather, shape, channels):
    """(numbers of the copy, tables, panel size): where the patches of `channels` channels lie and how taps and strips
    find them."""
    phases, phase, row, column, row_first, column_first = phases_of(gather)
    if not shape.by_rows:
        pitch = (split(shape.images * gather.pixels, lanes(gather.dtype)) | 1) * lanes(gather.dtype)
        steps, strips, rows = np.arange(channels * len(gather.taps)) * pitch, np.zeros(1), 0
        image_size, size = 0, steps.size * pitch
    else:
        rows, pitch = gather.grid[1] + int(row.max()), gather.grid[2] + int(column.max())
        channel_size = len(phases) * rows * pitch
        steps = np.arange(channels)[:, None] * channel_size + (phase * rows + row) * pitch + column
        image_size, size = channels * channel_size, shape.images * channels * channel_size
        image, h, w = np.ogrid[: shape.images, : gather.grid[1], : gather.grid[2] : shape.MR]
        strips = image * image_size + h * pitch + w
    numbers = {
        **{"phases_count": len(phases), "row_first": int(row_first), "row_span": int(row.max())},
        **{"column_first": int(column_first), "copy_rows": rows, "copy_pitch": pitch, "image_size": image_size},
    }
    places = np.array(phases, np.int64) if shape.by_rows else np.ascontiguousarray(gather.taps[:, :3])
    tables = {"places": places.ravel(), "strips": np.array(strips, np.int64).ravel()}
    return numbers, tables, steps.ravel(), size + 2 * lanes(gather.dtype)


def gather_plan(gather, threads):
    """The plan of a gather with channels in registers."""
    LANES, shape, w_taps = lanes(gather.dtype), _shape(gather), _weight_taps(gather)
    columns, tiles = shape.NR * LANES, split(gather.images, shape.images) * gather.groups
    most = PART if threads == 1 else min(PART, split(gather.rows, split(2 * threads, tiles)))
    part = split(min(most, gather.rows), columns) * columns
    parts = split(gather.rows, part)
    channels = min(gather.channels, max(1, BLOCK_K // w_taps))
    copy_numbers, tables, patch_steps, panel_size = _layout(gather, shape, channels)
    weight_steps = ((np.arange(channels)[:, None] * w_taps + gather.taps[:, 3]) * columns).ravel()
    numbers = {
        **gather.numbers(),
        **copy_numbers,
        **{"parts": parts, "images": gather.images, "chunk_images": shape.images, "pixels": gather.pixels},
        **{"taps_count": len(gather.taps), "panel_size": panel_size},
        **{"block_channels": channels, "w_taps": w_taps, "part": part, "columns": columns},
        "rows_blocks": split(gather.rows, columns),
    }
    tables |= {
        "steps": np.stack([patch_steps, weight_steps], axis=1).ravel(),
        "zeros": np.zeros(shape.MR, gather.dtype),
    }
    scratch = LANES * LANES + panel_size + (channels * w_taps + LANES) * columns
    scratch += (shape.images * gather.pixels + LANES) * part + columns
    body = make_small_maps(gather.dtype, shape.MR, shape.NR, column_step(gather.step[2]), shape.by_rows)
    return Plan(body, tiles * parts, numbers, tables, gather.work, scratch)


def _refusal(gathers):
    if not gathers:
        return "needs taps that see the image"
    if gathers[0].dtype != "float32":
        return f"is tuned for float32, has {gathers[0].dtype}"
    if max(gather.pixels for gather in gathers) > MOST_PIXELS:
        return f"needs maps of at most {MOST_PIXELS} pixels, has {max(gather.pixels for gather in gathers)}"
    if max(_weight_taps(gather) for gather in gathers) > MOST_TAPS:
        return f"needs at most {MOST_TAPS} taps, has {max(_weight_taps(gather) for gather in gathers)}"
    return None


def _cost(gathers):
    """The multiplications, with the pixels and lanes that register tiles waste, and the copies."""
    total = 0
    for gather in gathers:
        LANES, shape = lanes(gather.dtype), _shape(gather)
        pixels = shape.images * gather.pixels
        waste = split(pixels, shape.MR) * shape.MR / pixels * split(gather.rows, LANES) * LANES / gather.rows
        runs = (gather.grid[1] + 2) / len(gather.taps) if shape.by_rows else gather.grid[0] * gather.grid[1]
        copies = RUN_CYCLES * runs * LANES / (gather.pixels * gather.rows)
        total += gather.work * (waste * _slowness(shape.MR, shape.NR) + copies)
        sums = gather.images * gather.groups * gather.rows
        weights = split(sums, shape.images) * gather.channels * len(gather.taps)
        total += sums * gather.pixels * STORE_NANOSECONDS + weights * WEIGHT_NANOSECONDS
    return total


def _pack_cost(gathers):
    """The transposition of the weights, once for each chunk of images."""
    total = 0
    for gather in gathers:
        LANES, w_taps = lanes(gather.dtype), _weight_taps(gather)
        run = LANES if gather.w_channel == w_taps else min(w_taps, LANES)
        transposed = 4 if gather.w_row == 1 else TRANSPOSE_CYCLES / run
        total += gather.work * transposed / (_shape(gather).images * gather.pixels)
    return total


def _columns(spec):
    """Output channels of a block of the forward pass."""
    return max(_shape(gather).NR for gather in forward_gathers(spec)) * lanes(spec.dtype)  # there is one


def pack_blocks(spec, weight):
    """The weights as (group, block of output channels, channel and tap, output channel of the block), zeros beyond."""
    columns, terms = _columns(spec), spec.icg * spec.taps
    matrix = weight.reshape(spec.g, spec.ocg, terms)
    packed = np.zeros((spec.g, split(spec.ocg, columns), terms, columns), spec.dtype)
    for block in range(packed.shape[1]):
        part = matrix[:, block * columns : (block + 1) * columns]
        packed[:, block, :, : part.shape[1]] = part.transpose(0, 2, 1)
    return packed


@lru_cache(maxsize=1024)
def block_gathers(spec):
    """The gathers of the forward pass on weights from `pack_blocks`."""
    strip = spec.icg * spec.taps * _columns(spec)
    return tuple(replace(gather, w_strip=strip) for gather in forward_gathers(spec))


@implements("conv.fwd", rank=45)
class ConvForward(Impl):
    name = "conv_fwd_small_maps"
    epilogue = True

    @staticmethod
    def when(spec):
        return _refusal(forward_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(forward_gathers(spec))

    @staticmethod
    def layout(spec):
        return _columns(spec)

    @staticmethod
    def pack(spec, weight):
        return pack_blocks(spec, weight)

    @staticmethod
    def pack_cost(spec):
        return _pack_cost(forward_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_forward(gather_plan, spec, buffers, kept=block_gathers)


@implements("conv.bwd_data", rank=45)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_small_maps"

    @staticmethod
    def when(spec):
        return _refusal(data_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(data_gathers(spec)) + _pack_cost(data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_data(gather_plan, spec, buffers)
