"""The matrix views: each one is the convolution, exactly, and the transpose of the third the transposed convolution."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F

pytestmark = pytest.mark.smoke

# size, kernel, stride, padding, dilation, groups, channels of a group in and out
CASES = [
    ((7,), (3,), 1, 0, 1, 1, 2, 3),
    ((9,), (2,), 3, 2, 2, 2, 1, 2),
    ((4, 5), (3, 2), (2, 1), (1, 0), 1, 1, 2, 3),
    ((5, 4), (2, 3), 1, (0, 2), (3, 1), 3, 2, 1),
    ((3, 4, 3), (2, 1, 3), (1, 2, 1), (0, 0, 1), 1, 1, 2, 2),
]


def integers(*shape):
    """Small whole numbers: every sum is exact."""
    return np.random.default_rng(sum(shape)).integers(-9, 9, shape).astype(float)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_view_is_the_convolution(case):
    size, kernel, stride, padding, dilation, groups, icg, ocg = case
    rank = len(size)
    x, w = integers(icg * groups, *size), integers(ocg * groups, icg, *kernel)
    y = (F.conv1d, F.conv2d, F.conv3d)[rank - 1](x, w, None, stride, padding, dilation, groups)
    matrix = fc.views.toeplitz_matrix(w, size, stride, padding, dilation, groups)
    np.testing.assert_array_equal((matrix @ x.ravel()).reshape(y.shape), y)
    if groups == 1:
        columns = fc.views.im2col_matrix(x, kernel, stride, padding, dilation)
        np.testing.assert_array_equal((w.reshape(len(w), -1) @ columns).reshape(y.shape), y)
        seen = fc.views.sliding(x, kernel, stride, padding, dilation)
        sums = np.tensordot(w, seen, ([1, *range(2, 2 + rank)], [0, *range(1 + rank, 1 + 2 * rank)]))
        np.testing.assert_array_equal(sums, y)
        batch = fc.views.im2col_matrix(np.stack([x, 2 * x]), kernel, stride, padding, dilation)
        np.testing.assert_array_equal(batch, [columns, 2 * columns])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_transposed_convolution_is_the_transpose(case):
    size, kernel, stride, padding, dilation, groups, icg, ocg = case
    w = integers(ocg * groups, icg, *kernel)
    matrix = fc.views.toeplitz_matrix(w, size, stride, padding, dilation, groups)
    each = [v if isinstance(v, tuple) else (v,) * len(size) for v in (stride, padding, dilation)]
    rows = list(zip(size, kernel, *each, strict=True))
    out = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in rows]
    left = tuple((i + 2 * p - d * (k - 1) - 1) % s for i, k, s, p, d in rows)
    y = integers(ocg * groups, *out)
    transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(size) - 1]
    x = transposed(y, w, None, stride, padding, left, groups, dilation)
    np.testing.assert_array_equal((matrix.T @ y.ravel()).reshape(x.shape), x)


def test_one_dimension_is_toeplitz():
    matrix = fc.views.toeplitz_matrix(np.array([[[1, 2, 3]]]), 5)
    assert matrix.tolist() == [[1, 2, 3, 0, 0], [0, 1, 2, 3, 0], [0, 0, 1, 2, 3]]
    assert fc.views.sliding(np.arange(5), (3,)).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_sliding_is_a_view():
    x = np.arange(12.0).reshape(1, 1, 3, 4)
    seen = fc.views.sliding(x, 2)
    assert seen.shape == (1, 1, 2, 3, 2, 2) and np.shares_memory(seen, x) and not seen.flags.writeable


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fc.views.sliding(np.ones((1, 1, 3)), 4), "covers 4, more than the padded input's 3"),
        (lambda: fc.views.sliding(np.ones(3), 2), "too few dimensions"),
        (lambda: fc.views.sliding(np.ones((1, 1, 3)), 2, stride=0), "at least 1"),
        (lambda: fc.views.im2col_matrix(np.ones((1, 1, 1, 3)), (2,)), "given"),
        (lambda: fc.views.toeplitz_matrix(np.ones((2, 3)), 3), "weight must be"),
        (lambda: fc.views.toeplitz_matrix(np.ones((2, 3, 1)), 3, groups=4), "divide 2 output channels, given 4"),
        (lambda: fc.views.toeplitz_matrix(np.ones((2, 3, 1)), (3, 3)), "size"),
    ],
)
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
