"""RoI pool and RoI align: against the oracles, gradients, thread counts, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn
from fastconv import _config, driver
from fastconv.autograd import Tensor

from . import oracle_pool as oracle
from .check_op import check_op

BOXES = np.array(
    [
        [0, 0.5, 1.2, 7.7, 6.1],
        [1, 2, 2, 3, 3],
        [1, -3, -4, 30, 25],  # beyond the image on all sides
        [0, 6.5, 0.5, 6.5, 0.5],  # a point
        [1, 40, 40, 50, 50],  # outside
        [0, 2.5, 3.5, 10.49, 8.5],  # halves
    ]
)


def _input(dtype="float64"):
    return np.random.default_rng(0).standard_normal((2, 3, 9, 11)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale, ratio, aligned", [(1.0, -1, False), (0.5, 2, False), (1.0, 3, True), (0.7, 0, True)])
def test_roi_align(scale, ratio, aligned, dtype, monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    x = _input(dtype)
    y = F.roi_align(x, BOXES.astype(dtype), (3, 4), scale, ratio, aligned)
    want = oracle.roi_align(x, BOXES, (3, 4), scale, ratio, aligned)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)


def test_roi_align_of_many_channels():
    """Enough of them for blocks of channels, which do not fill the last block."""
    x = np.random.default_rng(0).standard_normal((2, 20, 9, 11)).astype("float32")
    y = F.roi_align(Tensor(x, requires_grad=True), BOXES.astype("float32"), (5, 4), 0.9, 2, True)
    np.testing.assert_allclose(y.detach(), oracle.roi_align(x, BOXES, (5, 4), 0.9, 2, True), rtol=0, atol=2e-5)
    x = np.random.default_rng(0).standard_normal((2, 10, 6, 7))
    check_op(lambda t: F.roi_align(t, BOXES, (5, 4)), x)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("size", [(3, 4), 1, 7], ids=str)
def test_roi_pool(size, scale):
    x = _input()
    y = F.roi_pool(x, BOXES, size, scale)
    np.testing.assert_array_equal(y, oracle.roi_pool(x, BOXES, oracle.each(size, 2), scale))


def test_boxes_as_a_list():
    x, parts = _input(), [BOXES[BOXES[:, 0] == n, 1:] for n in (0, 1)]
    table = np.concatenate([BOXES[BOXES[:, 0] == n] for n in (0, 1)])
    np.testing.assert_array_equal(F.roi_align(x, parts, 2), F.roi_align(x, table, 2))
    np.testing.assert_array_equal(F.roi_pool(x, parts, 2), F.roi_pool(x, table, 2))
    assert F.roi_align(x, [], 2).shape == F.roi_pool(x, np.zeros((0, 5)), 2).shape == (0, 3, 2, 2)


def test_gradients():
    x = np.random.default_rng(1).permutation(2 * 2 * 6 * 7).reshape(2, 2, 6, 7) / 7.0
    check_op(lambda t: F.roi_align(t, BOXES, (2, 3)), x)
    check_op(lambda t: F.roi_align(t, BOXES, 2, 0.8, 2, True), x)
    check_op(lambda t: F.roi_pool(t, BOXES, (2, 3)), x)


def test_same_bits_for_any_thread_count(monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    x, before, results = _input("float32"), driver.get_num_threads(), []
    try:
        for threads in (1, min(2, before)):
            driver.set_num_threads(threads)
            t = Tensor(x, requires_grad=True)
            y = F.roi_align(t, BOXES, 7) + F.roi_pool(t, BOXES, 7)
            y.sum().backward()
            results.append((y.detach().numpy().tobytes(), t.grad.numpy().tobytes()))
    finally:
        driver.set_num_threads(before)
    assert results[0] == results[1]


def test_layers():
    x = _input("float32")
    np.testing.assert_array_equal(
        np.asarray(nn.RoIAlign(2, 1.0, 2, True)(x, BOXES)), F.roi_align(x, BOXES, 2, 1.0, 2, True)
    )
    np.testing.assert_array_equal(np.asarray(nn.RoIPool((2, 3), 0.5)(x, BOXES)), F.roi_pool(x, BOXES, (2, 3), 0.5))
    assert (
        repr(nn.RoIAlign(7, 0.25, 2)) == "RoIAlign(output_size=7, spatial_scale=0.25, sampling_ratio=2, aligned=False)"
    )
    assert repr(nn.RoIPool(7, 0.25)) == "RoIPool(output_size=7, spatial_scale=0.25)"


def _with(row, column, number):
    boxes = BOXES.copy()
    boxes[row, column] = number
    return boxes


@pytest.mark.smoke
@pytest.mark.parametrize("function", [F.roi_align, F.roi_pool])
@pytest.mark.parametrize(
    "error, text, arguments",
    [
        (ValueError, r"boxes must have shape \(K, 5\), .* given \(6, 4\)", (_input(), BOXES[:, 1:], 2)),
        (ValueError, r"boxes\[0\] must have shape \(L, 4\), given \(6, 5\)", (_input(), [BOXES], 2)),
        (ValueError, "the input has 2 images, given boxes for 3", (_input(), [BOXES[:, 1:]] * 3, 2)),
        (ValueError, "boxes are of images 0 to 1, given 2.0", (_input(), _with(0, 0, 2), 2)),
        (ValueError, "boxes are of images 0 to 1, given 0.5", (_input(), _with(0, 0, 0.5), 2)),
        (ValueError, "boxes must be finite", (_input(), _with(0, 3, np.nan), 2)),
        (ValueError, "exceed float32", (_input("float32"), _with(0, 3, 3e38), 2, 10.0)),
        (ValueError, "output_size must be at least 1, given 0", (_input(), BOXES, 0)),
        (ValueError, r"input must have shape \(n, c, h, w\)", (_input()[0], BOXES, 2)),
        (TypeError, "spatial_scale must be a number, given 'a'", (_input(), BOXES, 2, "a")),
        (TypeError, "input must be float32 or float64", (_input().astype(int), BOXES, 2)),
    ],
)
def test_refusals(function, error, text, arguments):
    with pytest.raises(error, match=text):
        function(*arguments)


@pytest.mark.smoke
def test_refusals_of_roi_align():
    with pytest.raises(ValueError, match="must not end before they begin, given a width or height of -2"):
        F.roi_align(_input(), _with(0, 3, -1.5), 2, aligned=True)
    with pytest.raises(ValueError, match="at most 1048576 samples along a side"):
        F.roi_align(_input(), _with(0, 3, 1e30), 2)
    with pytest.raises(TypeError, match=r"sampling_ratio must be a whole number, given 2\.5"):
        F.roi_align(_input(), BOXES, 2, sampling_ratio=2.5)
    with pytest.raises(TypeError, match="aligned must be True or False, given 1"):
        F.roi_align(_input(), BOXES, 2, aligned=1)
