"""Gradients of poolings whose windows lie side by side, in vector registers: every pixel is written once.

A vector is LANES neighbouring windows of a row.  Pixels behind the last window get 0.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes
from ..simd_window import scatter_windows, spread_windows
from .window import rows_per_tile
from .window_pool import padded_counts

_SIZES = "ih iw oh ow blocks part"
SpreadBlock = Block("WindowSpread", "gx gy row_counts column_counts", numbers=_SIZES)


@lru_cache
def make_window_spread(dtype, KH, KW):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(SpreadBlock, dtype)
    def avg_pool_bwd_window_spread(block, tile, worker):
        """gx[p, r, c] = gy[p, r // KH, c // KW] / its count.  Tile: `part` rows of windows."""
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        row_counts = array_at(a.row_counts, a.row_counts_size, KIND)
        column_counts = array_at(a.column_counts, a.column_counts_size, KIND)
        high = (a.ih + KH - 1) // KH
        for n in range(tile * a.part, min((tile + 1) * a.part, a.blocks)):
            plane, i = n // high, n % high
            for j in range(0, (a.iw + KW - 1) // KW, LANES):
                count = a.ow - j if i < a.oh else 0
                gi, xi = (plane * a.oh + i) * a.ow + j, (plane * a.ih + i * KH) * a.iw + j * KW
                rows, columns = a.ih - i * KH, a.iw - j * KW
                spread_windows(gy, gi, count, row_counts[i], column_counts, j, gx, xi, a.iw, rows, columns, KH, KW)

    return avg_pool_bwd_window_spread


@lru_cache
def make_window_scatter(dtype, KH, KW, at):
    KIND, LANES, AT = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(at).str[1:]

    @tile_body(Block(f"WindowScatter{AT}", {"gx": None, "gy": None, "at": AT}, _SIZES), dtype)
    def max_pool_bwd_window_scatter(block, tile, worker):
        """gx[p, at[p, i, j]] = gy[p, i, j], 0 elsewhere.  Tile: `part` rows of windows."""
        a = fields(block)
        gx, gy, at = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.at, a.at_size, AT)
        high = (a.ih + KH - 1) // KH
        for n in range(tile * a.part, min((tile + 1) * a.part, a.blocks)):
            plane, i = n // high, n % high
            for j in range(0, (a.iw + KW - 1) // KW, LANES):
                count = a.ow - j if i < a.oh else 0
                base = i * KH * a.iw + j * KW
                gi, xi = (plane * a.oh + i) * a.ow + j, plane * a.ih * a.iw + base
                scatter_windows(gy, at, gi, count, base, gx, xi, a.iw, a.ih - i * KH, a.iw - j * KW, KH, KW)

    return max_pool_bwd_window_scatter


# ---- implementations


def _refusal(spec):
    if spec.id > 1 or spec.kd > 1 or (spec.dh, spec.dw) != (1, 1):
        return "needs a depth of 1 and dilation 1"
    if (spec.kh, spec.kw) != (spec.sh, spec.sw) or spec.ph or spec.pw:
        return "needs a stride equal to the kernel, and no padding"
    return "needs windows of at most 8 x 4" if spec.kh > 8 or spec.kw > 4 else None


def _work(spec):
    """Nanoseconds of one row of windows."""
    vectors = -(-spec.ow // lanes(spec.dtype))
    return 5 + vectors * (5 + 1.2 * spec.kh * spec.kw)


@lru_cache(maxsize=1024)
def _plan(make, spec, *kinds):
    """(body, tiles, numbers, work) of a row: all but its buffers."""
    blocks = spec.planes * -(-spec.ih // spec.kh)
    part = rows_per_tile(blocks, _work(spec))
    numbers = {"ih": spec.ih, "iw": spec.iw, "oh": spec.oh, "ow": spec.ow, "blocks": blocks, "part": part}
    return make(spec.dtype, spec.kh, spec.kw, *kinds), -(-blocks // part), numbers, blocks * _work(spec)


def _row(make, spec, buffers, *kinds):
    body, tiles, numbers, work = _plan(make, spec, *kinds)
    return Row(body, tiles, {**buffers, **numbers}, work)


class _SideBySide(Impl):
    """Planes, windows side by side."""

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return spec.planes * -(-spec.ih // spec.kh) * _work(spec)


@implements("avg_pool.bwd", rank=8)
class WindowSpread(_SideBySide):
    """Planes, small windows side by side."""

    name = "avg_pool_bwd_window_spread"

    @staticmethod
    def emit(spec, buffers):
        depth, rows, columns = spec.counts()
        counts = {
            "row_counts": padded_counts(tuple(depth[0] * count for count in rows), 4, spec.dtype),
            "column_counts": padded_counts(columns, lanes(spec.dtype), spec.dtype),
        }
        return [_row(make_window_spread, spec, {"gx": buffers["gx"], "gy": buffers["gy"], **counts})]


@implements("max_pool.bwd", rank=8)
class WindowScatter(_SideBySide):
    """Planes, small windows side by side."""

    name = "max_pool_bwd_window_scatter"

    @staticmethod
    def emit(spec, buffers):
        return [_row(make_window_scatter, spec, {name: buffers[name] for name in ("gx", "gy", "at")}, spec.at)]
