"""Functions of vectors against float64 (float32) and extended precision (float64) over the whole range."""

import math

import numba
import numpy as np
import pytest

from fastconv import _jit, simd, simd_math, simd_python

KINDS = {"float32": np.uint32, "float64": np.uint64}
NAMES = ("exp", "expm1", "log", "tanh", "erf", "erfc")


def _compiled(function):
    @numba.njit(error_model="numpy")
    def run(x, y, lanes):
        for i in range(0, x.size, lanes):
            simd.store_vector(function(simd.load_vector(x, i)), y, i)

    return run


def _results(name, x):
    lanes = simd.lanes(x.dtype)
    padded = np.ones(-(-x.size // lanes) * lanes, x.dtype)
    padded[: x.size] = x
    out = np.empty_like(padded)
    _compiled(getattr(simd_math, f"{name}_vector"))(padded, out, lanes)
    return out[: x.size]


def _everything(dtype):
    """Every exponent with 40 mantissas, both signs, denormals too; and the range where results are ordinary."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    exponents = np.arange(2 ** (info.bits - info.nmant - 1), dtype=KINDS[dtype])[:-1]
    mantissas = rng.integers(0, 2**info.nmant, (40, exponents.size)).astype(KINDS[dtype])
    mantissas[0], mantissas[1] = 0, 2**info.nmant - 1
    x = ((exponents << KINDS[dtype](info.nmant)) | mantissas).view(dtype).ravel()
    middle = np.concatenate([np.linspace(-s, s, 20_001) for s in (0.5, 2, 10, 110, 750)]).astype(dtype)
    return np.concatenate([x, -x, middle])


def _exact(name, x):
    """In a precision that float32 and float64 results can be judged by."""
    if name in ("erf", "erfc"):
        return np.array([getattr(math, name)(v) for v in x.tolist()])
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
        return getattr(np, name)(wide)


def _domain(name, x):
    most = {"expm1": 88 if x.dtype == np.float32 else 709}.get(name, np.inf)
    return x[(x <= most) & ((x >= 0) | (name not in ("erfc", "log")))]


@pytest.mark.skipif(not _jit.JIT, reason="without the JIT it is NumPy's")
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_within_two_units(name, dtype):
    x = _domain(name, _everything(dtype))
    got, want = _results(name, x), _exact(name, x)
    with np.errstate(over="ignore"):
        nearest = want.astype(dtype)
        finite = np.isfinite(nearest) & np.isfinite(got)
        np.testing.assert_array_equal(got[~finite & (np.abs(nearest) != np.inf)], nearest[~finite & np.isnan(nearest)])
        assert np.isinf(nearest[np.isinf(got)] * 1.0000002).all(), "infinite too early"
    units = np.abs(got[finite] - want[finite]) / np.spacing(np.abs(nearest[finite]))
    most = {"erfc": 7, "erf": 2 if dtype == "float32" else 3, "tanh": 2 if dtype == "float32" else 3}.get(name, 2)
    assert units.max() < most, (x[finite][units.argmax()], units.max())


@pytest.mark.skipif(not _jit.JIT, reason="without the JIT it is NumPy's")
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_special_values(name, dtype):
    x = _domain(name, np.array([0, -0.0, np.inf, -np.inf, 1], dtype))
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(_results(name, x), _exact(name, x).astype(dtype), rtol=4 * np.finfo(dtype).eps)
    assert np.isnan(_results(name, np.array([np.nan], dtype)))
    if name == "log":
        assert np.isnan(_results(name, np.array([-1, -np.inf, -1e-40], dtype))).all()


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_twins(name):
    x = np.array([0.25, 1, 2, 3])
    np.testing.assert_allclose(getattr(simd_python, f"{name}_vector")(x), _exact(name, x), rtol=1e-15)
