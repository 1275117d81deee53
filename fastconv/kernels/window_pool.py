"""Pooling of planes with small windows in vector registers: maximum with and without positions, and average.

One vector is LANES neighbouring outputs of a row; a block is R output rows of a plane by one vector, so that
overlapping windows share the input rows they load.  The kernel and the stride are compile-time numbers.
Tile: a run of row blocks, whatever plane they belong to.  Dense windows only: with padding of at most half the window
each of them holds a pixel.
"""

from dataclasses import replace
from functools import lru_cache
from math import prod

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes
from ..simd_depthwise import prefetch_rows
from ..simd_window import MAX, MAX_NAN, SUM, argmax_rows, divide_rows, pool_rows, store_rows
from .window import rows_per_tile

_SIZES = "ih iw oh ow ph pw blocks part far"
MaxBlock = Block("WindowMax", "x y", numbers=_SIZES)
AverageBlock = Block("WindowAverage", "x y row_counts column_counts", numbers=_SIZES)


@lru_cache
def make_window_max(dtype, KH, KW, SH, SW, R):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    DOWN, FAR = (R - 1) * SH + KH, (KW - 1) // SW * SW + SW * LANES  # input rows and columns that a block loads
    AHEAD = R * SH  # rows from one block to the next

    @tile_body(MaxBlock, dtype)
    def max_pool_fwd_window(block, tile, worker):
        """y[p, i, j] = max over r, s of x[p, i*SH - ph + r, j*SW - pw + s].  Tile: `part` blocks of R rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        high = (a.oh + R - 1) // R
        for n in range(tile * a.part, min((tile + 1) * a.part, a.blocks)):
            plane, i = n // high, n % high * R
            row, rows = i * SH - a.ph, a.oh - i
            whole = row >= 0 and row + DOWN <= a.ih and rows >= R
            for j in range(0, a.ow, LANES):
                column, columns = j * SW - a.pw, a.ow - j
                xi, yi = (plane * a.ih + row) * a.iw + column, (plane * a.oh + i) * a.ow + j
                if a.far:
                    for v in range(SW):
                        prefetch_rows(x, xi + AHEAD * a.iw + v * LANES, a.iw, AHEAD, 0)
                if whole and column >= 0 and column + FAR <= a.iw and columns >= LANES:
                    acc = pool_rows(x, xi, a.iw, 0, 0, 0, 0, MAX, KH, KW, SH, SW, R, 0)
                    store_rows(acc, y, yi, a.ow, R, LANES, R, 0)
                else:
                    acc = pool_rows(x, xi, a.iw, -row, a.ih - row, -column, a.iw - column, MAX, KH, KW, SH, SW, R, 1)
                    store_rows(acc, y, yi, a.ow, rows, columns, R, 1)
                if acc[R]:
                    acc = pool_rows(
                        x, xi, a.iw, -row, a.ih - row, -column, a.iw - column, MAX_NAN, KH, KW, SH, SW, R, 1
                    )
                    store_rows(acc, y, yi, a.ow, rows, columns, R, 1)

    return max_pool_fwd_window


@lru_cache
def make_window_argmax(dtype, KH, KW, SH, SW, R, at):
    KIND, LANES, AT = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(at).str[1:]
    DOWN, FAR = (R - 1) * SH + KH, (KW - 1) // SW * SW + SW * LANES

    @tile_body(Block(f"WindowArgmax{AT}", {"x": None, "y": None, "at": AT}, _SIZES), dtype)
    def max_pool_fwd_window_indices(block, tile, worker):
        """y[p, i, j] = the maximum of its window, at[p, i, j] = its position.  Tile: `part` blocks of R rows."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, AT)
        high = (a.oh + R - 1) // R
        for n in range(tile * a.part, min((tile + 1) * a.part, a.blocks)):
            plane, i = n // high, n % high * R
            row, rows = i * SH - a.ph, a.oh - i
            whole = row >= 0 and row + DOWN <= a.ih and rows >= R
            for j in range(0, a.ow, LANES):
                column, cols = j * SW - a.pw, a.ow - j
                base = row * a.iw + column
                xi, yi = plane * a.ih * a.iw + base, (plane * a.oh + i) * a.ow + j
                t0, t1, c0, c1 = -row, a.ih - row, -column, a.iw - column
                if whole and column >= 0 and column + FAR <= a.iw and cols >= LANES:
                    nan = argmax_rows(
                        x, xi, a.iw, t0, t1, c0, c1, y, at, yi, a.ow, R, LANES, base, MAX, KH, KW, SH, SW, R, 0
                    )
                else:
                    nan = argmax_rows(
                        x, xi, a.iw, t0, t1, c0, c1, y, at, yi, a.ow, rows, cols, base, MAX, KH, KW, SH, SW, R, 1
                    )
                if nan:
                    argmax_rows(
                        x, xi, a.iw, t0, t1, c0, c1, y, at, yi, a.ow, rows, cols, base, MAX_NAN, KH, KW, SH, SW, R, 1
                    )

    return max_pool_fwd_window_indices


@lru_cache
def make_window_average(dtype, KH, KW, SH, SW, R):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    DOWN, FAR, AHEAD = (R - 1) * SH + KH, (KW - 1) // SW * SW + SW * LANES, R * SH

    @tile_body(AverageBlock, dtype)
    def avg_pool_window(block, tile, worker):
        """y[p, i, j] = the sum of its window / (row_counts[i] * column_counts[j]).  Tile: `part` blocks of R rows."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        row_counts = array_at(a.row_counts, a.row_counts_size, KIND)
        column_counts = array_at(a.column_counts, a.column_counts_size, KIND)
        high = (a.oh + R - 1) // R
        for n in range(tile * a.part, min((tile + 1) * a.part, a.blocks)):
            plane, i = n // high, n % high * R
            row, rows = i * SH - a.ph, a.oh - i
            whole = row >= 0 and row + DOWN <= a.ih and rows >= R
            for j in range(0, a.ow, LANES):
                column, columns = j * SW - a.pw, a.ow - j
                xi, yi = (plane * a.ih + row) * a.iw + column, (plane * a.oh + i) * a.ow + j
                if a.far:
                    for v in range(SW):
                        prefetch_rows(x, xi + AHEAD * a.iw + v * LANES, a.iw, AHEAD, 0)
                if whole and column >= 0 and column + FAR <= a.iw and columns >= LANES:
                    acc = pool_rows(x, xi, a.iw, 0, 0, 0, 0, SUM, KH, KW, SH, SW, R, 0)
                    store_rows(divide_rows(acc, row_counts, i, column_counts, j, R), y, yi, a.ow, R, LANES, R, 0)
                else:
                    acc = pool_rows(x, xi, a.iw, -row, a.ih - row, -column, a.iw - column, SUM, KH, KW, SH, SW, R, 1)
                    store_rows(divide_rows(acc, row_counts, i, column_counts, j, R), y, yi, a.ow, rows, columns, R, 1)

    return avg_pool_window


# ---- implementations

_MOST_TAPS = 225  # beyond it a block is too much code
SECOND_LEVEL = 1 << 20  # bytes of a cache; what does not fit is asked for a block of rows ahead


def refusal(spec):
    """Why the window kernels can't compute a spec."""
    if spec.id > 1 or spec.kd > 1:
        return "needs a depth of 1"
    if (spec.dh, spec.dw) != (1, 1):
        return "needs dilation 1"
    if spec.sw > 4 or spec.kh * spec.kw > _MOST_TAPS:
        return f"needs a stride of at most 4 along the row and at most {_MOST_TAPS} taps"
    return None


def block_rows(spec):
    """Output rows of a block: they share input rows, masks and the cost of a block, as long as the code stays short.

    More than 4 rows of wide planes are too many streams for the machine to fetch ahead (2x2 at 112: 62 -> 76 us).
    """
    rows = 8 if spec.ow <= 2 * lanes(spec.dtype) else 4
    while rows > 1 and (rows >= 2 * spec.oh or _code(spec, rows) > _MOST_TAPS):
        rows //= 2
    return rows


def _code(spec, rows):
    """Combinations in the code of a block; with positions nothing is shared between rows."""
    return rows * spec.taps if spec.indices else ((rows - 1) * spec.sh + spec.kh) * spec.kw


def block_work(spec, R, per_tap):
    """Nanoseconds of the blocks across a plane: loads, combinations and stores of each vector."""
    vectors = -(-spec.ow // lanes(spec.dtype))
    taps = ((R - 1) * spec.sh + spec.kh) * spec.kw
    return 4 + vectors * (3 + R + per_tap * taps)


@lru_cache(maxsize=1024)
def _plan(make, spec, per_tap, *kinds):
    """(body, tiles, numbers, work) of a row: all but its buffers."""
    R = block_rows(spec)
    blocks = spec.planes * -(-spec.oh // R)
    work = block_work(spec, R, per_tap)
    part = rows_per_tile(blocks, work)
    numbers = {name: getattr(spec, name) for name in ("ih", "iw", "oh", "ow", "ph", "pw")}
    body, far = make(spec.dtype, spec.kh, spec.kw, spec.sh, spec.sw, R, *kinds), int(spec.bytes() > SECOND_LEVEL)
    return body, -(-blocks // part), {**numbers, "blocks": blocks, "part": part, "far": far}, blocks * work


def window_row(make, spec, buffers, per_tap, *kinds):
    """The row of a program: `make` gives the kernel, from the window's sizes and from kinds."""
    body, tiles, numbers, work = _plan(make, spec, per_tap, *kinds)
    return Row(body, tiles, {**buffers, **numbers}, work)


def window_cost(spec, per_tap):
    R = block_rows(spec)
    return spec.planes * -(-spec.oh // R) * block_work(spec, R, per_tap)


@implements("max_pool.fwd", rank=10)
class WindowMax(Impl):
    """Planes, small dense windows, values alone."""

    name = "max_pool_fwd_window"

    @staticmethod
    def when(spec):
        return "gives no indices" if spec.indices else refusal(spec)

    @staticmethod
    def cost(spec):
        return window_cost(spec, 0.6)

    @staticmethod
    def emit(spec, buffers):
        return [window_row(make_window_max, spec, {"x": buffers["x"], "y": buffers["y"]}, 0.6)]


@implements("max_pool.fwd", rank=11)
class WindowArgmax(Impl):
    """Planes, small dense windows, values and positions."""

    name = "max_pool_fwd_window_indices"

    @staticmethod
    def when(spec):
        return refusal(spec) if spec.indices else "computes indices that nobody wants"

    @staticmethod
    def cost(spec):
        return window_cost(spec, 2.0)

    @staticmethod
    def emit(spec, buffers):
        buffers = {name: buffers[name] for name in ("x", "y", "at")}
        return [window_row(make_window_argmax, spec, buffers, 2.0, spec.at)]


@lru_cache(maxsize=256)
def padded_counts(counts, more, dtype):
    """Divisors as a read-only array, with ones behind them for what a block reads beyond."""
    array = np.array(counts + (1,) * more, dtype)
    array.flags.writeable = False
    return array


@implements("avg_pool.fwd", rank=10)
class WindowAverage(Impl):
    """Planes, small windows."""

    name = "avg_pool_fwd_window"

    @staticmethod
    def when(spec):
        return refusal(spec)

    @staticmethod
    def cost(spec):
        return window_cost(spec, 0.6)

    @staticmethod
    def emit(spec, buffers):
        depth, rows, columns = spec.counts()
        counts = {
            "row_counts": padded_counts(tuple(depth[0] * count for count in rows), 8, spec.dtype),
            "column_counts": padded_counts(columns, lanes(spec.dtype), spec.dtype),
        }
        return [window_row(make_window_average, spec, {"x": buffers["x"], "y": buffers["y"], **counts}, 0.6)]


@implements("avg_pool.bwd", rank=10)
class WindowAverageBackward(Impl):
    """Stride 1 and one count for all windows: the gradient is the sum of gy over the mirrored windows, divided."""

    name = "avg_pool_bwd_window"

    @staticmethod
    def when(spec):
        if (spec.sh, spec.sw) != (1, 1):
            return "needs stride 1"
        if any(count != counts[0] for counts in spec.counts() for count in counts):
            return "needs windows that all count as many taps"
        return refusal(spec)

    @staticmethod
    def cost(spec):
        return window_cost(_mirrored(spec), 0.6)

    @staticmethod
    def emit(spec, buffers):
        mirrored, count = _mirrored(spec), prod(counts[0] for counts in spec.counts())
        counts = {
            "row_counts": padded_counts((count,) * mirrored.oh, 8, spec.dtype),
            "column_counts": padded_counts((1,) * mirrored.ow, lanes(spec.dtype), spec.dtype),
        }
        return [window_row(make_window_average, mirrored, {"x": buffers["gy"], "y": buffers["gx"], **counts}, 0.6)]


@lru_cache(maxsize=256)
def _mirrored(spec):
    """The pooling of gy whose sums are the gradient: input and output change places."""
    return replace(
        spec,
        **{"ih": spec.oh, "iw": spec.ow, "oh": spec.ih, "ow": spec.iw},
        **{"ph": spec.kh - 1 - spec.ph, "pw": spec.kw - 1 - spec.pw},
    )
