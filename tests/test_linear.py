"""Linear: gradients, values against NumPy, bad input."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F

from .check_op import check_op

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(lead, bias):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((*lead, 5)), rng.standard_normal((4, 5)), rng.standard_normal(4)
    args = (x, w, b) if bias else (x, w)
    np.testing.assert_allclose(F.linear(*args), x @ w.T + (b if bias else 0))
    check_op(F.linear, *args)


def test_one_output_without_axis():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 5)), rng.standard_normal(5)
    np.testing.assert_allclose(F.linear(x, w, np.array(1.0)), x @ w + 1)
    check_op(F.linear, x, w)


def test_bad_input():
    x, w = np.ones((2, 5)), np.ones((4, 5))
    with pytest.raises(ValueError, match=r"expects 5 input features, input has 6; input shape \(2, 6\)"):
        F.linear(np.ones((2, 6)), w)
    with pytest.raises(ValueError, match=r"bias must have shape \(4,\), got \(3,\)"):
        F.linear(x, w, np.ones(3))
    with pytest.raises(ValueError, match="weight must be"):
        F.linear(x, np.ones((1, 4, 5)))
    with pytest.raises(ValueError, match="input has none"):
        F.linear(np.array(1.0), w)
    with pytest.raises(TypeError, match="weight has dtype float32, the input has float64"):
        F.linear(x, w.astype(np.float32))
    with pytest.raises(TypeError, match="int64"):
        F.linear(np.ones((2, 5), np.int64), w)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_alone_and_in_any_batch(dtype):
    rng, before = np.random.default_rng(0), fc.batch_invariant()
    fc.batch_invariant(True)
    try:
        for features, outputs in ((64, 10), (37, 130), (512, 33)):
            x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((37, features), (outputs, features), (outputs,)))
            together = F.linear(x, w, b)
            np.testing.assert_allclose(together, x @ w.T + b, rtol=1e-4, atol=1e-4)
            for rows in (slice(0, 1), slice(3, 5), slice(5, 22)):
                np.testing.assert_array_equal(F.linear(x[rows], w, b), together[rows])
        assert F.linear(x[:0], w, b).shape == (0, outputs)
    finally:
        fc.batch_invariant(before)
