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
from .winograd_stages import SOURCE, STRIP, TARGET, make_input, make_output, make_products

WinogradBlock = Block(
    "WinogradBlock",
    {"x": None, "u": None, "bias": None, "y": None, "scratch": None, "runs": "i8", "starts": "i8"},
    "xd xh xw yd yh yw groups channels depth rows blocks parts pitch r_pitch u_plane v_plane m_plane "
    "strips chunk sd pd dd dh dw kernel_rows kernel_columns pieces accumulate",
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
    "groups rows channels depth kernel_rows kernel_columns kh kw strips u_plane w_group w_row w_channel w_first w_step",
)


@cache
def make_pack(dtype, M):
    """The kernel that transforms weights."""
    KIND, ITEM, LANES, A2 = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype), (M + 2) ** 2

    @helper
    def collect_kernel(a, w, first, count, number, panel, at):
        """One of the kernels of 3 x 3 weights that each lane's kernel from w[first] on is made of, with 0 behind its
        ends."""
        parts = a.kernel_rows * a.kernel_columns
        row0, column0 = number % parts // a.kernel_columns * 3, number % a.kernel_columns * 3
        for t in range(9):
            row, column = row0 + t // 3, column0 + t % 3
            place = first + ((number // parts * a.kh + row) * a.kw + column) * a.w_step
            inside = row < a.kh and column < a.kw
            for lane in range(LANES):
                there = inside and lane < count
                panel[at + t * LANES + lane] = w[place + lane * a.w_row] if there else w.dtype.type(0)

    @helper
    def collect(a, w, first, count, kernels, each, panel):
        """panel[(k, t), lane] = weight t of the k-th kernel of 3 x 3 from w[first] on, of the lane's output channel;
        each: of them in a channel."""
        whole = count >= LANES and kernels == LANES and a.w_step == 1 and a.w_channel == 9 * each
        if whole:  # kernels follow each other
            for i in range(0, 9 * LANES, LANES):
                transpose_block(w, first + i, a.w_row, panel, i * LANES, LANES)
        else:
            for k in range(kernels):
                collect_kernel(a, w, first + k // each * a.w_channel, count, k % each, panel, 9 * k * LANES)

    @tile_body(PackBlock, dtype)
    def conv_winograd_pack(block, tile, worker):
        """U (group, frequency, strip, kernel depth and channel, STRIP).  Tile: (group, strip)."""
        a = fields(block)
        w, u = array_at(a.w, a.w_size, KIND), array_at(a.u, a.u_size, KIND)
        panel = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        g, strip = tile // a.strips, tile % a.strips
        each = a.depth * a.kernel_rows * a.kernel_columns  # kernels in a channel
        step = max(1, LANES // each)  # channels at a time
        for row in range(strip * STRIP, (strip + 1) * STRIP, LANES):
            for c in range(0, a.channels, step):
                first = g * a.w_group + row * a.w_row + c * a.w_channel + a.w_first
                kernels = min(step, a.channels - c) * each
                collect(a, w, first, a.rows - row, kernels, each, panel)
                for k in range(kernels):
                    term = k % each * a.channels + c + k // each
                    ui = g * A2 * a.u_plane + (strip * each * a.channels + term) * STRIP + row % STRIP
                    winograd_weights(panel, 9 * k * LANES, u, ui, a.u_plane, M)

    return conv_winograd_pack


# ---- programs

BLOCK_BYTES = 1 << 20  # of V of one block of tiles: a second-level cache
LEAST_TILES, MOST_TILES = 48, 96  # of a block: each passes once over U
CHUNK_BYTES = 400_000  # of M


MOST_KERNEL = 9


class Problem(NamedTuple):
    """A convolution as the kernel sees it: the forward pass, or the data gradient with channels changed about."""

    dtype: str
    images: int
    groups: int
    channels: int
    rows: int
    kernel: tuple
    source: tuple
    grid: tuple
    padding: tuple
    depth_step: int
    dilation: tuple
    flipped: bool

    @property
    def depth(self):
        return self.kernel[0]

    @property
    def parts(self):
        """Rows and columns of kernels of 3 x 3 that the kernel is made of, with zeros behind its ends."""
        return split(self.kernel[1], 3), split(self.kernel[2], 3)

    def tile_rows(self, M, pieces=0):
        """(rows, columns) of tiles in each image of pixels of one residue; in whole pieces, where those are wanted, of
        which so many are a vector of tiles."""
        rows, columns = (split(split(size, d), M) for size, d in zip(self.grid[1:], self.dilation[1:], strict=True))
        piece = lanes(self.dtype) // pieces if pieces else 1
        return rows, split(columns, piece) * piece

    def tiles(self, M, pieces=0):
        return self.images * self.grid[0] * prod(self.dilation[1:]) * prod(self.tile_rows(M, pieces))

    @property
    def terms(self):
        return self.channels * self.depth * prod(self.parts)

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
        *(spec.dtype, spec.n, spec.g, spec.icg, spec.ocg, (spec.kd, spec.kh, spec.kw), (spec.id, spec.ih, spec.iw)),
        *((spec.od, spec.oh, spec.ow), (spec.pd, spec.ph, spec.pw), spec.sd, (spec.dd, spec.dh, spec.dw), False),
    )


@lru_cache(maxsize=1024)
def data_problem(spec):
    """The data gradient of a convolution of stride 1: gy, padded so that every tap meets every pixel, by the weights
    turned round."""
    kernel = spec.kd, spec.kh, spec.kw
    padding = ((kernel[0] - 1) * spec.dd - spec.pd, (kernel[1] - 1) * spec.dh - spec.ph)
    padding += ((kernel[2] - 1) * spec.dw - spec.pw,)
    return Problem(
        *(spec.dtype, spec.n, spec.g, spec.ocg, spec.icg, kernel, (spec.od, spec.oh, spec.ow)),
        *((spec.id, spec.ih, spec.iw), padding, 1, (spec.dd, spec.dh, spec.dw), True),
    )


def _pixels(channels, size, image, depth, row, column):
    """The entries of runs from SOURCE, or from TARGET on; channels: of an image."""
    place = ((image * channels * size[0] + depth) * size[1] + row) * size[2] + column
    low, high = np.clip(-column, 0, 62), np.clip(size[2] - column, 0, 62)
    bits = np.where(low < high, np.left_shift(1, high) - np.left_shift(1, low), 0)
    return place, row, bits, depth


def tile_runs(problem, M, blocks, pieces=0):
    """(the table of runs of all blocks, for each block: its tiles, the end of its runs; both behind a block 0 that has
    none)."""
    LANES, tiles, (th, tw) = lanes(problem.dtype), problem.tiles(M, pieces), problem.tile_rows(M, pieces)
    _, dh, dw = problem.dilation
    edges = np.minimum(split(tiles, LANES) * np.arange(blocks + 1) // blocks * LANES, tiles)
    first = np.arange(0, tiles, LANES // pieces) if pieces else np.union1d(np.arange(0, tiles, tw), edges[:-1])
    block, row = np.searchsorted(edges, first, side="right") - 1, first // tw
    image, residue = row // (th * dh * dw), row // th % (dh * dw)
    h, w = residue // dw + row % th * M * dh, residue % dw + first % tw * M * dw
    count = np.diff(first, append=tiles)
    image, depth = np.divmod(image, problem.grid[0])
    in_depth = depth * problem.depth_step - problem.padding[0]
    in_row, in_column = h - problem.padding[1], w - problem.padding[2]
    table = np.stack(
        [
            *(first - edges[block], count, image, depth, in_row, in_column, h, w),
            np.clip(-((h - problem.grid[1]) // dh), 0, M),
            np.clip(-((w - problem.grid[2]) // dw), 0, M * count),
            *_pixels(problem.groups * problem.channels, problem.source, image, in_depth, in_row, in_column),
            *_pixels(problem.groups * problem.rows, problem.grid, image, depth, h, w),
        ],
        axis=1,
    )
    if pieces:  # whole vectors of tiles: what is missing in the last one lies in no image
        nothing = np.zeros((-len(table) % pieces, table.shape[1]), np.int64)
        nothing[:, [SOURCE + 1, TARGET + 1]] = -(1 << 40)
        table = np.concatenate([table, nothing])
    ends = np.searchsorted(first, edges) * table.shape[1]
    ends[-1] = table.size
    return table.astype(np.int64).ravel(), np.stack([np.diff(edges, prepend=0), ends], axis=1).astype(np.int64).ravel()


@lru_cache(maxsize=1024)
def _plan(problem, M, threads):
    """(body, tiles, numbers and tables, scratch) of the convolution's row."""
    pieces = best_form(problem, M)[0]
    LANES, A2, tiles = lanes(problem.dtype), (M + 2) ** 2, problem.tiles(M, pieces)
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
        **{"sd": problem.depth_step, "pd": problem.padding[0], "pieces": pieces},
        **dict(zip(("kernel_rows", "kernel_columns"), problem.parts, strict=True)),
    }
    numbers["runs"], numbers["starts"] = tile_runs(problem, M, blocks, pieces)
    scratch = A2 * (v_plane + m_plane + r_pitch) + (M + 1) * LANES
    high, low = (16, 8) if isa.registers >= 32 else (8, 4)
    body = make_winograd(problem.dtype, M, low, high)
    return body, problem.groups * blocks * parts, numbers, scratch


def packed_size(problem, M):
    return (M + 2) ** 2 * problem.groups * problem.u_plane


def pack_row(problem, M, w, u):
    """The row that transforms the weights."""
    taps = prod(problem.kernel)
    if problem.flipped:  # w (groups * channels, rows, taps), the last tap first
        steps = {"w_group": problem.channels * problem.rows * taps, "w_row": taps, "w_channel": problem.rows * taps}
        steps |= {"w_first": taps - 1, "w_step": -1}
    else:
        steps = {"w_group": problem.rows * problem.channels * taps, "w_row": problem.channels * taps, "w_channel": taps}
        steps |= {"w_first": 0, "w_step": 1}
    sizes = {name: getattr(problem, name) for name in ("groups", "rows", "channels", "depth", "strips", "u_plane")}
    sizes |= dict(zip(("kernel_rows", "kernel_columns", "kh", "kw"), problem.parts + problem.kernel[1:], strict=True))
    scratch = 9 * lanes(problem.dtype) * max(lanes(problem.dtype), problem.terms // problem.channels)
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
PIECES_CYCLES, PIECE_CYCLES = (8, 5), 7  # to read a row of a vector of tiles in pieces, and more for each; to write one
NEAR_BYTES, FAR_BYTES, CACHE_BYTES = (
    25,
    12,
    24 << 20,
)  # read in a nanosecond from the last cache, of this size, and memory


def _form_cost(problem, M, pieces):
    """The multiplications or, if that takes longer, reading U once a block; and the transforms."""
    LANES, A = lanes(problem.dtype), M + 2
    tiles, rows = problem.tiles(M, pieces), problem.groups * problem.strips * STRIP
    width, vectors = problem.tile_rows(M, pieces)[1], split(tiles, LANES)
    if pieces:
        reads = vectors * (PIECES_CYCLES[0] + PIECES_CYCLES[1] * pieces)
        writes = tiles // (LANES // pieces) * PIECE_CYCLES
    else:
        runs = tiles // width * split(width, LANES)
        reads = runs * (ROW_CYCLES + (GATHER_CYCLES if problem.dilation[2] > 1 else 0))
        writes = runs * WRITE_CYCLES
    products = A * A * max(tiles / LANES, 0.3) * problem.terms * rows
    inputs = problem.groups * problem.terms * (A * reads + A * A * vectors * COLUMN_CYCLES)
    outputs = rows * (A * A * vectors * OUT_CYCLES + M * writes)
    weights = A * A * problem.terms * rows * np.dtype(problem.dtype).itemsize
    reading = split(tiles, MOST_TILES) * weights / (NEAR_BYTES if weights < CACHE_BYTES else FAR_BYTES)
    cycle = 2 * LANES * NANOSECONDS_PER_FLOP
    return max(products * cycle, reading) + cycle * (inputs + outputs)


@lru_cache(maxsize=1024)
def best_form(problem, M):
    """(pieces in a vector of tiles, or 0 for runs of any length; the cost)."""
    forms = [0, M, 2 * M] if problem.dilation[1:] == (1, 1) else [0]
    costs = {pieces: _form_cost(problem, M, pieces) for pieces in forms if pieces <= lanes(problem.dtype)}
    best = min(costs, key=lambda pieces: costs[pieces])
    return best, costs[best]


def _cost(problem, M):
    return best_form(problem, M)[1]


def _pack_cost(problem):
    slower = 1 if problem.parts == (1, 1) else 3
    return PACK_NANOSECONDS * slower * problem.groups * problem.strips * problem.terms


def refusal(spec):
    if spec.dtype != "float32":
        return f"is tuned for float32, has {spec.dtype}"
    if min(spec.kh, spec.kw) < 3 or max(spec.kh, spec.kw) > MOST_KERNEL:
        return f"needs a kernel of 3 x 3 to {MOST_KERNEL} x {MOST_KERNEL}, has {spec.kh} x {spec.kw}"
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
