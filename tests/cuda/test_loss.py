"""Losses on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from tests import test_loss as cpu

from .compare import check

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", cpu.REDUCTIONS)
@pytest.mark.parametrize("shape", cpu.SHAPES, ids=str)
def test_cross_entropy(shape, reduction, weighted, smoothing):
    x, target, w = cpu.classes(shape)

    def arguments(x):
        there = fc.Tensor(target).to(x.device).data
        return x, there, fc.Tensor(w.astype(x.dtype)).to(x.device).data if weighted else None

    for dtype in ("float32", "float64")[: 1 + (shape == (3, 4))]:
        own = x.astype(dtype)
        check(lambda x: F.cross_entropy(*arguments(x), reduction=reduction, label_smoothing=smoothing), own)
        if not smoothing:
            check(lambda x: F.nll_loss(*arguments(x), reduction=reduction), own)


def test_a_mean_of_nothing_is_nan():
    x, t = normal(2, 3), np.full(2, -100)
    check(lambda x: F.cross_entropy(x, fc.Tensor(t).to(x.device).data), x)


def test_targets_are_checked():
    x = fc.Tensor(normal(2, 3)).to("cuda")
    with pytest.raises(ValueError, match="target 3 is out of range"):
        F.cross_entropy(x, fc.Tensor(np.array([0, 3])).to("cuda"))
    with pytest.raises(TypeError, match="on different devices"):
        F.cross_entropy(x, np.array([0, 1]))


def test_other_losses():
    x, t = normal(3, 4), normal(3, 4)
    check(F.mse_loss, x, t)
    check(F.l1_loss, x, t)
    check(lambda x, t: F.smooth_l1_loss(x, t, beta=0.7), x, t)
    check(lambda x, t: F.smooth_l1_loss(x, t, beta=0.7, reduction="none"), x, t)
    check(lambda x, t: F.binary_cross_entropy_with_logits(x, F.sigmoid(t)), x, t)
    check(lambda x, t: F.cross_entropy(x, F.softmax(t, 1), label_smoothing=0.1), x, t)
