"""Poolings on the device: the CPU's table of cases against the oracle, positions included, and the functions."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import _registry
from fastconv.kernels import cuda
from fastconv.kernels.cuda.launch import launch
from tests import oracle_pool as oracle
from tests import test_pool as cpu
from tests.tolerance import assert_close

from .compare import check
from .small import shrunk_pool

MOST = 700  # values that a case reads on the simulator


def typed(cases):
    """(case, dtype): all in float32, every third in float64 too."""
    small = {str(new): new for new in (shrunk_pool(case, MOST) for case in cases)}
    dtypes = [("float32", "float64")[: 2 if i % 3 == 0 else 1] for i in range(len(small))]
    return [
        pytest.param(case, dtype, id=f"{name}-{dtype}")
        for (name, case), both in zip(small.items(), dtypes, strict=True)
        for dtype in both
    ]


def run(operation, spec, out, inputs):
    """(name, result) of every implementation that takes the spec; `out`: its shape, and its name among the buffers."""
    accepting = [i for i in _registry.implementations(spec.prefix + operation, "cuda") if i.when(spec) is None]
    assert accepting
    given = {name: cuda.upload(array) for name, array in inputs.items()}
    for impl in accepting:
        arrays = {name: cuda.full(shape, 77, dtype) for name, (shape, dtype) in out.items()}
        launch(*impl.emit(spec, {**given, **arrays}))
        yield impl.name, *(array.numpy() for array in arrays.values())


@pytest.mark.parametrize("case, dtype", typed(cpu.WINDOWS + cpu.ADAPTIVE))
def test_maxima_of_the_table(case, dtype):
    x, gy = case.input(dtype), cpu._gradient(case, dtype)
    expected, positions = oracle.max_pool(x, case.axes)
    spec = case.spec(dtype)
    for name, y in run("max_pool.fwd", spec, {"y": (spec.y_shape, dtype)}, {"x": x}):
        np.testing.assert_array_equal(y, expected, err_msg=name)
    spec = case.spec(dtype, True)
    for name, y, at in run("max_pool.fwd", spec, {"y": (spec.y_shape, dtype), "at": (spec.y_shape, "int64")}, {"x": x}):
        np.testing.assert_array_equal(y, expected, err_msg=name)
        np.testing.assert_array_equal(at, positions, err_msg=name)
    scattered = oracle.scatter(gy, positions, case.size)
    for name, gx in run("max_pool.bwd", spec, {"gx": (spec.x_shape, dtype)}, {"gy": gy, "at": positions}):
        assert_close(gx, scattered, dtype, getattr(spec, "taps", 4), 4.0, name)
    flat = x.reshape(*x.shape[:2], spec.in_pixels)
    picked = np.take_along_axis(flat, np.maximum(positions, 0).reshape(*x.shape[:2], spec.out_pixels), 2)
    picked = np.where(positions < 0, 0, picked.reshape(positions.shape))
    for name, y in run("max_pool.gather", spec, {"y": (spec.y_shape, dtype)}, {"x": x, "at": positions}):
        np.testing.assert_array_equal(y, picked, err_msg=name)


@pytest.mark.parametrize("case, dtype", typed(cpu.AVERAGES + cpu.ADAPTIVE))
def test_averages_of_the_table(case, dtype):
    spec, x, gy = case.spec(dtype), case.input(dtype), cpu._gradient(case, dtype)
    terms = getattr(spec, "taps", spec.in_pixels)
    expected = oracle.avg_pool(x, case.axes, case.divisor)
    for name, y in run("avg_pool.fwd", spec, {"y": (spec.y_shape, dtype)}, {"x": x}):
        if case.content == "normal":
            assert_close(y, expected, dtype, terms, 2.0, name)
        else:
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=name)
    expected = oracle.avg_pool_backward(gy, case.axes, case.size, case.divisor)
    for name, gx in run("avg_pool.bwd", spec, {"gx": (spec.x_shape, dtype)}, {"gy": gy}):
        assert_close(gx, expected, dtype, terms, 2.0, name)


rng = np.random.default_rng(0)


def plane(*shape, dtype="float32"):
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
        check(lambda x: fn(x, *args, **options), plane(*shape, dtype="float64"), grads=False)


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
