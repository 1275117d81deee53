"""Activation kernels: every formula against float64, in place, tails, the same bits for any thread count."""

import math

import numpy as np
import pytest

from fastconv import _jit, driver, simd_formulas
from fastconv.driver import launch
from fastconv.kernels import elementwise
from fastconv.kernels.activation_mean import activation_mean_row
from fastconv.simd_isa import isa

PARAMETERS = {"leaky_relu": (0.2, 0), "elu": (0.7, 0), "selu": (1.67, 1.05), "clip": (-1, 2)}


def values(n, name="", dtype=np.float32):
    x = (np.random.default_rng(0).standard_normal(n) * 4).astype(dtype)
    return np.abs(x) if name == "log" else x


def by_formula(table, name, *arrays):
    wide = [simd_formulas.PlainValue(a.astype(np.float64)) for a in arrays]
    parameters = [simd_formulas.PlainValue(np.float64(p)) for p in PARAMETERS.get(name, (0, 0))]
    with np.errstate(all="ignore"):
        return table[name](*wide, *parameters).array


@pytest.mark.smoke
@pytest.mark.parametrize("name", simd_formulas.FORWARD)
def test_forward(name):
    x = values(157, name)
    y = elementwise.activated(name, x, *PARAMETERS.get(name, ()))
    want = by_formula(simd_formulas.FORWARD, name, x)
    np.testing.assert_allclose(y, want, rtol=1e-6, atol=1e-7)
    half = elementwise.activated(name, x.astype(np.float16), *PARAMETERS.get(name, ()))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, want, rtol=2e-2, atol=2e-2)


@pytest.mark.smoke
@pytest.mark.parametrize("name", simd_formulas.BACKWARD)
def test_gradient_is_the_slope(name):
    """Central differences of the formula in float64, away from corners."""
    x = values(157).astype(np.float64)
    x = x[np.abs(np.abs(x)[:, None] - [0, 3, 6]).min(1) > 1e-3]
    g = values(x.size + 1)[1:]
    slope = [by_formula(simd_formulas.FORWARD, name, x + e) for e in (1e-6, -1e-6)]
    saved = by_formula(simd_formulas.FORWARD, name, x) if name in simd_formulas.FROM_OUTPUT else x
    gx = elementwise.activation_gradient(name, g, saved.astype(np.float32), *PARAMETERS.get(name, ()))
    np.testing.assert_allclose(gx, g * (slope[0] - slope[1]) / 2e-6, rtol=1e-5, atol=5e-6)


@pytest.mark.skipif(isa.name != "avx512" or not _jit.JIT, reason="other registers have another formula")
def test_gelu_is_precise_where_it_is_small():
    random = np.random.default_rng(0).uniform(-13, 10, 200_000)
    x = np.concatenate([random, np.linspace(-13, 14, 20_001), -np.logspace(-30, 0, 2001)]).astype(np.float32)
    want = np.array([v * math.erfc(-v * math.sqrt(0.5)) / 2 for v in x.tolist()])
    units = np.abs(elementwise.activated("gelu", x) - want) / np.spacing(np.abs(want.astype(np.float32)))
    assert (units < np.where(x < -10, 9, 5)).all(), (x[units.argmax()], units.max())
    ends = elementwise.activated("gelu", np.array([np.nan, np.inf, -np.inf, -0.0], np.float32))
    np.testing.assert_array_equal(ends, [np.nan, np.inf, 0, 0])


@pytest.mark.parametrize("pixels", [49, 64, 5000])
def test_an_activation_with_its_means(pixels):
    x = values(7 * pixels).reshape(7, pixels)
    want, y, mean = elementwise.activated("silu", x), x.copy(), np.empty((7, 1, 1), np.float32)
    launch(activation_mean_row("silu", y, y, mean))
    np.testing.assert_array_equal(y, want)
    np.testing.assert_allclose(mean.ravel(), want.mean(1, dtype=np.float64), rtol=1e-5, atol=1e-6)


def test_in_place():
    x = values(1000)
    want, whole = elementwise.activated("silu", x), x.copy()
    launch(elementwise.activation_row("silu", whole, whole))
    np.testing.assert_array_equal(whole, want)
    g = values(1000)
    want = elementwise.activation_gradient("silu", g, x)
    launch(elementwise.gradient_row("silu", g, x, g))
    np.testing.assert_array_equal(g, want)


@pytest.mark.skipif(driver.get_num_threads() < 2, reason="one core")
def test_same_bits_for_any_thread_count():
    x = values(elementwise.PART * 40 + 7)
    both = [elementwise.activated("gelu", x)]
    threads = driver.get_num_threads()
    driver.set_num_threads(1)
    try:
        both.append(elementwise.activated("gelu", x))
    finally:
        driver.set_num_threads(threads)
    np.testing.assert_array_equal(*both)
    np.testing.assert_array_equal(both[0][:100], elementwise.activated("gelu", x[:100]))
    np.testing.assert_array_equal(both[0][::7], elementwise.activated("gelu", x[::7]))
