"""The stages of Winograd convolution on a block of tiles: input transform, products, output transform.

See `winograd.py`, which puts them together and has the formula.
"""

from functools import cache

from .._jit import helper
from ..simd import add_part, clamp_tile, fma_run, load_tile, store_part, store_tile, zero_tile
from ..simd_winograd import winograd_columns, winograd_out, winograd_pieces, winograd_row
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


@cache
def make_input(M, LANES):
    """V of a block of tiles."""
    A, N, gather_run = M + 2, 2 * M, make_copy_run(0, LANES)

    @helper
    def transform_row(a, x, row, inside, column, count, r, at, line):
        """The rows' half of the transform for `count` tiles from a column of the image row that begins at x[row];
        dilated, the pixels are brought together in `line` first."""
        for j in range(0, count, LANES):
            start = column + j * M * a.dw
            if a.dw == 1:
                low, high = (-start, a.xw - start) if inside else (0, 0)
                winograd_row(x, row + start, low, high, r, at + j, a.r_pitch, M)
            else:
                wanted = min(M * LANES, M * (count - j)) + 2
                low, high = first_inside(start, a.dw), end_inside(start, a.dw, a.xw, wanted)
                low, high = (low, high) if inside else (0, 0)
                gather_run(x, row + start, a.dw, low, high, wanted, line, 0)
                winograd_row(line, 0, 0, wanted, r, at + j, a.r_pitch, M)

    @helper
    def transform_runs(a, x, plane0, tap, row0, column0, runs, r, line):
        for n in range(0, runs.size, RUN):
            depth = runs[n + DEPTH] * a.sd - a.pd + tap * a.dd
            plane = runs[n + IMAGE] * a.groups * a.channels * a.xd + plane0 + depth
            for i in range(A):
                h = runs[n + IN_ROW] + row0 + i * a.dh
                inside = 0 <= depth < a.xd and 0 <= h < a.xh
                row, at = (plane * a.xh + h) * a.xw, i * A * a.r_pitch + runs[n + FIRST]
                transform_row(a, x, row, inside, runs[n + IN_COLUMN] + column0, runs[n + COUNT], r, at, line)

    @helper
    def transform_input(a, x, term, g, runs, count, r, v, vi, line):
        """V of a block of tiles for one term: a channel of the image under one of the kernels of 3 x 3 pixels that the
        kernel is made of."""
        kernel, c = term // a.channels, term % a.channels
        tap, rest = kernel // (a.kernel_rows * a.kernel_columns), kernel % (a.kernel_rows * a.kernel_columns)
        row0, column0 = rest // a.kernel_columns * 3 * a.dh, rest % a.kernel_columns * 3 * a.dw
        plane = (g * a.channels + c) * a.xd
        if a.pieces:
            at = ((plane + tap * a.dd) * a.xh + row0) * a.xw + column0
            for j in range(0, count, LANES):
                where, d = j // LANES * a.pieces * RUN + SOURCE, tap * a.dd
                if a.pieces == M:
                    winograd_pieces(x, at, runs, where, RUN, d, row0, column0, a.xd, a.xh, a.xw, r, j, a.r_pitch, M, M)
                else:
                    winograd_pieces(x, at, runs, where, RUN, d, row0, column0, a.xd, a.xh, a.xw, r, j, a.r_pitch, M, N)
        else:
            transform_runs(a, x, plane, tap, row0, column0, runs, r, line)
        for j in range(0, count, LANES):
            winograd_columns(r, j, a.r_pitch, v, vi + j, a.v_plane, M)

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
def make_output(M, LANES):
    """Pixels of a block of tiles from M."""

    write_row, write_piece = make_write(M, LANES), make_write(1, LANES)

    @helper
    def write_apart(a, o, oi, count, y, yi):
        """write_row for pixels dw apart."""
        low, high = y.dtype.type(a.low), y.dtype.type(a.high)
        for j in range(count):
            value = o[oi + j] + (y[yi + j * a.dw] if a.accumulate else y.dtype.type(0))
            value = low if value < low else value
            y[yi + j * a.dw] = high if value > high else value

    @helper
    def transform_output(a, m, mi, bias, oi, g, row, runs, count, o, y):
        """One output channel of a block of tiles."""
        o_row = M * a.pitch
        for j in range(0, count, LANES):
            winograd_out(m, mi + j, a.m_plane, bias, oi, o, M * j, o_row, M)
        for n in range(0, runs.size, RUN):
            plane = ((runs[n + IMAGE] * a.groups + g) * a.rows + row) * a.yd + runs[n + DEPTH]
            at = (plane * a.yh + runs[n + OUT_ROW]) * a.yw + runs[n + OUT_COLUMN]
            for i in range(runs[n + HEIGHT]):
                oi = i * o_row + M * runs[n + FIRST]
                if a.pieces:
                    write_piece(a, o, oi, runs[n + WIDTH], y, at + i * a.yw, a.low, a.high)
                elif a.dw == 1:
                    write_row(a, o, oi, runs[n + WIDTH], y, at + i * a.dh * a.yw, a.low, a.high)
                else:
                    write_apart(a, o, oi, runs[n + WIDTH], y, at + i * a.dh * a.yw)

    return transform_output
