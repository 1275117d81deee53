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


def lp_pool(x, axes, p, kernel):
    """(K times the mean of x^p)^(1/p), K the taps of a whole window."""
    taps = prod(each(kernel, len(axes)))
    return (avg_pool(x.astype(np.float64) ** p, axes) * taps) ** (1 / p)


def max_unpool(x, at, size):
    """Each value at its position; of equal positions the last stays."""
    y = np.zeros((*x.shape[:2], prod(size)))
    for n, c in product(*map(range, x.shape[:2])):
        for v, p in zip(x[n, c].ravel(), at[n, c].ravel(), strict=True):
            y[n, c, p] = v
    return y.reshape(*x.shape[:2], *size)


def fractional_windows(size, kernel, out, u):
    """The windows of one plane, for u of each dimension (Graham 2014, section 2)."""
    axes = []
    for i, k, o, v in zip(size, kernel, out, u, strict=True):
        step = (i - k) / (o - 1) if o > 1 else 0
        first = [int((j + v) * step) - int(v * step) for j in range(o - 1)] + [i - k]
        axes.append([(list(range(f, f + k)), k) for f in first])
    return axes


def weighted_pool(x, axes, weights):
    """sum of w x / sum of w over the windows, w = weights(the window's values); 0 where all weights are 0."""
    y = np.zeros((*x.shape[:2], *map(len, axes)))
    for index, positions, _ in _each_window(axes):
        window = x[(..., *np.ix_(*positions))].astype(np.float64).reshape(*x.shape[:2], -1)
        w = weights(window)
        total = w.sum(2)
        y[(..., *index)] = np.divide((w * window).sum(2), total, out=np.zeros(total.shape), where=total != 0)
    return y


def soft_weights(window):
    """Stergiou et al. 2021, equation 1."""
    return np.exp(window - window.max(2, keepdims=True))


def positive_weights(window):
    """Zeiler and Fergus 2013, equation 4."""
    return np.maximum(window, 0)


def stochastic_pool(x, axes, u):
    """(y, at): the first tap at which the running sum of positive values reaches u times the whole; else (0, -1)."""
    y = np.zeros((*x.shape[:2], *map(len, axes)))
    at = np.full(y.shape, -1, np.int64)
    for index, positions, _ in _each_window(axes):
        flat = [np.ravel_multi_index(p, x.shape[2:]) for p in product(*positions)]
        for n, c in product(*map(range, x.shape[:2])):
            values = np.maximum(x[n, c].ravel()[flat].astype(np.float64), 0)
            if values.sum() > 0:
                drawn = next(
                    i
                    for i in range(len(flat))
                    if values[i] > 0 and values[: i + 1].sum() >= u[n, c][index] * values.sum()
                )
                y[n, c][index], at[n, c][index] = values[drawn], flat[drawn]
    return y, at


def blur_pool(x, kernel, stride, mode):
    """Zhang 2019, section 3.2: pad, filter with binomial coefficients, keep every stride-th; axis after axis."""
    y = x.astype(np.float64)
    for axis in range(2, x.ndim):
        k, s = each(kernel, x.ndim - 2)[axis - 2], each(stride, x.ndim - 2)[axis - 2]
        b = np.array([1.0])
        for _ in range(k - 1):
            b = np.convolve(b, [0.5, 0.5])
        pads = [(0, 0)] * x.ndim
        pads[axis] = (k - 1) // 2, k // 2
        padded = np.pad(y, pads, {"zeros": "constant", "replicate": "edge"}.get(mode, mode))
        y = np.apply_along_axis(lambda line, b=b, s=s: np.convolve(line, b, "valid")[::s], axis, padded)
    return y


def _bilinear(plane, y, x):
    """He et al. 2017, section 3: outside by more than 1 is 0, by less is moved to the border."""
    h, w = plane.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    y0, x0 = int(y), int(x)
    y1, x1, dy, dx = min(y0 + 1, h - 1), min(x0 + 1, w - 1), y - y0, x - x0
    top = plane[y0, x0] * (1 - dx) + plane[y0, x1] * dx
    return top * (1 - dy) + (plane[y1, x0] * (1 - dx) + plane[y1, x1] * dx) * dy


def roi_align(x, boxes, size, scale=1.0, ratio=-1, aligned=False):
    """boxes (K, 5); each bin the mean of its samples."""
    out = np.zeros((len(boxes), x.shape[1], *size))
    for k, (n, *box) in enumerate(boxes):
        left, top, right, bottom = (v * scale - (0.5 if aligned else 0) for v in box)
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        bh, bw = height / size[0], width / size[1]
        gh, gw = (ratio, ratio) if ratio > 0 else (ceil(bh), ceil(bw))
        for c, i, j in product(range(x.shape[1]), range(size[0]), range(size[1])):
            samples = [
                _bilinear(x[int(n), c], top + (i + (a + 0.5) / gh) * bh, left + (j + (b + 0.5) / gw) * bw)
                for a, b in product(range(gh), range(gw))
            ]
            out[k, c, i, j] = sum(samples) / max(len(samples), 1)
    return out


def roi_pool(x, boxes, size, scale=1.0):
    """boxes (K, 5); the maximum of each bin of the rounded box, 0 for an empty one."""
    out = np.zeros((len(boxes), x.shape[1], *size))
    for k, (n, *box) in enumerate(boxes):
        left, top, right, bottom = (floor(abs(v * scale) + 0.5) * (1 if v >= 0 else -1) for v in box)
        bh, bw = max(bottom - top + 1, 1) / size[0], max(right - left + 1, 1) / size[1]
        for i, j in product(range(size[0]), range(size[1])):
            rows = range(max(top + floor(i * bh), 0), min(top + ceil((i + 1) * bh), x.shape[2]))
            columns = range(max(left + floor(j * bw), 0), min(left + ceil((j + 1) * bw), x.shape[3]))
            if rows and columns:
                out[k, :, i, j] = x[int(n)][:, rows][:, :, columns].max((1, 2))
    return out
