"""Losses on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F

from .compare import check

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def cases():
    x, t = normal(5, 3), rng.integers(0, 3, 5)
    yield "classes", x, t, None, 0.0
    t = t.astype(np.int32)
    t[2] = -100
    yield "ignored, weighted, smoothed", x, t, np.abs(normal(3)), 0.2
    yield "pixels", normal(2, 3, 2, 2), rng.integers(0, 3, (2, 2, 2)), None, 0.1
    yield "one", x[0], np.array(2), None, 0.0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("case", list(cases()), ids=lambda c: c[0])
def test_cross_entropy(case, reduction):
    _, x, t, weight, smoothing = case

    def loss(x, w):
        target = fc.Tensor(t).to(x.device).data
        return F.cross_entropy(x, target, w, reduction=reduction, label_smoothing=smoothing)

    if weight is None:
        check(lambda x: loss(x, None), x)
        check(lambda x: F.nll_loss(F.log_softmax(x, -1 if x.ndim == 1 else 1), fc.Tensor(t).to(x.device).data), x)
    else:
        check(lambda x: loss(x, fc.Tensor(weight).to(x.device).data), x)


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
