"""Sums over runs of values as precise as float64 ones: a few vectors are summed in registers, then in float64."""

from functools import lru_cache

import numpy as np

from .._jit import helper
from ..simd import lanes, load_vector, load_window
from ..simd_vector import add_vector, fma_vector, splat_vector, sum_vector

VECTORS = 32  # summed in registers, in four chains of eight


@lru_cache
def make_sums(dtype):
    """(sum_run, dot_run) for one dtype."""
    dtype = np.dtype(dtype)
    LANES, FLOAT = lanes(dtype), dtype.type
    BLOCK, STEP = VECTORS * LANES, 4 * LANES

    @helper
    def sum_run(x, xi, n):
        """The sum of x[xi : xi+n] in float64."""
        total, zero = 0.0, splat_vector(x, FLOAT(0))
        for start in range(0, n, BLOCK):
            i, last = xi + start, xi + min(start + BLOCK, n)
            s0, s1, s2, s3 = zero, zero, zero, zero
            while i + STEP <= last:
                s0 = add_vector(s0, load_vector(x, i))
                s1 = add_vector(s1, load_vector(x, i + LANES))
                s2 = add_vector(s2, load_vector(x, i + 2 * LANES))
                s3 = add_vector(s3, load_vector(x, i + 3 * LANES))
                i += STEP
            while i < last:
                s0 = add_vector(s0, load_window(x, i, 1, 0, last - i, 1))
                i += LANES
            total += sum_vector(add_vector(add_vector(s0, s1), add_vector(s2, s3)))
        return total

    @helper
    def dot_run(x, xi, y, yi, n):
        """The sum of x[xi + i] * y[yi + i] for i < n in float64."""
        total, zero = 0.0, splat_vector(x, FLOAT(0))
        for start in range(0, n, BLOCK):
            i, last = start, min(start + BLOCK, n)
            s0, s1, s2, s3 = zero, zero, zero, zero
            while i + STEP <= last:
                s0 = fma_vector(load_vector(x, xi + i), load_vector(y, yi + i), s0)
                s1 = fma_vector(load_vector(x, xi + i + LANES), load_vector(y, yi + i + LANES), s1)
                s2 = fma_vector(load_vector(x, xi + i + 2 * LANES), load_vector(y, yi + i + 2 * LANES), s2)
                s3 = fma_vector(load_vector(x, xi + i + 3 * LANES), load_vector(y, yi + i + 3 * LANES), s3)
                i += STEP
            while i < last:
                left = last - i
                s0 = fma_vector(load_window(x, xi + i, 1, 0, left, 1), load_window(y, yi + i, 1, 0, left, 1), s0)
                i += LANES
            total += sum_vector(add_vector(add_vector(s0, s1), add_vector(s2, s3)))
        return total

    return sum_run, dot_run
