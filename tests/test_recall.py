"""Calls that come again are only their program; others are whole calls."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import _config, _jit, prepared
from fastconv.ops.recall import recalled


@pytest.fixture
def whole_calls():
    """(a recalled function, the inputs of its whole calls)."""
    seen = []

    @recalled
    def pool(input, *settings):
        seen.append(input)
        return F.avg_pool2d(input, *settings)

    return pool, seen


def image(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.skipif(not _jit.JIT or _config.DEBUG, reason="programs are prepared for compiled kernels only")
def test_a_second_call_is_only_the_program(whole_calls):
    pool, seen = whole_calls
    x, other = image(2, 3, 8, 9), image(2, 3, 8, 9) + 1
    first = pool(x, 2)
    np.testing.assert_array_equal(pool(other, 2), F.avg_pool2d(other, 2))
    assert len(seen) == 1
    np.testing.assert_array_equal(pool(x, 2), first)
    pool(x, 3)
    pool(x[:, :, :6], 2)
    assert len(seen) == 3


def test_what_is_not_plain_is_a_whole_call(whole_calls):
    pool, seen = whole_calls
    x = image(2, 3, 8, 9)
    for given in (x, x[:, :, ::-1], x[:, :, ::-1], fc.Tensor(x), fc.Tensor(x)):
        want = F.avg_pool2d(np.ascontiguousarray(np.asarray(given)), 2)
        np.testing.assert_array_equal(np.asarray(pool(given, 2)), want)
    np.testing.assert_array_equal(pool(x, [2, 2]), pool(x, (2, 2)))
    assert len(seen) >= 4


def test_a_function_that_does_more_is_never_recalled():
    @recalled
    def twice(input):
        return F.relu(input) + np.float32(1)

    @recalled
    def around(input):
        y = F.relu(input)
        twice(input)  # watched on its own, within this one
        F.sigmoid(y)
        return y

    x = image(4, 100)
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(twice(factor * x), np.maximum(factor * x, 0) + 1)
        np.testing.assert_array_equal(around(factor * x), np.maximum(factor * x, 0))


@pytest.mark.skipif(not _jit.JIT or _config.DEBUG, reason="programs are prepared for compiled kernels only")
def test_the_runs_of_a_watch_belong_to_the_one_around_it_too():
    def inner():
        return prepared.watched(F.relu, image(3, 50))[1]

    def outer():
        return len(inner()) + len(prepared.watched(F.sigmoid, image(3, 50))[1])

    inside, runs = prepared.watched(outer)
    assert inside == len(runs)
