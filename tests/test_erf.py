"""The error function against the C library's."""

import math

import numpy as np
import pytest

from fastconv.ops.erf import erf

from .check_op import check_op

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-15), (np.float32, 4e-7)])
def test_against_the_c_library(dtype, tolerance):
    x = np.concatenate([np.linspace(-7, 7, 5001), np.logspace(-20, 0, 200), [0.46875, 4.0, -4.0]]).astype(dtype)
    want = np.array([math.erf(v) for v in x])
    got = erf(x)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=tolerance)


def test_limits():
    got = erf(np.array([np.nan, np.inf, -np.inf, -0.0]))
    assert np.isnan(got[0]) and got[1:3].tolist() == [1, -1] and np.signbit(got[3])
    assert erf(np.array(0.5)).shape == () and erf(np.zeros((0, 2))).shape == (0, 2)


def test_gradients():
    check_op(erf, np.linspace(-2, 2, 7))
