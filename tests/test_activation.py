"""Activations: gradients by central differences, values against torch, extreme values, bad input."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv.autograd import Tensor, gradcheck

from .check_op import check_op

pytestmark = pytest.mark.smoke

ELEMENTWISE = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
}
OPTIONS = [
    ("leaky_relu", {"negative_slope": 0.3}),
    ("leaky_relu", {"negative_slope": 0.0}),
    ("elu", {"alpha": 0.7}),
    ("gelu", {"approximate": "tanh"}),
    ("relu", {"inplace": True}),
    *((name, {}) for name in ELEMENTWISE),
]
# Without infinities: torch's gelu gives NaN at +inf, where the limit is +inf.
EXTREME = np.array([np.nan, -1e4, 1e4, -100, 100, 0, -0.0, 3, -3, 6, 88.8, -88.8, 1e-30], np.float32)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 4, 5)) * 3


@pytest.mark.parametrize("name, options", OPTIONS)
def test_gradients(name, options, x):
    check_op(lambda x: ELEMENTWISE[name](x, **options), x)


@pytest.mark.torch
@pytest.mark.parametrize("name, options", OPTIONS)
def test_as_in_torch(name, options, x):
    import torch

    theirs = getattr(torch.nn.functional, name)
    for array in (x, x.astype(np.float32), EXTREME, np.array(0.5, np.float32), np.zeros((0, 3))):
        t = torch.tensor(array, requires_grad=True)
        want = theirs(t * 1, **options)  # inplace would change a leaf
        a = Tensor(array, requires_grad=True)
        got = ELEMENTWISE[name](a, **options)
        # gelu: torch's own float32 error is 1e-4 relative in the tail
        np.testing.assert_allclose(got.detach(), want.detach(), rtol=2e-4 if name == "gelu" else 3e-6, atol=1e-6)
        got.sum().backward()
        want.sum().backward()
        known = ~np.isnan(array)
        np.testing.assert_allclose(a.grad.numpy()[known], t.grad.numpy()[known], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_extreme_values_stay_in_range(name):
    big = np.array([np.inf, 3e38, 1e20], np.float32)
    x = Tensor(np.concatenate([big, -big[1:], [np.nan]]).astype(np.float32), requires_grad=True)
    out = ELEMENTWISE[name](x).detach().numpy()
    np.testing.assert_array_equal(np.isnan(out), np.isnan(x.detach().numpy()))
    ELEMENTWISE[name](x).sum().backward()
    assert np.isfinite(x.grad.numpy()[1:2]).all()


def test_prelu(x):
    w = np.random.default_rng(1).standard_normal(4)
    check_op(F.prelu, x, w)
    check_op(F.prelu, x, w[:1])
    check_op(F.prelu, x[0, 0], w[:1])
    np.testing.assert_allclose(F.prelu(x, w), np.where(x > 0, x, x * w[:, None]))
    with pytest.raises(ValueError, match="1 or 4"):
        F.prelu(x, np.ones(3))
    with pytest.raises(TypeError, match=r"float32.*float64"):
        F.prelu(x, np.ones(4, np.float32))


@pytest.mark.parametrize("fn", [F.softmax, F.log_softmax])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax(fn, dim, x):
    check_op(lambda x: fn(x, dim), x)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_as_in_torch(name, x):
    import torch

    inf = np.inf
    for array in (x, EXTREME, np.array([[inf, 1], [-inf, 0], [-inf, -inf]]), np.array(2.0), np.zeros((0, 2))):
        want = getattr(torch.nn.functional, name)(torch.tensor(array), -1)
        np.testing.assert_allclose(getattr(F, name)(array, -1), want, rtol=1e-6, atol=1e-7)


def test_softmax_options(x):
    assert F.softmax(x.astype(np.float32), 1, dtype=np.float64).dtype == np.float64
    assert F.softmax(np.array([1, 2]), 0, dtype=np.float32).dtype == np.float32
    with pytest.warns(UserWarning, match="taking 0"):
        np.testing.assert_allclose(F.softmax(x).sum(0), 1)
    with pytest.raises(ValueError, match="-3 to 2"):
        F.softmax(x, 3)


def test_bad_input():
    for name, fn in ELEMENTWISE.items():
        with pytest.raises(TypeError, match=f"{name}: input must be an array or a Tensor, got list"):
            fn([1.0, 2.0])
    for fn in (F.gelu, F.sigmoid, F.elu, F.silu, F.tanh):
        with pytest.raises(TypeError, match="int64"):
            fn(np.arange(3))
    with pytest.raises(ValueError, match="'none' or 'tanh'"):
        F.gelu(np.ones(2), "exact")
    assert F.relu(np.array([-1, 2])).tolist() == [0, 2]


def test_points_without_derivative_choose_torch_side():
    x = Tensor(np.array([0.0, 6.0]), requires_grad=True)
    F.relu6(x).sum().backward()
    assert x.grad.tolist() == [0, 0]
    assert gradcheck(lambda x: F.relu(x), [np.array([1e-3, -1e-3])])
