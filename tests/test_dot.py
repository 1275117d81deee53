"""Kernels that cover the whole image: chosen for them, right for groups, images, tails and epilogues."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import _config
from fastconv._registry import select
from fastconv.driver import launch
from fastconv.kernels.dot import ConvForward, streamed
from fastconv.specs import Epilogue, conv_spec


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


CASES = [  # images, input channels, output channels, kernel, groups
    (1, 70, 11, (1, 1), 1),
    (3, 6, 9, (3, 5), 1),
    (2, 12, 8, (2, 2), 4),
    (1, 33, 1, (1, 1), 1),
    (2, 64, 24, (1, 1), 1),
]


@pytest.mark.parametrize("n, ic, oc, kernel, groups", CASES)
def test_products(n, ic, oc, kernel, groups):
    x, w, b, y = arrays((n, ic, *kernel), (oc, ic // groups, *kernel), (oc,), (n, oc, 1, 1))
    spec = conv_spec("conv2d", 2, x.shape, w.shape, b.shape, 1, 0, 1, groups, "float32")
    assert n * groups > 1 or select("conv.fwd", spec, packed=True) is ConvForward
    by_group = x.reshape(n, groups, -1), w.reshape(groups, oc // groups, -1)
    product = np.einsum("ngi,goi->ngo", *(a.astype("float64") for a in by_group)).reshape(n, oc)
    wanted = np.clip(product + b + y[..., 0, 0], -1.0, 2.0)
    for packed in ({}, {"packed": streamed(w, groups)}):
        buffers = {"x": x, "w": w, "b": b, "y": y.copy(), "epilogue": Epilogue(-1.0, 2.0, True)} | packed
        launch(*ConvForward.emit(spec, buffers))
        np.testing.assert_allclose(buffers["y"][..., 0, 0], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(F.conv2d(x, w, groups=groups)[..., 0, 0], product, rtol=1e-5, atol=1e-5)


def test_only_many_weights_are_packed():
    """Those that fit the caches are read as they lie."""
    for rows, wanted in ((1000, False), (1100, True)):
        x, w = arrays((1, 1000, 1, 1), (rows, 1000, 1, 1))
        spec = conv_spec("conv2d", 2, x.shape, w.shape, None, 1, 0, 1, 1, "float32")
        assert (ConvForward.pack(spec, w) is not None) == wanted


def test_an_image_gives_the_same_bits_in_any_batch(monkeypatch):
    monkeypatch.setattr(_config, "IMPL", (ConvForward.name,))
    x, w = arrays((5, 40, 1, 1), (10, 40, 1, 1))
    together = F.conv2d(x, w)
    for i in range(5):
        np.testing.assert_array_equal(F.conv2d(x[i : i + 1], w)[0], together[i])


@pytest.mark.parametrize("shape, kernel", [((1, 4, 3, 3), (2, 3)), ((1, 4, 1, 1), (3, 3))])
def test_other_problems_are_refused(shape, kernel):
    spec = conv_spec("conv2d", 2, shape, (2, 4, *kernel), None, 1, (kernel[0] // 2, kernel[1] // 2), 1, 1, "float32")
    assert "whole image" in str(ConvForward.when(spec))
