"""Long convolutions by Fourier transforms: every length of a segment and of what is left, and when they are chosen."""

import numpy as np
import pytest

from fastconv import driver
from fastconv._registry import implementations, select
from fastconv.functional import conv1d
from fastconv.kernels import fft

from .cases import case
from .test_conv import check

(IMPL,) = [impl for impl in implementations("conv.fwd") if impl.name == "conv_fwd_fft"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "problem",
    [
        case(300, 48, 1, 0, 1, (1, 1, 1)),  # one segment and a part of the second
        case(500, 64, 1, 63, 1, (3, 1, 1), n=2, bias=True),  # two pairs of segments
        case(90, 100, 1, 50, 1, (17, 1, 1)),  # a kernel longer than the signal; channels in two blocks
        case(3000, 257, 1, 128, 1, (2, 1, 1)),  # the second length of a segment
        case(449, 64, 1, 0, 1, (2, 1, 1)),  # outputs that fill two segments
        case(450, 64, 1, 0, 1, (2, 1, 1)),
    ],
    ids=str,
)
def test_values(problem, dtype):
    check(IMPL, problem, dtype)


def test_the_contract_on_long_kernels():
    """Within 1e-5 of a float64 reference, relative to the output's RMS."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 1, 9000), np.float32)
    w = rng.standard_normal((1, 1, 4097), np.float32)
    problem = case(9000, 4097, 1, 2048, 1, (1, 1, 1)).spec("float32")
    assert select("conv.fwd", problem) is IMPL and fft._size(problem) == 16384
    expected = np.correlate(np.pad(x[0, 0], 2048).astype(np.float64), w[0, 0].astype(np.float64), "valid")
    error = np.abs(conv1d(x, w, padding=2048)[0, 0] - expected).max() / np.sqrt(np.mean(expected**2))
    assert error < 1e-5


def test_threads_and_batches_change_no_bit():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((3, 40, 700), np.float32), rng.standard_normal((40, 1, 200), np.float32)
    before = driver.get_num_threads()
    try:
        driver.set_num_threads(1)
        alone, serial = conv1d(x[1], w, groups=40), conv1d(x, w, groups=40)
        driver.set_num_threads(before)
        np.testing.assert_array_equal(conv1d(x, w, groups=40), serial)
    finally:
        driver.set_num_threads(before)
    np.testing.assert_array_equal(serial[1], alone)


def test_a_value_that_is_no_number_stays_in_its_channel_and_image():
    x, w = np.ones((2, 2, 600), np.float32), np.ones((2, 1, 128), np.float32)
    x[0, 1, 300] = np.nan
    y = conv1d(x, w, groups=2)
    assert np.isnan(y[0, 1]).any() and np.isfinite(y[0, 0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (case(300, 64, 1, 0, 1, (1, 2, 2)), "one channel"),
        (case(300, 64, 2, 0, 1, (2, 1, 1)), "stride 1"),
        (case(300, 5, 1, 0, 1, (2, 1, 1)), "taps, has 5"),
        (case((300, 3), (64, 1), 1, 0, 1, (2, 1, 1)), "one dimension"),
    ],
    ids=str,
)
def test_what_it_refuses(problem, words):
    assert words in IMPL.when(problem.spec("float32"))


@pytest.mark.parametrize(("length", "kernel", "chosen"), [(16000, 31, False), (16000, 128, True), (16000, 1024, True)])
def test_it_is_chosen_by_cost(length, kernel, chosen):
    problem = case(length, kernel, 1, kernel // 2, 1, (64, 1, 1)).spec("float32")
    assert (select("conv.fwd", problem) is IMPL) == chosen
