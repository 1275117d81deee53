"""Pixel and channel shuffles: values, torch, gradients, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn
from fastconv.autograd import Tensor

from .against_torch import check_sample, samples
from .check_op import check_op

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    "shape, r", [((2, 8, 3, 4), 2), ((9, 2, 1), 3), ((2, 1, 4, 2, 2), 2), ((0, 4, 2, 3), 2)], ids=str
)
def test_pixel_shuffle(shape, r):
    x = np.random.default_rng(0).standard_normal(shape)
    y = F.pixel_shuffle(x, r)
    *lead, c, h, w = shape
    assert y.shape == (*lead, c // r**2, h * r, w * r)
    for i in range(r):
        for j in range(r):
            np.testing.assert_array_equal(y[..., i::r, j::r], x[..., i * r + j :: r * r, :, :])
    np.testing.assert_array_equal(F.pixel_unshuffle(y, r), x)
    whole = np.arange(x.size).reshape(shape)
    np.testing.assert_array_equal(F.pixel_unshuffle(F.pixel_shuffle(whole, r), r), whole)
    np.testing.assert_array_equal(F.pixel_shuffle(whole.astype(float), r), F.pixel_shuffle(whole, r))
    if x.size:
        check_op(lambda x: F.pixel_shuffle(x, r), x)
        check_op(lambda y: F.pixel_unshuffle(y, r), y)


def test_channel_shuffle_and_split():
    x = np.random.default_rng(0).standard_normal((2, 6, 3))
    np.testing.assert_array_equal(F.channel_shuffle(x, 2), x[:, [0, 3, 1, 4, 2, 5]])
    np.testing.assert_array_equal(F.channel_shuffle(F.channel_shuffle(x, 2), 3), x)
    check_op(lambda x: F.channel_shuffle(x, 3), x)
    assert F.channel_shuffle(x[:, :0], 2).shape == (2, 0, 3)
    halves = F.channel_split(x)
    np.testing.assert_array_equal(halves[1], x[:, 3:])
    assert [p.shape[1] for p in F.channel_split(x, [1, 5])] == [1, 5] and len(F.channel_split(x, 3)) == 3
    check_op(lambda x: F.channel_split(x, [4, 2])[1], x)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: F.pixel_shuffle(x[0, 0], 2), "given"),
        (lambda x: F.pixel_shuffle(x, 2), "5 channels can't be split by upscale_factor 2"),
        (lambda x: F.pixel_shuffle(x, 0), "at least 1, given 0"),
        (lambda x: F.pixel_shuffle(x, 2.0), "whole number, given 2.0"),
        (lambda x: F.pixel_unshuffle(x, 2), "height 3 and width 4"),
        (lambda x: F.pixel_unshuffle(x, -1), "at least 1"),
        (lambda x: F.channel_shuffle(x, 3), "5 channels can't be split into 3"),
        (lambda x: F.channel_shuffle(x, 0), "at least 1"),
        (lambda x: F.channel_shuffle(x[0, 0], 1), "more than 2"),
        (lambda x: F.channel_split(x, 2), "5 channels"),
        (lambda x: F.channel_split(x, [2, 2]), "add up to 5"),
        (lambda x: F.pixel_shuffle([1], 2), "array or a Tensor"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(np.ones((1, 5, 3, 4)))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["pixel_shuffle", "pixel_unshuffle", "channel_shuffle"])
def test_torchs_samples(name):
    op, inputs = samples(f"nn.functional.{name}")
    for sample in inputs:
        check_sample(getattr(F, name), op.op, sample)


@pytest.mark.torch
def test_layers():
    import torch

    x = np.random.default_rng(0).standard_normal((2, 8, 4, 6)).astype(np.float32)
    for name in ("PixelShuffle", "PixelUnshuffle", "ChannelShuffle"):
        ours, theirs = getattr(nn, name)(2), getattr(torch.nn, name)(2)
        assert repr(ours) == repr(theirs)
        np.testing.assert_array_equal(ours(Tensor(x)).numpy(), theirs(torch.tensor(x)).numpy())
