"""What pooling kernels share: which taps of a window lie in the image, rows combined tap by tap, tiles of whole rows.

Rows are numbered through all planes and depths: row r of (planes, od, oh) is (r // (od*oh), r // oh % od, r % oh).
A row of outputs depends on no other one, so a tile is a run of rows, whatever plane they belong to, and
its size changes no bit.
"""

import numpy as np

from .._jit import helper

GEOMETRY = "id ih iw od oh ow kd kh kw sd sh sw pd ph pw dd dh dw"
SIZES = "id ih iw od oh ow"


def geometry(spec):
    """The numbers of a block that has the fields GEOMETRY."""
    return {name: getattr(spec, name) for name in GEOMETRY.split()}


def sizes(spec):
    """The numbers of a block that has the fields SIZES."""
    return {name: getattr(spec, name) for name in SIZES.split()}


def rows_per_tile(rows, row_work, target=20_000):
    """Rows of a tile whose work is about `target` nanoseconds, given that of one row."""
    return max(1, min(rows, int(target / max(row_work, 1))))


@helper
def valid_taps(start, size, kernel, dilation):
    """(first, end) of the taps k with 0 <= start + k*dilation < size."""
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    end = 0 if start >= size else (size - 1 - start) // dilation + 1
    return min(first, kernel), min(end, kernel)


@helper
def valid_outputs(offset, size, out, stride):
    """(first, end) of the outputs j with 0 <= j*stride + offset < size."""
    first = 0 if offset >= 0 else (-offset + stride - 1) // stride
    end = 0 if offset >= size else (size - 1 - offset) // stride + 1
    return min(first, out), min(end, out)


@helper
def fill_row(y, value):
    for j in range(y.size):
        y[j] = value


@helper
def add_row(y, x):
    for j in range(y.size):
        y[j] += x[j]


@helper
def max_row(y, x):
    """y[j] = max(y[j], x[j]), where NaN wins."""
    for j in range(y.size):
        v, m = x[j], y[j]
        y[j] = v if (v > m) | (v != v) else m


@helper
def add_strided(y, x, step):
    """y[j] += x[j*step]."""
    if step == 1:
        add_row(y, x)
    elif step == 2:
        for j in range(y.size):
            y[j] += x[np.uintp(2 * j)]
    else:
        for j in range(y.size):
            y[j] += x[np.uintp(j * step)]


@helper
def max_strided(y, x, step):
    """y[j] = max(y[j], x[j*step]), where NaN wins."""
    if step == 1:
        max_row(y, x)
    elif step == 2:
        for j in range(y.size):
            v, m = x[np.uintp(2 * j)], y[j]
            y[j] = v if (v > m) | (v != v) else m
    else:
        for j in range(y.size):
            v, m = x[np.uintp(j * step)], y[j]
            y[j] = v if (v > m) | (v != v) else m


@helper
def argmax_strided(y, at, x, step, first):
    """Where x[j*step] is larger than y[j], or NaN: y[j] = x[j*step] and at[j] = first + j*step."""
    for j in range(y.size):
        v, m = x[np.uintp(j * step)], y[j]
        wins = (v > m) | (v != v)
        y[j] = v if wins else m
        at[j] = first + j * step if wins else at[j]


@helper
def scatter_strided(x, y, step):
    """x[j*step] += y[j]."""
    if step == 1:
        add_row(x[: y.size], y)
    else:
        for j in range(y.size):
            x[np.uintp(j * step)] += y[j]
