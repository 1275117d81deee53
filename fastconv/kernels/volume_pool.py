"""Pooling of volumes with small windows: the planes under each output plane are combined, then pooled as one plane.

Windows of maxima and sums are products of one along the depth and one in the plane, so that a plane of the output reads
every input value under it once, side by side, and what is left is `window_pool.py` on a plane in the nearest cache.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_math import max_vector
from ..simd_vector import add_vector
from ..simd_window import MAX, MAX_NAN, SUM, divide_rows, pool_rows, store_rows
from .window import rows_per_tile, valid_taps
from .window_pool import block_rows, block_work, padded_counts, refusal

VolumeBlock = Block(
    "VolumePool",
    "x y row_counts column_counts scratch",
    numbers="id ih iw od oh ow kd sd pd ph pw planes part",
)


@lru_cache
def make_combine_planes(OP, LANES):
    combine = max_vector if OP == MAX else add_vector

    @helper
    def combine_planes(x, first, area, count, s):
        """s[j] = x[first + k*area + j] combined over k < count, for j < area; up to LANES-1 values more are
        overwritten."""
        for j in range(0, area, LANES):
            whole, at = j + LANES <= area, first + j
            total = load_vector(x, at) if whole else load_window(x, at, 1, 0, area - j, 1)
            for _ in range(count - 1):
                at += area
                value = load_vector(x, at) if whole else load_window(x, at, 1, 0, area - j, 1)
                total = combine(total, value)
            store_vector(total, s, j)

    return combine_planes


@lru_cache
def make_volume_pool(dtype, OP, KH, KW, SH, SW, R):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    DOWN, FAR = (R - 1) * SH + KH, (KW - 1) // SW * SW + SW * LANES  # input rows and columns that a block loads
    combine_planes = make_combine_planes(OP, LANES)

    @helper
    def pool_block(a, s, y, yi, i, j, rows, row_counts, column_counts):
        """The block of outputs from (i, j) on of the plane s, to y[yi:]."""
        row, column, columns = i * SH - a.ph, j * SW - a.pw, a.ow - j
        si = row * a.iw + column
        if row >= 0 and row + DOWN <= a.ih and rows >= R and column >= 0 and column + FAR <= a.iw and columns >= LANES:
            acc = pool_rows(s, si, a.iw, 0, 0, 0, 0, OP, KH, KW, SH, SW, R, 0)
            if OP == SUM:
                store_rows(divide_rows(acc, row_counts, i, column_counts, j, R), y, yi, a.ow, R, LANES, R, 0)
            else:
                store_rows(acc, y, yi, a.ow, R, LANES, R, 0)
        else:
            acc = pool_rows(s, si, a.iw, -row, a.ih - row, -column, a.iw - column, OP, KH, KW, SH, SW, R, 1)
            if OP == SUM:
                store_rows(divide_rows(acc, row_counts, i, column_counts, j, R), y, yi, a.ow, rows, columns, R, 1)
            else:
                store_rows(acc, y, yi, a.ow, rows, columns, R, 1)
        if acc[R]:
            acc = pool_rows(s, si, a.iw, -row, a.ih - row, -column, a.iw - column, MAX_NAN, KH, KW, SH, SW, R, 1)
            store_rows(acc, y, yi, a.ow, rows, columns, R, 1)

    @tile_body(VolumeBlock, dtype)
    def pool_fwd_volume(block, tile, worker):
        """y[p, d, i, j] = the maximum or the mean of its window.  Tile: `part` output planes (p, d)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        row_counts = array_at(a.row_counts, a.row_counts_size, KIND)
        column_counts = array_at(a.column_counts, a.column_counts_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        area = a.ih * a.iw
        for n in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            plane, d = n // a.od, n % a.od
            k0, k1 = valid_taps(d * a.sd - a.pd, a.id, a.kd, 1)
            combine_planes(x, (plane * a.id + d * a.sd - a.pd + k0) * area, area, k1 - k0, s)
            counts = row_counts[d * (a.oh + R) :]
            for i in range(0, a.oh, R):
                for j in range(0, a.ow, LANES):
                    at = (n * a.oh + i) * a.ow + j
                    pool_block(a, s, y, at, i, j, a.oh - i, counts, column_counts)

    return pool_fwd_volume


# ---- implementations


def _refusal(spec):
    if spec.id == 1 or spec.kd == 1:
        return "needs a depth of more than 1"
    if spec.dd != 1:
        return "needs dilation 1"
    if 0 in (spec.planes, spec.out_pixels):
        return "needs an image"
    if spec.ih * spec.iw > MOST_PIXELS:
        return f"needs planes of at most {MOST_PIXELS} pixels, has {spec.ih * spec.iw}"
    return refusal(_flat(spec))


MOST_PIXELS = 1 << 17  # of a combined plane, which stays in half of a second-level cache


@lru_cache(maxsize=1024)
def _flat(spec):
    """The pooling of one combined plane."""
    return replace(spec, id=1, od=1, kd=1, sd=1, pd=0)


def _plane_work(spec, per_tap):
    """Nanoseconds of one output plane."""
    plane, R = _flat(spec), block_rows(_flat(spec))
    blocks = -(-spec.oh // R) * block_work(plane, R, per_tap)
    return 10 + 0.5 * (spec.kd + 1) * spec.ih * spec.iw / lanes(spec.dtype) + blocks


@lru_cache(maxsize=256)
def _counts(spec, R):
    """The divisors: of each output plane those of its rows, with ones behind them for what a block reads beyond."""
    depth, rows, columns = spec.counts()
    table = np.ones((spec.od, spec.oh + R), spec.dtype)
    table[:, : spec.oh] = np.outer(depth, rows)
    table.flags.writeable = False
    return {"row_counts": table.ravel(), "column_counts": padded_counts(columns, lanes(spec.dtype), spec.dtype)}


class _Volume(Impl):
    op = SUM

    @classmethod
    def when(cls, spec):
        return "gives no indices" if spec.indices else _refusal(spec)

    @classmethod
    def cost(cls, spec):
        return spec.planes * spec.od * _plane_work(spec, 0.6)

    @classmethod
    def emit(cls, spec, buffers):
        R, work, planes = block_rows(_flat(spec)), _plane_work(spec, 0.6), spec.planes * spec.od
        part = rows_per_tile(planes, work)
        numbers = {
            name: getattr(spec, name) for name in ["id", "ih", "iw", "od", "oh", "ow", "kd", "sd", "pd", "ph", "pw"]
        }
        values = {"x": buffers["x"], "y": buffers["y"], **numbers, **_counts(spec, R), "planes": planes, "part": part}
        body = make_volume_pool(spec.dtype, cls.op, spec.kh, spec.kw, spec.sh, spec.sw, R)
        scratch = spec.ih * spec.iw + 2 * lanes(spec.dtype)
        return [Row(body, -(-planes // part), values, planes * work, scratch)]


@implements("max_pool.fwd", rank=12)
class VolumeMax(_Volume):
    """Volumes, small dense windows, values alone."""

    name, op = "max_pool_fwd_volume", MAX


@implements("avg_pool.fwd", rank=12)
class VolumeAverage(_Volume):
    """Volumes, small windows."""

    name = "avg_pool_fwd_volume"
