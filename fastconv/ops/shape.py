"""Padding in all modes. The adjoint of each mode adds what lies in the border to the pixels it was copied from."""

import math
from functools import lru_cache

import numpy as np

from .. import _memory
from ..autograd import cat, flatten, split, stack
from ..autograd.op import ArrayOp
from ..kernels.pad import AXES, pad_rows
from ..packing import dense
from ..prepared import run_rows
from .checks import array
from .recall import recalled

DTYPES = "any"

_TUNED = np.dtype(np.float32), np.dtype(np.float64)

__all__ = ["cat", "flatten", "pad", "split", "stack"]


class Pad(ArrayOp):
    """`pads` has (before, after) per axis of x; negative numbers crop."""

    name = "pad"

    @staticmethod
    def forward(ctx, x, pads, mode, fill):
        ctx.shape, ctx.pads, ctx.mode = x.shape, pads, mode
        if isinstance(x, np.ndarray) and x.dtype in _TUNED and x.size and _is_bordered(pads):
            return _padded(x, pads, mode, fill)
        if mode == "constant":
            out = _full(x, [n + a + b for n, (a, b) in zip(x.shape, pads, strict=True)], fill)
            source, target = _overlap(pads)
            out[target] = x[source]
            return out
        for axis, (before, after) in enumerate(pads):
            if before or after:
                x = x.take(_sources(x.shape[axis], before, after, mode), axis)
        return x

    @staticmethod
    def backward(ctx, g):
        return PadAdjoint.apply(g, ctx.shape, ctx.pads, ctx.mode), None, None, None


class PadAdjoint(ArrayOp):
    name = "pad_adjoint"

    @staticmethod
    def forward(ctx, g, shape, pads, mode):
        ctx.pads, ctx.mode = pads, mode
        if mode == "constant":
            source, target = _overlap(pads)
            if isinstance(g, np.ndarray) and min(map(min, pads), default=0) >= 0:
                out = _memory.empty(shape, g.dtype)
            else:
                out = _full(g, shape, 0)
            out[source] = g[target]
            return out
        for axis, (before, after) in enumerate(pads):
            if before or after:
                fold = _fold_here if isinstance(g, np.ndarray) else _fold
                g = fold(g, axis, before, shape[axis], _sources(shape[axis], before, after, mode))
        return g

    @staticmethod
    def backward(ctx, gg):
        return Pad.apply(gg, ctx.pads, ctx.mode, 0), None, None, None


def _is_bordered(pads):
    """Whether nothing is cropped and the last axes alone have borders."""
    return min(map(min, pads), default=0) >= 0 and not any(map(any, pads[:-AXES]))


def _full(like, shape, fill):
    """An array of one number, of the dtype and on the device of `like`."""
    return np.full(shape, fill, like.dtype) if isinstance(like, np.ndarray) else np.full_like(like, fill, shape=shape)


def _padded(x, pads, mode, fill):
    """x with borders, none negative, on its last axes, written once."""
    lead, sizes = x.ndim - AXES, [n + a + b for n, (a, b) in zip(x.shape, pads, strict=True)]
    out, ones = _memory.empty(sizes, x.dtype), (1,) * -lead
    shapes = [(math.prod(shape[: max(lead, 0)]), *ones, *shape[max(lead, 0) :]) for shape in (x.shape, sizes)]
    three = ((0, 0),) * -lead + pads[max(lead, 0) :]
    sources = tuple(_all_sources(n, *pad, mode) for n, pad in zip(shapes[0][1:], three, strict=True))
    arrays = [array.reshape(shape) for array, shape in zip((dense(x), out), shapes, strict=True)]
    run_rows(pad_rows, arrays, three[-1][0], sources, float(fill))
    return out


@lru_cache(maxsize=256)
def _all_sources(n, before, after, mode):
    """`_sources` as a tuple; a constant has none, -1."""
    if mode == "constant":
        return (-1,) * before + tuple(range(n)) + (-1,) * after
    return tuple(_sources(n, before, after, mode).tolist())


def _overlap(pads):
    """Slices of the input and of the padded output that hold the same values."""
    source = tuple(slice(max(-a, 0), -max(-b, 0) or None) for a, b in pads)
    target = tuple(slice(max(a, 0), -max(b, 0) or None) for a, b in pads)
    return source, target


def _sources(n, before, after, mode):
    """For each position of the padded axis, the position it copies."""
    i = np.arange(-before, n + after)
    if mode == "replicate":
        return i.clip(0, n - 1)
    if mode == "circular":
        return i % n
    last = n - 1
    return last - np.abs(last - np.abs(i))


def _fold_here(g, axis, before, n, sources):
    """`_fold` of an array of NumPy, in the order in which it lies."""
    lead, size = (slice(None),) * axis, g.shape[axis]
    out = _memory.empty((*g.shape[:axis], n, *g.shape[axis + 1 :]), g.dtype)
    first, last = max(0, -before), min(n, size - before)
    out[(*lead, slice(0, first))] = out[(*lead, slice(last, n))] = 0
    out[(*lead, slice(first, last))] = g[(*lead, slice(first + before, last + before))]
    for j in (*range(before), *range(before + n, size)):
        out[(*lead, sources[j])] += g[(*lead, j)]
    return out


def _fold(g, axis, before, n, sources):
    g = np.moveaxis(g, axis, 0)
    out = _full(g, (n, *g.shape[1:]), 0)
    first, last = max(0, -before), min(n, len(g) - before)  # what is left of the axis itself
    out[first:last] = g[first + before : last + before]
    for j in (*range(before), *range(before + n, len(g))):
        out[sources[j]] += g[j]
    return np.moveaxis(out, 0, axis)


@recalled
def pad(input, pad, mode="constant", value=None):
    """Grow (or, with negative numbers, crop) the last axes.

    pad: (before, after) of the last axis, then of the one before it, and so on. mode: "constant" (filled with `value`,
    0 by default), "reflect" (border not repeated; less than the size), "replicate", "circular" (at most the size; what
    is cropped is cropped first). The three last modes pad the last 1, 2 or 3 axes of inputs with one or two axes more.
    """
    input = array("pad", "input", input)
    pad = tuple(int(p) for p in pad)
    count = len(pad) // 2
    if len(pad) % 2 or count > input.ndim:
        raise ValueError(
            f"pad: wants an even number of at most {2 * input.ndim} values for input {input.shape}, got {pad}"
        )
    if mode not in ("constant", "reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode must be constant, reflect, replicate or circular, got {mode!r}")
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(count)][::-1]
    pads = ((0, 0),) * (input.ndim - count) + tuple(pairs)
    if mode != "constant":
        if value:
            raise ValueError(f"pad: mode {mode!r} takes no value, got {value}")
        _check_border(input.shape, count, pads, mode)
        if mode == "circular" and min(pad, default=0) < 0:
            cropped = tuple((min(a, 0), min(b, 0)) for a, b in pads)
            input, pads = Pad.apply(input, cropped, "constant", 0), tuple((max(a, 0), max(b, 0)) for a, b in pads)
            _check_border(input.shape, count, pads, mode)
    elif any(n + a + b < 0 for n, (a, b) in zip(input.shape, pads, strict=True)):
        raise ValueError(f"pad: {pad} crops more than there is in input {input.shape}")
    return Pad.apply(input, pads, mode, 0 if value is None else value)


def _check_border(shape, count, pads, mode):
    if not 1 <= count <= 3 or len(shape) - count not in (1, 2):
        raise ValueError(
            f"pad: mode {mode!r} pads the last 1, 2 or 3 axes of an input with one or two more; "
            f"got {count} axes to pad of input {shape}"
        )
    for n, (before, after) in zip(shape, pads, strict=True):
        most = {"reflect": n - 1, "circular": n}.get(mode)
        if min(before, after) < 0 and n + before + after < 1:
            raise ValueError(f"pad: mode {mode!r} leaves nothing of an axis of size {n}, got ({before}, {after})")
        if (before or after) and (n == 0 or (most is not None and max(before, after) > most)):
            limit = f"at most {most}" if most is not None else "a size above 0"
            raise ValueError(f"pad: mode {mode!r} wants {limit} along an axis of size {n}, got ({before}, {after})")
