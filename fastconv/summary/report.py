"""`summary`: a network's layers as a table, with what each costs and sees."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..nn import Module
from .field import Field
from .guidelines import Advice, guidelines
from .trace import clock, parameter_count, watch


@dataclass(frozen=True)
class Layer:
    """One row: a layer's call, or an operation outside of any layer.

    name: dotted, as in named_modules; kind: class of the layer or name of the operation; detail: kernel, stride,
    dilation and groups of a convolution; parameters: numbers that no earlier row has used; multiply_adds: products that
    are summed; read, written, constants: bytes of the input, the output, and of parameters and statistics; field: one
    Field (size, jump, start) for each axis of the image, empty where there is none; seconds: None if not timed.
    """

    name: str
    kind: str
    detail: str
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    read: int
    written: int
    constants: int
    field: tuple[Field, ...]
    operations: tuple[str, ...]
    seconds: float | None = None

    @property
    def bytes(self):
        """All memory traffic: read, written and constants."""
        return self.read + self.written + self.constants


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` returns; its text is the table.

    parameters and trainable: numbers in all parameters and in those that need gradients; unused: dotted names of
    parameters that this pass did not use; advice: warnings by the guidelines of ShuffleNet v2, only if timed.
    """

    model: str
    input_shapes: tuple[tuple[int, ...], ...]
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    unused: tuple[str, ...]
    advice: tuple[Advice, ...] = field(default=())

    @property
    def multiply_adds(self):
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def bytes(self):
        """Memory traffic of all layers."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def seconds(self):
        """Of all layers; None if not timed."""
        times = [layer.seconds for layer in self.layers if layer.seconds is not None]
        return sum(times) if times else None

    def layer(self, name):
        """The first row of that name.  Raises KeyError."""
        for row in self.layers:
            if row.name == name:
                return row
        raise KeyError(f"no layer {name!r}; there are {', '.join(dict.fromkeys(row.name for row in self.layers))}")

    def __repr__(self):
        return table(self)


def summary(model, input_shape, timed=0) -> Summary:
    """One forward pass of `model` on zeros, layer by layer: output shape, parameters, multiply-adds, memory traffic and
    receptive field, as data whose text is a table.

    input_shape: (n, c, *size), or a list of shapes for several inputs; timed: passes to take the time of (0: none), the
    layers' times being medians.  With time comes advice: the four guidelines of Ma et al. 2018, ShuffleNet v2, arXiv
    1807.11164, section 2.  The pass is eager, in evaluation mode and without gradients; the model stays as it is.
    Multiply-adds are those of convolutions, linear layers and products of matrices, taps in the padding included, as
    the papers count them.  Receptive fields: see fastconv/summary/field.py.
    Raises TypeError for something else than a Module, ValueError for sizes below 1 or a negative number of passes.
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: the model must be a Module, given {type(model).__name__}")
    shapes = _shapes(input_shape)
    if not isinstance(timed, int) or timed < 0:
        raise ValueError(f"summary: timed must be a whole number of passes, at least 0, given {timed!r}")
    trace = watch(model, shapes)
    seconds: list[Any] = clock(model, shapes, trace, timed) if timed else [None] * len(trace.rows)
    layers = tuple(
        Layer(
            *(row.name, row.kind, row.detail, row.output_shape, row.parameters, row.multiply_adds),
            *(row.read, row.written, row.constants, row.field, tuple(row.operations)),
            seconds=taken,
        )
        for row, taken in zip(trace.rows, seconds, strict=True)
    )
    unused = tuple(name for name, p in model.named_parameters() if id(p) not in trace.used)
    advice = tuple(guidelines(trace, seconds)) if timed else ()
    return Summary(type(model).__name__, shapes, layers, *parameter_count(model), unused, advice)


def _shapes(given):
    several = isinstance(given, list) and given and all(isinstance(shape, (tuple, list)) for shape in given)
    shapes = tuple(tuple(shape) for shape in (given if several else [given]))
    for shape in shapes:
        if not shape or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
            raise ValueError(
                f"summary: input_shape must be sizes of at least 1, such as (1, 3, 224, 224), given {given!r}"
            )
    return tuple(tuple(int(n) for n in shape) for shape in shapes)


# ---- text


def short(number):
    """12345678 -> "12.3 M"; below 10,000 as it is."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.4g} {unit}"
    return f"{number}"


def sizes(values):
    """ "7", or "7x5" where the axes differ."""
    values = [f"{v:g}" for v in values]
    return values[0] if len(set(values)) == 1 else "x".join(values)


def columns(rows, right=()):
    """Lines of text; the columns whose numbers are in `right` are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:>{width}}" if i in right else f"{cell:<{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cells(layer, total):
    names = " ".join(filter(None, (layer.kind, layer.detail)))
    cells = [layer.name, names, "x".join(map(str, layer.output_shape)), f"{layer.parameters:,}"]
    cells += [short(layer.multiply_adds), f"{layer.bytes / 1e6:.3g}"]
    cells += [sizes(values) for values in zip(*layer.field, strict=True)] if layer.field else ["-"] * 3
    if total is not None:
        cells += [f"{layer.seconds * 1e3:.3g}", f"{100 * layer.seconds / total:.1f}"]
    return cells


def table(summary):
    """The text of a Summary."""
    total = summary.seconds
    head = ["layer", "kind", "output", "parameters", "multiply-adds", "MB", "field", "jump", "start"]
    head += [] if total is None else ["ms", "% of time"]
    lines = columns([head, *(_cells(layer, total) for layer in summary.layers)], right=range(3, len(head)))
    lines.insert(1, "-" * max(map(len, lines)))
    given = ", ".join("x".join(map(str, shape)) for shape in summary.input_shapes)
    lines += [
        lines[1],
        f"{summary.model} on {given}: {summary.parameters:,} parameters ({summary.trainable:,} trained)",
    ]
    lines[-1] += f", {short(summary.multiply_adds)} multiply-adds, {summary.bytes / 1e6:,.1f} MB moved"
    lines[-1] += "" if total is None else f", {total * 1e3:.1f} ms"
    if summary.unused:
        lines.append(f"not used in this pass: {', '.join(summary.unused)}")
    return "\n".join([*lines, *map(str, summary.advice)])
