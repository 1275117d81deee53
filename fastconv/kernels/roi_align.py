"""RoI align: boxes of an image resampled to one size, forward and its adjoint.

The mean of bilinear samples on a grid is separable: y[i, j] = sum over rows of H[i, row] times the sum over columns of
W[j, column] x[row, column].  The two small matrices of a box are made once for all channels of a tile.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields
from .window import fill_row, rows_per_tile

_NUMBERS = "ih iw oh ow channels blocks part"
AlignBlock = Block("RoiAlign", {"x": None, "y": None, "boxes": None, "grids": "i8", "scratch": None}, _NUMBERS)
AdjointBlock = Block(
    "RoiAlignAdjoint",
    {"gx": None, "gy": None, "boxes": None, "grids": "i8", "order": "i8", "first": "i8", "scratch": None},
    _NUMBERS,
)


@helper
def axis_weights(weights, ends, start, step, grid, size, out):
    """weights[i, p]: what position p adds to bin i, whose `grid` samples lie at start + (i + (k + 1/2)/grid) step.

    A sample further outside than 1 adds nothing, one nearer is moved to the border.  ends[2i], ends[2i + 1]: the first
    position of the bin and the one behind its last.
    """
    real = weights.dtype.type
    for i in range(out):
        row = weights[i * size : (i + 1) * size]
        fill_row(row, real(0))
        low, high, share = size, 0, real(1) / real(grid)
        for k in range(grid):
            v = start + real(i) * step + (real(k) + real(0.5)) * step / real(grid)
            if v >= -1 and v <= size:
                v = v if v > 0 else real(0)
                p = int(v)
                if p >= size - 1:
                    p, v = size - 1, real(size - 1)
                f = v - real(p)
                row[p] += (real(1) - f) * share
                if f > 0:
                    row[p + 1] += f * share
                low, high = min(low, p), max(high, p + 2 if f > 0 else p + 1)
        ends[2 * i], ends[2 * i + 1] = real(min(low, high)), real(high)


@lru_cache
def make_matrices(dtype):
    @helper
    def matrices(scratch, boxes, grids, k, a):
        """(H, its ends, W, its ends) of box k, in scratch, and a free row behind them."""
        p = 0
        h, p = scratch[p : p + a.oh * a.ih], p + a.oh * a.ih
        w, p = scratch[p : p + a.ow * a.iw], p + a.ow * a.iw
        h_ends, p = scratch[p : p + 2 * a.oh], p + 2 * a.oh
        w_ends, p = scratch[p : p + 2 * a.ow], p + 2 * a.ow
        axis_weights(h, h_ends, boxes[4 * k + 1], boxes[4 * k + 3], grids[3 * k + 1], a.ih, a.oh)
        axis_weights(w, w_ends, boxes[4 * k], boxes[4 * k + 2], grids[3 * k + 2], a.iw, a.ow)
        return h, h_ends, w, w_ends, scratch[p : p + a.iw]

    return matrices


@helper
def whole_range(ends, size):
    """(first, end) of the positions that any bin reads."""
    low, high = size, 0
    for i in range(0, ends.size, 2):
        if ends[i] < ends[i + 1]:
            low, high = min(low, int(ends[i])), max(high, int(ends[i + 1]))
    return min(low, high), high


@lru_cache
def make_align(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize
    matrices = make_matrices(dtype)

    @tile_body(AlignBlock, dtype)
    def roi_align_fwd_separable(block, tile, worker):
        """y[k, c] of `part` channels of one box, rows first.  Tile: (k, channel block)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        boxes, grids = array_at(a.boxes, a.boxes_size, KIND), array_at(a.grids, a.grids_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        k, c0 = tile // a.blocks, tile % a.blocks * a.part
        h, h_ends, w, w_ends, s = matrices(scratch, boxes, grids, k, a)
        left, right = whole_range(w_ends, a.iw)
        for c in range(c0, min(c0 + a.part, a.channels)):
            plane = (grids[3 * k] * a.channels + c) * a.ih
            for i in range(a.oh):
                fill_row(s[left:right], s.dtype.type(0))
                for row in range(int(h_ends[2 * i]), int(h_ends[2 * i + 1])):
                    weight, source = h[i * a.ih + row], x[(plane + row) * a.iw : (plane + row + 1) * a.iw]
                    for p in range(left, right):
                        s[p] += weight * source[p]
                for j in range(a.ow):
                    total = s.dtype.type(0)
                    for p in range(int(w_ends[2 * j]), int(w_ends[2 * j + 1])):
                        total += w[j * a.iw + p] * s[p]
                    y[((k * a.channels + c) * a.oh + i) * a.ow + j] = total

    return roi_align_fwd_separable


@lru_cache
def make_adjoint(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize
    matrices = make_matrices(dtype)

    @tile_body(AdjointBlock, dtype)
    def roi_align_bwd_separable(block, tile, worker):
        """gx[n, c] = the sum over the image's boxes of what y read, for `part` channels.  Tile: (n, channel block)."""
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        boxes, grids = array_at(a.boxes, a.boxes_size, KIND), array_at(a.grids, a.grids_size, "i8")
        order, first = array_at(a.order, a.order_size, "i8"), array_at(a.first, a.first_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        n, c0 = tile // a.blocks, tile % a.blocks * a.part
        c1 = min(c0 + a.part, a.channels)
        fill_row(gx[(n * a.channels + c0) * a.ih * a.iw : (n * a.channels + c1) * a.ih * a.iw], gx.dtype.type(0))
        for number in range(first[n], first[n + 1]):
            k = order[number]
            h, h_ends, w, w_ends, s = matrices(scratch, boxes, grids, k, a)
            left, right = whole_range(w_ends, a.iw)
            for c in range(c0, c1):
                plane = (n * a.channels + c) * a.ih
                for i in range(a.oh):
                    fill_row(s[left:right], s.dtype.type(0))
                    for j in range(a.ow):
                        g = gy[((k * a.channels + c) * a.oh + i) * a.ow + j]
                        for p in range(int(w_ends[2 * j]), int(w_ends[2 * j + 1])):
                            s[p] += w[j * a.iw + p] * g
                    for row in range(int(h_ends[2 * i]), int(h_ends[2 * i + 1])):
                        weight, target = h[i * a.ih + row], gx[(plane + row) * a.iw : (plane + row + 1) * a.iw]
                        for p in range(left, right):
                            target[p] += weight * s[p]

    return roi_align_bwd_separable


# ---- rows of a program


def _numbers(x_shape, y_shape, work):
    """Sizes, the channels of a tile, and elements of scratch."""
    (_, channels, ih, iw), (oh, ow) = x_shape, y_shape[2:]
    part = rows_per_tile(channels, work, target=50_000)
    numbers = {"ih": ih, "iw": iw, "oh": oh, "ow": ow, "channels": channels, "part": part}
    return {**numbers, "blocks": -(-channels // part)}, oh * ih + ow * iw + 2 * (oh + ow) + iw


def _work(x_shape, y_shape):
    """Nanoseconds of a channel of a box that covers half the image in each direction."""
    return 50 + 0.1 * x_shape[2] * x_shape[3] / 2 + 5 * y_shape[2] * y_shape[3]


def align_row(x, y, boxes, grids):
    """boxes (K, 4): left, top, and the width and height of a bin; grids (K, 3): image, samples down and along a bin."""
    work = _work(x.shape, y.shape)
    numbers, scratch = _numbers(x.shape, y.shape, work)
    values = {"x": x, "y": y, "boxes": boxes, "grids": grids, **numbers}
    tiles = len(boxes) * numbers["blocks"]
    return Row(make_align(x.dtype.name), tiles, values, len(boxes) * x.shape[1] * work, scratch)


def adjoint_row(gx, gy, boxes, grids, order, first):
    """order: the boxes by image; those of image n are order[first[n] : first[n + 1]]."""
    boxes_per_image = max(1, len(boxes) // max(1, len(gx)))
    work = _work(gx.shape, gy.shape) * boxes_per_image
    numbers, scratch = _numbers(gx.shape, gy.shape, work)
    values = {"gx": gx, "gy": gy, "boxes": boxes, "grids": grids, "order": order, "first": first, **numbers}
    tiles = len(gx) * numbers["blocks"]
    return Row(make_adjoint(gx.dtype.name), tiles, values, len(gx) * gx.shape[1] * work, scratch)
