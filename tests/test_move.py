"""Copies between memory orders and repeated pixels, against NumPy."""

import numpy as np
import pytest

from fastconv.driver import launch
from fastconv.kernels.move import move_row, repeat_row


def array(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def steps(a):
    return tuple(s // a.itemsize for s in a.strides)


VIEWS = {
    "dense": (lambda x: x, (3, 5, 37)),
    "turned": (lambda x: x.transpose(2, 1, 0), (33, 5, 18)),
    "channels last": (lambda x: x.transpose(0, 3, 1, 2), (2, 7, 9, 5)),
    "part": (lambda x: x[:, 1:4, ::2, 3:], (2, 5, 7, 20)),
    "thin": (lambda x: x[..., 1:2], (4, 9, 8)),
    "repeated": (lambda x: np.broadcast_to(x[:, :, None, :, None], (3, 4, 2, 6, 2)), (3, 4, 6)),
    "number": (lambda x: np.broadcast_to(x[:1], (40,)), (1,)),
    "six axes": (lambda x: x.transpose(5, 3, 1, 4, 2, 0), (2, 3, 2, 4, 3, 5)),
    "long": (lambda x: x[:, ::2], (2, 9000)),
}


@pytest.mark.smoke
@pytest.mark.parametrize("view, shape", VIEWS.values(), ids=VIEWS)
def test_move(view, shape):
    x = array(*shape)
    seen = view(x)
    offset = (seen.__array_interface__["data"][0] - x.__array_interface__["data"][0]) // 4
    y = np.full(seen.shape, np.nan, np.float32)
    launch(move_row(x.reshape(-1)[offset:], y, seen.shape, steps(seen), steps(y)))
    np.testing.assert_array_equal(y, seen)
    whole = np.full((*seen.shape, 3), -1, np.float32)  # into every third element
    launch(move_row(x.reshape(-1)[offset:], whole, seen.shape, steps(seen), steps(whole)[:-1]))
    np.testing.assert_array_equal(whole[..., 0], seen)
    assert (whole[..., 1:] == -1).all()


def test_too_many_axes():
    x = array(*(2,) * 8)
    assert move_row(x, x, x.shape, steps(x.T), steps(x)) is None


@pytest.mark.parametrize("down, across", [(2, 2), (1, 3)])
def test_repeat(down, across):
    x = array(3, 5, 19)
    y = np.empty((3, 5 * down, 19 * across), np.float32)
    launch(repeat_row(x, y, down, across))
    np.testing.assert_array_equal(y, x.repeat(down, 1).repeat(across, 2))
