"""Sampling at the points of a grid, and affine grids: torch's values, gradients and refusals."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver
from fastconv.autograd import Tensor, gradcheck

from .against_torch import check_sample, samples
from .check_op import check_op

SETTINGS = [
    (mode, padding, corners)
    for mode in ("bilinear", "nearest", "bicubic")
    for padding in ("zeros", "border", "reflection")
    for corners in (False, True)
]


def arrays(rank, n=2, c=3, spread=1.5, seed=0):
    r = np.random.default_rng(seed)
    size, out = (3, 4, 5)[:rank], (2, 5, 3)[:rank]
    return r.standard_normal((n, c, *size)), r.uniform(-spread, spread, (n, *out, rank))


@pytest.mark.torch
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("rank", [2, 3])
def test_values_and_gradients_are_torchs(rank, settings):
    import torch

    if settings[0] == "bicubic" and rank == 3:
        return
    for spread in (0.9, 4.0):
        x, grid = arrays(rank, spread=spread)
        tx, tg = torch.tensor(x, requires_grad=True), torch.tensor(grid, requires_grad=True)
        mx, mg = Tensor(x, requires_grad=True), Tensor(grid, requires_grad=True)
        want, got = torch.nn.functional.grid_sample(tx, tg, *settings), F.grid_sample(mx, mg, *settings)
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-10)
        g = np.random.default_rng(9).standard_normal(want.shape)
        want.backward(torch.tensor(g))
        got.backward(g)
        np.testing.assert_allclose(mx.grad.numpy(), tx.grad.numpy(), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(mg.grad.numpy(), tg.grad.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.smoke
def test_values():
    x = np.arange(6.0).reshape(1, 1, 2, 3)
    corners = np.array([[[[-1.0, -1], [1, 1], [0, 0], [3, 0]]]])
    assert F.grid_sample(x, corners, align_corners=True)[0, 0, 0].tolist() == [0, 5, 2.5, 0]
    assert F.grid_sample(x, corners, "nearest", "border", True)[0, 0, 0].tolist() == [0, 5, 1, 2]
    for align in (False, True):  # the identity
        grid = F.affine_grid(np.array([[[1.0, 0, 0], [0, 1, 0]]]), (1, 1, 2, 3), align)
        for mode in ("bilinear", "nearest", "bicubic"):
            np.testing.assert_allclose(F.grid_sample(x, grid, mode, align_corners=align), x, atol=1e-12)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(F.grid_sample(x, corners, align_corners=True)[0, 0, 0]).tolist() == [True, False, False, False]
    assert F.grid_sample(np.ones((0, 2, 3, 4)), np.ones((0, 5, 6, 2))).shape == (0, 2, 5, 6)
    assert F.grid_sample(np.ones((1, 0, 3, 4)), np.ones((1, 5, 6, 2))).shape == (1, 0, 5, 6)
    for bad in (np.nan, np.inf, -np.inf, 1e30):
        F.grid_sample(x, np.full((1, 2, 2, 2), bad), "bicubic", "reflection")  # reads nothing outside the image


@pytest.mark.smoke
def test_gradients():
    x, grid = arrays(2, 1, 2, spread=1.1, seed=3)
    for mode in ("bilinear", "bicubic"):
        check_op(lambda x, g, mode=mode: F.grid_sample(x, g, mode), x, grid, second=False)
        assert gradcheck(lambda x, g, mode=mode: F.grid_sample(x, g, mode, "border"), [x, grid])
    theta = np.random.default_rng(0).standard_normal((2, 2, 3))
    check_op(lambda t: F.affine_grid(t, (2, 1, 3, 4)), theta)
    x, grid = Tensor(x, requires_grad=True), Tensor(grid)
    with pytest.raises(RuntimeError, match="grid_sample"):
        F.grid_sample(x, grid).sum().backward(create_graph=True)


def test_same_bits_for_any_thread_count():
    r = np.random.default_rng(0)
    x, grid = r.standard_normal((2, 8, 40, 41), np.float32), r.uniform(-1.2, 1.2, (2, 50, 51, 2)).astype(np.float32)
    threads, results = driver.get_num_threads(), []
    try:
        for count in (1, 2):
            driver.set_num_threads(count)
            tx, tg = Tensor(x, requires_grad=True), Tensor(grid, requires_grad=True)
            y = F.grid_sample(tx, tg)
            y.backward(y.detach().numpy())
            results.append((y.detach().numpy(), tx.grad.numpy(), tg.grad.numpy()))
    finally:
        driver.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.torch
def test_torchs_samples():
    op, inputs = samples("nn.functional.grid_sample")
    for sample in inputs:
        check_sample(F.grid_sample, op.op, sample)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Default grid_sample", "ignore:Since version 1.3.0")
@pytest.mark.parametrize("align", [False, True, None])
def test_affine_grid_is_torchs(align):
    import torch

    r = np.random.default_rng(0)
    for size in [(2, 1, 3, 4), (1, 2, 1, 1), (2, 1, 2, 3, 4), (1, 1, 1, 5, 1)]:
        theta = r.standard_normal((size[0], len(size) - 2, len(size) - 1))
        want = torch.nn.functional.affine_grid(torch.tensor(theta), size, align).numpy()
        np.testing.assert_allclose(F.affine_grid(theta, size, align), want, rtol=1e-12, atol=1e-12)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, g: F.grid_sample(x[0], g[0]), "both have 4 or both 5"),
        (lambda x, g: F.grid_sample(x, g[..., :1]), r"2 coordinates, given shape \(2, 2, 5, 1\)"),
        (lambda x, g: F.grid_sample(x[:1], g), "batch of 1, grid of 2"),
        (lambda x, g: F.grid_sample(x[:, :, :0], g), "at least one pixel"),
        (lambda x, g: F.grid_sample(x, g, "area"), "mode must be one of"),
        (lambda x, g: F.grid_sample(x, g, "nearest", "wrap"), "padding_mode must be one of"),
        (lambda x, g: F.grid_sample(x, g.astype(np.float32)), "dtype"),
        (lambda x, g: F.grid_sample(x.astype(int), g), "floating"),
        (lambda x, g: F.grid_sample(*arrays(3), "bicubic"), "bicubic"),
        (lambda x, g: F.affine_grid(np.ones((1, 2, 3)), (1, 2, 3)), "4 or 5 values"),
        (lambda x, g: F.affine_grid(np.ones((1, 2, 3)), (1, 2, 0, 3)), "at least 1"),
        (lambda x, g: F.affine_grid(np.ones((1, 2, 3)), (2, 2, 3, 3)), r"shape \(2, 2, 3\)"),
        (lambda x, g: F.affine_grid(np.ones((1, 2, 3), int), (1, 2, 3, 3)), "floating"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(*arrays(2))
