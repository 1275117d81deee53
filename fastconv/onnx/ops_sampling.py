"""ONNX GridSample and AffineGrid."""

import itertools

import numpy as np

from .ops_resize import cubic_filter
from .ops_shape import ints
from .table import in_float, op


def _reflected(places, low, high):
    """Coordinates folded back into [low, high]."""
    span = high - low
    if span <= 0:
        return np.zeros_like(places)
    away = np.abs(places - low)
    turns, rest = np.floor(away / span), np.mod(away, span)
    return np.where(turns % 2 == 0, rest + low, high - rest)


def _inside(places, size, padding, aligned):
    """Coordinates that padding moves into the image."""
    if padding == "border":
        return np.clip(places, 0, size - 1)
    if padding == "reflection":
        low, high = (0, size - 1) if aligned else (-0.5, size - 0.5)
        return np.clip(_reflected(places, low, high), 0, size - 1)
    return places


def _taps(mode, places):
    """[(pixel number, weight)] along one axis."""
    if mode == "nearest":
        return [(np.rint(places), None)]
    first = np.floor(places)
    if mode == "cubic":
        weigh = cubic_filter(-0.75)
        return [(first + t, weigh(first + t - places)) for t in (-1, 0, 1, 2)]
    return [(first, first + 1 - places), (first + 1, places - first)]


@op("GridSample")
@in_float
def grid_sample(node, x, grid):
    """x (N, C, sizes...) at the places of grid (N, out..., axes), in [-1, 1], the last axis of x first."""
    aligned, padding = bool(node.get("align_corners", 0)), node.get("padding_mode", "zeros")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node.get("mode", "linear"), node.get("mode", "linear"))
    ndim, sizes = x.ndim - 2, x.shape[2:]
    if grid.shape[-1] != ndim or grid.shape[0] != x.shape[0]:
        raise ValueError(f"grid must be ({x.shape[0]}, ..., {ndim}), given {grid.shape}")
    taps = []
    for axis, size in enumerate(sizes):
        at = grid[..., ndim - 1 - axis].reshape(x.shape[0], -1).astype(np.float64)
        at = (at + 1) / 2 * (size - 1) if aligned else ((at + 1) * size - 1) / 2
        taps.append(_taps(mode, at if mode == "cubic" else _inside(at, size, padding, aligned)))
    y = np.zeros((x.shape[0], x.shape[1], taps[0][0][0].shape[1]), x.dtype)
    batch = np.arange(x.shape[0])[:, None]
    for chosen in itertools.product(*taps):
        weight, key = np.ones(chosen[0][0].shape), []
        for (number, part), size in zip(chosen, sizes, strict=True):
            number = _inside(number, size, padding, aligned) if mode == "cubic" else number
            inside = (number >= 0) & (number < size)
            weight = weight * inside * (1 if part is None else part)
            key.append(np.clip(np.nan_to_num(number), 0, size - 1).astype(np.int64))
        y += (x[(batch, slice(None), *key)] * weight[..., None].astype(x.dtype)).transpose(0, 2, 1)
    return y.reshape(x.shape[0], x.shape[1], *grid.shape[1:-1])


@op("AffineGrid")
@in_float
def affine_grid(node, theta, size):
    """theta applied to the places of a regular grid of this size."""
    axes = []
    for n in ints(size)[2:]:
        if node.get("align_corners", 0):
            axes.append(np.linspace(-1, 1, n) if n > 1 else np.zeros(1))
        else:
            axes.append((np.arange(n) * 2 + 1) / n - 1)
    grids = np.meshgrid(*axes, indexing="ij")
    points = np.stack([*grids[::-1], np.ones_like(grids[0])], -1)
    return np.einsum("...j,nij->n...i", points, theta).astype(theta.dtype)
