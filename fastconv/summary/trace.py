"""One forward pass, watched: which layer called which operation, at what cost, seeing what, and how long it took.

Modules are followed by wrapping `forward` of each for the time of the pass, operations by the capture hook.  The pass
runs on zeros without gradients, in evaluation mode; everything is put back afterwards.
"""

import contextlib
import dataclasses
import statistics
import time
import weakref
from math import prod
from typing import Any

import numpy as np

from ..autograd import Tensor, Variable, capture, no_grad, value
from ..nn import Module, Parameter
from . import field as fields
from .costs import cost, is_view


@dataclasses.dataclass
class Step:
    """One operation.  sources: the steps whose outputs it takes; calls: (number, path) of the module calls that it is
    part of, outermost first; row: the index of its layer's row, None where nothing is computed.
    """

    name: str
    sources: tuple[int, ...]
    calls: tuple[tuple[int, str], ...]
    row: int | None = None


@dataclasses.dataclass
class Row:
    """What one layer, or one operation outside of a layer, did."""

    name: str
    kind: str
    detail: str = ""
    output_shape: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: int = 0
    read: int = 0
    written: int = 0
    constants: int = 0
    field: tuple[fields.Field, ...] = ()
    operations: list[str] = dataclasses.field(default_factory=list)
    conv: Any = None


class _Frame:
    """One call of a module that is under way."""

    def __init__(self, number, path, module):
        self.number, self.path, self.module, self.row = number, path, module, None
        self.leaf = not any(m is not None for m in module._modules.values())


class Trace:
    """The result of `watch`: rows and steps in running order, and the parameters that no operation used."""

    def __init__(self):
        self.rows: list[Row] = []
        self.steps: list[Step] = []
        self.used: set[int] = set()
        self._frames: list[_Frame] = []
        self._calls = 0
        self._seen: dict[int, fields.Seen] = {}
        self._made: dict[int, int] = {}
        self._waiting = 0  # parameters that only views have used so far

    # -- modules

    def enter(self, path, module):
        self._calls += 1
        self._frames.append(_Frame(self._calls, path, module))

    def leave(self):
        self._frames.pop()

    # -- operations

    def remember(self, tensor, seen, step=None):
        """Keep what `tensor` sees, and who made it, for as long as it lives."""
        for table, entry in ((self._seen, seen), (self._made, step)):
            if entry is not None:
                table[id(tensor)] = entry
                weakref.finalize(tensor, table.pop, id(tensor), None)

    def operation(self, op, args, outputs):
        if not any(isinstance(a, Variable) for a in args):
            return  # inside another operation
        frame = self._frames[-1]
        sources = sorted({self._made[id(a)] for a in args if id(a) in self._made})
        step = Step(op.name, tuple(sources), tuple((f.number, f.path) for f in self._frames))
        self.steps.append(step)
        self._follow(op.name, args, outputs)
        self._waiting += self._new_parameters(args)
        if not frame.leaf and is_view(args, outputs):
            return
        step.row = self._row_of(frame, op.name)
        row = self.rows[step.row]
        self._add(row, op, args, outputs)

    def _row_of(self, frame, name):
        """A layer has one row for each call, whatever it does inside; a block has one for each operation of its own."""
        if frame.row is not None:
            return frame.row
        kind = type(frame.module).__name__ if frame.leaf else name
        self.rows.append(Row(frame.path or kind, kind))
        if frame.leaf:
            frame.row = len(self.rows) - 1
            own = [p for p in frame.module._parameters.values() if p is not None]
            self._waiting += self._new_parameters(own)
        return len(self.rows) - 1

    def _new_parameters(self, tensors):
        new = {id(t): t.size for t in tensors if isinstance(t, Parameter) and id(t) not in self.used}
        self.used.update(new)
        return sum(new.values())

    def _add(self, row, op, args, outputs):
        spent = cost(op, args, outputs)
        row.parameters, self._waiting = row.parameters + self._waiting, 0
        row.multiply_adds += spent.multiply_adds
        row.read, row.written = row.read + spent.read, row.written + spent.written
        row.constants += spent.constants
        row.operations.append(op.name)
        first = outputs[0]
        row.output_shape = tuple(first.shape)
        seen = self._seen.get(id(first))
        row.field = seen.fields if seen else ()
        spec = next((a for a in args if hasattr(a, "icg")), None) if op.name in ("conv", "adder") else None
        if spec is not None:
            row.conv, row.detail = spec, _describe(spec)

    def _follow(self, name, args, outputs):
        known = [(self._seen[id(a)], value(a)) for a in args if id(a) in self._seen]
        for out in outputs:
            if isinstance(out, Variable):
                seen = fields.follow(name, args, known, value(out)) if known else None
                self.remember(out, seen, len(self.steps) - 1)


def _describe(spec):
    """ "3x3 s2 g32": kernel, and what is not usual."""

    def sizes(letter):
        values = [getattr(spec, letter + axis) for axis in "dhw"[3 - spec.ndim :]]
        return f"{values[0]}" if len(set(values)) == 1 and letter != "k" else "x".join(map(str, values))

    words = [sizes("k")] + [f"{letter}{sizes(letter)}" for letter in "sd" if sizes(letter) != "1"]
    return " ".join(words + ([f"g{spec.g}"] if spec.g > 1 else []))


# ---- running


@contextlib.contextmanager
def _wrapped(model, trace):
    """Every module tells the trace when it is entered and left."""
    wrapped = []
    try:
        for path, module in model.named_modules():
            wrapped.append((module, module.__dict__.get("forward")))
            object.__setattr__(module, "forward", _announced(trace, path, module, module.forward))
        yield
    finally:
        for module, before in wrapped:
            if before is None:
                del module.__dict__["forward"]
            else:
                object.__setattr__(module, "forward", before)


def _announced(trace, path, module, forward):
    def announced(*args, **kwargs):
        trace.enter(path, module)
        try:
            return forward(*args, **kwargs)
        finally:
            trace.leave()

    return announced


@contextlib.contextmanager
def _evaluation(model):
    """Evaluation mode, whatever was frozen or half in training before."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def zeros(model, shapes):
    """Tensors of zeros, one for each shape, in the dtype of the model's parameters (float32 without any)."""
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    return [Tensor(np.zeros(shape, dtype)) for shape in shapes]


def watch(model: Module, shapes) -> Trace:
    """The Trace of one forward pass."""
    trace, inputs = Trace(), zeros(model, shapes)
    for tensor in inputs:
        if tensor.ndim > 2:
            trace.remember(tensor, fields.first_seen(tensor.shape))
    quiet = np.errstate(all="ignore")  # weights that were never initialised may hold anything
    with _evaluation(model), no_grad(), _wrapped(model, trace), capture(trace.operation), quiet:
        model(*inputs)
    return trace


def clock(model, shapes, trace, passes):
    """Seconds of each row: medians over `passes` forward passes, the time between operations going to the later one."""
    inputs, rows = zeros(model, shapes), [step.row for step in trace.steps]
    times = np.empty((passes, len(rows)))
    stamps = []

    def stamp(op, args, outputs):
        if any(isinstance(a, Variable) for a in args):
            stamps.append(time.perf_counter())

    with _evaluation(model), no_grad():
        for i in range(passes):
            stamps.append(time.perf_counter())
            with capture(stamp):
                model(*inputs)
            if len(stamps) != len(rows) + 1:
                raise ValueError(f"summary: {len(rows)} operations in one pass, {len(stamps) - 1} in the next")
            times[i] = np.diff(stamps)
            stamps.clear()
    seconds, waiting = [0.0] * len(trace.rows), 0.0
    for row, taken in zip(rows, times.T, strict=True):
        waiting += statistics.median(taken)
        if row is not None:
            seconds[row], waiting = seconds[row] + waiting, 0.0
    return seconds


def parameter_count(model):
    """Numbers in all parameters, each once, and of those that are trained."""
    sizes = [(prod(p.shape), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, on in sizes if on)
