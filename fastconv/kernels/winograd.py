"""Winograd convolution F(M x M, 3 x 3), fused: M = 4 saves three quarters of the multiplications, M = 2 five ninths.

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
from ..simd import array_at, fields, isa, lanes, transpose_block
from ..simd_winograd import winograd_weights
from ..specs import NO_EPILOGUE
from .gathers import NANOSECONDS_PER_FLOP, split, zeros
from .winograd_stages import STRIP, make_input, make_output, make_products

WinogradBlock = Block(
    "WinogradBlock",
    {"x": None, "u": None, "bias": None, "y": None, "scratch": None, "runs": "i8", "starts": "i8"},
    "xd xh xw yd yh yw groups channels depth rows blocks parts pitch r_pitch u_plane v_plane m_plane "
    "strips chunk sd pd dd dh dw accumulate",
    "low high",
)


@cache
def make_winograd(dtype, M, MR, HIGH):
    """The kernel for tiles of M x M pixels and register tiles of MR rows (HIGH beside a single vector)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    A2 = (M + 2) ** 2
    transform_input, transform_output = make_input(M, LANES), make_output(M, LANES)
    products = make_products(LANES, MR, HIGH)

    @tile_body(WinogradBlock, dtype)
    def conv_winograd(block, tile, worker):
        """Tile: (group, block of tiles, part of the output channels)."""
        a = fields(block)
        x, u, y = array_at(a.x, a.x_size, KIND), array_at(a.u, a.u_size, KIND), array_at(a.y, a.y_size, KIND)
        bias = array_at(a.bias, a.bias_size, KIND)
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        terms = a.channels * a.depth
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
                for s in range(s0, s1):
                    ui, mi = (g * A2 + f) * a.u_plane + s * terms * STRIP, f * a.m_plane + (s - s0) * STRIP * a.pitch
                    products(u, ui, v, f * a.v_plane, count, a.pitch, terms, m, mi, r)
            for row in range(s0 * STRIP, min(s1 * STRIP, a.rows)):
                mi = (row - s0 * STRIP) * a.pitch
                transform_output(a, m, mi, bias, g * a.rows + row, g, row, runs, count, r, y)

    return conv_winograd


PackBlock = Block(
    "WinogradWeights",
    "w u scratch",
    "groups rows channels depth strips u_plane w_group w_row w_channel w_first w_step",
)


@cache
def make_pack(dtype, M):
    """The kernel that transforms weights."""
    KIND, ITEM, LANES, A2 = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype), (M + 2) ** 2

    @helper
    def collect(a, w, first, count, kernels, panel):
        """panel[(k, t), lane] = weight t of the k-th 3 x 3 kernel from w[first] on, of the lane's output channel."""
        whole = count >= LANES and kernels == LANES and a.w_step == 1 and a.w_channel == 9 * a.depth
        if whole:  # kernels follow each other
            for i in range(0, 9 * LANES, LANES):
                transpose_block(w, first + i, a.w_row, panel, i * LANES, LANES)
        else:
            for k in range(kernels):
                for lane in range(LANES):
                    place = first + lane * a.w_row + k // a.depth * a.w_channel + k % a.depth * 9 * a.w_step
                    for t in range(9):
                        at = (9 * k + t) * LANES + lane
                        panel[at] = w[place + t * a.w_step] if lane < count else w.dtype.type(0)

    @tile_body(PackBlock, dtype)
    def conv_winograd_pack(block, tile, worker):
        """U (group, frequency, strip, kernel depth and channel, STRIP).  Tile: (group, strip)."""
        a = fields(block)
        w, u = array_at(a.w, a.w_size, KIND), array_at(a.u, a.u_size, KIND)
        panel = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        g, strip = tile // a.strips, tile % a.strips
        step = max(1, LANES // a.depth)  # channels at a time
        for row in range(strip * STRIP, (strip + 1) * STRIP, LANES):
            for c in range(0, a.channels, step):
                first = g * a.w_group + row * a.w_row + c * a.w_channel + a.w_first
                kernels = min(step, a.channels - c) * a.depth
                collect(a, w, first, a.rows - row, kernels, panel)
                for k in range(kernels):
                    term = k % a.depth * a.channels + c + k // a.depth
                    ui = g * A2 * a.u_plane + (strip * a.depth * a.channels + term) * STRIP + row % STRIP
                    winograd_weights(panel, 9 * k * LANES, u, ui, a.u_plane, M)

    return conv_winograd_pack


# ---- programs

BLOCK_BYTES = 1 << 20  # of V of one block of tiles: a second-level cache
LEAST_TILES, MOST_TILES = 48, 96  # of a block: each passes once over U
CHUNK_BYTES = 400_000  # of M


class Problem(NamedTuple):
    """A convolution as the kernel sees it: the forward pass, or the data gradient with channels changed about."""

    dtype: str
    images: int
    groups: int
    channels: int
    rows: int
    depth: int
    source: tuple
    grid: tuple
    padding: tuple
    depth_step: int
    dilation: tuple
    flipped: bool

    def tile_rows(self, M):
        """(rows, columns) of tiles in each image of pixels of one residue."""
        return tuple(split(split(size, d), M) for size, d in zip(self.grid[1:], self.dilation[1:], strict=True))

    def tiles(self, M):
        return self.images * self.grid[0] * prod(self.dilation[1:]) * prod(self.tile_rows(M))

    @property
    def terms(self):
        return self.channels * self.depth

    @property
    def strips(self):
        return split(self.rows, STRIP)

    @property
    def u_plane(self):
        """Elements of U from one frequency to the next: a line more than there are, or the lines of all frequencies
        would fall on a few sets of the cache."""
        return (self.strips * self.terms + 1) * STRIP


@lru_cache(maxsize=1024)
def forward_problem(spec):
    return Problem(
        *(spec.dtype, spec.n, spec.g, spec.icg, spec.ocg, spec.kd, (spec.id, spec.ih, spec.iw)),
        *((spec.od, spec.oh, spec.ow), (spec.pd, spec.ph, spec.pw), spec.sd, (spec.dd, spec.dh, spec.dw), False),
    )


@lru_cache(maxsize=1024)
def data_problem(spec):
    """The data gradient of a convolution of stride 1: gy, padded so that every tap meets every pixel, by the weights
    turned round."""
    padding = ((spec.kd - 1) * spec.dd - spec.pd, 2 * spec.dh - spec.ph, 2 * spec.dw - spec.pw)
    return Problem(
        *(spec.dtype, spec.n, spec.g, spec.ocg, spec.icg, spec.kd, (spec.od, spec.oh, spec.ow)),
        *((spec.id, spec.ih, spec.iw), padding, 1, (spec.dd, spec.dh, spec.dw), True),
    )


def tile_runs(problem, M, blocks):
    """(the table of runs of all blocks, for each block: its tiles, the end of its runs; both behind a block 0 that has
    none)."""
    LANES, tiles, (th, tw) = lanes(problem.dtype), problem.tiles(M), problem.tile_rows(M)
    _, dh, dw = problem.dilation
    edges = np.minimum(split(tiles, LANES) * np.arange(blocks + 1) // blocks * LANES, tiles)
    first = np.union1d(np.arange(0, tiles, tw), edges[:-1])
    block, row = np.searchsorted(edges, first, side="right") - 1, first // tw
    image, residue = row // (th * dh * dw), row // th % (dh * dw)
    h, w = residue // dw + row % th * M * dh, residue % dw + first % tw * M * dw
    count = np.diff(first, append=tiles)
    table = np.stack(
        [
            *(first - edges[block], count, image // problem.grid[0], image % problem.grid[0]),
            *(h - problem.padding[1], w - problem.padding[2], h, w),
            np.clip(-((h - problem.grid[1]) // dh), 0, M),
            np.clip(-((w - problem.grid[2]) // dw), 0, M * count),
        ],
        axis=1,
    )
    ends = np.searchsorted(first, edges) * table.shape[1]
    return table.astype(np.int64).ravel(), np.stack([np.diff(edges, prepend=0), ends], axis=1).astype(np.int64).ravel()


@lru_cache(maxsize=1024)
def _plan(problem, M, threads):
    """(body, tiles, numbers and tables, scratch) of the convolution's row."""
    LANES, A2, tiles = lanes(problem.dtype), (M + 2) ** 2, problem.tiles(M)
    vectors, itemsize = split(tiles, LANES), np.dtype(problem.dtype).itemsize
    most = min(MOST_TILES, max(LEAST_TILES, BLOCK_BYTES // (A2 * itemsize * problem.terms))) // LANES
    blocks = max(1, round(tiles / (most * LANES)))
    parts = 1
    if threads > 1:  # as many tiles for each thread, whatever that does to their size
        blocks = min(vectors, split(blocks * problem.groups, threads) * threads)
        parts = min(problem.strips, split(threads, blocks * problem.groups))
    pitch = split(vectors, blocks) * LANES
    chunk = max(1, CHUNK_BYTES // (A2 * pitch * STRIP * itemsize))
    v_plane, m_plane = problem.terms * pitch + 16, min(chunk, problem.strips) * STRIP * pitch + 16
    r_pitch = pitch + LANES  # a vector that begins at the last tile ends there
    numbers = {
        **dict(zip(("xd", "xh", "xw", "yd", "yh", "yw"), problem.source + problem.grid, strict=True)),
        **dict(zip(("dd", "dh", "dw"), problem.dilation, strict=True)),
        **{"groups": problem.groups, "channels": problem.channels, "depth": problem.depth, "rows": problem.rows},
        **{"blocks": blocks, "parts": parts, "pitch": pitch, "r_pitch": r_pitch, "v_plane": v_plane},
        **{"m_plane": m_plane, "u_plane": problem.u_plane, "strips": problem.strips, "chunk": chunk},
        **{"sd": problem.depth_step, "pd": problem.padding[0]},
    }
    numbers["runs"], numbers["starts"] = tile_runs(problem, M, blocks)
    scratch = A2 * (v_plane + m_plane + r_pitch) + (M + 1) * LANES
    high, low = (16, 8) if isa.registers >= 32 else (8, 4)
    body = make_winograd(problem.dtype, M, low, high)
    return body, problem.groups * blocks * parts, numbers, scratch


def packed_size(problem, M):
    return (M + 2) ** 2 * problem.groups * problem.u_plane


def pack_row(problem, M, w, u):
    """The row that transforms the weights."""
    taps = 9 * problem.depth
    if problem.flipped:  # w (groups * channels, rows, taps), the last tap first
        steps = {"w_group": problem.channels * problem.rows * taps, "w_row": taps, "w_channel": problem.rows * taps}
        steps |= {"w_first": taps - 1, "w_step": -1}
    else:
        steps = {"w_group": problem.rows * problem.terms * 9, "w_row": problem.terms * 9, "w_channel": taps}
        steps |= {"w_first": 0, "w_step": 1}
    sizes = {name: getattr(problem, name) for name in ("groups", "rows", "channels", "depth", "strips", "u_plane")}
    scratch = 9 * lanes(problem.dtype) * max(lanes(problem.dtype), problem.depth)
    work = _pack_cost(problem)
    return Row(
        make_pack(problem.dtype, M), problem.groups * problem.strips, {"w": w, "u": u, **sizes, **steps}, work, scratch
    )


def emit(problem, M, x, w, u, bias, y, epilogue):
    """The rows of a problem; u: packed weights, or None to pack w first."""
    rows = ()
    if u is None:
        u = Temporary(packed_size(problem, M), problem.dtype)
        rows = (pack_row(problem, M, w, u)._replace(temporaries=("u",)),)
    body, tiles, numbers, scratch = _plan(problem, M, driver.get_num_threads())
    values = {"x": x, "u": u, "bias": bias, "y": y, **numbers}
    values |= {"low": epilogue.low, "high": epilogue.high, "accumulate": int(epilogue.accumulate)}
    return (*rows, Row(body, tiles, values, _cost(problem, M), scratch, ("u",) if rows else ()))


PACK_NANOSECONDS = 150  # to transform the weights of STRIP output channels
ROW_CYCLES, GATHER_CYCLES = 65, 110  # to transform one row of a vector of tiles, and to bring dilated pixels together
COLUMN_CYCLES, OUT_CYCLES = 9, 14  # of the other transforms of a vector of tiles, for each frequency
WRITE_CYCLES = 45  # to write one row of pixels of a run of tiles
NEAR_BYTES, FAR_BYTES, CACHE_BYTES = (
    25,
    12,
    24 << 20,
)  # read in a nanosecond from the last cache, of this size, and memory


def _cost(problem, M):
    """The multiplications or, if that takes longer, reading U once a block; and the transforms."""
    LANES, A = lanes(problem.dtype), M + 2
    tiles, rows, width = problem.tiles(M), problem.groups * problem.strips * STRIP, problem.tile_rows(M)[1]
    vectors, runs = split(tiles, LANES), tiles // width * split(width, LANES)
    row = ROW_CYCLES + (GATHER_CYCLES if problem.dilation[2] > 1 else 0)
    products = A * A * max(tiles / LANES, 0.3) * problem.terms * rows
    inputs = problem.groups * problem.terms * (A * runs * row + A * A * vectors * COLUMN_CYCLES)
    outputs = rows * (A * A * vectors * OUT_CYCLES + M * runs * WRITE_CYCLES)
    weights = A * A * problem.terms * rows * np.dtype(problem.dtype).itemsize
    reading = split(tiles, MOST_TILES) * weights / (NEAR_BYTES if weights < CACHE_BYTES else FAR_BYTES)
    cycle = 2 * LANES * NANOSECONDS_PER_FLOP
    return max(products * cycle, reading) + cycle * (inputs + outputs)


def _pack_cost(problem):
    return PACK_NANOSECONDS * problem.groups * problem.strips * problem.terms


def refusal(spec):
    if spec.dtype != "float32":
        return f"is tuned for float32, has {spec.dtype}"
    if (spec.kh, spec.kw) != (3, 3):
        return f"needs a kernel of 3 x 3, has {spec.kh} x {spec.kw}"
    if (spec.sh, spec.sw) != (1, 1):
        return f"needs stride 1, has {spec.sh} x {spec.sw}"
    if 0 in (spec.n, spec.ic, spec.oc, spec.in_pixels, spec.out_pixels):
        return "needs an image"
    return None


def _data_refusal(spec):
    return refusal(spec) or (f"needs depth stride 1, has {spec.sd}" if spec.sd > 1 else None)


class _Forward(Impl):
    """Common to the tile sizes M."""

    M: int
    epilogue = True

    @staticmethod
    def when(spec):
        return refusal(spec)

    @classmethod
    def cost(cls, spec):
        return _cost(forward_problem(spec), cls.M)

    @staticmethod
    def pack_cost(spec):
        return _pack_cost(forward_problem(spec))

    @classmethod
    def pack(cls, spec, weight):
        problem = forward_problem(spec)
        u = np.empty(packed_size(problem, cls.M), spec.dtype)
        launch(pack_row(problem, cls.M, weight, u))
        return u

    @classmethod
    def emit(cls, spec, buffers):
        bias, epilogue = buffers.get("b"), buffers.get("epilogue", NO_EPILOGUE)
        bias = zeros(spec.oc, spec.dtype) if bias is None else bias
        w, packed = buffers["w"], buffers.get("packed")
        return emit(forward_problem(spec), cls.M, buffers["x"], w, packed, bias, buffers["y"], epilogue)


class _BackwardData(Impl):
    """Common to the tile sizes M."""

    M: int
    takes_bias = True  # a buffer `b` with a value per channel of gx

    @staticmethod
    def when(spec):
        return _data_refusal(spec)

    @classmethod
    def cost(cls, spec):
        return _cost(data_problem(spec), cls.M) + _pack_cost(data_problem(spec))

    @classmethod
    def emit(cls, spec, buffers):
        bias = buffers.get("b")
        bias = zeros(spec.ic, spec.dtype) if bias is None else bias
        return emit(data_problem(spec), cls.M, buffers["gy"], buffers["w"], None, bias, buffers["gx"], NO_EPILOGUE)


@implements("conv.fwd", rank=20)
class ForwardF4(_Forward):
    name, M = "conv_fwd_winograd_f4x3", 4


@implements("conv.fwd", rank=21)
class ForwardF2(_Forward):
    name, M = "conv_fwd_winograd_f2x3", 2


@implements("conv.bwd_data", rank=20)
class BackwardDataF4(_BackwardData):
    name, M = "conv_bwd_data_winograd_f4x3", 4


@implements("conv.bwd_data", rank=21)
class BackwardDataF2(_BackwardData):
    name, M = "conv_bwd_data_winograd_f2x3", 2
