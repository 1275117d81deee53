"""Transposed convolution: the oracle, torch, gradients of any order, refusals, and its own kernel."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import _config, driver, nn
from fastconv.autograd import Tensor, gradcheck, gradgradcheck
from fastconv.kernels import residue_winograd
from fastconv.kernels.residues import ConvBackwardData
from fastconv.ops import conv_transpose as ops

from . import oracle
from .against_torch import check_refusal, check_sample, samples
from .tolerance import assert_close

# input, weight, stride, padding, output_padding, groups, dilation
CASES = [
    ((2, 3, 5), (3, 2, 4), 3, 1, 2, 1, 1),
    ((1, 4, 7), (4, 1, 3), 2, 0, 1, 4, 3),
    ((2, 5, 1), (5, 3, 7), 1, 2, 0, 1, 2),
    ((1, 40, 33), (40, 1, 64), 16, 8, 0, 1, 1),
    ((2, 2, 3), (2, 9, 2), 5, 0, 3, 1, 1),
    ((2, 3, 4, 5), (3, 2, 3, 3), 2, 1, 1, 1, 1),
    ((1, 4, 5, 3), (4, 3, 2, 4), (1, 3), (0, 2), (0, 2), 2, 1),
    ((2, 6, 3, 4), (6, 1, 4, 3), (3, 2), (1, 1), (2, 1), 3, (1, 3)),
    ((1, 17, 9, 11), (17, 9, 2, 2), 2, 0, 0, 1, 1),
    ((2, 6, 4, 8), (6, 3, 2, 2), 2, 0, 0, 2, 1),  # the source is read as it lies
    ((0, 3, 4, 5), (3, 2, 3, 3), 2, 1, 1, 1, 1),
    ((2, 3, 2, 3, 4), (3, 2, 2, 3, 2), (2, 1, 3), (0, 1, 1), (1, 0, 2), 1, 1),
]
WINOGRAD = [  # channels and classes fill vectors; what lies beyond the image; more tiles than one tile takes
    ((2, 18, 5, 4), (18, 8, 4, 4), 2, 1, 1, 1, 1),
    ((2, 3, 7, 4), (3, 16, 4, 2), (1, 2), (2, 0), (0, 1), 1, 1),
    ((3, 5, 30), (5, 2, 16), 8, 3, 2, 1, 1),
    ((1, 300, 9), (300, 1, 64), 16, 5, 0, 1, 1),
    ((2, 20, 33, 31), (20, 4, 4, 4), 2, 0, 0, 1, 1),
]


def function(ndim):
    return {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[ndim]


def arrays(case, dtype="float64", seed=0):
    (x, w, *settings), r = case, np.random.default_rng(seed)
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    settings = dict(zip(names, settings, strict=True))
    bias = r.standard_normal(w[1] * settings["groups"])
    return r.standard_normal(x).astype(dtype), r.standard_normal(w).astype(dtype), bias.astype(dtype), settings


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, dtype, monkeypatch):
    x, w, b, settings = arrays(case, dtype)
    f = function(x.ndim - 2)
    expected = oracle.conv_transpose(x, w, b, **settings)
    scale = np.sqrt(oracle.conv_transpose(x**2, w**2, b**2, **settings))
    for forced in ((), (ConvBackwardData.name,)):
        monkeypatch.setattr(_config, "IMPL", forced)
        assert_close(f(x, w, b, **settings), expected, dtype, w.size // w.shape[1] + 1, scale)
        np.testing.assert_array_equal(f(x[:1], w, b, **settings), f(x, w, b, **settings)[:1])
        assert_close(
            f(x, w, None, **settings) + b.reshape(-1, *(1,) * (x.ndim - 2)), expected, dtype, w.size + 8, scale
        )
    for n in range(x.shape[0]):
        assert_close(f(x[n], w, b, **settings), expected[n], dtype, w.size, scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd(case, dtype, monkeypatch):
    x, w, b, settings = arrays(case, dtype)
    f, impl = function(x.ndim - 2), residue_winograd.ConvBackwardData
    spec = ops._mirrored_spec(
        *("", x.ndim - 2, x.shape, w.shape, None),
        *(settings[name] for name in ("stride", "padding", "output_padding", "groups", "dilation")),
        dtype,
    )
    assert impl.when(spec) is None
    monkeypatch.setattr(_config, "IMPL", (impl.name,))
    expected = oracle.conv_transpose(x, w, b, **settings)
    scale = np.sqrt(oracle.conv_transpose(x**2, w**2, b**2, **settings))
    result = f(x, w, b, **settings)
    assert_close(result, expected, dtype, w.size // w.shape[1] + 1, scale, impl.name)
    np.testing.assert_array_equal(f(x[:1], w, b, **settings), result[:1])


@pytest.mark.parametrize("case", [case for case in CASES if 0 < np.prod(case[0]) * np.prod(case[1]) < 3000], ids=str)
def test_gradients(case):
    x, w, b, settings = arrays(case)
    f = function(x.ndim - 2)
    assert gradcheck(lambda x, w, b: f(x, w, b, **settings), [x, w, b])
    assert gradgradcheck(lambda x, w, b: f(x, w, b, **settings), [x, w, b])


def test_is_the_adjoint():
    """<y, conv_transpose(x)> = <conv(y), x> with the same weights."""
    x, w, _, settings = arrays(CASES[5], seed=3)
    del settings["output_padding"]
    y = np.random.default_rng(1).standard_normal((2, 2, 7, 9))
    transposed = F.conv_transpose2d(x, w, None, **settings)
    np.testing.assert_allclose((y * transposed).sum(), (F.conv2d(y, w, None, **settings) * x).sum(), rtol=1e-10)


def test_same_bits_for_any_thread_count():
    r = np.random.default_rng(0)
    x, w = r.standard_normal((1, 66, 200), np.float32), r.standard_normal((66, 1, 256), np.float32)
    threads = driver.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            driver.set_num_threads(count)
            results.append((F.conv_transpose1d(x, w, None, 64), F.conv_transpose1d(x, w, np.ones(1, np.float32), 64)))
    finally:
        driver.set_num_threads(threads)
    np.testing.assert_array_equal(*[a for a, _ in results])
    np.testing.assert_array_equal(*[a for _, a in results])


def test_forms_of_input():
    x, w, b, settings = arrays(CASES[5], "float32")
    wanted = F.conv_transpose2d(x, w, b, **settings)
    wide = np.zeros((*x.shape, 2), np.float32)
    wide[..., 0] = x
    strided = wide[..., 0]
    strided.flags.writeable = False
    np.testing.assert_array_equal(F.conv_transpose2d(strided, w, b, **settings), wanted)
    np.testing.assert_array_equal(F.conv_transpose2d(x, np.asfortranarray(w), b, **settings), wanted)
    np.testing.assert_array_equal(F.conv_transpose2d(x, w, b, [2, 2], (1,), [1], np.int64(1), 1), wanted)
    x[0, 1, 2, 2] = np.nan
    result = F.conv_transpose2d(x, w, b, **settings)
    assert np.isnan(result[0, :, 4, 4]).all() and not np.isnan(result[1]).any()


def test_a_channel_of_a_thousand_taps_is_one_product(monkeypatch):
    x, w = np.ones((1, 1026, 3), np.float32), np.ones((1026, 1, 1024), np.float32)
    for impl in (ConvBackwardData, residue_winograd.ConvBackwardData):
        monkeypatch.setattr(_config, "IMPL", (impl.name,))
        y = F.conv_transpose1d(x, w, None, 256)
        assert y.shape == (1, 1, 1536)
        limit = 0 if impl is ConvBackwardData else 1e-5 * np.sqrt(np.mean(y**2))
        assert np.abs(y[0, 0, [0, 700, -1]] - np.float32([1026, 3 * 1026, 1026])).max() <= limit
    monkeypatch.setattr(_config, "IMPL", ())
    spec = ops._mirrored_spec("", 1, (1, 1026, 100), w.shape, None, 256, 0, 0, 1, 1, "float32")
    assert ops.select("conv.bwd_data", spec) is residue_winograd.ConvBackwardData


@pytest.mark.smoke
@pytest.mark.parametrize(
    "change, message",
    [
        ({"output_padding": 2}, "less than stride or dilation, given 2 in height with stride 2, dilation 1"),
        ({"output_padding": -1}, "at least 0"),
        ({"padding": 9}, "would have -9 in height"),
        ({"groups": 2}, "divide 3 input channels, given 2"),
        ({"stride": 0}, "at least 1"),
        ({"weight": np.ones((2, 2, 3, 3))}, "weight expects 2 input channels, input has 3"),
        ({"weight": np.ones((3, 0, 3, 3))}, "at least one"),
        ({"weight": np.ones((3, 2, 0, 3))}, "at least one tap"),
        ({"weight": np.ones((3, 2, 3))}, "4 dimensions, given 3"),
        ({"input": np.ones((3,))}, "4 dimensions, or 3"),
        ({"input": np.ones((1, 3, 0, 4))}, "at least one pixel"),
        ({"bias": np.ones(3)}, r"shape \(2,\)"),
        ({"padding": "same"}, "whole number"),
        ({"bias": np.ones(2, np.float32)}, "one dtype"),
        ({"input": [1.0]}, "an array or a Tensor"),
    ],
)
def test_refusals(change, message):
    given = {"input": np.ones((1, 3, 4, 5)), "weight": np.ones((3, 2, 3, 3)), "bias": None, "stride": 2, **change}
    with pytest.raises((ValueError, TypeError), match=message) as error:
        F.conv_transpose2d(**given)
    assert "conv_transpose2d" in str(error.value)


@pytest.mark.torch
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_torchs_samples(ndim):
    import torch

    op, inputs = samples(f"nn.functional.conv_transpose{ndim}d")
    for sample in inputs:
        check_sample(function(ndim), op.op, sample)
    for sample in samples(op.name, errors=True)[1]:
        check_refusal(function(ndim), sample)
    x, w = (np.random.default_rng(0).standard_normal(shape[: ndim + 2]) for shape in ((1, 2, 2, 3, 1), (2, 1, 3, 2, 3)))
    extra, dilation = (1, 2, 1)[:ndim], (2, 3, 1)[:ndim]  # more than the stride
    want = op.op(torch.tensor(x), torch.tensor(w), stride=2, output_padding=extra, dilation=dilation).numpy()
    given = function(ndim)(x, w, stride=2, output_padding=extra, dilation=dilation)
    np.testing.assert_allclose(given, want, rtol=1e-12, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_layers(ndim):
    import torch

    settings = {"stride": 3, "padding": 1, "output_padding": 2, "groups": 2, "dilation": 2}
    ours = getattr(nn, f"ConvTranspose{ndim}d")(4, 6, 3, **settings)
    theirs = getattr(torch.nn, f"ConvTranspose{ndim}d")(4, 6, 3, **settings)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 4, 3)[: ndim + 2]).astype(np.float32)
    for size in (None, [3 * i + 2 for i in x.shape[2:]]):
        want = theirs(torch.from_numpy(x), size).detach().numpy()
        np.testing.assert_allclose(ours(Tensor(x), size).detach().numpy(), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="output_size"):
        ours(Tensor(x), [50] * ndim)
    bound = 1 / np.sqrt(3 * 3**ndim)
    assert abs(ours.weight.data).max() <= bound
    with pytest.raises(ValueError, match="zeros"):
        type(ours)(4, 6, 3, padding_mode="reflect")
