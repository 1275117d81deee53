"""Dropout: shares, scale, reproducibility, gradients."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv._random import manual_seed
from fastconv.autograd import Tensor, gradcheck

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("fn", [F.dropout, F.dropout2d])
def test_share_and_scale(fn):
    x = np.ones((40, 50, 3, 5), np.float32)
    manual_seed(1)
    out = fn(x, 0.3)
    assert out.dtype == np.float32 and set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((out == 0).mean() - 0.3) < 0.03
    channels = out.reshape(2000, 15)
    assert (channels == channels[:, :1]).all() == (fn is F.dropout2d)
    manual_seed(1)
    np.testing.assert_array_equal(fn(x, 0.3), out)


@pytest.mark.parametrize("fn", [F.dropout, F.dropout2d])
def test_edges(fn):
    x = np.ones((2, 3, 4), np.float32)
    assert fn(x, 0.5, training=False) is x
    assert fn(x, 0.0) is x
    assert not fn(x, 1.0).any()
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1.5"):
        fn(x, 1.5)
    with pytest.raises(TypeError, match="int64"):
        fn(np.ones((2, 3), np.int64))
    with pytest.raises(ValueError, match="at least 2"):
        F.dropout2d(x[0, 0])


def test_gradient():
    def seeded(x):
        manual_seed(2)
        return F.dropout(x, 0.4)

    assert gradcheck(seeded, [np.random.default_rng(0).standard_normal((4, 5))])
    assert isinstance(F.dropout(Tensor([1.0]), 0.5), Tensor)


def test_stochastic_depth():
    x = np.ones((4000, 2, 3), np.float32)
    manual_seed(2)
    out = F.stochastic_depth(x, 0.25, "row").reshape(4000, 6)
    assert (out == out[:, :1]).all() and set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((out == 0).mean() - 0.25) < 0.03
    assert {len(np.unique(F.stochastic_depth(x, 0.5, "batch"))) for _ in range(5)} == {1}
    assert F.stochastic_depth(x, 0.5, "row", training=False) is x
    assert not F.stochastic_depth(x, 1.0, "row").any()
    with pytest.raises(ValueError, match="'batch' or 'row', got 'column'"):
        F.stochastic_depth(x, 0.5, "column")
    with pytest.raises(ValueError, match=r"from 0 to 1, got -1"):
        F.stochastic_depth(x, -1, "row")
