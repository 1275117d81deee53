"""Gradients of poolings whose windows overlap, in vector registers: every pixel collects from the windows that hold it.

A block is LANES * SW neighbouring pixels of a row, any depth.  Tile: a run of input rows, whatever plane they belong
to.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes
from ..simd_collect import collect_columns, slide_maxima
from .average_pool import covering
from .window import fill_row, rows_per_tile

MaximaBlock = Block(
    "SlideMaxima", {"gx": None, "gy": None, "at": "i8"}, numbers="id ih iw od oh ow kd sd pd ph pw images part"
)
MeansBlock = Block(
    "CollectMeans",
    "gx gy shares column_shares scratch",
    numbers="id ih iw od oh ow kd kh sd sh pd ph pw rows part",
)


@lru_cache
def make_slide_maxima(dtype, KH, KW, SH, SW):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(MaximaBlock, dtype)
    def max_pool_bwd_window_slide(block, tile, worker):
        """gx[p, z, r, c] = the sum of gy over the windows whose maximum is there.  Tile: `part` images (p, z)."""
        a = fields(block)
        gx, gy, at = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.at, a.at_size, "i8")
        top, bottom, step = a.ph, a.ph + a.ih, a.oh * a.ow
        for n in range(tile * a.part, min((tile + 1) * a.part, a.images)):
            z0, z1 = covering(n % a.id, a.pd, a.kd, a.sd, a.od)
            gi, zs = (n // a.id * a.od + z0) * step, z1 - z0
            for m in range(a.pw // SW, (a.iw - 1 + a.pw) // SW + 1, LANES):
                c = m * SW - a.pw
                base, xi = (n % a.id * a.ih - a.ph) * a.iw + c, (n * a.ih - a.ph) * a.iw + c
                left, right = -c, a.iw - c
                slide_maxima(
                    gy, at, gi, step, zs, a.oh, a.ow, m, base, gx, xi, a.iw, top, bottom, left, right, KH, KW, SH, SW
                )

    return max_pool_bwd_window_slide


@lru_cache
def make_collect_means(dtype, KW, SW):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)

    @tile_body(MeansBlock, dtype)
    def avg_pool_bwd_window_collect(block, tile, worker):
        """gx[p, z, r, c] = the sum of gy / count over the windows that hold it.  Tile: `part` input rows.

        Counts are products of one for each dimension: the rows are added, each times its share, and then the columns.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.column_shares, a.column_shares_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)[: a.ow]
        for n in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane = n // (a.id * a.ih)
            z0, z1 = covering(n // a.ih % a.id, a.pd, a.kd, a.sd, a.od)
            i0, i1 = covering(n % a.ih, a.ph, a.kh, a.sh, a.oh)
            fill_row(s, s.dtype.type(0))
            for z in range(z0, z1):
                for i in range(i0, i1):
                    start, share = ((plane * a.od + z) * a.oh + i) * a.ow, shares[z * a.oh + i]
                    source = gy[start : start + a.ow]
                    for j in range(a.ow):
                        s[j] += source[j] * share
            for j in range(a.ow):
                s[j] *= columns[j]
            for m in range(a.pw // SW, (a.iw - 1 + a.pw) // SW + 1, LANES):
                c = m * SW - a.pw
                collect_columns(s, m, a.ow, gx, n * a.iw + c, -c, a.iw - c, KW, SW)

    return avg_pool_bwd_window_collect


# ---- implementations


def _refusal(spec):
    if (spec.dd, spec.dh, spec.dw) != (1, 1, 1):
        return "needs dilation 1"
    return (
        "needs windows at most 16 wide, and a stride along the row of at most 4"
        if spec.kw > 16 or spec.sw > 4
        else None
    )


def _blocks(spec):
    """Blocks of a row."""
    return -(-((spec.iw - 1 + spec.pw) // spec.sw + 1 - spec.pw // spec.sw) // lanes(spec.dtype))


def _rows_over(spec):
    """Window rows over an input row, on average."""
    return spec.od * spec.oh * spec.kd * spec.kh / (spec.id * spec.ih)


def _maxima_work(spec):
    """Nanoseconds of an image: of each vector of windows a load for each shift and a comparison for each tap."""
    windows = spec.od * spec.kd / spec.id * spec.oh * (2 + 1.2 * -(-spec.kw // spec.sw) + 0.3 * spec.kh * spec.kw)
    return 10 + _blocks(spec) * (10 + windows + 1.5 * spec.sw * spec.ih)


def _means_work(spec):
    return 15 + _rows_over(spec) * (3 + 0.1 * spec.ow) + _blocks(spec) * (4 + 2 * spec.sw + 0.5 * spec.kw)


@lru_cache(maxsize=1024)
def _maxima_plan(spec):
    """(body, tiles, numbers, work) of a row: all but its buffers."""
    images, work = spec.planes * spec.id, _maxima_work(spec)
    part = rows_per_tile(images, work)
    numbers = {name: getattr(spec, name) for name in MaximaBlock.numbers[:-2]}
    body = make_slide_maxima(spec.dtype, spec.kh, spec.kw, spec.sh, spec.sw)
    return body, -(-images // part), {**numbers, "images": images, "part": part}, images * work


@implements("max_pool.bwd", rank=7)
class SlideMaxima(Impl):
    """Small dense windows, any depth."""

    name = "max_pool_bwd_window_slide"

    @staticmethod
    def when(spec):
        if spec.kh * spec.kw > 25 or spec.in_pixels >= 1 << 31:
            return "needs at most 25 taps in a plane, and fewer than 2^31 pixels"
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * _maxima_work(spec)

    @staticmethod
    def emit(spec, buffers):
        body, tiles, numbers, work = _maxima_plan(spec)
        return [Row(body, tiles, {**{name: buffers[name] for name in ("gx", "gy", "at")}, **numbers}, work)]


@lru_cache(maxsize=1024)
def _means_plan(spec):
    rows, work = spec.planes * spec.id * spec.ih, _means_work(spec)
    part = rows_per_tile(rows, work)
    numbers = {name: getattr(spec, name) for name in MeansBlock.numbers[:-2]}
    body = make_collect_means(spec.dtype, spec.kw, spec.sw)
    return body, -(-rows // part), {**numbers, "rows": rows, "part": part}, rows * work


@lru_cache(maxsize=256)
def _shares(spec):
    """1 / counts, of the window rows and of the windows in a row; read-only."""
    depth, rows, columns = (np.array(counts, np.float64) for counts in spec.counts())
    shares = {"shares": (1 / np.outer(depth, rows)).ravel(), "column_shares": 1 / columns}
    shares = {name: values.astype(spec.dtype) for name, values in shares.items()}
    for values in shares.values():
        values.flags.writeable = False
    return shares


@implements("avg_pool.bwd", rank=20)
class CollectMeans(Impl):
    """Dense windows, any depth."""

    name = "avg_pool_bwd_window_collect"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * spec.ih * _means_work(spec)

    @staticmethod
    def emit(spec, buffers):
        body, tiles, numbers, work = _means_plan(spec)
        values = {"gx": buffers["gx"], "gy": buffers["gy"], **_shares(spec), **numbers}
        return [Row(body, tiles, values, work, scratch=spec.ow)]
