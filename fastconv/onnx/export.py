"""The way back: a network as an ONNX file that other runtimes read.

The network is captured as for `fc.compile`, what depends on weights alone is computed, and every operation becomes one
or a few operators of the standard (`export_ops.py`).  The file holds for the shapes of the example inputs.
"""

import os
from pathlib import Path

import numpy as np

from ..infer import CompiledNetwork, Graph
from ..infer.capture import capture, check_repeatable, input_names
from ..infer.passes import Derived, constants, dead
from . import export_shapes  # noqa: F401  (adds to the table)
from .export_ops import TABLE, UnsupportedError
from .importer import onnx_package
from .table import ModelError

OPSET, OLDEST = 20, 18
LIMIT = (1 << 31) - (1 << 20)  # a message of protobuf ends at 2 GB
_FILE_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10}


class Writer:
    """What the functions of `export_ops` write into: nodes and weights of one file."""

    def __init__(self, onnx, graph, opset):
        self.opset, self.types = opset, graph.types()
        self._onnx, self._graph = onnx, graph
        self.nodes, self.weights = [], {}
        self._taken, self._named = {*self.types}, set()
        self._stem = ""

    def fresh(self, word):
        """A name that no value has yet, after the operation at hand."""
        name = stem = f"{self._stem}/{word}"
        count = 1
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def shape(self, name):
        """The shape of a value of the graph."""
        return tuple(self.types[name].shape)

    def dtype(self, name):
        return self.types[name].dtype

    def numbers(self, values, dtype="int64", word="numbers"):
        """The name of a new weight."""
        name = self.fresh(word)
        self.weights[name] = np.asarray(values, dtype)
        return name

    def known(self, name):
        """The array of a constant, or None."""
        return self._graph.constants.get(name)

    def type_number(self, dtype):
        """ONNX's number of a dtype."""
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def add(self, op, inputs, outputs=None, count=1, **attrs):
        """One node; without names of outputs new ones.  The name of its (first) output."""
        outputs = tuple(outputs or (self.fresh(op.lower()) for _ in range(count)))
        attrs = {key: value for key, value in attrs.items() if value is not None}
        name = self._stem if self._stem not in self._named else self.fresh("node")
        self._named.add(name)
        given = ["" if each is None else each for each in inputs]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(self._onnx.helper.make_node(op, given, [o or "" for o in outputs], name, **attrs))
        return outputs[0]

    def node(self, node):
        """All nodes of one operation; UnsupportedError where ONNX has no such thing."""
        if node.op not in TABLE:
            raise UnsupportedError("ONNX has no such operator")
        self._stem = node.name or node.outputs[0] or node.op
        TABLE[node.op](self, node.attrs, list(node.inputs), [name or "" for name in node.outputs])

    # ---- the file

    def model(self):
        """The ModelProto."""
        onnx, graph = self._onnx, self._graph
        used = {name for node in self.nodes for name in node.input}
        arrays = {**graph.constants, **self.weights}
        arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items() if name in used}
        size = sum(a.nbytes for a in arrays.values())
        if size > LIMIT:
            raise ModelError(f"the weights have {size} bytes; one file holds {LIMIT}")
        weights = [onnx.numpy_helper.from_array(a.reshape(np.shape(a)), name) for name, a in arrays.items()]
        ends = [[self._info(name) for name in names] for names in (graph.inputs, graph.outputs)]
        proto = onnx.helper.make_graph(self.nodes, "fastconv", *ends, weights)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        version = _FILE_VERSIONS.get(self.opset, 10)
        return onnx.helper.make_model(proto, opset_imports=imports, ir_version=version, producer_name="fastconv")

    def _info(self, name):
        t = self.types[name]
        return self._onnx.helper.make_tensor_value_info(name, self.type_number(t.dtype), t.shape)


def _graph_of(model, example_inputs):
    """The Graph of a module or function, of a compiled network, or a Graph itself."""
    if isinstance(model, Graph):
        return model.copy().check()
    if isinstance(model, CompiledNetwork):
        return model.graph(None if example_inputs is None else _named(model.input_names, example_inputs))
    if example_inputs is None:
        raise TypeError("export: a module or function needs example_inputs")
    count = len(example_inputs) if isinstance(example_inputs, (tuple, list, dict)) else 1
    feeds = _named(input_names(model, count), example_inputs)
    graph, _ = capture(model, feeds)
    check_repeatable(model, feeds, graph)
    return graph


def _named(names, given):
    """{input: array} of one array, a tuple or a dict of them."""
    if not isinstance(given, dict):
        arrays = given if isinstance(given, (tuple, list)) else (given,)
        if len(arrays) != len(names):
            raise ValueError(f"export: the network has inputs {', '.join(names)}; given {len(arrays)} examples")
        given = dict(zip(names, arrays, strict=True))
    found = {name: getattr(a, "_data", a) for name, a in given.items()}
    for name, array in found.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"export: example input {name} must be an array, given {type(array).__name__}")
    return found


def to_proto(model, example_inputs=None, opset=OPSET):
    """The ModelProto that `export` writes."""
    onnx = onnx_package()
    newest = onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or not OLDEST <= opset <= newest:
        raise ValueError(f"export: opset must be {OLDEST} to {newest}, given {opset!r}")
    graph, derived = _graph_of(model, example_inputs), Derived()
    for each in (dead, constants, dead):
        graph = each.run(graph, derived)
    writer, refused = Writer(onnx, graph, opset), []
    for node in graph.nodes:
        try:
            writer.node(node)
        except UnsupportedError as error:
            refused.append(f"{node.op} {node.name!r}: {error}")
    if refused:
        raise ModelError(f"{len(refused)} operations can't be written: {'; '.join(refused)}")
    proto = writer.model()
    onnx.checker.check_model(proto)
    return proto


def export(model, path, example_inputs=None, opset=OPSET):
    """Write a network to an ONNX file, for the shapes of the example inputs.

    model: an `fc.nn.Module` or any function of Tensors made of `fc` operations, taken as it is in evaluation; a
    compiled network (whose own example serves where none is given); or a `Graph`.  path: of the file, which is
    replaced.  example_inputs: an array, a tuple of them by position, or a dict by name.  opset: of the file, from 18.

    Raises ModelError listing all operations that the standard lacks, ValueError or TypeError for wrong arguments,
    ImportError without the `onnx` package.
    """
    target = Path(os.fspath(path))
    data = to_proto(model, example_inputs, opset).SerializeToString()
    target.write_bytes(data)


__all__ = ["export", "to_proto"]
