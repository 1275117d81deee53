"""Rows of matrix products and of what networks do with sequences.

Emitters as those of `rows.py`, which give (rows, algorithm, floating-point operations) or None.
"""

from functools import lru_cache
from math import prod

import numpy as np

from ..driver import Temporary
from ..kernels.arithmetic import broadcast
from ..kernels.gathers import zeros
from ..kernels.norm_layer import layer_norm_row
from ..kernels.products import ROWS, Sizes, product_row


def matmul(attrs, inputs, outputs, kept):
    """Products of the matrices in the last two axes; the axes before them are broadcast."""
    (a, b), c = inputs, outputs[0]
    if a.ndim < 2 or b.ndim < 2 or 0 in (*a.shape, *b.shape):
        return None
    lead, (rows, depth), columns = c.shape[:-2], a.shape[-2:], b.shape[-1]
    if prod(b.shape[:-2]) == 1 and a.shape[:-2] == lead:
        sizes, batches = Sizes(1, prod(lead) * rows, columns, depth, a.dtype.name), None
    else:
        sizes = Sizes(prod(lead), rows, columns, depth, a.dtype.name)
        batches = np.stack([_places(x.shape, lead) for x in (a, b)], axis=1)
    row = product_row(sizes, {"a": a, "b": b, "c": c}, ROWS, batches)
    return (row,), "matrix_products", 2 * sizes.batch * sizes.rows * columns * depth


def _places(shape, lead):
    """Where the matrix of each product begins in an array of this shape."""
    size = shape[-2] * shape[-1]
    steps = broadcast(shape[:-2], lead)
    grid = np.indices(lead).reshape(len(lead), prod(lead))
    return size * (np.array(steps, np.int64)[:, None] * grid).sum(0)


def layer_norm(attrs, inputs, outputs, kept):
    """Rows of x normalised."""
    x, (weight, bias) = inputs[0], (*inputs[1:], None, None)[:2]
    length = x.shape[1]
    weight = _ones(length, x.dtype) if weight is None else weight.reshape(1, -1)
    bias = zeros(length, x.dtype).reshape(1, -1) if bias is None else bias.reshape(1, -1)
    row = layer_norm_row(x, outputs[0], weight, bias, attrs["eps"], Temporary(2 * len(x), np.float64))
    return (row,), "layer_norm", 8 * x.size


@lru_cache(maxsize=1024)
def _ones(size, dtype):
    return np.ones((1, size), dtype)


EMIT = {"matmul": matmul, "layer_norm": layer_norm}
