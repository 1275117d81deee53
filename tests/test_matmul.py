"""The three matrix products against NumPy in float64, their gradients, and the same bits at any thread count."""

import numpy as np
import pytest

import fastconv as fc
from fastconv.ops.matmul import ProductNN, ProductNT, ProductTN

FORMS = {
    "nt": (ProductNT, lambda i, j, k: ((i, k), (j, k)), lambda a, b: a @ b.T),
    "nn": (ProductNN, lambda i, j, k: ((i, k), (k, j)), lambda a, b: a @ b),
    "tn": (ProductTN, lambda i, j, k: ((k, i), (k, j)), lambda a, b: a.T @ b),
}
SIZES = [(1, 1, 1), (1, 7, 5), (64, 10, 84), (17, 33, 129), (3, 200, 300), (0, 4, 5), (5, 0, 4), (5, 4, 0)]


def _inputs(form, sizes, dtype):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape in FORMS[form][1](*sizes)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_product(form, sizes):
    op, _, reference = FORMS[form]
    for dtype, scale in (("float32", 2e-6), ("float64", 1e-14)):
        a, b = _inputs(form, sizes, dtype)
        got = op.apply(a, b)
        want = reference(a.astype("f8"), b.astype("f8"))
        assert got.dtype == dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=scale * max(1, sizes[2]) ** 0.5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_both_orders(form):
    tensors = [fc.Tensor(a, requires_grad=True) for a in _inputs(form, (3, 4, 5), "float64")]
    assert fc.gradcheck(FORMS[form][0].apply, tensors)
    assert fc.gradgradcheck(FORMS[form][0].apply, tensors)


@pytest.mark.parametrize("form", FORMS)
def test_same_bits_for_any_thread_count(form):
    a, b = _inputs(form, (100, 300, 784), "float32")
    before = fc.get_num_threads()
    try:
        results = []
        for threads in {1, before}:
            fc.set_num_threads(threads)
            results.append(FORMS[form][0].apply(a, b))
    finally:
        fc.set_num_threads(before)
    assert all((result == results[0]).all() for result in results)
