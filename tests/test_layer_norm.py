"""Layer normalisation: gradients, precision, torch, bad input."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn
from fastconv.autograd import Tensor

from .check_op import check_op


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape, axes", [((3, 5), 1), ((2, 3, 4, 5), 2), ((2, 1, 21), 1), ((1, 3, 3), 3)])
@pytest.mark.parametrize("affine", [True, False])
def test_gradients(shape, axes, affine, rng):
    wanted = shape[-axes:]
    arrays = [rng.standard_normal(shape), rng.standard_normal(wanted), rng.standard_normal(wanted)]
    check_op(lambda x, *wb: F.layer_norm(x, wanted, *wb), *(arrays if affine else arrays[:1]))


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(700, 96), (3, 5000), (40, 3)])
def test_as_in_torch(shape, rng):
    import torch

    x, g = ((rng.standard_normal(shape) * 2 + 5).astype(np.float32) for _ in range(2))
    w, b = (rng.random(shape[1:]).astype(np.float32) + 0.5 for _ in range(2))
    ours = [Tensor(a, True) for a in (x, w, b)]
    theirs = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, w, b)]
    got = F.layer_norm(ours[0], shape[1:], *ours[1:])
    want = torch.nn.functional.layer_norm(theirs[0], shape[1:], *theirs[1:])
    np.testing.assert_allclose(got.detach(), want.detach(), rtol=1e-5, atol=2e-6)
    got.backward(g)
    want.backward(torch.tensor(g.astype(np.float64)))
    for a, t in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad, t.grad, rtol=2e-5, atol=1e-4)


def test_far_from_zero(rng):
    """The statistics and the subtraction are more precise than the data."""
    x = (rng.standard_normal((20, 1000)) + 1e4).astype(np.float32)
    want = x.astype(np.float64)
    want = (want - want.mean(1, keepdims=True)) / np.sqrt(want.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(x, (1000,)), want, atol=2e-6)


@pytest.mark.smoke
def test_layer(rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    layer = nn.LayerNorm((3, 4))
    assert {k: v.shape for k, v in layer.state_dict().items()} == {"weight": (3, 4), "bias": (3, 4)}
    np.testing.assert_allclose(layer(x).detach(), F.layer_norm(x, (3, 4)))
    assert nn.LayerNorm(4, elementwise_affine=False).state_dict() == {}


def test_bad_input(rng):
    x = rng.standard_normal((2, 3, 4))
    with pytest.raises(ValueError, match=r"last axes of input \(2, 3, 4\), got \(3,\)"):
        F.layer_norm(x, (3,))
    with pytest.raises(ValueError, match=r"got \(\)"):
        F.layer_norm(x, ())
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\), got \(3,\)"):
        F.layer_norm(x, (4,), np.ones(3))
    with pytest.raises(TypeError, match="float32"):
        F.layer_norm(x, (4,), np.ones(4, np.float32))
    assert F.layer_norm(x[:0], (4,)).shape == (0, 3, 4)
