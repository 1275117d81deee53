"""Convolution: every implementation against every case it takes, and the public functions."""

import functools

import numpy as np
import pytest

from fastconv import _registry
from fastconv.driver import launch
from fastconv.ops import conv as ops  # noqa: F401  (registers the implementations)
from fastconv.specs import Epilogue

from . import oracle
from .cases import FULL, NETWORK, SMOKE
from .tolerance import assert_close

OPERATIONS = ("conv.fwd", "conv.bwd_data", "conv.bwd_weights")
RESULT = {"conv.fwd": "y", "conv.bwd_data": "gx", "conv.bwd_weights": "gw"}


@functools.lru_cache(maxsize=4)
def expected(operation, case, dtype):
    """The oracle's result, and the scale of its values: the root of the sum of squared products."""
    x, w, b, gy = case.arrays(dtype)

    def compute(x, w, b, gy):
        if operation == "conv.fwd":
            return oracle.conv(x, w, b, **case.settings)
        if operation == "conv.bwd_data":
            return oracle.conv_data(case.x_shape, w, gy, **case.settings)
        return oracle.conv_weights(x, case.w_shape, gy, **case.settings)

    square = [None if a is None else a.astype(np.float64) ** 2 for a in (x, w, b, gy)]
    return compute(x, w, b, gy), np.sqrt(compute(*square))


def operands(operation, case, dtype):
    """The buffers of an operation: seeded inputs, and a result full of NaN."""
    x, w, b, gy = case.arrays(dtype)
    inputs = {
        "conv.fwd": {"x": x, "w": w, "b": b},
        "conv.bwd_data": {"gy": gy, "w": w},
        "conv.bwd_weights": {"x": x, "gy": gy},
    }[operation]
    shapes = {"y": case.y_shape, "gx": case.x_shape, "gw": case.w_shape}
    return {**inputs, RESULT[operation]: np.full(shapes[RESULT[operation]], np.nan, dtype)}


def run_implementation(impl, case, dtype):
    """The result of one implementation, whose inputs must not change."""
    buffers = operands(impl.operation, case, dtype)
    out = buffers[RESULT[impl.operation]]
    before = {name: array.copy() for name, array in buffers.items() if array is not None and array is not out}
    launch(*impl.emit(case.spec(dtype), buffers))
    for name, array in before.items():
        np.testing.assert_array_equal(buffers[name], array, err_msg=f"{name} was modified")
    return out


def accepted(cases, epilogue=False):
    """(implementation, case) for all that go together; of those that honour an epilogue."""
    return [
        pytest.param(impl, case, id=f"{impl.name}-{case}")
        for operation in OPERATIONS
        for impl in _registry.implementations(operation)
        for case in cases
        if impl.epilogue >= epilogue and impl.when(case.spec("float32")) is None
    ]


def check(impl, case, dtype):
    result, scale = expected(impl.operation, case, dtype)
    actual = run_implementation(impl, case, dtype)
    assert_close(actual, result, dtype, case.terms[impl.operation], scale, impl.name)


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("impl", "case"), accepted(SMOKE))
def test_smoke(impl, case, dtype):
    check(impl, case, dtype)


@pytest.mark.parametrize(("impl", "case"), accepted(FULL))
def test_full(impl, case):
    check(impl, case, "float32")


@pytest.mark.parametrize(("impl", "case"), accepted(FULL[::5]))
def test_full_float64(impl, case):
    """A part of them: each dtype has kernels of its own, and compiling them takes longer than everything else here."""
    check(impl, case, "float64")


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("impl", "case"), accepted(SMOKE, epilogue=True))
def test_epilogue(impl, case, accumulate):
    """The clamped result, or the clamped sum of the result and what the output held, within
    rounding what the steps give one by one."""
    plain = run_implementation(impl, case, "float32")
    buffers = operands(impl.operation, case, "float32")
    y = buffers[RESULT[impl.operation]]
    y[...] = np.random.default_rng(3).standard_normal(y.shape, np.float32) if accumulate else np.nan
    wanted = np.clip(plain + y if accumulate else plain, -0.25, 0.5)
    launch(*impl.emit(case.spec("float32"), {**buffers, "epilogue": Epilogue(-0.25, 0.5, accumulate)}))
    np.testing.assert_allclose(y, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("impl", "case"), accepted(NETWORK))
def test_network(impl, case):
    check(impl, case, "float32")
