"""Direct convolution on copied rows: each input row is copied once, padding included, and every tap is a shifted view
of the copy.

Where packed patches copy each value once per tap, this copies it once: the choice for few output channels and for wide
images.  With a stride the rows and columns of the copy are split by phase, so that a tap's values lie side by side.
One row of output pixels is one product; a width that fills its last vector badly speaks for packed patches, which run
on over the ends of rows.  Under a kernel one column wide whole planes are rows.
"""

from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..simd import array_at, fields, isa, lanes
from .gathers import (
    COPY_NUMBERS,
    GATHER_NUMBERS,
    GATHER_REALS,
    PACK_CYCLES,
    Plan,
    balanced,
    column_step,
    data_gathers,
    emit_data,
    emit_forward,
    forward_gathers,
    pack_strips,
    parts_for,
    phases_of,
    split,
)
from .gemm import OLD, make_strip_product, part_rows
from .patches import make_copy_rows

DirectBlock = Block(
    "DirectBlock",
    {"x": None, "w": None, "bias": None, "y": None, "phases": "i8", "steps": "i8", "scratch": None},
    GATHER_NUMBERS + COPY_NUMBERS + "row_blocks column_blocks block_channels taps_count out_pitch",
    GATHER_REALS,
)


@helper
def spread_rows(a, c, rows, height, count, y, yi):
    """y[yi + row*y_plane + h*y_h + j*y_w] = c[(h*rows + row)*out_pitch + j]."""
    for h in range(height):
        for row in range(rows):
            place, at = yi + row * a.y_plane + h * a.y_h, (h * rows + row) * a.out_pitch
            for j in range(count):
                y[place + j * a.y_w] = c[at + j]


@cache
def make_direct(dtype, MR, NR, STEP):
    """The kernel for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    strip_product, copy_rows = make_strip_product(MR, NR, LANES), make_copy_rows(STEP, LANES)

    @tile_body(DirectBlock, dtype)
    def conv_gather_direct(block, tile, worker):
        """Tile: (image, group, plane of the grid, block of its rows, block of its columns, part of the output
        channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, steps = array_at(a.bias, a.bias_size, KIND), array_at(a.steps, a.steps_size, "i8")
        phases = array_at(a.phases, a.phases_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        c = scratch[a.block_channels * a.phases_count * a.copy_rows * a.copy_pitch + (NR + 1) * LANES :]

        part, rest = tile % a.parts, tile // a.parts
        column_block, rest = rest % a.column_blocks, rest // a.column_blocks
        row_block, rest = rest % a.row_blocks, rest // a.row_blocks
        d, image_group = rest % a.grid_d, rest // a.grid_d
        group = image_group % a.groups
        h = a.grid_h * row_block // a.row_blocks
        height = a.grid_h * (row_block + 1) // a.row_blocks - h
        vectors = (a.grid_w + LANES - 1) // LANES
        first = vectors * column_block // a.column_blocks * LANES
        count = min(a.grid_w, vectors * (column_block + 1) // a.column_blocks * LANES) - first
        row, rows = part_rows(a, part, MR)
        w_first = group * (a.w_size // a.groups)
        bias_first = group * a.rows + row
        y_first = (image_group * a.rows + row) * a.y_plane + a.y_first + d * a.y_d + h * a.y_h + first * a.y_w
        width = count + a.copy_pitch - a.out_pitch
        out, out_pitch = (y, a.y_plane) if a.direct else (c, a.out_pitch)
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            planes = (image_group * a.channels + c0) * a.xd * a.xh * a.xw
            copy_rows(a, x, planes, channels, phases, d, h, height + a.row_span, first, width, scratch, 0)
            wa, last, add = w_first + c0 * a.w_channel, channels * a.taps_count, OLD if c0 else a.start
            low, high = (a.low, a.high) if c0 + channels == a.channels else (-np.inf, np.inf)
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips the rows that are done
                top = min(m, rows - MR)
                strip = wa + ((row + m) // MR * a.w_strip if a.w_strip else (row + top) * a.w_row)
                for r in range(height):
                    place = y_first + top * a.y_plane + r * a.y_h if a.direct else (r * rows + top) * a.out_pitch
                    strip_product(
                        *(w, strip, a.w_row, scratch, r * a.copy_pitch, count, steps, 0, last),
                        *(out, place, out_pitch, bias, bias_first + top, m - top, add, low, high),
                    )
        if not a.direct:
            spread_rows(a, c, rows, height, count, y, y_first)

    return conv_gather_direct


# ---- programs

BLOCK_K = (
    256  # terms of one sum; neighbouring taps share their lines of the copy, so more of them fit a first-level cache
)
MOST_TAPS = 512
COPY_BYTES = 1 << 18  # of one tile's copy: a quarter of a second-level cache of 1 MB
OUT_BYTES = 1 << 17  # of the rows that a tile keeps until they are spread over a strided output
COLUMN_VECTORS = 64  # vectors of one product row at most
MISALIGNED = 1.64  # cycles of a load that crosses lines, next to one for a multiplication


def _sizes(gather, threads):
    """(block of channels, blocks of rows, blocks of columns, part count) of a gather."""
    LANES, itemsize = lanes(gather.dtype), np.dtype(gather.dtype).itemsize
    phases, _, rows, columns, _, _ = phases_of(gather)
    channels = min(gather.channels, max(1, BLOCK_K // len(gather.taps)))
    column_blocks = split(split(gather.grid[2], LANES), COLUMN_VECTORS)
    width = split(split(gather.grid[2], LANES), column_blocks) * LANES + int(columns.max())
    row_bytes = channels * len(phases) * width * itemsize
    height = max(1, COPY_BYTES // row_bytes - int(rows.max()))
    if not gather.contiguous:
        height = min(height, max(1, OUT_BYTES // (gather.rows * width * itemsize)))
    row_blocks = split(gather.grid[1], height)
    planes = gather.images * gather.groups * gather.grid[0] * column_blocks
    if threads > 1 and planes * row_blocks < 2 * threads:
        row_blocks = min(gather.grid[1], split(2 * threads, planes))
    parts = parts_for(gather.rows, isa.tile(gather.rows)[0], planes * row_blocks, threads)
    return channels, row_blocks, column_blocks, parts


def gather_plan(gather, threads):
    """The plan of a gather by direct products on copied rows."""
    LANES = lanes(gather.dtype)
    MR, NR = isa.tile(gather.rows)
    channels, row_blocks, column_blocks, parts = _sizes(gather, threads)
    phases, phase, row, column, row_first, column_first = phases_of(gather)
    height = split(gather.grid[1], row_blocks)
    out_pitch = split(split(gather.grid[2], LANES), column_blocks) * LANES
    copy_pitch, copy_rows = out_pitch + int(column.max()), height + int(row.max())
    taps = len(gather.taps)
    tap_steps = (phase * copy_rows + row) * copy_pitch + column
    channel = np.arange(channels)[:, None]
    steps = np.stack(
        [
            (channel * gather.w_channel + gather.taps[:, 3] * gather.w_step).ravel(),
            (channel * (len(phases) * copy_rows * copy_pitch) + tap_steps).ravel(),
        ],
        axis=1,
    ).ravel()
    numbers = {
        **gather.numbers(),
        **{"parts": parts, "row_blocks": row_blocks, "column_blocks": column_blocks, "block_channels": channels},
        **{"taps_count": taps, "phases_count": len(phases), "row_first": int(row_first), "row_span": int(row.max())},
        **{"column_first": int(column_first), "copy_rows": copy_rows, "copy_pitch": copy_pitch, "out_pitch": out_pitch},
    }
    NR = balanced(out_pitch // LANES, NR)
    scratch = channels * len(phases) * copy_rows * copy_pitch + (NR + 2) * LANES
    if not gather.contiguous:
        scratch += height * gather.rows * out_pitch
    body = make_direct(gather.dtype, MR, NR, column_step(gather.step[2]))
    tiles = gather.images * gather.groups * gather.grid[0] * row_blocks * column_blocks * parts
    return Plan(
        body, tiles, numbers, {"phases": np.array(phases, np.int64).ravel(), "steps": steps}, gather.work, scratch
    )


def _refusal(gathers):
    if not gathers:
        return "needs taps that see the image"
    if gathers[0].dtype != "float32":
        return f"is tuned for float32, has {gathers[0].dtype}"
    most = max(len(gather.taps) for gather in gathers)
    if most > MOST_TAPS:
        return f"needs at most {MOST_TAPS} taps in a gather, has {most}"
    return None


def _cost(gathers):
    """The multiplications or, in tiles of one row, the loads, with the lanes that each row's last vector wastes; the
    copies, and one call for each row of a register tile: measured on depthwise layers where that row is all it has."""
    total = 0
    for gather in gathers:
        LANES, (MR, NR) = lanes(gather.dtype), isa.tile(gather.rows)
        channels, row_blocks, _, _ = _sizes(gather, 1)
        phases, _, rows, _, _, _ = phases_of(gather)
        height = split(gather.grid[1], row_blocks)
        waste = split(gather.grid[2], LANES) * LANES / gather.grid[2]
        copies = PACK_CYCLES * len(phases) * (1 + int(rows.max()) / height) / (len(gather.taps) * gather.rows)
        terms = min(channels, gather.channels) * len(gather.taps)
        calls = (300 if MR == 1 else 10) / (min(MR * NR, 24) * terms)
        total += gather.work * waste * (max(1, MISALIGNED / MR) + copies + calls)
    return total


@implements("conv.fwd", rank=40)
class ConvForward(Impl):
    name = "conv_fwd_direct"
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


@lru_cache(maxsize=1024)
def flat(spec):
    """The same convolution in one dimension, of planes as lines: of a kernel one column wide, whose taps are rows
    apart.  None where it is not the same."""
    same = (spec.kw, spec.sh, spec.sw, spec.pw, spec.iw) == (1, 1, 1, 0, spec.ow)
    if not same or spec.kh == 1 or spec.iw == 1 or max(spec.kd, spec.id, spec.od) > 1:
        return None
    sizes = {"ih": 1, "iw": spec.ih * spec.iw, "oh": 1, "ow": spec.oh * spec.iw, "kh": 1, "kw": spec.kh}
    return replace(spec, **sizes, ph=0, pw=spec.ph * spec.iw, dh=1, dw=spec.dh * spec.iw)


@implements("conv.fwd", rank=41)
class ConvForwardFlat(Impl):
    name = "conv_fwd_direct_flat"
    epilogue = True

    @staticmethod
    def when(spec):
        line = flat(spec)
        return "needs a kernel one column wide, stride 1 and one plane" if line is None else ConvForward.when(line)

    @staticmethod
    def cost(spec):
        return ConvForward.cost(flat(spec))

    @staticmethod
    def pack(spec, weight):
        return pack_strips(spec, weight)

    @staticmethod
    def emit(spec, buffers):
        return ConvForward.emit(flat(spec), buffers)


@implements("conv.bwd_data", rank=40)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_direct"

    @staticmethod
    def when(spec):
        return _refusal(data_gathers(spec))

    @staticmethod
    def cost(spec):
        return _cost(data_gathers(spec))

    @staticmethod
    def emit(spec, buffers):
        return emit_data(gather_plan, spec, buffers)
