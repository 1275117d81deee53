"""Channels normalised pixel by pixel, against layer normalisation of the moved axes."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv.driver import launch
from fastconv.kernels.channel_norm import channel_norm_row


@pytest.mark.parametrize("shape", [(2, 7, 75), (1, 96, 16), (3, 8, 1), (1, 1, 130)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_layer_norm(shape, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(shape) + 1000).astype(dtype)
    w, b = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(2))
    y = np.empty_like(x)
    launch(channel_norm_row(x, w, b, y, 1e-3))
    want = np.moveaxis(
        F.layer_norm(np.moveaxis(x, 1, 2).astype("float64"), shape[1:2], w.astype("f8"), b.astype("f8"), 1e-3), 2, 1
    )
    np.testing.assert_allclose(y, want, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-5)
    launch(channel_norm_row(x, w, b, x, 1e-3))
    np.testing.assert_array_equal(x, y)
