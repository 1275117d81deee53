"""Indexing by arrays of positions, and its adjoint."""

import math
from functools import cache
from typing import Any

import numpy as np

from ..._device import Rule
from .array import CudaArray, dense_steps, upload, zeros
from .array import empty as new
from .gpu import THREADS, blocks_for, cuda, int32, kernel, uint32
from .launch import counterpart
from .shaping import basic_view, dense


@cache
def make_take(dtype):
    """out (n, m) = rows of x (any, m) at the n positions `at`; and its adjoint: x += out, added in any order where
    positions repeat, so that last bits may differ from run to run."""

    @kernel(f"x:{dtype} at:int64 out:{dtype} n m")
    def take_rows(x, at, out, n, m):
        for i in range(cuda.grid(1), int32(n * m), cuda.gridsize(1)):
            row = int32(uint32(i) // uint32(m))
            out[uint32(i)] = x[uint32(int32(at[uint32(row)]) * m + (i - row * m))]

    @kernel(f"x:{dtype} at:int64 out:{dtype} n m")
    def add_rows(x, at, out, n, m):
        for i in range(cuda.grid(1), int32(n * m), cuda.gridsize(1)):
            row = int32(uint32(i) // uint32(m))
            cuda.atomic.add(x, uint32(int32(at[uint32(row)]) * m + (i - row * m)), out[uint32(i)])

    return take_rows, add_rows


def kernels(dtype):
    """For the test that compiles them."""
    return make_take(dtype)


class Places:
    """What a key with arrays selects of an array: leading axes by positions, the rest whole.

    `order` brings the indexed axes to the front; `at` are rows of the array so ordered; `shape` is that of the result.
    """

    def __init__(self, shape, key):
        key = [np.asarray(k) if isinstance(k, list) else k for k in key]
        if len(key) == 1 and key[0].dtype == np.bool_:
            key = list(_nonzero(key[0], shape))
        full = [isinstance(k, slice) and k == slice(None) for k in key]
        axes = [i for i, whole in enumerate(full) if not whole]
        if len(key) > len(shape) or axes != list(range(axes[0], axes[-1] + 1)):
            raise NotImplementedError("index on cuda: arrays of positions must be neighbours, all other axes whole")
        picks = [self._pick(key[i], i, shape[i]) for i in axes]
        if any(isinstance(pick, CudaArray) for pick in picks):
            picks = [pick if isinstance(pick, CudaArray) else upload(pick) for pick in picks]
        at: Any = 0
        self.indexed = [shape[i] for i in axes]
        for pick, step in zip(picks, dense_steps(self.indexed), strict=True):
            at = pick * step + at
        self.rest = [i for i in range(len(shape)) if i not in axes]
        self.order = (*axes, *self.rest)
        self.lead, self.at = at.shape, at if isinstance(at, CudaArray) else upload(at)
        self.width = math.prod(shape[i] for i in self.rest)
        self.before = axes[0]  # the result has the positions' axes where the first indexed axis was
        self.rest_shape = [shape[i] for i in self.rest]
        self.shape = (*self.rest_shape[: self.before], *self.lead, *self.rest_shape[self.before :])

    @staticmethod
    def _pick(k, axis, n):
        k = np.asarray(k) if not isinstance(k, CudaArray) else k
        if k.dtype.kind not in "iu":
            raise IndexError(f"index: arrays of positions must be whole numbers, given {k.dtype}")
        if k.size and (int(k.min()) < -n or int(k.max()) >= n):
            raise IndexError(f"index {int(k.min())} to {int(k.max())} is out of range for axis {axis} of size {n}")
        return np.where(k < 0, k + n, k).astype(np.int64)

    def to_rows(self, result):
        """An array of the result's shape as (positions, width)."""
        b, k = self.before, len(self.lead)
        order = (*range(b, b + k), *range(b), *range(b + k, result.ndim))
        return dense(result.transpose(order)).reshape(-1, self.width) if result.size else result.reshape(-1, self.width)

    def from_rows(self, rows):
        b, k = self.before, len(self.lead)
        wide = rows.reshape((*self.lead, *self.rest_shape))
        return wide.transpose((*range(k, k + b), *range(k), *range(k + b, wide.ndim)))


def _nonzero(mask, shape):
    mask = mask.numpy() if isinstance(mask, CudaArray) else mask
    if mask.shape != tuple(shape[: mask.ndim]):
        raise IndexError(f"index: bools of shape {mask.shape} for an array of shape {tuple(shape)}")
    return mask.nonzero()


def _split(x, key):
    """A key's slices, whole numbers and new axes are taken first, as a view; what remains is arrays and whole axes."""
    simple, arrays = [], []
    if any(k is None or k is Ellipsis for k in key) and len(key) > 1:
        raise NotImplementedError("index on cuda: arrays of positions together with None or ... are not taken")
    for k in key:
        is_slice = isinstance(k, slice)
        simple.append(k if is_slice else slice(None))
        arrays.append(slice(None) if is_slice else k)
    return basic_view(x, tuple(simple)), arrays


def take(x, key):
    """x[key] for a key with arrays of positions or of bools."""
    x, key = _split(x, key)
    places = Places(x.shape, key)
    source = dense(x.transpose(places.order))
    rows = new((places.at.size, places.width), x.dtype)
    if rows.size:
        compiled, _ = make_take(x.dtype.name)
        arguments = source.raw, dense(places.at).raw, rows.raw, *rows.shape
        compiled(blocks_for(rows.size), THREADS, *arguments)
    return places.from_rows(rows)


@counterpart("shaping.IndexAdd")
class IndexAdd(Rule):
    """Zeros of `shape`, with g added at `key`."""

    @staticmethod
    def forward(ctx, g, key, shape):
        ctx.key = key
        out = zeros(shape, g.dtype)
        keys = key if isinstance(key, tuple) else (key,)
        if not any(isinstance(k, (np.ndarray, CudaArray, list)) for k in keys):
            out[key] = g
            return out
        part, arrays = _split(out, keys)
        places = Places(part.shape, arrays)
        ordered = zeros([part.shape[i] for i in places.order], g.dtype)
        rows = places.to_rows(g)
        if rows.size:
            _, compiled = make_take(g.dtype.name)
            compiled(blocks_for(rows.size), THREADS, ordered.raw, dense(places.at).raw, rows.raw, *rows.shape)
        inverse = sorted(range(part.ndim), key=lambda i: places.order[i])
        part[...] = ordered.transpose(inverse)
        return out
