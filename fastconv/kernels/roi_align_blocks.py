"""RoI align of many boxes and channels: the two sums of `roi_align.py` on an image in blocks of LANES channels, so that
a position is one vector for all of them."""

from functools import cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, load_vector, store_vector, zero_vector
from ..simd_vector import fma_vector, splat_vector
from .grid_sample import blocks_row, make_rows
from .roi_align import make_matrices, whole_range

# Not in the order of `roi_align.py`: for Numba one block would be a kind of the other, in helpers that both use.
_NUMBERS = "spare sums_at bins_at turn_at ih iw oh ow channels blocks part"
AlignBlock = Block("RoiAlignBlocks", {"x": None, "y": None, "boxes": None, "grids": "i8", "scratch": None}, _NUMBERS)
AdjointBlock = Block(
    "RoiAlignBlocksAdjoint",
    {"gx": None, "gy": None, "boxes": None, "grids": "i8", "order": "i8", "first": "i8", "scratch": None},
    _NUMBERS + " image_at",
)


@cache
def make_align(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    matrices, (_, give_block), ZERO = make_matrices(dtype), make_rows(dtype), np.dtype(dtype).type(0)

    @tile_body(AlignBlock, dtype)
    def roi_align_fwd_blocks(block, tile, worker):
        """y[k, c] of `part` blocks of channels of one box.  Tile: (k, run of blocks)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        boxes, grids = array_at(a.boxes, a.boxes_size, KIND), array_at(a.grids, a.grids_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s, out, turn = scratch[a.sums_at :], scratch[a.bins_at :], scratch[a.turn_at :]
        runs, bins = (a.blocks + a.part - 1) // a.part, a.oh * a.ow
        k, b0 = tile // runs, tile % runs * a.part
        h, h_ends, w, w_ends, _ = matrices(scratch, boxes, grids, k, a)
        left, right = whole_range(w_ends, a.iw)
        for b in range(b0, min(b0 + a.part, a.blocks)):
            image = (grids[3 * k] * a.blocks + b) * a.spare * LANES
            for i in range(a.oh):
                low, high = int(h_ends[2 * i]), int(h_ends[2 * i + 1])
                for p in range(left, right):
                    total = splat_vector(x, ZERO)
                    for row in range(low, high):
                        value = load_vector(x, image + (row * a.iw + p) * LANES)
                        total = fma_vector(splat_vector(x, h[i * a.ih + row]), value, total)
                    store_vector(total, s, p * LANES)
                for j in range(a.ow):
                    total = splat_vector(x, ZERO)
                    for p in range(int(w_ends[2 * j]), int(w_ends[2 * j + 1])):
                        total = fma_vector(splat_vector(x, w[j * a.iw + p]), load_vector(s, p * LANES), total)
                    store_vector(total, out, (i * a.ow + j) * LANES)
            c = b * LANES
            for i in range(0, bins, LANES):
                at = (k * a.channels + c) * bins + i
                give_block(out, i * LANES, y, at, bins, a.channels - c, bins - i, turn)

    return roi_align_fwd_blocks


@cache
def make_adjoint(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    matrices, (take_block, give_block) = make_matrices(dtype), make_rows(dtype)

    @tile_body(AdjointBlock, dtype)
    def roi_align_bwd_blocks(block, tile, worker):
        """gx[n, c] = the sum over the image's boxes of what y read, box by box.  Tile: (n, block of channels)."""
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        boxes, grids = array_at(a.boxes, a.boxes_size, KIND), array_at(a.grids, a.grids_size, "i8")
        order, first = array_at(a.order, a.order_size, "i8"), array_at(a.first, a.first_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s, g, turn, image = scratch[a.sums_at :], scratch[a.bins_at :], scratch[a.turn_at :], scratch[a.image_at :]
        n, c, bins = tile // a.blocks, tile % a.blocks * LANES, a.oh * a.ow
        for p in range(0, a.spare * LANES, LANES):
            zero_vector(image, p)
        for number in range(first[n], first[n + 1]):
            k = order[number]
            h, h_ends, w, w_ends, _ = matrices(scratch, boxes, grids, k, a)
            left, right = whole_range(w_ends, a.iw)
            for i in range(0, bins, LANES):
                take_block(gy, (k * a.channels + c) * bins + i, bins, a.channels - c, bins - i, g, i * LANES, turn)
            for i in range(a.oh):
                for p in range(left, right):
                    zero_vector(s, p * LANES)
                for j in range(a.ow):
                    value = load_vector(g, (i * a.ow + j) * LANES)
                    for p in range(int(w_ends[2 * j]), int(w_ends[2 * j + 1])):
                        weight = splat_vector(g, w[j * a.iw + p])
                        store_vector(fma_vector(weight, value, load_vector(s, p * LANES)), s, p * LANES)
                for row in range(int(h_ends[2 * i]), int(h_ends[2 * i + 1])):
                    weight, at = splat_vector(g, h[i * a.ih + row]), row * a.iw * LANES
                    for p in range(left * LANES, right * LANES, LANES):
                        store_vector(fma_vector(weight, load_vector(s, p), load_vector(image, at + p)), image, at + p)
        pixels = a.ih * a.iw
        for p in range(0, pixels, LANES):
            give_block(
                image, p * LANES, gx, (n * a.channels + c) * pixels + p, pixels, a.channels - c, pixels - p, turn
            )

    return roi_align_bwd_blocks


# ---- rows of a program


def is_wide(x_shape, y_shape, dtype):
    """Whether enough lanes have a channel, and boxes enough samples to pay for another layout of the image."""
    return 3 * x_shape[1] > lanes(dtype) and 4 * y_shape[0] * y_shape[2] * y_shape[3] > x_shape[2] * x_shape[3]


def _numbers(x_shape, y_shape, dtype):
    """Sizes and places in the scratch, and its elements."""
    (_, channels, ih, iw), (oh, ow), LANES = x_shape, y_shape[2:], lanes(dtype)
    sums = oh * ih + ow * iw + 2 * (oh + ow) + iw
    bins = sums + iw * LANES
    turn = bins + -(-oh * ow // LANES) * LANES**2
    numbers = {"ih": ih, "iw": iw, "oh": oh, "ow": ow, "channels": channels, "blocks": -(-channels // LANES)}
    numbers |= {"spare": (ih * iw // LANES + 1) * LANES, "sums_at": sums, "bins_at": bins, "turn_at": turn}
    return numbers, turn + LANES**2


def _work(numbers, vector):
    """Nanoseconds of a block of channels of a box that covers half the image in each direction."""
    return 300 + 0.4 * numbers["ih"] * numbers["iw"] / 4 * 2 + 3 * numbers["oh"] * numbers["ow"] * vector / 16


def align_rows(x, y, boxes, grids):
    """As `roi_align.align_row`."""
    dtype, count = x.dtype, len(boxes)
    numbers, scratch = _numbers(x.shape, y.shape, dtype)
    blocks, work = numbers["blocks"], _work(numbers, lanes(dtype))
    numbers["part"] = blocks if count >= 8 else 1
    image = Temporary(len(x) * blocks * numbers["spare"] * lanes(dtype), dtype)
    values = {"x": image, "y": y, "boxes": boxes, "grids": grids, **numbers}
    tiles = count * -(-blocks // numbers["part"])
    body = make_align(dtype.name)
    return blocks_row(x, image), Row(body, tiles, values, count * blocks * work, scratch, ("x",))


def adjoint_rows(gx, gy, boxes, grids, order, first):
    """As `roi_align.adjoint_row`."""
    dtype = gx.dtype
    numbers, image_at = _numbers(gx.shape, gy.shape, dtype)
    values = {"gx": gx, "gy": gy, "boxes": boxes, "grids": grids, "order": order, "first": first, **numbers}
    values |= {"part": 1, "image_at": image_at}
    work = len(boxes) * numbers["blocks"] * 2 * _work(numbers, lanes(dtype))
    scratch = image_at + numbers["spare"] * lanes(dtype)
    return (Row(make_adjoint(dtype.name), len(gx) * numbers["blocks"], values, work, scratch),)
