"""Local response normalisation: against its formula in float64, gradients, torch, bad input."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn

from .check_op import check_op


def oracle(x, size, alpha, beta, k):
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        window = x[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1].astype(np.float64)
        y[:, c] = x[:, c] / (k + alpha / size * (window**2).sum(1)) ** beta
    return y


@pytest.mark.smoke
@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_against_its_formula(size):
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 7)).astype(np.float32) * 3
    got = F.local_response_norm(x, size, 0.2, 0.7, 1.5)
    np.testing.assert_allclose(got, oracle(x, size, 0.2, 0.7, 1.5), rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(nn.LocalResponseNorm(size, 0.2, 0.7, 1.5)(x), got)


@pytest.mark.parametrize("shape, size", [((2, 5, 6), 3), ((1, 6, 3, 13), 4), ((2, 3, 2, 2, 2), 7)])
def test_gradients(shape, size):
    x = np.random.default_rng(1).standard_normal(shape)
    check_op(lambda x: F.local_response_norm(x, size, 0.5, 0.75, 1.0), x)


def test_bad_input():
    x = np.ones((2, 3, 4))
    with pytest.raises(ValueError, match=r"at least 3 axes, got shape \(3, 4\)"):
        F.local_response_norm(x[0], 2)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        F.local_response_norm(x, 0)
    with pytest.raises(TypeError, match="int64"):
        F.local_response_norm(x.astype(np.int64), 2)
    assert F.local_response_norm(x[:0], 2).shape == (0, 3, 4)
