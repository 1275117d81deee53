"""Shift operations against the equations of their papers, written with plain indexing."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn

from .check_op import check_op


def at(x, i, j):
    """x[..., i, j], 0 outside."""
    h, w = x.shape[-2:]
    i, j = np.broadcast_arrays(i, j)
    inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
    return np.where(inside, x[..., np.clip(i, 0, h - 1), np.clip(j, 0, w - 1)], 0.0)


def oracle(x, displacement):
    """Bilinear shift (1806.07370, equations 4 and 5)."""
    y = np.zeros(x.shape)
    rows, columns = np.arange(x.shape[2])[:, None], np.arange(x.shape[3])
    for c, (a, b) in enumerate(displacement.astype(np.float64)):
        i, j = int(np.floor(a)), int(np.floor(b))
        for e, f in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = abs(1 - e - (a - i)) * abs(1 - f - (b - j))
            if weight:
                y[:, c] += weight * at(x[:, c].astype(np.float64), rows + i + e, columns + j + f)
    return y


def images(dtype="float64", shape=(2, 6, 5, 19)):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def displacements(dtype="float64"):
    return np.array([[0.3, -1.6], [-2.25, 0.5], [1.0, 2.0], [4.75, -18.5], [-9.1, 0.2], [0.0, 30.0]], dtype)


WHOLE = np.array([[0, 0], [1, -1], [-2, 3], [4, 18], [5, 0], [-1000000, 7]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shift(dtype):
    x = images(dtype)
    np.testing.assert_array_equal(F.shift2d(x, WHOLE), oracle(x, WHOLE).astype(dtype))
    np.testing.assert_array_equal(F.shift2d(x[0], WHOLE.tolist()), F.shift2d(x, WHOLE)[0])


def test_shift_gradients():
    check_op(lambda x: F.shift2d(x, WHOLE[:3]), images(shape=(1, 3, 3, 5)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_active_shift(dtype):
    x, d = images(dtype), displacements(dtype)
    found = F.active_shift2d(x, d)
    np.testing.assert_allclose(found, oracle(x, d), rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-6)
    np.testing.assert_array_equal(F.active_shift2d(x[1], d), found[1])
    np.testing.assert_array_equal(F.active_shift2d(x, WHOLE.astype(dtype)), F.shift2d(x, WHOLE))


def test_active_shift_gradients():
    d = np.array([[0.3, -1.6], [-0.25, 0.5], [1.4, 0.7]])
    check_op(F.active_shift2d, images(shape=(2, 3, 3, 5)), d, second=False)


def test_normalized_gradients():
    """1806.07370, equation 9: each channel's gradient divided by its length."""
    x, grads = images(), []
    for normalize in (False, True):
        d = fc.Tensor(displacements(), requires_grad=True)
        F.active_shift2d(x, d, normalize).backward(images() ** 2)
        grads.append(d.grad.data)
    length = np.sqrt((grads[0] ** 2).sum(1, keepdims=True))
    np.testing.assert_allclose(grads[1] * length, grads[0])
    assert not length[5] and not grads[1][5].any()  # shifted out of the image


@pytest.mark.smoke
def test_sparse_shift():
    x, d = images(), displacements()
    xs, ds = fc.Tensor(x, requires_grad=True), fc.Tensor(d, requires_grad=True)
    y = F.sparse_shift2d(xs, ds)
    whole = np.rint(d).astype(int)
    np.testing.assert_array_equal(y.data, F.shift2d(x, whole))
    gy = images() ** 2
    y.backward(gy)
    np.testing.assert_array_equal(xs.grad.data, F.shift2d(gy, -whole))
    active = fc.Tensor(d, requires_grad=True)
    F.active_shift2d(x, active).backward(gy)
    np.testing.assert_array_equal(ds.grad.data, active.grad.data)


def test_groups():
    groups = F.shift_groups(22, 3)
    counts = {tuple(row): n for row, n in zip(*np.unique(groups, axis=0, return_counts=True), strict=True)}
    assert counts.pop((0, 0)) == 2 + 4  # its own, and 22 - 9 * 2 left over
    assert len(counts) == 8 and set(counts.values()) == {2} and np.abs(groups).max() == 1
    assert not F.shift_groups(5, 3).any() and F.shift_groups(0).shape == (0, 2)
    for arguments, message in (((4, 2), "odd"), ((-1, 3), "negative")):
        with pytest.raises(ValueError, match=message):
            F.shift_groups(*arguments)


def test_bits_do_not_depend_on_threads():
    x, before, results = images("float32", (3, 40, 33, 37)), fc.get_num_threads(), []
    d = np.random.default_rng(1).uniform(-3, 3, (40, 2)).astype(np.float32)
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            tensors = fc.Tensor(x, requires_grad=True), fc.Tensor(d, requires_grad=True)
            y = F.active_shift2d(*tensors)
            y.backward(x)
            results.append([y.data, *(t.grad.data for t in tensors)])
    finally:
        fc.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_awkward_arrays():
    x, d = images(), displacements()
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(F.active_shift2d(last, d), F.active_shift2d(x, d))
    for shape in ((0, 6, 5, 4), (2, 6, 0, 4)):
        tensors = fc.Tensor(np.zeros(shape), requires_grad=True), fc.Tensor(d, requires_grad=True)
        y = F.active_shift2d(*tensors)
        y.backward(np.zeros(shape))
        assert y.shape == shape and not tensors[1].grad.data.any()


def test_nan_touches_its_neighbours_only():
    x = np.zeros((1, 2, 6, 40), np.float32)
    x[0, :, 3, 20] = np.nan
    d = np.array([[1, -2], [0.5, 0.5]], np.float32)
    found = np.isnan(F.active_shift2d(x, d)[0])
    assert np.argwhere(found[0]).tolist() == [[2, 22]]
    assert np.argwhere(found[1]).tolist() == [[2, 19], [2, 20], [3, 19], [3, 20]]


@pytest.mark.parametrize(
    "function, arguments, error, message",
    [
        (F.shift2d, (np.zeros((1, 3, 4, 4)), np.zeros((2, 2), int)), ValueError, r"shape \(3, 2\).*given \(2, 2\)"),
        (F.shift2d, (np.zeros((1, 2, 4, 4)), np.zeros((2, 2))), TypeError, "whole numbers"),
        (F.shift2d, (np.zeros((4, 4)), np.zeros((2, 2), int)), ValueError, r"\(4, 4\)"),
        (F.shift2d, (np.zeros((1, 2, 4, 4), int), np.zeros((2, 2), int)), TypeError, "floating point"),
        (F.active_shift2d, (np.zeros((1, 2, 4, 4)), np.zeros((2, 2), np.float32)), TypeError, "float32"),
        (F.active_shift2d, (np.zeros((1, 2, 4, 4)), np.full((2, 2), np.nan)), ValueError, "finite"),
        (F.sparse_shift2d, (np.zeros((1, 2, 4, 4)), np.zeros(4)), ValueError, r"shape \(2, 2\)"),
    ],
)
def test_refusals(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_layers():
    x = images("float32", (2, 18, 5, 7))
    layer = nn.Shift2d(18)
    np.testing.assert_array_equal(layer(x), F.shift2d(x, F.shift_groups(18)))
    assert not list(layer.parameters()) and list(layer.state_dict()) == ["shift"]
    for kind in (nn.ActiveShift2d, nn.SparseShift2d):
        layer = kind(18, reach=2)
        assert layer.displacement.shape == (18, 2) and 1 < np.abs(layer.displacement.data).max() <= 2
        layer(x).sum().backward()
        assert layer.displacement.grad.data.any()
    assert np.isclose(float(layer.penalty()), np.abs(layer.displacement.data).sum())
