"""From a file to a `Model`: parsed, checked, every operator known, weights as arrays.

Nothing of a file is believed: sizes, names, order, nesting and the places of external data are checked, and what is
wrong is a ModelError that names it.  Only here and in `functions.py` is the `onnx` package used.
"""

import os
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .table import MOST_BYTES, Body, ModelError, Node, Value, lookup

MAX_DEPTH = 20  # of graphs in graphs
MOST_EXPANDED = 1 << 15  # nodes or KB of functions, as often as they are called: two calls in each of twenty, a million
OLDEST = 7  # older ones only as far as their operators are those of 6 or 7


def onnx_package() -> Any:
    """The `onnx` package; ImportError that says how to get it."""
    try:
        return import_module("onnx")
    except ImportError as error:
        raise ImportError("reading ONNX models needs the onnx package: pip install 'fastconv[onnx]'") from error


@dataclass(eq=False, repr=False)
class Model:
    """A model that was read: its graph, the version of each domain, and what the file says of itself."""

    body: Body
    opsets: dict
    producer: str = ""
    metadata: dict = field(default_factory=dict)

    @property
    def inputs(self):
        """[Value] that the caller gives: not those with a default among the weights."""
        return [value for value in self.body.inputs if value.name not in self.body.constants]

    @property
    def outputs(self):
        """[Value]."""
        return self.body.outputs


def load(source):
    """The Model in a file (a path), in bytes, or in a ModelProto.

    Raises ModelError for a file that is truncated, corrupt, or asks for what is not there, with every operator that is
    unsupported in one message; FileNotFoundError; ImportError without the `onnx` package.
    """
    onnx = onnx_package()
    folder, proto = None, source
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        folder = path.parent
        data = path.read_bytes()
        proto = _parse(onnx, data, str(path))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        proto = _parse(onnx, bytes(source), f"{len(source)} bytes")
    elif not isinstance(source, onnx.ModelProto):
        raise TypeError(f"wants a path, bytes or a ModelProto, given {type(source).__name__}")
    return _Reader(onnx, proto, folder).model()


def _parse(onnx, data, where):
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (
        import_module("google.protobuf.message").DecodeError,
        UnicodeDecodeError,
        RuntimeError,
        ValueError,
    ) as error:
        raise ModelError(f"{where} is not an ONNX model, or is cut off: {error}") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{where} is not an ONNX model: it has no {'graph' if proto.opset_import else 'opset'}")
    return proto


class _Schema(NamedTuple):
    """What the standard says of an operator: fewest and most inputs and outputs; the names of inputs that must not be
    left out, None for others; attributes that must be there; {attribute: kind}; for each input the letter that stands
    for its type; what each letter may be; whether the last input may be several; {number of inputs: `dtypes` of it}."""

    inputs: tuple
    outputs: tuple
    needed: list
    required: list
    kinds: dict
    letters: list
    kinds_of: dict
    several: bool
    known: dict

    @classmethod
    def of(cls, schema):
        single = type(schema).FormalParameterOption.Single
        return cls(
            (schema.min_input, schema.max_input),
            (schema.min_output, schema.max_output),
            [parameter.name if parameter.option == single else None for parameter in schema.inputs],
            [name for name, attribute in schema.attributes.items() if attribute.required],
            {name: attribute.type for name, attribute in schema.attributes.items()},
            [parameter.type_str if parameter.is_homogeneous else None for parameter in schema.inputs],
            {c.type_param_str: _numpy_names(c.allowed_type_strs) for c in schema.type_constraints},
            bool(schema.inputs) and schema.inputs[-1].option == type(schema).FormalParameterOption.Variadic,
            {},
        )

    def dtypes(self, count):
        """((positions, names of dtypes), ...) of `count` inputs: those at the positions have one dtype, of these."""
        if count not in self.known:
            self.known[count] = self._dtypes(count)
        return self.known[count]

    def _dtypes(self, count):
        letters = self.letters + self.letters[-1:] * (count - len(self.letters)) * self.several
        found = {}
        for position, letter in enumerate(letters[:count]):
            found.setdefault(letter, []).append(position)
        return tuple((tuple(each), self.kinds_of[letter]) for letter, each in found.items() if letter in self.kinds_of)


def _numpy_names(types):
    """Names of dtypes of "tensor(float)" and the like."""
    names = {"float": "float32", "double": "float64", "string": "object"}
    inner = (text.removeprefix("tensor(").rstrip(")") for text in types)
    return frozenset(names.get(name, name) for name in inner)


class _Reader:
    """Turns messages into plain objects; collects operators that nobody knows."""

    def __init__(self, onnx, proto, folder):
        self._onnx, self._proto, self._folder = onnx, proto, folder
        self._unknown, self._expanded, self._schemas = [], 0, {}
        self._functions = {(f.domain, f.name): f for f in proto.functions}

    def model(self):
        proto = self._proto
        opsets = {o.domain or "": o.version for o in proto.opset_import}
        newest = self._onnx.defs.onnx_opset_version()
        version = opsets.get("", opsets.get("ai.onnx", newest))
        opsets[""] = version
        if not 1 <= version <= newest:
            raise ModelError(f"the model is of opset {version}; wanted {OLDEST} to {newest}")
        body = self.body(proto.graph, opsets, (), 0)
        if self._unknown:
            names = sorted(set(self._unknown))
            raise ModelError(f"{len(names)} unsupported operators: {'; '.join(names)}")
        if any(not value.name for value in (*body.inputs, *body.outputs)):
            raise ModelError(f"graph {proto.graph.name!r} has an input or output without a name")
        metadata = {item.key: item.value for item in proto.metadata_props}
        return Model(body, opsets, f"{proto.producer_name} {proto.producer_version}".strip(), metadata)

    # ---- graphs

    def body(self, graph, opsets, outer, depth):
        """A Body; outer: the names of each graph around this one."""
        if depth > MAX_DEPTH:
            raise ModelError(f"graph {graph.name!r}: graphs are nested deeper than {MAX_DEPTH}")
        constants = {}
        for tensor in graph.initializer:
            constants[tensor.name] = self.array(tensor, f"weight {tensor.name!r}")
        for sparse in graph.sparse_initializer:
            constants[sparse.values.name] = self.sparse(sparse)
        inputs = [self.value(info) for info in graph.input]
        outputs = [self.value(info) for info in graph.output]
        known = {*constants, *(value.name for value in inputs)}
        nodes = self._ordered(graph, known, outer)
        inside = (*outer, known.union(*(node.output for node in nodes)))
        made = [self.node(node, opsets, inside, depth) for node in nodes]
        absent = [value.name for value in outputs if value.name and not _among(value.name, inside)]
        if absent:
            raise ModelError(f"graph {graph.name!r}: no node makes output {', '.join(map(repr, absent))}")
        return finished(Body(made, inputs, outputs, constants, name=graph.name))

    def _ordered(self, graph, known, outer):
        """The nodes so that each comes after those it reads; ModelError for cycles, missing and repeated values."""
        made = set(known)
        for index, node in enumerate(graph.node):
            for name in filter(None, node.output):
                if name in made:
                    raise ModelError(f"node {index} ({node.op_type}) makes {name!r}, which is there already")
                made.add(name)
        waiting, readers, order = [], {}, []  # waiting: for each node, how many values it reads are not made yet
        for index, node in enumerate(graph.node):
            needs = {name for name in reads(node) if name not in known and not _among(name, outer)}
            strange = [name for name in needs if name not in made]
            missing = [name for name in strange if name in node.input]
            if missing:
                raise ModelError(
                    f"node {index} ({node.op_type} {node.name!r}) reads {missing[0]!r}, which nobody makes"
                )
            needs.difference_update(strange)
            waiting.append(len(needs))
            for name in needs:
                readers.setdefault(name, []).append(index)
        free = [index for index in range(len(graph.node)) if not waiting[index]]
        free.reverse()
        while free:
            index = free.pop()
            order.append(index)
            for name in graph.node[index].output:
                for reader in readers.get(name, ()):
                    waiting[reader] -= 1
                    if not waiting[reader]:
                        free.append(reader)
        if len(order) < len(graph.node):
            stuck = next(i for i in range(len(graph.node)) if waiting[i])
            node = graph.node[stuck]
            raise ModelError(f"node {stuck} ({node.op_type} {node.name!r}) waits for itself: the graph has a cycle")
        return [graph.node[index] for index in order]

    def node(self, proto, opsets, outer, depth):
        """A Node; what is neither in the table nor a function is noted down."""
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        opset = opsets.get(domain, 1 if domain else opsets[""])
        inputs = tuple(name or None for name in proto.input)
        outputs = tuple(name or None for name in proto.output)
        attrs = {a.name: self.attribute(a, opsets, outer, depth, proto) for a in proto.attribute}
        node = Node(proto.op_type, inputs, outputs, attrs, proto.name, opset, domain)
        function = self._functions.get((proto.domain, proto.op_type))
        if function is None:
            self._check_against_schema(node, proto)
        if function is not None:
            node.op, node.domain = "Call", ""
            node.attrs = {"body": self._function(function, proto, depth)}
        elif lookup(node.op, node.domain) is None:
            self._from_schema(node, proto, opsets, depth)
        elif opset < OLDEST - 1 and not self._same_since(node):
            self._unknown.append(f"{node} (opset {opset}; wanted {OLDEST} or newer)")
        return node

    def _check_against_schema(self, node, proto):
        """ModelError where inputs, outputs or attributes are not those of the operator."""
        schema = self._schema(node.op, max(node.opset, 1), node.domain)
        if schema is None:
            return  # reported as unknown, or an old one that is evaluated all the same
        for word, names, (fewest, most) in (
            ("inputs", node.inputs, schema.inputs),
            ("outputs", node.outputs, schema.outputs),
        ):
            if not fewest <= len(names) <= most:
                raise ModelError(f"{node}: wants {fewest} to {most} {word}, given {len(names)}")
        for parameter, name in zip(schema.needed, node.inputs, strict=False):
            if name is None and parameter is not None:
                raise ModelError(f"{node}: needs the input {parameter}")
        for name in schema.required:
            if name not in node.attrs:
                raise ModelError(f"{node}: needs the attribute {name!r}")
        for a in proto.attribute:
            wanted = schema.kinds.get(a.name)
            if wanted is not None and int(wanted.value) != a.type:
                raise ModelError(f"{node}: attribute {a.name!r} must be of kind {wanted.name}, given {a.type}")
        node.dtypes = schema.dtypes(len(node.inputs))

    def _schema(self, *operator):
        """What the standard says of (op, opset, domain), asked once; None where it says nothing."""
        if operator not in self._schemas:
            try:
                found = self._onnx.defs.get_schema(*operator)
            except self._onnx.defs.SchemaError:
                found = None
            self._schemas[operator] = found and _Schema.of(found)
        return self._schemas[operator]

    def _same_since(self, node):
        """Whether an operator of an old opset is still the same in opset 6."""
        get = self._onnx.defs.get_schema
        try:
            return get(node.op, node.opset).since_version == get(node.op, OLDEST - 1).since_version
        except self._onnx.defs.SchemaError:
            return False

    def _function(self, function, proto, depth):
        from .functions import with_attributes

        opsets = {o.domain or "": o.version for o in function.opset_import}
        opsets.setdefault("", max(self._onnx.defs.onnx_opset_version(), 1))
        self._expanded += 8 + len(function.node) + (function.ByteSize() >> 10)
        if self._expanded > MOST_EXPANDED:
            raise ModelError(
                f"function {function.name!r}: all calls together are more than {MOST_EXPANDED} nodes or KB"
            )
        return self.body(with_attributes(self._onnx, function, proto), opsets, (), depth + 1)

    def _from_schema(self, node, proto, opsets, depth):
        """An operator that the standard defines by others."""
        from .functions import standard_function

        try:
            found = standard_function(self._onnx, node, proto)
        except self._onnx.defs.SchemaError:
            found = None
        if found is None:
            version = f" (opset {node.opset})" if node.domain == "" else ""
            self._unknown.append(f"{node}{version}")
        elif found == "typed":
            node.attrs["call"] = self._typed(node, proto, opsets, depth)
            node.op, node.domain = "CallTyped", ""
        else:
            node.attrs = {"body": self._function(found, proto, depth)}
            node.op, node.domain = "Call", ""

    def _typed(self, node, proto, opsets, depth):
        """A function of input types, that makes the Body: its nodes depend on them."""
        from .functions import typed_function

        kind = Node(node.op, node.inputs, node.outputs, {}, node.name, node.opset, node.domain)

        def make(values):
            reader = _Reader(self._onnx, self._proto, None)
            function = typed_function(self._onnx, kind, proto, values)
            if function is None:
                raise ModelError(f"{kind}: there is no definition for these inputs")
            body = reader._function(function, proto, depth)
            if reader._unknown:
                raise ModelError(f"{kind}: unsupported operators: {'; '.join(sorted(set(reader._unknown)))}")
            return body

        return make

    # ---- values

    def value(self, info):
        """A Value from what the file says of an input or output."""
        kind = info.type.WhichOneof("value") or "tensor_type"
        name = kind.removesuffix("_type")
        if name != "tensor":
            return Value(info.name, None, None, name)
        tensor = info.type.tensor_type
        shape = None
        if tensor.HasField("shape"):
            sizes = (d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim)
            shape = tuple(None if isinstance(n, int) and n < 0 else n for n in sizes)  # old exporters write -1
        return Value(info.name, self.dtype(tensor.elem_type, info.name), shape)

    def dtype(self, number, name):
        """The NumPy dtype of an ONNX type number; None for 0, which says nothing."""
        if number == 0:
            return None
        try:
            return np.dtype(self._onnx.helper.tensor_dtype_to_np_dtype(number))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"value {name!r} has the unknown type number {number}") from error

    def array(self, tensor, what):
        """The array of a tensor; ModelError where size and data differ."""
        dims = tuple(tensor.dims)
        if any(n < 0 for n in dims) or prod(dims) > MOST_BYTES:
            raise ModelError(f"{what} has the shape {list(dims)}")
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL:
            return self._external(tensor, dims, what)
        try:
            array = self._onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, OverflowError, UnicodeDecodeError, AttributeError) as error:
            raise ModelError(f"{what} of shape {list(dims)}: {error}") from error
        if array.dtype.kind == "S":
            array = array.astype(object)
        if array.shape != dims:
            raise ModelError(f"{what} has shape {list(dims)} and data of shape {list(array.shape)}")
        return array

    def _external(self, tensor, dims, what):
        """An array in a file beside the model, and nowhere else."""
        given = {item.key: item.value for item in tensor.external_data}
        location = given.get("location", "")
        if self._folder is None:
            raise ModelError(f"{what} is in the file {location!r}; a model given as bytes has none beside it")
        folder = self._folder.resolve()
        path = (folder / location).resolve()
        if not location or not path.is_relative_to(folder) or not path.is_file():
            raise ModelError(f"{what} is in {location!r}, which is no file in the folder of the model")
        dtype = self.dtype(tensor.data_type, tensor.name)
        try:
            offset, wanted = int(given.get("offset", 0)), prod(dims) * (dtype.itemsize if dtype else 0)
            length = int(given.get("length", wanted))
        except ValueError as error:
            raise ModelError(f"{what}: offset and length must be whole numbers, given {given}") from error
        size = path.stat().st_size
        if dtype is None or dtype.kind not in "fiub" or length != wanted or offset < 0 or offset + wanted > size:
            raise ModelError(
                f"{what}: {wanted} bytes of {dtype} from {offset} on, in a file of {size}, length {length}"
            )
        return np.fromfile(path, dtype, prod(dims), offset=offset).reshape(dims)

    def sparse(self, sparse):
        """A sparse tensor, made dense."""
        what = f"sparse weight {sparse.values.name!r}"
        values, indices = self.array(sparse.values, what), self.array(sparse.indices, what)
        dims = tuple(sparse.dims)
        if any(n < 0 for n in dims) or prod(dims) > MOST_BYTES:
            raise ModelError(f"{what} has the shape {list(dims)}")
        dense = np.zeros(dims, values.dtype)
        try:
            dense[np.unravel_index(indices, dims) if indices.ndim == 1 else tuple(indices.T)] = values
        except (ValueError, IndexError) as error:
            raise ModelError(f"{what} of shape {list(dims)}: {error}") from error
        return dense

    def attribute(self, a, opsets, outer, depth, node):
        """The value of an attribute."""
        kinds = self._onnx.AttributeProto
        where = f"attribute {a.name!r} of {node.op_type} {node.name!r}"
        if a.type == kinds.TENSOR:
            return self.array(a.t, where)
        if a.type == kinds.SPARSE_TENSOR:
            return self.sparse(a.sparse_tensor)
        if a.type == kinds.GRAPH:
            return self.body(a.g, opsets, outer, depth + 1)
        if a.type == kinds.TYPE_PROTO:
            return a.tp
        simple = {kinds.FLOAT: "f", kinds.INT: "i", kinds.FLOATS: "floats", kinds.INTS: "ints"}
        if a.type in simple:
            value = getattr(a, simple[a.type])
            return tuple(value) if a.type in (kinds.FLOATS, kinds.INTS) else value
        if a.type == kinds.STRING:
            return a.s.decode("utf-8", "replace")
        if a.type == kinds.STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in a.strings)
        raise ModelError(f"{where} is of the unsupported kind {a.type}")


def _among(name, groups):
    """Whether a name is in one of several sets."""
    return any(name in names for names in groups)


def reads(node):
    """Names that a node reads, those of the graphs inside it too."""
    names, graphs = {name for name in node.input if name}, [a.g for a in node.attribute if a.HasField("g")]
    while graphs:
        graph = graphs.pop()
        inside = {t.name for t in graph.initializer} | {i.name for i in graph.input}
        inside |= {name for n in graph.node for name in n.output}
        for n in graph.node:
            names |= {name for name in n.input if name and name not in inside}
            graphs += [a.g for a in n.attribute if a.HasField("g")]
        names |= {o.name for o in graph.output if o.name not in inside}
    return names


def finished(body):
    """The body with what it reads from outside, and where each value is used last."""
    inside = {*body.constants, *(value.name for value in body.inputs)}
    inside |= {name for node in body.nodes for name in node.outputs if name}
    outer, last = {}, {}
    for index, node in enumerate(body.nodes):
        names = [name for name in node.inputs if name]
        for value in node.attrs.values():
            if isinstance(value, Body):
                names += value.outer
        for name in names:
            if name in inside:
                last[name] = index
            else:
                outer[name] = None
    outer.update((value.name, None) for value in body.outputs if value.name and value.name not in inside)
    body.outer = tuple(outer)
    uses = {}
    for name, index in last.items():
        if name not in body.constants:
            uses.setdefault(index, []).append(name)
    body.last_use = uses
    return body
