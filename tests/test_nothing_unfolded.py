"""Memory of operations that are often computed on an unfolded image: none of them makes one."""

import tracemalloc

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import _memory

CHANNELS, SIZE = 32, 40
UNFOLDED = 9 * CHANNELS * SIZE * SIZE * 4  # bytes of the im2col matrix of a 3x3 kernel


def _deform(x, w):
    offset = np.random.default_rng(1).standard_normal((1, 18, SIZE, SIZE)).astype("f4")
    return F.deform_conv2d(x, offset, w, None, 1, 1)


CASES = {
    "deform_conv2d": _deform,
    "adder2d": lambda x, w: F.adder2d(x, w, None, 1, 1),  # the broadcast would take CHANNELS times as much
    "conv_transpose2d": lambda x, w: F.conv_transpose2d(x, w, None, 2, 1, 1),
    "conv2d": lambda x, w: F.conv2d(x, w, None, 1, 1),
    "involution2d": lambda x, w: F.involution2d(x, np.zeros((1, 1, 9, SIZE, SIZE), "f4"), 3, 1, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_no_matrix_of_patches(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, CHANNELS, SIZE, SIZE)).astype("f4")
    w = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype("f4")
    CASES[name](x, w)  # compiles
    _memory.release()
    tracemalloc.start()
    y = CASES[name](x, w)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - y.nbytes < UNFOLDED * 0.75
