"""The weight gradient of a convolution of stride 1 with nothing copied: products of the gradient and of shifted images,
both as they lie, added up with pixels in the lanes.

A register tile is a few output channels by the taps of one kernel row for a few input channels, kept in registers over
a run of pixels; its lanes are added at the very end.  What a shift brings from beyond the ends of a row is masked, as
in grouped.py.  Packed patches (implicit_gemm) must be transposed for the sake of few output channels; here the number
of channels makes no difference.  A gradient smaller than the image is copied into a frame of its size.
"""

from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import add_part, array_at, fields, isa, lanes, store_tile, zero_tile
from ..simd_vector import masked_dot_loop, store_sums
from .gathers import NANOSECONDS_PER_FLOP, split
from .phases import FRAME_NANOSECONDS, frame_row

WeightsBlock = Block(
    "DirectWeightsBlock",
    {"x": None, "gy": None, "gw": None, "masks": "u1", "steps": "i8", "scratch": None},
    "groups images rows channels taps_count pixels vectors parts block_images block_vectors inside",
)


@cache
def make_weights(dtype, MR, C, T):
    """The kernel for a register tile of MR output channels, C input channels and T taps."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    COUNT, MASK_BYTES = MR * C * T, max(1, LANES // 8)

    @helper
    def write_sums(a, sums, group, top, skip, c, t, gw):
        """gw[o, c.., t..] = the sums of a tile, for its output channels from `skip` on."""
        for m in range(skip, MR):
            for i in range(C):
                at = ((group * a.rows + top + m) * a.channels + c + i) * a.taps_count + t
                for j in range(T):
                    gw[at + j] = sums[(m * C + i) * T + j]

    @tile_body(WeightsBlock, dtype)
    def conv_bwd_weights_direct(block, tile, worker):
        """Tile: (group, MR output channels); sums over images and pixels in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        masks, steps = array_at(a.masks, a.masks_size, "u1"), array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        group, row = tile // a.parts, tile % a.parts * MR
        top, kernel_rows = min(row, a.rows - MR), a.taps_count // T
        passes = (a.channels + C - 1) // C * kernel_rows
        for n0 in range(0, a.images, a.block_images):
            n1 = min(n0 + a.block_images, a.images)
            for v in range(0, a.vectors, a.block_vectors):
                count = min(a.block_vectors, a.vectors - v)
                last = n1 == a.images and v + count == a.vectors
                for p in range(passes):
                    c, t, kept = min(p // kernel_rows * C, a.channels - C), p % kernel_rows * T, p * COUNT * LANES
                    acc = zero_tile(x, COUNT, 1)
                    if n0 + v > 0:
                        acc = add_part(acc, scratch, kept, LANES, 0, LANES, COUNT, 1)
                    for n in range(n0, n1):
                        g = ((n * a.groups + group) * a.rows + top) * a.pixels + v * LANES
                        at, mask = ((n * a.groups + group) * a.channels + c) * a.pixels + v * LANES, v * MASK_BYTES
                        acc = masked_dot_loop(
                            acc, gy, g, a.pixels, x, at, a.pixels, steps, 2 * t, masks, mask, a.inside, count, MR, C, T
                        )
                    if last:
                        store_sums(acc, scratch, kept, COUNT)
                        write_sums(a, scratch[kept:], group, top, row - top, c, t, gw)
                    else:
                        store_tile(acc, scratch, kept, LANES, COUNT, 1)

    return conv_bwd_weights_direct


# ---- programs

BLOCK_BYTES = 1 << 18  # of images and gradients that stay in a second-level cache of 1 MB from one pass to the next
LEVEL1_VECTORS = 48  # of a run so short that the gradients of a tile stay in the first-level cache
MASK_BYTES = 1 << 18  # of all masks
TILES = {  # (output channels, input channels) by taps of a row: what the registers hold
    1: ((6, 3), (4, 4), (2, 8), (1, 8), (1, 1)),
    3: ((6, 1), (4, 2), (3, 2), (2, 1), (1, 4), (1, 1)),
    5: ((5, 1), (4, 1), (2, 2), (1, 3), (1, 1)),
}
TILE_CYCLES = 60  # to begin and end a register tile
SUM_CYCLES = 6  # to add the lanes of one of its vectors
PEAK_SHARE = 0.87  # NANOSECONDS_PER_FLOP includes losses that are counted here one by one


class _Shape(NamedTuple):
    """How the gradient is tiled: output channels and input channels of a tile, vectors of an image, blocks."""

    MR: int
    C: int
    vectors: int
    block_images: int
    block_vectors: int
    cycles: float  # in all


@lru_cache(maxsize=1024)
def _shape(spec):
    LANES, T = lanes(spec.dtype), spec.kw
    vectors = split(spec.out_pixels, LANES)

    def shape(MR, C):
        image_bytes = (MR + spec.icg) * spec.out_pixels * np.dtype(spec.dtype).itemsize
        images = max(1, min(spec.n, BLOCK_BYTES // image_bytes))
        block = vectors if image_bytes <= BLOCK_BYTES else min(vectors, LEVEL1_VECTORS)
        loads = MR + 1.6 * C * T + T + 1
        step = max(MR * C * T, loads, 8)
        begins = split(spec.n, images) * split(vectors, block) * (TILE_CYCLES + 3 * MR * C * T)
        one = spec.n * vectors * step * 1.05 + begins + SUM_CYCLES * MR * C * T
        passes = split(spec.icg, C) * spec.kh * split(spec.ocg, MR) * spec.g
        return _Shape(MR, C, vectors, images, block, passes * one)

    tiles = [shape(MR, C) for MR, C in TILES[T] if spec.ocg >= MR and spec.icg >= C]
    return min(tiles, key=lambda shape: shape.cycles)


@lru_cache(maxsize=256)
def _plan(spec):
    """(body, tiles, numbers and tables, scratch)."""
    LANES, shape = lanes(spec.dtype), _shape(spec)
    row, column = np.divmod(np.arange(shape.vectors * LANES), spec.iw)
    kh, kw = (index.reshape(-1, 1) for index in np.indices((spec.kh, spec.kw)))
    h, w = kh * spec.dh - spec.ph, kw * spec.dw - spec.pw
    masks = (row < spec.oh) & (row + h >= 0) & (row + h < spec.ih) & (column + w >= 0) & (column + w < spec.iw)
    masks = np.concatenate([masks, (row < spec.oh)[None]])
    size = shape.vectors * max(1, LANES // 8)
    numbers = {
        **{"groups": spec.g, "images": spec.n, "rows": spec.ocg, "channels": spec.icg, "taps_count": spec.taps},
        **{"pixels": spec.out_pixels, "vectors": shape.vectors, "parts": split(spec.ocg, shape.MR)},
        **{"block_images": shape.block_images, "block_vectors": shape.block_vectors, "inside": spec.taps * size},
        "masks": np.packbits(masks.reshape(-1, LANES), axis=-1, bitorder="little").ravel(),
        "steps": np.stack([(h * spec.iw + w).ravel(), np.arange(spec.taps) * size], axis=1).ravel(),
    }
    passes = split(spec.icg, shape.C) * spec.kh
    scratch = (passes * shape.MR * shape.C * spec.kw + 1) * LANES
    return make_weights(spec.dtype, shape.MR, shape.C, spec.kw), spec.g * numbers["parts"], numbers, scratch


@lru_cache(maxsize=1024)
def _framed(spec):
    """The same with an output as large as the image: pixels that are not there have a gradient of 0."""
    same = (spec.oh, spec.ow) == (spec.ih, spec.iw)
    return spec if same else replace(spec, oh=spec.ih, ow=spec.iw)


@implements("conv.bwd_weights", rank=31)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_direct"

    @staticmethod
    def when(spec):
        if isa.name != "avx512":
            return f"needs registers for masks, {isa.name} has none"
        if spec.dtype != "float32":
            return f"is tuned for float32, has {spec.dtype}"
        if max(spec.sd, spec.sh, spec.sw) > 1:
            return "needs stride 1"
        if spec.kd > 1 or spec.id > 1 or spec.od > 1:
            return "needs one plane"
        if spec.kw not in TILES:
            return f"needs kernel rows of {', '.join(map(str, TILES))} taps, has {spec.kw}"
        if spec.oh > spec.ih or spec.ow > spec.iw or 0 in (spec.n, spec.ic, spec.oc, spec.out_pixels):
            return "needs an output no larger than the image"
        most = spec.taps * spec.in_pixels // 8
        return f"needs masks of at most {MASK_BYTES} bytes, has {most}" if most > MASK_BYTES else None

    @staticmethod
    def cost(spec):
        whole = _framed(spec)
        copies = 0 if whole is spec else spec.n * spec.oc * spec.in_pixels * FRAME_NANOSECONDS
        return copies + _shape(whole).cycles * 2 * lanes(spec.dtype) * NANOSECONDS_PER_FLOP * PEAK_SHARE

    @staticmethod
    def emit(spec, buffers):
        whole = _framed(spec)
        body, tiles, numbers, scratch = _plan(whole)
        arrays = {name: buffers[name] for name in ("x", "gy", "gw")}
        row = Row(body, tiles, {**numbers, **arrays}, whole.flops() * NANOSECONDS_PER_FLOP, scratch)
        if whole is spec:
            return (row,)
        sizes = (spec.oh, spec.ow), (spec.ih, spec.iw)
        frame, row.values["gy"] = frame_row(spec.dtype, spec.n * spec.oc, buffers["gy"], *sizes)
        return frame, row._replace(temporaries=("gy",))
