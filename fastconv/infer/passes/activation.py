"""Activations that clamp (ReLU, ReLU6, hardtanh, clip) are done by what makes their input."""

from .rewrite import only_reader, take_over

BOUNDS = {"relu": (0.0, None), "relu6": (0.0, 6.0)}
_CLAMPS = {"conv", "linear", "affine", "add", "sub", "mul", "div"}


def bounds(node):
    """(low, high) of an operation that clamps, else None."""
    if node.op == "clip":
        return node.attrs.get("low"), node.attrs.get("high")
    return BOUNDS.get(node.op)


def run(graph, derived):
    producers, readers = graph.producers(), graph.consumers()
    for node in list(graph.nodes):
        found = bounds(node)
        if found is None or len(node.inputs) != 1:
            continue
        producer = producers.get(node.inputs[0])
        if producer is None or producer.op not in _CLAMPS:
            continue
        name = producer.name or producer.op
        if only_reader(graph, node.inputs[0], readers) is not node:
            node.notes.append(f"not done by {name}: its result is read by others too")
            continue
        if not all(isinstance(bound, (int, float, type(None))) for bound in found):
            node.notes.append(f"not done by {name}: the bounds are not numbers")
            continue
        low, high = _both((producer.attrs.get("low"), producer.attrs.get("high")), found)
        producer.attrs.update(low=low, high=high)
        producer.notes.append(f"{node.name or node.op} done on the way to memory")
        take_over(graph, producer, node)
        producers[producer.outputs[0]] = producer
    return graph


def _both(first, second):
    """The bounds of clamping twice."""
    (low, high), (next_low, next_high) = first, second
    clamped = [v if next_low is None else next_low if v is None else max(v, next_low) for v in (low,)]
    if high is not None and next_low is not None:
        high = max(high, next_low)
    if next_high is not None:
        high = next_high if high is None else min(high, next_high)
        clamped = [None if v is None else min(v, next_high) for v in clamped]
    return clamped[0], high
