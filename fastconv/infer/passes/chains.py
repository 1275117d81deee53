"""Products and sums with one number for each channel: several in a row become one scale and shift, which goes into the
weights of the layer before it as batch norm does or, where nothing is padded, into those of the convolution after it.
"""

from typing import Any

import numpy as np

from ..problems import pairs
from .batch_norm import epsilon, parameters_of, scale_and_shift
from .rewrite import add_constant, constant, drop, only_reader

_SCALES = ("add", "sub", "mul", "div", "affine")
_WEIGHTED = ("conv", "linear", "conv_transpose")


def run(graph, derived):
    types = graph.types()
    _join(graph, derived, types)
    _into_following(graph, derived)
    return graph


# ---- chains


def _join(graph, derived, types):
    """Chains become one affine operation."""
    readers, gone = graph.consumers(), set()
    for node in list(graph.nodes):
        if id(node) in gone or _operands(graph, node, types) is None:
            continue
        chain = [node]
        while True:
            follower = only_reader(graph, chain[-1].outputs[0], readers)
            found = None if follower is None else _operands(graph, follower, types)
            if found is None or found[0] != chain[-1].outputs[0]:
                break
            chain.append(follower)
        if len(chain) > 1:
            _replace(graph, derived, types, chain)
            gone.update(map(id, chain))
            readers = graph.consumers()


def _operands(graph, node, types) -> Any:
    """(name of x, the names of the constants) of a node that scales or shifts channels, else None."""
    if node.op not in _SCALES or any(node.attrs.get(bound) is not None for bound in ("low", "high")):
        return None
    if node.op == "affine":
        known = all(constant(graph, name) is not None for name in node.inputs[1:])
        return (node.inputs[0], node.inputs[1:]) if known else None
    orders = (node.inputs,) if node.op in ("sub", "div") else (node.inputs, node.inputs[::-1])
    for x, other in orders:
        array, t = constant(graph, other), types.get(x)
        if array is None or t is None or t.shape is None or constant(graph, x) is not None:
            continue
        if len(t.shape) >= 2 and t == types[node.outputs[0]] and _is_by_channel(array.shape, t.shape):
            return x, (other,)
    return None


def _is_by_channel(shape, onto):
    """Whether an array of this shape has at most a value for each channel."""
    full = (1,) * (len(onto) - len(shape)) + tuple(shape)
    return all(size == 1 for axis, size in enumerate(full) if axis != 1)


def _combined(*arrays, ops, channels):
    """(scale, shift) of a chain: arrays are its constants, ops its operations in order."""
    scale, shift, arrays = np.ones(channels), np.zeros(channels), list(arrays)
    dtype = arrays[0].dtype
    for op in ops:
        first = np.broadcast_to(arrays.pop(0).astype(np.float64).reshape(-1), channels)
        if op in ("add", "sub"):
            shift = shift + (first if op == "add" else -first)
            continue
        factor = 1 / first if op == "div" else first
        scale, shift = scale * factor, shift * factor
        if op == "affine":
            shift = shift + arrays.pop(0).astype(np.float64)
    return scale.astype(dtype), shift.astype(dtype)


def _replace(graph, derived, types, chain):
    found = [_operands(graph, node, types) for node in chain]
    arrays = [graph.constants[name] for _, names in found for name in names]
    channels = types[found[0][0]].shape[1]
    made = derived(_combined, *arrays, ops=tuple(node.op for node in chain), channels=channels)
    stem, last = chain[-1].outputs[0], chain[-1]
    names = [add_constant(graph, f"{stem}_{word}", array) for word, array in zip(("scale", "shift"), made, strict=True)]
    drop(graph, chain[:-1])
    last.notes.append(f"{', '.join(node.name or node.op for node in chain)} as one scale and shift")
    last.op, last.attrs, last.inputs = "affine", {}, (found[0][0], *names)


# ---- into the convolution that follows


def _into_following(graph, derived):
    readers = graph.consumers()
    for node in [node for node in graph.nodes if node.op in ("batch_norm", "affine")]:
        conv = only_reader(graph, node.outputs[0], readers)
        if conv is None or conv.op != "conv" or conv.inputs[0] != node.outputs[0]:
            continue
        parameters = parameters_of(graph, derived, node)
        w, b = (constant(graph, name) for name in (*conv.inputs, None)[1:3])
        padding = conv.attrs.get("padding", 0)
        padded = isinstance(padding, str) or any(map(sum, pairs(padding, 1 if w is None else w.ndim - 2)))
        biased = len(conv.inputs) > 2 and conv.inputs[2] is not None
        producer = graph.producers().get(node.inputs[0])
        before = producer is not None and producer.op in _WEIGHTED and len(readers[node.inputs[0]]) == 1
        if padded or before or w is None or (biased and b is None) or parameters is None:
            continue
        settings = {"eps": epsilon(node), "groups": conv.attrs.get("groups", 1)}
        made = derived(_spread, w, b, *parameters, **settings)
        weight, bias = (
            add_constant(graph, f"{conv.inputs[1]}_{word}", array)
            for word, array in zip(("scaled", "shifted"), made, strict=True)
        )
        conv.inputs = (node.inputs[0], weight, bias, *conv.inputs[3:])
        conv.notes.append(f"scale and shift {node.name} before it folded into the weights")
        drop(graph, [node])


def _spread(w, b, mean, var, weight, bias, eps, groups):
    """Weights and bias of a convolution of x scale + shift, on x itself."""
    scale, shift = scale_and_shift(mean.astype(np.float64), var, weight, bias, eps)
    per = w.shape[1]  # input channels of a group
    by_group = w.reshape(groups, w.shape[0] // groups, per, -1).astype(np.float64)
    moved = np.einsum("gopt,gp->go", by_group, shift.reshape(groups, per)).reshape(-1)
    scaled = by_group * scale.reshape(groups, 1, per, 1)
    return scaled.reshape(w.shape).astype(w.dtype), (moved if b is None else moved + b).astype(w.dtype)
