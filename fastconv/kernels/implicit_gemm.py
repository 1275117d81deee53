"""Convolution as a product with patches that are packed tile by tile: any kernel, stride, dilation, padding and groups.

gather   the forward pass and the data gradient (see gathers.py): patches (channel and tap, pixel), weights as they lie
in memory. weights  gw[row, (c, t)] = sum over images and pixels p of gy[row, p] * x[c, p*step + offset(t)]: patches
transposed, pixels as the inner dimension.

Sums are taken over blocks of at most BLOCK_K terms and the blocks added: the error of long sums shrinks, and the same
terms are added in the same order whatever the thread count.
"""

from functools import cache, lru_cache

import numpy as np

from .. import driver
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, isa, lanes, transpose_block
from .fill import fill_row
from .gathers import (
    GATHER_NUMBERS,
    GATHER_REALS,
    GEOMETRY_NUMBERS,
    NANOSECONDS_PER_FLOP,
    PACK_CYCLES,
    Plan,
    balanced,
    column_step,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    pack_strips,
    packed_gathers,
    parts_for,
    split,
    tap_table,
    zeros,
)
from .gemm import OLD, make_panel_product, make_strip_product, part_rows
from .patches import make_pack_flat, make_pack_row, scatter_rows
from .phases import on_phases, phased, split_row

GatherBlock = Block(
    "GatherBlock",
    {"x": None, "w": None, "bias": None, "y": None, "taps": "i8", "steps": "i8", "bits": "i8", "scratch": None},
    GATHER_NUMBERS + "chunks pixels taps_count pitch block_channels block_taps flat",
    GATHER_REALS,
)
WeightsBlock = Block(
    "WeightsBlock",
    {
        **{"x": None, "gy": None, "gw": None, "zeros": None, "scratch": None},
        **{"taps": "i8", "steps": "i8", "bits": "i8"},
    },
    GEOMETRY_NUMBERS + "pixels taps_count pitch images chunk_pixels k_part k_parts k_pitch flat",
)


@cache
def make_pack_tap(STEP, LANES):
    """Packing of the patch values under one tap."""
    pack_row, pack_flat = make_pack_row(STEP, LANES), make_pack_flat(LANES)

    @helper
    def pack_tap(a, x, plane, taps, t, bits, p, count, panel, row):
        """panel[row : row+count] = the patch values of tap t under the pixels from p on."""
        if a.flat:
            shift = (taps[3 * t] * a.xh + taps[3 * t + 1]) * a.xw + taps[3 * t + 2]
            first = t * ((a.pixels + LANES - 1) // LANES) + p // LANES
            pack_flat(x, plane + shift + p, bits, first, count, panel, row)
        else:
            d, h, w = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
            pack_row(a, x, plane, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], d, h, w, count, panel, row)

    return pack_tap


@cache
def make_gather(dtype, MR, NR, STEP):
    """The gather for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    strip_product, pack_tap = make_strip_product(MR, NR, LANES), make_pack_tap(STEP, LANES)

    @tile_body(GatherBlock, dtype)
    def conv_gather_implicit_gemm(block, tile, worker):
        """Tile: (image, group, run of pixels, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, taps = array_at(a.bias, a.bias_size, KIND), array_at(a.taps, a.taps_size, "i8")
        steps, bits = array_at(a.steps, a.steps_size, "i8"), array_at(a.bits, a.bits_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        part, chunk = tile % a.parts, tile // a.parts % a.chunks
        image_group = tile // (a.parts * a.chunks)
        group = image_group % a.groups
        vectors = (a.pixels + LANES - 1) // LANES
        p = vectors * chunk // a.chunks * LANES
        count = min(a.pixels, vectors * (chunk + 1) // a.chunks * LANES) - p
        d, h, w0 = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
        row, rows = part_rows(a, part, MR)
        x_first = image_group * a.channels * a.xd * a.xh * a.xw
        w_first = group * (a.w_size // a.groups)
        y_first = (image_group * a.rows + row) * a.y_plane + a.y_first
        panel_size = a.block_channels * a.block_taps * a.pitch + LANES
        out, place, out_pitch = (y, y_first + p, a.y_plane) if a.direct else (scratch, panel_size, a.pitch)
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            for t0 in range(0, a.taps_count, a.block_taps):
                t1 = min(t0 + a.block_taps, a.taps_count)
                for c in range(channels):
                    plane = x_first + (c0 + c) * a.xd * a.xh * a.xw
                    for t in range(t0, t1):
                        at = (c * (t1 - t0) + t - t0) * a.pitch
                        pack_tap(a, x, plane, taps, t, bits, p, count, scratch, at)
                wa, last = w_first + c0 * a.w_channel, t0 + channels * (t1 - t0)
                add, ends = OLD if c0 + t0 else a.start, c0 + channels == a.channels and t1 == a.taps_count
                low, high = (a.low, a.high) if ends else (-np.inf, np.inf)
                for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips its rows
                    top = min(m, rows - MR)
                    strip = wa + ((row + m) // MR * a.w_strip if a.w_strip else (row + top) * a.w_row)
                    strip_product(
                        *(w, strip, a.w_row, scratch, -t0 * a.pitch, count, steps, t0, last),
                        *(out, place + top * out_pitch, out_pitch, bias, group * a.rows + row + top, m - top),
                        *(add, low, high),
                    )
        if not a.direct:
            scatter_rows(a, scratch[panel_size:], rows, d, h, w0, count, y, y_first)

    return conv_gather_implicit_gemm


@cache
def make_weights(dtype, MR, NR, STEP):
    """The weight gradient for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    panel_product, pack_tap = make_panel_product(MR, NR, LANES), make_pack_tap(STEP, LANES)

    @helper
    def pack_transposed(a, taps, bits, x, image, k0, count_k, p, count, panel, temporary):
        """panel[p*k_pitch + k] = patch value of pixel p under k = (channel, tap), LANES of k at a time by way of
        `temporary`."""
        row_pitch = a.pitch
        for k in range(0, count_k, LANES):
            for lane in range(min(LANES, count_k - k)):
                c, t = (k0 + k + lane) // a.taps_count, (k0 + k + lane) % a.taps_count
                plane = image + c * a.xd * a.xh * a.xw
                pack_tap(a, x, plane, taps, t, bits, p, count, temporary, lane * row_pitch)
            for i in range(0, count, LANES):
                transpose_block(temporary, i, row_pitch, panel, i * a.k_pitch + k, a.k_pitch)

    @tile_body(WeightsBlock, dtype)
    def conv_bwd_weights_implicit_gemm(block, tile, worker):
        """Tile: (group, part of the (input channel, tap) pairs, part of the output channels); sums over images and
        pixels in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        zeros, taps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.taps, a.taps_size, "i8")
        steps, bits = array_at(a.steps, a.steps_size, "i8"), array_at(a.bits, a.bits_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        panel = scratch[LANES * a.pitch + LANES :]

        part, k_part, group = tile % a.parts, tile // a.parts % a.k_parts, tile // (a.parts * a.k_parts)
        row, rows = part_rows(a, part, MR)
        k_size = a.channels * a.taps_count
        k0 = k_part * a.k_part
        count_k = min(a.k_part, k_size - k0)
        out = (group * a.rows + row) * k_size + k0
        add = False
        for n in range(a.images):
            image = (n * a.groups + group) * a.channels * a.xd * a.xh * a.xw
            gradient = ((n * a.groups + group) * a.rows + row) * a.pixels
            for p in range(0, a.pixels, a.chunk_pixels):
                count = min(a.chunk_pixels, a.pixels - p)
                pack_transposed(a, taps, bits, x, image, k0, count_k, p, count, panel, scratch)
                panel_product(
                    *(gy, gradient + p, a.pixels, rows, panel, 0, count_k, steps, 0, count),
                    *(gw, out, k_size, zeros, row, add),
                )
                add = True

    return conv_bwd_weights_implicit_gemm


# ---- programs

BLOCK_K = 256  # terms of one sum; with 128 the outputs are read and written once more: 3 % slower
CHUNK_VECTORS = 12  # vectors of pixels in a panel
CHUNK_PIXELS = 256  # pixels in a panel of the weight gradient
CHUNK_CYCLES = 12  # to begin and end a register tile of them, next to those of one product
PART_K = 384  # (channel, tap) pairs in a panel of the weight gradient


def _odd(vectors):
    """An odd number of vectors: rows of a panel then fall on all sets of a cache, not on a few."""
    return vectors | 1


def _flattened(gather):
    """Fields for one flat row of pixels, where source and output pixels correspond one to one."""
    same = gather.source == gather.grid and gather.step == (1, 1, 1) and not gather.taps[:, :3].any()
    if not (same and gather.contiguous):
        return {}
    return {"xd": 1, "xh": 1, "xw": gather.pixels, "grid_d": 1, "grid_h": 1, "grid_w": gather.pixels}


FLAT_VECTORS = 5  # of a row: longer ones lose little when they are packed one by one


def _flat_bits(step, source, grid, taps, LANES):
    """For each tap and vector of pixels which lanes lie inside the image, where pixels can be packed across the ends of
    rows; else None."""
    rows_differ = source[1:] != grid[1:]
    if step != (1, 1, 1) or rows_differ or grid[2] >= FLAT_VECTORS * LANES or not taps[:, :3].any():
        return None
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), axis=-1).reshape(1, -1, 3)
    seen = places + taps[:, None, :3]
    inside = ((seen >= 0) & (seen < source)).all(axis=-1)
    inside = np.pad(inside, ((0, 0), (0, -inside.shape[1] % LANES))).reshape(len(taps), -1, LANES)
    return (inside << np.arange(LANES)).sum(axis=-1).ravel()


def bits_table(*geometry):
    """The fields of `_flat_bits` in a kernel's block."""
    bits = _flat_bits(*geometry)
    return {"flat": int(bits is not None), "bits": np.zeros(1, np.int64) if bits is None else bits}


def gather_plan(gather, threads):
    """The plan of a gather by packed patches."""
    LANES = lanes(gather.dtype)
    taps, vectors = len(gather.taps), split(gather.pixels, LANES)
    MR, NR = isa.tile(gather.rows)
    chunks = max(1, round(vectors / CHUNK_VECTORS))
    images = gather.images * gather.groups
    block_taps = min(taps, BLOCK_K)
    block_channels = min(gather.channels, max(1, BLOCK_K // block_taps))
    pitch = _odd(split(vectors, chunks)) * LANES
    numbers = {
        **gather.numbers(),
        **_flattened(gather),
        "parts": parts_for(gather.rows, MR, images * chunks, threads),
        **{"chunks": chunks, "pixels": gather.pixels, "taps_count": taps, "pitch": pitch},
        **{"block_channels": block_channels, "block_taps": block_taps},
    }
    w_steps = (np.arange(block_channels)[:, None] * gather.w_channel + gather.taps[:, 3] * gather.w_step).ravel()
    steps = np.stack([w_steps, np.arange(w_steps.size) * pitch], axis=1).ravel()
    scratch = block_channels * block_taps * pitch + 2 * LANES
    if not gather.contiguous:
        scratch += gather.rows * pitch
    body = make_gather(gather.dtype, MR, balanced(split(vectors, chunks), NR), column_step(gather.step[2]))
    tables = {"taps": np.ascontiguousarray(gather.taps[:, :3]).ravel(), "steps": steps}
    tables |= bits_table(gather.step, gather.source, gather.grid, gather.taps, LANES)
    return Plan(body, images * chunks * numbers["parts"], numbers, tables, gather.work, scratch)


def _cost(gathers):
    """The multiplications, with the lanes that a last vector wastes, and the packing of every patch value."""
    total = 0
    for gather in gathers:
        LANES = lanes(gather.dtype)
        waste = split(gather.pixels, LANES) * LANES / gather.pixels
        single = 2.5 if gather.rows == gather.channels == 1 else 1  # depthwise: measured 2.5 to 8 times as long
        total += single * gather.work * waste * (1 + PACK_CYCLES / gather.rows)
    return total


@lru_cache(maxsize=1024)
def _phased_forward(spec):
    return phased(forward_gathers(spec))


@lru_cache(maxsize=1024)
def _phased_packed(spec):
    return phased(packed_gathers(spec))


@implements("conv.fwd", rank=50)
class ConvForward(Impl):
    name = "conv_fwd_implicit_gemm"
    epilogue = True

    @staticmethod
    def cost(spec):
        return _cost(forward_gathers(spec))

    @staticmethod
    def pack(spec, weight):
        return pack_strips(spec, weight)

    @staticmethod
    def emit(spec, buffers):
        if not _phased_forward(spec):
            return emit_forward(gather_plan, spec, buffers)
        row, phases = split_row(spec, buffers["x"])
        rows = emit_forward(gather_plan, spec, {**buffers, "x": phases}, _phased_forward, _phased_packed)
        return row, *(one._replace(temporaries=("x",)) for one in rows)


@implements("conv.bwd_data", rank=50)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_implicit_gemm"

    @staticmethod
    def cost(spec):
        return _cost(data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_data(gather_plan, spec, buffers)


@lru_cache(maxsize=1024)
def _weights_geometry(spec):
    """(source, step, taps) of the weight gradient's patches, on phases where that pays."""
    axes = [
        [(i, i * dilation - padding) for i in range(kernel)]
        for kernel, padding, dilation in zip(
            (spec.kd, spec.kh, spec.kw), (spec.pd, spec.ph, spec.pw), (spec.dd, spec.dh, spec.dw), strict=True
        )
    ]
    source, step, taps = (spec.id, spec.ih, spec.iw), (spec.sd, spec.sh, spec.sw), tap_table(spec, axes)
    return on_phases(source, (spec.od, spec.oh, spec.ow), step, taps) or (source, step, taps)


@lru_cache(maxsize=1024)
def _weights_plan(spec, threads):
    LANES = lanes(spec.dtype)
    MR, NR = isa.tile(spec.ocg)
    k_size = spec.icg * spec.taps
    k_parts = split(k_size, PART_K)
    if threads > 1:
        k_parts = max(k_parts, min(split(2 * threads, spec.g), split(k_size, 2 * NR * LANES)))
    k_part = split(split(k_size, k_parts), NR * LANES) * NR * LANES
    k_parts = split(k_size, k_part)
    k_vectors = split(min(k_part, k_size), LANES)
    chunk = min(CHUNK_PIXELS, spec.out_pixels)
    pitch, k_pitch = _odd(split(chunk, LANES)) * LANES, _odd(k_vectors) * LANES
    names = ("xd", "xh", "xw", "grid_d", "grid_h", "grid_w", "sd", "sh", "sw")
    source, step, taps = _weights_geometry(spec)
    grid = (spec.od, spec.oh, spec.ow)
    numbers = {
        **dict(zip(names, source + grid + step, strict=True)),
        **{"groups": spec.g, "channels": spec.icg, "rows": spec.ocg, "images": spec.n},
        "parts": parts_for(spec.ocg, MR, spec.g * k_parts, threads),
        **{"pixels": spec.out_pixels, "taps_count": spec.taps, "pitch": pitch, "chunk_pixels": CHUNK_PIXELS},
        **{"k_part": k_part, "k_parts": k_parts, "k_pitch": k_pitch},
    }
    tables = {
        "taps": np.ascontiguousarray(taps[:, :3]).ravel(),
        "steps": np.stack([np.arange(chunk), np.arange(chunk) * k_pitch], axis=1).ravel(),
        **bits_table(step, source, grid, taps, LANES),
    }
    scratch = LANES * pitch + 2 * LANES + split(chunk, LANES) * LANES * k_pitch
    body = make_weights(spec.dtype, MR, balanced(k_vectors, NR), column_step(step[2]))
    tiles = spec.g * k_parts * numbers["parts"]
    return Plan(body, tiles, numbers, tables, spec.flops() * NANOSECONDS_PER_FLOP, scratch)


@implements("conv.bwd_weights", rank=50)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_implicit_gemm"

    @staticmethod
    def cost(spec):
        """The multiplications, packing and transposing every patch value for the rows of one group, and reading and
        writing the sums for each chunk of pixels."""
        chunk = max(1, min(CHUNK_PIXELS, spec.out_pixels))
        return spec.flops() * NANOSECONDS_PER_FLOP * (1 + 4 * PACK_CYCLES / max(1, spec.ocg) + CHUNK_CYCLES / chunk)

    @staticmethod
    def emit(spec, buffers):
        if 0 in (spec.n, spec.out_pixels, spec.ic, spec.oc):
            return (fill_row(buffers["gw"], 1, zeros(1, spec.dtype)),)
        body, tiles, numbers, tables, work, scratch = _weights_plan(spec, driver.get_num_threads())
        values = {"x": buffers["x"], "gy": buffers["gy"], "gw": buffers["gw"], "zeros": zeros(spec.oc, spec.dtype)}
        main = Row(body, tiles, {**values, **tables, **numbers}, work, scratch)
        if _weights_geometry(spec)[1] == (spec.sd, spec.sh, spec.sw):
            return (main,)
        row, main.values["x"] = split_row(spec, buffers["x"])
        return row, main._replace(temporaries=("x",))
