"""The weight gradient of a convolution with output channels in the lanes, at any stride.

    gw[o, k] = sum over pixels p of gy[o, p] x[place of p + place of k],   k = (input channel, tap)

The gradient is transposed once, pixels by output channels; the image is read as it lies, each of its values multiplied
with a few vectors of output channels.  So no patches are made (`implicit_gemm.py` makes them, as large as the image
times the taps), and every lane works where there are 16 output channels, however short the rows of pixels are.  A
register tile is a few rows of taps by a few of those vectors, summed over a block of pixels.  An image with padding is
copied into a frame of zeros.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import (
    add_part,
    array_at,
    fields,
    isa,
    lanes,
    load_vector,
    load_window,
    store_part,
    store_tile,
    store_vector,
    transpose_block,
    zero_tile,
    zero_vector,
)
from ..simd_spread import spread_fma_loop
from .gathers import NANOSECONDS_PER_FLOP, split
from .phases import FRAME_NANOSECONDS

FrameBlock = Block("FrameBlock", "x y", "xh xw height width top left")
LanesBlock = Block("LanesBlock", "x y", "rows pixels strips strip")
SpreadBlock = Block(
    "SpreadWeightsBlock",
    {"x": None, "gy": None, "gw": None, "rows": "i8", "steps": "i8", "scratch": None},
    "groups images channels outputs strips parts part_tiles rows_count plane pixels block_images block_pixels",
)


@cache
def make_frame(dtype):
    """The kernel that puts planes into larger ones of zeros."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(FrameBlock, dtype)
    def conv_frame(block, tile, worker):
        """y[plane, top + i, left + j] = x[plane, i, j], 0 elsewhere.  Tile: a plane."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for i in range(a.height):
            row, at = i - a.top, (tile * a.height + i) * a.width
            inside = a.xw if 0 <= row < a.xh else 0
            source = (tile * a.xh + row) * a.xw - a.left
            for j in range(0, a.width, LANES):
                if a.left <= j and j + LANES <= a.left + inside:
                    store_vector(load_vector(x, source + j), y, at + j)
                else:
                    value = load_window(x, source + j, 1, a.left - j, a.left + inside - j, 1)
                    store_part((value,), y, at + j, 0, 0, a.width - j, 1, 1)

    return conv_frame


@cache
def make_lanes(dtype):
    """The kernel that puts channels into lanes."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(LanesBlock, dtype)
    def conv_lanes(block, tile, worker):
        """y[group, s, p, c] = x[group, s*strip + c, p]; lanes beyond the channels hold anything finite or not.
        Tile: (group of an image, strip of channels)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        group, s = tile // a.strips, tile % a.strips
        for c in range(s * a.strip, (s + 1) * a.strip, LANES):
            source, at = (group * a.rows + c) * a.pixels, tile * a.pixels * a.strip + c - s * a.strip
            whole = a.pixels >= LANES and source + LANES * a.pixels <= a.x_size
            p = 0
            while p < a.pixels:
                if c >= a.rows:
                    zero_vector(y, at + p * a.strip)
                    p += 1
                elif whole:  # the last block of pixels overlaps the one before it
                    q = min(p, a.pixels - LANES)
                    transpose_block(x, source + q, a.pixels, y, at + q * a.strip, a.strip)
                    p += LANES
                else:
                    zero_vector(y, at + p * a.strip)
                    for i in range(min(LANES, a.rows - c)):
                        y[at + p * a.strip + i] = x[source + i * a.pixels + p]
                    p += 1

    return conv_lanes


@cache
def make_spread(dtype, R, T, NR):
    """The kernel for a register tile of R rows of T taps and NR vectors of output channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    WIDTH, HEIGHT = NR * LANES, R * T
    TILE = HEIGHT * WIDTH

    @helper
    def write_sums(a, sums, first, top, skip, count, gw):
        """gw[first + o, row, t] = the sums of a tile, for its rows of taps from top + skip on."""
        for o in range(count):
            at = ((first + o) * a.rows_count + top) * T
            for k in range(skip * T, HEIGHT):
                gw[at + k] = sums[k * WIDTH + o]

    @tile_body(SpreadBlock, dtype)
    def conv_bwd_weights_spread(block, tile, worker):
        """Tile: (group, strip of output channels, part of the rows of taps); sums over images and pixels in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        rows, steps = array_at(a.rows, a.rows_size, "i8"), array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        part, strip, group = tile % a.parts, tile // a.parts % a.strips, tile // (a.parts * a.strips)
        begin = part * a.part_tiles * R
        tiles = min(a.part_tiles, (a.rows_count - begin + R - 1) // R)
        for n0 in range(0, a.images, a.block_images):
            n1 = min(n0 + a.block_images, a.images)
            for p in range(0, a.pixels, a.block_pixels):
                count = min(a.block_pixels, a.pixels - p)
                for i in range(tiles):
                    top = min(begin + i * R, a.rows_count - R)
                    acc = zero_tile(x, HEIGHT, NR)
                    if n0 + p > 0:
                        acc = add_part(acc, scratch, i * TILE, WIDTH, 0, WIDTH, HEIGHT, NR)
                    for n in range(n0, n1):
                        image = (n * a.groups + group) * a.channels * a.plane
                        gradient = (((n * a.groups + group) * a.strips + strip) * a.pixels + p) * WIDTH
                        acc = spread_fma_loop(acc, x, image, rows, top, gy, gradient, WIDTH, steps, p, count, R, T, NR)
                    store_tile(acc, scratch, i * TILE, WIDTH, HEIGHT, NR)
        for i in range(tiles):
            row = begin + i * R
            top = min(row, a.rows_count - R)
            outputs = min(WIDTH, a.outputs - strip * WIDTH)
            first = group * a.outputs + strip * WIDTH
            write_sums(a, scratch[i * TILE :], first, top, row - top, outputs, gw)

    return conv_bwd_weights_spread


# ---- programs

BLOCK_BYTES = 1 << 18  # of images and gradients that stay in a second-level cache of 1 MB from one tile to the next
LEAST_TILES = 16  # for threads
REGISTERS = 27  # for sums; the others hold a value of the image and the vectors that it is multiplied with
MOST_ROWS = 9  # of taps in a tile: each takes a register for its address
TILE_CYCLES = 40  # to begin and end a register tile
TURN_NANOSECONDS = 0.25  # to put one value of the gradient into its lane
WRITE_NANOSECONDS = 1.0  # to write one value of the result
CACHE_BYTES = 1 << 22  # of images that a cache holds from one strip of output channels to the next
BYTE_NANOSECONDS = 0.05  # to read one byte of larger ones once more
PEAK_SHARE = 0.87  # NANOSECONDS_PER_FLOP includes losses that are counted here one by one


class _Shape(NamedTuple):
    """How the gradient is tiled."""

    R: int
    T: int
    NR: int
    images: int  # in a block
    pixels: int  # in a block
    cycles: float  # in all


@lru_cache(maxsize=1024)
def _shape(spec):
    LANES, item = lanes(spec.dtype), np.dtype(spec.dtype).itemsize
    T = spec.kw if spec.dw == 1 and spec.kw in (1, 3, 5, 7) else 1
    rows, vectors = spec.icg * spec.taps // T, split(spec.ocg, LANES)

    def shape(R, NR):
        image_bytes = spec.out_pixels * (NR * LANES + spec.icg * spec.sh * spec.sw) * item
        images = max(1, min(spec.n, BLOCK_BYTES // image_bytes))
        pixels = spec.out_pixels if image_bytes <= 2 * BLOCK_BYTES else split(BLOCK_BYTES, NR * LANES * item * 4)
        pixels = min(pixels, spec.out_pixels)
        step = max(R * T * NR, R * T + NR + 0.5, 4)
        blocks = split(spec.n, images) * split(spec.out_pixels, pixels)
        begins = blocks * (TILE_CYCLES + 4 * R * T * NR) + spec.n * TILE_CYCLES / 2
        tiles = spec.g * split(rows, R) * split(vectors, NR)
        return _Shape(R, T, NR, images, pixels, tiles * (spec.n * spec.out_pixels * step * 1.04 + begins))

    sizes = [(R, NR) for R in range(1, min(MOST_ROWS, rows) + 1) for NR in range(1, min(4, vectors) + 1)]
    return min((shape(R, NR) for R, NR in sizes if R * T * NR <= REGISTERS), key=lambda shape: shape.cycles)


def _frame(spec):
    """Height and width of the image with as much padding as the taps see."""
    reach = (spec.oh - 1) * spec.sh + (spec.kh - 1) * spec.dh + 1, (spec.ow - 1) * spec.sw + (spec.kw - 1) * spec.dw + 1
    return (max(reach[0], spec.ih + spec.ph), max(reach[1], spec.iw + spec.pw)) if _is_framed(spec) else reach


def _is_framed(spec):
    beyond = (spec.oh - 1) * spec.sh + (spec.kh - 1) * spec.dh >= spec.ih + spec.ph
    wide = (spec.ow - 1) * spec.sw + (spec.kw - 1) * spec.dw >= spec.iw + spec.pw
    return spec.ph > 0 or spec.pw > 0 or beyond or wide


@lru_cache(maxsize=256)
def _plan(spec):
    """(body, tiles, numbers and tables, scratch)."""
    LANES, shape = lanes(spec.dtype), _shape(spec)
    height, width = _frame(spec) if _is_framed(spec) else (spec.ih, spec.iw)
    c, kh, kw = (index.ravel() for index in np.indices((spec.icg, spec.kh, spec.kw)))
    rows = ((c * height + kh * spec.dh) * width + kw * spec.dw)[:: shape.T].copy()
    h, w = (index.ravel() for index in np.indices((spec.oh, spec.ow)))
    strips = split(spec.ocg, shape.NR * LANES)
    tiles = split(len(rows), shape.R)
    part_tiles = split(tiles, min(tiles, split(LEAST_TILES, spec.g * strips)))
    parts = split(tiles, part_tiles)
    numbers = {
        **{"groups": spec.g, "images": spec.n, "channels": spec.icg, "outputs": spec.ocg, "strips": strips},
        **{"parts": parts, "part_tiles": part_tiles, "rows_count": len(rows), "plane": height * width},
        **{"pixels": spec.out_pixels, "block_images": shape.images, "block_pixels": shape.pixels},
        **{"rows": rows, "steps": h * spec.sh * width + w * spec.sw},
    }
    scratch = part_tiles * shape.R * shape.T * shape.NR * LANES
    return make_spread(spec.dtype, shape.R, shape.T, shape.NR), spec.g * strips * parts, numbers, scratch


def _lanes_row(spec, gy, NR):
    """(the row that puts output channels into lanes, its result: a Temporary)."""
    strip = NR * lanes(spec.dtype)
    strips = split(spec.ocg, strip)
    turned = Temporary(spec.n * spec.g * strips * spec.out_pixels * strip, spec.dtype)
    numbers = {"rows": spec.ocg, "pixels": spec.out_pixels, "strips": strips, "strip": strip}
    values, work = {"x": gy, "y": turned, **numbers}, turned.size * TURN_NANOSECONDS
    return Row(make_lanes(spec.dtype), spec.n * spec.g * strips, values, work, temporaries=("y",)), turned


def _frame_row(spec, x):
    """(the row that puts the image into its frame, its result: a Temporary)."""
    height, width = _frame(spec)
    framed = Temporary(spec.n * spec.ic * height * width, spec.dtype)
    names = ("xh", "xw", "height", "width", "top", "left")
    numbers = dict(zip(names, (spec.ih, spec.iw, height, width, spec.ph, spec.pw), strict=True))
    values, work = {"x": x, "y": framed, **numbers}, framed.size * FRAME_NANOSECONDS
    return Row(make_frame(spec.dtype), spec.n * spec.ic, values, work, temporaries=("y",)), framed


@implements("conv.bwd_weights", rank=32)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_spread"

    @staticmethod
    def when(spec):
        if isa.name != "avx512":
            return f"needs 32 vector registers, {isa.name} has fewer"
        if spec.dtype != "float32":
            return f"is tuned for float32, has {spec.dtype}"
        if spec.kd > 1 or spec.id > 1 or spec.od > 1:
            return "needs one plane"
        if 0 in (spec.n, spec.ic, spec.oc, spec.in_pixels, spec.out_pixels):
            return "needs an image and a gradient"
        return None

    @staticmethod
    def cost(spec):
        shape, LANES = _shape(spec), lanes(spec.dtype)
        strip = shape.NR * LANES
        turned = spec.n * spec.g * split(spec.ocg, strip) * strip * spec.out_pixels
        short = 8 if spec.out_pixels < LANES or spec.ocg < LANES else 1  # values that go one by one
        framed = spec.n * spec.ic * np.prod(_frame(spec)) if _is_framed(spec) else 0
        copies = turned * short * TURN_NANOSECONDS + float(framed) * FRAME_NANOSECONDS
        image_bytes = spec.n * spec.ic * spec.in_pixels * np.dtype(spec.dtype).itemsize
        if image_bytes > CACHE_BYTES:
            copies += split(spec.ocg, strip) * image_bytes * BYTE_NANOSECONDS
        written = spec.oc * spec.icg * spec.taps * WRITE_NANOSECONDS
        return copies + written + shape.cycles * 2 * LANES * NANOSECONDS_PER_FLOP * PEAK_SHARE

    @staticmethod
    def emit(spec, buffers):
        body, tiles, numbers, scratch = _plan(spec)
        lanes_row, gy = _lanes_row(spec, buffers["gy"], _shape(spec).NR)
        values = {**numbers, "x": buffers["x"], "gy": gy, "gw": buffers["gw"]}
        main = Row(body, tiles, values, spec.flops() * NANOSECONDS_PER_FLOP, scratch, temporaries=("gy",))
        if not _is_framed(spec):
            return lanes_row, main
        frame, values["x"] = _frame_row(spec, buffers["x"])
        return lanes_row, frame, main._replace(temporaries=("gy", "x"))
