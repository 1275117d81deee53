"""Resizing of images in all modes of torch.nn.functional.interpolate; the gradient is the same map transposed.

Every mode but "area" is one small matrix per axis (kernels/separable.py), computed here from sizes and scales:

    nearest, nearest-exact   source floor(o*scale), floor((o + 1/2)*scale)
    linear, bilinear, ...    between two pixels, at (o + 1/2)*scale - 1/2 or, with align_corners, o*(in - 1)/(out - 1)
    bicubic                  four pixels, convolution cubic with a = -3/4 (Keys, 1981), border repeated
    antialias                triangle, or cubic with a = -1/2, widened by the scale, normalised; border left out
    area                     adaptive average pooling
"""

import math
from functools import lru_cache
from numbers import Integral, Real

import numpy as np

from .. import _memory
from .._device import DeviceArray, leaf
from ..autograd.op import Op
from ..kernels.separable import Axis, identity, row, tables
from ..packing import dense
from ..prepared import run_rows
from . import checks, pool
from .recall import recalled

_RANKS = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
}


# ---- matrices of one axis


def _scale(size, out, align_corners, factor):
    if align_corners:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / factor if factor is not None and factor > 0 else size / out


def _nearest(size, out, factor, half, dtype):
    """Positions in the precision of the arrays, rounded to float32 before the floor: torch's choice of pixel."""
    real = np.dtype(dtype).type
    scale = real(1 / factor) if factor is not None and factor > 0 else real(size) / real(out)
    o = np.arange(out, dtype=dtype)
    position = ((o + real(0.5) if half else o) * scale).astype(np.float32)
    at = np.minimum(np.floor(position).astype(np.int64), size - 1)
    return at[:, None], np.ones((out, 1)), np.ones(out, np.int64)


def _sources(size, out, align_corners, factor, cubic):
    """(index, fraction) of the pixel at or before each output."""
    o, scale = np.arange(out), _scale(size, out, align_corners, factor)
    real = o * scale if align_corners else (o + 0.5) * scale - 0.5
    if not cubic:
        real = np.maximum(real, 0)
    index = np.minimum(np.floor(real).astype(np.int64), size - 1)
    return index, np.clip(real - index, 0, 1)


def _linear(size, out, align_corners, factor):
    if size == out and factor is None:
        return identity(size).at, np.ones((size, 1)), np.ones(size, np.int64)
    index, t = _sources(size, out, align_corners, factor, False)
    at = np.stack([index, np.minimum(index + 1, size - 1)], 1)
    return at, np.stack([1 - t, t], 1), np.full(out, 2)


def _cubic_filter(x, a):
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    return np.where(x < 1, near, np.where(x < 2, (((x - 5) * x + 8) * x - 4) * a, 0))


def _cubic(size, out, align_corners, factor):
    index, t = _sources(size, out, align_corners, factor, True)
    steps = np.arange(-1, 3)
    at = np.clip(index[:, None] + steps, 0, size - 1)
    return at, _cubic_filter(steps - t[:, None], -0.75), np.full(out, 4)


def _antialiased(size, out, align_corners, factor, cubic):
    scale = _scale(size, out, align_corners, factor)
    support = (2.0 if cubic else 1.0) * max(scale, 1.0)
    center = scale * (np.arange(out) + 0.5)
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    counts = np.clip(np.minimum((center + support + 0.5).astype(np.int64), size) - first, 0, math.ceil(support) * 2 + 1)
    k = np.arange(max(1, counts.max(initial=1)))
    x = (k + (first - center + 0.5)[:, None]) / max(scale, 1.0)
    weights = _cubic_filter(x, -0.5) if cubic else np.maximum(1 - np.abs(x), 0)
    weights = np.where(k < counts[:, None], weights, 0)
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=weights, where=total != 0)
    at = np.where(k < counts[:, None], first[:, None] + k, np.minimum(first, size - 1)[:, None])
    return at, weights, counts


def _axis(mode, size, out, align_corners, factor, antialias, dtype):
    if mode.startswith("nearest"):
        return Axis(size, *_nearest(size, out, factor, mode == "nearest-exact", dtype))
    if antialias:
        return Axis(size, *_antialiased(size, out, align_corners, factor, mode == "bicubic"))
    return Axis(size, *(_cubic if mode == "bicubic" else _linear)(size, out, align_corners, factor))


# ---- operation


@lru_cache(maxsize=256)
def _maps(mode, size, out, align_corners, factors, antialias, dtype, transposed):
    """(spatial output size, tables, axes) of the map, or of its adjoint."""
    axes = [_axis(mode, i, o, align_corners, f, antialias, dtype) for i, o, f in zip(size, out, factors, strict=True)]
    if transposed:
        axes = [axis.transposed() for axis in axes]
    three = [identity(1)] * (3 - len(axes)) + axes
    return tuple(axis.out for axis in axes), tables(three, dtype), tuple(three)


def _rows(x, y, settings, transposed):
    return (row(_maps(*settings, x.dtype.name, transposed)[1], x, y),)


class Resize(Op):
    """The map of `settings` (mode, size, out, align_corners, factors, antialias), or its adjoint."""

    name = "interpolate"
    anywhere = True

    @staticmethod
    def forward(ctx, x, settings, transposed):
        ctx.settings, ctx.transposed = settings, transposed
        size, _, axes = _maps(*settings, x.dtype.name, transposed)
        if isinstance(x, DeviceArray):
            return leaf(x.device).resample(x, size, axes)
        y = _memory.empty((*x.shape[:2], *size), x.dtype)
        run_rows(_rows, (dense(x), y), settings, transposed)
        return y

    @staticmethod
    def backward(ctx, g):
        return Resize.apply(g, ctx.settings, not ctx.transposed), None, None


# ---- checks


def _check_mode(op, x, mode, align_corners, antialias):
    rank = x.ndim - 2
    if mode not in _RANKS:
        raise ValueError(f"{op}: mode must be one of {', '.join(_RANKS)}, given {mode!r}")
    if rank not in _RANKS[mode]:
        wanted = " or ".join(str(r + 2) for r in _RANKS[mode])
        raise ValueError(f"{op}: mode {mode!r} wants input of {wanted} dimensions (n, c, ...), given shape {x.shape}")
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        raise ValueError(f"{op}: align_corners can't be set for mode {mode!r}, given {align_corners!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"{op}: antialias needs mode bilinear or bicubic, given {mode!r}")


def _each(op, name, value, rank, kind, what):
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    if any(isinstance(v, bool) or not isinstance(v, kind) for v in values):
        raise TypeError(f"{op}: {name} must be {what} or {rank} of them, given {value!r}")
    if len(values) != rank:
        raise ValueError(f"{op}: {name} must have {rank} values, one per spatial dimension, given {value!r}")
    return values


def _sizes(op, x, size, scale_factor, recompute, mode):
    """(output size, scale factor of each axis or None)."""
    rank = x.ndim - 2
    if (size is None) == (scale_factor is None):
        raise ValueError(f"{op}: wants either size or scale_factor, given {size!r} and {scale_factor!r}")
    if size is not None:
        if recompute:
            raise ValueError(f"{op}: recompute_scale_factor can't be set with a size, given size {size!r}")
        return tuple(map(int, _each(op, "size", size, rank, Integral, "a whole number"))), (None,) * rank
    factors = tuple(map(float, _each(op, "scale_factor", scale_factor, rank, Real, "a number")))
    if not all(map(math.isfinite, factors)):
        raise ValueError(f"{op}: scale_factor must be finite, given {scale_factor!r}")
    out = tuple(math.floor(i * f) for i, f in zip(x.shape[2:], factors, strict=True))
    return out, (None,) * rank if recompute or mode == "area" else factors


# ---- public functions


def _interpolate(op, input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias):
    x = checks.floating(op, "input", input)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{op}: input must be float32 or float64, given {x.dtype}")
    _check_mode(op, x, mode, align_corners, antialias)
    out, factors = _sizes(op, x, size, scale_factor, recompute_scale_factor, mode)
    if mode == "area":
        adaptive = (pool.adaptive_avg_pool1d, pool.adaptive_avg_pool2d, pool.adaptive_avg_pool3d)[x.ndim - 3]
        return adaptive(input, out)
    if min(*x.shape[1:], *out) < 1:
        raise ValueError(
            f"{op}: channels and sizes must be at least 1, only the batch may be empty; "
            f"given input {x.shape}, output size {out}"
        )
    settings = (mode, tuple(x.shape[2:]), out, bool(align_corners), factors, bool(antialias))
    return Resize.apply(input, settings, False)


@recalled
def interpolate(
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    """Resize input (n, c, length), (n, c, h, w) or (n, c, d, h, w) to `size`, or to floor(size * scale_factor).

    mode: nearest, nearest-exact, linear (3-d input), bilinear, bicubic (4-d), trilinear (5-d) or area.  Positions
    follow scale_factor itself unless recompute_scale_factor says to use the ratio of the sizes.  antialias: widen the
    filter when shrinking; bilinear and bicubic.  Raises ValueError or TypeError with given and wanted values.
    """
    settings = size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
    return _interpolate("interpolate", input, *settings)


def upsample(input, size=None, scale_factor=None, mode="nearest", align_corners=None):
    """The older name of `interpolate`."""
    return _interpolate("upsample", input, size, scale_factor, mode, align_corners, None, False)
