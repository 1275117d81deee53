"""ONNX operators that arrange elements anew: shapes, parts, joins, repetitions."""

from math import prod
from typing import Any

import numpy as np

from .table import bounded, op


def ints(array):
    """Whole numbers of an array, as a tuple."""
    return tuple(int(n) for n in np.asarray(array).reshape(-1))


def axes_of(node, given, ndim, default=None) -> Any:
    """Axes of an input or attribute, counted from the front."""
    axes = node.get("axes", default) if given is None else ints(given)
    if axes is None:
        return None
    wrong = [a for a in axes if not -ndim <= a < ndim]
    if wrong:
        raise ValueError(f"axis {wrong[0]} is out of range for {ndim} axes")
    return tuple(a % ndim for a in axes)


@op("Shape")
def shape(node, x):
    """The shape, or a part of it."""
    return np.array(np.shape(x)[slice(node.get("start", 0), node.get("end"))], np.int64)


@op("Size")
def size(node, x):
    """How many elements there are."""
    return np.array(np.size(x), np.int64)


def reshaped(shape, wanted, allow_zero=False):
    """The shape that Reshape gives: 0 keeps a size, -1 takes what is left."""
    wanted = [shape[i] if n == 0 and not allow_zero else n for i, n in enumerate(wanted)]
    if wanted.count(-1) > 1 or any(n < -1 for n in wanted):
        raise ValueError(f"can't reshape {tuple(shape)} to {tuple(wanted)}")
    known = prod(n for n in wanted if n != -1)
    if -1 in wanted:
        if known == 0 or prod(shape) % known:
            raise ValueError(f"can't reshape {tuple(shape)} to {tuple(wanted)}")
        wanted[wanted.index(-1)] = prod(shape) // known
    if prod(wanted) != prod(shape):
        raise ValueError(f"can't reshape {tuple(shape)} to {tuple(wanted)}")
    return tuple(wanted)


@op("Reshape")
def reshape(node, x, wanted):
    """The same elements in another shape."""
    return x.reshape(reshaped(x.shape, ints(wanted), bool(node.get("allowzero", 0))))


@op("Flatten")
def flatten(node, x):
    """A matrix: axes before `axis`, and the rest."""
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("Squeeze")
def squeeze(node, x, axes=None):
    """Without axes of size 1."""
    return np.squeeze(x, axes_of(node, axes, x.ndim))


@op("Unsqueeze")
def unsqueeze(node, x, axes=None):
    """With new axes of size 1, counted in the result."""
    given = node.attrs["axes"] if axes is None else ints(axes)
    return np.expand_dims(x, tuple(given))


@op("Transpose")
def transpose(node, x):
    """Axes in another order."""
    perm = node.get("perm")
    return np.ascontiguousarray(x.transpose(perm) if perm is not None else x.T)


@op("Expand")
def expand(node, x, wanted):
    """Broadcast, both ways."""
    return np.ascontiguousarray(np.broadcast_to(x, bounded(np.broadcast_shapes(x.shape, ints(wanted)), x.dtype)))


@op("Tile")
def tile(node, x, repeats):
    """Repeated along each axis."""
    if len(ints(repeats)) != x.ndim:
        raise ValueError(f"wants {x.ndim} repeats, given {ints(repeats)}")
    bounded([n * times for n, times in zip(x.shape, ints(repeats), strict=True)], x.dtype)
    return np.tile(x, ints(repeats))


@op("Concat")
def concat(node, *arrays):
    """Joined along an axis."""
    return np.concatenate(arrays, node.attrs["axis"])


def split_sizes(node, total, sizes):
    """The sizes of the parts of a split."""
    if sizes is not None:
        parts = ints(sizes)
    elif node.get("split") is not None:
        parts = node.attrs["split"]
    else:
        count = node.get("num_outputs", len(node.outputs))
        part = -(-total // count)
        parts = [max(0, min(part, total - i * part)) for i in range(count)]
    if sum(parts) != total:
        raise ValueError(f"parts {tuple(parts)} do not make {total}")
    return parts


@op("Split")
def split(node, x, sizes=None):
    """Parts along an axis."""
    axis = node.get("axis", 0)
    parts = split_sizes(node, x.shape[axis], sizes)
    return tuple(np.ascontiguousarray(part) for part in np.split(x, np.cumsum(parts)[:-1], axis))


def slices(node, ndim, shape, given) -> Any:
    """The slice of each axis."""
    if node.opset < 10:
        starts, ends, axes = node.attrs["starts"], node.attrs["ends"], node.get("axes")
        steps = None
    else:
        parts: Any = (None if a is None else ints(a) for a in (*given, None, None, None, None)[:4])
        starts, ends, axes, steps = parts
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    key = [slice(None)] * ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        if step == 0:
            raise ValueError("a step of 0")
        low, high = (0, size) if step > 0 else (-1, size - 1)
        start = min(max(start + size if start < 0 else start, 0), high)
        end = min(max(end + size if end < 0 else end, low), size)
        key[axis] = slice(start, None if step < 0 and end < 0 else end, step)
    return tuple(key)


@op("Slice")
def slice_(node, x, *given):
    """A part of each axis, in steps."""
    return np.ascontiguousarray(x[slices(node, x.ndim, x.shape, given)])


def padding(node, ndim, pads, axes):
    """((before, after), ...) for each axis."""
    values = ints(pads) if pads is not None else node.attrs["pads"]
    chosen = range(ndim) if axes is None else [a % ndim for a in ints(axes)]
    if len(values) != 2 * len(chosen):
        raise ValueError(f"wants {2 * len(chosen)} pads, given {len(values)}")
    result = [(0, 0)] * ndim
    for i, axis in enumerate(chosen):
        result[axis] = values[i], values[i + len(chosen)]
    return result


@op("Pad")
def pad(node, x, pads=None, value=None, axes=None):
    """More elements at the edges, or fewer where negative."""
    mode = node.get("mode", "constant")
    pairs = padding(node, x.ndim, pads, axes)
    if any(n + a + b < 0 for n, (a, b) in zip(x.shape, pairs, strict=True)):
        raise ValueError(f"pads of {pairs} take more than there is of {x.shape}")
    x = x[tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, pairs, strict=True))]
    pairs = [(max(a, 0), max(b, 0)) for a, b in pairs]
    bounded([n + a + b for n, (a, b) in zip(x.shape, pairs, strict=True)], x.dtype)
    if mode == "constant":
        fill = np.asarray(node.get("value", 0) if value is None else value).astype(x.dtype).reshape(-1)
        return np.pad(x, pairs, constant_values=fill[0] if fill.size else 0)
    if mode not in ("reflect", "edge", "wrap"):
        raise ValueError(f"mode must be constant, reflect, edge or wrap, given {mode!r}")
    return np.pad(x, pairs, mode=mode)


@op("CenterCropPad")
def center_crop_pad(node, x, wanted):
    """The middle of x, cut or filled with zeros to the wanted sizes."""
    axes = axes_of(node, None, x.ndim, tuple(range(x.ndim)))
    for axis, size in zip(axes, ints(wanted), strict=True):
        extra = size - x.shape[axis]
        if extra >= 0:
            pairs = [(0, 0)] * x.ndim
            pairs[axis] = extra // 2, extra - extra // 2
            x = np.pad(x, pairs)
        else:
            first = -extra // 2
            x = x[(slice(None),) * axis + (slice(first, first + size),)]
    return np.ascontiguousarray(x)


@op("DepthToSpace")
def depth_to_space(node, x):
    """Channels to blocks of pixels."""
    b, (n, c, h, w) = node.attrs["blocksize"], x.shape
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(n, b, b, c // (b * b), h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // (b * b), b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(node, x):
    """Blocks of pixels to channels."""
    b, (n, c, h, w) = node.attrs["blocksize"], x.shape
    parts = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.transpose(order).reshape(n, c * b * b, h // b, w // b)


@op("Trilu")
def trilu(node, x, k=None):
    """The upper or lower triangle of each matrix."""
    return (np.triu if node.get("upper", 1) else np.tril)(x, 0 if k is None else int(np.asarray(k).reshape(-1)[0]))


@op("ReverseSequence")
def reverse_sequence(node, x, lengths):
    """The first elements along time in reverse, as many as `lengths` says for each of the batch."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    y = np.moveaxis(x, (batch, time), (0, 1)).copy()
    for i, length in enumerate(ints(lengths)):
        y[i, :length] = y[i, :length][::-1].copy()
    return np.ascontiguousarray(np.moveaxis(y, (0, 1), (batch, time)))
