"""Batch norm in training by the kernels of whole channels, alone and with the ReLU or ReLU6 behind it."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver, nn
from fastconv.autograd import Tensor, no_grad
from fastconv.kernels import batch_norm
from fastconv.ops.norm import clamped_batch_norm

from .check_op import check_op

SHAPES = [(3, 9, 2, 2), (2, 8, 40, 15), (5, 8, 7), (2, 10, 2, 3, 1)]
LAYERS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def layer(shape, rng, dtype=np.float32):
    """A batch norm whose outputs lie on both sides of 0 and of 6."""
    norm = LAYERS[len(shape)](shape[1], dtype=dtype)
    norm.weight.data[...] = rng.standard_normal(shape[1]) * 4
    norm.bias.data[...] = rng.standard_normal(shape[1]) * 2 + 2
    return norm.train()


def step(run, norm, x, g):
    """Output, gradients and running statistics of one pass."""
    norm.zero_grad()
    norm.reset_running_stats()
    x = Tensor(x, requires_grad=True)
    y = run(x)
    y.backward(g)
    grads = (t.grad.numpy().copy() for t in (x, norm.weight, norm.bias))
    return y.detach().numpy(), *grads, norm.running_mean.copy(), norm.running_var.copy()


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("shape", SHAPES)
def test_one_pass_has_the_bits_of_two(shape, act, rng):
    assert batch_norm.fits(shape)
    norm, clamp = layer(shape, rng), act()
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    fused = step(nn.Sequential(norm, clamp).train(), norm, x, g)
    for a, b in zip(fused, step(lambda x: clamp(norm(x)), norm, x, g), strict=True):
        np.testing.assert_array_equal(a, b)
    with no_grad():
        np.testing.assert_array_equal(nn.Sequential(norm, clamp).train()(x), fused[0])


@pytest.mark.parametrize("high", [np.nan, 6.0])
def test_gradients(high, rng):
    mean, var = np.zeros(8), np.ones(8)

    def fn(x, w, b):
        return F.batch_norm(x, None, None, w, b, training=True) * 2

    def clamped(x, w, b):
        return clamped_batch_norm(x, mean.astype(x.dtype), var.astype(x.dtype), w, b, 0.1, 1e-5, high)

    x = rng.standard_normal((3, 8, 5))
    arrays = [x, rng.standard_normal(8) * 4, rng.standard_normal(8) * 2 + 2]
    y = F.batch_norm(arrays[0], None, None, *arrays[1:], training=True)
    assert np.abs(y).min() > 1e-4 and np.abs(y - 6).min() > 1e-4  # no corner within a difference
    check_op(fn, *arrays)
    check_op(clamped, *arrays)


@pytest.mark.torch
@pytest.mark.parametrize("shape", SHAPES)
def test_as_in_torch(shape, rng):
    import torch

    norm = layer(shape, rng)
    x, g = (rng.standard_normal(shape).astype(np.float32) + 3 for _ in range(2))
    theirs = getattr(torch.nn, type(norm).__name__)(shape[1])
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(norm.weight.data))
        theirs.bias.copy_(torch.tensor(norm.bias.data))
    t = torch.tensor(x, requires_grad=True)
    y = torch.relu(theirs(t))
    y.backward(torch.tensor(g))
    wanted = y, t.grad, theirs.weight.grad, theirs.bias.grad, theirs.running_mean, theirs.running_var
    for a, b in zip(step(nn.Sequential(norm, nn.ReLU()).train(), norm, x, g), wanted, strict=True):
        np.testing.assert_allclose(a, b.detach(), rtol=1e-4, atol=1e-4)


def test_nan_and_what_is_left_out(rng):
    """NaN goes through the clamp; running statistics of another dtype, or none, are no obstacle."""
    x = rng.standard_normal((2, 8, 3, 3)).astype(np.float32)
    x[0, 1, 0, 0] = np.nan
    y = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())(Tensor(x, requires_grad=True)).detach().numpy()
    assert np.isnan(y[:, 1]).all() and not np.isnan(y[:, 2:]).any()
    x[0, 1, 0, 0] = 0
    mean, var = np.zeros(8), np.ones(8)
    F.batch_norm(x, mean, var, training=True)
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(F.batch_norm(x, None, None, training=True).mean((0, 2, 3)), 0, atol=1e-6)


def test_only_plain_pairs_are_one(rng):
    """A subclass, a forward that somebody replaced and evaluation run as they are written."""
    x = Tensor(rng.standard_normal((2, 8, 3, 3)).astype(np.float32), requires_grad=True)

    class Twice(nn.ReLU):
        def forward(self, input):
            return super().forward(input) * 2

    norm = nn.BatchNorm2d(8)
    want = F.relu(norm(x)).detach().numpy()
    np.testing.assert_array_equal(nn.Sequential(norm, Twice())(x).detach().numpy(), 2 * want)
    seen, relu = [], nn.ReLU()
    relu.forward = lambda input: seen.append(input) or input
    nn.Sequential(norm, relu)(x)
    assert len(seen) == 1
    for model in (nn.Sequential(norm), nn.Sequential(norm, nn.Identity(), nn.ReLU()), nn.Sequential(norm, nn.ReLU())):
        model.eval()(x)


@pytest.mark.skipif(driver.get_num_threads() < 2, reason="one core")
def test_same_bits_for_any_thread_count(rng):
    shape = (4, 24, 30, 30)
    norm, both = layer(shape, rng), []
    x, g = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    threads = driver.get_num_threads()
    for count in (1, threads):
        driver.set_num_threads(count)
        both.append(step(nn.Sequential(norm, nn.ReLU6()).train(), norm, x, g))
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)
