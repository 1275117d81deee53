"""The weight gradient of depthwise convolution on plain images, read once for each column of taps.

gw[q, k] = sum over images n and outputs p of gy[n, q, p] x[n, c, p*stride + k*dilation - padding].  A tile of R rows of
gy stays in registers; each vector of x that is loaded meets as many of them as the kernel is high.  Every tap has a
vector of sums, whose lanes are added up when all images are done.
"""

from functools import cache, lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, zero_vector
from ..simd_depthwise import numbers_at
from ..simd_depthwise_backward import collect_rows, load_rows, sum_lanes
from . import depthwise
from .gathers import split
from .window import rows_per_tile, valid_taps

NUMBERS = depthwise.NUMBERS + " images chunks"
CollectBlock = Block("DepthwiseCollect", {"x": None, "gy": None, "gw": None, "plan": "i8", "scratch": None})
ChunksBlock = Block("DepthwiseChunks", "parts gw", "count chunks")


@cache
def make_collect(dtype, K1, G1, K2, G2, SH, SW, R, FLAT):
    """The kernel for tiles of R vectors and entries of K1 x G1 taps, then of K2 x G2 taps."""
    KIND, ITEM, LANES, FIELDS = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype), NUMBERS
    TABLE = len(FIELDS.split())
    COLUMNS = R * LANES if FLAT else LANES

    @tile_body(CollectBlock, dtype)
    def conv_bwd_weights_depthwise(block, tile, worker):
        """Tile: (chunk of the images, `part` channels of the output), all their taps."""
        p = fields(block)
        x, gy, gw = array_at(p.x, p.x_size, KIND), array_at(p.gy, p.gy_size, KIND), array_at(p.gw, p.gw_size, KIND)
        plan, a = array_at(p.plan, p.plan_size, "i8"), numbers_at(p.plan, FIELDS)
        s = array_at(p.scratch + worker * p.scratch_size * ITEM, p.scratch_size, KIND)
        table, blocks = plan[TABLE:], plan[a.blocks :]
        parts = (a.outs + a.part - 1) // a.part
        chunk, q0 = tile // parts, tile % parts * a.part
        taps, channels = a.w_each, min(a.part, a.outs - q0)
        for t in range(channels * taps):
            zero_vector(s, t * LANES)
        for q in range(q0, q0 + channels):
            for image in range(a.images * chunk // a.chunks, a.images * (chunk + 1) // a.chunks):
                for z in range(a.od):
                    depth, si = z * a.sd - a.pd, (q - q0) * taps * LANES
                    d0, d1 = valid_taps(depth, a.xd, a.kd, a.dd)
                    r0, r1, s0, s1 = d0 * a.n1, d1 * a.n1, a.second + d0 * a.n2, a.second + d1 * a.n2
                    volume = ((image * a.x_channels + q // a.mul) * a.xd + depth) * a.xh
                    for number in range(0, a.row_blocks * a.block_size, a.block_size):
                        i, keep, whole, valid = blocks[number], blocks[number + 1], blocks[number + 2], number + 3
                        target = (((image * a.outs + q) * a.od + z) * a.oh + i) * a.ow
                        for j in range(0, a.ow, COLUMNS):
                            column, columns, yi = j * a.sw - a.pw, a.ow - j, target + j
                            xi, left, right = (volume + i * a.sh - a.ph) * a.xw + column, -column, a.xw - column
                            if whole and column >= 0 and right >= a.reach and columns >= COLUMNS:
                                rows = load_rows(gy, yi, a.y_row, keep, columns, R, 0, FLAT)
                                collect_rows(
                                    rows, x, xi, a.x_row, blocks, valid, 0, 0, a.sw, columns, s, si, a.w_row, a.w_col,
                                    table, r0, r1, s0, s1, K1, G1, K2, G2, SH, SW, R, 0, FLAT,
                                )  # fmt: skip
                            else:
                                rows = load_rows(gy, yi, a.y_row, keep, columns, R, 1, FLAT)
                                collect_rows(
                                    rows, x, xi, a.x_row, blocks, valid, left, right, a.sw, columns, s, si, a.w_row,
                                    a.w_col, table, r0, r1, s0, s1, K1, G1, K2, G2, SH, SW, R, 1, FLAT,
                                )  # fmt: skip
        for t in range(0, channels * taps, LANES):
            sum_lanes(s, t * LANES, gw, (chunk * a.outs + q0) * taps + t, channels * taps - t)

    return conv_bwd_weights_depthwise


@cache
def make_sum_chunks(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(ChunksBlock, dtype)
    def conv_bwd_weights_chunks(block, tile, worker):
        """gw[i] = the sum of parts[chunk, i], one chunk after the other.  Tile: everything."""
        a = fields(block)
        parts, gw = array_at(a.parts, a.parts_size, KIND), array_at(a.gw, a.gw_size, KIND)
        for i in range(a.count):
            total = parts[i]
            for chunk in range(1, a.chunks):
                total += parts[chunk * a.count + i]
            gw[i] = total

    return conv_bwd_weights_chunks


# ---- programs

FEW_TILES = 8  # output channels from which on threads have enough to do
CHUNK_WORK = 100_000  # nanoseconds of a chunk of images at least
SUMS = 1 << 13  # bytes of the sums of a tile, which stay in the first-level cache


def _cycles(planes, form):
    """Cycles of a form: as of the forward pass, with sums that are loaded and stored for each entry and tile."""
    sums = sum(len(calls.entries) * calls.k * calls.g for calls in form[:2])
    tiles = depthwise.tiles_of(planes, form)
    return depthwise.cycles(planes, form) + tiles * planes.kernel[0] * sums * 3 + 4 * planes.outs * planes.taps


@lru_cache(maxsize=1024)
def best_form(planes):
    """(form of least cost, its nanoseconds); the rows of a tile overlap but never reach beyond the image."""
    fitting = [form for form in depthwise.forms(planes, least=1) if form.flat or _fits(planes, form)]
    form = min(fitting, key=lambda form: _cycles(planes, form))
    return form, _cycles(planes, form) * depthwise.NANOSECONDS + 0.01 * planes.bytes


def _fits(planes, form):
    return all(rows == form.rows for _, _, rows in depthwise.row_blocks(planes.grid[1], form))


@lru_cache(maxsize=1024)
def _plan(planes):
    """(body, tiles, chunks, numbers and tables, scratch, work) of the row: all but its arrays."""
    form, work = best_form(planes)
    LANES, itemsize = lanes(planes.dtype), np.dtype(planes.dtype).itemsize
    chunks = 1
    if planes.outs < FEW_TILES:  # by the problem alone, so that the number of threads changes no bit
        chunks = max(1, min(planes.images, split(2 * FEW_TILES, planes.outs), int(work / CHUNK_WORK)))
    part = rows_per_tile(planes.outs, work / (planes.outs * chunks))
    part = max(1, min(part, SUMS // (planes.taps * LANES * itemsize)))
    more = {"units": 0, "part": part, "images": planes.images, "chunks": chunks}
    plan = depthwise.plan_array(NUMBERS, planes, form, more)
    (k1, g1, _), (k2, g2, _) = form[:2]
    body = make_collect(planes.dtype, k1, g1, k2, g2, form.sh, form.sw, form.rows, form.flat)
    scratch = (split(part * planes.taps, LANES) + 1) * LANES * LANES
    return body, split(planes.outs, part) * chunks, chunks, plan, scratch, work


@implements("conv.bwd_weights", rank=10)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_depthwise"

    @staticmethod
    def when(spec):
        return depthwise.refusal(spec)

    @staticmethod
    def cost(spec):
        return best_form(depthwise.forward_planes(spec))[1]

    @staticmethod
    def emit(spec, buffers):
        planes = depthwise.forward_planes(spec)
        body, tiles, chunks, plan, scratch, work = _plan(planes)
        arrays, gw = {"x": buffers["x"], "gy": buffers["gy"], "plan": plan}, buffers["gw"]
        if chunks == 1:
            return [Row(body, tiles, {**arrays, "gw": gw}, work, scratch)]
        parts = Temporary(chunks * gw.size, spec.dtype)
        add = {"parts": parts, "gw": gw, "count": gw.size, "chunks": chunks}
        return [
            Row(body, tiles, {**arrays, "gw": parts}, work, scratch, ("gw",)),
            Row(make_sum_chunks(spec.dtype), 1, add, parts.size * 1.0, 0, ("parts",)),
        ]
