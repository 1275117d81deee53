"""How kernels are run from array code, and how an op is given its counterpart on the device."""

from typing import Any, NamedTuple

import numpy as np

from ..._device import rules
from ..._registry import select
from .array import CudaArray, empty
from .gpu import Kernel
from .shaping import dense

_rules = rules.setdefault("cuda", {})


class Row(NamedTuple):
    """One launch: a kernel, how many blocks (a number or up to three) of how many threads, and its arguments."""

    kernel: Kernel
    blocks: Any
    threads: Any
    arguments: tuple


def flat(x):
    """What a kernel is given for `x`: the flat buffer of an array, which must be dense, or a number as it is."""
    if isinstance(x, CudaArray):
        return x.raw
    return x.item() if isinstance(x, np.generic) else x


def launch(*rows):
    """Run rows in order, in the device's default stream. Rows without blocks do nothing."""
    for row in rows:
        blocks = row.blocks if isinstance(row.blocks, tuple) else (row.blocks,)
        if 0 not in blocks:
            row.kernel(row.blocks, row.threads, *map(flat, row.arguments))


def run(operation, spec, out, **inputs):
    """Compute the arrays in `out`, a dict, by the implementation that the registry selects; inputs are made dense."""
    buffers = {name: None if array is None else dense(array) for name, array in inputs.items()}
    launch(*select(operation, spec, device="cuda").emit(spec, {**buffers, **out}))


def output(shape, spec, like):
    """A new array of a batched shape, without the batch where `like` has none."""
    return empty(shape if like.ndim == spec.ndim + 2 else shape[1:], spec.dtype)


def counterpart(*names):
    """Class decorator: this `_device.Rule` is the counterpart of the ops "<file>.<class>"."""

    def register(cls):
        for name in names:
            if name in _rules:
                raise ValueError(f"{name} already has a counterpart on the device: {_rules[name].__name__}")
            _rules[name] = cls
        return cls

    return register
