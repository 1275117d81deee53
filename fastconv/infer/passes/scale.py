"""Numbers for each channel that multiply or are added to the result of a convolution or linear layer go into its
weights and bias."""

import numpy as np

from .rewrite import add_constant, constant, fixed_weights, take_over, times

_PRODUCERS = {"conv", "linear"}


def run(graph, derived):
    types = graph.types()
    producers, readers = graph.producers(), graph.consumers()
    for node in [node for node in graph.nodes if node.op in ("mul", "div", "add", "sub")]:
        found = _operands(graph, node, producers, types)
        if found is None:
            continue
        producer, values = found
        refusal = fixed_weights(graph, node, producer, readers)
        if refusal is not None:
            node.notes.append(f"not folded: {refusal}")
            continue
        w, b = (constant(graph, name) for name in (*producer.inputs, None)[1:3])
        weights = derived(_folded, w, b, values, op=node.op, first=producer.outputs[0] == node.inputs[0])
        names = [add_constant(graph, f"{producer.inputs[1]}_scaled", weights[0])]
        names.append(add_constant(graph, f"{producer.inputs[1]}_scaled_bias", weights[1]))
        producer.inputs = (producer.inputs[0], *names)
        producer.attrs.update((key, node.attrs[key]) for key in ("low", "high") if key in node.attrs)
        producer.notes.append(f"{node.name or node.op} folded into the weights")
        take_over(graph, producer, node)
        producers[producer.outputs[0]] = producer
    return graph


def _operands(graph, node, producers, types):
    """(the layer that makes one operand, the constant that is the other) or None."""
    for x, other in (node.inputs, node.inputs[::-1]):
        values, producer = constant(graph, other), producers.get(x)
        if values is None or producer is None or producer.op not in _PRODUCERS or types[x].shape is None:
            continue
        if types[node.outputs[0]] != types[x] or (node.op == "div" and x == node.inputs[1]):
            continue
        axis, rank = (1, len(types[x].shape)) if producer.op == "conv" else (-1, 2)
        column = (1,) * (rank - values.ndim) + values.shape
        if values.size == 1 or (column[axis] == values.size == types[x].shape[axis]):
            return producer, values
    return None


def _folded(w, b, values, op, first):
    """Weights and bias of (layer op values), or of (values op layer) where the layer is not `first`."""
    values = np.broadcast_to(values.reshape(-1).astype(np.float64), (len(w),))
    scale, shift = np.ones(len(w)), np.zeros(len(w))
    if op in ("mul", "div"):
        scale = values if op == "mul" else 1 / values
    else:
        shift = -values if op == "sub" and first else values
        scale = -scale if op == "sub" and not first else scale
    bias = shift if b is None else b * scale + shift
    return times(w, scale.reshape(-1, *(1,) * (w.ndim - 1))), bias.astype(w.dtype)
