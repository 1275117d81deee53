"""Windows of convolutions and poolings: sizes, padding, views."""

import numpy as np

from .table import bounded


def explicit_pads(node, sizes, kernel, stride, dilation):
    """((before, after), ...) for each spatial axis, whatever way the node says it."""
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", "", None):
        pads = node.get("pads") or (0,) * (2 * len(sizes))
        if len(pads) != 2 * len(sizes):
            raise ValueError(f"wants {2 * len(sizes)} pads, given {len(pads)}")
        return tuple(zip(pads[: len(sizes)], pads[len(sizes) :], strict=True))
    if auto == "VALID":
        return ((0, 0),) * len(sizes)
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, given {auto!r}")
    pairs = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        small = total // 2
        pairs.append((small, total - small) if auto == "SAME_UPPER" else (total - small, small))
    return tuple(pairs)


def per_axis(node, name, ndim, default=1):
    """An attribute with one number for each spatial axis."""
    values = tuple(node.get(name) or (default,) * ndim)
    if len(values) != ndim or any(v < 1 for v in values):
        raise ValueError(f"{name} must be {ndim} numbers from 1 on, given {values}")
    return values


def pooled_size(size, k, s, d, before, after, ceil):
    """How many windows there are along an axis; none begins behind the image and its padding before."""
    room = size + before + after - d * (k - 1) - 1
    if room < 0 and not ceil:
        raise ValueError(f"a window of {d * (k - 1) + 1} does not fit into {size + before + after}")
    count = -(-room // s) + 1 if ceil else room // s + 1
    if ceil and (count - 1) * s >= size + before:
        count -= 1
    return max(count, 0)


def windows(x, fill, out, kernel, stride, dilation, pairs):
    """A view (N, C, out..., kernel...) of x with `fill` around it, wide enough for every window."""
    extra = []
    for size, o, k, s, d, (before, _) in zip(x.shape[2:], out, kernel, stride, dilation, pairs, strict=True):
        extra.append((before, max(0, (o - 1) * s + d * (k - 1) + 1 - size - before)))
    bounded((*x.shape[:2], *(n + a + b for n, (a, b) in zip(x.shape[2:], extra, strict=True))), x.dtype)
    padded = np.pad(x, [(0, 0), (0, 0), *extra], constant_values=fill)
    ndim = len(out)
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, tuple(range(2, 2 + ndim)))
    key = [slice(None), slice(None)]
    key += [slice(0, (o - 1) * s + 1, s) for o, s in zip(out, stride, strict=True)]
    key += [slice(None, None, d) for d in dilation]
    return view[tuple(key)]
