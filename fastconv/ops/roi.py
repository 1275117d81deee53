"""Regions of interest brought to one size: RoI pool and RoI align, with the signatures of torchvision.ops.

Input (n, c, h, w), float32 or float64, and K boxes -> output (K, c, oh, ow).  Boxes are (left, top, right, bottom) in
the coordinates of the image that `spatial_scale` maps to the input: an array (K, 5) with the number of the image before
them, or a list with an array (L, 4) for each image.  Gradients go to the input alone.

roi_pool   the maximum of each bin of the rounded box (Girshick, "Fast R-CNN", 2015, arXiv 1504.08083, section 2.1)
roi_align  the mean of bilinear samples in each bin, nothing rounded (He et al., "Mask R-CNN", 2017, arXiv 1703.06870,
           section 3)
"""

from math import isfinite
from numbers import Integral, Real

import numpy as np

from .. import _memory
from ..autograd.op import Op, value
from ..kernels import roi_align as align_kernels
from ..kernels import roi_align_blocks as align_blocks
from ..kernels import roi_pool as pool_kernels
from ..packing import dense
from ..prepared import run_rows
from ..specs import whole_numbers
from .checks import array

_MOST_SAMPLES = 1 << 20  # of a bin, along one side: a box that needs more is a mistake


def _by_image(image, n):
    """(order, first): the boxes by image, those of image i at order[first[i] : first[i + 1]]."""
    order = np.argsort(image, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(image, minlength=n))]).astype(np.int64)


def _align_rows(x, y, boxes, grids):
    if align_blocks.is_wide(x.shape, y.shape, x.dtype):
        return align_blocks.align_rows(x, y, boxes, grids)
    return (align_kernels.align_row(x, y, boxes, grids),)


def _adjoint_rows(gx, gy, *boxes):
    if align_blocks.is_wide(gx.shape, gy.shape, gx.dtype):
        return align_blocks.adjoint_rows(gx, gy, *boxes)
    return (align_kernels.adjoint_row(gx, gy, *boxes),)


def _pool_rows(*arrays):
    return (pool_kernels.pool_row(*arrays),)


def _scatter_rows(*arrays):
    return (pool_kernels.scatter_row(*arrays),)


class RoiAlign(Op):
    """boxes (K, 4): left, top, width and height of a bin; grids (K, 3): image, samples down and along a bin."""

    name = "roi_align"

    @staticmethod
    def forward(ctx, x, boxes, grids, size):
        ctx.boxes, ctx.grids, ctx.shape = boxes, grids, x.shape
        y = _memory.empty((len(boxes), x.shape[1], *size), x.dtype)
        run_rows(_align_rows, (dense(x), y, boxes, grids))
        return y

    @staticmethod
    def backward(ctx, gy):
        return RoiAlignAdjoint.apply(gy, ctx.boxes, ctx.grids, ctx.shape), None, None, None


class RoiAlignAdjoint(Op):
    name = "roi_align_adjoint"

    @staticmethod
    def forward(ctx, gy, boxes, grids, shape):
        ctx.boxes, ctx.grids, ctx.size = boxes, grids, gy.shape[2:]
        gx = _memory.empty(shape, gy.dtype)
        order, first = _by_image(grids[:, 0], shape[0])
        run_rows(_adjoint_rows, (gx, dense(gy), boxes, grids, order, first))
        return gx

    @staticmethod
    def backward(ctx, ggx):
        return RoiAlign.apply(ggx, ctx.boxes, ctx.grids, ctx.size), None, None, None


class RoiPool(Op):
    """image (K,): each box's image; ends: the first and the end of the bins' rows and columns, (K, out, 2) each."""

    name = "roi_pool"

    @staticmethod
    def forward(ctx, x, image, ends, size):
        shape = (len(image), x.shape[1], *size)
        y, at = _memory.empty(shape, x.dtype), _memory.empty(shape, np.int64)
        run_rows(_pool_rows, (dense(x), y, at, image, *ends))
        ctx.image, ctx.shape = image, x.shape
        ctx.save(at)
        return y

    @staticmethod
    def backward(ctx, gy):
        (at,) = ctx.saved
        return RoiPoolScatter.apply(gy, at, ctx.image, ctx.shape), None, None, None


class RoiPoolScatter(Op):
    """gx[image[k], c, at[k, c]] += gy[k, c]."""

    name = "roi_pool_scatter"

    @staticmethod
    def forward(ctx, gy, at, image, shape):
        ctx.image = image
        ctx.save(at)
        gx = _memory.empty(shape, gy.dtype)
        run_rows(_scatter_rows, (gx, dense(gy), dense(at), *_by_image(image, shape[0])))
        return gx

    @staticmethod
    def backward(ctx, ggx):
        (at,) = ctx.saved
        return RoiPoolGather.apply(ggx, at, ctx.image), None, None, None


class RoiPoolGather(Op):
    """y[k, c] = x[image[k], c, at[k, c]], 0 where there is no position."""

    name = "roi_pool_gather"

    @staticmethod
    def forward(ctx, x, at, image):
        ctx.image, ctx.shape = image, x.shape
        ctx.save(at)
        flat = x.reshape(*x.shape[:2], -1)[image]
        picked = np.take_along_axis(flat, np.maximum(at, 0).reshape(*at.shape[:2], -1), 2).reshape(at.shape)
        return np.where(at < 0, x.dtype.type(0), picked)

    @staticmethod
    def backward(ctx, gy):
        (at,) = ctx.saved
        return RoiPoolScatter.apply(gy, at, ctx.image, ctx.shape), None, None


# ---- checks


def _boxes(op, x, boxes):
    """(image (K,), boxes (K, 4) in x's dtype)."""
    if isinstance(boxes, (list, tuple)):
        parts = [value(array(op, f"boxes[{i}]", part)) for i, part in enumerate(boxes)]
        for i, part in enumerate(parts):
            if part.ndim != 2 or part.shape[1] != 4:
                raise ValueError(f"{op}: boxes[{i}] must have shape (L, 4), given {part.shape}")
        if len(parts) > x.shape[0]:
            raise ValueError(f"{op}: the input has {x.shape[0]} images, given boxes for {len(parts)}")
        image = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        corners = np.concatenate(parts) if parts else np.zeros((0, 4), x.dtype)
    else:
        table = value(array(op, "boxes", boxes))
        if table.ndim != 2 or table.shape[1] != 5:
            raise ValueError(f"{op}: boxes must have shape (K, 5), or be a list of (L, 4), given {table.shape}")
        image, corners = table[:, 0], table[:, 1:]
    if corners.dtype.kind not in "fiu" or not (np.isfinite(corners).all() and np.isfinite(image).all()):
        raise ValueError(f"{op}: boxes must be finite numbers, given dtype {corners.dtype}")
    wrong = image[(image < 0) | (image >= x.shape[0]) | (image != np.floor(image))]
    if wrong.size:
        raise ValueError(f"{op}: boxes are of images 0 to {x.shape[0] - 1}, given {wrong[0]}")
    return image.astype(np.int64), corners.astype(x.dtype)


def _scaled(op, corners, spatial_scale):
    with np.errstate(over="ignore"):
        scaled = corners * corners.dtype.type(spatial_scale)
    if not np.isfinite(scaled).all():
        raise ValueError(f"{op}: boxes times spatial_scale {spatial_scale} exceed {corners.dtype}")
    return scaled


def _check(op, x, output_size, spatial_scale):
    """The output's size, two whole numbers."""
    if array(op, "input", x).dtype not in (np.float32, np.float64):
        raise TypeError(f"{op}: input must be float32 or float64, given {x.dtype}")
    if x.ndim != 4 or min(x.shape[1:]) < 1:
        raise ValueError(f"{op}: input must have shape (n, c, h, w), only n may be 0, given {tuple(x.shape)}")
    if isinstance(spatial_scale, bool) or not isinstance(spatial_scale, Real):
        raise TypeError(f"{op}: spatial_scale must be a number, given {spatial_scale!r}")
    if not isfinite(spatial_scale):
        raise ValueError(f"{op}: spatial_scale must be finite, given {spatial_scale}")
    return whole_numbers(op, "output_size", output_size, 2, 1)


# ---- the functions


def roi_align(input, boxes, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """The mean of bilinear samples in each bin of each box: (n, c, h, w) and K boxes -> (K, c, oh, ow).

    boxes: (K, 5) with columns image, left, top, right, bottom, or a list of (L, 4), one for each image.
    output_size: a number or two.  spatial_scale: what box coordinates are multiplied by.
    sampling_ratio: samples along each side of a bin; 0 or less: as many as the bin has pixels, rounded up.
    aligned: shift boxes by half a pixel, so that pixel centres are at whole coordinates; else boxes are at least one
    pixel wide and high, as in the first version.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    op = "roi_align"
    size = _check(op, input, output_size, spatial_scale)
    if isinstance(sampling_ratio, bool) or not isinstance(sampling_ratio, Integral):
        raise TypeError(f"{op}: sampling_ratio must be a whole number, given {sampling_ratio!r}")
    if not isinstance(aligned, bool):
        raise TypeError(f"{op}: aligned must be True or False, given {aligned!r}")
    image, corners = _boxes(op, input, boxes)
    real = corners.dtype.type
    corners = _scaled(op, corners, spatial_scale) - real(0.5 if aligned else 0)
    sides = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = np.maximum(sides, real(1))
    elif sides.size and sides.min() < 0:
        raise ValueError(f"{op}: boxes must not end before they begin, given a width or height of {sides.min()}")
    steps = sides / np.array(size[::-1], corners.dtype)
    samples = np.full(steps.shape, sampling_ratio) if sampling_ratio > 0 else np.ceil(steps)
    if samples.size and not samples.max() <= _MOST_SAMPLES:
        raise ValueError(
            f"{op}: a bin may have at most {_MOST_SAMPLES} samples along a side, given {samples.max():.0f}"
        )
    counts = np.maximum(samples, 0).astype(np.int64)
    table = np.ascontiguousarray(np.concatenate([corners[:, :2], steps], 1))
    grids = np.ascontiguousarray(np.stack([image, counts[:, 1], counts[:, 0]], 1))
    return RoiAlign.apply(input, table, grids, size)


def _round(x):
    """To the nearest whole number, halves away from 0."""
    return np.copysign(np.floor(np.abs(x) + x.dtype.type(0.5)), x)


def _bins(low, high, out, size):
    """First and end of each bin between two rounded coordinates, both included, clipped to the image: (K, out, 2)."""
    step = np.maximum(high - low + 1, 1) / low.dtype.type(out)
    i = np.arange(out, dtype=low.dtype)
    first, end = np.floor(i * step[:, None]) + low[:, None], np.ceil((i + 1) * step[:, None]) + low[:, None]
    return np.clip(np.stack([first, end], 2), 0, size).astype(np.int64)


def roi_pool(input, boxes, output_size, spatial_scale=1.0):
    """The maximum of each bin of each box: (n, c, h, w) and K boxes -> (K, c, oh, ow).

    boxes: (K, 5) with columns image, left, top, right, bottom, or a list of (L, 4), one for each image; they are scaled
    by spatial_scale and rounded, and right and bottom belong to them.
    output_size: a number or two.  A bin without a pixel gives 0; NaN wins.
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    op = "roi_pool"
    size = _check(op, input, output_size, spatial_scale)
    image, corners = _boxes(op, input, boxes)
    left, top, right, bottom = _round(_scaled(op, corners, spatial_scale)).T
    ends = _bins(top, bottom, size[0], input.shape[2]), _bins(left, right, size[1], input.shape[3])
    return RoiPool.apply(input, image, ends, size)
