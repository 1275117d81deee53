"""The stages of Winograd convolution on a block of tiles: input transform, products, output transform.

See `winograd.py`, which puts them together and has the formula.
"""

from functools import cache

from .._jit import helper
from ..simd import add_part, clamp_tile, fma_run, load_tile, store_part, store_tile, zero_tile
from ..simd_winograd import (
    winograd_apart,
    winograd_columns,
    winograd_out,
    winograd_out_apart,
    winograd_row,
    winograd_sizes,
    winograd_stride,
)
from ..simd_winograd_pieces import winograd_out_pieces, winograd_pieces
from .patches import end_inside, first_inside, make_copy_run

STRIP = 16  # output channels that lie side by side in U

BLOCK_K = 64  # terms of one sum
FEW, MOST_FEW = 4, 8  # tiles that are left over: up to MOST_FEW are multiplied FEW at a time
AHEAD = 64 * STRIP  # of the weights in use: those asked for


# A run is tiles of one block that lie side by side in one row of tiles; its entry in the table of runs:
RUN = 18  # numbers of an entry
FIRST, COUNT, IMAGE, DEPTH = 0, 1, 2, 3  # first tile in the block, tiles, image, depth of the output
IN_ROW, IN_COLUMN = 4, 5  # of the first tile's first pixel in the source
OUT_ROW, OUT_COLUMN, HEIGHT, WIDTH = 6, 7, 8, 9  # of its first pixel in the output, and how many pixels lie inside it
SOURCE = 10  # its first pixel in the source, that pixel's row, bits of the columns inside from there on, its depth
TARGET = 14  # the same of the output

# Where rows of tiles are short, runs are pieces, a vector of pixels wide or half of one: a vector of tiles is M or 2 M
# of them from anywhere.
# Where the pixels of a tile lie apart (the columns of a dilated kernel, or of one that is one column wide), tiles that
# begin at neighbouring pixels lie side by side: a vector of tiles is one of pixels, at any distance.


@cache
def make_rows(FH, FW, APART, LANES):
    """The rows' half of the transform, for runs of tiles."""
    (AH, _, _), (AW, MW, RW), gather_run = winograd_sizes(FH), winograd_sizes(FW), make_copy_run(0, LANES)
    STEP = MW * winograd_stride(FW)

    @helper
    def transform_row(a, x, row, inside, column, count, r, at, pitch, line):
        """`count` tiles from a column of the image row that begins at x[row]."""
        for j in range(0, count, LANES):
            if APART:
                start = column + j
                low, high = (-start, a.xw - start) if inside else (0, 0)
                winograd_apart(x, row + start, low, high, a.dw, r, at + j, pitch, FW)
            elif a.dw == 1:
                start = column + j * STEP
                low, high = (-start, a.xw - start) if inside else (0, 0)
                winograd_row(x, row + start, low, high, r, at + j, pitch, FW)
            else:  # dilated pixels are brought together in `line` first
                start = column + j * MW * a.dw
                wanted = min(MW * LANES, MW * (count - j)) + RW - 1
                low, high = first_inside(start, a.dw), end_inside(start, a.dw, a.xw, wanted)
                low, high = (low, high) if inside else (0, 0)
                gather_run(x, row + start, a.dw, low, high, wanted, line, 0)
                winograd_row(line, 0, 0, wanted, r, at + j, pitch, FW)

    @helper
    def transform_runs(a, x, plane0, tap, row0, column0, runs, r, ri, pitch, line):
        for n in range(0, runs.size, RUN):
            depth = runs[n + DEPTH] * a.sd - a.pd + tap * a.dd
            plane = runs[n + IMAGE] * a.groups * a.channels * a.xd + plane0 + depth
            for i in range(AH):
                h = runs[n + IN_ROW] + row0 + i * a.dh
                inside = 0 <= depth < a.xd and 0 <= h < a.xh
                row, at = (plane * a.xh + h) * a.xw, ri + i * AW * pitch + runs[n + FIRST]
                transform_row(a, x, row, inside, runs[n + IN_COLUMN] + column0, runs[n + COUNT], r, at, pitch, line)

    return transform_runs


def has_pieces(FH, FW, APART):
    """Whether tiles may lie in pieces."""
    return FH == FW and not APART and winograd_stride(FW) == 1


@cache
def make_pieces(F, LANES):
    """The rows' half of the transform, for tiles in pieces."""
    _, M, _ = winograd_sizes(F)
    N = 2 * M

    @helper
    def transform_pieces(a, x, plane, tap, row0, column0, runs, count, r):
        at, d = ((plane + tap * a.dd) * a.xh + row0) * a.xw + column0, tap * a.dd
        for j in range(0, count, LANES):
            where = j // LANES * a.pieces * RUN + SOURCE
            if a.pieces == M:
                winograd_pieces(x, at, runs, where, RUN, d, row0, column0, a.xd, a.xh, a.xw, r, j, a.r_pitch, F, M)
            else:
                winograd_pieces(x, at, runs, where, RUN, d, row0, column0, a.xd, a.xh, a.xw, r, j, a.r_pitch, F, N)

    return transform_pieces


@cache
def make_term(FH, FW):
    (_, _, RH), (_, _, RW) = winograd_sizes(FH), winograd_sizes(FW)

    @helper
    def place_of(a, term, g):
        """(plane of the channel, tap in depth, first row, first column) of a term: a channel of the image under one of
        the kernels of RH x RW pixels that the kernel is made of."""
        kernel, c = term // a.channels, term % a.channels
        tap, rest = kernel // (a.kernel_rows * a.kernel_columns), kernel % (a.kernel_rows * a.kernel_columns)
        row0, column0 = rest // a.kernel_columns * RH * a.dh, rest % a.kernel_columns * RW * a.dw
        return (g * a.channels + c) * a.xd, tap, row0, column0

    return place_of


@cache
def make_input(FH, FW, APART, LANES):
    """V of a block of tiles, for one term."""
    place_of, transform_runs = make_term(FH, FW), make_rows(FH, FW, APART, LANES)
    if FH == 11:

        @helper
        def transform_rows(a, x, term, g, runs, count, r, v, vi, line):
            plane, tap, row0, column0 = place_of(a, term, g)
            transform_runs(a, x, plane, tap, row0, column0, runs, v, vi, a.v_plane, line)

        return transform_rows

    if not has_pieces(FH, FW, APART):

        @helper
        def transform_both(a, x, term, g, runs, count, r, v, vi, line):
            plane, tap, row0, column0 = place_of(a, term, g)
            transform_runs(a, x, plane, tap, row0, column0, runs, r, 0, a.r_pitch, line)
            for j in range(0, count, LANES):
                winograd_columns(r, j, a.r_pitch, v, vi + j, a.v_plane, FH, FW)

        return transform_both

    transform_pieces = make_pieces(FW, LANES)

    @helper
    def transform_input(a, x, term, g, runs, count, r, v, vi, line):
        plane, tap, row0, column0 = place_of(a, term, g)
        if a.pieces:
            transform_pieces(a, x, plane, tap, row0, column0, runs, count, r)
        else:
            transform_runs(a, x, plane, tap, row0, column0, runs, r, 0, a.r_pitch, line)
        for j in range(0, count, LANES):
            winograd_columns(r, j, a.r_pitch, v, vi + j, a.v_plane, FH, FW)

    return transform_input


@cache
def make_multiply(MR, NR, LANES):
    """M (MR, NR*LANES) = U V for one frequency."""

    @helper
    def multiply(u, ui, v, vi, pitch, terms, m, mi):
        for k in range(0, terms, BLOCK_K):
            ua, va, count = ui + k * STRIP, vi + k * pitch, min(terms - k, BLOCK_K)
            acc = zero_tile(v, MR, NR)
            acc = fma_run(acc, u, ua, 1, STRIP, v, va, pitch, u, ua + AHEAD, STRIP, count, MR, NR)
            if k:
                acc = add_part(acc, m, mi, pitch, 0, NR * LANES, MR, NR)
            store_tile(acc, m, mi, pitch, MR, NR)

    return multiply


@cache
def make_multiply_few(LANES):
    """M for FEW tiles, with output channels as lanes."""
    NR = STRIP // LANES

    @helper
    def multiply_few(u, ui, v, vi, pitch, terms, m, mi, o):
        for k in range(0, terms, BLOCK_K):
            ua, va, count = ui + k * STRIP, vi + k * pitch, min(terms - k, BLOCK_K)
            acc = zero_tile(v, FEW, NR)
            acc = fma_run(acc, v, va, 1, pitch, u, ua, STRIP, u, ua + AHEAD, STRIP, count, FEW, NR)
            if k:
                acc = add_part(acc, o, 0, STRIP, 0, STRIP, FEW, NR)
            store_tile(acc, o, 0, STRIP, FEW, NR)
        for row in range(STRIP):
            for t in range(FEW):
                m[mi + row * pitch + t] = o[t * STRIP + row]

    return multiply_few


@cache
def make_products(LANES, MR, HIGH):
    """M of one frequency and a strip of output channels, in register tiles as wide as fits."""
    wide, double, single = make_multiply(MR, 3, LANES), make_multiply(MR, 2, LANES), make_multiply(HIGH, 1, LANES)
    multiply_few = make_multiply_few(LANES)

    @helper
    def products(u, ui, v, vi, count, pitch, terms, m, mi, o):
        j = 0
        while count - j > MOST_FEW:
            left = (count - j + LANES - 1 - MOST_FEW) // LANES
            if left == 1:
                for half in range(0, STRIP, HIGH):
                    single(u, ui + half, v, vi + j, pitch, terms, m, mi + half * pitch + j)
                j += LANES
            elif left == 2 or left == 4:
                for half in range(0, STRIP, MR):
                    double(u, ui + half, v, vi + j, pitch, terms, m, mi + half * pitch + j)
                j += 2 * LANES
            else:
                for half in range(0, STRIP, MR):
                    wide(u, ui + half, v, vi + j, pitch, terms, m, mi + half * pitch + j)
                j += 3 * LANES
        for t in range(j, count, FEW):
            multiply_few(u, ui, v, vi + t, pitch, terms, m, mi + t, o)

    return products


@cache
def make_write(NR, LANES):
    @helper
    def write_row(a, o, oi, count, y, yi, low, high):
        """y[yi + j] = o[oi + j] for j < count, plus what y holds where that is wanted, clamped."""
        for j in range(0, count, NR * LANES):
            left = count - j
            acc = load_tile(o, oi + j, 0, 1, NR)
            if a.accumulate:
                acc = add_part(acc, y, yi + j, 0, 0, left, 1, NR)
            acc = clamp_tile(acc, low, high, 1, NR)
            store_part(acc, y, yi + j, 0, 0, left, 1, NR)

    return write_row


@cache
def make_write_apart(MW, LANES):
    """write_row for tiles whose pixels lie dw apart."""
    write_row = make_write(1, LANES)

    @helper
    def write_columns(a, o, oi, pitch, count, column, y, yi):
        """Tiles side by side, each of whose MW pixels is in a row of o."""
        for j in range(MW):
            width = min(count, a.yw - column - j * a.dw)
            write_row(a, o, oi + j * pitch, width, y, yi + j * a.dw, a.low, a.high)

    @helper
    def write_pixels(a, o, oi, count, y, yi):
        """Pixels of tiles that lie side by side in o."""
        low, high = y.dtype.type(a.low), y.dtype.type(a.high)
        for j in range(count):
            value = o[oi + j] + (y[yi + j * a.dw] if a.accumulate else y.dtype.type(0))
            value = low if value < low else value
            y[yi + j * a.dw] = high if value > high else value

    return write_columns, write_pixels


@cache
def make_output(FH, FW, APART, LANES):
    """Pixels of a block of tiles from M."""
    _, MW, _ = winograd_sizes(FW)
    write_row, (write_columns, write_pixels) = make_write(MW, LANES), make_write_apart(MW, LANES)

    @helper
    def write_run(a, o, oi, first, count, width, column, y, at):
        """One row of pixels of a run of tiles, whose row in o begins at oi."""
        if APART:
            write_columns(a, o, MW * oi + first, a.pitch, count, column, y, at)
        elif a.dw == 1:
            write_row(a, o, MW * (oi + first), width, y, at, a.low, a.high)
        else:
            write_pixels(a, o, MW * (oi + first), width, y, at)

    @helper
    def transform_runs(a, m, mi, bias, oi, g, row, runs, count, o, y):
        """One output channel of a block of tiles."""
        for j in range(0, count, LANES):
            if APART:
                winograd_out_apart(m, mi + j, a.m_plane, bias, oi, o, j, MW * a.pitch, a.pitch, FH, FW)
            else:
                winograd_out(m, mi + j, a.m_plane, bias, oi, o, MW * j, MW * a.pitch, FH, FW)
        for n in range(0, runs.size, RUN):
            plane = ((runs[n + IMAGE] * a.groups + g) * a.rows + row) * a.yd + runs[n + DEPTH]
            at, column = (plane * a.yh + runs[n + OUT_ROW]) * a.yw + runs[n + OUT_COLUMN], runs[n + OUT_COLUMN]
            for i in range(runs[n + HEIGHT]):
                place = at + i * a.dh * a.yw
                write_run(a, o, i * a.pitch, runs[n + FIRST], runs[n + COUNT], runs[n + WIDTH], column, y, place)

    return make_output_pieces(FW, LANES, transform_runs) if has_pieces(FH, FW, APART) else transform_runs


@cache
def make_output_pieces(F, LANES, transform_runs):
    """Pixels of a block of tiles from M, in pieces or in runs."""
    _, M, _ = winograd_sizes(F)
    N = 2 * M

    @helper
    def transform_output(a, m, mi, bias, oi, g, row, runs, count, o, y):
        if not a.pieces:
            transform_runs(a, m, mi, bias, oi, g, row, runs, count, o, y)
            return
        at, size, bounds = (g * a.rows + row) * a.yd * a.yh * a.yw, (a.yd, a.yh, a.yw), (a.low, a.high)
        for j in range(0, count, LANES):
            f, n = mi + j, j // LANES * a.pieces * RUN + TARGET
            if a.pieces == M:
                winograd_out_pieces(m, f, a.m_plane, bias, oi, y, at, runs, n, RUN, size, a.accumulate, bounds, F, M)
            else:
                winograd_out_pieces(m, f, a.m_plane, bias, oi, y, at, runs, n, RUN, size, a.accumulate, bounds, F, N)

    return transform_output
