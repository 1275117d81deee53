"""Layers against the samples of PyTorch's own tests of its layers, float64, in training and evaluation.

Outputs, gradients of inputs and parameters, buffers afterwards, refusals; and every layer's state loads into the other.
"""

import inspect
import warnings

import numpy as np
import pytest

from fastconv import nn
from fastconv.autograd import Tensor

from .against_torch import convert, tensors

pytestmark = pytest.mark.torch

MOST = 6  # samples of one layer in one mode
BY_RANK = (
    *("AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "BatchNorm", "Conv", "ConvTranspose", "InstanceNorm"),
    *("LPPool", "MaxPool", "CircularPad", "ConstantPad", "ReflectionPad", "ReplicationPad", "ZeroPad"),
)
LAYERS = (
    *(f"{name}{ndim}d" for name in BY_RANK for ndim in (1, 2, 3)),
    *("FractionalMaxPool2d", "FractionalMaxPool3d", "GroupNorm", "LayerNorm", "Linear", "LocalResponseNorm"),
    *("ELU", "GELU", "Hardswish", "LeakyReLU", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SiLU", "Sigmoid"),
    *("Softmax", "Tanh"),
    *("BCEWithLogitsLoss", "CrossEntropyLoss", "L1Loss", "MSELoss", "NLLLoss", "SmoothL1Loss"),
)
REFUSING = (
    *(f"{name}{ndim}d" for name in ("BatchNorm", "CircularPad") for ndim in (1, 2, 3)),
    *("CrossEntropyLoss", "GroupNorm", "MaxPool2d", "NLLLoss"),
)


def _infos():
    torch = pytest.importorskip("torch")
    pytest.importorskip("expecttest")
    from torch.testing._internal.common_modules import module_db

    return torch, {info.module_cls.__name__: info for info in module_db}


def _build(cls, arguments, dtype, key):
    given = convert((arguments.args, arguments.kwargs), False)
    options = {key: dtype} if key in inspect.signature(cls.__init__).parameters else {}
    return cls(*given[0], **{**given[1], **options})


def _spread(inputs):
    """At most MOST, from the first to the last."""
    places = np.linspace(0, len(inputs) - 1, min(MOST, len(inputs))).astype(int)
    return [inputs[i] for i in places]


def _theirs(info, sample, torch, training):
    constructor = sample.constructor_input
    module = info.module_cls(*constructor.args, **constructor.kwargs).to(torch.float64).train(training)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.linspace(0.1, 1, parameter.numel()).reshape(parameter.shape))
    return module


def _compare(name, ours, theirs, sample, torch, text):
    ours.load_state_dict({key: value.numpy().copy() for key, value in theirs.state_dict().items()})
    arguments = sample.forward_input.args, sample.forward_input.kwargs
    our_args, our_kwargs = convert(arguments)
    leaves = [t for t in tensors(arguments) if t.requires_grad]
    args = [
        a.clone() if isinstance(a, torch.Tensor) and a.requires_grad else a for a in arguments[0]
    ]  # some act in place
    want, got = theirs(*args, **arguments[1]), ours(*our_args, **our_kwargs)
    if isinstance(want, tuple):  # pooling with indices
        np.testing.assert_array_equal(got[1].numpy() if isinstance(got[1], Tensor) else got[1], want[1], text)
        want, got = want[0], got[0]
    assert got.shape == tuple(want.shape), text
    got_array = got.detach().numpy() if isinstance(got, Tensor) else got
    np.testing.assert_allclose(got_array, want.detach(), 1e-7, 1e-7, err_msg=text)
    if want.requires_grad and want.numel():
        g = np.random.default_rng(5).standard_normal(want.shape)
        parameters = dict(theirs.named_parameters())
        gradients = torch.autograd.grad(want, [*leaves, *parameters.values()], torch.from_numpy(g), allow_unused=True)
        got.backward(g)
        mine = dict(ours.named_parameters())
        both = [t for t in tensors((our_args, our_kwargs)) if t.requires_grad], [mine[key] for key in parameters]
        for t, expected in zip([*both[0], *both[1]], gradients, strict=True):
            if expected is not None:
                np.testing.assert_allclose(t.grad, expected, 1e-7, 1e-7, err_msg=f"gradient: {text}")
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value, 1e-7, 1e-7, err_msg=f"{key}: {text}")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    torch, infos = _infos()
    info = infos[name]
    for training in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"device": "cpu", "dtype": torch.float64, "requires_grad": True, "training": training}
            for sample in _spread(list(info.module_inputs_func(info, **options))):
                text = f"{name} {sample.constructor_input.args} {sample.constructor_input.kwargs} training={training}"
                theirs = _theirs(info, sample, torch, training)
                ours = _build(getattr(nn, name), sample.constructor_input, np.float64, "dtype").train(training)
                _compare(name, ours, theirs, sample, torch, text)


def test_no_layer_is_forgotten():
    _, infos = _infos()
    assert sorted(set(infos) & set(nn.__all__)) == sorted(LAYERS)
    assert sorted(name for name in LAYERS if infos[name].module_error_inputs_func) == sorted(REFUSING)


@pytest.mark.parametrize("name", REFUSING)
def test_refusals(name):
    torch, infos = _infos()
    info = infos[name]
    options = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
    for error in info.module_error_inputs_func(info, **options):
        sample = error.module_error_input
        with warnings.catch_warnings(), pytest.raises((ValueError, TypeError)):
            warnings.simplefilter("ignore")
            layer = _build(getattr(nn, name), sample.constructor_input, np.float64, "dtype")
            args, kwargs = convert((sample.forward_input.args, sample.forward_input.kwargs), False)
            layer(*args, **kwargs)
