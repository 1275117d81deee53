"""The adder layer on packed patches: y[row, p] = bias[row] - sum over k of |w[row, k] - patch[k, p]|, and its gradient.

Both are gathers as in `gathers.py`, with another term in place of the product: forward the distance of weight and
patch, backward clip(w[row, k] - x[row, p], -1, 1) * patch of gy.  Unlike a product, a distance to padding is not zero:
the forward pass keeps the taps that only ever see padding.  Register tiles are smaller than those of products, since a
term needs registers of its own.
"""

from functools import cache, lru_cache

import numpy as np

from .. import driver
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import (
    add_bias,
    add_part,
    array_at,
    fields,
    isa,
    lanes,
    load_vector,
    load_window,
    store_part,
    store_tile,
    store_vector,
    zero_tile,
)
from ..simd_vector import clipped_loop, distance_loop, store_window
from .fill import fill_row
from .gathers import GATHER_NUMBERS, Gather, balanced, column_step, data_gathers, parts_for, split, tap_table, zeros
from .gemm import part_rows
from .implicit_gemm import bits_table, make_pack_tap
from .patches import scatter_rows

_BUFFERS = {"x": None, "w": None, "bias": None, "y": None, "taps": "i8", "steps": "i8", "bits": "i8", "scratch": None}
_NUMBERS = GATHER_NUMBERS.replace("start ", "") + "chunks pixels taps_count pitch block_channels block_taps flat"
ForwardBlock = Block("AdderForward", _BUFFERS, _NUMBERS, "sign")
DataBlock = Block("AdderBackwardData", {**_BUFFERS, "at": None}, _NUMBERS, "minus")


@helper
def run_of_pixels(a, chunk, lanes):
    """(first, number) of the grid points of a chunk: whole vectors but for the last chunk."""
    vectors = (a.pixels + lanes - 1) // lanes
    first = vectors * chunk // a.chunks * lanes
    return first, min(a.pixels, vectors * (chunk + 1) // a.chunks * lanes) - first


@cache
def make_pack_block(STEP, LANES):
    """Packing of the patches of a block of channels and taps."""
    pack_tap = make_pack_tap(STEP, LANES)

    @helper
    def pack_block(a, taps, bits, x, plane, channels, t0, t1, first, count, panel):
        """panel[(c*(t1 - t0) + t - t0)*pitch + j] = patch of channel c, tap t, at `count` points from `first` on."""
        for c in range(channels):
            for t in range(t0, t1):
                at, source = (c * (t1 - t0) + t - t0) * a.pitch, plane + c * a.xd * a.xh * a.xw
                pack_tap(a, x, source, taps, t, bits, first, count, panel, at)

    return pack_block


@cache
def make_distances(MR, NR, LANES):
    """The distances of MR rows of weights at a time to a panel of patches."""

    @helper
    def distances(a, w, wa, rows, panel, bi, columns, steps, first, last, y, yi, bias, oi, add):
        """y[yi + m*y_plane + j] = bias[oi + m] (with `add`: what y holds) + sign * sum of |w - panel|."""
        for m in range(0, rows, MR):
            top = min(m, rows - MR)  # the last strip overlaps the one before it and skips the rows that are done
            for j in range(0, columns, NR * LANES):
                acc, wt, b = zero_tile(w, MR, NR), wa + top * a.w_row, bi + j
                acc = distance_loop(acc, w, wt, a.w_row, panel, b, steps, first, last, a.sign, MR, NR)
                out, skip, left = yi + top * a.y_plane + j, m - top, columns - j
                if add:
                    acc = add_part(acc, y, out, a.y_plane, skip, left, MR, NR)
                else:
                    acc = add_bias(acc, bias, oi + top, MR, NR)
                if skip > 0 or left < NR * LANES:
                    store_part(acc, y, out, a.y_plane, skip, left, MR, NR)
                else:
                    store_tile(acc, y, out, a.y_plane, MR, NR)

    return distances


@cache
def make_forward(dtype, MR, NR, STEP):
    """The forward pass for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    distances, pack_block = make_distances(MR, NR, LANES), make_pack_block(STEP, LANES)

    @tile_body(ForwardBlock, dtype)
    def adder_fwd_patches(block, tile, worker):
        """Tile: (image, group, run of pixels, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, taps = array_at(a.bias, a.bias_size, KIND), array_at(a.taps, a.taps_size, "i8")
        steps, bits = array_at(a.steps, a.steps_size, "i8"), array_at(a.bits, a.bits_size, "i8")
        panel = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        part, chunk, image_group = tile % a.parts, tile // a.parts % a.chunks, tile // (a.parts * a.chunks)
        group = image_group % a.groups
        p, count = run_of_pixels(a, chunk, LANES)
        row, rows = part_rows(a, part, MR)
        w_first = group * (a.w_size // a.groups) + row * a.w_row
        y_first = (image_group * a.rows + row) * a.y_plane + p
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            plane = (image_group * a.channels + c0) * a.xd * a.xh * a.xw
            for t0 in range(0, a.taps_count, a.block_taps):
                t1 = min(t0 + a.block_taps, a.taps_count)
                pack_block(a, taps, bits, x, plane, channels, t0, t1, p, count, panel)
                last = t0 + channels * (t1 - t0)
                distances(
                    *(a, w, w_first + c0 * a.w_channel, rows, panel, -t0 * a.pitch, count, steps, t0, last),
                    *(y, y_first, bias, group * a.rows + row, c0 + t0 > 0),
                )

    return adder_fwd_patches


@cache
def make_points(LANES):
    """(collect, spread): the values of an image at grid points, to and from rows side by side."""

    @helper
    def collect_rows(a, x, xi, rows, first, count, c):
        """c[row*pitch + i] = x[xi + row*y_plane + place of the grid point], for `count` grid points from `first` on."""
        for row in range(rows):
            base, at, i = xi + row * a.y_plane, row * a.pitch, 0
            d, h, w = first // (a.grid_h * a.grid_w), first // a.grid_w % a.grid_h, first % a.grid_w
            while i < count:
                run = min(a.grid_w - w, count - i)
                place = base + d * a.y_d + h * a.y_h + w * a.y_w
                if a.y_w == 1:
                    for j in range(0, run, LANES):
                        store_vector(load_window(x, place + j, 1, 0, run - j, 1), c, at + i + j)
                else:
                    for j in range(run):
                        c[at + i + j] = x[place + j * a.y_w]
                i, w, h = i + run, 0, h + 1
                if h == a.grid_h:
                    h, d = 0, d + 1

    @helper
    def spread_rows(a, c, rows, first, count, y, yi):
        """The way back."""
        d, h, w = first // (a.grid_h * a.grid_w), first // a.grid_w % a.grid_h, first % a.grid_w
        if a.y_w == 1 and a.grid_d == 1 and a.y_h == a.grid_w:  # one run
            for row in range(rows):
                for j in range(0, count, LANES):
                    value = load_vector(c, row * a.pitch + j)
                    store_window(value, y, yi + row * a.y_plane + first + j, count - j)
        else:
            scatter_rows(a, c, rows, d, h, w, count, y, yi)

    return collect_rows, spread_rows


@cache
def make_clipped(MR, NR, LANES):
    """The input gradient of MR channels at a time."""

    @helper
    def clipped(a, at, w, wa, rows, panel, bi, columns, steps, first, last, out, bias, add):
        """out[m*pitch + j] (+)= sum of clip(w - at[m*pitch + j], -1, 1) * panel[k, j]."""
        for m in range(0, rows, MR):
            top = min(m, rows - MR)
            for j in range(0, columns, NR * LANES):
                acc, here, wt, b = zero_tile(w, MR, NR), top * a.pitch + j, wa + top * a.w_row, bi + j
                acc = clipped_loop(
                    acc, at, here, a.pitch, w, wt, a.w_row, panel, b, steps, first, last, a.minus, MR, NR
                )
                if add:
                    acc = add_part(acc, out, here, a.pitch, m - top, columns - j, MR, NR)
                store_part(acc, out, here, a.pitch, m - top, columns - j, MR, NR)

    return clipped


@cache
def make_data(dtype, MR, NR, STEP):
    """The input gradient for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    clipped, pack_block = make_clipped(MR, NR, LANES), make_pack_block(STEP, LANES)
    collect_rows, spread_rows = make_points(LANES)

    @tile_body(DataBlock, dtype)
    def adder_bwd_data_patches(block, tile, worker):
        """Tile: (image, group, run of input pixels of one residue class, part of the input channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        inputs, taps = array_at(a.at, a.at_size, KIND), array_at(a.taps, a.taps_size, "i8")
        bias, steps = array_at(a.bias, a.bias_size, KIND), array_at(a.steps, a.steps_size, "i8")
        bits = array_at(a.bits, a.bits_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        part, chunk, image_group = tile % a.parts, tile // a.parts % a.chunks, tile // (a.parts * a.chunks)
        p, count = run_of_pixels(a, chunk, LANES)
        row, rows = part_rows(a, part, MR)
        panel_size = a.block_channels * a.block_taps * a.pitch + NR * LANES
        at = scratch[panel_size : panel_size + a.rows * a.pitch + NR * LANES]
        out = scratch[panel_size + a.rows * a.pitch + NR * LANES :]
        w_first = image_group % a.groups * (a.w_size // a.groups) + row * a.w_row
        y_first = (image_group * a.rows + row) * a.y_plane + a.y_first
        collect_rows(a, inputs, y_first, rows, p, count, at)
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            plane = (image_group * a.channels + c0) * a.xd * a.xh * a.xw
            for t0 in range(0, a.taps_count, a.block_taps):
                t1 = min(t0 + a.block_taps, a.taps_count)
                pack_block(a, taps, bits, x, plane, channels, t0, t1, p, count, scratch)
                clipped(
                    *(a, at, w, w_first + c0 * a.w_channel, rows, scratch, -t0 * a.pitch, count),
                    *(steps, t0, t0 + channels * (t1 - t0), out, bias, c0 + t0 > 0),
                )
        spread_rows(a, out, rows, p, count, y, y_first)

    return adder_bwd_data_patches


# ---- programs

BLOCK_K = 128  # terms of one sum, as in convolution
CHUNK_VECTORS = 12
CYCLES = {"fwd": 1.5, "bwd_data": 4.0}  # of a term, next to one for a product


def _tile(rows, wide, narrow):
    """(MR, NR) for many registers or few; MR is at most `rows`."""
    height, width = wide if isa.registers >= 32 else narrow
    return (height, width) if rows >= height else (1, width)


def forward_gather(spec):
    """The forward pass as a gather with all taps, or None where there is no output pixel."""
    axes = [
        [(k, k * dilation - padding) for k in range(kernel)]
        for kernel, padding, dilation in (
            *((spec.kd, spec.pd, spec.dd), (spec.kh, spec.ph, spec.dh), (spec.kw, spec.pw, spec.dw)),
        )
    ]
    return Gather(
        *(spec.dtype, spec.n, spec.g, spec.ocg, spec.icg, (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow)),
        *((spec.sd, spec.sh, spec.sw), tap_table(spec, axes)),
        *(spec.icg * spec.taps, spec.taps, spec.out_pixels, 0, spec.oh * spec.ow, spec.ow, 1),
    )


@lru_cache(maxsize=1024)
def _numbers(gather, MR, threads):
    """(numbers of the block, tables) of a gather."""
    LANES, taps = lanes(gather.dtype), len(gather.taps)
    vectors = split(gather.pixels, LANES)
    chunks = max(1, round(vectors / CHUNK_VECTORS))
    images, block_taps = gather.images * gather.groups, min(taps, BLOCK_K)
    block_channels = min(gather.channels, max(1, BLOCK_K // block_taps))
    pitch = (split(vectors, chunks) | 1) * LANES  # odd: rows then fall on all sets of a cache
    numbers = {
        **gather.numbers(),
        **{"parts": parts_for(gather.rows, MR, images * chunks, threads), "chunks": chunks, "pixels": gather.pixels},
        **{"taps_count": taps, "pitch": pitch, "block_channels": block_channels, "block_taps": block_taps},
    }
    w_steps = (np.arange(block_channels)[:, None] * gather.w_channel + gather.taps[:, 3]).ravel()
    steps = np.stack([w_steps, np.arange(w_steps.size) * pitch], axis=1).ravel()
    tables = {"taps": np.ascontiguousarray(gather.taps[:, :3]).ravel(), "steps": steps}
    return numbers, tables | bits_table(gather.step, gather.source, gather.grid, gather.taps, LANES)


def _row(gather, make, tile, kind, values, copies, **reals):
    """The row of a gather; copies: how many (row, run of pixels) blocks the scratch holds besides the panel."""
    MR, most = tile
    numbers, tables = _numbers(gather, MR, driver.get_num_threads())
    LANES, pitch = lanes(gather.dtype), numbers["pitch"]
    NR = balanced(pitch // LANES, most)
    scratch = numbers["block_channels"] * numbers["block_taps"] * pitch + NR * LANES
    scratch += copies * (gather.rows * pitch + NR * LANES)
    body = make(gather.dtype, MR, NR, column_step(gather.step[2]))
    tiles = gather.images * gather.groups * numbers["chunks"] * numbers["parts"]
    return Row(body, tiles, {**values, **numbers, **tables, **reals}, gather.work * CYCLES[kind], scratch)


@lru_cache(maxsize=1024)
def _forward_gathers(spec):
    gather = forward_gather(spec)
    return (gather,) if 0 not in (gather.images, gather.rows, gather.channels, gather.pixels) else ()


@implements("adder.fwd", rank=50)
class AdderForward(Impl):
    name = "adder_fwd_patches"

    @staticmethod
    def cost(spec):
        return spec.flops() / 100 * CYCLES["fwd"]

    @staticmethod
    def emit(spec, buffers):
        bias = buffers.get("b")
        bias = zeros(spec.oc, spec.dtype) if bias is None else bias
        gathers = _forward_gathers(spec)
        if not gathers:
            return (fill_row(buffers["y"], spec.n * spec.oc, bias),)
        values = {"x": buffers["x"], "w": buffers["w"], "bias": bias, "y": buffers["y"]}
        return tuple(
            _row(gather, make_forward, _tile(gather.rows, (4, 4), (3, 2)), "fwd", values, 0, sign=-1.0)
            for gather in gathers
        )


@implements("adder.bwd_data", rank=50)
class AdderBackwardData(Impl):
    name = "adder_bwd_data_patches"

    @staticmethod
    def cost(spec):
        return spec.flops() / 100 * CYCLES["bwd_data"]

    @staticmethod
    def emit(spec, buffers):
        gathers = data_gathers(spec)
        first = ()
        if len(gathers) < spec.sd * spec.sh * spec.sw:  # some input pixels touch no output
            first = (fill_row(buffers["gx"], spec.n * spec.ic, zeros(spec.ic, spec.dtype)),)
        values = {"x": buffers["gy"], "w": buffers["w"], "at": buffers["x"], "y": buffers["gx"]}
        values["bias"] = zeros(spec.ic, spec.dtype)
        return first + tuple(
            _row(gather, make_data, _tile(gather.rows, (4, 2), (2, 2)), "bwd_data", values, 2, minus=-1.0)
            for gather in gathers
        )
