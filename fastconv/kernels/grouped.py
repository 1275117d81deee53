"""Convolution of few channels at a time, stride 1, with nothing copied: the image as it lies is one flat run of
pixels, a tap is a shift of it, and what a shift brings from beyond the ends of a row is masked.

A register tile is a few output channels by a few vectors of that run.  A mask for each vector and tap, the same for all
channels and images, says which lanes lie inside the image; processors with registers for masks read through them at no
cost.  Where rows of the output are shorter than those of the image, the lanes between them are squeezed out when the
tile is stored.  This is for narrow groups and first layers, where each value read is used a few times only and a
copy costs more than the products.
"""

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..simd import (
    add_bias,
    add_part,
    array_at,
    clamp_tile,
    fields,
    isa,
    lanes,
    prefetch_tile,
    store_part,
    store_tile,
    zero_tile,
)
from ..simd_vector import add_squeezed, masked_fma_loop, store_squeezed
from .gathers import (
    GATHER_NUMBERS,
    GATHER_REALS,
    NANOSECONDS_PER_FLOP,
    Plan,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    parts_for,
    split,
)
from .gemm import BIAS, OLD, part_rows
from .phases import FRAME_NANOSECONDS, frame_row

GroupedBlock = Block(
    "GroupedBlock",
    {
        **{"x": None, "w": None, "bias": None, "y": None},
        **{"masks": "u1", "steps": "i8", "keep": "i8", "places": "i8"},
    },
    GATHER_NUMBERS + "runs vectors block_channels taps_count",
    GATHER_REALS,
)


@cache
def make_masked_product(MR, NR, LANES, SQUEEZE):
    """The product for a register tile of MR rows and NR vectors of a flat run."""
    MASK_BYTES = max(1, LANES // 8)

    @helper
    def masked_product(a, w, wi, x, xi, channels, steps, masks, c, ci, keep, places, v, bias, oi, skip, add, low, high):
        """The sums over all taps and `channels` channels for vectors v .. v+NR-1 of the run, with bias, old value and
        bounds as gemm's `product`; where SQUEEZE, they go to c[ci + m*y_plane + places[v] :] as keep[v] says."""
        c_m, columns = a.y_plane, a.y_plane - v * LANES
        if not SQUEEZE:
            prefetch_tile(c, ci + v * LANES, c_m, MR, NR)
        acc, xi, mask, plane, taps = zero_tile(x, MR, NR), xi + v * LANES, v * MASK_BYTES, a.xh * a.xw, a.taps_count
        acc = masked_fma_loop(
            acc, w, wi, a.w_row, a.w_channel, x, xi, plane, channels, steps, masks, mask, taps, MR, NR
        )
        if not SQUEEZE and add == BIAS and skip == 0 and columns >= NR * LANES:  # as in `gemm.product`
            if low > -np.inf or high < np.inf:
                acc = clamp_tile(add_bias(acc, bias, oi, MR, NR), low, high, MR, NR)
                store_tile(acc, c, ci + v * LANES, c_m, MR, NR)
            else:
                store_tile(add_bias(acc, bias, oi, MR, NR), c, ci + v * LANES, c_m, MR, NR)
            return
        if add != BIAS:
            if SQUEEZE:
                acc = add_squeezed(acc, c, ci, c_m, keep, places, v, MR, NR)
            else:
                acc = add_part(acc, c, ci + v * LANES, c_m, skip, columns, MR, NR)
        if add != OLD:
            acc = add_bias(acc, bias, oi, MR, NR)
        acc = clamp_tile(acc, low, high, MR, NR)
        if SQUEEZE:
            store_squeezed(acc, c, ci, c_m, keep, places, v, skip, MR, NR)
        elif skip == 0 and columns >= NR * LANES:
            store_tile(acc, c, ci + v * LANES, c_m, MR, NR)
        else:
            store_part(acc, c, ci + v * LANES, c_m, skip, columns, MR, NR)

    return masked_product


@cache
def make_grouped(dtype, MR, NR, SQUEEZE):
    """The kernel for a register tile of MR x NR vectors; SQUEEZE: whether rows of the output are shorter than the
    image's."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    wide, narrow = make_masked_product(MR, NR, LANES, SQUEEZE), make_masked_product(MR, 1, LANES, SQUEEZE)

    @tile_body(GroupedBlock, dtype)
    def conv_gather_grouped(block, tile, worker):
        """Tile: (image, group, run of vectors, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, steps = array_at(a.bias, a.bias_size, KIND), array_at(a.steps, a.steps_size, "i8")
        masks, keep = array_at(a.masks, a.masks_size, "u1"), array_at(a.keep, a.keep_size, "i8")
        places = array_at(a.places, a.places_size, "i8")

        part, rest = tile % a.parts, tile // a.parts
        run, image_group = rest % a.runs, rest // a.runs
        group, tiles, rest = image_group % a.groups, a.vectors // NR, a.vectors % NR if run == a.runs - 1 else 0
        row, rows = part_rows(a, part, MR)
        w_first, bias_first = group * (a.w_size // a.groups), group * a.rows + row
        y_first = (image_group * a.rows + row) * a.y_plane
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            plane = (image_group * a.channels + c0) * a.xh * a.xw
            add = OLD if c0 else a.start
            low, high = (a.low, a.high) if c0 + channels == a.channels else (-np.inf, np.inf)
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips the rows that are done
                top = min(m, rows - MR)
                weight = w_first + c0 * a.w_channel + (row + top) * a.w_row
                v, end, out = tiles * run // a.runs * NR, tiles * (run + 1) // a.runs * NR, y_first + top * a.y_plane
                while v < end + rest:
                    if v < end:
                        wide(
                            *(a, w, weight, x, plane, channels, steps, masks, y, out, keep, places),
                            *(v, bias, bias_first + top, m - top, add, low, high),
                        )
                        v += NR
                    else:
                        narrow(
                            *(a, w, weight, x, plane, channels, steps, masks, y, out, keep, places),
                            *(v, bias, bias_first + top, m - top, add, low, high),
                        )
                        v += 1

    return conv_gather_grouped


# ---- programs

BLOCK_K = 288  # terms of one sum
MASK_BYTES = 1 << 18  # of all masks: a quarter of a second-level cache of 1 MB
RUN_BYTES = 1 << 17  # of the output of one run of vectors and one strip of channels
FEW = 16  # channels
STORE_CYCLES = 3  # to store one vector
SQUEEZE_CYCLES = 3  # to squeeze it
PEAK_SHARE = 0.87  # NANOSECONDS_PER_FLOP includes losses that are counted here one by one
TILES = ((8, 3), (4, 6), (3, 7), (2, 8), (1, 8))


class _Shape(NamedTuple):
    """How a gather is tiled."""

    MR: int
    NR: int
    channels: int  # in a block
    vectors: int  # of the run: register tiles, and single ones where that costs less than one more tile
    squeeze: int


def _tile_cycles(MR, NR, terms, squeeze):
    """Cycles of one register tile: products, loads (most of them cross a cache line) or the wait for four additions;
    its beginning and end."""
    store = STORE_CYCLES + squeeze * SQUEEZE_CYCLES
    return terms * max(MR * NR, MR + 1.6 * NR + 2, 8) + 50 + store * MR * NR


def _run_cycles(MR, NR, vectors, terms, squeeze):
    """Cycles of a run, and its vectors: what is left after the last whole tile is one more tile or single vectors."""
    tiles, rest = divmod(vectors, NR)
    tile, single = _tile_cycles(MR, NR, terms, squeeze), _tile_cycles(MR, 1, terms, squeeze)
    if rest * single > tile:
        tiles, rest = tiles + 1, 0
    return tiles * tile + rest * single, tiles * NR + rest


@lru_cache(maxsize=1024)
def _shape(gather):
    channels = split(gather.channels, split(gather.channels * len(gather.taps), BLOCK_K))
    (_, _, xw), (_, h, w) = gather.source, gather.grid
    vectors, squeeze = split((h - 1) * xw + w, lanes(gather.dtype)), int(w < xw)
    terms = channels * len(gather.taps)

    def cycles(tile):
        height, width = tile
        return split(gather.rows, height) * _run_cycles(height, width, vectors, terms, squeeze)[0]

    MR, NR = min((tile for tile in TILES if tile[0] <= gather.rows), key=cycles)
    return _Shape(MR, NR, channels, _run_cycles(MR, NR, vectors, terms, squeeze)[1], squeeze)


def _bits(inside):
    """(vectors, LANES) of bool as bytes of bits, lane 0 lowest."""
    return np.packbits(inside, axis=-1, bitorder="little")


@lru_cache(maxsize=256)
def _tables(gather):
    """Masks of all taps, lanes that are output pixels, and the place of the first of them, for each vector."""
    shape, LANES = _shape(gather), lanes(gather.dtype)
    (_, xh, xw), (_, grid_h, grid_w) = gather.source, gather.grid
    row, column = np.divmod(np.arange(shape.vectors * LANES), xw)
    inside = (row < grid_h) & (column < grid_w)
    h, w = row + gather.taps[:, 1:2], column + gather.taps[:, 2:3]
    masks = inside & (h >= 0) & (h < xh) & (w >= 0) & (w < xw)
    counts = inside.reshape(-1, LANES)
    keep = (counts.astype(np.int64) << np.arange(LANES)).sum(axis=1)
    places = np.cumsum(counts.sum(axis=1)) - counts.sum(axis=1)
    return _bits(masks.reshape(-1, LANES)).ravel(), keep, places.astype(np.int64)


def gather_plan(gather, threads):
    """The plan of a gather on the image as it lies."""
    LANES, shape, taps = lanes(gather.dtype), _shape(gather), len(gather.taps)
    xw = gather.source[2]
    masks, keep, places = _tables(gather)
    steps = (
        gather.taps[:, 3] * gather.w_step,
        gather.taps[:, 1] * xw + gather.taps[:, 2],
        np.arange(taps) * (masks.size // taps),
    )
    images, tiles = gather.images * gather.groups, shape.vectors // shape.NR
    runs = split(tiles * shape.MR * shape.NR * LANES * np.dtype(gather.dtype).itemsize, RUN_BYTES)
    if threads > 1:
        runs = max(runs, min(split(4 * threads, images), max(1, tiles)))
    parts = parts_for(gather.rows, shape.MR, images * runs, threads)
    numbers = {
        **gather.numbers(),
        **{"parts": parts, "runs": runs, "vectors": shape.vectors, "block_channels": shape.channels},
        "taps_count": taps,
    }
    tables = {"steps": np.stack(steps, axis=1).ravel(), "masks": masks, "keep": keep, "places": places}
    body = make_grouped(gather.dtype, shape.MR, shape.NR, shape.squeeze)
    return Plan(body, images * runs * parts, numbers, tables, gather.work, 0)


def _refusal(gathers):
    if isa.name != "avx512":
        return f"needs registers for masks, {isa.name} has none"
    if not gathers:
        return "needs taps that see the image"
    gather = gathers[0]
    if gather.dtype != "float32":
        return f"is tuned for float32, has {gather.dtype}"
    if len(gathers) > 1 or gather.step != (1, 1, 1) or not gather.contiguous:
        return "needs stride 1"
    if gather.source[0] > 1 or gather.grid[0] > 1:
        return "needs one plane"
    if gather.grid[2] > gather.source[2]:
        return f"needs rows of the output no longer than the image's {gather.source[2]}, has {gather.grid[2]}"
    if min(gather.rows, gather.channels) > FEW:
        return f"needs at most {FEW} channels in or out in a group, has {gather.channels} and {gather.rows}"
    most = max(len(gather.taps) * gather.source[1] * gather.source[2] // 8, len(gather.taps) * (MASK_BYTES // BLOCK_K))
    return f"needs masks of at most {MASK_BYTES} bytes, has {most}" if most > MASK_BYTES else None


def _cost(gathers):
    total = 0
    for gather in gathers:
        shape = _shape(gather)
        terms = shape.channels * len(gather.taps)
        cycles, _ = _run_cycles(shape.MR, shape.NR, shape.vectors, terms, shape.squeeze)
        cycles *= split(gather.rows, shape.MR) * split(gather.channels, shape.channels)
        ns = 2 * lanes(gather.dtype) * NANOSECONDS_PER_FLOP * PEAK_SHARE
        total += gather.images * gather.groups * cycles * ns
    return total


@implements("conv.fwd", rank=31)
class ConvForward(Impl):
    name = "conv_fwd_grouped"
    epilogue = True

    @staticmethod
    def when(spec):
        return _refusal(forward_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(forward_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_forward(gather_plan, spec, buffers)


def _is_framed(spec):
    """Whether rows of the gradient are shorter than the image's: they are copied into rows of the image's length."""
    return spec.ow < spec.iw


@lru_cache(maxsize=1024)
def _data_gathers(spec):
    gathers = data_gathers(spec)
    if not _is_framed(spec):
        return gathers
    return tuple(replace(gather, source=(*gather.source[:2], spec.iw)) for gather in gathers)


@implements("conv.bwd_data", rank=31)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_grouped"

    @staticmethod
    def when(spec):
        return _refusal(_data_gathers(spec))

    @staticmethod
    def cost(spec):
        frame = spec.n * spec.oc * spec.oh * spec.iw * FRAME_NANOSECONDS if _is_framed(spec) else 0
        return frame + _cost(_data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        if not _is_framed(spec):
            return emit_data(gather_plan, spec, buffers)
        frame, gy = frame_row(spec.dtype, spec.n * spec.oc, buffers["gy"], (spec.oh, spec.ow), (spec.oh, spec.iw))
        rows = emit_data(gather_plan, spec, {**buffers, "gy": gy}, _data_gathers)
        return frame, *(row._replace(temporaries=("x",)) for row in rows)
