"""Backward: the walk through the graph that `op.py` records.

A node is numbered when it is made, after all nodes it depends on, so "highest number first" is an order in which every
gradient is complete before it is used. The engine is therefore a heap: not recursive, and dependent on nothing but the
order in which the user's program ran.
"""

import contextlib
import heapq

import numpy as np

from .._device import ARRAYS, as_array, device_of
from .._memory import is_pooled
from .op import Variable, enable_grad, wrap


class _Sum:
    """A gradient while it is collected; `owned` tells whether the engine may write into it."""

    __slots__ = ("owned", "total")

    def __init__(self):
        self.total = None
        self.owned = False

    def add(self, g, owned):
        if self.total is None:
            self.total, self.owned = g, owned
        elif self.owned:
            np.add(self.total, g, out=self.total)
        else:
            self.total = self.total + g
            self.owned = isinstance(self.total, ARRAYS)


class _Walk:
    """One backward pass. `targets`: None, or the set of leaf ids and (node, index) pairs whose gradients are wanted."""

    def __init__(self, roots, retain_graph, create_graph, targets):
        self.retain_graph = retain_graph
        self.create_graph = create_graph
        self.targets = targets
        self.wanted = None if targets is None else _wanted_nodes(roots, targets)
        self.heap = []
        self.pending = {}
        self.found = {}

    def run(self):
        # A derivative that is infinite or undefined at a point is a number like any other here: no NumPy warnings.
        with np.errstate(all="ignore"), enable_grad() if self.create_graph else contextlib.nullcontext():
            while self.heap:
                node = heapq.heappop(self.heap)[1]
                self._step(node, self.pending.pop(node))

    def send(self, edge, g, owned):
        """Add `g` to the gradient of what `edge` leads to."""
        if not isinstance(edge, tuple):
            if self.targets is None:
                _accumulate(edge, g, owned)
            elif id(edge) in self.targets:
                self.found.setdefault(id(edge), _Sum()).add(g, owned)
            return
        node, index = edge
        goes_on = self.wanted is None or node in self.wanted
        if self.targets is not None and edge in self.targets:
            self.found.setdefault(edge, _Sum()).add(g, owned and not goes_on)
            owned = False
        if goes_on:
            if node not in self.pending:
                self.pending[node] = [None] * len(node.metas)
                heapq.heappush(self.heap, (-node.number, node))
            slots = self.pending[node]
            if slots[index] is None:
                slots[index] = _Sum()
            slots[index].add(g, owned)

    def _step(self, node, slots):
        grads = [None if s is None else s.total for s in slots]
        if self.wanted is None:
            needs = tuple([e is not None for e in node.edges])
        else:
            needs = tuple([_is_wanted(e, self.wanted, self.targets) for e in node.edges])
        out = node.run(grads, needs, self.create_graph)
        may_own = not (self.retain_graph or self.create_graph)
        others = list(map(id, (*out, *grads, *node.ctx.saved))) if may_own else ()
        for i, (edge, g) in enumerate(zip(node.edges, out, strict=True)):
            if needs[i] and g is not None:
                g = _checked(node, i, g, self.create_graph)
                self.send(edge, g, may_own and _is_ours(g, others))
        if not self.retain_graph:
            node.release()


def _checked(node, i, g, create_graph):
    """The gradient `g` of argument i in the argument's shape and dtype, as an array, or as a Tensor if create_graph."""
    shape, dtype = node.meta(i)
    if g.shape != shape:
        raise RuntimeError(f"{node.op.name}: gradient of argument {i} has shape {g.shape}, the argument has {shape}")
    if g.dtype != dtype:
        g = g.astype(dtype)
    if create_graph:
        return g if isinstance(g, Variable) else wrap(g)
    return as_array(g)


def _is_ours(g, others):
    """Whether nobody else holds `g`: it owns its memory, and the rule neither was given it nor returned it twice.

    others: the ids of what the rule was given and returned."""
    owner = g.base is None or is_pooled(g)
    return owner and g.flags.writeable and others.count(id(g)) <= 1


def _wanted_nodes(roots, targets):
    """The nodes on a path from a root to a target."""
    seen, stack = set(), [r._node for r in roots if r._node is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(e[0] for e in node.edges if isinstance(e, tuple))
    wanted = set()
    for node in sorted(seen, key=lambda n: n.number):
        if any(_is_wanted(e, wanted, targets) for e in node.edges):
            wanted.add(node)
    return wanted


def _is_wanted(edge, wanted, targets):
    if isinstance(edge, tuple):
        return edge in targets or edge[0] in wanted
    return edge is not None and id(edge) in targets


def _accumulate(leaf, g, owned):
    """Add to `leaf.grad`, in place unless the sum itself is part of a graph."""
    before = leaf._grad
    if before is None:
        if not isinstance(g, Variable):
            leaf._grad = wrap(g if owned else g.copy())
        else:
            leaf._grad = g if g._node is not None else wrap(g._data.copy())
    elif isinstance(g, Variable) or before._node is not None:
        leaf._grad = before + g
    else:
        np.add(before._data, g, out=before._data)
        before._version += 1


def _edge(x):
    """The key under which the engine knows the tensor `x`, as an edge."""
    return x if x._node is None else (x._node, x._index)


def _key(x):
    return id(x) if x._node is None else (x._node, x._index)


def _seed(out, g, i, create_graph):
    """The gradient to start from for output `i`: ones for a scalar, else `g`, checked."""
    if not isinstance(out, Variable):
        raise TypeError(f"output {i} is a {type(out).__name__}, not a Tensor: it has no graph")
    if not out._needs:
        raise RuntimeError(f"output {i} does not require a gradient and was made by no recorded operation")
    if g is None:
        if out._data.size != 1:
            raise RuntimeError(f"only a scalar needs no gradient to start from; output {i} has shape {out._data.shape}")
        g = np.ones_like(out._data)
    array = g._data if isinstance(g, Variable) else as_array(g)
    if device_of(array) != device_of(out._data):
        given = f"gradient {i} is on {device_of(array)}, the output on {device_of(out._data)}"
        raise RuntimeError(f"{given}; move it with .to({device_of(out._data)!r})")
    if array.shape != out._data.shape:
        raise RuntimeError(f"gradient {i} has shape {array.shape}, the output has {out._data.shape}")
    if not create_graph:
        return array.astype(out._data.dtype, copy=False)
    g = g if isinstance(g, Variable) else wrap(array)
    return g if array.dtype == out._data.dtype else g.astype(out._data.dtype)  # pyright: ignore[reportAttributeAccessIssue]


def backward(outputs, grads, retain_graph=False, create_graph=False, targets=None):
    """Send `grads` (None, arrays or Tensors) back from `outputs`.

    Without `targets` every leaf that needs one accumulates its `.grad`. With `targets`, a set of keys, only those
    gradients are computed, and returned as a dict; nothing is accumulated. Raises RuntimeError for an output without a
    graph, a missing gradient of a non-scalar, or a gradient of another shape than its output.
    """
    seeds = [_seed(out, g, i, create_graph) for i, (out, g) in enumerate(zip(outputs, grads, strict=True))]
    walk = _Walk(outputs, retain_graph, create_graph, targets)
    for out, g in zip(outputs, seeds, strict=True):
        walk.send(_edge(out), g, False)
    walk.run()
    return {key: s.total for key, s in walk.found.items()}


def grad(outputs, inputs, grad_outputs=None, retain_graph=None, create_graph=False, allow_unused=False):
    """Gradients of `outputs` with respect to `inputs`, as a tuple of Tensors; no `.grad` is touched.

    `outputs`, `inputs`, `grad_outputs`: a Tensor or a sequence of Tensors. `grad_outputs` may be left out for scalars.
    `create_graph=True` records the computation, so that the results can be differentiated again. `retain_graph` is
    `create_graph` unless given. Raises RuntimeError for an input that takes no part in the outputs, unless
    `allow_unused`, which gives None for it.
    """
    outputs = _as_tuple(outputs)
    inputs = _as_tuple(inputs)
    grads = (None,) * len(outputs) if grad_outputs is None else _as_tuple(grad_outputs)
    if len(grads) != len(outputs):
        raise ValueError(f"grad: {len(grads)} gradients given for {len(outputs)} outputs")
    for i, x in enumerate(inputs):
        if not isinstance(x, Variable):
            raise TypeError(f"grad: input {i} is a {type(x).__name__}, not a Tensor")
        if not x._needs:
            raise RuntimeError(f"grad: input {i} does not require a gradient")
    retain_graph = create_graph if retain_graph is None else retain_graph
    found = backward(outputs, grads, retain_graph, create_graph, {_key(x) for x in inputs})
    results = []
    for i, x in enumerate(inputs):
        g = found.get(_key(x))
        if g is None and not allow_unused:
            raise RuntimeError(f"grad: input {i} takes no part in the outputs; allow_unused=True gives None for it")
        if isinstance(g, ARRAYS):
            g = wrap(g if g.flags.writeable else g.copy())
        results.append(g)
    return tuple(results)


def _as_tuple(x):
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)
