"""Poolings on the device: as on the CPU, positions included."""

import numpy as np
import pytest

import fastconv.functional as F

from .compare import check

rng = np.random.default_rng(0)


def plane(*shape, dtype=np.float32):
    """Values of which some are equal, and a NaN."""
    x = np.round(rng.standard_normal(shape) * 3).astype(dtype)
    x.flat[5] = np.nan
    return x


MAXIMA = {
    "2d": (F.max_pool2d, (1, 2, 5, 6), (2,), {}),
    "2d overlapping": (F.max_pool2d, (2, 1, 5, 6), (3, 2, 1), {"ceil_mode": True}),
    "2d dilated": (F.max_pool2d, (1, 1, 7, 6), ((3, 2), (2, 1), 1, (2, 3)), {}),
    "1d unbatched": (F.max_pool1d, (2, 9), (3, 2), {}),
    "3d": (F.max_pool3d, (1, 1, 4, 3, 4), (2, 2, 1), {}),
    "adaptive": (F.adaptive_max_pool2d, (1, 2, 5, 6), ((3, 4),), {}),
    "over all": (F.adaptive_max_pool2d, (1, 3, 3, 5), (1,), {}),
    "3d over all": (F.max_pool3d, (2, 1, 2, 3, 2), ((2, 3, 2),), {}),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_maximum(name):
    fn, shape, args, options = MAXIMA[name]
    check(lambda x: fn(x, *args, return_indices=True, **options), plane(*shape))
    if name == "2d":
        check(lambda x: fn(x, *args, **options), plane(*shape, dtype=np.float64), grads=False)


MEANS = {
    "2d": (F.avg_pool2d, (1, 2, 5, 6), (2,), {}),
    "2d padded": (F.avg_pool2d, (2, 1, 5, 6), ((3, 2), 2, 1), {"ceil_mode": True}),
    "2d without padding": (F.avg_pool2d, (1, 1, 5, 5), (3, 2, 1), {"count_include_pad": False}),
    "2d divisor": (F.avg_pool2d, (1, 1, 5, 5), (3, 2), {"divisor_override": 5}),
    "1d": (F.avg_pool1d, (2, 1, 7), (3, 1, 1), {}),
    "3d": (F.avg_pool3d, (1, 1, 3, 4, 4), (2,), {}),
    "adaptive": (F.adaptive_avg_pool2d, (1, 2, 5, 6), ((3, 4),), {}),
    "larger": (F.adaptive_avg_pool1d, (1, 2, 3), (5,), {}),
    "over all": (F.adaptive_avg_pool2d, (2, 2, 3, 5), (1,), {}),
}


@pytest.mark.parametrize("name", MEANS)
def test_mean(name):
    fn, shape, args, options = MEANS[name]
    check(lambda x: fn(x, *args, **options), rng.standard_normal(shape).astype(np.float32))


def test_second_derivative_of_a_maximum():
    def twice(x):
        import fastconv as fc

        (g,) = fc.grad((F.max_pool2d(x, 2) ** 2).sum(), x, create_graph=True)
        return (g * g).sum()

    check(twice, rng.standard_normal((1, 1, 4, 4)).astype(np.float32))


def test_strided_and_empty_input():
    x = rng.standard_normal((1, 4, 4, 2)).astype(np.float32)
    check(lambda t: F.avg_pool2d(t.permute(0, 3, 1, 2), 2), x)
    check(lambda t: F.max_pool2d(t, 2), np.zeros((0, 2, 4, 4), np.float32))
