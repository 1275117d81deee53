"""Local response normalisation on the device, across neighbouring channels; see `kernels/norm_response.py`."""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from .array import empty
from .elementwise import power
from .gpu import THREADS, blocks_for, cuda, kernel
from .launch import Row, counterpart, launch
from .shaping import dense

U, S = np.uint32, np.int32


@lru_cache
def make_response(dtype):
    """y = x / d^beta, d = k + alpha / size * the sum of the squares of `size` neighbouring channels."""
    REAL = np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} n channels length size alpha={dtype} beta={dtype} k={dtype}")
    def response(x, y, n, channels, length, size, alpha, beta, k):
        """Thread: a value; n in all."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(n):
            c = S(U(U(i // length) % U(channels)))
            first, last = max(c - size // 2, 0), min(c + (size - 1) // 2, channels - 1)
            total = REAL(0)
            for j in range(first, last + 1):
                v = x[U(S(i) + (j - c) * S(length))]
                total += v * v
            y[i] = x[i] * REAL(power(k + alpha / REAL(size) * total, -beta))
            i = U(i + step)

    return response


@lru_cache
def make_response_terms(dtype):
    """What neighbours need of each value going back: d^-beta, and g x d^(-beta - 1)."""
    REAL = np.dtype(dtype).type

    @kernel(
        f"x:{dtype} g:{dtype} factor:{dtype} term:{dtype} n channels length size alpha={dtype} beta={dtype} k={dtype}"
    )
    def response_terms(x, g, factor, term, n, channels, length, size, alpha, beta, k):
        """Thread: a value; n in all."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(n):
            c = S(U(U(i // length) % U(channels)))
            first, last = max(c - size // 2, 0), min(c + (size - 1) // 2, channels - 1)
            total = REAL(0)
            for j in range(first, last + 1):
                v = x[U(S(i) + (j - c) * S(length))]
                total += v * v
            d = k + alpha / REAL(size) * total
            factor[i] = REAL(power(d, -beta))
            term[i] = g[i] * x[i] * factor[i] / d
            i = U(i + step)

    return response_terms


@lru_cache
def make_response_gradient(dtype):
    """gx = g d^-beta - x 2 alpha beta / size * the sum of the terms of the channels that see this one."""
    REAL = np.dtype(dtype).type

    @kernel(f"x:{dtype} g:{dtype} factor:{dtype} term:{dtype} gx:{dtype} n channels length size scale={dtype}")
    def response_gradient(x, g, factor, term, gx, n, channels, length, size, scale):
        """Thread: a value; n in all.  scale: 2 alpha beta / size."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(n):
            c = S(U(U(i // length) % U(channels)))
            first, last = max(c - (size - 1) // 2, 0), min(c + size // 2, channels - 1)
            total = REAL(0)
            for j in range(first, last + 1):
                total += term[U(S(i) + (j - c) * S(length))]
            gx[i] = g[i] * factor[i] - x[i] * scale * total
            i = U(i + step)

    return response_gradient


def kernels(dtype):
    """For the test that compiles them."""
    yield make_response(dtype)
    yield make_response_terms(dtype)
    yield make_response_gradient(dtype)


@counterpart("local_response_norm.LocalResponseNorm")
class LocalResponseNorm(Rule):
    """x (N, C, L)."""

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):
        ctx.save(x)
        ctx.numbers = size, alpha, beta, k
        y, (_, channels, length) = empty(x.shape, x.dtype), x.shape
        numbers = x.size, channels, length, size, float(alpha), float(beta), float(k)
        launch(Row(make_response(x.dtype.name), blocks_for(x.size), THREADS, (dense(x), y, *numbers)))
        return y

    @staticmethod
    def backward(ctx, g):
        (x,), (size, alpha, beta, k) = ctx.saved, ctx.numbers
        x, g, (_, channels, length), dtype = dense(x), dense(g), x.shape, x.dtype
        gx, factor, term = (empty(x.shape, dtype) for _ in range(3))
        layout = x.size, channels, length, size
        terms = x, g, factor, term, *layout, float(alpha), float(beta), float(k)
        gradient = x, g, factor, term, gx, *layout, 2 * alpha * beta / size
        launch(
            Row(make_response_terms(dtype.name), blocks_for(x.size), THREADS, terms),
            Row(make_response_gradient(dtype.name), blocks_for(x.size), THREADS, gradient),
        )
        return gx, None, None, None, None
