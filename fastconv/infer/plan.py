"""A graph made ready to run for one set of shapes: memory, rows, programs, and what Python does between them."""

import time
from typing import Any, NamedTuple

import numpy as np

from .. import _memory
from ..driver import Program
from ..packing import dense
from .graph import Node
from .ops import definition
from .rows import Emission, emit
from .storage import ALIGN, Storage, nbytes

_TRIM = 1 << 24  # bytes of constants let go after which the operating system gets them


class Step(NamedTuple):
    """What one node became: rows of a program, a step of Python (emission None), or nothing to do (`free`)."""

    node: Node
    emission: Emission | None
    free: bool = False


class _Segment(NamedTuple):
    """Consecutive steps that run as one program."""

    program: Program
    steps: list


def _aligned(size):
    raw = _memory.empty((size + ALIGN,), np.uint8)
    skip = -raw.__array_interface__["data"][0] % ALIGN
    return raw[skip : skip + size]


class Plan:
    """An optimised graph with concrete types: `run(arrays)` computes the outputs.  Never changed once it is made, so
    that any number of threads may run it at once: each run has its own memory.  The graph is the plan's own: constants
    that were packed are taken out of it, one by one, so that all of them are never there twice."""

    def __init__(self, graph, packed):
        self.graph, self.types = graph, graph.types()
        self.storage = Storage(graph, self.types)
        self._constants = {name: packed.dense(array) for name, array in graph.constants.items()}
        self._memory_names = [*graph.inputs, *self._outputs_in_place()]
        self.arena_bytes = self.storage.arena_bytes
        self._lay_rows(packed)

    def _outputs_in_place(self):
        places = self.storage.places
        return [name for name in self.graph.outputs if places[name].region == "output" and places[name].name == name]

    # ---- making

    def _lay_rows(self, packed):
        """Rows are made on memory that nothing touches: it only lends them its addresses."""
        arena = np.empty(self.arena_bytes + ALIGN, np.uint8)
        skip = -arena.__array_interface__["data"][0] % ALIGN
        held = [np.empty(nbytes(self.types[name]), np.uint8) for name in self._memory_names]
        memory = [arena[skip : skip + self.arena_bytes], *held]
        readers, self.steps, self._freed = self.graph.consumers(), [], 0
        for node in self.graph.nodes:
            self.steps.append(self._step(node, memory, packed))
            self._let_go(node, readers)
        _memory.trim()
        self._parts, waiting = [], []
        for step in self.steps:
            if step.free:
                continue
            if step.emission is not None:
                waiting.append(step)
                continue
            self._close(waiting, memory)
            self._parts.append(step)
            waiting = []
        self._close(waiting, memory)

    def _let_go(self, node, readers):
        """Constants that `node` was the last to read go, but for those that Python reads when the plan runs: rows hold
        their own, packed."""
        for name in {name for name in node.inputs if name in self._constants}:
            if readers[name][-1] is node and not self._is_read_by_python(name):
                self._freed += self._constants[name].nbytes
                del self._constants[name], self.graph.constants[name]
        if self._freed > _TRIM:
            _memory.trim()
            self._freed = 0

    def _is_read_by_python(self, name):
        places = self.storage.places
        views = {value for value, place in places.items() if place.region == "constant" and place.name == name}
        steps = [step for step in self.steps if step.emission is None and not step.free]
        later = self.graph.nodes[len(self.steps) :]
        return (
            not views.isdisjoint(self.graph.outputs)
            or any(not views.isdisjoint(step.node.inputs) for step in steps)
            or any(not views.isdisjoint(node.inputs) for node in later)
        )

    def _close(self, steps, memory):
        if steps:
            program = Program([row for step in steps for row in step.emission.rows], memory)
            self._parts.append(_Segment(program, steps))

    def _step(self, node, memory, packed):
        names = [name for name in (*node.inputs, *node.outputs) if name]
        if any(self.storage.places[name].region == "loose" for name in names):
            return Step(node, None)
        if self._is_free(node):
            return Step(node, None, True)
        inputs: list = [None if name is None else self._array(name, memory) for name in node.inputs]
        outputs = [self._array(name, memory) for name in node.outputs if name]
        return Step(node, emit(node, inputs, outputs, packed))

    def _is_free(self, node):
        """Whether the outputs are there without doing anything: views, concatenations in place, empty arrays."""
        places = self.storage.places
        if all(name is None or 0 in self.types[name].shape for name in node.outputs):
            return True
        if node.op in ("reshape", "identity", "index"):
            return node.outputs[0] in self.storage.views
        if node.op == "cat":
            first, at = places[node.outputs[0]], 0
            for name in node.inputs:
                if places[name] != first._replace(offset=first.offset + at):
                    return False
                at += nbytes(self.types[name])
            return True
        return False

    def _array(self, name, memory):
        """A value's array in some memory: [arena, inputs, outputs] as bytes."""
        place, t = self.storage.places[name], self.types[name]
        if place.region == "constant" and place.name == name:
            return self._constants[name]  # the very object, by which packed weights are found
        if place.region == "constant":
            source: Any = self._constants[place.name].reshape(-1).view(np.uint8)
        elif place.region == "arena":
            source = memory[0]
        else:
            source = memory[1 + self._memory_names.index(place.name)]
        return source[place.offset : place.offset + nbytes(t)].view(t.dtype).reshape(t.shape)

    # ---- running

    def run(self, feeds, outs=None, times=None):
        """The outputs, in order, for {input: array} of the plan's types.

        outs: {output: dense array to fill}; times: a list that gets (step, nanoseconds) of everything that runs.
        """
        outs = outs or {}
        inputs = [dense(feeds[name]) for name in self.graph.inputs]
        made = [
            outs[name] if name in outs else _memory.empty(self.types[name].shape, self.types[name].dtype)
            for name in self._memory_names[len(inputs) :]
        ]
        memory = [_aligned(self.arena_bytes), *inputs, *made]
        flat = None
        loose = {}
        for part in self._parts:
            if isinstance(part, _Segment):
                self._run_segment(part, memory, times)
            else:
                flat = flat or [memory[0], *(array.reshape(-1).view(np.uint8) for array in memory[1:])]
                self._run_step(part, flat, loose, times)
        found = dict(zip(self._memory_names[len(inputs) :], made, strict=True))
        return [self._output(name, found, memory, loose, outs) for name in self.graph.outputs]

    def _run_segment(self, segment, memory, times):
        if times is None:
            segment.program.run(memory)
            return
        counts = iter(segment.program.counts)
        groups = [sum(next(counts) for _ in step.emission.rows) for step in segment.steps]
        times += zip(segment.steps, segment.program.run(memory, groups), strict=True)

    def _run_step(self, step, flat, loose, times):
        before = time.perf_counter_ns()
        node = step.node
        arrays = [None if name is None else self._value(name, flat, loose) for name in node.inputs]
        results = definition(node.op).evaluate(node.attrs, *arrays)
        results = results if isinstance(results, tuple) else (results,)
        for name, result in zip(node.outputs, results, strict=False):
            if name and self.storage.places[name].region == "loose":
                loose[name] = result if result.base is None else np.array(result)
            elif name:
                np.copyto(self._array(name, flat), result)
        if times is not None:
            times.append((step, time.perf_counter_ns() - before))

    def _value(self, name, flat, loose):
        return loose[name] if name in loose else self._array(name, flat)

    def _output(self, name, found, memory, loose, outs):
        if name in found:
            return found[name]
        flat = [memory[0], *(array.reshape(-1).view(np.uint8) for array in memory[1:])]
        value = self._value(name, flat, loose)
        if name in outs:
            np.copyto(outs[name], value)
            return outs[name]
        return np.array(value)
