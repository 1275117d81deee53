"""Shifts, shuffles, padding and resizing on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from tests import test_shift as shifts

from .compare import check

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def device(array):
    return fc.Tensor(array).to("cuda").data


def test_whole_shift():
    shift = np.array([[1, 0], [-2, 1], [0, -9]])
    x = normal(2, 3, 3, 4)
    check(lambda x: F.shift2d(x, shift), x)
    on_device = fc.Tensor(shift).to("cuda").data
    given = F.shift2d(fc.Tensor(x).to("cuda"), on_device)
    np.testing.assert_array_equal(given.cpu().numpy(), F.shift2d(x, shift))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifts_of_the_table(dtype):
    """Values and the image's gradient by the oracle; those of displacements as on the CPU."""
    x, gy, whole, real = shifts.images(dtype), shifts.images(dtype)[::-1], shifts.WHOLE, shifts.displacements(dtype)
    for function, d in ((lambda x: F.shift2d(x, whole), whole), (lambda x: F.active_shift2d(x, device(real)), real)):
        leaf = fc.Tensor(x).to("cuda").requires_grad_()
        y = function(leaf)
        y.backward(fc.Tensor(gy.copy()).to("cuda"))
        close = {"rtol": 1e-4 if dtype == "float32" else 1e-12, "atol": 1e-6 if dtype == "float32" else 1e-12}
        np.testing.assert_allclose(y.detach().numpy(), shifts.oracle(x, d), **close)
        np.testing.assert_allclose(leaf.grad.numpy(), shifts.oracle(gy, -d), **close)
    for function in (F.active_shift2d, lambda x, d: F.active_shift2d(x, d, True), F.sparse_shift2d):
        check(function, x[:, :, :, :7], real, tol=1e-4)


def test_learned_shifts():
    x, d = normal(2, 4, 3, 4), np.array([[0.3, -1.2], [2, -0.5], [0, 0], [-1e9, 2.5]], np.float32)
    check(F.active_shift2d, x, d)
    check(lambda x, d: F.active_shift2d(x, d, True), x[0], d)
    check(F.sparse_shift2d, x, d)


def test_displacements_must_be_finite():
    d = fc.Tensor(np.array([[0, np.nan]], np.float32)).to("cuda")
    with pytest.raises(ValueError, match="finite"):
        F.active_shift2d(fc.Tensor(normal(1, 1, 2, 2)).to("cuda"), d)


def test_shuffles():
    check(lambda x: F.channel_shuffle(x, 3), normal(2, 6, 2))
    check(lambda x: F.pixel_shuffle(x, 2), normal(1, 8, 2, 3))
    check(lambda x: F.pixel_unshuffle(x, 2), normal(1, 2, 4, 2))
    check(lambda x: F.cat(F.channel_split(x)[::-1], 1), normal(2, 4, 3))


def test_pad():
    for mode in ("constant", "reflect", "replicate", "circular"):
        check(lambda x, mode=mode: F.pad(x, (1, 2, 0, 1), mode), normal(1, 2, 3, 4))
    check(lambda x: F.pad(x, (-1, 2), value=3), normal(2, 4))


MODES = {
    "nearest": ((4, 7), {}),
    "bilinear": ((5, 3), {"align_corners": False}),
    "bilinear corners": ((5, 7), {"align_corners": True}),
    "bicubic": ((2, 6), {}),
    "antialias": ((2, 3), {"antialias": True}),
}


@pytest.mark.parametrize("name", MODES)
def test_interpolate(name):
    size, options = MODES[name]
    mode = "bilinear" if name == "antialias" else name.split()[0]
    check(lambda x: F.interpolate(x, size, mode=mode, **options), normal(1, 2, 4, 5))


def test_interpolate_1d_and_3d():
    check(lambda x: F.interpolate(x, scale_factor=1.7, mode="linear"), normal(2, 1, 5))
    check(lambda x: F.interpolate(x, 3, mode="trilinear"), normal(1, 1, 2, 2, 3))
    check(lambda x: F.interpolate(x, 3, mode="area"), normal(1, 1, 5, 7))
