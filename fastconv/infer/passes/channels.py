"""Stretches with the channels last are computed on images as they lie: linear layers become 1x1 convolutions, layer
norms of the last axis norms over channels, and the permutations on both ends go.

Every value between a permutation to channels last and what can't be turned round has a twin with the channels in
place; values that are still wanted with channels last are made from their twins.  The new graph is taken if fewer
elements are moved in it.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from ..graph import Node
from ..ops import UNARY
from . import dead
from .rewrite import add_constant, constant

_ELEMENTWISE = UNARY - {"softmax", "log_softmax"}
_BINARY = {"add", "sub", "mul", "div"}


class Twin(NamedTuple):
    """A value (n, c, *size) that another one is with the channels last: (n, *size, c), or (pixels, c) where `flat`."""

    name: str
    shape: tuple
    flat: bool

    def last(self):
        """The shape of the other."""
        n, c, *size = self.shape
        return (n * prod(size), c) if self.flat else (n, *size, c)


def run(graph, derived):
    permutes = [node for node in graph.nodes if node.op == "permute" and _to_last(node)]
    if not permutes:
        return graph
    turned = _Turning(graph.copy(), derived).run()
    before, after = _moved(graph), _moved(turned)
    if after < before:
        return turned
    for node in permutes:
        node.notes.append(f"channels stay last: turned round, {after} elements would be moved, now {before}")
    return graph


def _moved(graph):
    """Elements that permutations move."""
    types = graph.types()
    return sum(prod(types[node.outputs[0]].shape or ()) for node in graph.nodes if node.op == "permute")


def _to_last(node):
    axes, n = tuple(node.attrs["axes"]), len(node.attrs["axes"])
    return n >= 3 and axes == (0, *range(2, n), 1)


def _to_first(node):
    axes, n = tuple(node.attrs["axes"]), len(node.attrs["axes"])
    return n >= 3 and axes == (0, n - 1, *range(1, n - 1))


class _Turning:
    """One run over a graph."""

    def __init__(self, graph, derived):
        self.graph, self.derived, self.types = graph, derived, graph.types()
        self.twins, self.nodes = {}, []

    def run(self):
        turn = {"permute": self._permute, "reshape": self._reshape, "linear": self._linear}
        turn |= {"layer_norm": self._norm, **dict.fromkeys(_ELEMENTWISE, self._unary)}
        turn |= dict.fromkeys(_BINARY, self._binary)
        for node in self.graph.nodes:
            if not (node.op in turn and turn[node.op](node)):
                self.nodes.append(node)
        self.graph.nodes = self.nodes
        return dead.run(self.graph)

    def _twin(self, name, flat=None):
        twin = self.twins.get(name)
        return twin if twin is not None and flat in (None, twin.flat) else None

    def _make(self, node, op, inputs, attrs, like, channels):
        """The node's result with the channels in place, and from it the result itself, for those who read it."""
        out = node.outputs[0]
        name = f"{out}_image"
        while name in self.types:
            name += "_"
        twin = Twin(name, (like.shape[0], channels, *like.shape[2:]), like.flat)
        note = "" if op == node.op else f"{node.op}, "
        notes = [*node.notes, f"{note}channels in place instead of last"]
        self.nodes.append(Node(op, tuple(inputs), (name,), attrs, node.name, notes))
        axes, wide = (0, *range(2, len(twin.shape)), 1), twin._replace(flat=False).last()
        if like.flat:
            self.nodes.append(Node("permute", (name,), (f"{name}_last",), {"axes": axes}, node.name))
            self.nodes.append(
                Node("reshape", (f"{name}_last",), (out,), {"shape": (prod(wide[:-1]), channels)}, node.name)
            )
        else:
            self.nodes.append(Node("permute", (name,), (out,), {"axes": axes}, node.name))
        self.twins[out] = twin
        return True

    def _permute(self, node):
        source, (out,) = node.inputs[0], node.outputs
        twin = self._twin(source, flat=False)
        if twin is not None and _to_first(node):
            self.nodes.append(Node("identity", (twin.name,), (out,), {}, node.name))
            return True
        if _to_last(node) and self.types[source].shape is not None:
            self.twins[out] = Twin(source, self.types[source].shape, False)
        return False

    def _reshape(self, node):
        twin, shape = self._twin(node.inputs[0]), self.types[node.outputs[0]].shape
        if twin is not None:
            for flat in (False, True):
                same = twin._replace(flat=flat)
                if same.last() == shape:
                    self.twins[node.outputs[0]] = same
        return False

    def _unary(self, node):
        twin = self._twin(node.inputs[0])
        if twin is None or len(node.inputs) != 1:
            return False
        return self._make(node, node.op, (twin.name,), node.attrs, twin, twin.shape[1])

    def _norm(self, node):
        twin = self._twin(node.inputs[0], flat=True)
        if twin is None:
            return False
        return self._make(node, "channel_norm", (twin.name, *node.inputs[1:]), node.attrs, twin, twin.shape[1])

    def _linear(self, node):
        twin, weight = self._twin(node.inputs[0], flat=True), constant(self.graph, node.inputs[1])
        if twin is None or weight is None:
            return False
        kernel = (1,) * (len(twin.shape) - 2)
        w = self._constant(f"{node.inputs[1]}_1x1", weight, (*weight.shape, *kernel))
        bounds = {key: node.attrs[key] for key in ("low", "high") if key in node.attrs}
        attrs = {"stride": kernel, "padding": (0,) * len(kernel), "dilation": kernel, "groups": 1, **bounds}
        return self._make(node, "conv", (twin.name, w, *node.inputs[2:]), attrs, twin, weight.shape[0])

    def _binary(self, node):
        twins, arrays = [self._twin(name) for name in node.inputs], [constant(self.graph, name) for name in node.inputs]
        like = twins[0] or twins[1]
        if like is None:
            return False
        inputs = []
        for name, twin, array in zip(node.inputs, twins, arrays, strict=True):
            if twin is not None and twin == like._replace(name=twin.name):
                inputs.append(twin.name)
            elif array is not None and prod(array.shape) in (1, array.shape[-1] if array.ndim else 1):
                column = () if array.size == 1 else (array.size, *(1,) * (len(like.shape) - 2))
                inputs.append(self._constant(f"{name}_column", array, column))
            else:
                return False
        shape = np.broadcast_shapes(*(a.shape for a in arrays if a is not None), like.last())
        if shape != like.last():
            return False
        return self._make(node, node.op, inputs, node.attrs, like, like.shape[1])

    def _constant(self, stem, array, shape):
        """The name of a constant in another shape."""
        return add_constant(self.graph, stem, self.derived(reshaped, array, shape=shape))


def reshaped(array, shape):
    """The array in another shape; itself, not a copy."""
    return array.reshape(shape)
