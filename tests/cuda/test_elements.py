"""Activations, softmax, dropout and the optimizers' steps on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv.kernels.cuda import activation, dropout
from fastconv.simd_formulas import BACKWARD, FORWARD, FROM_OUTPUT, PlainValue

from .compare import check, tensors

rng = np.random.default_rng(0)


def normal(*shape, scale=1.0):
    return (rng.standard_normal(shape) * scale).astype(np.float32)


# ---- activations


@pytest.mark.parametrize("name", FORWARD)
def test_formula(name):
    """What the formula gives in NumPy; NaN goes through."""
    x = np.linspace(-9, 9, 19, dtype=np.float32)
    x = np.append(np.abs(x) + 0.1 if name == "log" else x, np.float32(np.nan))
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


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": lambda x: F.relu6(x * 5),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "elu": lambda x: F.elu(x, 0.7),
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, "tanh"),
    "hardswish": lambda x: F.hardswish(x * 3),
    "hardsigmoid": lambda x: F.hardsigmoid(x * 3),
    "mish": F.mish,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    check(ACTIVATIONS[name], normal(2, 5))


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

STEPS = {
    "sgd": (fc.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (fc.optim.SGD, {"momentum": 0.9, "dampening": 0.2, "maximize": True, "weight_decay": 0.1}),
    "nesterov": (fc.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (fc.optim.Adam, {"weight_decay": 0.1, "maximize": True}),
    "amsgrad": (fc.optim.Adam, {"amsgrad": True}),
    "adamw": (fc.optim.AdamW, {}),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps(name):
    make, options = STEPS[name]
    start, gradients = normal(2, 3), [normal(2, 3) for _ in range(3)]
    found = []
    for device in ("cpu", "cuda"):
        (p,) = tensors([start], device, True)
        optimizer = make([p], lr=0.1, **options)
        for g in gradients:
            p.grad = fc.Tensor(g).to(device)
            optimizer.step()
        assert p.device == device
        found.append(p.detach().cpu().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
