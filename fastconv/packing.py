"""The packed form of weights, and the edge where arrays of any memory order become dense.  Pure Python."""

from typing import Any

import numpy as np


def dense(array) -> Any:
    """The array, or a copy of it, in C order and aligned: channels-last, sliced and misaligned arrays are copied once.
    An operand that is not there (None) stays so."""
    if array is None or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")


def strips(weight, groups, height):
    """Weights (oc, ic/groups, *kernel) as (groups, strips, ic/groups * taps, height): a kernel reads a strip of
    `height` output channels from front to back.  The last strip overlaps the one before it where `height` does not
    divide oc/groups, which must be at least `height`."""
    rows = weight.shape[0] // groups
    matrix = weight.reshape(groups, rows, -1)
    firsts = [min(row, rows - height) for row in range(0, rows, height)]
    packed = np.empty((groups, len(firsts), matrix.shape[2], height), weight.dtype)
    for strip, first in enumerate(firsts):
        packed[:, strip] = matrix[:, first : first + height].transpose(0, 2, 1)
    return packed
