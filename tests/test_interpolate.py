"""Resizing in every mode: torch's values, gradients and refusals; matrices against naive sums."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver, nn
from fastconv.autograd import Tensor

from .against_torch import check_refusal, check_sample, samples
from .check_op import check_op

MODES = {"nearest": 2, "nearest-exact": 2, "linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3, "area": 2}


def image(rank, n=2, c=2, seed=0):
    return np.random.default_rng(seed).standard_normal((n, c, *(4, 5, 3)[:rank]))


@pytest.mark.smoke
@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    x = image(MODES[mode], 1, 1)
    size = (7, 3, 5)[: MODES[mode]]
    check_op(lambda x: F.interpolate(x, size, mode=mode), x)
    if mode.endswith(("linear", "cubic")):
        check_op(lambda x: F.interpolate(x, scale_factor=1.7, mode=mode, align_corners=True), x)
    if mode.startswith("bi"):
        check_op(lambda x: F.interpolate(x, (2, 9), mode=mode, antialias=True), x)


@pytest.mark.smoke
def test_values():
    x = np.array([[[1.0, 3, 5]]])
    assert F.interpolate(x, 6)[0, 0].tolist() == [1, 1, 3, 3, 5, 5]
    assert F.interpolate(x, 2)[0, 0].tolist() == [1, 3]
    assert F.interpolate(x, 2, mode="nearest-exact")[0, 0].tolist() == [1, 5]
    assert F.interpolate(x, 5, mode="linear", align_corners=True)[0, 0].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(F.interpolate(x, 6, mode="linear")[0, 0], [1, 1.5, 2.5, 3.5, 4.5, 5])
    ones = np.ones((1, 1, 6, 7))
    for mode in ("bilinear", "bicubic"):
        for antialias in (False, True):
            np.testing.assert_allclose(F.interpolate(ones, (3, 11), mode=mode, antialias=antialias), 1)
    assert F.interpolate(np.ones((0, 2, 4, 4)), 3, mode="bicubic").shape == (0, 2, 3, 3)
    x = image(2)
    x[0, 0, 1, 1] = np.nan
    y = F.interpolate(x, scale_factor=2)
    assert np.isnan(y[0, 0, 2:4, 2:4]).all() and np.isnan(y).sum() == 4


def test_same_bits_for_any_thread_count():
    x = np.random.default_rng(0).standard_normal((2, 8, 61, 67), np.float32)
    threads, results = driver.get_num_threads(), []
    try:
        for count in (1, 2):
            driver.set_num_threads(count)
            t = Tensor(x, requires_grad=True)
            y = F.interpolate(t, (100, 90), mode="bilinear")
            y.backward(y.detach().numpy())
            results.append((y.detach().numpy(), t.grad.numpy()))
    finally:
        driver.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nearest_picks_torchs_pixels(dtype):
    import torch

    for size in (1, 2, 3, 7, 10, 49, 97, 300):
        x = np.arange(size, dtype=dtype).reshape(1, 1, size)
        for out in (1, 2, 3, 5, 9, 10, 21, 64, 98, 201, 1000):
            for mode in ("nearest", "nearest-exact"):
                want = torch.nn.functional.interpolate(torch.tensor(x), out, mode=mode).numpy()
                np.testing.assert_array_equal(F.interpolate(x, out, mode=mode), want, err_msg=f"{size} to {out} {mode}")
                for factor in (out / size, 1.1, 2.3):
                    if size * factor >= 1:
                        want = torch.nn.functional.interpolate(torch.tensor(x), scale_factor=factor, mode=mode).numpy()
                        np.testing.assert_array_equal(F.interpolate(x, scale_factor=factor, mode=mode), want)


@pytest.mark.torch
@pytest.mark.parametrize("mode", MODES)
def test_torchs_samples(mode):
    op, inputs = samples("nn.functional.interpolate", mode)
    for sample in inputs:
        check_sample(F.interpolate, op.op, sample)
    for sample in samples(op.name, mode, errors=True)[1]:
        check_refusal(F.interpolate, sample)


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_antialias_is_torchs(mode):
    import torch

    for size in [(2, 3), (4, 5), (9, 2), (1, 17), (3, 11)]:
        for corners in (None, False, True):
            for x in (image(2), np.random.default_rng(1).standard_normal((1, 1, 20, 13))):
                t, mine = torch.tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
                settings = {"mode": mode, "align_corners": corners, "antialias": True}
                want = torch.nn.functional.interpolate(t, size, **settings)
                got = F.interpolate(mine, size, **settings)
                np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-10)
                g = np.random.default_rng(2).standard_normal(want.shape)
                want.backward(torch.tensor(g))
                got.backward(g)
                np.testing.assert_allclose(mine.grad.numpy(), t.grad.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.torch
def test_float32_is_near_torchs():
    import torch

    x = np.random.default_rng(0).standard_normal((1, 3, 33, 47)).astype(np.float32)
    for mode in ("bilinear", "bicubic"):
        for settings in ({"size": (66, 94)}, {"scale_factor": 1.7}, {"size": (10, 90)}):
            want = torch.nn.functional.interpolate(torch.tensor(x), mode=mode, **settings).numpy()
            np.testing.assert_allclose(F.interpolate(x, mode=mode, **settings), want, atol=3e-5)


@pytest.mark.torch
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": 3, "scale_factor": 2},
        {"size": (3, 3, 3)},
        {"size": 3, "mode": "linear"},
        {"size": 3, "mode": "trilinear"},
        {"size": 3, "mode": "cubic"},
        {"size": 0},
        {"scale_factor": 0.1},
        {"scale_factor": -1.0},
        {"size": 3, "align_corners": True},
        {"size": 3, "mode": "area", "align_corners": False},
        {"size": 3, "antialias": True},
        {"size": 3, "recompute_scale_factor": True},
        {"scale_factor": (2,)},
        {"scale_factor": "a"},
        {"size": 3.0},
        {"size": (3, 4.0)},
        {"size": True},
    ],
    ids=str,
)
def test_refuses_what_torch_refuses(settings):
    import torch

    x = image(2)
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError)):
        torch.nn.functional.interpolate(torch.tensor(x), **settings)
    with pytest.raises((ValueError, TypeError), match=r"^interpolate: "):
        F.interpolate(x, **settings)


@pytest.mark.smoke
def test_refusals():
    with pytest.raises(ValueError, match=r"upsample: mode 'bilinear' wants input of 4 dimensions .*\(2, 2, 4\)"):
        F.upsample(image(1), 3, mode="bilinear")
    with pytest.raises(TypeError, match="floating"):
        F.interpolate(np.ones((1, 1, 2, 2), int), 3)
    with pytest.raises(ValueError, match="only the batch may be empty"):
        F.interpolate(np.ones((1, 0, 2, 2)), 3)
    with pytest.raises(ValueError, match="finite"):
        F.interpolate(image(2), scale_factor=float("nan"))


@pytest.mark.torch
def test_layers():
    import torch

    x = image(2).astype(np.float32)
    for name, arguments in {
        "Upsample": [(None, 2), ((3, 7), None, "bilinear", True), (None, (1.5, 2.5), "bicubic", None, True)],
        "UpsamplingNearest2d": [(None, 2), ((5, 6),)],
        "UpsamplingBilinear2d": [(None, 2), ((5, 6),)],
    }.items():
        for given in arguments:
            ours, theirs = getattr(nn, name)(*given), getattr(torch.nn, name)(*given)
            assert repr(ours) == repr(theirs)
            np.testing.assert_allclose(ours(Tensor(x)).numpy(), theirs(torch.tensor(x)).numpy(), atol=1e-5)
