"""Activations, softmax, dropout and the optimizers' steps on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv.kernels.cuda import activation, dropout
from fastconv.simd_formulas import BACKWARD, FORWARD, FROM_OUTPUT, PlainValue
from tests.test_activation import ELEMENTWISE, EXTREME, OPTIONS
from tests.test_optim import OPTIMIZERS, arrays

from .compare import check, tensors

rng = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


# ---- activations


@pytest.mark.parametrize("name", FORWARD)
def test_formula(name):
    """What the formula gives in NumPy; NaN goes through."""
    x = np.linspace(-9, 9, 19, dtype=np.float32)
    x = np.append(np.abs(x) + 0.1 if name in ("log", "sqrt") else x, np.float32(np.nan))
    device = fc.Tensor(x).to("cuda").data
    given = activation.activated(name, device, 0.3, 1.5).numpy()
    np.testing.assert_allclose(given, FORWARD[name](PlainValue(x), 0.3, 1.5).array, rtol=1e-5, atol=1e-6)
    if name in BACKWARD:
        g = np.cos(np.arange(20, dtype=np.float32))
        v = np.abs(x) / 10 if name in FROM_OUTPUT else x
        slope = activation.activation_gradient(
            name, fc.Tensor(g).to("cuda").data, fc.Tensor(v).to("cuda").data, 0.3, 1.5
        )
        expected = BACKWARD[name](PlainValue(g), PlainValue(v), 0.3, 1.5).array
        np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name, options", OPTIONS)
def test_activation(name, options, dtype):
    """As on the CPU: of usual and of extreme values, of one number and of none."""
    few = normal(3, 4, scale=3), EXTREME, np.array(0.5), np.zeros((0, 3))
    for x in few:
        x = x.astype(dtype)
        if "inplace" in options:
            check(lambda x: ELEMENTWISE[name](x * 1, **options), x)
        else:
            # the CPU's float32 exponential and the device's differ in the last bits, which a tail multiplies
            check(lambda x: ELEMENTWISE[name](x, **options), x, tol=2e-4 if name == "gelu" else 2e-5)


def test_prelu_and_whole_numbers():
    check(F.prelu, normal(2, 3, 2), normal(3))
    x = np.arange(-3, 9)
    for fn in (F.relu, F.relu6):
        check(fn, x, grads=False)


def test_second_derivative_of_an_activation():
    def twice(x):
        (g,) = fc.grad((F.gelu(x) * F.sigmoid(x)).sum(), x, create_graph=True)
        return (g * g).sum()

    check(twice, normal(7))


@pytest.mark.parametrize("fn", [F.softmax, F.log_softmax])
@pytest.mark.parametrize("shape, axis", [((3, 5), 1), ((2, 9), 1), ((2, 3, 4), 1), ((4, 3), 0)])
def test_softmax(fn, shape, axis):
    check(lambda x: fn(x, axis), normal(*shape, scale=3))


def test_softmax_of_large_and_infinite_values():
    x = np.array([[1e4, 1e4 + 1, -1e4], [-np.inf, 0, 1], [np.nan, 0, 1]], np.float32)
    check(lambda t: F.softmax(t, 1), x, grads=False)


# ---- dropout


def test_philox_known_answers():
    """The vectors that come with the paper's code: counter and key all zeros, all ones."""
    zero, ones = np.uint32(0), np.uint32(0xFFFFFFFF)
    for word, wanted in ((zero, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"), (ones, "408f276d 41c83b0e a20bc7c6 6d5451fd")):
        assert " ".join(f"{v:08x}" for v in dropout.philox(*[word] * 6)) == wanted


def test_dropout():
    x = fc.Tensor(np.ones((2, 501), np.float32)).to("cuda").requires_grad_()
    fc.manual_seed(3)
    y = F.dropout(x, 0.3)
    y.sum().backward()
    values = y.detach().cpu().numpy()
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((values > 0).mean() - 0.7) < 0.05
    np.testing.assert_array_equal(x.grad.cpu().numpy(), values)
    fc.manual_seed(3)
    np.testing.assert_array_equal(F.dropout(x, 0.3).detach().cpu().numpy(), values)
    assert not F.dropout(x.detach()[:, :9], 1.0).cpu().numpy().any()
    rows = F.stochastic_depth(x.detach()[:, :9], 0.5, "row").cpu().numpy()
    assert (rows == rows[:, :1]).all()
    assert F.dropout(x, 0.3, training=False) is x


# ---- steps of optimizers


@pytest.mark.parametrize("name, options", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps(name, options, dtype):
    start, found = [a.astype(dtype) for a in arrays()], []
    for device in ("cpu", "cuda"):
        parameters = tensors(start, device, True)
        optimizer = getattr(fc.optim, name)(parameters, **options)
        for step in range(3):
            for p, g in zip(parameters, arrays(step + 1), strict=True):
                p.grad = fc.Tensor(g.astype(dtype)).to(device)
            optimizer.step()
        assert all(p.device == device for p in parameters)
        found.append([p.detach().cpu().numpy() for p in parameters])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)
