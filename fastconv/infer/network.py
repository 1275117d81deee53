"""Compiled networks: `compile(model, example_inputs)`, plans for the shapes that come, and the ways to run them."""

import threading
from typing import Any

import numpy as np

from .. import _config, driver
from ..autograd import Variable
from .capture import capture, check_repeatable, input_names, leaving_no_trace
from .graph import Graph, Type
from .passes import Derived, optimise
from .plan import Plan
from .report import Profile, explanation
from .rows import Packed

PLANS = 8  # kept for the shapes used last


class CompiledNetwork:
    """A network that runs without Python between its layers; see `compile`.

    source: a Graph, a function of {name: Type} that makes one for these inputs, or, with a `structure` of its result,
    a model to capture.  example: {name: array or Type}.  graph: the source's graph for the example, if there is one.
    """

    def __init__(self, source, example, structure=None, graph=None):
        self._source, self._structure = source, structure
        self._example = {name: Type.of(a) if isinstance(a, np.ndarray) else Type(*a) for name, a in example.items()}
        self._reset()
        if graph is not None:
            self._keep(self._key(tuple(t.shape for t in self._example.values())), self._optimised(graph))

    def _reset(self):
        self._plans = {}
        self._lock = threading.Lock()
        self._derived = Derived()
        self._packed = Packed(self._derived)

    def __getstate__(self):
        return {"_source": self._source, "_structure": self._structure, "_example": self._example}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()

    # ---- what it is

    @property
    def input_names(self):
        """The names of the inputs, in order."""
        return tuple(self._example)

    @property
    def output_names(self):
        """The names of the outputs, in order."""
        return self._plan(self._example).graph.outputs

    def graph(self, example=None):
        """The Graph for inputs like {name: array} (None: for those of its example), before any pass."""
        given = self._example if example is None else self._checked(example)
        return self._graph({name: Type(tuple(a.shape), a.dtype) for name, a in given.items()})

    def __repr__(self):
        inputs = ", ".join(f"{name}: {t}" for name, t in self._example.items())
        return f"CompiledNetwork({inputs})"

    # ---- running

    def __call__(self, *inputs, out=None) -> Any:
        """The network's result for arrays by position: an array, or tuples, lists and dicts as the model gives them.

        out: an array of the result's shape and dtype to write into, for networks with one output.  Inputs are never
        modified; results are new arrays.  Raises ValueError or TypeError for arrays that don't fit.
        """
        if len(inputs) != len(self._example):
            names = ", ".join(self._example)
            raise TypeError(f"the network takes {len(self._example)} inputs ({names}), given {len(inputs)}")
        feeds = self._checked(dict(zip(self._example, inputs, strict=True)))
        plan = self._plan(feeds)
        if out is None:
            arrays = plan.run(feeds)
        else:
            arrays = self._run_into(plan, feeds, out)
        return arrays[0] if self._structure is None and len(arrays) == 1 else self._built(arrays)

    def _built(self, arrays):
        return tuple(arrays) if self._structure is None else self._structure.build(arrays)

    def run(self, output_names, feeds):
        """[array] of the outputs named (None: of all), for {input name: array}."""
        if not isinstance(feeds, dict):
            raise TypeError(f"run: feeds must be a dict of arrays, given {type(feeds).__name__}")
        unknown, missing = feeds.keys() - self._example.keys(), self._example.keys() - feeds.keys()
        if unknown or missing:
            raise ValueError(f"run: wants inputs {', '.join(self._example)}; given {', '.join(feeds) or 'none'}")
        checked = self._checked(feeds)
        plan = self._plan(checked)
        names = plan.graph.outputs if output_names is None else tuple(output_names)
        strange = [name for name in names if name not in plan.graph.outputs]
        if strange:
            raise ValueError(f"run: wants outputs of {', '.join(plan.graph.outputs)}; given {', '.join(strange)}")
        found = dict(zip(plan.graph.outputs, plan.run(checked), strict=True))
        return [found[name] for name in names]

    def _run_into(self, plan, feeds, out):
        names = plan.graph.outputs
        if len(names) != 1:
            raise ValueError(f"out needs a network with one output; this one has {len(names)}: {', '.join(names)}")
        wanted = plan.types[names[0]]
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out must be an array, given {type(out).__name__}")
        if wanted.shape is not None and (out.shape != wanted.shape or out.dtype != wanted.dtype):
            raise ValueError(f"out must have shape {wanted.shape} and dtype {wanted.dtype}, given {Type.of(out)}")
        ready = out.flags.c_contiguous and out.flags.aligned and out.flags.writeable
        shared = any(np.may_share_memory(out, array) for array in feeds.values())
        if ready and not shared:
            plan.run(feeds, {names[0]: out})
        else:
            np.copyto(out, plan.run(feeds)[0])
        return [out]

    def profile(self, *inputs, repeats=10):
        """Where the time goes: a `Profile` with time, algorithm, GFLOP/s and GB/s of every node, the median of
        `repeats` runs on these inputs (on noise of the example's shapes if there are none)."""
        if not inputs:
            inputs = tuple(_noise(t) for t in self._example.values())
        feeds = self._checked(dict(zip(self._example, inputs, strict=True)))
        plan = self._plan(feeds)
        plan.run(feeds)
        runs = []
        for _ in range(repeats):
            times = []
            plan.run(feeds, times=times)
            runs.append(times)
        return Profile(plan, runs)

    def explain(self, *inputs):
        """For every node, what was fused into it, which algorithm computes it, what was refused and why, as text."""
        feeds = dict(zip(self._example, inputs, strict=False)) if inputs else self._example
        return explanation(self._plan(feeds))

    # ---- plans

    def _checked(self, feeds):
        """Plain arrays of the right dtypes and ranks."""
        arrays = {}
        for name, t in self._example.items():
            array = feeds[name]._data if isinstance(feeds[name], Variable) else feeds[name]
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{name} must be an array, given {type(array).__name__}")
            if array.dtype != t.dtype:
                raise TypeError(f"{name} must have dtype {t.dtype}, given {array.dtype}")
            if t.shape is not None and array.ndim != len(t.shape):
                raise ValueError(f"{name} must have {len(t.shape)} dimensions like {t.shape}, given {array.shape}")
            arrays[name] = array
        return arrays

    def _plan(self, given):
        """The plan for inputs of these shapes, for the number of threads and the switches of now."""
        shapes = tuple(given[name].shape for name in self._example)
        key = self._key(shapes)
        plan = self._plans.get(key)
        if plan is not None:
            return plan
        with self._lock:
            plan = self._plans.get(key)
            if plan is None:
                types = {n: Type(shape, t.dtype) for (n, t), shape in zip(self._example.items(), shapes, strict=True)}
                plan = self._keep(key, self._optimised(self._graph(types)))
            return plan

    @staticmethod
    def _key(shapes):
        return shapes, driver.get_num_threads(), _config.batch_invariant()

    def _optimised(self, graph):
        return Plan(optimise(graph, self._derived), self._packed)

    def _keep(self, key, plan):
        """Keep a new plan; the one that was made first goes if there are too many."""
        plans = {**self._plans, key: plan}  # replaced as a whole: readers need no lock
        while len(plans) > PLANS:
            del plans[next(iter(plans))]
        self._plans = plans
        return plan

    def _graph(self, types):
        """The graph for these input types."""
        if isinstance(self._source, Graph):
            graph = self._source.copy()
            graph.inputs = types
            return graph
        if self._structure is None:
            return self._source(types).check()
        with leaving_no_trace(self._source):
            graph, structure = capture(self._source, {name: _noise(t) for name, t in types.items()})
        if structure.names != self._structure.names:
            raise ValueError(
                f"for {types} the network gives {structure.names}, for the example {self._structure.names}"
            )
        return graph


def _noise(t):
    if t.dtype.kind == "f":
        return np.random.default_rng(0).standard_normal(t.shape).astype(t.dtype)
    return np.zeros(t.shape, t.dtype)


def compile(model, example_inputs, check=True):
    """A compiled network: the operations of `model`, rewritten, planned, and run in one call.

    model: an `fc.nn.Module` or any function of Tensors made of `fc` operations, taken as it is in evaluation; or a
    `Graph`.  example_inputs: an array, or a tuple of them, by position; {name: array} names them.  Other sizes may come
    later: each new set of shapes is planned at its first call, and eight plans are kept.  check: run a captured model
    twice, with different numbers, and raise ValueError if it does not do the same both times.

    Weights are those of the time of compilation: compile again after changing them.  The result can be called from any
    number of threads, and pickled.
    """
    arrays = example_inputs if isinstance(example_inputs, (tuple, list, dict)) else (example_inputs,)
    if not isinstance(arrays, dict):
        names = tuple(model.inputs) if isinstance(model, Graph) else input_names(model, len(arrays))
        if len(names) != len(arrays):
            raise ValueError(f"compile: the graph has inputs {', '.join(names)}; given {len(arrays)} examples")
        arrays = dict(zip(names, arrays, strict=True))
    arrays = {name: a._data if isinstance(a, Variable) else a for name, a in arrays.items()}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"compile: example input {name} must be an array, given {type(array).__name__}")
    if isinstance(model, Graph):
        return CompiledNetwork(model.check(), arrays)
    if not hasattr(model, "forward") and not callable(model):
        raise TypeError(f"compile: wants a module, a function or a graph, given {type(model).__name__}")
    with leaving_no_trace(model):
        graph, structure = capture(model, arrays)
        if check:
            check_repeatable(model, arrays, graph)
    return CompiledNetwork(model, arrays, structure, graph)
