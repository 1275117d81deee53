"""Mixed, gated and spatial pyramid pooling: against the oracle, gradients, layers, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
import fastconv.nn as nn

from . import oracle, oracle_pool
from .check_op import check_op

MIXED = {1: F.mixed_pool1d, 2: F.mixed_pool2d, 3: F.mixed_pool3d}
GATED = {1: F.gated_pool1d, 2: F.gated_pool2d, 3: F.gated_pool3d}
SIZES = [(13,), (9, 10), (5, 6, 7)]


def _input(size):
    return np.random.default_rng(len(size)).standard_normal((2, 3, *size))


def _spread(values, ndim):
    return np.reshape(values, (-1, *[1] * ndim))


@pytest.mark.parametrize("alpha", [0.3, np.array(0.3), np.array([0.3]), np.array([0.0, 0.4, 1.0])], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mixed(size, alpha):
    x = _input(size)
    axes = oracle_pool.windows(size, 3, 2, 1, count_include_pad=False)
    g = _spread(alpha, len(size))
    want = g * oracle_pool.max_pool(x, axes)[0] + (1 - g) * oracle_pool.avg_pool(x, axes)
    y = MIXED[len(size)](x, alpha, 3, 2, 1, count_include_pad=False)
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    alone = MIXED[len(size)](x[0], alpha, 3, 2, 1, count_include_pad=False)
    np.testing.assert_allclose(alone, want[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("each_channel", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gated(size, each_channel):
    x, ndim = _input(size), len(size)
    w = np.random.default_rng(1).standard_normal((3, *[3] * ndim) if each_channel else [3] * ndim)
    axes = oracle_pool.windows(size, 3, 2, 1)
    kernels = w if each_channel else np.broadcast_to(w, (3, *w.shape))
    gate = 1 / (1 + np.exp(-oracle.conv(x, kernels[:, None], None, 2, 1, 1, 3)))
    want = gate * oracle_pool.max_pool(x, axes)[0] + (1 - gate) * oracle_pool.avg_pool(x, axes)
    np.testing.assert_allclose(GATED[ndim](x, w, 2, 1), want, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(GATED[ndim](x[0], w, 2, 1), want[0], rtol=1e-10, atol=1e-10)


def test_gradients():
    x = np.random.default_rng(2).permutation(60).reshape(1, 2, 5, 6) / 10.0
    w = np.random.default_rng(3).standard_normal((2, 2, 2))
    check_op(lambda t, a: F.mixed_pool2d(t, a, 2), x, np.array([0.3, 0.8]))
    check_op(lambda t, g: F.gated_pool2d(t, g), x, w)
    check_op(lambda t, g: F.gated_pool2d(t, g, 1), x, w[0])
    check_op(lambda t: F.spatial_pyramid_pool2d(t, (2, 1)), x)


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_spatial_pyramid(mode):
    x, parts = _input((9, 10)), []
    for level in (4, 2, 1):
        axes = oracle_pool.adaptive_windows((9, 10), (level, level))
        parts.append(
            (oracle_pool.max_pool(x, axes)[0] if mode == "max" else oracle_pool.avg_pool(x, axes)).reshape(2, -1)
        )
    y = F.spatial_pyramid_pool2d(x, mode=mode)
    np.testing.assert_allclose(y, np.concatenate(parts, 1), rtol=1e-12, atol=1e-12)
    assert y.shape == (2, 3 * 21)
    np.testing.assert_array_equal(F.spatial_pyramid_pool2d(x[0], mode=mode), y[0])


def test_layers():
    x = _input((8, 10)).astype(np.float32)
    mixed, gated = nn.MixedPool2d(2, channels=3), nn.GatedPool2d(2)
    assert list(mixed.state_dict()) == ["alpha"] and list(gated.state_dict()) == ["weight"]
    want = (F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)) / 2
    for layer in (mixed, gated):  # both begin in the middle
        y = layer(x)
        np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-5, atol=1e-6)
        y.sum().backward()
        assert next(layer.parameters()).grad is not None
    assert nn.GatedPool1d(2, channels=3)(x[:, :, 0]).shape == (2, 3, 5)
    np.testing.assert_array_equal(np.asarray(nn.SpatialPyramidPool2d((2, 1))(x)), F.spatial_pyramid_pool2d(x, (2, 1)))
    assert repr(nn.SpatialPyramidPool2d()) == "SpatialPyramidPool2d(levels=(4, 2, 1), mode='max')"


X = np.ones((1, 3, 4, 4), np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "error, text, call",
    [
        (ValueError, "one for each of the 3 channels, given shape .2,", lambda: F.mixed_pool2d(X, np.ones(2, "f4"), 2)),
        (TypeError, "alpha has dtype float64", lambda: F.mixed_pool2d(X, np.ones(3), 2)),
        (TypeError, "alpha must be", lambda: F.mixed_pool2d(X, "a", 2)),
        (ValueError, "weight must have the window's 2 dimensions", lambda: F.gated_pool2d(X, np.ones(2, "f4"))),
        (ValueError, "with 3 channels before them", lambda: F.gated_pool2d(X, np.ones((2, 2, 2), "f4"))),
        (TypeError, "weight has dtype float64", lambda: F.gated_pool2d(X, np.ones((2, 2)))),
        (ValueError, "covers 5 in height", lambda: F.gated_pool2d(X, np.ones((5, 5), "f4"))),
        (ValueError, 'mode must be "max" or "avg"', lambda: F.spatial_pyramid_pool2d(X, mode="min")),
        (ValueError, "levels must be at least 1, given", lambda: F.spatial_pyramid_pool2d(X, (2, 0))),
        (ValueError, "at least one value", lambda: F.spatial_pyramid_pool2d(X, ())),
    ],
)
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()
