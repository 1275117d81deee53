"""Layers composed of convolutions: against the same computation in functions, and their parameter formulas."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn


def images(shape=(2, 12, 9, 13)):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check(layer, x, want_shape, parameters):
    """Shape, parameter count, a gradient for every parameter; batched and, where convolutions allow, not batched."""
    assert sum(p.data.size for p in layer.parameters()) == parameters
    y = layer(x)
    assert y.shape == want_shape and y.dtype == np.float32
    (y * y).sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape, name
    return y.data


def conv(layer, x, **changed):
    settings = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")} | changed
    return F.conv2d(x, layer.weight.data, None if layer.bias is None else layer.bias.data, **settings)


def test_depthwise_separable():
    x = images()
    layer = nn.DepthwiseSeparableConv2d(12, 7, (3, 2), stride=2, padding=1, multiplier=2)
    y = check(layer, x, (2, 7, 5, 7), 2 * 12 * 6 + 24 + 24 * 7 + 7)
    np.testing.assert_array_equal(y, conv(layer.pointwise, conv(layer.depthwise, x, groups=12)))
    np.testing.assert_allclose(layer(x[1]).data, y[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="multiplier"):
        nn.DepthwiseSeparableConv2d(12, 7, 3, multiplier=0)


@pytest.mark.parametrize("bias", [True, False])
def test_spatial_separable_is_a_convolution_of_rank_one(bias):
    x = images()
    layer = nn.SpatialSeparableConv2d(12, 7, (3, 5), stride=(2, 1), padding=(1, 2), bias=bias, mid_channels=4)
    y = check(layer, x, (2, 7, 5, 13), 12 * 4 * 5 + 4 * 7 * 3 + bias * (4 + 7))
    if not bias:
        weight = np.einsum("omh,mcw->ochw", layer.column.weight.data[..., 0], layer.row.weight.data[:, :, 0])
        np.testing.assert_allclose(y, F.conv2d(x, weight, None, (2, 1), (1, 2)), rtol=1e-3, atol=1e-5)


def test_flattened():
    x = images()
    layer = nn.FlattenedConv2d(12, 7, (3, 5), stride=(2, 1), padding=(1, 2), bias=False)
    y = check(layer, x, (2, 7, 5, 13), 12 * 7 + 7 * 3 + 7 * 5)
    channel, column, row = (p.data for p in layer.parameters())
    weight = np.einsum("oc,oh,ow->ochw", channel[:, :, 0, 0], column[:, 0, :, 0], row[:, 0, 0])
    np.testing.assert_allclose(y, F.conv2d(x, weight, None, (2, 1), (1, 2)), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(3, 5, 7\)"):
        nn.FlattenedConv2d(12, 7, (3, 5, 7))


def test_shuffled_group():
    x = images()
    layer = nn.ShuffledGroupConv2d(12, 9, 3, padding=1, groups=3)
    y = check(layer, x, (2, 9, 9, 13), 9 * 4 * 9 + 9)
    plain = conv(layer, x)
    np.testing.assert_array_equal(y, plain[:, [0, 3, 6, 1, 4, 7, 2, 5, 8]])


def test_aspp():
    x = images()
    layer = nn.ASPP(12, 8, (2, 4))
    check(layer, x, (2, 8, 9, 13), 8 * (12 + 9 * 2 * 12 + 12 + 4 * 8) + 5 * 2 * 8)
    layer.eval()
    y = layer(x).data
    same = np.broadcast_to(layer.mean(x).data, (2, 8, 9, 13))
    parts = [branch(x).data for branch in layer.branches] + [same]
    np.testing.assert_array_equal(y, layer.project(np.concatenate(parts, 1)).data)
    with pytest.raises(ValueError, match="rates"):
        nn.ASPP(12, 8, (0,))


def test_inception():
    x = images()
    layer = nn.InceptionBlock(12, 3, 4, 5, 2, 6, 7)
    y = check(layer, x, (2, 21, 9, 13), 12 * (3 + 4 + 2 + 7) + 9 * 4 * 5 + 25 * 2 * 6 + 3 + 4 + 5 + 2 + 6 + 7)
    np.testing.assert_array_equal(y[:, :3], F.relu(conv(layer.branch1[0], x)))
    pooled = F.max_pool2d(x, 3, 1, 1)
    np.testing.assert_array_equal(y[:, 14:], F.relu(conv(layer.branch4[1], pooled)))


def test_squeeze_excite():
    x = images((2, 32, 9, 13))
    layer = nn.SqueezeExcite(32, 8)
    y = check(layer, x, x.shape, 2 * 32 * 4 + 32 + 4)
    hidden = np.maximum(x.mean((2, 3)) @ layer.fc1.weight.data[..., 0, 0].T + layer.fc1.bias.data, 0)
    score = 1 / (1 + np.exp(-(hidden @ layer.fc2.weight.data[..., 0, 0].T + layer.fc2.bias.data)))
    np.testing.assert_allclose(y, x * score[:, :, None, None], rtol=1e-4, atol=1e-5)
    assert nn.SqueezeExcite(8).fc1.weight.shape == (1, 8, 1, 1)
    assert nn.SqueezeExcite(8, squeeze_channels=3).fc1.weight.shape == (3, 8, 1, 1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.DepthwiseSeparableConv2d(12, 4, 3, padding=1),
        nn.SpatialSeparableConv2d(12, 4, 3, padding=1),
        nn.FlattenedConv2d(12, 4, 3, padding=1),
        nn.ShuffledGroupConv2d(12, 4, 3, padding=1, groups=2),
        nn.InceptionBlock(12, 1, 1, 1, 1, 1, 1),
        nn.SqueezeExcite(12),
        nn.ASPP(12, 4, (1,)).eval(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_empty_batch_and_strided_images(layer):
    x = images()
    assert layer(x[:0]).shape[0] == 0
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(layer(last).data, layer(x).data, rtol=1e-5, atol=1e-6)
