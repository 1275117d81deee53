"""Simpler words for the same: identities go; a mean over the whole image is a pooling."""

from ..graph import Node


def run(graph, derived):
    types, nodes, same = graph.types(), [], {}
    for node in graph.nodes:
        node.inputs = tuple(same.get(name, name) for name in node.inputs)
        if _does_nothing(node, types) and node.outputs[0] not in graph.outputs:
            same[node.outputs[0]] = node.inputs[0]
        elif node.op == "mean" and _is_image_mean(node, types[node.inputs[0]].shape):
            nodes += _pooled(graph, node, types)
        else:
            nodes.append(node)
    graph.nodes = nodes
    return graph


def _does_nothing(node, types):
    if node.op in ("reshape", "expand", "permute"):
        moved = node.op == "permute" and tuple(node.attrs["axes"]) != tuple(range(len(node.attrs["axes"])))
        return not moved and types[node.inputs[0]] == types[node.outputs[0]]
    return node.op == "identity"


def _is_image_mean(node, shape):
    return shape is not None and len(shape) >= 3 and tuple(node.attrs["axes"]) == tuple(range(2, len(shape)))


def _pooled(graph, node, types):
    """The mean as a pooling, and a reshape where the axes do not stay."""
    (x,), (y,) = node.inputs, node.outputs
    pooled = graph.fresh(f"{y}_pooled")
    shape = types[y].shape
    yield Node("adaptive_avg_pool", (x,), (pooled,), {"output_size": 1}, node.name, ["a mean over the image"])
    yield Node("reshape", (pooled,), (y,), {"shape": shape}, node.name)
