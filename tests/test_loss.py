"""Losses: gradients, values against torch, ignored classes, bad input."""

import warnings

import numpy as np
import pytest

import fastconv.functional as F
from fastconv.autograd import Tensor

from .check_op import check_op

pytestmark = pytest.mark.smoke
REDUCTIONS = ["none", "mean", "sum"]
SHAPES = [(4,), (3, 4), (3, 4, 5), (2, 4, 2, 3)]
DIFFERENCES = ["mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]


def classes(shape, seed=0):
    """Logits, targets with one ignored where there is room, class weights."""
    rng = np.random.default_rng(seed)
    axis = 0 if len(shape) == 1 else 1
    target = rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])
    if target.size > 2:
        target.flat[1] = -100
    return rng.standard_normal(shape) * 2, target, rng.random(shape[axis]) + 0.2


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradients(reduction, weighted, smoothing):
    for shape in SHAPES[:3]:
        x, target, w = classes(shape)

        def fn(x, target=target, w=w if weighted else None):
            w = None if w is None else w.astype(x.dtype)
            return F.cross_entropy(x, target, w, reduction=reduction, label_smoothing=smoothing)

        check_op(fn, x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_soft_targets_and_nll_gradients(reduction):
    x, target, w = classes((3, 4, 5))
    p = np.abs(x) / np.abs(x).sum(1, keepdims=True)
    check_op(lambda x, p: F.cross_entropy(x, p, reduction=reduction, label_smoothing=0.1), x, p)
    check_op(lambda x: F.nll_loss(x, target, reduction=reduction), x)
    check_op(lambda x: F.nll_loss(x, target, w.astype(x.dtype), reduction=reduction), x)


@pytest.mark.torch
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_classes_as_in_torch(shape, reduction):
    import torch

    x, target, w = classes(shape)
    p = np.abs(x) / np.abs(x).sum(min(len(shape) - 1, 1), keepdims=True)
    for weight in (None, w):
        tensors = [None if a is None else torch.tensor(a) for a in (x, target, weight, p)]
        for smoothing in (0.0, 0.2):
            options = {"reduction": reduction, "label_smoothing": smoothing}
            want = torch.nn.functional.cross_entropy(*tensors[:3], **options)
            np.testing.assert_allclose(F.cross_entropy(x, target, weight, **options), want)
            want = torch.nn.functional.cross_entropy(tensors[0], tensors[3], tensors[2], **options)
            np.testing.assert_allclose(F.cross_entropy(x, p, weight, **options), want)
        want = torch.nn.functional.nll_loss(*tensors[:3], reduction=reduction)
        np.testing.assert_allclose(F.nll_loss(x, target, weight, reduction=reduction), want)


def test_ignored_and_empty():
    x = Tensor(np.array([[1.0, 2.0], [3.0, 1.0]]), True)
    loss = F.cross_entropy(x, np.array([1, 7]), ignore_index=7)
    loss.backward()
    assert loss.item() == pytest.approx(np.log1p(np.exp(-1)))
    assert x.grad.tolist()[1] == [0, 0]
    for fn in (F.cross_entropy, F.nll_loss):
        assert np.isnan(fn(x, np.array([-100, -100])).item())
        assert fn(x, np.array([-100, -100]), reduction="sum").item() == 0
        assert fn(np.zeros((0, 2)), np.zeros(0, int), reduction="sum") == 0
        assert np.isnan(fn(np.zeros((0, 2)), np.zeros(0, int)))


def test_large_logits():
    x = np.array([[1e4, -1e4], [3e38, 0]], np.float32)
    assert F.cross_entropy(x, np.array([0, 0])) == 0
    assert F.binary_cross_entropy_with_logits(x[:1], np.array([[1.0, 0.0]], np.float32)) == 0
    assert np.isnan(F.cross_entropy(np.array([[np.nan, 1.0]]), np.array([1])))


def test_bad_classes():
    x = np.ones((2, 3))
    for fn in (F.cross_entropy, F.nll_loss):
        with pytest.raises(ValueError, match=r"target 3 is out of range for 3 classes"):
            fn(x, np.array([0, 3]))
        with pytest.raises(ValueError, match=r"target -1 is out of range"):
            fn(x, np.array([0, -1]))
        with pytest.raises(ValueError, match=r"target must have shape \(2,\).*got \(3,\)"):
            fn(x, np.zeros(3, int))
        with pytest.raises(TypeError, match="integers, got float64"):
            fn(x, np.zeros(2))
        with pytest.raises(ValueError, match=r"weight must have shape \(3,\)"):
            fn(x, np.zeros(2, int), np.ones(2))
        with pytest.raises(TypeError, match="weight has dtype float32"):
            fn(x, np.zeros(2, int), np.ones(3, np.float32))
        with pytest.raises(ValueError, match="'none', 'mean' or 'sum', got 'average'"):
            fn(x, np.zeros(2, int), reduction="average")
        with pytest.raises(TypeError, match="target must be an array"):
            fn(x, [0, 1])
        with pytest.raises(TypeError, match="int64"):
            fn(np.ones((2, 3), int), np.zeros(2, int))
        with pytest.raises(ValueError, match="single number"):
            fn(np.array(1.0), np.array(0))
    with pytest.raises(ValueError, match=r"label_smoothing.*1\.5"):
        F.cross_entropy(x, np.zeros(2, int), label_smoothing=1.5)


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_difference_gradients(name, reduction):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4)) * 2, rng.random((3, 4))
    check_op(lambda x, y: getattr(F, name)(x, y, reduction=reduction), x, y)


@pytest.mark.torch
@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_differences_as_in_torch(name, reduction):
    import torch

    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((3, 4)) * 5, rng.random((3, 4)), rng.random(4)
    extra = [{}]
    if name == "smooth_l1_loss":
        extra += [{"beta": 0.3}, {"beta": 0.0}]
    if name.startswith("binary"):
        extra += [{"weight": w}, {"pos_weight": w}, {"weight": w, "pos_weight": w * 2}]
    for options in extra:
        theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        want = getattr(torch.nn.functional, name)(torch.tensor(x), torch.tensor(y), reduction=reduction, **theirs)
        np.testing.assert_allclose(getattr(F, name)(x, y, reduction=reduction, **options), want)


def test_bad_differences():
    x = np.ones((2, 3))
    for name in DIFFERENCES:
        fn = getattr(F, name)
        with pytest.raises(TypeError, match="target must be floating point, got int64"):
            fn(x, np.ones((2, 3), int))
        with pytest.raises(ValueError, match="reduction"):
            fn(x, x, reduction="average")
    with pytest.warns(UserWarning, match=r"target \(3,\) has another shape than input \(2, 3\)"):
        F.mse_loss(x, x[0])
    with pytest.raises(ValueError, match=r"input's shape \(2, 3\), got \(3,\)"):
        F.binary_cross_entropy_with_logits(x, x[0])
    with pytest.raises(ValueError, match=r"beta.*-1"):
        F.smooth_l1_loss(x, x, beta=-1)
    with warnings.catch_warnings(), pytest.raises(ValueError):
        warnings.simplefilter("ignore")
        F.mse_loss(x, np.ones(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_over_nothing_has_gradient_zero(smoothing):
    """As in torch: the loss itself is NaN."""
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    with np.errstate(invalid="ignore"):
        loss = F.cross_entropy(x, np.array([1, 1]), ignore_index=1, label_smoothing=smoothing)
    loss.backward()
    assert np.isnan(float(loss))
    np.testing.assert_array_equal(x.grad, np.zeros((2, 3), np.float32))
