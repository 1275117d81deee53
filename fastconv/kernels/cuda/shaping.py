"""Views and copies: reshape, index, and the dense form that kernels want."""

import math
from operator import index as whole

import numpy as np

from .array import CudaArray, dense_steps, empty
from .elementwise import assign, copied


def dense(x):
    """The array, or a copy of it, in C order."""
    return x if x.is_dense else copied(x, x.dtype)


def reshape(x, shape):
    """A view where the steps allow it, else a copy."""
    shape = tuple(whole(n) for n in (shape if isinstance(shape, (tuple, list, range)) else (shape,)))
    known = math.prod(n for n in shape if n != -1)
    if shape.count(-1) == 1 and known and x.size % known == 0:
        shape = tuple(x.size // known if n == -1 else n for n in shape)
    if min(shape, default=0) < 0 or math.prod(shape) != x.size:
        raise ValueError(f"reshape: {x.size} elements of shape {x.shape} do not fit shape {shape}")
    return dense(x)._view(shape, dense_steps(shape))


def get_item(x, key):
    """Slices and whole numbers give views; arrays of positions or of bools give copies."""
    key = key if isinstance(key, tuple) else (key,)
    if any(isinstance(k, (np.ndarray, CudaArray, list)) for k in key):
        from .gather import take

        return take(x, key)
    return basic_view(x, key)


def basic_view(x, key):
    """x[key] for slices of positive step, whole numbers, None and Ellipsis."""
    used = sum(k is not None and k is not Ellipsis for k in key)
    if used > x.ndim:
        raise IndexError(f"too many indices: {used} for shape {x.shape}")
    if not any(k is Ellipsis for k in key):
        key = (*key, Ellipsis)
    at = next(i for i, k in enumerate(key) if k is Ellipsis)
    key = (*key[:at], *[slice(None)] * (x.ndim - used), *key[at + 1 :])
    shape, steps, offset, axis = [], [], 0, 0
    for k in key:
        if k is None:
            shape.append(1)
            steps.append(0)
            continue
        n, step = x.shape[axis], x.steps[axis]
        axis += 1
        if isinstance(k, slice):
            start, stop, stride = k.indices(n)
            if stride < 0:
                raise NotImplementedError(f"index: slices on cuda have a positive step, given {k}")
            count = max(0, -(-(stop - start) // stride))
            shape.append(count)
            steps.append(step * stride)
            offset += start * step if count else 0
        else:
            i = whole(k)  # pyright: ignore[reportArgumentType]
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of range for axis {axis - 1} of size {n}")
            offset += (i % n) * step
    return x._view(tuple(shape), tuple(steps), offset)


def set_item(x, key, new):
    """x[key] = new, a number or an array, for slices and whole numbers, or an array of bools of x's shape."""
    key = key if isinstance(key, tuple) else (key,)
    if len(key) == 1 and isinstance(key[0], CudaArray) and key[0].dtype == np.bool_ and key[0].shape == x.shape:
        assign(x, np.where(key[0], new, x))
    elif any(isinstance(k, (np.ndarray, CudaArray, list)) for k in key):
        raise NotImplementedError('assignment to arrays of positions has no implementation on cuda; use .to("cpu")')
    else:
        assign(basic_view(x, key), new)


def expand(x, shape):
    """A view of x broadcast to `shape`, read-only."""
    from .elementwise import _spread

    out = x._view(tuple(shape), _spread(x, shape))
    out.writeable = False
    return out


def concatenate(arrays, axis=0):
    """Joined along an axis; shapes agree elsewhere."""
    first = arrays[0]
    axis %= first.ndim
    shape = list(first.shape)
    shape[axis] = sum(a.shape[axis] for a in arrays)
    out, start = empty(shape, np.result_type(*(a.dtype for a in arrays))), 0
    for a in arrays:
        out[(slice(None),) * axis + (slice(start, start + a.shape[axis]),)] = a
        start += a.shape[axis]
    return out
