"""The mean over the image of an activation's result is taken where the result is made: squeeze-and-excite."""

from ..graph import Node
from ..ops import WITH_MEAN
from .rewrite import drop


def run(graph, derived):
    types = graph.types()
    for pool in [node for node in graph.nodes if node.op == "adaptive_avg_pool"]:
        producer = graph.producers().get(pool.inputs[0])
        if producer is None or producer.op not in WITH_MEAN:
            continue
        shape = types[pool.inputs[0]].shape
        if shape is None or len(shape) < 3 or types[pool.outputs[0]].shape != (*shape[:2], *(1,) * (len(shape) - 2)):
            continue
        if 0 in shape or pool.attrs.get("ndim", len(shape) - 2) != len(shape) - 2:
            continue
        drop(graph, [pool])
        made = Node(
            *("activation_mean", producer.inputs, (producer.outputs[0], pool.outputs[0])),
            *({"op": producer.op}, producer.name, [*producer.notes, f"{pool.name or pool.op} taken on the way"]),
        )
        graph.nodes[next(i for i, node in enumerate(graph.nodes) if node is producer)] = made
    return graph
