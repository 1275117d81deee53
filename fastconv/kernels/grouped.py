"""Convolution of few channels at a time: narrow groups, first layers.

The rows of the input under a block of output rows are copied once, padding included and split by phase of the stride,
so that every tap is a shifted view of one flat run of pixels which goes on over the ends of rows.  A register tile is
a few output channels by a few vectors of that run; what lies between rows is computed too and squeezed out when the
tile is stored.  Where a row's length fits vectors badly, this wastes less than a tile for each row.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..simd import add_bias, array_at, clamp_tile, fields, fma_loop, isa, lanes, zero_tile
from ..simd_vector import add_squeezed, store_squeezed
from .gathers import (
    COPY_NUMBERS,
    GATHER_NUMBERS,
    GATHER_REALS,
    NANOSECONDS_PER_FLOP,
    Plan,
    column_step,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    parts_for,
    phases_of,
    split,
)
from .gemm import BIAS, OLD, part_rows
from .patches import make_copy_rows

GroupedBlock = Block(
    "GroupedBlock",
    {
        **{"x": None, "w": None, "bias": None, "y": None, "scratch": None},
        **{"phases": "i8", "steps": "i8", "keep": "i8", "places": "i8"},
    },
    GATHER_NUMBERS + COPY_NUMBERS + "row_blocks block_rows block_channels taps_count width vectors",
    GATHER_REALS,
)


@cache
def make_squeezed_product(MR, NR, SQUEEZE):
    """The product for a register tile of MR rows and NR vectors of a flat run."""

    @helper
    def squeezed_product(a, ai, a_m, b, bi, steps, last, c, ci, c_m, keep, places, v, bias, oi, skip, add, low, high):
        """As gemm's `product`; vector v of the run goes to c[ci + m*c_m + places[v] :] as keep[v] says."""
        acc = fma_loop(zero_tile(b, MR, NR), a, ai, a_m, b, bi, steps, 0, last, MR, NR)
        if add != BIAS:
            acc = add_squeezed(acc, c, ci, c_m, keep, places, v, MR, NR)
        if add != OLD:
            acc = add_bias(acc, bias, oi, MR, NR)
        acc = clamp_tile(acc, low, high, MR, NR)
        store_squeezed(acc, c, ci, c_m, keep, places, v, skip, MR, NR, SQUEEZE)

    return squeezed_product


@cache
def make_grouped(dtype, MR, NR, STEP, SQUEEZE):
    """The kernel for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    product, copy_rows = make_squeezed_product(MR, NR, SQUEEZE), make_copy_rows(STEP, LANES)

    @tile_body(GroupedBlock, dtype)
    def conv_gather_grouped(block, tile, worker):
        """Tile: (image, group, plane of the grid, block of its rows, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, steps = array_at(a.bias, a.bias_size, KIND), array_at(a.steps, a.steps_size, "i8")
        phases, keep = array_at(a.phases, a.phases_size, "i8"), array_at(a.keep, a.keep_size, "i8")
        places = array_at(a.places, a.places_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        part, rest = tile % a.parts, tile // a.parts
        row_block, rest = rest % a.row_blocks, rest // a.row_blocks
        d, image_group = rest % a.grid_d, rest // a.grid_d
        group = image_group % a.groups
        h = a.grid_h * row_block // a.row_blocks
        height = a.grid_h * (row_block + 1) // a.row_blocks - h
        table = 0 if height == a.block_rows else a.vectors  # blocks have block_rows rows or one less
        vectors = ((height - 1) * a.copy_pitch + a.grid_w - 1) // LANES + 1
        row, rows = part_rows(a, part, MR)
        w_first, bias_first = group * (a.w_size // a.groups), group * a.rows + row
        y_first = (image_group * a.rows + row) * a.y_plane + (d * a.grid_h + h) * a.grid_w
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            planes = (image_group * a.channels + c0) * a.xd * a.xh * a.xw
            copy_rows(a, x, planes, channels, phases, d, h, height + a.row_span, 0, a.width, scratch, 0)
            wa, last, add = w_first + c0 * a.w_channel, channels * a.taps_count, OLD if c0 else a.start
            low, high = (a.low, a.high) if c0 + channels == a.channels else (-np.inf, np.inf)
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips the rows that are done
                top = min(m, rows - MR)
                for v in range(0, vectors, NR):
                    product(
                        *(w, wa + (row + top) * a.w_row, a.w_row, scratch, v * LANES, steps, last),
                        *(y, y_first + top * a.y_plane, a.y_plane, keep, places, table + v),
                        *(bias, bias_first + top, m - top, add, low, high),
                    )

    return conv_gather_grouped


# ---- programs

BLOCK_K = 288  # terms of one sum
COPY_BYTES = 1 << 18  # of one tile's copy: a quarter of a second-level cache of 1 MB
FEW = 16  # channels
STORE_CYCLES = 5  # to squeeze and store one vector
RUN_CYCLES = 15  # to begin copying a row
COPY_CYCLES = 4  # to copy one vector
PEAK_SHARE = 0.87  # NANOSECONDS_PER_FLOP includes losses that are counted here one by one
SQUEEZE = int(isa.name == "avx512")  # elsewhere rows begin with a vector: squeezing takes an instruction for each lane
TILES = {
    32: ((8, 3), (8, 2), (4, 6), (4, 5), (4, 4), (3, 8), (3, 5), (2, 8), (1, 8)),
    16: ((6, 2), (4, 3), (3, 3), (2, 4), (1, 6)),
}


class _Shape(NamedTuple):
    """How a gather is tiled."""

    MR: int
    NR: int
    channels: int  # in a block
    row_blocks: int
    pitch: int  # of a copied row


def _pitch(gather, columns, first):
    """Length of a copied row: its end may be the next one's beginning where both are padding."""
    LANES, width = lanes(gather.dtype), gather.grid[2] + int(columns.max())
    before, after = max(0, -int(first)), max(0, width + int(first) - gather.source[2])
    pitch = max(gather.grid[2], width - (min(before, after) if gather.step[2] == 1 else 0))
    return pitch if SQUEEZE else split(pitch, LANES) * LANES


def _run_vectors(gather, height, pitch):
    """Vectors of the flat run under `height` output rows."""
    return split((height - 1) * pitch + gather.grid[2], lanes(gather.dtype))


def _tile_cycles(MR, NR, terms):
    """Cycles of one register tile: products, loads (most of them cross a cache line) or the wait for four additions;
    its beginning and end."""
    return terms * max(MR * NR, MR + 1.6 * NR + 2, 8) + 30 + STORE_CYCLES * MR * NR


@lru_cache(maxsize=1024)
def _shape(gather, threads):
    phases, _, rows, columns, _, column_first = phases_of(gather)
    pitch = _pitch(gather, columns, column_first)
    channels = split(gather.channels, split(gather.channels * len(gather.taps), BLOCK_K))
    row_bytes = channels * len(phases) * pitch * np.dtype(gather.dtype).itemsize
    height = max(1, COPY_BYTES // row_bytes - int(rows.max()))
    row_blocks = split(gather.grid[1], height)
    planes = gather.images * gather.groups * gather.grid[0]
    if threads > 1 and planes * row_blocks < 2 * threads:
        row_blocks = min(gather.grid[1], split(2 * threads, planes))
    vectors = _run_vectors(gather, split(gather.grid[1], row_blocks), pitch)
    terms = channels * len(gather.taps)
    tiles = [(MR, NR) for MR, NR in TILES[min(isa.registers, 32)] if gather.rows >= MR]
    MR, NR = min(tiles, key=lambda t: split(gather.rows, t[0]) * split(vectors, t[1]) * _tile_cycles(*t, terms))
    return _Shape(MR, NR, channels, row_blocks, pitch)


def _gaps(gather, height, pitch, count):
    """(bits of the lanes that are output pixels, place of the first of them) for `count` vectors of a run."""
    LANES = lanes(gather.dtype)
    row, column = np.divmod(np.arange(count * LANES), pitch)
    inside = ((column < gather.grid[2]) & (row < height)).reshape(count, LANES)
    places = np.concatenate([[0], np.cumsum(inside.sum(axis=1))[:-1]])
    return (inside << np.arange(LANES)).sum(axis=1).astype(np.int64), places.astype(np.int64)


def gather_plan(gather, threads):
    """The plan of a gather on flat runs."""
    LANES, shape = lanes(gather.dtype), _shape(gather, threads)
    phases, phase, row, column, row_first, column_first = phases_of(gather)
    height, width = split(gather.grid[1], shape.row_blocks), gather.grid[2] + int(column.max())
    copy_rows, taps = height + int(row.max()), len(gather.taps)
    channel = np.arange(shape.channels)[:, None]
    plane = copy_rows * shape.pitch
    w_steps = channel * gather.w_channel + gather.taps[:, 3] * gather.w_step
    x_steps = channel * (len(phases) * plane) + phase * plane + row * shape.pitch + column
    count = split(_run_vectors(gather, height, shape.pitch), shape.NR) * shape.NR
    gaps = [_gaps(gather, rows, shape.pitch, count) for rows in (height, height - 1)]
    parts = parts_for(
        *(gather.rows, shape.MR, gather.images * gather.groups * gather.grid[0] * shape.row_blocks, threads)
    )
    numbers = {
        **gather.numbers(),
        **{"parts": parts, "row_blocks": shape.row_blocks, "block_rows": height, "block_channels": shape.channels},
        **{"taps_count": taps, "phases_count": len(phases), "row_first": int(row_first), "row_span": int(row.max())},
        **{"column_first": int(column_first), "copy_rows": copy_rows, "copy_pitch": shape.pitch},
        **{"width": width, "vectors": count},
    }
    tables = {
        "phases": np.array(phases, np.int64).ravel(),
        "steps": np.stack([w_steps.ravel(), x_steps.ravel()], axis=1).ravel(),
        "keep": np.concatenate([keep for keep, _ in gaps]),
        "places": np.concatenate([places for _, places in gaps]),
    }
    scratch = shape.channels * len(phases) * plane + width + (shape.NR + 2) * LANES
    body = make_grouped(gather.dtype, shape.MR, shape.NR, column_step(gather.step[2]), SQUEEZE)
    tiles = gather.images * gather.groups * gather.grid[0] * shape.row_blocks * parts
    return Plan(body, tiles, numbers, tables, gather.work, scratch)


def _refusal(gathers):
    if not gathers:
        return "needs taps that see the image"
    if gathers[0].dtype != "float32":
        return f"is tuned for float32, has {gathers[0].dtype}"
    if not all(gather.contiguous for gather in gathers):
        return "needs output pixels side by side"
    rows, channels = gathers[0].rows, gathers[0].channels
    if min(rows, channels) > FEW:
        return f"needs at most {FEW} channels in or out in a group, has {channels} and {rows}"
    if len(gathers[0].taps) > BLOCK_K:
        return f"needs at most {BLOCK_K} taps, has {len(gathers[0].taps)}"
    return None


def _cost(gathers):
    """Register tiles with the lanes that they waste, and the copies."""
    total = 0
    for gather in gathers:
        LANES, shape = lanes(gather.dtype), _shape(gather, 1)
        phases, _, rows, columns, _, _ = phases_of(gather)
        height = split(gather.grid[1], shape.row_blocks)
        tiles = split(gather.rows, shape.MR) * split(_run_vectors(gather, height, shape.pitch), shape.NR)
        blocks, terms = split(gather.channels, shape.channels), shape.channels * len(gather.taps)
        runs = gather.channels * len(phases) * (height + int(rows.max()))
        copies = runs * (RUN_CYCLES + COPY_CYCLES * split(gather.grid[2] + int(columns.max()), LANES))
        cycles = tiles * blocks * _tile_cycles(shape.MR, shape.NR, terms) + copies
        cycles *= gather.images * gather.groups * gather.grid[0] * shape.row_blocks
        total += cycles * 2 * LANES * NANOSECONDS_PER_FLOP * PEAK_SHARE
    return total


@implements("conv.fwd", rank=32)
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


@implements("conv.bwd_data", rank=32)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_grouped"

    @staticmethod
    def when(spec):
        return _refusal(data_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_data(gather_plan, spec, buffers)
