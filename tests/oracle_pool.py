"""What pooling is, in float64: one window after the other, for any number of spatial dimensions.

x (n, c, *size) -> y (n, c, *out).  A window is, per dimension, the list of input positions that it holds inside the
image, and the number that an average divides by.  Slow and plain on purpose.
"""

from itertools import product
from math import ceil, floor, prod

import numpy as np

from .oracle import each


def out_size(size, kernel, stride, padding, dilation, ceil_mode):
    """Output positions along one dimension: the last window begins inside the image or the padding before it."""
    round_ = ceil if ceil_mode else floor
    out = round_((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def windows(size, kernel, stride=None, padding=0, dilation=1, ceil_mode=False, count_include_pad=True):
    """Per dimension the list of windows: (positions inside the image, count)."""
    ndim, axes = len(size), []
    stride = kernel if stride is None else stride
    for i, k, s, p, d in zip(size, *(each(v, ndim) for v in (kernel, stride, padding, dilation)), strict=True):
        taps = [[o * s - p + t * d for t in range(k)] for o in range(out_size(i, k, s, p, d, ceil_mode))]
        inside = [[t for t in window if 0 <= t < i] for window in taps]
        padded = [[t for t in window if -p <= t < i + p] for window in taps]
        axes.append([(a, len(b if count_include_pad else a)) for a, b in zip(inside, padded, strict=True)])
    return axes


def adaptive_windows(size, out):
    """Per dimension the list of windows of an adaptive pooling."""
    axes = []
    for i, o in zip(size, out, strict=True):
        spans = [range(floor(j * i / o), ceil((j + 1) * i / o)) for j in range(o)]
        axes.append([(list(span), len(span)) for span in spans])
    return axes


def _each_window(axes):
    """(output index, positions per dimension, count) of every window."""
    for index in product(*(range(len(axis)) for axis in axes)):
        chosen = [axis[i] for axis, i in zip(axes, index, strict=True)]
        yield index, [positions for positions, _ in chosen], prod(count for _, count in chosen)


def max_pool(x, axes):
    """(y, at): the maxima and their flat positions, -1 for an empty window.

    NaN wins, and of several NaN the last; of equal values the first.
    """
    size = x.shape[2:]
    y = np.full((*x.shape[:2], *map(len, axes)), -np.inf)
    at = np.full(y.shape, -1, np.int64)
    for index, positions, _ in _each_window(axes):
        flat = [np.ravel_multi_index(p, size) for p in product(*positions)]
        for n, c in product(*map(range, x.shape[:2])) if flat else ():
            values = x[n, c].ravel()[flat].astype(np.float64)
            nan = np.flatnonzero(np.isnan(values))
            best = nan[-1] if nan.size else int(np.argmax(values))
            y[n, c][index], at[n, c][index] = values[best], flat[best]
    return y, at


def scatter(gy, at, size):
    """gx[at[o]] += gy[o] in every plane; positions of -1 are left out."""
    gx = np.zeros((*gy.shape[:2], prod(size)))
    for n, c in product(*map(range, gy.shape[:2])):
        for g, p in zip(gy[n, c].ravel(), at[n, c].ravel(), strict=True):
            if p >= 0:
                gx[n, c, p] += g
    return gx.reshape(*gy.shape[:2], *size)


def avg_pool(x, axes, divisor=None):
    """The means of the windows."""
    y = np.zeros((*x.shape[:2], *map(len, axes)))
    for index, positions, count in _each_window(axes):
        total = x[(..., *np.ix_(*positions))].astype(np.float64).sum(axis=tuple(range(2, x.ndim)))
        y[(..., *index)] = total / (divisor or count)
    return y


def avg_pool_backward(gy, axes, size, divisor=None):
    """Each mean's gradient, spread over its window."""
    gx = np.zeros((*gy.shape[:2], *size))
    for index, positions, count in _each_window(axes):
        share = gy[(..., *index)].astype(np.float64) / (divisor or count)
        gx[(..., *np.ix_(*positions))] += share[(..., *[None] * len(size))]
    return gx
