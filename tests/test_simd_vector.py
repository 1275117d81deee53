"""The exponential function of vectors against NumPy's in extended precision."""

import numba
import numpy as np
import pytest

from fastconv import _jit, simd
from fastconv.simd_vector import exp_vector

pytestmark = pytest.mark.skipif(not _jit.JIT, reason="without the JIT it is NumPy's")


@numba.njit(error_model="numpy")
def exponentials(x, y, lanes):
    for i in range(0, x.size, lanes):
        simd.store_vector(exp_vector(simd.load_vector(x, i)), y, i)


def exp(x):
    lanes = simd.lanes(x.dtype)
    padded = np.zeros(-(-x.size // lanes) * lanes, x.dtype)
    padded[: x.size] = x
    out = np.empty_like(padded)
    exponentials(padded, out, lanes)
    return out[: x.size]


@pytest.mark.parametrize("dtype, least", [("float32", -87), ("float64", -708)])
def test_exponential(dtype, least):
    x = np.concatenate([np.linspace(least, -least, 100_003), np.linspace(-2, 2, 10_001)]).astype(dtype)
    want = np.exp(x.astype(np.longdouble))
    units = np.abs(exp(x) - want) / np.spacing(want.astype(dtype))
    assert units.max() < 2
    assert exp(np.zeros(1, dtype)) == 1
    special = exp(np.array([least - 2, -np.inf, np.nan], dtype))
    assert special[0] == 0 and special[1] == 0 and np.isnan(special[2])
