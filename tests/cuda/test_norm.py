"""Normalisations on the device."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv.kernels.cuda import norm
from tests.test_norm import SHAPES

from .compare import check

rng = np.random.default_rng(0)


def normal(*shape, mean=0.0):
    return (rng.standard_normal(shape) + mean).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batch_norm_of_the_table(shape, training, affine, dtype):
    mean, var = normal(3).astype(dtype), np.abs(normal(3)).astype(dtype) + 0.5
    arrays = [normal(*shape), normal(3), normal(3)][: 3 if affine else 1]

    def norm(x, *wb):
        return F.batch_norm(x, *(fc.Tensor(a.copy()).to(x.device).data for a in (mean, var)), *wb, training=training)

    check(norm, *(a.astype(dtype) for a in arrays), tol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("shape, mean", [((3, 2, 2, 3), 50.0), ((4, 3), 0.0), ((1, 2, 19), -3.0)])
def test_batch_norm_in_training(shape, mean):
    c, found = shape[1], {}
    x, w, b = normal(*shape, mean=mean), normal(c), normal(c)

    def train(x, w, b):
        running = [fc.Tensor(np.full(c, v, np.float32)).to(x.device).data for v in (0.5, 2.0)]
        y = F.batch_norm(x, *running, w, b, True)
        found[x.device] = [fc.Tensor(r).cpu().numpy() for r in running]
        return y

    check(train, x, w, b, tol=1e-4)
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-5)


def test_batch_norm_in_evaluation():
    x, w, mean, var = normal(2, 3, 4), normal(3), normal(3), np.abs(normal(3)) + 0.5
    check(lambda x, w: F.batch_norm(x, *(fc.Tensor(a).to(x.device).data for a in (mean, var)), w), x, w)
    check(lambda x: F.batch_norm(x, *(fc.Tensor(a).to(x.device).data for a in (mean, var))), x)


def test_sums_in_several_parts(monkeypatch):
    monkeypatch.setattr(norm, "PART", 1)
    check(lambda x, w: F.batch_norm(x, None, None, w, None, True), normal(3, 2, 7), normal(2), tol=1e-4)


def test_group_and_instance_norm():
    w, b = normal(4), normal(4)
    check(lambda x, w, b: F.group_norm(x, 2, w, b), normal(2, 4, 3), w, b, tol=1e-4)
    check(lambda x: F.group_norm(x, 1), normal(2, 4, 2, 2), tol=1e-4)
    check(lambda x, w, b: F.instance_norm(x, None, None, w, b), normal(2, 4, 5), w, b, tol=1e-4)

    def running(x):
        kept = [fc.Tensor(np.full(4, v, np.float32)).to(x.device).data for v in (0.5, 2.0)]
        F.instance_norm(x, *kept)
        return fc.Tensor(kept[0]) + fc.Tensor(kept[1])

    check(running, normal(2, 4, 5), grads=False)


@pytest.mark.parametrize("length", [5, 9])
def test_layer_norm(length):
    x, w, b = normal(5, length, mean=20.0), normal(length), normal(length)
    check(lambda x, w, b: F.layer_norm(x, (length,), w, b), x, w, b, tol=1e-4)
    check(lambda x: F.layer_norm(x, (length,)), x, tol=1e-4)


def test_second_derivatives():
    for fn in (
        lambda x: F.batch_norm(x, None, None, None, None, True),
        lambda x: F.group_norm(x, 1),
        lambda x: F.layer_norm(x, (3,)),
    ):

        def twice(x, fn=fn):
            (g,) = fc.grad((fn(x) ** 3).sum(), x, create_graph=True)
            return (g * g).sum()

        check(twice, normal(2, 2, 3), tol=1e-3)


@pytest.mark.parametrize("size", [3, 4])
def test_local_response_norm(size):
    check(lambda x: F.local_response_norm(x, size, 0.5, 0.75, 1.5), normal(1, 6, 3))
