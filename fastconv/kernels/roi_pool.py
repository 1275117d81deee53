"""RoI pooling: the maximum of each bin of a box, with its position, and the gradient that goes there."""

from functools import lru_cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row
from ..simd import array_at, fields
from .fractional_pool import columns_argmax, window_argmax
from .window import fill_row, rows_per_tile

_NUMBERS = "ih iw oh ow channels blocks part"
PoolBlock = Block(
    "RoiPool",
    {"x": None, "y": None, "at": "i8", "image": "i8", "h_ends": "i8", "w_ends": "i8", "scratch": None},
    _NUMBERS,
)
ScatterBlock = Block("RoiPoolScatter", {"gx": None, "gy": None, "at": "i8", "order": "i8", "first": "i8"}, _NUMBERS)


@lru_cache
def make_roi_pool(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(PoolBlock, dtype)
    def roi_pool_fwd_columns(block, tile, worker):
        """y[k, c] of `part` channels of one box and the positions in the plane; an empty bin gives 0 at -1.

        Bin (i, j) of box k holds rows h_ends[k, i] and columns w_ends[k, j] (first, end).  Tile: (k, channel block).
        """
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, "i8")
        image, h_ends = array_at(a.image, a.image_size, "i8"), array_at(a.h_ends, a.h_ends_size, "i8")
        w_ends = array_at(a.w_ends, a.w_ends_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        real = scratch.dtype.type
        k, c0 = tile // a.blocks, tile % a.blocks * a.part
        left, right = w_ends[2 * k * a.ow], w_ends[2 * (k + 1) * a.ow - 1]
        s, which = scratch[: right - left], scratch[a.iw : a.iw + right - left]
        for c in range(c0, min(c0 + a.part, a.channels)):
            plane = (image[k] * a.channels + c) * a.ih
            for i in range(a.oh):
                h0, h1 = h_ends[2 * (k * a.oh + i)], h_ends[2 * (k * a.oh + i) + 1]
                fill_row(s, real(-np.inf))
                fill_row(which, real(0))
                for row in range(h0, h1):
                    start = (plane + row) * a.iw
                    columns_argmax(s, which, x[start + left : start + right], real(row - h0))
                for j in range(a.ow):
                    w0, w1 = w_ends[2 * (k * a.ow + j)], w_ends[2 * (k * a.ow + j) + 1]
                    o = ((k * a.channels + c) * a.oh + i) * a.ow + j
                    if h0 < h1 and w0 < w1:
                        m, column, row = window_argmax(s, which, w0 - left, w1 - w0)
                        y[o], at[o] = m, (h0 + int(row)) * a.iw + left + column
                    else:
                        y[o], at[o] = real(0), -1

    return roi_pool_fwd_columns


@lru_cache
def make_roi_scatter(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(ScatterBlock, dtype)
    def roi_pool_bwd_scatter(block, tile, worker):
        """gx[n, c, at[k, c, o]] += gy[k, c, o] for the image's boxes in their order.  Tile: (n, channel block)."""
        a = fields(block)
        gx, gy, at = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.at, a.at_size, "i8")
        order, first = array_at(a.order, a.order_size, "i8"), array_at(a.first, a.first_size, "i8")
        n, c0, pixels, bins = tile // a.blocks, tile % a.blocks * a.part, a.ih * a.iw, a.oh * a.ow
        for c in range(c0, min(c0 + a.part, a.channels)):
            plane = gx[(n * a.channels + c) * pixels : (n * a.channels + c + 1) * pixels]
            fill_row(plane, plane.dtype.type(0))
            for number in range(first[n], first[n + 1]):
                start = (order[number] * a.channels + c) * bins
                for o in range(start, start + bins):
                    position = np.uintp(at[o])
                    if position < np.uintp(pixels):
                        plane[position] += gy[o]

    return roi_pool_bwd_scatter


def _numbers(x_shape, y_shape, work):
    (_, channels, ih, iw), (oh, ow) = x_shape, y_shape[2:]
    part = rows_per_tile(channels, work)
    numbers = {"ih": ih, "iw": iw, "oh": oh, "ow": ow, "channels": channels, "part": part}
    return {**numbers, "blocks": -(-channels // part)}


def pool_row(x, y, at, image, h_ends, w_ends):
    """image (K,): each box's image; h_ends, w_ends (K, out, 2): first and end of its bins, clipped to the image."""
    work = 50 + 0.2 * x.shape[2] * x.shape[3] / 4 + 4 * y.shape[2] * y.shape[3]
    numbers = _numbers(x.shape, y.shape, work)
    values = {"x": x, "y": y, "at": at, "image": image, "h_ends": h_ends, "w_ends": w_ends, **numbers}
    tiles = len(image) * numbers["blocks"]
    return Row(make_roi_pool(x.dtype.name), tiles, values, len(image) * x.shape[1] * work, 2 * x.shape[3])


def scatter_row(gx, gy, at, order, first):
    """order: the boxes by image; those of image n are order[first[n] : first[n + 1]]."""
    bins, per_image = gy.shape[2] * gy.shape[3], -(-len(gy) // max(1, len(gx)))
    work = 0.2 * gx.shape[2] * gx.shape[3] + 1.5 * bins * per_image
    numbers = _numbers(gx.shape, gy.shape, work)
    values = {"gx": gx, "gy": gy, "at": at, "order": order, "first": first, **numbers}
    tiles = len(gx) * numbers["blocks"]
    return Row(make_roi_scatter(gx.dtype.name), tiles, values, len(gx) * gx.shape[1] * work)
