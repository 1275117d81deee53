"""Batch, group and instance normalisation: gradients, running statistics, values against torch, bad input."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver
from fastconv.autograd import Tensor

from .check_op import check_op

SHAPES = [(5, 3), (4, 3, 5), (2, 3, 4, 5), (2, 3, 2, 3, 2)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients(shape, training, affine, rng):
    mean, var = rng.standard_normal(3), rng.random(3) + 0.5

    def fn(x, *wb):
        return F.batch_norm(x, mean.astype(x.dtype), var.astype(x.dtype), *wb, training=training)

    arrays = [rng.standard_normal(shape), rng.standard_normal(3), rng.standard_normal(3)]
    check_op(fn, *(arrays if affine else arrays[:1]))


@pytest.mark.torch
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
def test_as_in_torch(shape, training, rng):
    import torch

    x = (rng.standard_normal(shape) * 2 + 5).astype(np.float32)
    w, b, mean, var = (rng.random(3).astype(np.float32) + 0.5 for _ in range(4))
    ours = [mean.copy(), var.copy()], [Tensor(a, True) for a in (x, w, b)]
    theirs = [torch.tensor(mean), torch.tensor(var)], [torch.tensor(a, requires_grad=True) for a in (x, w, b)]
    got = F.batch_norm(ours[1][0], *ours[0], *ours[1][1:], training, 0.3, 1e-3)
    want = torch.nn.functional.batch_norm(theirs[1][0], *theirs[0], *theirs[1][1:], training, 0.3, 1e-3)
    np.testing.assert_allclose(got.detach(), want.detach(), rtol=1e-4, atol=1e-5)
    for a, t in zip(*(side[0] for side in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, t, rtol=1e-5)
    g = rng.standard_normal(shape).astype(np.float32)
    got.backward(g)
    want.backward(torch.tensor(g))
    for a, t in zip(*(side[1] for side in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a.grad, t.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.smoke
def test_far_from_zero(rng):
    """Two passes: the variance does not drown in the mean."""
    x = (rng.standard_normal((64, 2, 100)) + 1000).astype(np.float32)
    out = F.batch_norm(x, None, None, training=True)
    np.testing.assert_allclose(out.std(axis=(0, 2)), 1, atol=1e-3)


@pytest.mark.smoke
def test_empty_batch():
    mean, var, w = np.ones(3, np.float32), np.ones(3, np.float32), Tensor(np.ones(3, np.float32), True)
    for training in (True, False):
        out = F.batch_norm(np.zeros((0, 3, 4), np.float32), mean, var, w, training=training)
        assert out.shape == (0, 3, 4)
        out.sum().backward()
    assert mean.tolist() == [1, 1, 1] and w.grad.tolist() == [0, 0, 0]


@pytest.mark.smoke
def test_bad_input():
    x, ones = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"more than 1 value per channel, got input shape \(1, 3\)"):
        F.batch_norm(x[:1], None, None, training=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        F.batch_norm(np.ones((1, 3, 1, 1)), None, None, training=True)
    with pytest.raises(ValueError, match="running_mean and running_var"):
        F.batch_norm(x, None, None)
    with pytest.raises(ValueError, match=r"weight must have shape \(3,\).*got \(2,\)"):
        F.batch_norm(x, ones, ones, np.ones(2))
    with pytest.raises(ValueError, match=r"running_var must have shape"):
        F.batch_norm(x, ones, np.ones(4))
    with pytest.raises(ValueError, match="N, C"):
        F.batch_norm(ones, ones, ones)
    with pytest.raises(TypeError, match="weight has dtype float32"):
        F.batch_norm(x, ones, ones, np.ones(3, np.float32))
    with pytest.raises(TypeError, match="int64"):
        F.batch_norm(np.ones((2, 3), np.int64), ones, ones)


@pytest.mark.smoke
def test_against_numpy(rng):
    x = rng.standard_normal((2, 4, 3, 7))
    for axes, got in (
        ((0, 2, 3), F.batch_norm(x, None, None, training=True)),
        ((2, 3), F.instance_norm(x)),
        ((1, 2, 3), F.group_norm(x, 1)),
    ):
        want = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("shape, groups", [((3, 6), 3), ((2, 4, 3), 2), ((2, 6, 5, 7), 3), ((1, 4, 2, 3, 3), 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_group_norm_gradients(shape, groups, affine, rng):
    arrays = [rng.standard_normal(shape), rng.standard_normal(shape[1]), rng.standard_normal(shape[1])]
    check_op(lambda x, *wb: F.group_norm(x, groups, *wb), *(arrays if affine else arrays[:1]))


def test_instance_norm_gradients(rng):
    x, w, b = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal(3), rng.standard_normal(3)
    check_op(lambda x, w, b: F.instance_norm(x, weight=w, bias=b), x, w, b)
    mean, var = rng.standard_normal(3), rng.random(3) + 0.5

    def with_running(x, w, b):
        return F.instance_norm(x, mean.astype(x.dtype), var.astype(x.dtype), w, b, use_input_stats=False)

    check_op(with_running, x, w, b)


@pytest.mark.torch
@pytest.mark.parametrize(
    "name, shape", [("batch", (4, 3, 700)), ("group", (2, 3, 300, 131)), ("instance", (2, 3, 900))]
)
def test_large_groups(name, shape, rng):
    """Rows of many vectors; few groups of many values are split between threads, and no bit depends on it."""
    import torch

    x, g = ((rng.standard_normal(shape) + 3).astype(np.float32) for _ in range(2))
    function = {
        "batch": lambda f, x: f.batch_norm(x, None, None, training=True),
        "group": lambda f, x: f.group_norm(x, 1),
        "instance": lambda f, x: f.instance_norm(x),
    }[name]
    wide = torch.tensor(x.astype(np.float64), requires_grad=True)
    want = function(torch.nn.functional, wide)
    want.backward(torch.tensor(g.astype(np.float64)))

    def both():
        t = Tensor(x, True)
        out = function(F, t)
        out.backward(g)
        return out.detach().numpy(), t.grad.numpy()

    got, threads = both(), driver.get_num_threads()
    for ours, theirs in zip(got, (want.detach(), wide.grad), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    driver.set_num_threads(1)
    try:
        for parallel, serial in zip(got, both(), strict=True):
            np.testing.assert_array_equal(parallel, serial)
    finally:
        driver.set_num_threads(threads)


def test_group_and_instance_norm_refuse(rng):
    x, ones = np.ones((2, 6, 4)), np.ones(6)
    with pytest.raises(ValueError, match=r"divide the 6 channels of input \(2, 6, 4\), got 4"):
        F.group_norm(x, 4)
    with pytest.raises(ValueError, match=r"bias must have shape \(6,\).*got \(3,\)"):
        F.group_norm(x, 2, ones, ones[:3])
    with pytest.raises(ValueError, match=r"more than 1 value per group, got input \(1, 6\), 6 groups"):
        F.group_norm(np.ones((1, 6)), 6)
    with pytest.raises(ValueError, match=r"more than 1 value per channel and image, got input shape \(2, 6, 1\)"):
        F.instance_norm(x[:, :, :1])
    with pytest.raises(ValueError, match="running_mean and running_var are needed"):
        F.instance_norm(x, use_input_stats=False)
    with pytest.raises(TypeError, match="float32 or float64, got float16"):
        F.group_norm(x.astype(np.float16), 2)
    with pytest.raises(ValueError, match="N, C"):
        F.instance_norm(ones)
