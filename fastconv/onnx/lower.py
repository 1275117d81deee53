"""From a model to the graph of compiled networks, for inputs of known types.

What depends on weights and shapes alone is computed here, once.  Of the rest, operators with kernels become operations
of `fastconv.infer` (`rules.py`); every other one is a step of Python, the very function that evaluates it node by node.
"""

import numpy as np

from ..infer import CompiledNetwork, Graph, OpDef, Type, register
from ..infer import Node as Step
from ..infer.ops import infer_types
from .evaluate import REFUSALS, Scope, apply, check_dtypes
from .patterns import fuse
from .table import Body, ModelError, Node, bounded, lookup

RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
UNKNOWN = {"NonZero", "Compress", "Unique", "NonMaxSuppression", "If", "Loop", "Scan", "Call", "CallTyped", "Range"}
_REDUCED = ("Sum", "Mean", "Prod", "Max", "Min", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
# operator -> the inputs that its output's shape depends on
SHAPED_BY = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "TopK": (1,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "OneHot": (1,),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "ConstantOfShape": (0,),
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "MaxUnpool": (2,),
    "DFT": (1, 2),
    "STFT": (1, 3),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
    "MelWeightMatrix": (0, 1),
    "CumSum": (1,),
    "CumProd": (1,),
    "Trilu": (1,),
    **{f"Reduce{n}": (1,) for n in _REDUCED},
}
FOLD_BYTES = 1 << 28
INLINE_DEPTH = 20
MOST_PLANNED = 20_000  # nodes; more are run one by one: planning them takes longer than anybody waits


def network(model):
    """The CompiledNetwork of a model, or None where a plan can't hold its values (text, sequences, unknown types) or
    nodes (`MOST_PLANNED`)."""
    values = [*model.inputs, *model.outputs]
    if any(v.kind != "tensor" for v in values) or any(
        v.dtype is None or v.dtype.kind not in "fiub" for v in model.inputs
    ):
        return None
    if not model.inputs or not _plain(model.body) or _count(model.body) > MOST_PLANNED:
        return None
    shapes = {
        v.name: None if v.shape is None else tuple(n if isinstance(n, int) else 1 for n in v.shape)
        for v in model.inputs
    }
    example = {value.name: Type(shapes[value.name], value.dtype) for value in model.inputs}
    memo = {}
    return CompiledNetwork(lambda types: Lowering(model, types, memo).graph(), example)


def _count(body):
    """The number of nodes, those of bodies in bodies too."""
    inner = (value for node in body.nodes for value in node.attrs.values() if isinstance(value, Body))
    return len(body.nodes) + sum(map(_count, inner))


def _plain(body):
    """Whether all values are arrays of numbers."""
    for node in body.nodes:
        if "Sequence" in node.op or "Optional" in node.op or (node.op == "CallTyped" and "call" not in node.attrs):
            return False
        if (node.op == "Cast" and node.get("to") == 8) or "value_string" in node.attrs or "value_strings" in node.attrs:
            return False
        if any(isinstance(value, Body) and not _plain(value) for value in node.attrs.values()):
            return False
    arrays = [*body.constants.values(), *(n.get("value") for n in body.nodes)]
    return all(not isinstance(a, np.ndarray) or a.dtype.kind in "fiub" for a in arrays)


class Lowering:
    """Makes one Graph.  memo: {key: (things kept alive, result)}, shared by all graphs of a model, so that weights made
    of weights are the same arrays in each."""

    def __init__(self, model, types, memo):
        self._model, self._memo = model, memo
        self._inputs = {name: Type(*t) for name, t in types.items()}
        self.types = dict(self._inputs)
        self.known = {}  # name -> array: what does not depend on the inputs' values
        self.steps, self._taken = [], set(types)

    def graph(self):
        """The Graph, checked by whoever compiles it."""
        names = {name: name for name in self._inputs}
        self._body(self._model.body, names, "", 0)
        outputs = []
        for value in self._model.outputs:
            name = names[value.name]
            if name in self._inputs or name in self.known or name in outputs or name != value.name:
                name = self._renamed(name, value.name)
            outputs.append(name)
        self.steps = fuse(self)
        used = {name for step in self.steps for name in step.inputs if name}
        constants = {name: self.known[name] for name in used if name in self.known}
        return Graph(self.steps, self._inputs, outputs, constants)

    def _renamed(self, name, wanted):
        """An output of its own that is the same as another value."""
        if wanted in self._inputs:
            raise ModelError(f"{wanted!r} is an input and an output")
        if wanted in self.known:
            self.known[name := self.fresh(wanted)] = self.known.pop(wanted)
        self.steps.append(Step("identity", (name,), (wanted,), {}, f"Identity {wanted!r}"))
        self.types[wanted] = self.type(name)
        return wanted

    # ---- nodes

    def _body(self, body, names, prefix, depth):
        """Lowers the nodes of a body; names: {name in the body: name in the graph}, filled here."""
        for name, array in body.constants.items():
            if name not in names:
                names[name] = self.fresh(prefix + name)
                self.known[names[name]] = array
        for node in body.nodes:
            inputs = [None if name is None else names[name] for name in node.inputs]
            inside = next(self._inlined(node, inputs), None) if depth < INLINE_DEPTH else None
            if inside is not None:
                self._inline(node, inside, inputs, names, f"{prefix}{node.name or node.op}/", depth)
                continue
            outputs = [None if name is None else self.fresh(prefix + name) for name in node.outputs]
            names.update((n, o) for n, o in zip(node.outputs, outputs, strict=True) if n)
            self._node(node, inputs, outputs, names)

    def _inlined(self, node, inputs):
        """The body that certainly runs, if there is one."""
        if node.op == "Call":
            yield node.attrs["body"]
        elif node.op == "If" and inputs[0] in self.known and self.known[inputs[0]].size == 1:
            yield node.attrs["then_branch" if self.known[inputs[0]].reshape(-1)[0] else "else_branch"]

    def _inline(self, node, body, inputs, names, prefix, depth):
        inner = dict(names) if node.op == "If" else {}
        if node.op == "If":
            for value in body.nodes:  # its own names hide those around it
                for name in value.outputs:
                    inner.pop(name, None)
        else:
            given = [*inputs, *[None] * len(body.inputs)]
            inner.update((v.name, g) for v, g in zip(body.inputs, given, strict=False))
        self._body(body, inner, prefix, depth + 1)
        names.update((n, inner[v.name]) for n, v in zip(node.outputs, body.outputs, strict=False) if n)

    def _node(self, node, inputs, outputs, names):
        from . import rules_sequence  # noqa: F401  (it adds its own)
        from .rules import RULES

        check_dtypes(node, [None if name is None else self.type(name).dtype for name in inputs])
        if self._folded(node, inputs, outputs, names):
            return
        rule = RULES.get(node.op)
        standard = node.domain in ("", "ai.onnx") and any(inputs)
        if rule is not None and standard and all(n is None or self.sized(n) for n in inputs):
            before = len(self.steps)
            try:
                if rule(self, node, inputs, outputs):
                    return
            except REFUSALS:
                pass  # the kernels are stricter than ONNX: the function of the table decides
            del self.steps[before:]
        self._python(node, inputs, outputs, names)

    def _folded(self, node, inputs, outputs, names):
        """Whether the outputs are known now, without the inputs' values."""
        if node.op in ("Shape", "Size") and inputs[0] not in self.known and self.sized(inputs[0]):
            shape = np.broadcast_to(np.zeros((), np.int8), self.type(inputs[0]).shape)
            self.known[outputs[0]] = apply(node, [shape])[0]
            return True
        entry = lookup(node.op, node.domain)
        training = node.op == "Dropout" and len(inputs) > 2
        if entry is None or node.op in RANDOM or training or any(n is not None and n not in self.known for n in inputs):
            return False
        outer = self._captured(node, names)
        if any(n not in self.known for n in outer.values()):
            return False
        arrays = [None if n is None else self.known[n] for n in inputs]
        if not arrays and node.op == "Constant":
            results = apply(node, [])
        else:
            scope = Scope({name: self.known[n] for name, n in outer.items()})
            results = self.kept((id(node), *map(id, arrays)), [node, *arrays], lambda: apply(node, arrays, scope))
        if any(not isinstance(r, np.ndarray) or r.nbytes > FOLD_BYTES for r in results):
            return False
        self.known.update((n, r) for n, r in zip(outputs, results, strict=False) if n)
        return True

    def kept(self, key, things, make):
        """A result that later graphs get too, as long as it is worth keeping."""
        if key in self._memo:
            return self._memo[key][1]
        result = make()
        if sum(a.nbytes for a in things if isinstance(a, np.ndarray)) > 1024:
            self._memo[key] = things, result
        return result

    def constant(self, key, name, make):
        """The name of a constant made of the known value `name`."""
        array = self.known[name]
        made = self.kept((key, id(array)), [array], lambda: make(array))
        fresh = self.fresh(f"{name}/{key}")
        self.known[fresh] = made
        return fresh

    def _captured(self, node, names):
        """{name inside: name in the graph} of what the bodies of a node read from around it."""
        bodies = [value for value in node.attrs.values() if isinstance(value, Body)]
        return {name: names[name] for body in bodies for name in body.outer if name in names}

    def _python(self, node, inputs, outputs, names):
        """A step of Python."""
        outer = self._captured(node, names)
        layout, given = [], []
        for position, name in enumerate(inputs):
            if name is None:
                layout.append(None)
            elif name in self.known and position in SHAPED_BY.get(node.op, ()):
                layout.append(self.known[name])
            else:
                layout.append(len(given))
                given.append(name)
        attrs = {"node": node, "layout": tuple(layout), "captured": tuple(outer)}
        self.add("onnx", [*given, *outer.values()], outputs, attrs, node)

    # ---- what the rules use

    def fresh(self, stem):
        """A name that no value has yet."""
        name, count = stem, 0
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def type(self, name):
        """The Type of a value."""
        return Type.of(self.known[name]) if name in self.known else self.types[name]

    def sized(self, name):
        """Whether the shape of a value is known."""
        return self.type(name).shape is not None

    def shape(self, name):
        return self.type(name).shape

    def is_real(self, *names):
        """Whether kernels take these values: float32 or float64, all alike."""
        dtypes = {self.type(name).dtype for name in names if name is not None}
        return len(dtypes) == 1 and next(iter(dtypes)) in (np.float32, np.float64)

    def add(self, op, inputs, outputs, attrs, node):
        """One more operation; True."""
        types = [None if name is None else self.type(name) for name in inputs]
        made = infer_types(op, attrs, types, len(outputs))
        for shape, dtype in made:
            if shape is not None:
                try:
                    bounded(shape, dtype)
                except ValueError as error:
                    raise ModelError(f"{node}: {error}") from error
        self.types.update((name, Type(*t)) for name, t in zip(outputs, made, strict=False) if name)
        outputs = tuple(outputs)
        self.steps.append(Step(op, tuple(inputs), outputs, attrs, node.name or f"{node.op} {outputs[0]}"))
        return True


# ---- the step of Python


def _evaluate(attrs, *arrays):
    node, layout = attrs["node"], attrs["layout"]
    inputs = [arrays[p] if isinstance(p, int) else p for p in layout]
    count = len(arrays) - len(attrs["captured"])
    scope = Scope(dict(zip(attrs["captured"], arrays[count:], strict=True)))
    return tuple(np.asarray(r) if r is not None else r for r in apply(node, inputs, scope))


def _infer(attrs, *types):
    """By running it on zeros, where values don't matter."""
    node = attrs["node"]
    unknown = ((None, None),) * max(1, len(node.outputs))
    if node.op in UNKNOWN:
        return unknown
    if any(isinstance(attrs["layout"][p], int) for p in SHAPED_BY.get(node.op, ()) if p < len(attrs["layout"])):
        return unknown
    if node.op in ("LSTM", "GRU", "RNN"):
        return _recurrent_types(node, *types)
    try:
        arrays = [None if t is None else np.broadcast_to(np.zeros((), t.dtype), t.shape) for t in types]
        return tuple((None, None) if a is None else (a.shape, a.dtype) for a in _evaluate(attrs, *arrays))
    except ModelError:
        return unknown  # running it says what is wrong, or that nothing is


def _recurrent_types(node, x, w, r, *rest):
    (first, second), directions, hidden = x.shape[:2], w.shape[0], r.shape[2]
    if node.get("layout", 0):
        y, state = (first, second, directions, hidden), (first, directions, hidden)
    else:
        y, state = (first, directions, second, hidden), (directions, second, hidden)
    return (y, x.dtype), (state, x.dtype), (state, x.dtype)


register("onnx", OpDef(_evaluate, _infer))

__all__ = ["Lowering", "Node", "network"]
