"""Sliding blocks as columns and back: oracle, torch, gradients, refusals."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import driver, nn
from fastconv.autograd import Tensor

from . import oracle
from .against_torch import check_sample, samples
from .check_op import check_op

# shape, kernel, dilation, padding, stride
CASES = [
    ((2, 3, 5, 7), (2, 3), 1, 0, 1),
    ((3, 6, 5), 3, (2, 1), (2, 1), (1, 2)),
    ((1, 2, 9, 8), (1, 4), 1, (0, 3), 3),
    ((0, 2, 4, 4), 2, 1, 0, 1),
    ((1, 1, 3, 2), (3, 2), 1, 4, 5),
]


def columns(x, kernel, dilation, padding, stride):
    """unfold as convolutions with one tap each."""
    kh, kw = oracle.each(kernel, 2)
    batch = x[None] if x.ndim == 3 else x
    rows = []
    for c in range(batch.shape[1]):
        for tap in range(kh * kw):
            w = np.zeros((1, batch.shape[1], kh * kw))
            w[0, c, tap] = 1
            y = oracle.conv(batch, w.reshape(1, -1, kh, kw), None, stride, padding, dilation)
            rows.append(y.reshape(batch.shape[0], 1, y.shape[2] * y.shape[3]))
    out = np.concatenate(rows, 1)
    return out[0] if x.ndim == 3 else out


@pytest.mark.smoke
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case):
    shape, *settings = case
    x = np.random.default_rng(0).standard_normal(shape)
    cols = F.unfold(x, *settings)
    np.testing.assert_array_equal(cols, columns(x, *settings))
    g = np.random.default_rng(1).standard_normal(cols.shape)
    back = F.fold(g, shape[-2:], *settings)
    assert back.shape == shape
    np.testing.assert_allclose((back * x).sum(), (g * cols).sum(), rtol=1e-10, atol=1e-10)  # adjoint
    if x.size:
        check_op(lambda x: F.unfold(x, *settings), x)
        check_op(lambda g: F.fold(g, shape[-2:], *settings), g)


def test_same_bits_for_any_thread_count():
    x = np.random.default_rng(0).standard_normal((2, 16, 60, 61), np.float32)
    threads, results = driver.get_num_threads(), []
    try:
        for count in (1, 2):
            driver.set_num_threads(count)
            cols = F.unfold(x, 3, 1, 1)
            results.append((cols, F.fold(cols, (60, 61), 3, 1, 1)))
    finally:
        driver.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: F.unfold(np.ones((4, 5)), 2), r"given \(4, 5\)"),
        (lambda: F.unfold(np.ones((1, 0, 4, 5)), 2), "only the batch"),
        (lambda: F.unfold(np.ones((1, 3, 4, 5)), 5), "cover 5 in height, more than the padded image's 4"),
        (lambda: F.unfold(np.ones((1, 3, 4, 5)), (2, 2, 2)), "two, given"),
        (lambda: F.unfold(np.ones((1, 3, 4, 5), int), 2), "floating"),
        (lambda: F.unfold(np.ones((1, 3, 4, 5), np.float16), 2), "float32 or float64"),
        (lambda: F.unfold(np.ones((1, 3, 4, 5)), 2, stride=0), "stride must be at least 1"),
        (lambda: F.fold(np.ones((2, 11, 6)), (3, 4), 2), "11 rows can't be split into blocks of 2x2"),
        (lambda: F.fold(np.ones((2, 12, 7)), (3, 4), 2), "2x3 = 6 windows, the input has 7"),
        (lambda: F.fold(np.ones(12), (3, 4), 2), "shape"),
        (lambda: F.fold(np.ones((2, 12, 6)), (3, 4, 1), 2), "output_size"),
        (lambda: F.fold(np.ones((2, 12, 6)), (3, 4), 2, padding=-1), "padding must be at least 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.torch
def test_torchs_samples():
    op, inputs = samples("nn.functional.unfold")
    for sample in inputs:
        check_sample(F.unfold, op.op, sample)


@pytest.mark.torch
def test_fold_is_torchs():
    import torch

    r = np.random.default_rng(0)
    for (n, c, *size), kernel, dilation, padding, stride in [case for case in CASES if len(case[0]) == 4]:
        cols = r.standard_normal(F.unfold(np.zeros((n, c, *size)), kernel, dilation, padding, stride).shape)
        want = torch.nn.functional.fold(torch.tensor(cols), size, kernel, dilation, padding, stride).numpy()
        np.testing.assert_allclose(F.fold(cols, size, kernel, dilation, padding, stride), want, rtol=1e-12, atol=1e-12)


@pytest.mark.torch
def test_layers():
    import torch

    x = np.random.default_rng(0).standard_normal((2, 3, 6, 5)).astype(np.float32)
    for name, arguments in {"Unfold": (3, 1, 1, 2), "Fold": ((6, 5), 3, 1, 1, 2)}.items():
        ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
        given = x if name == "Unfold" else F.unfold(x, 3, 1, 1, 2)
        assert repr(ours) == repr(theirs)
        np.testing.assert_allclose(ours(Tensor(given)).numpy(), theirs(torch.tensor(given)).numpy(), rtol=1e-6)
