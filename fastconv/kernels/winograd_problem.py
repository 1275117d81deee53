"""Problems of Winograd convolution: how their tiles are laid out in vectors, and what that costs.

A tile is MH x MW pixels of the output, of neighbouring pixels of one residue where the kernel is dilated, for kernels
of RH x RW weights; its shape is the pair of F(MH, RH) and F(MW, RW), each written as in `simd_winograd.py`.  The tiles
of all images form one run; see `winograd_stages.py` for the orders in which they lie in vectors.
"""

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from ..simd import lanes
from ..simd_winograd import winograd_lines, winograd_sizes, winograd_stride
from .gathers import NANOSECONDS_PER_FLOP, split
from .winograd_stages import SOURCE, STRIP, TARGET

RUNS, APART = 0, -1  # orders; any other is the number of pieces in a vector of tiles


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
    stride: tuple = (1, 1)

    @property
    def depth(self):
        return self.kernel[0]

    def parts(self, tile):
        """Rows and columns of the kernels that the kernel is made of, with zeros behind its ends."""
        return tuple(split(size, winograd_sizes(F)[2]) for size, F in zip(self.kernel[1:], tile, strict=True))

    def terms(self, tile):
        return self.channels * self.depth * prod(self.parts(tile))

    @property
    def strips(self):
        return split(self.rows, STRIP)

    def u_plane(self, tile):
        """Elements of U from one frequency to the next: a line more than there are, or the lines of all frequencies
        would fall on a few sets of the cache."""
        return (self.strips * self.terms(tile) + 1) * STRIP


@lru_cache(maxsize=1024)
def forward_problem(spec):
    return Problem(
        *(spec.dtype, spec.n, spec.g, spec.icg, spec.ocg, (spec.kd, spec.kh, spec.kw), (spec.id, spec.ih, spec.iw)),
        *((spec.od, spec.oh, spec.ow), (spec.pd, spec.ph, spec.pw), spec.sd, (spec.dd, spec.dh, spec.dw), False),
        (spec.sh, spec.sw),
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


def line_length(problem):
    """The taps of a kernel in one direction; 0 where `line_problem` has no form for it."""
    if problem.kernel[1:] == (1, 1):
        same = problem.source[1:] == problem.grid[1:] and problem.padding[1:] == (0, 0) and problem.depth_step == 1
        return problem.kernel[0] if same else 0
    return 0 if problem.kernel[0] > 1 or min(problem.kernel[1:]) > 1 else max(problem.kernel)


@lru_cache(maxsize=1024)
def line_problem(problem):
    """The same problem with a kernel of one row or column: taps in depth become rows of planes laid out as lines."""
    d, padding = problem.dilation, problem.padding
    if problem.kernel[1:] == (1, 1):
        source, grid = ((1, size[0], size[1] * size[2]) for size in (problem.source, problem.grid))
        line = {"source": source, "grid": grid, "padding": (0, padding[0], 0), "dilation": (1, d[0], 1)}
        return problem._replace(kernel=(1, problem.kernel[0], 1), **line)
    return problem._replace(dilation=tuple(1 if k == 1 else step for k, step in zip(problem.kernel, d, strict=True)))


def outputs(tile):
    """(rows, columns) of pixels of a tile."""
    return winograd_sizes(tile[0])[1], winograd_sizes(tile[1])[1]


def frequencies(tile):
    """(rows, columns) of the values that a tile is transformed to."""
    return winograd_sizes(tile[0])[0], winograd_sizes(tile[1])[0]


def weight_planes(tile):
    """(rows, columns) of the transformed weights that differ."""
    return winograd_lines(tile[0]), winograd_lines(tile[1])


class Layout(NamedTuple):
    """How the tiles of a problem lie in an order."""

    rows: int  # of tiles in an image of pixels of one residue
    residues: tuple  # of rows and columns, that are apart from each other
    width: int  # tiles in a row
    run: int  # tiles of a row that lie side by side


def layout(problem, tile, order):
    (MH, MW), (dh, dw) = outputs(tile), problem.dilation[1:]
    rows, columns = split(split(problem.grid[1], dh), MH), problem.grid[2]
    if order == APART:
        run = dw if MW > 1 else columns
        whole, rest = divmod(columns, MW * run)
        return Layout(rows, (dh, 1), whole * run + min(rest, run), run)
    piece = lanes(problem.dtype) // order if order else 1
    width = split(split(split(columns, dw), MW), piece) * piece
    return Layout(rows, (dh, dw), width, width)


def count_tiles(problem, tile, order):
    shape = layout(problem, tile, order)
    return problem.images * problem.grid[0] * prod(shape.residues) * shape.rows * shape.width


def _pixels(channels, size, image, depth, row, column):
    """The entries of runs from SOURCE, or from TARGET on; channels: of an image."""
    place = ((image * channels * size[0] + depth) * size[1] + row) * size[2] + column
    low, high = np.clip(-column, 0, 62), np.clip(size[2] - column, 0, 62)
    bits = np.where(low < high, np.left_shift(1, high) - np.left_shift(1, low), 0)
    return place, row, bits, depth


def _first_tiles(shape, tiles, edges, order, LANES):
    """The first tile of each run."""
    if order > 0:
        return np.arange(0, tiles, LANES // order)
    starts = np.arange(0, tiles, shape.width)[:, None] + np.arange(0, shape.width, shape.run)
    return np.union1d(starts.ravel(), edges[:-1])


def tile_runs(problem, tile, blocks, order):
    """(the table of runs of all blocks, for each block: its tiles, the end of its runs; both behind a block 0 that has
    none)."""
    LANES, tiles, shape = lanes(problem.dtype), count_tiles(problem, tile, order), layout(problem, tile, order)
    (_, dh, dw), (MH, MW), (th, residues, tw, step) = problem.dilation, outputs(tile), shape
    edges = np.minimum(split(tiles, LANES) * np.arange(blocks + 1) // blocks * LANES, tiles)
    first = _first_tiles(shape, tiles, edges, order, LANES)
    block, row = np.searchsorted(edges, first, side="right") - 1, first // tw
    image, residue = row // (th * prod(residues)), row // th % prod(residues)
    h = residue // residues[1] + row % th * MH * dh
    place = first % tw
    if order == APART:
        w = place // step * MW * step + place % step if step < tw else place
    else:
        w = residue % dw + place * MW * dw
    count = np.diff(first, append=tiles)
    image, depth = np.divmod(image, problem.grid[0])
    in_depth = depth * problem.depth_step - problem.padding[0]
    in_row, in_column = h * problem.stride[0] - problem.padding[1], w * problem.stride[1] - problem.padding[2]
    table = np.stack(
        [
            *(first - edges[block], count, image, depth, in_row, in_column, h, w),
            np.clip(-((h - problem.grid[1]) // dh), 0, MH),
            np.clip(-((w - problem.grid[2]) // dw), 0, MW * count),
            *_pixels(problem.groups * problem.channels, problem.source, image, in_depth, in_row, in_column),
            *_pixels(problem.groups * problem.rows, problem.grid, image, depth, h, w),
        ],
        axis=1,
    )
    if order > 0:  # whole vectors of tiles: what is missing in the last one lies in no image
        nothing = np.zeros((-len(table) % order, table.shape[1]), np.int64)
        nothing[:, [SOURCE + 1, TARGET + 1]] = -(1 << 40)
        table = np.concatenate([table, nothing])
    ends = np.searchsorted(first, edges) * table.shape[1]
    ends[-1] = table.size
    return table.astype(np.int64).ravel(), np.stack([np.diff(edges, prepend=0), ends], axis=1).astype(np.int64).ravel()


# ---- costs

ROW_CYCLES, VALUE_CYCLES = 30, 3.5  # to transform one row of a vector of tiles, and more for each value of it
GATHER_CYCLES, PIXEL_CYCLES = 20, 2  # to bring dilated pixels together or apart, and for each of them
APART_CYCLES = 8, 22  # to read one row of a vector of pixels, and one of tiles whose pixels lie apart
COLUMN_CYCLES, OUT_CYCLES, OUT_ROW_CYCLES = 9, 14, 3  # of the other transforms of a vector of tiles, for each
# frequency; the last where tiles are one row high
WRITE_CYCLES, WRITE_APART_CYCLES = 45, 10  # to write one row of pixels of a run of tiles, one pixel of each tile of it
PIECES_CYCLES, PIECE_CYCLES = (8, 5), 5  # to read a row of a vector of tiles in pieces, and more for each; to write one
NEAR_BYTES, FAR_BYTES = 25, 12  # read in a nanosecond from the last cache, and from memory
CACHE_BYTES = 24 << 20  # of the last cache
WRITTEN_NEAR, WRITTEN_FAR, WRITTEN_CACHE = 30, 11, 12 << 20  # bytes of U in a nanosecond, below that size and above
STAGE_NANOSECONDS, PICK_NANOSECONDS = 28, 14  # to turn STRIP weights of STRIP kernels over, to pick a kernel of them
STRIDED = 0.6  # of these cycles for strided forms: a phase of one weight leaves pixels as they are
MOST_TILES = 96  # of a block of tiles of 36 frequencies: each passes once over U


def most_tiles(tile):
    """Tiles of a block at most."""
    return MOST_TILES * 36 // max(12, prod(frequencies(tile)))


def _vectors_of_runs(problem, tile, order):
    """Vectors of tiles in all runs."""
    LANES, shape = lanes(problem.dtype), layout(problem, tile, order)
    whole, rest = divmod(shape.width, shape.run)
    rows = count_tiles(problem, tile, order) // shape.width
    return rows * (whole * split(shape.run, LANES) + split(rest, LANES))


def _apart_cycles(problem, tile, order):
    """To bring the pixels of a vector of tiles together."""
    if order != RUNS or problem.dilation[2] == 1:
        return 0
    tiles = min(lanes(problem.dtype), layout(problem, tile, order).width)
    return GATHER_CYCLES + PIXEL_CYCLES * outputs(tile)[1] * tiles


def read_cycles(problem, tile, order):
    """To transform one row of each tile of one channel."""
    if order > 0:
        vectors = split(count_tiles(problem, tile, order), lanes(problem.dtype))
        return vectors * (PIECES_CYCLES[0] + PIECES_CYCLES[1] * order)
    A, M, _ = winograd_sizes(tile[1])
    cycles = APART_CYCLES[M > 1] if order == APART else ROW_CYCLES + VALUE_CYCLES * A
    return _vectors_of_runs(problem, tile, order) * (cycles + _apart_cycles(problem, tile, order))


def _write_cycles(problem, tile, order):
    """To write one row of pixels of each tile of one channel."""
    if order > 0:
        return count_tiles(problem, tile, order) // (lanes(problem.dtype) // order) * PIECE_CYCLES
    cycles = WRITE_APART_CYCLES * outputs(tile)[1] if order == APART else WRITE_CYCLES
    return _vectors_of_runs(problem, tile, order) * (cycles + _apart_cycles(problem, tile, order))


def _order_cost(problem, tile, order):
    """The multiplications or, if that takes longer, reading U once a block; and the transforms."""
    LANES, (AH, AW), terms = lanes(problem.dtype), frequencies(tile), problem.terms(tile)
    tiles, rows = count_tiles(problem, tile, order), problem.groups * problem.strips * STRIP
    vectors = split(tiles, LANES)
    products = AH * AW * max(tiles / LANES, 0.3) * terms * rows
    columns = AH * AW * vectors * COLUMN_CYCLES if AH > 1 else 0
    reads = problem.groups * terms * (AH * read_cycles(problem, tile, order) + columns)
    out = AH * AW * vectors * (OUT_CYCLES if min(AH, AW) > 1 else OUT_ROW_CYCLES)
    writes = rows * (out + outputs(tile)[0] * _write_cycles(problem, tile, order))
    weights = prod(weight_planes(tile)) * terms * rows * np.dtype(problem.dtype).itemsize
    reading = split(tiles, most_tiles(tile)) * weights / (NEAR_BYTES if weights < CACHE_BYTES else FAR_BYTES)
    cycle = 2 * LANES * NANOSECONDS_PER_FLOP
    share = STRIDED if winograd_stride(tile[0]) > 1 else 1
    return max(products * cycle, reading) + cycle * share * (reads + writes)


def orders(problem, tile):
    """The orders that the tiles of a problem may have."""
    (_, MW), (dh, dw) = outputs(tile), problem.dilation[1:]
    strides = winograd_stride(tile[0]) if tile[0] != 11 else problem.stride[0], winograd_stride(tile[1])
    if strides != problem.stride:
        return []
    if strides != (1, 1):
        return [RUNS] if (dh, dw) == (1, 1) else []
    if MW == 1:
        return [APART]
    found = [APART] if dw > 1 else []
    if MW % 2 == 0:  # pixels of neighbouring tiles are told apart in steps of two
        found.append(RUNS)
        if tile[0] == tile[1] and (dh, dw) == (1, 1):
            found += [order for order in (MW, 2 * MW) if order <= lanes(problem.dtype)]
    return found


@lru_cache(maxsize=1024)
def best_order(problem, tile):
    """(order, cost)."""
    costs = {order: _order_cost(problem, tile, order) for order in orders(problem, tile)}
    best = min(costs, key=lambda order: costs[order])
    return best, costs[best]


def is_regular(problem, tile):
    """Whether the kernels that the kernel is made of follow each other in memory as they are wanted."""
    taps, parts = prod(problem.kernel), problem.parts(tile)
    whole = taps == problem.depth * prod(parts) * prod(winograd_sizes(F)[2] for F in tile)
    return not problem.flipped and whole and (parts[1] == 1 or problem.kernel[1] == 1)


def pack_cost(problem, tile):
    """Writing U, and picking the weights of kernels that are not regular."""
    parts, taps = problem.depth * prod(problem.parts(tile)), prod(problem.kernel)
    size = prod(weight_planes(tile)) * problem.u_plane(tile) * problem.groups * np.dtype(problem.dtype).itemsize
    writing = size / (WRITTEN_NEAR if size < WRITTEN_CACHE else WRITTEN_FAR)
    picks = 0 if is_regular(problem, tile) else STAGE_NANOSECONDS * split(taps, STRIP) + PICK_NANOSECONDS * parts
    return writing + problem.groups * problem.strips * problem.channels * picks
