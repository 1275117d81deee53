"""Convolution of images that are small next to what their kernel spans, such as those of dilated kernels: no tap is
computed where it sees padding alone.

The outputs fall into regions, blocks of pixels under which the same taps see the image: with a dilation of 12 and 16x16
pixels a 3x3 kernel has nine taps, of which four see anything under a pixel in a corner, two at an edge, one in the
middle.  Each region is a product of its own, over its own taps; the weights of a strip of output channels are read once
for all of them.
"""

from functools import cache, lru_cache
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..simd import add_part, array_at, clamp_tile, fields, isa, lanes, load_tile, store_part
from .gathers import (
    NANOSECONDS_PER_FLOP,
    PACK_CYCLES,
    Plan,
    column_step,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    pack_strips,
    split,
)
from .gemm import BIAS, OLD, make_strip_product, part_rows
from .patches import make_copy_run

RegionsBlock = Block(
    "RegionsBlock",
    {"x": None, "w": None, "bias": None, "y": None, "regions": "i8", "taps": "i8", "steps": "i8", "scratch": None},
    "xd xh xw sd sh sw groups rows channels parts w_row w_channel w_strip y_plane y_first y_d y_h start "
    "block_channels out_pitch panel_size",
    "low high",
)
BLOCK_K = 256  # terms of one sum
SHARE = 0.8  # of the products, at most, that are not with padding
PENALTY = 1.1  # of short products, next to those of whole rows
# the numbers of a region: its first pixel and its size (d, h, w); its first tap and their number; elements of a row of
# its panel; where its panel, its results and its steps begin
REGION = 12


class Region(NamedTuple):
    """first, size: (d, h, w) of a block of grid points; taps: those rows of a gather's table that see the image."""

    first: tuple
    size: tuple
    taps: np.ndarray

    def vectors(self, LANES):
        """Vectors that its pixels fill."""
        return split(int(np.prod(self.size)), LANES)


def _seeing(gather):
    """(first, end) of the grid indices under which each tap sees the image, along each axis: arrays (taps, 3)."""
    offsets, step = gather.taps[:, :3], np.array(gather.step)
    first, end = (-(-(bound - offsets) // step) for bound in (0, np.array(gather.source)))
    return np.maximum(first, 0), np.minimum(end, gather.grid)


def regions_of(gather):
    """The regions of a gather's grid; where no tap sees the image there is one without taps."""
    first, end = _seeing(gather)
    cuts = [sorted({0, n, *first[:, i], *end[:, i]}) for i, n in enumerate(gather.grid)]
    found = []
    for run in product(*(pairwise(cut) for cut in cuts)):
        begin, stop = (tuple(map(int, side)) for side in zip(*run, strict=True))
        seen = ((first <= begin) & (end >= stop)).all(axis=1)
        found.append(Region(begin, tuple(np.subtract(stop, begin).tolist()), gather.taps[seen]))
    return found


@cache
def make_pack(STEP, LANES):
    """Packing of the values under a region for column step STEP (0: any)."""
    copy_run = make_copy_run(STEP, LANES)

    @helper
    def pack(a, region, taps, x, plane, channels, scratch):
        """The values under all taps of a region, as [channel, tap, pixel]: all of them lie inside the image."""
        at = region[9]
        for c in range(channels):
            image = plane + c * a.xd * a.xh * a.xw
            for t in range(region[6], region[6] + region[7]):
                place, w = at, region[2] * a.sw + taps[3 * t + 2]
                for d in range(region[0], region[0] + region[3]):
                    for h in range(region[1], region[1] + region[4]):
                        row = ((d * a.sd + taps[3 * t]) * a.xh + h * a.sh + taps[3 * t + 1]) * a.xw
                        copy_run(x, image + row + w, a.sw, 0, region[5], region[5], scratch, place)
                        place += region[5]
                at += region[8]

    return pack


@cache
def make_lay_down(LANES):
    """Writing of a region's results."""

    @helper
    def lay_down(a, region, c, ci, y, yi, accumulate, low, high):
        """The sums of a region, which lie side by side, to their rows of the output."""
        for d in range(region[0], region[0] + region[3]):
            for h in range(region[1], region[1] + region[4]):
                place = yi + d * a.y_d + h * a.y_h + region[2]
                for v in range(0, region[5], LANES):
                    count = min(LANES, region[5] - v)
                    value = load_tile(c, ci + v, 0, 1, 1)
                    if accumulate:
                        value = add_part(value, y, place + v, 0, 0, count, 1, 1)
                    store_part(clamp_tile(value, low, high, 1, 1), y, place + v, 0, 0, count, 1, 1)
                ci += region[5]

    return lay_down


@cache
def make_regions(dtype, MR, NR, STEP):
    """The kernel for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    strip_product, pack, lay_down = make_strip_product(MR, NR, LANES), make_pack(STEP, LANES), make_lay_down(LANES)

    @tile_body(RegionsBlock, dtype)
    def conv_regions(block, tile, worker):
        """Tile: (image, group, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, taps = array_at(a.bias, a.bias_size, KIND), array_at(a.taps, a.taps_size, "i8")
        regions, steps = array_at(a.regions, a.regions_size, "i8"), array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        image_group = tile // a.parts
        group = image_group % a.groups
        row, rows = part_rows(a, tile % a.parts, MR)
        x_first = image_group * a.channels * a.xd * a.xh * a.xw
        w_first = group * (a.w_size // a.groups)
        for c0 in range(0, a.channels, a.block_channels):
            channels, add = min(a.block_channels, a.channels - c0), OLD if c0 else BIAS
            for r in range(0, a.regions_size, REGION):
                pack(a, regions[r : r + REGION], taps, x, x_first + c0 * a.xd * a.xh * a.xw, channels, scratch)
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips its rows
                top = min(m, rows - MR)
                strip = (row + m) // MR * a.w_strip if a.w_strip else (row + top) * a.w_row
                for r in range(0, a.regions_size, REGION):
                    region = regions[r : r + REGION]
                    strip_product(
                        *(w, w_first + c0 * a.w_channel + strip, a.w_row, scratch, region[9], region[8]),
                        *(steps, region[11], region[11] + channels * region[7]),
                        *(scratch, a.panel_size + top * a.out_pitch + region[10], a.out_pitch),
                        *(bias, group * a.rows + row + top, m - top, add),
                    )
        for m in range(rows):
            yi = (image_group * a.rows + row + m) * a.y_plane + a.y_first
            for r in range(0, a.regions_size, REGION):
                region = regions[r : r + REGION]
                at = a.panel_size + m * a.out_pitch + region[10]
                lay_down(a, region, scratch, at, y, yi, a.start != BIAS, a.low, a.high)

    return conv_regions


def gather_plan(gather, threads):
    """The plan of a gather by regions."""
    LANES, regions = lanes(gather.dtype), regions_of(gather)
    MR, NR = isa.tile(gather.rows)
    NR = min(range(1, NR + 1), key=lambda width: _products(regions, width, LANES))
    block = max(1, min(gather.channels, BLOCK_K // max(len(region.taps) for region in regions)))
    table, taps, steps, panel, out, terms = [], [], [], 0, 0, 0
    for region in regions:
        pitch, count = region.vectors(LANES) * LANES, len(region.taps)
        table += [*region.first, *region.size, len(taps), count, pitch, panel, out, terms]
        taps += region.taps[:, :3].tolist()
        weights = np.arange(block)[:, None] * gather.w_channel + region.taps[:, 3] * gather.w_step
        steps.append(np.stack([weights.ravel(), np.arange(block * count) * pitch], axis=1))
        panel, out, terms = panel + block * count * pitch, out + pitch, terms + block * count
    panel += LANES
    images = gather.images * gather.groups
    numbers = {
        **gather.numbers(),
        "parts": max(1, min(gather.rows // MR, split(threads, images))),  # each packs everything
        **{"block_channels": block, "out_pitch": out, "panel_size": panel},
    }
    tables = {"regions": table, "taps": np.ravel(taps), "steps": np.concatenate(steps).ravel()}
    tables = {name: np.array(values, np.int64) for name, values in tables.items()}
    body = make_regions(gather.dtype, MR, NR, column_step(gather.step[2]))
    scratch = panel + gather.rows * out + LANES
    return Plan(body, images * numbers["parts"], numbers, tables, _cost((gather,)), scratch)


def _products(regions, width, LANES):
    """Cycles of register tiles of so many vectors; those that are left over are computed one at a time."""
    counts = [(region.vectors(LANES), len(region.taps)) for region in regions]
    return sum(taps * (n // width * (width + 0.5) + n % width * 1.8) for n, taps in counts)


@lru_cache(maxsize=1024)
def _vectors(gather):
    """Vectors times taps, over all regions."""
    return sum(region.vectors(lanes(gather.dtype)) * len(region.taps) for region in regions_of(gather))


def _cost(gathers):
    """The multiplications of whole vectors and the packing of every patch value."""
    total = 0
    for gather in gathers:
        terms = 2 * gather.images * gather.groups * gather.rows * gather.channels * lanes(gather.dtype)
        work = terms * _vectors(gather) * NANOSECONDS_PER_FLOP
        total += PENALTY * work * (1 + PACK_CYCLES / gather.rows)
    return total


def _refusal(gathers):
    for gather in gathers:
        if gather.y_w != 1:
            return "needs outputs side by side"
        first, end = _seeing(gather)
        share = (end - first).prod(axis=1).sum() / (len(gather.taps) * gather.pixels)
        if share > SHARE:
            return f"needs a kernel of which {1 - SHARE:.0%} sees padding alone, {1 - share:.0%} does"
        if any(len(region.taps) == 0 for region in regions_of(gather)):
            return "needs a tap that sees the image under every output"
    return None if gathers else "needs an image"


@implements("conv.fwd", rank=45)
class ConvForward(Impl):
    name = "conv_fwd_regions"
    epilogue = True

    @staticmethod
    def when(spec):
        return _refusal(forward_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(forward_gathers(spec))

    @staticmethod
    def pack(spec, weight):
        return pack_strips(spec, weight)

    @staticmethod
    def emit(spec, buffers):
        return emit_forward(gather_plan, spec, buffers)


@implements("conv.bwd_data", rank=45)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_regions"

    @staticmethod
    def when(spec):
        return _refusal(data_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_data(gather_plan, spec, buffers)
