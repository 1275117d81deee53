"""The weight gradient of 3 x 3 convolutions by Winograd's transforms:

    gw = G^T [sum over tiles of (A gy A^T) * (B^T d B)] G

(the transposed form of the forward pass in `winograd.py`, whose runs and blocks of tiles it shares). Lanes are tiles,
so the sum over tiles is a dot product of the transformed rows of a gradient and of an input channel, which a block of
tiles keeps in the caches.  The tiles of all images are summed in a fixed number of chunks, whatever the number of
threads.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, TileBody, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, zero_vector
from ..simd_winograd import winograd_sizes
from ..simd_winograd_backward import (
    dot_products,
    winograd_gradient_columns,
    winograd_gradient_pieces,
    winograd_gradient_row,
    winograd_weight_gradient,
)
from .gathers import NANOSECONDS_PER_FLOP, split
from .winograd import plane_refusal
from .winograd_problem import COLUMN_CYCLES, Problem, best_order, count_tiles, forward_problem, read_cycles, tile_runs
from .winograd_stages import COUNT, DEPTH, FIRST, HEIGHT, IMAGE, OUT_COLUMN, OUT_ROW, RUN, TARGET, WIDTH, make_input

GradientBlock = Block(
    "WinogradGradient",
    {"x": None, "gy": None, "gw": None, "runs": "i8", "starts": "i8", "scratch": None},
    "xd xh xw yd yh yw groups channels depth rows blocks chunks row_part row_parts term_part term_parts pitch r_pitch "
    "y_plane v_plane u_plane sd pd dd dh dw kernel_rows kernel_columns pieces",
)
SumBlock = Block("WinogradSum", "parts gw", "count part")


@cache
def make_gradient(F, LANES):
    """The transform of the gradient of a block of tiles."""
    A, M, _ = winograd_sizes(F)
    N = 2 * M

    @helper
    def transform_pieces(a, gy, row, g, runs, count, r):
        plane = (g * a.rows + row) * a.yd * a.yh * a.yw
        for j in range(0, count, LANES):
            where = j // LANES * a.pieces * RUN + TARGET
            if a.pieces == M:
                winograd_gradient_pieces(gy, plane, runs, where, RUN, a.yd, a.yh, a.yw, r, j, a.r_pitch, F, M)
            else:
                winograd_gradient_pieces(gy, plane, runs, where, RUN, a.yd, a.yh, a.yw, r, j, a.r_pitch, F, N)

    @helper
    def transform_runs(a, gy, row, g, runs, r):
        for n in range(0, runs.size, RUN):
            plane = ((runs[n + IMAGE] * a.groups + g) * a.rows + row) * a.yd + runs[n + DEPTH]
            place = (plane * a.yh + runs[n + OUT_ROW]) * a.yw + runs[n + OUT_COLUMN]
            for i in range(M):
                width = runs[n + WIDTH] if i < runs[n + HEIGHT] else 0
                for j in range(0, runs[n + COUNT], LANES):
                    at = i * A * a.r_pitch + runs[n + FIRST] + j
                    winograd_gradient_row(gy, place + i * a.yw + M * j, width - M * j, r, at, a.r_pitch, F)

    @helper
    def transform_gradient(a, gy, row, g, runs, count, r, y, yi):
        if a.pieces:
            transform_pieces(a, gy, row, g, runs, count, r)
        else:
            transform_runs(a, gy, row, g, runs, r)
        for j in range(0, count, LANES):
            winograd_gradient_columns(r, j, a.r_pitch, y, yi + j, a.y_plane, F)

    return transform_gradient


@cache
def make_finish(F, MR, NR):
    """The gradient of the weights from the sums of products."""
    LANES = MR * NR

    @helper
    def finish(a, u, row0, rows, term0, terms, g, w, gw, out):
        blocks = (terms + NR - 1) // NR
        for m in range(0, rows, MR):
            for k in range(0, terms, NR):
                winograd_weight_gradient(u, (m // MR * blocks + k // NR) * LANES, a.u_plane, w, 0, F)
                for lane in range(LANES):
                    row, term = m + lane // NR, k + lane % NR
                    if row < rows and term < terms:
                        term += term0
                        place = (g * a.rows + row0 + row) * a.channels + term % a.channels
                        for t in range(9):
                            gw[out + (place * a.depth + term // a.channels) * 9 + t] = w[t * LANES + lane]

    return finish


@cache
def make_weights(dtype, F, MR, NR):
    """The kernel for tiles of shape (F, F), whose dot products are taken for MR gradients and NR channels at a time."""
    KIND, ITEM, LANES, A2 = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype), winograd_sizes(F)[0] ** 2
    transform_input, transform_gradient = make_input(F, F, False, LANES), make_gradient(F, LANES)
    finish = make_finish(F, MR, NR)

    @tile_body(GradientBlock, dtype)
    def conv_bwd_weights_winograd(block, tile, worker):
        """Tile: (chunk of the blocks of tiles, group, part of the output channels, part of the input channels)."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        table, starts = array_at(a.runs, a.runs_size, "i8"), array_at(a.starts, a.starts_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        y, v = scratch[: A2 * a.y_plane], scratch[A2 * a.y_plane : A2 * (a.y_plane + a.v_plane)]
        u = scratch[A2 * (a.y_plane + a.v_plane) :]
        r = u[A2 * a.u_plane :]

        term_part, rest = tile % a.term_parts, tile // a.term_parts
        row_part, rest = rest % a.row_parts, rest // a.row_parts
        g, chunk = rest % a.groups, rest // a.groups
        row0, term0 = row_part * a.row_part, term_part * a.term_part
        rows, terms = min(a.row_part, a.rows - row0), min(a.term_part, a.channels * a.depth - term0)
        blocks = (terms + NR - 1) // NR
        for i in range(0, A2 * a.u_plane, LANES):
            zero_vector(u, i)
        for b in range(a.blocks * chunk // a.chunks, a.blocks * (chunk + 1) // a.chunks):
            runs, count = table[starts[2 * b + 1] : starts[2 * b + 3]], starts[2 * b + 2]
            whole = (count + LANES - 1) // LANES * LANES
            for f in range(A2):  # lanes behind the last tile add nothing
                zero_vector(r, f * a.r_pitch + whole - LANES)
            for k in range(terms):
                transform_input(a, x, term0 + k, g, runs, count, r, v, k * a.pitch, r)
            for f in range(A2):
                zero_vector(r, f * a.r_pitch + whole - LANES)
            for row in range(rows):
                transform_gradient(a, gy, row0 + row, g, runs, count, r, y, row * a.pitch)
            for f in range(A2):
                for m in range(0, rows, MR):
                    for k in range(0, terms, NR):
                        at = f * a.u_plane + (m // MR * blocks + k // NR) * LANES
                        yi, vi = f * a.y_plane + m * a.pitch, f * a.v_plane + k * a.pitch
                        dot_products(y, yi, a.pitch, v, vi, a.pitch, whole, u, at, MR, NR)
        finish(a, u, row0, rows, term0, terms, g, r, gw, chunk * (gw.size // a.chunks))

    return conv_bwd_weights_winograd


@cache
def make_sum(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(SumBlock, dtype)
    def conv_bwd_weights_winograd_sum(block, tile, worker):
        """gw = the sum of its chunks, in order.  Tile: `part` values."""
        a = fields(block)
        parts, gw = array_at(a.parts, a.parts_size, KIND), array_at(a.gw, a.gw_size, KIND)
        for i in range(tile * a.part, min(gw.size, (tile + 1) * a.part)):
            value = parts[i]
            for n in range(1, a.count):
                value += parts[n * gw.size + i]
            gw[i] = value

    return conv_bwd_weights_winograd_sum


# ---- programs

F = 43
TILE = F, F
A, M, _ = winograd_sizes(F)
ROW_PART, TERM_PART = 128, 224  # channels whose sums are kept at once: 4 MB
BLOCK_BYTES, LEAST_TILES, MOST_TILES = 3 << 20, 96, 256  # of the transformed rows and channels of a block of tiles
CHUNKS = 4  # sums that are taken apart from each other, where there are too few other tiles for many threads
SUM_PART = 8192


class Plan(NamedTuple):
    """The row of a problem but for its arrays."""

    body: TileBody
    tiles: int
    numbers: dict
    scratch: int
    work: float


def _tile(dtype):
    """(rows, columns) of the dot products taken at once: as many as lanes."""
    return {16: (4, 4), 8: (2, 4), 4: (2, 2), 2: (1, 2)}[lanes(dtype)]


def _even(size, most, multiple):
    """The size of equal parts of at most `most`, in multiples."""
    return split(split(size, split(size, most)), multiple) * multiple


def _order(problem):
    return best_order(problem, TILE)[0]


def _blocks(problem):
    """(part of the rows, part of the terms, blocks of tiles, tiles in all)."""
    (MR, NR), tiles = _tile(problem.dtype), count_tiles(problem, TILE, _order(problem))
    itemsize = np.dtype(problem.dtype).itemsize
    row_part, term_part = _even(problem.rows, ROW_PART, MR), _even(problem.terms(TILE), TERM_PART, NR)
    most = BLOCK_BYTES // (A * A * itemsize * (row_part + term_part))
    return row_part, term_part, split(tiles, min(MOST_TILES, max(LEAST_TILES, most))), tiles


@lru_cache(maxsize=1024)
def _plan(problem):
    LANES, A2 = lanes(problem.dtype), A * A
    row_part, term_part, blocks, tiles = _blocks(problem)
    blocks = min(blocks, split(tiles, LANES))
    row_parts, term_parts = split(problem.rows, row_part), split(problem.terms(TILE), term_part)
    others = problem.groups * row_parts * term_parts
    chunks = min(blocks, CHUNKS) if others < 2 * CHUNKS else 1
    pitch = split(split(tiles, LANES), blocks) * LANES
    numbers = {
        **dict(zip(("xd", "xh", "xw", "yd", "yh", "yw"), problem.source + problem.grid, strict=True)),
        **dict(zip(("dd", "dh", "dw"), problem.dilation, strict=True)),
        **{"groups": problem.groups, "channels": problem.channels, "depth": problem.depth, "rows": problem.rows},
        **{"sd": problem.depth_step, "pd": problem.padding[0], "blocks": blocks, "chunks": chunks},
        **{"row_part": row_part, "row_parts": row_parts, "term_part": term_part, "term_parts": term_parts},
        **{"pitch": pitch, "r_pitch": pitch + LANES},
        **{"y_plane": row_part * pitch + LANES, "v_plane": term_part * pitch + LANES},
        **{"u_plane": row_part * term_part + LANES, "kernel_rows": 1, "kernel_columns": 1},
        **{"pieces": _order(problem)},
    }
    numbers["runs"], numbers["starts"] = tile_runs(problem, TILE, blocks, _order(problem))
    scratch = A2 * (numbers["y_plane"] + numbers["v_plane"] + numbers["u_plane"] + numbers["r_pitch"])
    body = make_weights(problem.dtype, F, *_tile(problem.dtype))
    return Plan(body, others * chunks, numbers, scratch + 9 * LANES, _cost(problem))


def _cost(problem):
    """The multiplications, adding up their lanes once a block, and the transforms."""
    LANES, A2 = lanes(problem.dtype), A * A
    row_part, term_part, blocks, tiles = _blocks(problem)
    vectors, reads = split(tiles, LANES), read_cycles(problem, TILE, _order(problem))
    products = A2 * problem.rows * problem.terms(TILE) * (1.2 * vectors + 4 * blocks)
    gradients = problem.rows * split(problem.terms(TILE), term_part) * (M * reads + A2 * vectors * COLUMN_CYCLES)
    inputs = problem.terms(TILE) * split(problem.rows, row_part) * (A * reads + A2 * vectors * COLUMN_CYCLES)
    finish = 20 * problem.rows * problem.terms(TILE)
    return 2 * LANES * NANOSECONDS_PER_FLOP * problem.groups * (products + gradients + inputs + finish)


@implements("conv.bwd_weights", rank=20)
class BackwardWeights(Impl):
    name = "conv_bwd_weights_winograd_f4x3"

    @staticmethod
    def when(spec):
        if (spec.dh, spec.dw) != (1, 1):
            return f"needs dilation 1, has {spec.dh} x {spec.dw}"
        if (spec.kh, spec.kw) != (3, 3):
            return f"needs a kernel of 3 x 3, has {spec.kh} x {spec.kw}"
        return plane_refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(forward_problem(spec))

    @staticmethod
    def emit(spec, buffers):
        problem: Problem = forward_problem(spec)
        plan, gw = _plan(problem), buffers["gw"]
        chunks = plan.numbers["chunks"]
        values = {"x": buffers["x"], "gy": buffers["gy"], "gw": gw, **plan.numbers}
        if chunks == 1:
            return (Row(plan.body, plan.tiles, values, plan.work, plan.scratch),)
        parts = Temporary(chunks * gw.size, spec.dtype)
        add = {"parts": parts, "gw": gw, "count": chunks, "part": SUM_PART}
        return (
            Row(plan.body, plan.tiles, {**values, "gw": parts}, plan.work, plan.scratch, ("gw",)),
            Row(make_sum(spec.dtype), split(gw.size, SUM_PART), add, gw.size * 0.3 * chunks, 0, ("parts",)),
        )
