"""From a network of recorded operations to a graph: run it once and write down what it does.

The network is any callable of arrays whose operations all go through `Op.apply`, `fc.nn` modules above all.  It runs
once, in evaluation and without gradients, on Tensors; every operation becomes a node, every array that is neither an
input nor an operation's output a constant.  So what Python decides while the network runs (shapes, `if`, loops) is
decided for good: a graph of a captured network holds for the shapes it was captured with.
"""

import contextlib
import inspect
import weakref

import numpy as np

from .. import _memory
from ..autograd import Tensor, Variable, no_grad
from ..autograd import capture as hook
from ..ops.conv import Conv
from ..ops.conv_transpose import ConvTranspose
from ..ops.norm import BatchNorm
from ..ops.pool import AvgPool, MaxPool
from . import problems
from .graph import Graph, Node, Type
from .ops import op_name, parameters
from .passes import dead


class Structure:
    """How a network's result is made of its outputs: one array, or a tuple, list or dict of them, nested."""

    def __init__(self, result):
        self.names, self.leaves = [], []
        self._build = self._walk(result, "output")

    def _walk(self, part, name):
        if isinstance(part, (Variable, np.ndarray)):
            index = len(self.leaves)
            self.names.append(name)
            self.leaves.append(part)
            return index
        if isinstance(part, dict):
            return dict, [(key, self._walk(p, str(key))) for key, p in part.items()]
        if isinstance(part, (tuple, list)):
            return type(part), [self._walk(p, f"{name}_{i}") for i, p in enumerate(part)]
        raise TypeError(
            f"a compiled network gives arrays, or tuples, lists or dicts of them, not {type(part).__name__}"
        )

    def forget(self):
        """Let the captured outputs go."""
        self.leaves = []
        return self

    def build(self, arrays):
        """The result, made of these arrays."""
        return self._make(self._build, arrays)

    def _make(self, plan, arrays):
        if isinstance(plan, int):
            return arrays[plan]
        kind, parts = plan
        if kind is dict:
            return {key: self._make(part, arrays) for key, part in parts}
        items = [self._make(part, arrays) for part in parts]
        return kind(*items) if hasattr(kind, "_fields") else kind(items)


def _memory_of(thing):
    """What tells one value from another while both live, and the array that owns the memory."""
    array = thing._data if isinstance(thing, Variable) else thing
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str), owner


class _Recorder:
    """Names for values while a network runs; see `record`."""

    def __init__(self, known):
        self.nodes, self.constants = [], {}
        self._names = {}  # memory -> (weak reference to its owner, name): it is used again once the owner is gone
        self._known = known  # id of a parameter's array -> its name
        self._count = {}
        self.kept = []  # what the constants' names refer to

    def name(self, thing, name):
        """Give a Tensor or array a name."""
        place, owner = _memory_of(thing)
        self._names[place] = weakref.ref(owner), name

    def find(self, thing):
        """The name of a value that was seen before, by its memory, or None: what is detached keeps its name."""
        place, owner = _memory_of(thing)
        reference, name = self._names.get(place, (None, None))
        return name if reference is not None and reference() is owner else None

    def value(self, thing):
        """The name of an operand: of a value seen before, or else of a new constant."""
        if thing is None:
            return None
        found = self.find(thing)
        if found is not None:
            return found
        array = thing._data if isinstance(thing, Variable) else thing
        name = self._known.get(id(array)) or self.fresh("constant")
        self.kept.append(thing)
        self.constants[name] = array
        self.name(thing, name)
        return name

    def fresh(self, stem):
        self._count[stem] = self._count.get(stem, 0) + 1
        return f"{stem}_{self._count[stem]}"

    def record(self, op, args, outputs):
        """The hook: one more node."""
        name = op_name(op)
        operands, attrs = _CONVERT.get(op, _generic)(op, args)
        name = attrs.pop("op", name)
        inputs = tuple(self.value(operand) for operand in operands)
        stem = self.fresh(name)
        names = tuple(stem if i == 0 else f"{stem}_{i}" for i in range(len(outputs)))
        for output, output_name in zip(outputs, names, strict=True):
            if output is not None:
                self.name(output, output_name)
        self.nodes.append(Node(name, inputs, names, attrs, stem))


# ---- from the arguments of `Op.apply` to (operands, attributes)


def _is_array(value):
    return isinstance(value, (Variable, np.ndarray))


_NUMBERS_ALLOWED = {"add", "sub", "mul", "div", "pow", "where", "matmul"}


def _generic(op, args):
    """Arrays are operands, in order; all else is an attribute by the name of `forward`'s parameter."""
    if op.name in _NUMBERS_ALLOWED:
        return [_as_array(value, args) for value in args], {}
    operands, attrs, rest = [], {}, list(args)
    for parameter in parameters(op):
        if parameter.many:
            operands += filter(_is_array, rest)
            numbers = tuple(value for value in rest if not _is_array(value))
            if numbers:
                attrs[parameter.name] = numbers
        elif rest and (_is_array(rest[0]) or rest[0] is None):
            operands.append(rest.pop(0))
        elif rest:
            attrs[parameter.name] = rest.pop(0)
    return operands, attrs


def _as_array(value, args):
    """A Python number takes the dtype of the arrays it meets."""
    if _is_array(value):
        return value
    dtypes = [a.dtype for a in args if _is_array(a) and a.dtype != bool]
    return np.asarray(value, np.result_type(*dtypes, value) if isinstance(value, (int, float)) else None)


def _conv(op, args):
    x, w, b, spec = args[:4]
    attrs = problems.conv_attrs(spec)
    return [x, w, b], attrs


def _conv_transpose(op, args):
    x, w, b, spec = args[:4]
    first = 3 - spec.ndim
    names = {"stride": "s", "padding": "p", "dilation": "d"}
    attrs = {n: tuple(getattr(spec, letter + axis) for axis in "dhw")[first:] for n, letter in names.items()}
    extra = []
    for axis in "dhw"[first:]:
        big, small, k, s, p, d = (getattr(spec, letter + axis) for letter in "iokspd")
        extra.append(big - ((small - 1) * s - 2 * p + d * (k - 1) + 1))
    return [x, w, b], {**attrs, "output_padding": tuple(extra), "groups": spec.g}


def _pool(op, args):
    x, spec = args[:2]
    indices = len(args) > 2 and args[2]
    attrs = problems.pool_attrs(spec, x.shape, indices)
    if op is AvgPool and not spec.prefix:
        attrs.pop("dilation")
        attrs |= {"count_include_pad": spec.count_include_pad, "divisor": spec.divisor or None}
    return [x], {**attrs, "op": f"{spec.prefix}{op.name}"}


def _batch_norm(op, args):
    x, mean, var, weight, bias, training, _, eps = args
    if training:
        raise ValueError("a batch norm that uses the batch's own statistics can't be compiled; wanted running ones")
    return [x, mean, var, weight, bias], {"eps": eps}


_CONVERT = {
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    MaxPool: _pool,
    AvgPool: _pool,
    BatchNorm: _batch_norm,
}


# ---- running the network


@contextlib.contextmanager
def _evaluation(model):
    """Every module of the model in evaluation mode; as before afterwards."""
    modules = list(model.modules()) if hasattr(model, "modules") else []
    before = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, before, strict=True):
            module.training = mode


@contextlib.contextmanager
def leaving_no_trace(model):
    """What layers keep while they run (packed weights), and memory of their results, goes afterwards: a compiled
    network has its own."""
    layers = [module for module in getattr(model, "modules", tuple)() if hasattr(module, "_kept")]
    before = [layer._kept for layer in layers]
    try:
        for layer in layers:
            layer._kept = type(layer._kept)()
        yield
    finally:
        for layer, kept in zip(layers, before, strict=True):
            layer._kept = kept
        _memory.release()


def _known_names(model):
    """Names of the arrays of a module's parameters and buffers."""
    found = {}
    if hasattr(model, "named_parameters"):
        found.update((id(p._data), name) for name, p in model.named_parameters())
        found.update((id(b), name) for name, b in model.named_buffers())
    return found


def input_names(model, count):
    """What the inputs are called: as the parameters of the model's `forward`."""
    function = getattr(model, "forward", model)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in positional]
    except (TypeError, ValueError):
        names = []
    return tuple([*names, *(f"input_{i}" for i in range(len(names), count))][:count])


def capture(model, inputs):
    """(Graph, Structure of the result) of what `model` does with these inputs, {name: array}, given by position.

    Raises TypeError where the result is made of something else than arrays, ValueError where an output depends on no
    operation that was recorded.
    """
    recorder = _Recorder(_known_names(model))
    tensors = []
    for name, array in inputs.items():
        tensors.append(Tensor(array))
        recorder.name(tensors[-1], name)
    with no_grad(), _evaluation(model), hook(recorder.record):
        result = model(*tensors)
    structure = Structure(result)
    outputs, seen = [], set()
    for leaf in structure.leaves:
        name = recorder.value(leaf)
        if name in seen or name in inputs or name in recorder.constants:  # every output is a value of its own
            recorder.nodes.append(Node("identity", (name,), (recorder.fresh("identity"),), {}))
            name = recorder.nodes[-1].outputs[0]
        seen.add(name)
        outputs.append(name)
    types = {name: Type.of(array) for name, array in inputs.items()}
    graph = Graph(recorder.nodes, types, outputs, recorder.constants)
    graph = _renamed(graph, dict(zip(outputs, structure.names, strict=True)))
    return dead.run(graph), structure.forget()  # ops inside ops were recorded too


def _renamed(graph, names):
    """The graph with its outputs called by the names of the result's parts, where those are free."""
    taken = {*graph.inputs, *graph.constants}
    names = {old: new for old, new in names.items() if new not in taken}
    for node in graph.nodes:
        node.inputs = tuple(names.get(name, name) for name in node.inputs)
        node.outputs = tuple(names.get(name, name) for name in node.outputs)
    graph.outputs = tuple(names.get(name, name) for name in graph.outputs)
    return graph


def _other_numbers(array):
    """Noise, of the opposite sign everywhere."""
    if array.dtype.kind != "f":
        return array
    size = np.abs(np.random.default_rng(0).standard_normal(array.shape).astype(array.dtype))
    return np.where(array > 0, -size, size)


def check_repeatable(model, inputs, graph):
    """ValueError if the network does something else with other numbers: a graph could not say that."""
    again, _ = capture(model, {name: _other_numbers(array) for name, array in inputs.items()})
    for first, second in zip(graph.nodes, again.nodes, strict=False):
        if str(first) != str(second):
            raise ValueError(f"the network does not do the same with other numbers: once {first}, once {second}")
    if len(graph.nodes) != len(again.nodes):
        raise ValueError(
            f"the network does not do the same with other numbers: {len(graph.nodes)} operations, "
            f"then {len(again.nodes)}"
        )
    for name, array in graph.constants.items():
        other = again.constants[name]
        if array is not other and not np.array_equal(array, other, equal_nan=array.dtype.kind in "fc"):
            readers = [node.name for node in graph.nodes if name in node.inputs]
            raise ValueError(
                f"{name}, an operand of {', '.join(readers)}, depends on the input in a way that no recorded operation "
                "shows: every step from input to output must be an operation on Tensors"
            )
