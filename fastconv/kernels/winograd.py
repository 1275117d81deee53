"""Winograd convolution F(M x M, 3 x 3), fused: M = 4 saves three quarters of the multiplications, M = 2 five ninths;
F(4, 3) for kernels in one dimension a half.  With stride 2 the even and the odd pixels, which meet other weights, are
transformed side by side: F(4 x 4, 3 x 3) saves 44 of 100, and of the columns alone of a kernel 7 wide 54.

    y = A^T [sum over channels of (G w G^T) * (B^T d B)] A        (Lavin and Gray, arXiv 1509.09308, equation 12)

for tiles d of (M+2) x (M+2) pixels, M apart.  The tiles of all images form one run, of which a kernel tile takes a
block: transforms its input channel by channel to V (frequency, channel, tile); multiplies, frequency by frequency, with
the packed weights U to M (frequency, output channel, tile) for a part of the output channels at a time; transforms M
and writes pixels.  V and M stay in the second-level cache, U streams past once a block in the order of its storage.
Lanes are tiles throughout, so NCHW is read and written as it lies and channels may have any number.

Sums over channels are taken in blocks of BLOCK_K: one long sum would be the largest error (2.0e-5 of the output's root
mean square at 512 channels; 8e-6 with blocks of 64).
"""

from functools import cache, lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from .. import driver
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary, launch
from ..simd import array_at, fields, isa, lanes, load_tile, store_tile, transpose_block, zero_vector
from ..simd_winograd import winograd_sizes, winograd_stride, winograd_weights
from ..specs import NO_EPILOGUE
from .gathers import split, zeros
from .winograd_problem import (
    APART,
    best_order,
    count_tiles,
    data_problem,
    forward_problem,
    frequencies,
    is_regular,
    line_length,
    line_problem,
    most_tiles,
    orders,
    outputs,
    pack_cost,
    tile_runs,
    weight_planes,
)
from .winograd_stages import STRIP, make_input, make_output, make_products

WinogradBlock = Block(
    "WinogradBlock",
    {"x": None, "u": None, "bias": None, "y": None, "scratch": None, "runs": "i8", "starts": "i8"},
    "xd xh xw yd yh yw groups channels depth rows blocks parts pitch r_pitch u_plane v_plane m_plane "
    "strips chunk sd pd dd dh dw kernel_rows kernel_columns pieces accumulate",
    "low high",
)


@cache
def make_winograd(dtype, FH, FW, APART, MR, HIGH):
    """The kernel for tiles of shape (FH, FW), their pixels APART from each other or not, and register tiles of MR rows
    (HIGH beside a single vector)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    A2, AW, (BH, BW) = winograd_sizes(FH)[0] * winograd_sizes(FW)[0], winograd_sizes(FW)[0], weight_planes((FH, FW))
    transform_input, transform_output = make_input(FH, FW, APART, LANES), make_output(FH, FW, APART, LANES)
    products = make_products(LANES, MR, HIGH)

    @tile_body(WinogradBlock, dtype)
    def conv_winograd(block, tile, worker):
        """Tile: (group, block of tiles, part of the output channels)."""
        a = fields(block)
        x, u, y = array_at(a.x, a.x_size, KIND), array_at(a.u, a.u_size, KIND), array_at(a.y, a.y_size, KIND)
        bias = array_at(a.bias, a.bias_size, KIND)
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        terms = a.channels * a.depth * a.kernel_rows * a.kernel_columns
        v, m = scratch[: A2 * a.v_plane], scratch[A2 * a.v_plane : A2 * (a.v_plane + a.m_plane)]
        r = scratch[A2 * (a.v_plane + a.m_plane) :]  # one channel's tiles on their way in, and later out
        line = r[A2 * a.r_pitch :]

        part, rest = tile % a.parts, tile // a.parts
        block_number, g = rest % a.blocks, rest // a.blocks
        table = array_at(a.runs, a.runs_size, "i8")
        starts = array_at(a.starts, a.starts_size, "i8")[2 * block_number :]  # of each block: tiles, end of its runs
        runs, count = table[starts[1] : starts[3]], starts[2]
        for k in range(terms):
            transform_input(a, x, k, g, runs, count, r, v, k * a.pitch, line)
        end = a.strips * (part + 1) // a.parts
        for s0 in range(a.strips * part // a.parts, end, a.chunk):
            s1 = min(end, s0 + a.chunk)
            for f in range(A2):
                plane = (g * BH + min(f // AW, BH - 1)) * BW + min(f % AW, BW - 1)
                for s in range(s0, s1):
                    ui, mi = plane * a.u_plane + s * terms * STRIP, f * a.m_plane + (s - s0) * STRIP * a.pitch
                    products(u, ui, v, f * a.v_plane, count, a.pitch, terms, m, mi, r)
            for row in range(s0 * STRIP, min(s1 * STRIP, a.rows)):
                mi = (row - s0 * STRIP) * a.pitch
                transform_output(a, m, mi, bias, g * a.rows + row, g, row, runs, count, r, y)

    return conv_winograd


PackBlock = Block(
    "WinogradWeights",
    "w u scratch",
    "groups rows channels depth kernel_rows kernel_columns kh kw strips u_plane w_group w_row w_channel taps flipped "
    "regular",
)


@cache
def make_collect(FH, FW, LANES):
    """Weights of kernels of RH x RW, with output channels as lanes."""
    (_, _, RH), (_, _, RW) = winograd_sizes(FH), winograd_sizes(FW)
    TAPS = RH * RW

    @helper
    def stage_kernels(a, w, first, count, stage):
        """stage[t, lane] = weight t of the kernel of each lane's output channel, the first of which begins at w[first];
        there are `count`."""
        blocks = (a.taps + LANES - 1) // LANES
        if count >= LANES and first + (LANES - 1) * a.w_row + blocks * LANES <= w.size:
            for i in range(blocks):
                transpose_block(w, first + i * LANES, a.w_row, stage, i * LANES * LANES, LANES)
        else:
            for t in range(a.taps):
                for lane in range(LANES):
                    stage[t * LANES + lane] = w[first + lane * a.w_row + t] if lane < count else w.dtype.type(0)

    @helper
    def pick_kernel(a, stage, number, panel, at):
        """One of the kernels of RH x RW weights that the staged kernels are made of, with 0 behind their ends."""
        parts = a.kernel_rows * a.kernel_columns
        row0, column0 = number % parts // a.kernel_columns * RH, number % a.kernel_columns * RW
        for t in range(TAPS):
            row, column = row0 + t // RW, column0 + t % RW
            if row < a.kh and column < a.kw:
                tap = (number // parts * a.kh + row) * a.kw + column
                tap = a.taps - 1 - tap if a.flipped else tap
                store_tile(load_tile(stage, tap * LANES, 0, 1, 1), panel, at + t * LANES, 0, 1, 1)
            else:
                zero_vector(panel, at + t * LANES)

    @helper
    def collect(a, w, first, count, kernels, each, panel, stage):
        """panel[(k, t), lane] = weight t of the k-th kernel of RH x RW from w[first] on, of the lane's output channel;
        each: of them in a channel."""
        if count >= LANES and kernels == LANES and a.regular:
            for i in range(0, TAPS * LANES, LANES):
                transpose_block(w, first + i, a.w_row, panel, i * LANES, LANES)
        else:
            for k in range(kernels):
                if k % each == 0:
                    stage_kernels(a, w, first + k // each * a.w_channel, count, stage)
                pick_kernel(a, stage, k % each, panel, TAPS * k * LANES)

    return collect


@cache
def make_pack(dtype, FH, FW):
    """The kernel that transforms weights."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    TAPS, (BH, BW) = winograd_sizes(FH)[2] * winograd_sizes(FW)[2], weight_planes((FH, FW))
    collect = make_collect(FH, FW, LANES)

    @tile_body(PackBlock, dtype)
    def conv_winograd_pack(block, tile, worker):
        """U (group, frequency, strip, kernel depth and channel, STRIP).  Tile: (group, strip)."""
        a = fields(block)
        w, u = array_at(a.w, a.w_size, KIND), array_at(a.u, a.u_size, KIND)
        panel = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        g, strip = tile // a.strips, tile % a.strips
        each = a.depth * a.kernel_rows * a.kernel_columns  # kernels in a channel
        step = max(1, LANES // each)  # channels at a time
        stage = panel[TAPS * LANES * max(LANES, each) :]
        for row in range(strip * STRIP, (strip + 1) * STRIP, LANES):
            for c in range(0, a.channels, step):
                first = g * a.w_group + row * a.w_row + c * a.w_channel
                kernels = min(step, a.channels - c) * each
                collect(a, w, first, a.rows - row, kernels, each, panel, stage)
                for k in range(kernels):
                    term = k % each * a.channels + c + k // each
                    ui = g * BH * BW * a.u_plane + (strip * each * a.channels + term) * STRIP + row % STRIP
                    winograd_weights(panel, TAPS * k * LANES, u, ui, a.u_plane, FH, FW)

    return conv_winograd_pack


# ---- programs

BLOCK_BYTES = 1 << 20  # of V of one block of tiles: a second-level cache
LEAST_TILES = 48  # of a block
CHUNK_BYTES = 400_000  # of M


@lru_cache(maxsize=1024)
def _plan(problem, tile, threads):
    """(body, tiles, numbers and tables, scratch) of the convolution's row."""
    order, terms = best_order(problem, tile)[0], problem.terms(tile)
    LANES, A2, tiles = lanes(problem.dtype), prod(frequencies(tile)), count_tiles(problem, tile, order)
    vectors, itemsize = split(tiles, LANES), np.dtype(problem.dtype).itemsize
    most = min(most_tiles(tile), max(LEAST_TILES, BLOCK_BYTES // (A2 * itemsize * terms))) // LANES
    blocks = max(1, round(tiles / (most * LANES)))
    parts = 1
    if threads > 1:  # as many tiles for each thread, whatever that does to their size
        blocks = min(vectors, split(blocks * problem.groups, threads) * threads)
        parts = min(problem.strips, split(threads, blocks * problem.groups))
    pitch = split(vectors, blocks) * LANES
    chunk = max(1, CHUNK_BYTES // (A2 * pitch * STRIP * itemsize))
    v_plane, m_plane = terms * pitch + 16, min(chunk, problem.strips) * STRIP * pitch + 16
    r_pitch = pitch + LANES  # a vector that begins at the last tile ends there
    numbers = {
        **dict(zip(("xd", "xh", "xw", "yd", "yh", "yw"), problem.source + problem.grid, strict=True)),
        **dict(zip(("dd", "dh", "dw"), problem.dilation, strict=True)),
        **{"groups": problem.groups, "channels": problem.channels, "depth": problem.depth, "rows": problem.rows},
        **{"blocks": blocks, "parts": parts, "pitch": pitch, "r_pitch": r_pitch, "v_plane": v_plane},
        **{"m_plane": m_plane, "u_plane": problem.u_plane(tile), "strips": problem.strips, "chunk": chunk},
        **{"sd": problem.depth_step, "pd": problem.padding[0], "pieces": max(order, 0)},
        **dict(zip(("kernel_rows", "kernel_columns"), problem.parts(tile), strict=True)),
    }
    numbers["runs"], numbers["starts"] = tile_runs(problem, tile, blocks, order)
    scratch = A2 * (v_plane + m_plane + r_pitch) + (outputs(tile)[1] + 1) * LANES
    high, low = (16, 8) if isa.registers >= 32 else (8, 4)
    body = make_winograd(problem.dtype, *tile, order == APART, low, high)
    return body, problem.groups * blocks * parts, numbers, scratch


def packed_size(problem, tile):
    return prod(weight_planes(tile)) * problem.groups * problem.u_plane(tile)


def pack_row(problem, tile, w, u):
    """The row that transforms the weights."""
    taps, parts = prod(problem.kernel), problem.parts(tile)
    if problem.flipped:  # w (groups * channels, rows, taps), the last tap first
        steps = {"w_group": problem.channels * problem.rows * taps, "w_row": taps, "w_channel": problem.rows * taps}
    else:
        steps = {"w_group": problem.rows * problem.channels * taps, "w_row": problem.channels * taps, "w_channel": taps}
    each, size = problem.depth * prod(parts), prod(winograd_sizes(F)[2] for F in tile)
    sizes = {name: getattr(problem, name) for name in ("groups", "rows", "channels", "depth", "strips")}
    sizes |= {"u_plane": problem.u_plane(tile), "taps": taps, "flipped": int(problem.flipped)}
    sizes |= {"regular": int(is_regular(problem, tile))}
    sizes |= dict(zip(("kernel_rows", "kernel_columns", "kh", "kw"), parts + problem.kernel[1:], strict=True))
    LANES = lanes(problem.dtype)
    scratch = LANES * (size * max(LANES, each) + split(taps, LANES) * LANES)
    body = make_pack(problem.dtype, *tile)
    values = {"w": w, "u": u, **sizes, **steps}
    return Row(body, problem.groups * problem.strips, values, pack_cost(problem, tile), scratch)


def emit(problem, tile, x, w, u, bias, y, epilogue):
    """The rows of a problem; u: packed weights, or None to pack w first."""
    rows = ()
    if u is None:
        u = Temporary(packed_size(problem, tile), problem.dtype)
        rows = (pack_row(problem, tile, w, u)._replace(temporaries=("u",)),)
    body, tiles, numbers, scratch = _plan(problem, tile, driver.get_num_threads())
    values = {"x": x, "u": u, "bias": bias, "y": y, **numbers}
    values |= {"low": epilogue.low, "high": epilogue.high, "accumulate": int(epilogue.accumulate)}
    work = best_order(problem, tile)[1]
    return (*rows, Row(body, tiles, values, work, scratch, ("u",) if rows else ()))


MOST_KERNEL, LONGEST_LINE = 9, 33


def refusal(spec, stride=1):
    if spec.dtype != "float32":
        return f"is tuned for float32, has {spec.dtype}"
    if (spec.sh, spec.sw) != (stride, stride):
        return f"needs stride {stride}, has {spec.sh} x {spec.sw}"
    if 0 in (spec.n, spec.ic, spec.oc, spec.in_pixels, spec.out_pixels):
        return "needs an image"
    return None


def plane_refusal(spec, stride=1):
    if min(spec.kh, spec.kw) < 3 or max(spec.kh, spec.kw) > MOST_KERNEL:
        return f"needs a kernel of 3 x 3 to {MOST_KERNEL} x {MOST_KERNEL}, has {spec.kh} x {spec.kw}"
    return refusal(spec, stride)


class Square(NamedTuple):
    """Tiles of M x M pixels, by F(M, 3) in both directions."""

    F: int

    def case(self, problem):
        """(the problem, the shape of its tiles)."""
        return problem, (self.F, self.F)

    def objection(self, spec, problem):
        """Why such tiles do not fit, or None."""
        stride = winograd_stride(self.F)
        found = plane_refusal(spec, stride)
        if found is None and not orders(*self.case(problem)):
            return "needs dilated columns" if stride == 1 else "needs dilation 1"
        return found


class Line(NamedTuple):
    """Tiles of four pixels in one direction, for kernels that have but one."""

    F: int

    def case(self, problem):
        line = line_problem(problem)
        return line, (self.F, 11) if line.kernel[1] > 1 else (11, self.F)

    def objection(self, spec, problem):
        if line_length(problem) not in range(3, LONGEST_LINE + 1):
            return f"needs a kernel of 3 to {LONGEST_LINE} pixels in one direction"
        return refusal(spec)


class Rows(NamedTuple):
    """Tiles of four pixels of one row, for kernels of several rows, each of which is a term of the sum: for few
    channels, where transforming all rows would cost more than it saves."""

    F: int

    def case(self, problem):
        return problem, (11, self.F)

    def objection(self, spec, problem):
        found = refusal(spec, winograd_stride(self.F))
        if found is None and (spec.kh < 2 or spec.kw not in range(5, MOST_KERNEL + 1)):
            found = f"needs a kernel of several rows, 5 to {MOST_KERNEL} columns wide, has {spec.kh} x {spec.kw}"
        if found is None and not orders(*self.case(problem)):
            return "needs dilation 1"
        return found


class _Forward(Impl):
    tiles: Square | Line | Rows
    epilogue = True

    @classmethod
    def when(cls, spec):
        return cls.tiles.objection(spec, forward_problem(spec))

    @classmethod
    def cost(cls, spec):
        return best_order(*cls.tiles.case(forward_problem(spec)))[1]

    @classmethod
    def pack_cost(cls, spec):
        return pack_cost(*cls.tiles.case(forward_problem(spec)))

    @classmethod
    def pack(cls, spec, weight):
        problem, tile = cls.tiles.case(forward_problem(spec))
        u = np.empty(packed_size(problem, tile), spec.dtype)
        launch(pack_row(problem, tile, weight, u))
        return u

    @classmethod
    def emit(cls, spec, buffers):
        bias, epilogue = buffers.get("b"), buffers.get("epilogue", NO_EPILOGUE)
        bias = zeros(spec.oc, spec.dtype) if bias is None else bias
        w, packed = buffers["w"], buffers.get("packed")
        problem, tile = cls.tiles.case(forward_problem(spec))
        return emit(problem, tile, buffers["x"], w, packed, bias, buffers["y"], epilogue)


class _BackwardData(Impl):
    tiles: Square | Line
    takes_bias = True  # a buffer `b` with a value per channel of gx

    @classmethod
    def when(cls, spec):
        if spec.sd > 1:
            return f"needs depth stride 1, has {spec.sd}"
        return cls.tiles.objection(spec, data_problem(spec))

    @classmethod
    def cost(cls, spec):
        problem, tile = cls.tiles.case(data_problem(spec))
        return best_order(problem, tile)[1] + pack_cost(problem, tile)

    @classmethod
    def emit(cls, spec, buffers):
        bias = buffers.get("b")
        bias = zeros(spec.ic, spec.dtype) if bias is None else bias
        problem, tile = cls.tiles.case(data_problem(spec))
        return emit(problem, tile, buffers["gy"], buffers["w"], None, bias, buffers["gx"], NO_EPILOGUE)


@implements("conv.fwd", rank=20)
class ForwardF4(_Forward):
    name, tiles = "conv_fwd_winograd_f4x3", Square(43)


@implements("conv.fwd", rank=21)
class ForwardF2(_Forward):
    name, tiles = "conv_fwd_winograd_f2x3", Square(23)


@implements("conv.fwd", rank=22)
class ForwardF3(_Forward):
    name, tiles = "conv_fwd_winograd_f3x3", Square(33)


@implements("conv.fwd", rank=23)
class ForwardLine(_Forward):
    name, tiles = "conv_fwd_winograd_line_f4x3", Line(43)


@implements("conv.fwd", rank=24)
class ForwardLongLine(_Forward):
    name, tiles = "conv_fwd_winograd_line_f4x4", Line(44)


@implements("conv.fwd", rank=25)
class ForwardStrided(_Forward):
    name, tiles = "conv_fwd_winograd_f4x3_stride2", Square(432)


@implements("conv.fwd", rank=26)
class ForwardStridedRows(_Forward):
    name, tiles = "conv_fwd_winograd_rows_f4x7_stride2", Rows(472)


@implements("conv.bwd_data", rank=20)
class BackwardDataF4(_BackwardData):
    name, tiles = "conv_bwd_data_winograd_f4x3", Square(43)


@implements("conv.bwd_data", rank=21)
class BackwardDataF2(_BackwardData):
    name, tiles = "conv_bwd_data_winograd_f2x3", Square(23)


@implements("conv.bwd_data", rank=22)
class BackwardDataF3(_BackwardData):
    name, tiles = "conv_bwd_data_winograd_f3x3", Square(33)


@implements("conv.bwd_data", rank=23)
class BackwardDataLine(_BackwardData):
    name, tiles = "conv_bwd_data_winograd_line_f4x3", Line(43)


@implements("conv.bwd_data", rank=24)
class BackwardDataLongLine(_BackwardData):
    name, tiles = "conv_bwd_data_winograd_line_f4x4", Line(44)


@implements("conv.fwd", rank=27)
class ForwardRows(_Forward):
    name, tiles = "conv_fwd_winograd_rows_f4x5", Rows(45)
