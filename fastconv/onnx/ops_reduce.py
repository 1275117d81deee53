"""ONNX operators that reduce axes."""

import numpy as np

from .ops_shape import axes_of
from .table import in_float, op


def _logsumexp(x, axes, keep):
    if any(x.shape[a] == 0 for a in axes):
        return np.log(np.exp(x).sum(axis=axes, keepdims=keep))
    peak = x.max(axis=axes, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    total = np.log(np.exp(x - peak).sum(axis=axes, keepdims=True)) + peak
    return total if keep else total.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _extreme(function, least):
    """Of nothing: the number that is neutral."""

    def reduce(x, axes, keep):
        if x.dtype == bool:
            first, empty = False, least
        elif x.dtype.kind not in "iu":
            first, empty = -np.inf, np.inf
        else:
            first, empty = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
        if x.dtype == bool:
            return function(x.astype(np.uint8), axis=axes, keepdims=keep, initial=0 if not least else 1) != 0
        return function(x, axis=axes, keepdims=keep, initial=empty if least else first)

    return reduce


_REDUCE = {
    "ReduceSum": lambda x, axes, keep: x.sum(axis=axes, keepdims=keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axis=axes, keepdims=keep).astype(x.dtype),
    "ReduceProd": lambda x, axes, keep: x.prod(axis=axes, keepdims=keep, dtype=x.dtype),
    "ReduceMax": _extreme(np.max, False),
    "ReduceMin": _extreme(np.min, True),
    "ReduceL1": lambda x, axes, keep: np.abs(x).sum(axis=axes, keepdims=keep, dtype=x.dtype),
    "ReduceL2": lambda x, axes, keep: np.sqrt(np.square(x).sum(axis=axes, keepdims=keep, dtype=x.dtype)),
    "ReduceLogSum": lambda x, axes, keep: np.log(x.sum(axis=axes, keepdims=keep)),
    "ReduceLogSumExp": _logsumexp,
    "ReduceSumSquare": lambda x, axes, keep: np.square(x).sum(axis=axes, keepdims=keep, dtype=x.dtype),
}


def _reduction(name):
    function = _REDUCE[name]

    def evaluate(node, x, axes=None):
        chosen = axes_of(node, axes, x.ndim)
        if not chosen:
            if node.get("noop_with_empty_axes", 0) and node.opset >= 13:
                chosen = ()
            else:
                chosen = tuple(range(x.ndim))
        if chosen == () and x.ndim and name in ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"):
            return x.copy()
        result = np.asarray(function(x, chosen, bool(node.get("keepdims", 1))))
        return result.astype(x.dtype, copy=False)

    op(name)(evaluate)


for _name in _REDUCE:
    _reduction(_name)


@op("ArgMax", "ArgMin")
def arg_extreme(node, x):
    """Where the largest (smallest) is along an axis: the first, or the last of equals."""
    axis, find = node.get("axis", 0), np.argmax if node.op == "ArgMax" else np.argmin
    if node.get("select_last_index", 0):
        found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis)
    else:
        found = find(x, axis=axis)
    return np.asarray(np.expand_dims(found, axis) if node.get("keepdims", 1) else found).astype(np.int64)


@op("LpNormalization")
@in_float
def lp_normalization(node, x):
    """x / norm along an axis; 0 where the norm is 0."""
    axis, p = node.get("axis", -1), node.get("p", 2)
    norm = np.abs(x).sum(axis, keepdims=True) if p == 1 else np.sqrt(np.square(x).sum(axis, keepdims=True))
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm)).astype(x.dtype)


@op("MeanVarianceNormalization")
@in_float
def mean_variance(node, x):
    """(x - mean) / deviation over the axes."""
    axes = tuple(node.get("axes", (0, 2, 3)))
    centred = x - x.mean(axis=axes, keepdims=True)
    return centred / (np.sqrt(np.square(centred).mean(axis=axes, keepdims=True)) + x.dtype.type(1e-9))
