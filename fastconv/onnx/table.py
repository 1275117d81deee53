"""The table of ONNX operators: how each is evaluated on arrays, and the parts of a model after it was read.

An operator is a function `f(node, *arrays) -> array or tuple of arrays`; inputs that are not there are None at the end
or in between, as in the file.  One function serves every opset from 7 on: where they differ, it asks `node.opset`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

import numpy as np

MOST_BYTES = 1 << 34  # of one value


class ModelError(ValueError):
    """A model that can't be loaded or run: which node, and why."""


class Value(NamedTuple):
    """What a model says about an input or output.  shape: None, or one number, name or None for each axis;
    kind: "tensor", "sequence", "optional", ...; dtype: None where it is not said."""

    name: str
    dtype: Any
    shape: Any
    kind: str = "tensor"


@dataclass(eq=False, repr=False, slots=True)
class Node:
    """One operator of a model.  inputs: names, None where an optional one is not there; opset: of its domain."""

    op: str
    inputs: tuple
    outputs: tuple
    attrs: dict = field(default_factory=dict)
    name: str = ""
    opset: int = 0
    domain: str = ""
    dtypes: tuple = ()  # ((positions, names of dtypes), ...): inputs that must have one dtype, of these

    def get(self, name, default=None):
        """The attribute, or the default."""
        return self.attrs.get(name, default)

    def __str__(self):
        kind = self.op if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.op}"
        return f"{kind} {self.name!r}" if self.name else f"{kind} (makes {', '.join(filter(None, self.outputs))!r})"


@dataclass(eq=False, repr=False, slots=True)
class Body:
    """A graph of a model, or of an `If` or `Loop` inside it: nodes in running order and what they start from.

    inputs: [Value]; outputs: [Value]; constants: {name: array}; outer: names it reads from the graphs around it;
    last_use: {index of a node: names that nobody reads after it}.
    """

    nodes: list
    inputs: list
    outputs: list
    constants: dict
    outer: tuple = ()
    last_use: dict = field(default_factory=dict)
    name: str = ""


class Entry(NamedTuple):
    """function(node, *arrays), or function(node, scope, *arrays) where `scope` is wanted."""

    function: Callable
    scope: bool = False


_table: dict = {}
_FILES = (
    "elementwise",
    "logic",
    "cast",
    "shape",
    "indexing",
    "reduce",
    "linear",
    "convolution",
    "pooling",
    "normalisation",
    "resize",
    "sampling",
    "detection",
    "recurrent",
    "control",
    "sequence",
    "quantised",
    "signal",
)


def _old_broadcast(function):
    """Before opset 7 the second operand was put at an axis of the first."""

    def wrapped(node, a, *rest):
        if node.opset < 7 and "axis" in node.attrs and rest:
            b = rest[0]
            rest = (b.reshape(*b.shape, *(1,) * (a.ndim - b.ndim - node.attrs["axis"] % a.ndim)),)
        return function(node, a, *rest)

    return wrapped


def two_operands(*names):
    """Put a function of two operands into the table."""
    return lambda function: op(*names)(_old_broadcast(function))


def op(*names, scope=False):
    """Put a function into the table under these names of the standard domain."""

    def add(function):
        for name in names:
            if name in _table:
                raise ValueError(f"there is an operator {name!r} already")
            _table[name] = Entry(function, scope)
        return function

    return add


def lookup(name, domain=""):
    """The Entry of an operator, or None."""
    if not _table:
        for file in _FILES:
            import_module(f"{__package__}.ops_{file}")
    return _table.get(name) if domain in ("", "ai.onnx") else None


def bounded(shape, dtype):
    """The shape; ValueError where an array of it would be larger than anything that a model needs."""
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    if nbytes > MOST_BYTES:
        raise ValueError(f"a value of shape {list(shape)} has {nbytes} bytes; at most {MOST_BYTES} are made")
    return tuple(shape)


def float_of(array):
    """A dtype to compute in: float64 stays, everything else is float32."""
    return np.dtype("float64") if array.dtype == np.float64 else np.dtype("float32")


def in_float(function):
    """Compute in float32 where arrays are narrower, and give the result in the first array's dtype."""

    def wrapped(node, *arrays):
        kept = arrays[0].dtype
        if kept in (np.float32, np.float64):
            return function(node, *arrays)
        wide = [a.astype(np.float32) if a is not None and a.dtype == kept else a for a in arrays]
        result = function(node, *wide)
        if isinstance(result, tuple):
            return tuple(r.astype(kept) if r is not None and r.dtype == np.float32 else r for r in result)
        return result.astype(kept)

    wrapped.__doc__ = function.__doc__
    return wrapped
