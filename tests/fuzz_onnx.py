"""Damaged ONNX models: whatever is wrong with a file, loading and running it raises an error that says so, soon.

    python -m tests.fuzz_onnx 10000 model.onnx ...

makes that many mutants of the models, with a fixed seed, in a process of limited memory.  A crash ends the process (the
last line of output names the mutant), a hang raises; `test_onnx.py` does the same with few of a small model.
"""

import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx

from fastconv.onnx import load
from fastconv.onnx.evaluate import run_body
from fastconv.onnx.lower import Lowering

SECONDS, MEMORY = 20, 6 << 30
NUMBERS = (0, 1, -1, 2, 3, 7, -(1 << 31), (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63))


class Mutator:
    """Mutants of one model, by a random generator."""

    def __init__(self, data, rng):
        self._data, self._rng, self._proto = data, rng, onnx.ModelProto.FromString(data)
        free = np.ones(len(data), bool)
        for tensor in self._proto.graph.initializer:  # what is inside of weights is only numbers: rarely touched
            if len(tensor.raw_data) > 64 and (at := data.find(tensor.raw_data)) >= 0:
                free[at : at + len(tensor.raw_data)] = False
        self._places = np.flatnonzero(free)

    def __call__(self):
        """The bytes of a mutant."""
        kind = self._rng.integers(10)
        if kind < 4:
            return self._bytes()
        return self._cut() if kind == 4 else self._fields()

    def _bytes(self):
        mutant = bytearray(self._data)
        for place in self._rng.choice(self._places, self._rng.integers(1, 5)):
            mutant[place] = self._rng.integers(256)
        return bytes(mutant)

    def _cut(self):
        first, last = sorted(self._rng.choice(self._places, 2))
        return self._data[:first] if self._rng.integers(2) else self._data[:first] + self._data[last:]

    def _fields(self):
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        for _ in range(self._rng.integers(1, 4)):
            self._change(proto.graph)
        return proto.SerializeToString()

    def _one(self, items):
        return items[self._rng.integers(len(items))]

    def _number(self):
        return int(self._one(NUMBERS))

    def _change(self, graph):
        """One field of a node, a weight, an attribute or an input, or the order of nodes."""
        node, what = self._one(graph.node), self._rng.integers(8)
        names = [*node.input, *self._one(graph.node).output]
        if what == 0:
            node.op_type = self._one(graph.node).op_type
        elif what == 1 and node.input:
            node.input[self._rng.integers(len(node.input))] = self._one([*names, "", "nobody"])
        elif what == 2 and node.output:
            node.output[self._rng.integers(len(node.output))] = self._one([*names, ""])
        elif what == 3 and graph.initializer:
            tensor = self._one(graph.initializer)
            if tensor.dims and self._rng.integers(2):
                tensor.dims[self._rng.integers(len(tensor.dims))] = self._number()
            else:
                tensor.data_type = int(self._rng.integers(25))
        elif what == 4 and graph.initializer:
            self._values(self._one(graph.initializer))
        elif what == 5 and graph.input:
            self._input(self._one(graph.input).type.tensor_type)
        elif what == 6:
            del graph.node[int(self._rng.integers(len(graph.node)))]
        elif node.attribute:
            self._attribute(node, self._one(node.attribute))

    def _values(self, tensor):
        """Other numbers in a small weight: shapes, axes and sizes are such."""
        try:
            array = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError):
            return
        if array.dtype.kind in "iuf" and 0 < array.size < 32:
            array = array.copy()
            with np.errstate(all="ignore"):
                array.flat[self._rng.integers(array.size)] = np.array(self._number()).astype(array.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    def _input(self, tensor):
        if tensor.shape.dim and self._rng.integers(2):
            self._one(tensor.shape.dim).dim_value = self._number()
        else:
            tensor.elem_type = int(self._rng.integers(25))

    def _attribute(self, node, attribute):
        if attribute.ints and self._rng.integers(4):
            attribute.ints[self._rng.integers(len(attribute.ints))] = self._number()
        elif attribute.HasField("i") and self._rng.integers(4):
            attribute.i = self._number()
        elif attribute.ints and self._rng.integers(2):
            attribute.ints.append(1)
        else:
            node.attribute.remove(attribute)


def feed(value, size):
    """An array for an input: `size` where the model leaves a size open."""
    shape = [n if isinstance(n, int) else 1 if i == 0 else size for i, n in enumerate(value.shape or ())]
    if np.prod(shape, dtype=float) > 1 << 24:
        raise ValueError(f"an input of shape {shape}")
    return np.ones(shape, value.dtype or np.float32)


def attempt(data, size=48):
    """Load, lower and run a mutant node by node; the error, or None."""
    try:
        model = load(data)
        feeds = {value.name: feed(value, size) for value in model.inputs}
        Lowering(model, {n: (a.shape, a.dtype) for n, a in feeds.items()}, {}).graph().check()
        run_body(model.body, feeds)
    except (ValueError, TypeError) as error:
        return error
    return None


def hang(signum, frame):
    raise RuntimeError(f"more than {SECONDS} s of the processor")


def main(count, paths):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, hang)
    rng, found = np.random.default_rng(0), Counter()
    mutators = [(path, Mutator(Path(path).read_bytes(), rng)) for path in paths]
    started, slowest = time.time(), 0.0
    for index in range(count):
        path, mutator = mutators[index % len(mutators)]
        data, before = mutator(), time.process_time()
        sys.stdout.write(f"\r{index} {Path(path).name:40}")
        sys.stdout.flush()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            error = attempt(data)
        except Exception as wrong:
            Path(f"mutant_{index}.onnx").write_bytes(data)
            sys.stdout.write(f"\n{type(wrong).__name__}: {wrong}, kept in mutant_{index}.onnx\n")
            error = wrong
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - before)
        found[type(error).__name__] += 1
    sys.stdout.write(
        f"\n{count} mutants in {time.time() - started:.0f} s, slowest {slowest:.1f} s, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB at most: {dict(found)}\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
