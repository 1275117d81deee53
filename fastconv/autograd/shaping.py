"""Operations that move values and change none: reshape, permute, broadcast, index, join. Arrays or Tensors alike.

Each backward rule is another operation of this file, so the set is closed under differentiation.
"""

import itertools
import math

import numpy as np

from .._device import ARRAYS, device_of, move
from .op import ArrayOp, Op, Variable, is_grad_enabled, is_watched, value


class Reshape(ArrayOp):
    name = "reshape"

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(ctx, g):
        return reshape(g, ctx.shape), None


class Permute(ArrayOp):
    name = "permute"

    @staticmethod
    def forward(ctx, x, axes):
        ctx.axes = axes
        return x.transpose(axes)

    @staticmethod
    def backward(ctx, g):
        inverse = sorted(range(len(ctx.axes)), key=lambda i: ctx.axes[i])
        return permute(g, inverse), None


class Expand(ArrayOp):
    name = "expand"

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = np.shape(x)
        return np.broadcast_to(x, shape)

    @staticmethod
    def backward(ctx, g):
        return sum_to(g, ctx.shape), None


class SumTo(ArrayOp):
    """The adjoint of broadcasting: sums the axes along which `shape` was repeated to the shape of x."""

    name = "sum_to"

    @staticmethod
    def forward(ctx, x, shape):
        ctx.shape = x.shape
        lead = x.ndim - len(shape)
        axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and x.shape[lead + i] != 1)
        return x.sum(axis=axes, keepdims=True).reshape(shape)

    @staticmethod
    def backward(ctx, g):
        return expand(g, ctx.shape), None


class Index(ArrayOp):
    name = "index"

    @staticmethod
    def forward(ctx, x, key):
        ctx.shape, ctx.key = x.shape, key
        return x[key]

    @staticmethod
    def backward(ctx, g):
        return IndexAdd.apply(g, ctx.key, ctx.shape), None


class IndexAdd(Op):
    """The adjoint of indexing: zeros of `shape`, with g added at `key`, repeated entries as often as they occur."""

    name = "index_add"

    @staticmethod
    def forward(ctx, g, key, shape):
        ctx.key = key
        out = np.zeros(shape, g.dtype)
        if is_basic(key):
            out[key] = g
        else:
            np.add.at(out, key, g)
        return out

    @staticmethod
    def backward(ctx, g):
        return Index.apply(g, ctx.key), None, None


class Concatenate(ArrayOp):
    name = "cat"

    @staticmethod
    def forward(ctx, axis, *arrays):
        ctx.axis, ctx.sizes = axis, [a.shape[axis] for a in arrays]
        return np.concatenate(arrays, axis)

    @staticmethod
    def backward(ctx, g):
        return (None, *split(g, ctx.sizes, ctx.axis))


class Split(ArrayOp):
    """Pieces along an axis, as views.  As one operation, so that their gradients are joined once instead of each being
    put into zeros and added."""

    name = "split"

    @staticmethod
    def forward(ctx, x, sizes, axis):
        ctx.shape, ctx.axis, ctx.sizes = x.shape, axis, sizes
        return tuple(x[key] for key in _pieces(sizes, axis))

    @staticmethod
    def backward(ctx, *grads):
        like = value(next(g for g in grads if g is not None))
        shapes = [(*ctx.shape[: ctx.axis], size, *ctx.shape[ctx.axis + 1 :]) for size in ctx.sizes]
        pieces = [
            move(np.zeros(shape, like.dtype), device_of(like)) if g is None else g
            for g, shape in zip(grads, shapes, strict=True)
        ]
        return cat(pieces, ctx.axis), None, None


def _pieces(sizes, axis):
    """The key of each piece."""
    stops = list(itertools.accumulate(sizes))
    return [(slice(None),) * axis + (slice(stop - size, stop),) for size, stop in zip(sizes, stops, strict=True)]


class Cast(ArrayOp):
    """Another dtype. The engine casts gradients to the dtype of what they belong to, so the rule has nothing to do."""

    name = "cast"

    @staticmethod
    def forward(ctx, x, dtype):
        return x.astype(dtype)

    @staticmethod
    def backward(ctx, g):
        return g, None


class Move(ArrayOp):
    """The same values on another device."""

    name = "to"

    @staticmethod
    def forward(ctx, x, device):
        ctx.device = device_of(x)
        return move(x, device)

    @staticmethod
    def backward(ctx, g):
        return to_device(g, ctx.device), None


def to_device(x, device):
    """`x` on "cpu" or "cuda": itself if it is there."""
    here = device_of(value(x))
    return x if here == str(device).partition(":")[0] else Move.apply(x, str(device))


def reshape(x, shape):
    return Reshape.apply(x, shape)


def permute(x, axes):
    axes = tuple(operator_index(a, x.ndim) for a in axes)
    if sorted(axes) != list(range(x.ndim)):
        raise ValueError(f"permute: axes {axes} are not an order of the {x.ndim} axes of shape {x.shape}")
    return Permute.apply(x, axes)


def swap(x, a, b):
    """Exchange axes `a` and `b`."""
    axes = list(range(x.ndim))
    a, b = operator_index(a, x.ndim), operator_index(b, x.ndim)
    axes[a], axes[b] = b, a
    return Permute.apply(x, tuple(axes))


def expand(x, shape):
    return x if np.shape(x) == tuple(shape) else Expand.apply(x, tuple(shape))


def sum_to(x, shape):
    return x if x.shape == shape else SumTo.apply(x, shape)


def index(x, key):
    key = tuple(map(_index_array, key)) if isinstance(key, tuple) else _index_array(key)
    return Index.apply(x, (key,) if isinstance(key, ARRAYS) else key)  # positions may be elsewhere than x


def cast(x, dtype):
    return x if x.dtype == dtype else Cast.apply(x, np.dtype(dtype))


def cat(tensors, dim=0):
    """Join along an existing axis: sizes elsewhere must agree."""
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError("cat: needs at least one tensor")
    for t in tensors:
        if not isinstance(t, (*ARRAYS, Variable)):
            raise TypeError(f"cat: expects arrays or Tensors, got {type(t).__name__}")
    axis = operator_index(dim, tensors[0].ndim, "cat")
    first = tensors[0].shape
    for i, t in enumerate(tensors):
        if t.ndim != len(first) or t.shape[:axis] + t.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ValueError(
                f"cat: shapes may differ in axis {axis} only; tensor {i} has {t.shape}, tensor 0 has {first}"
            )
    return Concatenate.apply(axis, *tensors)


def stack(tensors, dim=0):
    """Join along a new axis: all shapes must agree."""
    tensors = tuple(tensors)
    axis = operator_index(dim, tensors[0].ndim + 1, "stack") if tensors else 0
    for i, t in enumerate(tensors):
        if t.shape != tensors[0].shape:
            raise ValueError(f"stack: tensor {i} has shape {t.shape}, tensor 0 has {tensors[0].shape}")
    return cat([reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in tensors], axis)


def split(x, split_size_or_sections, dim=0):
    """Cut along an axis: into pieces of one size (the last may be smaller), or of the given sizes. They are views."""
    axis = operator_index(dim, x.ndim, "split")
    n = x.shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise ValueError(f"split: size must be at least 1, got {size}")
        sizes = [min(size, n - i) for i in range(0, n, size)] or [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise ValueError(f"split: sizes {sizes} must be non-negative and sum to {n}, the size of axis {axis}")
    if isinstance(x, Variable) and x._needs and is_grad_enabled() and not is_watched():
        return Split.apply(x, tuple(sizes), axis)
    return tuple(Index.apply(x, key) for key in _pieces(sizes, axis))


def flatten(x, start_dim=0, end_dim=-1):
    """Merge axes `start_dim` to `end_dim` into one. A 0-d input becomes 1-d."""
    if x.ndim == 0:
        return reshape(x, (1,))
    start, end = operator_index(start_dim, x.ndim, "flatten"), operator_index(end_dim, x.ndim, "flatten")
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in shape {x.shape}")
    shape = x.shape
    return x if start == end else reshape(x, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def operator_index(axis, ndim, name="tensor"):
    """`axis` counted from the front; negative ones count from the back."""
    if not -ndim <= axis < ndim:
        raise IndexError(f"{name}: axis {axis} is out of range for {ndim} dimensions (wanted {-ndim} to {ndim - 1})")
    return axis % ndim


def is_basic(key):
    """Whether `key` selects by slices and integers alone, so that no entry can be named twice."""
    basic = (int, np.integer, slice, type(None), type(Ellipsis))
    return all(isinstance(k, basic) and not isinstance(k, bool) for k in (key if isinstance(key, tuple) else (key,)))


def _index_array(k):
    k = value(k)
    return np.asarray(k) if isinstance(k, list) else k
