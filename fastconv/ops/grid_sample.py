"""Sampling of images at the points of a grid, and grids of affine maps, as in torch.nn.functional.

input (n, c, h, w) and grid (n, oh, ow, 2), or input (n, c, d, h, w) and grid (n, od, oh, ow, 3).  A point is (x, y) or
(x, y, z) from -1 to 1: the centres of the outermost pixels with align_corners, else their outer edges.
"""

from math import prod

import numpy as np

from .. import _memory
from ..autograd import matmul, reshape, swap, value
from ..autograd.op import Op
from ..kernels import grid_sample as kernels
from ..kernels import grid_taps as taps
from ..packing import dense
from ..prepared import run_rows
from . import checks

_MODES = {"bilinear": taps.LINEAR, "nearest": taps.NEAREST, "bicubic": taps.CUBIC}
_PADDINGS = {"zeros": taps.ZEROS, "border": taps.BORDER, "reflection": taps.REFLECTION}


class GridSample(Op):
    """y from (x, grid); settings: mode, padding and align as the kernels take them."""

    name = "grid_sample"
    twice = False

    @staticmethod
    def forward(ctx, x, grid, settings):
        ctx.save(x, grid)
        ctx.settings = settings
        y = _memory.empty((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
        if y.size:
            run_rows(kernels.forward_rows, (dense(x), dense(grid), y), settings)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, grid = ctx.saved
        gx = np.zeros(x.shape, x.dtype) if ctx.needs[0] and not gy.size else None
        g_grid = np.zeros(grid.shape, grid.dtype) if ctx.needs[1] and not gy.size else None
        if gy.size:
            gx = _memory.empty(x.shape, x.dtype) if ctx.needs[0] else None
            g_grid = _memory.empty(grid.shape, grid.dtype) if ctx.needs[1] else None
            slope = None if ctx.settings[0] == taps.NEAREST else g_grid
            if g_grid is not None and slope is None:  # the nearest pixel stays the same
                g_grid[...] = 0
            if gx is not None or slope is not None:
                run_rows(kernels.backward_rows, (dense(x), dense(grid), dense(gy), gx, slope), ctx.settings)
        return gx, g_grid, None


def _check_shapes(x, grid):
    op = "grid_sample"
    if x.ndim not in (4, 5) or grid.ndim != x.ndim:
        raise ValueError(
            f"{op}: input and grid must both have 4 or both 5 dimensions, given {x.shape} and {grid.shape}"
        )
    if grid.shape[-1] != x.ndim - 2:
        raise ValueError(
            f"{op}: the grid's last dimension must have {x.ndim - 2} coordinates, given shape {grid.shape}"
        )
    if grid.shape[0] != x.shape[0]:
        raise ValueError(
            f"{op}: input has a batch of {x.shape[0]}, grid of {grid.shape[0]}; {x.shape} and {grid.shape}"
        )
    if min(x.shape[2:]) < 1:
        raise ValueError(f"{op}: the input must have at least one pixel in every dimension, given shape {x.shape}")


def grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=None):
    """The input at the points of a grid: (n, c, oh, ow) or (n, c, od, oh, ow).

    mode: bilinear, nearest or bicubic (4-d input).  padding_mode: outside lie zeros, the border repeated, or the image
    reflected.  align_corners: whether -1 and 1 are the centres of the outermost pixels; None means False.
    """
    for name, x in (("input", input), ("grid", grid)):
        if checks.floating("grid_sample", name, x).dtype not in (np.float32, np.float64):
            raise TypeError(f"grid_sample: {name} must be float32 or float64, given {x.dtype}")
    checks.same_dtype("grid_sample", "grid", grid, input)
    if mode not in _MODES:
        raise ValueError(f"grid_sample: mode must be one of {', '.join(_MODES)}, given {mode!r}")
    if padding_mode not in _PADDINGS:
        raise ValueError(f"grid_sample: padding_mode must be one of {', '.join(_PADDINGS)}, given {padding_mode!r}")
    _check_shapes(input, grid)
    if prod(input.shape[2:]) >= 2**31 // 16:
        raise ValueError(
            f"grid_sample: planes may have at most {2**31 // 16 - 1} pixels, given {prod(input.shape[2:])}"
        )
    if mode == "bicubic" and input.ndim != 4:
        raise ValueError(f"grid_sample: mode 'bicubic' wants an input of 4 dimensions, given shape {input.shape}")
    return GridSample.apply(input, grid, (_MODES[mode], _PADDINGS[padding_mode], bool(align_corners)))


# ---- grids


def _base_grid(size, align_corners, dtype):
    """(points, axes + 1): the coordinates of every point, last axis first, and 1."""
    lines = [np.linspace(-1, 1, n, dtype=dtype) if n > 1 else np.zeros(1, dtype) for n in size]
    if not align_corners:
        lines = [line * dtype.type((n - 1) / n) for line, n in zip(lines, size, strict=True)]
    coordinates = np.meshgrid(*lines, indexing="ij")[::-1]
    return np.stack([*coordinates, np.ones(tuple(size), dtype)], -1).reshape(-1, len(size) + 1)


def affine_grid(theta, size, align_corners=None):
    """The grid (n, h, w, 2) or (n, d, h, w, 3) of affine maps theta (n, 2, 3) or (n, 3, 4), for an output of `size`.

    size: (n, c, h, w) or (n, c, d, h, w).  point = theta (x, y[, z], 1), for `grid_sample` with the same align_corners.
    """
    theta_array = value(checks.floating("affine_grid", "theta", theta))
    size = tuple(int(n) for n in size)
    if len(size) not in (4, 5):
        raise ValueError(f"affine_grid: size must have 4 or 5 values, (n, c, h, w) or (n, c, d, h, w), given {size}")
    if min(size) < 1:
        raise ValueError(f"affine_grid: every value of size must be at least 1, given {size}")
    axes = len(size) - 2
    if theta_array.shape != (size[0], axes, axes + 1):
        raise ValueError(
            f"affine_grid: theta must have shape {(size[0], axes, axes + 1)} for size {size}, given {theta_array.shape}"
        )
    base = _base_grid(size[2:], align_corners, theta_array.dtype)
    return reshape(matmul(base, swap(theta, 1, 2)), (size[0], *size[2:], axes))
