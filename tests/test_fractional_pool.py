"""Fractional maximum pooling: against the oracle, gradients, PyTorch with the same random numbers, refusals."""

import numpy as np
import pytest

import fastconv
import fastconv.functional as F
import fastconv.nn as nn
from fastconv.autograd import Tensor

from . import against_torch
from . import oracle_pool as oracle
from .check_op import check_op

FUNCTIONS = {2: F.fractional_max_pool2d, 3: F.fractional_max_pool3d}
CASES = [((17, 23), (2, 3), (7, 12)), ((9, 40), 3, (5, 1)), ((8, 12, 13), (2, 2, 3), (5, 7, 6))]


def _arguments(size, dtype, content="ties"):
    rng = np.random.default_rng(len(size))
    x = np.round(rng.standard_normal((2, 3, *size)) * 2).astype(dtype)
    if content == "nan":
        x[rng.random(x.shape) < 0.1] = np.nan
    if content == "lowest":
        x[:] = -np.inf
    return x, rng.random((2, 3, len(size))).astype(dtype)


@pytest.mark.parametrize("size, kernel, out", CASES, ids=str)
def test_oracle(size, kernel, out):
    x, u = _arguments(size, "float64")
    y, at = FUNCTIONS[len(size)](x, kernel, out, return_indices=True, _random_samples=u)
    for n in range(2):
        for c in range(3):
            v = u[n, c, ::-1] if len(size) == 2 else u[n, c]  # torch's order: columns before rows in two dimensions
            axes = oracle.fractional_windows(size, oracle.each(kernel, len(size)), out, v)
            want, positions = oracle.max_pool(x[n : n + 1, c : c + 1], axes)
            np.testing.assert_array_equal(y[n, c], want[0, 0])
            np.testing.assert_array_equal(at[n, c], positions[0, 0])
    np.testing.assert_array_equal(FUNCTIONS[len(size)](x, kernel, out, _random_samples=u), y)


@pytest.mark.parametrize("content", ["ties", "nan", "lowest"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size, kernel, out", CASES, ids=str)
def test_torch_agrees(size, kernel, out, dtype, content):
    torch = pytest.importorskip("torch")
    x, u = _arguments(size, dtype, content)
    reference = getattr(torch.nn.functional, FUNCTIONS[len(size)].__name__)
    want = reference(torch.tensor(x), kernel, out, return_indices=True, _random_samples=torch.tensor(u))
    got = FUNCTIONS[len(size)](x, kernel, out, return_indices=True, _random_samples=u)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
        assert ours.dtype == theirs.numpy().dtype
    alone = FUNCTIONS[len(size)](x[0], kernel, out, _random_samples=u[:1])
    np.testing.assert_array_equal(alone, got[0][0])


@pytest.mark.parametrize("ndim", [2, 3])
def test_torch_samples(ndim):
    """Values, gradients and refusals; only shapes where PyTorch draws its own windows."""
    op, found = against_torch.samples(f"nn.functional.fractional_max_pool{ndim}d")
    assert found
    for sample in found:
        if sample.kwargs.get("_random_samples") is not None and not sample.kwargs.get("return_indices"):
            against_torch.check_sample(FUNCTIONS[ndim], op.op, sample)
            continue
        try:
            want = op.op(sample.input, *sample.args, **sample.kwargs)
        except (RuntimeError, ValueError, TypeError):
            against_torch.check_refusal(FUNCTIONS[ndim], sample)
            continue
        keywords = {k: v.detach().numpy() if hasattr(v, "detach") else v for k, v in sample.kwargs.items()}
        got = FUNCTIONS[ndim](sample.input.detach().numpy(), *sample.args, **keywords)
        pairs = zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]
        for ours, theirs in pairs:
            assert ours.shape == tuple(theirs.shape) and str(theirs.dtype).endswith(str(ours.dtype))


def test_gradients():
    x = np.random.default_rng(0).permutation(42).astype(float).reshape(1, 1, 6, 7)
    u = np.array([[[0.3, 0.7]]])

    def function(t):
        samples = u.astype(np.asarray(fastconv.autograd.value(t)).dtype)
        return F.fractional_max_pool2d(t, 2, (4, 4), _random_samples=samples)

    check_op(function, x)


def test_random_windows_and_the_layer():
    x = np.random.default_rng(1).standard_normal((2, 3, 20, 20)).astype(np.float32)
    fastconv.manual_seed(5)
    first, second = F.fractional_max_pool2d(x, 2, 13), F.fractional_max_pool2d(x, 2, 13)
    fastconv.manual_seed(5)
    np.testing.assert_array_equal(F.fractional_max_pool2d(x, 2, output_ratio=(0.65, 0.65)), first)
    assert (first != second).any()
    layer = nn.FractionalMaxPool2d(2, output_ratio=0.65, return_indices=True)
    y, at = layer(Tensor(x, requires_grad=True))
    assert y.shape == (2, 3, 13, 13) and at.dtype == np.int64
    fixed = nn.FractionalMaxPool3d(2, 3, _random_samples=np.full((1, 2, 3), 0.5, np.float32))
    volume = np.random.default_rng(2).random((1, 2, 8, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(fixed(volume)), np.asarray(fixed(volume)))
    with pytest.raises(ValueError, match="either output_size or output_ratio"):
        nn.FractionalMaxPool2d(2)
    with pytest.raises(ValueError, match=r"output_ratio must be between 0 and 1, given 1\.5"):
        nn.FractionalMaxPool2d(2, output_ratio=1.5)
    with pytest.raises(ValueError, match="kernel_size must be at least 1, given 0"):
        nn.FractionalMaxPool3d(0, 2)


X, U = np.ones((1, 2, 6, 7), np.float32), np.zeros((1, 2, 2), np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "given neither", lambda: F.fractional_max_pool2d(X, 2)),
        (
            ValueError,
            "6 windows of 2 need at least 7 pixels in height, input has 6",
            lambda: F.fractional_max_pool2d(X, 2, 6),
        ),
        (
            ValueError,
            "5 windows of 2 need at least 7 pixels in depth",
            lambda: F.fractional_max_pool3d(np.ones((1, 6, 6, 6), np.float32), 2, 5),
        ),
        (ValueError, "kernel_size must be a whole number or 2 of them", lambda: F.fractional_max_pool2d(X, (2,), 3)),
        (
            ValueError,
            "output_size must be a whole number or 2 of them",
            lambda: F.fractional_max_pool2d(X, 2, (3, 3, 3)),
        ),
        (
            TypeError,
            "output_ratio must be a tuple of 2 numbers, given 0.5",
            lambda: F.fractional_max_pool2d(X, 2, None, 0.5),
        ),
        (
            ValueError,
            r"must have shape \(1, 2, 2\), given \(1, 3, 2\)",
            lambda: F.fractional_max_pool2d(X, 2, 3, _random_samples=np.zeros((1, 3, 2), "f4")),
        ),
        (
            TypeError,
            "input's dtype float32, given float64",
            lambda: F.fractional_max_pool2d(X, 2, 3, _random_samples=U.astype("f8")),
        ),
        (
            ValueError,
            "must be finite",
            lambda: F.fractional_max_pool2d(X, 2, 3, _random_samples=U + np.float32(np.inf)),
        ),
        (ValueError, "only the batch may be empty", lambda: F.fractional_max_pool2d(X[:, :0], 2, 3)),
        (ValueError, "must have 4 dimensions, or 3 without a batch", lambda: F.fractional_max_pool2d(X[0, 0], 2, 3)),
        (TypeError, "return_indices must be True or False", lambda: F.fractional_max_pool2d(X, 2, 3, return_indices=1)),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
