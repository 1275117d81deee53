"""Gradients of poolings with dense windows, in vector registers: every pixel collects from the windows that hold it.

A block is LANES * SW neighbouring pixels of a row, any depth.  Tile: a run of images, a depth of a plane each.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes
from ..simd_collect import slide_maxima, slide_means
from .average_pool import covering
from .window import rows_per_tile

_NUMBERS = "id ih iw od oh ow kd sd pd ph images part"
MeansBlock = Block("SlideMeans", "gx gy shares column_shares", _NUMBERS)


@lru_cache
def make_slide_maxima(dtype, at, KH, KW, SH, SW, PW):
    """at: "i4" or "i8", of the positions."""
    KIND, LANES, AT = np.dtype(dtype).str[1:], lanes(dtype), at

    @tile_body(Block(f"SlideMaxima{AT}", {"gx": None, "gy": None, "at": AT}, _NUMBERS), dtype)
    def max_pool_bwd_window_slide(block, tile, worker):
        """gx[p, z, r, c] = the sum of gy over the windows whose maximum is there.  Tile: `part` images (p, z)."""
        a = fields(block)
        gx, gy, at = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.at, a.at_size, AT)
        top, bottom, step = a.ph, a.ph + a.ih, a.oh * a.ow
        for n in range(tile * a.part, min((tile + 1) * a.part, a.images)):
            z0, z1 = covering(n % a.id, a.pd, a.kd, a.sd, a.od)
            gi, zs = (n // a.id * a.od + z0) * step, z1 - z0
            for c in range(0, a.iw, LANES * SW):
                m, left = c // SW, a.iw - c
                base, xi = (n % a.id * a.ih - a.ph) * a.iw + c, (n * a.ih - a.ph) * a.iw + c
                slide_maxima(
                    gy, at, gi, step, zs, a.oh, a.ow, m, base, gx, xi, a.iw, top, bottom, left, KH, KW, SH, SW, PW
                )

    return max_pool_bwd_window_slide


@lru_cache
def make_slide_means(dtype, KH, KW, SH, SW, PW):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(MeansBlock, dtype)
    def avg_pool_bwd_window_slide(block, tile, worker):
        """gx[p, z, r, c] = the sum of gy / count over the windows that hold it.  Tile: `part` images (p, z).

        Counts are products of one for each dimension: shares has that of each row of windows, column_shares the rest.
        """
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.column_shares, a.column_shares_size, KIND)
        top, bottom, oh, ow, iw = a.ph, a.ph + a.ih, a.oh, a.ow, a.iw
        for n in range(tile * a.part, min((tile + 1) * a.part, a.images)):
            z0, z1 = covering(n % a.id, a.pd, a.kd, a.sd, a.od)
            gi, si, zs = (n // a.id * a.od + z0) * oh * ow, z0 * oh, z1 - z0
            for c in range(0, iw, LANES * SW):
                m, left, xi = c // SW, iw - c, (n * a.ih - a.ph) * iw + c
                slide_means(
                    gy, shares, columns, gi, si, zs, oh, ow, m, gx, xi, iw, top, bottom, left, KH, KW, SH, SW, PW
                )

    return avg_pool_bwd_window_slide


# ---- implementations


def _blocks(spec):
    """Blocks of a row."""
    return -(-spec.iw // (spec.sw * lanes(spec.dtype)))


def _image_work(spec, load, meet):
    """Nanoseconds of an image: of each vector of windows `load` for each shift, `meet` for all taps; the stores."""
    shifts = -(-(spec.kw + spec.sw - 1) // spec.sw)
    windows = spec.od * spec.kd / spec.id * spec.oh * (2 + load * shifts + meet)
    return 10 + _blocks(spec) * (10 + windows + 0.8 * spec.sw * spec.ih)


def _maxima_work(spec):
    return _image_work(spec, 0.8, 0.3 * spec.kh * spec.kw)


def _means_work(spec):
    return _image_work(spec, 0.5, 0.2 * spec.kh * spec.sw)


@lru_cache(maxsize=1024)
def _plan(spec, body, image_work):
    """(body, tiles, numbers, work) of a row: all but its buffers."""
    images = spec.planes * spec.id
    part = rows_per_tile(images, image_work)
    numbers = {name: getattr(spec, name) for name in _NUMBERS.split()[:-2]}
    return body, -(-images // part), {**numbers, "images": images, "part": part}, images * image_work


def _row(spec, make, image_work, buffers, *kinds):
    body = make(spec.dtype, *kinds, spec.kh, spec.kw, spec.sh, spec.sw, spec.pw)
    body, tiles, numbers, work = _plan(spec, body, image_work)
    return Row(body, tiles, {**buffers, **numbers}, work)


@implements("max_pool.bwd", rank=7)
class SlideMaxima(Impl):
    """Small dense windows, any depth."""

    name = "max_pool_bwd_window_slide"

    @staticmethod
    def when(spec):
        if (spec.dd, spec.dh, spec.dw) != (1, 1, 1):
            return "needs dilation 1"
        if spec.kh * spec.kw > 25 or spec.sw > 4 or spec.in_pixels >= 1 << 31:
            return "needs at most 25 taps in a plane, a stride along the row of at most 4, and fewer than 2^31 pixels"
        return None

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * _maxima_work(spec)

    @staticmethod
    def emit(spec, buffers):
        buffers = {name: buffers[name] for name in ("gx", "gy", "at")}
        return [_row(spec, make_slide_maxima, _maxima_work(spec), buffers, np.dtype(spec.at).str[1:])]


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
class SlideMeans(Impl):
    """Dense windows, any depth."""

    name = "avg_pool_bwd_window_slide"

    @staticmethod
    def when(spec):
        if spec.kw > 16 or spec.sw > 8 or spec.kh * spec.sw > 64:
            return "needs windows at most 16 wide, a stride of at most 8, and height times stride at most 64"
        return None

    @staticmethod
    def cost(spec):
        return spec.planes * spec.id * _means_work(spec)

    @staticmethod
    def emit(spec, buffers):
        buffers = {"gx": buffers["gx"], "gy": buffers["gy"], **_shares(spec)}
        return [_row(spec, make_slide_means, _means_work(spec), buffers)]
