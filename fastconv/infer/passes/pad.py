"""Zero padding of images goes into the convolution that follows."""

from ..problems import pairs
from .rewrite import drop, only_reader


def run(graph, derived):
    readers = graph.consumers()
    for node in [node for node in graph.nodes if node.op == "pad"]:
        conv = only_reader(graph, node.outputs[0], readers)
        if conv is None or conv.op != "conv" or conv.inputs[0] != node.outputs[0]:
            continue
        pads = node.attrs["pads"]
        refusal = _refusal(node, conv, pads)
        if refusal:
            node.notes.append(f"not folded into {conv.name or conv.op}: {refusal}")
            continue
        own = pairs(conv.attrs.get("padding", 0), len(pads) - 2)
        total = zip(own, pads[2:], strict=True)
        conv.attrs["padding"] = tuple((a + before, b + after) for (a, b), (before, after) in total)
        conv.inputs = (node.inputs[0], *conv.inputs[1:])
        conv.notes.append(f"padding of {node.name or node.op} folded in")
        drop(graph, [node])
    return graph


def _refusal(node, conv, pads):
    if node.attrs.get("mode", "constant") != "constant" or node.attrs.get("fill", 0) != 0:
        return "pads with something else than zeros"
    if isinstance(conv.attrs.get("padding", 0), str):
        return "its padding depends on its size"
    if len(pads) < 3 or any(a or b for a, b in pads[:2]) or min(min(pair) for pair in pads) < 0:
        return "pads more than the image, or crops it"
    return None
