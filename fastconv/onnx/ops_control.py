"""ONNX operators that run graphs: If, Loop, Scan, SequenceMap, and functions made of nodes."""

import numpy as np

from .evaluate import Scope, run_body
from .table import ModelError, op

MOST_STEPS = 1_000_000  # of a loop


@op("Call", scope=True)
def call(node, scope, *inputs):
    """A function of the model, or of the standard: its nodes see nothing of what is around."""
    return _called(node.attrs["body"], inputs)


@op("CallTyped", scope=True)
def call_typed(node, scope, *inputs):
    """A function whose nodes depend on the types of the inputs."""
    return _called(node.attrs["call"](inputs), inputs)


def _called(body, inputs):
    given = dict.fromkeys(value.name for value in body.inputs)
    given.update(zip(given, inputs, strict=False))
    return tuple(run_body(body, given))


@op("If", scope=True)
def if_(node, scope, condition):
    """One of two graphs."""
    if np.size(condition) != 1:
        raise ValueError(f"the condition must be one element, given shape {np.shape(condition)}")
    body = node.attrs["then_branch" if bool(np.asarray(condition).reshape(-1)[0]) else "else_branch"]
    return tuple(run_body(body, {}, scope))


@op("Loop", scope=True)
def loop(node, scope, count=None, condition=None, *state):
    """A graph as long as its condition holds, at most `count` times; what it gives besides is stacked."""
    body, state = node.attrs["body"], list(state)
    most = MOST_STEPS if count is None else min(int(np.asarray(count).reshape(-1)[0]), MOST_STEPS)
    goes_on = condition is None or bool(np.asarray(condition).reshape(-1)[0])
    names, collected, step = [value.name for value in body.inputs], [], 0
    if len(names) != 2 + len(state):
        raise ValueError(f"the body takes {len(names)} inputs, {2 + len(state)} are given")
    while goes_on and step < most:
        given = [np.array(step, np.int64), np.array(goes_on), *state]
        going, *rest = run_body(body, dict(zip(names, given, strict=True)), scope)
        goes_on = bool(np.asarray(going).reshape(-1)[0])
        state = rest[: len(state)]
        collected.append(rest[len(state) :])
        step += 1
    if goes_on and step == MOST_STEPS and (count is None or int(np.asarray(count).reshape(-1)[0]) > step):
        raise ModelError(f"{node}: the loop did not end after {step} turns")
    scans = len(body.outputs) - 1 - len(state)
    return (*state, *(_stacked([c[i] for c in collected], body.outputs[i - scans]) for i in range(scans)))


def _stacked(arrays, value):
    if arrays:
        return np.stack(arrays)
    shape = tuple(n if isinstance(n, int) else 0 for n in value.shape or ())
    return np.zeros((0, *shape), value.dtype or np.float32)


@op("Scan", scope=True)
def scan(node, scope, *inputs):
    """A graph for each slice of the inputs; opset 8 has a batch in front."""
    if node.opset < 9:
        return _batched_scan(node, scope, inputs)
    body, count = node.attrs["body"], node.attrs["num_scan_inputs"]
    states = len(inputs) - count
    axes = node.get("scan_input_axes") or (0,) * count
    turned = node.get("scan_input_directions") or (0,) * count
    slices = [np.moveaxis(a, axis, 0) for a, axis in zip(inputs[states:], axes, strict=True)]
    slices = [a[::-1] if flip else a for a, flip in zip(slices, turned, strict=True)]
    return _scanned(node, body, scope, list(inputs[:states]), slices)


def _scanned(node, body, scope, state, slices):
    names, rows = [value.name for value in body.inputs], []
    for step in range(len(slices[0])):
        given = dict(zip(names, [*state, *(a[step] for a in slices)], strict=True))
        results = run_body(body, given, scope)
        state = results[: len(state)]
        rows.append(results[len(state) :])
    scans = len(body.outputs) - len(state)
    axes = node.get("scan_output_axes") or (0,) * scans
    turned = node.get("scan_output_directions") or (0,) * scans
    made = [_stacked([row[i] for row in rows], body.outputs[len(state) + i]) for i in range(scans)]
    made = [a[::-1] if flip else a for a, flip in zip(made, turned, strict=True)]
    return (*state, *(np.ascontiguousarray(np.moveaxis(a, 0, axis)) for a, axis in zip(made, axes, strict=True)))


def _batched_scan(node, scope, inputs):
    lengths, *inputs = inputs
    body, count = node.attrs["body"], node.attrs["num_scan_inputs"]
    states, turned = len(inputs) - count, node.get("directions") or (0,) * count
    results = []
    for n in range(inputs[0].shape[0]):
        length = inputs[-1].shape[1] if lengths is None else int(lengths[n])
        slices = [a[n, :length] for a in inputs[states:]]
        slices = [a[::-1] if flip else a for a, flip in zip(slices, turned, strict=True)]
        results.append(_scanned(node, body, scope, [a[n] for a in inputs[:states]], slices))
    return tuple(np.stack(parts) for parts in zip(*results, strict=True))


@op("SequenceMap", scope=True)
def sequence_map(node, scope, sequence, *others):
    """A graph for each element of a sequence; other sequences go along, arrays stay."""
    body, rows = node.attrs["body"], []
    names = [value.name for value in body.inputs]
    for i, element in enumerate(sequence):
        given = [element, *(o[i] if isinstance(o, list) else o for o in others)]
        rows.append(run_body(body, dict(zip(names, given, strict=True)), Scope({}, scope)))
    return tuple([row[k] for row in rows] for k in range(len(body.outputs)))
