"""Lanes picked by a table and rows interleaved: compiled against their plain twins."""

import numba
import numpy as np
import pytest

from fastconv import _jit, simd, simd_permute, simd_python, simd_python_masked

pytestmark = pytest.mark.skipif(not _jit.JIT, reason="the twins themselves are what runs without the JIT")


@pytest.fixture(params=["float32", "float64"])
def lanes(request, monkeypatch):
    """The lanes of a dtype, for the twins too."""
    lanes = simd.lanes(request.param)
    monkeypatch.setattr(simd_python, "LANES", lanes)
    monkeypatch.setattr(simd_python._take, "__defaults__", (lanes,))
    return lanes


def both(make):
    return numba.njit(error_model="numpy")(make(simd_permute, simd.store_vector)), make(
        simd_python_masked, simd_python.store_vector
    )


def make_pick(span):
    def make(module, store):
        pick_lanes = module.pick_lanes

        def pick(x, xi, places, pi, y):
            store(pick_lanes(x, xi, places, pi, span), y, 0)

        return pick

    return make


def make_pick_pair():
    def make(module, store):
        pick_pair, load = module.pick_pair, simd.load_vector if module is simd_permute else simd_python.load_vector

        def pick(x, places, pi, y):
            store(pick_pair(load(x, 0), load(x, y.size), places, pi), y, 0)

        return pick

    return make


def make_interleave(rows):
    def make(module, store):
        store_interleaved = module.store_interleaved

        def interleave(c, ci, c_m, y, yi, low, high):
            store_interleaved(c, ci, c_m, y, yi, low, high, rows)

        return interleave

    return make


@pytest.mark.parametrize("span", [2, 4])
def test_pick_lanes(lanes, span):
    r = np.random.default_rng(span)
    x = r.standard_normal(5 * lanes).astype("float32" if lanes * 4 == simd.isa.width else "float64")
    places = r.integers(-1, span * lanes, 2 * lanes).astype(np.int32)
    results = [np.zeros(lanes, x.dtype) for _ in range(2)]
    for pick, y in zip(both(make_pick(span)), results, strict=True):
        pick(x, 3, places, 2, y)
    np.testing.assert_array_equal(*results)
    assert (results[0] != 0).any()


@pytest.mark.parametrize("rows", [2, 4, 8])
def test_store_interleaved(lanes, rows):
    r = np.random.default_rng(rows)
    c = r.standard_normal(rows * 40).astype("float32" if lanes * 4 == simd.isa.width else "float64")
    for low, high in ((0, rows * lanes), (3, rows * lanes - 5), (-4, 7), (5, 5)):
        results = [np.full(rows * lanes + 9, 7, c.dtype) for _ in range(2)]
        for interleave, y in zip(both(make_interleave(rows)), results, strict=True):
            interleave(c, 1, 40 - lanes, y, 4, low, high)
        np.testing.assert_array_equal(*results)


@pytest.mark.skipif(simd.isa.name != "avx512", reason="one instruction of AVX-512")
def test_pick_pair(lanes):
    r = np.random.default_rng(lanes)
    x = r.standard_normal(2 * lanes).astype("float32" if lanes * 4 == simd.isa.width else "float64")
    places = r.integers(-1, 2 * lanes, 2 * lanes).astype(np.int32)
    results = [np.zeros(lanes, x.dtype) for _ in range(2)]
    for pick, y in zip(both(make_pick_pair()), results, strict=True):
        pick(x, places, 2, y)
    np.testing.assert_array_equal(*results)
