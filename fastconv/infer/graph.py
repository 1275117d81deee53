"""The graph of a network: what `capture` makes of a module, an importer of a file, and what the passes rewrite.

A graph is a list of nodes in an order in which they can run.  Values have names; every value is an input, a constant or
the output of exactly one node.

    Node(op, inputs, outputs, attrs, name)   op: a name in the table of `ops.py`; inputs: names, None for an optional
                                             input that is not there; outputs: names; attrs: plain Python values;
                                             name: where the node came from, for messages
    Graph(nodes, inputs, outputs, constants) inputs: name -> Type; outputs: names; constants: name -> array
    Type(shape, dtype)                       shape None: known only while the network runs

For whoever builds graphs from files:

* Take the op that says what the file says; the table's docstrings give inputs and attributes.  Attributes never repeat
  what shapes say: a node means the same for every size of its inputs, and one graph serves them all.  (`reshape` takes
  one -1; `index`, `expand`, `pad` take numbers: a file that computes them from shapes is folded for the shapes at hand,
  see below.)
* An op that the table lacks is one `ops.register(name, OpDef(evaluate, infer))` away: `evaluate(attrs, *arrays)` gives
  the output array, or a tuple of them; `infer(attrs, *types)` their Types.  Without `infer` the op is evaluated once on
  zeros.  It runs as a step of Python between compiled programs; `emit` makes it part of them.
* A graph whose nodes depend on the sizes of its inputs is made for each of them: `compile` takes a function of
  {name: Type} that returns a Graph, and calls it for every new set of shapes.
* `graph.check()` finds what is wrong, all of it, before anything runs; `graph.types(given)` finds every shape;
  `graph.evaluate(feeds)` is the reference: node by node through the public operations, no plan, no passes.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .ops import definition, infer_types, known


class Type(NamedTuple):
    """The shape and dtype of a value; None where only running tells."""

    shape: Any  # a tuple of whole numbers
    dtype: Any

    @staticmethod
    def of(array):
        return Type(tuple(array.shape), array.dtype)

    def __str__(self):
        return f"{self.dtype}{'[?]' if self.shape is None else list(self.shape)}"


@dataclass
class Node:
    """One operation; see the module's docstring."""

    op: str
    inputs: tuple
    outputs: tuple
    attrs: dict = field(default_factory=dict)
    name: str = ""
    notes: list = field(default_factory=list, compare=False)  # what passes did to it, for `explain`

    def __str__(self):
        attrs = "".join(f", {key}={value!r}" for key, value in self.attrs.items() if value is not None)
        given = ", ".join(name or "-" for name in self.inputs)
        return f"{', '.join(name or '-' for name in self.outputs)} = {self.op}({given}{attrs})"


class Graph:
    """Nodes in running order, with the types of the inputs, the names of the outputs, and the constants."""

    def __init__(self, nodes, inputs, outputs, constants=None):
        self.nodes = list(nodes)
        self.inputs = {name: Type(*given) for name, given in inputs.items()}
        self.outputs = tuple(outputs)
        self.constants = dict(constants or {})

    def copy(self):
        """A graph that can be rewritten; nodes are copied, arrays are shared."""
        nodes = [
            Node(n.op, tuple(n.inputs), tuple(n.outputs), dict(n.attrs), n.name, list(n.notes)) for n in self.nodes
        ]
        return Graph(nodes, self.inputs, self.outputs, self.constants)

    def __str__(self):
        given = ", ".join(f"{name}: {given}" for name, given in self.inputs.items())
        return "\n".join([f"graph({given})", *(f"  {node}" for node in self.nodes), f"  -> {', '.join(self.outputs)}"])

    # ---- questions

    def producers(self):
        """The node that makes each value (inputs and constants have none)."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def consumers(self):
        """The nodes that read each value, in order; a node that reads it twice is there twice."""
        readers = {}
        for node in self.nodes:
            for name in node.inputs:
                if name is not None:
                    readers.setdefault(name, []).append(node)
        return readers

    def fresh(self, stem):
        """A name that no value has yet, beginning with `stem`."""
        taken = {*self.inputs, *self.constants, *self.producers()}
        names = (f"{stem}_{i}" if i else stem for i in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    def problems(self):
        """Everything that is wrong, one sentence each: unknown ops, values that nobody makes or that two make."""
        defined = set(self.inputs)
        found = [f"{name} is an input and a constant" for name in self.constants if name in defined]
        defined |= set(self.constants)
        for index, node in enumerate(self.nodes):
            where = f"node {index} ({node.name or node.op})"
            if not known(node.op):
                found.append(f"{where}: unknown operation {node.op!r}")
            found += [
                f"{where}: reads {name!r}, which no node before it makes"
                for name in node.inputs
                if name is not None and name not in defined
            ]
            for name in filter(None, node.outputs):
                if name in defined:
                    found.append(f"{where}: makes {name!r}, which is there already")
                defined.add(name)
        return found + [f"output {name!r} is made by no node" for name in self.outputs if name not in defined]

    def check(self):
        """The graph itself; ValueError with all problems if there are any."""
        found = self.problems()
        if found:
            raise ValueError("the graph can't run:\n    " + "\n    ".join(found))
        return self

    # ---- meaning

    def types(self, given=None):
        """The Type of every value, for inputs of these Types (or arrays); the graph's own where none are given."""
        given = given or {}
        found = {name: Type.of(array) for name, array in self.constants.items()}
        for name, declared in self.inputs.items():
            value = given.get(name, declared)
            found[name] = Type.of(value) if isinstance(value, np.ndarray) else Type(*value)
        for node in self.nodes:
            types = [None if name is None else found[name] for name in node.inputs]
            try:
                outputs = infer_types(node.op, node.attrs, types, len(node.outputs))
            except (ValueError, TypeError, NotImplementedError) as error:
                raise type(error)(f"{node.name or node.op}: {error}") from error
            found.update((name, Type(*t)) for name, t in zip(node.outputs, outputs, strict=False) if name)
        return found

    def evaluate(self, feeds, outputs=None):
        """{name: array} of the outputs (or of the values asked for) by the public operations, node by node.

        feeds: {input name: array}.  The reference that every plan is tested against.
        """
        wanted = tuple(outputs or self.outputs)
        values = {**self.constants, **feeds}
        missing = [name for name in self.inputs if name not in values]
        if missing:
            raise ValueError(f"no array for input {', '.join(missing)}; given {', '.join(feeds) or 'none'}")
        for node in self.nodes:
            arrays = [None if name is None else values[name] for name in node.inputs]
            result = definition(node.op).evaluate(node.attrs, *arrays)
            result = result if isinstance(result, tuple) else (result,)
            values.update((name, a) for name, a in zip(node.outputs, result, strict=False) if name)
        return {name: values[name] for name in wanted}
