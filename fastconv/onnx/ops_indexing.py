"""ONNX operators that pick and place elements by index."""

import numpy as np

from .shape_helpers import in_range
from .table import bounded, op


@op("Gather")
def gather(node, x, indices):
    """Slices of an axis, by number."""
    axis = node.get("axis", 0)
    return np.take(x, in_range(indices, x.shape[axis]), axis=axis)


@op("GatherElements")
def gather_elements(node, x, indices):
    """Elements along an axis, by number."""
    axis = node.get("axis", 0)
    part = tuple(slice(None) if i == axis % x.ndim else slice(0, n) for i, n in enumerate(indices.shape))
    return np.take_along_axis(x[part], in_range(indices, x.shape[axis]), axis)


@op("GatherND")
def gather_nd(node, x, indices):
    """Parts of x by rows of indices, for each of the first batch_dims axes."""
    batch = node.get("batch_dims", 0)
    lead, deep = x.shape[:batch], indices.shape[-1]
    flat_x = x.reshape(-1, *x.shape[batch:])
    flat = indices.reshape(-1, *indices.shape[batch:]) if batch else indices[None]
    flat_x = flat_x if batch else x[None]
    made = [
        a[tuple(in_range(row[..., i], a.shape[i]) for i in range(deep))] for a, row in zip(flat_x, flat, strict=True)
    ]
    return np.array(made, x.dtype).reshape(*lead, *indices.shape[batch:-1], *x.shape[batch + deep :])


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _place(y, key, updates, reduction):
    if reduction == "none":
        y[key] = updates
    elif reduction in _COMBINE:
        _COMBINE[reduction].at(y, key, updates)
    else:
        raise ValueError(f"reduction must be none, add, mul, max or min, given {reduction!r}")


@op("Scatter", "ScatterElements")
def scatter_elements(node, x, indices, updates):
    """x with elements along an axis replaced or combined."""
    y, axis = x.copy(), node.get("axis", 0) % x.ndim
    key = list(np.indices(indices.shape, sparse=True))
    key[axis] = in_range(indices, x.shape[axis])
    _place(y, tuple(key), updates, node.get("reduction", "none"))
    return y


@op("ScatterND")
def scatter_nd(node, x, indices, updates):
    """x with the parts that rows of indices name replaced or combined."""
    y = x.copy()
    key = tuple(in_range(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    _place(y, key, updates, node.get("reduction", "none"))
    return y


@op("TensorScatter")
def tensor_scatter(node, cache, update, at=None):
    """The cache with new entries along an axis, from each batch's position on; circular: round the end."""
    axis, count = node.get("axis", -2) % cache.ndim, update.shape[node.get("axis", -2)]
    y = np.moveaxis(cache.copy(), axis, 1)
    new = np.moveaxis(update, axis, 1)
    for i in range(cache.shape[0]):
        places = (0 if at is None else int(at[i])) + np.arange(count)
        places = places % y.shape[1] if node.get("mode", "linear") == "circular" else places
        y[i, in_range(places, y.shape[1])] = new[i]
    return np.ascontiguousarray(np.moveaxis(y, 1, axis))


@op("OneHot")
def one_hot(node, indices, depth, values):
    """values[1] at the index, values[0] elsewhere, along a new axis."""
    depth, axis = int(np.asarray(depth).reshape(-1)[0]), node.get("axis", -1)
    axis = axis + indices.ndim + 1 if axis < 0 else axis
    whole = indices.astype(np.int64)
    whole = np.where(whole < 0, whole + depth, whole)
    bounded((*indices.shape, depth), values.dtype)
    hot = np.expand_dims(whole, axis) == np.arange(depth).reshape(-1, *(1,) * (indices.ndim - axis))
    return np.where(hot, values[1], values[0]).astype(values.dtype)


@op("Compress")
def compress(node, x, condition):
    """The slices for which the condition holds."""
    axis = node.get("axis")
    return np.compress(condition, x, axis)


@op("Unique")
def unique(node, x):
    """Different elements or slices, where each was first, which each is, and how often."""
    axis = node.get("axis")
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    inverse = inverse.reshape(-1)
    if not node.get("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, axis=0 if axis is None else axis)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


@op("TopK")
def top_k(node, x, k=None):
    """The k largest (smallest) along an axis, and where they are; the first of equals."""
    axis = node.get("axis", -1)
    count = node.attrs["k"] if k is None else int(np.asarray(k).reshape(-1)[0])
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k must be 0 to {x.shape[axis]}, given {count}")
    if node.get("largest", 1):
        order = np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
        order = x.shape[axis] - 1 - order
    else:
        order = np.argsort(x, axis, kind="stable")
    order = np.take(order, np.arange(count), axis=axis)
    return np.take_along_axis(x, order, axis), order.astype(np.int64)


@op("ArrayFeatureExtractor")
def array_feature_extractor(node, x, indices):
    """Columns of the last axis."""
    return x[..., indices.reshape(-1)]
