"""Pooling functions and layers on PyTorch's own samples: values, gradients and refusals."""

import warnings

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn
from fastconv import _config
from fastconv.autograd import Tensor

from . import against_torch

NAMES = [f"{kind}_pool{ndim}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for ndim in (1, 2, 3)]
LAYERS = [
    f"{kind}{ndim}d"
    for kind in ("MaxPool", "AvgPool", "AdaptiveMaxPool", "AdaptiveAvgPool", "LPPool", "FractionalMaxPool")
    for ndim in (1, 2, 3)
    if (kind, ndim) != ("FractionalMaxPool", 1)
]
GENERAL = (  # one kernel each for every window: what differs from window to window is tested against the oracle
    "max_pool_fwd_separable",
    "max_pool_fwd_indices",
    "max_pool_bwd_scatter",
    "avg_pool_fwd_separable",
    "avg_pool_bwd_separable",
)


@pytest.fixture(autouse=True)
def general_kernels(monkeypatch):
    monkeypatch.setattr(_config, "IMPL", GENERAL)


def _with_indices(function):
    """The maxima alone, where a sample asks for their positions too."""

    def first(*args, **kwargs):
        out = function(*args, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    return first


@pytest.mark.parametrize("name", NAMES)
def test_function_samples(name):
    op, found = against_torch.samples(f"nn.functional.{name}")
    assert found
    for sample in found[:: 1 + len(found) // 97]:  # PyTorch has 2000 of max_pool1d
        against_torch.check_sample(_with_indices(getattr(F, name)), _with_indices(op.op), sample)


@pytest.mark.parametrize("name", NAMES)
def test_function_refusals(name):
    _, found = against_torch.samples(f"nn.functional.{name}", errors=True)
    for sample in found:
        against_torch.check_refusal(getattr(F, name), sample)


def _module_samples(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db

        (info,) = [m for m in module_db if m.name == f"nn.{name}"]
        return info, info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)


@pytest.mark.parametrize("name", LAYERS)
def test_layer_samples(name):
    import torch

    info, found = _module_samples(name)
    assert found
    for sample in found:
        made, called = sample.constructor_input, sample.forward_input
        theirs = info.module_cls(*made.args, **made.kwargs)
        ours = getattr(nn, name)(*against_torch.convert(made.args), **against_torch.convert(made.kwargs))
        if not name.startswith("Fractional"):  # whose windows are drawn at random
            assert repr(ours) == repr(theirs)
        (x,) = called.args
        given = Tensor(x.detach().numpy().copy(), requires_grad=True)
        want, got = theirs(x), ours(given)
        if isinstance(want, tuple):
            np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())
            want, got = want[0], got[0]
        assert got.shape == tuple(want.shape)
        if name.startswith("Fractional") and theirs._random_samples is None:
            continue
        np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), 1e-10, 1e-10)
        g = np.random.default_rng(5).standard_normal(want.shape)
        (expected,) = torch.autograd.grad(want, x, torch.from_numpy(g))
        got.backward(g)
        np.testing.assert_allclose(given.grad.numpy(), expected.numpy(), 1e-9, 1e-9)
