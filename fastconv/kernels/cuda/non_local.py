"""The non-local operation on the device: all pairs of positions of an image in memory, as three products.

y = g P^T with P = softmax of theta^T phi along its rows, or max(theta^T phi, 0) / columns; see `ops/non_local.py`.
"""

import numpy as np

from ..._device import Rule
from ..non_local import SOFTMAX
from .array import empty
from .launch import counterpart
from .norm_rows import softmax_into
from .shaping import dense


@counterpart("non_local.NonLocal")
class NonLocal(Rule):
    """theta (n, d, rows), phi (n, d, columns), g (n, e, columns) -> (n, e, rows)."""

    twice = False

    @staticmethod
    def forward(ctx, theta, phi, g, function):
        pairs = np.matmul(theta.swapaxes(1, 2), phi)
        if function == SOFTMAX:
            weights = softmax_into((pairs,), empty(pairs.shape, pairs.dtype), 2, False)
        else:
            weights = np.maximum(pairs, 0) / pairs.shape[2]
        ctx.save(theta, phi, g)
        ctx.weights, ctx.function = weights, function
        return np.matmul(g, weights.swapaxes(1, 2))

    @staticmethod
    def backward(ctx, gy):
        (theta, phi, g), weights = ctx.saved, ctx.weights
        slope = np.matmul(gy.swapaxes(1, 2), g)
        if ctx.function == SOFTMAX:
            slope = softmax_into((dense(slope), weights), empty(slope.shape, slope.dtype), 2, False, True)
        else:
            slope = np.where(weights > 0, slope, 0) / slope.shape[2]
        g_theta = np.matmul(phi, slope.swapaxes(1, 2)) if ctx.needs[0] else None
        g_phi = np.matmul(theta, slope) if ctx.needs[1] else None
        return g_theta, g_phi, np.matmul(gy, weights) if ctx.needs[2] else None, None
