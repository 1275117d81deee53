"""Notes in the nodes that stay what they are, although they could be part of their neighbours: why they are not.
Of activations and of depthwise with pointwise layers it was measured (`fastconv/README.md`); the others follow from how
the kernels read and write."""

from ..ops import UNARY

_LAYERS = {"conv", "linear", "conv_transpose"}


def run(graph, derived):
    types, producers = graph.types(), graph.producers()
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if before is None:
            continue
        name, why = before.name or before.op, None
        if node.op in UNARY | {"activation_mean"} and before.op in _LAYERS:
            why = f"not done by {name}: it costs its arithmetic, not its way to memory, wherever it is done"
        elif node.op in ("mul", "affine") and len(node.inputs) > 1 and _is_scale(graph, producers, node, types):
            why = f"the scale is not applied by {name}: it is known when all of the result is"
        elif node.op == "conv" and before.op == "conv" and _is_depthwise(before, types) and _is_pointwise(node, types):
            why = f"not computed with {name}, block by block: what is between them stays in the second-level cache"
        elif node.op in ("max_pool", "avg_pool") and before.op == "conv":
            why = f"not computed with {name}: windows reach across its tiles"
        elif node.op in ("channel_shuffle", "index") and node.outputs[0] not in graph.outputs:
            why = "in place where its channels lie side by side, else copied: layers read channels in order"
        elif node.op == "conv" and before.op in ("shift", "active_shift"):
            why = f"{name} not read in place: the product wants whole rows of pixels side by side"
        if why is not None:
            node.notes.append(why)
    return graph


def _is_scale(graph, producers, node, types):
    """Whether the second operand is a number for each channel that was computed."""
    scale, t = node.inputs[1], types[node.outputs[0]]
    found = producers.get(scale)
    if found is None or t.shape is None or types[scale].shape is None or len(t.shape) < 3:
        return False
    return types[scale].shape[2:] == (1,) * (len(t.shape) - 2)


def _is_depthwise(node, types):
    w = types[node.inputs[1]].shape
    return w is not None and w[1] == 1 and node.attrs.get("groups", 1) == w[0] > 1


def _is_pointwise(node, types):
    w = types[node.inputs[1]].shape
    return w is not None and all(size == 1 for size in w[2:]) and node.attrs.get("groups", 1) == 1
