"""A sum with a convolution's result is added inside the convolution, while the result is in registers."""

from ..._registry import select
from ..problems import conv_problem
from .rewrite import drop, only_reader


def run(graph, derived):
    types = graph.types()
    for add in [node for node in graph.nodes if node.op == "add"]:
        producers, readers = graph.producers(), graph.consumers()
        order = {id(node): i for i, node in enumerate(graph.nodes)}
        operands = [name for name in add.inputs if types[name] == types[add.outputs[0]]]
        if len(operands) < 2 or operands[0] == operands[1]:
            continue
        convs = [producers[name] for name in operands if name in producers and producers[name].op == "conv"]
        for conv in sorted(convs, key=lambda node: -order[id(node)]):  # the later one: the other sum is there already
            refusal = _refusal(graph, conv, types, readers)
            if refusal is None:
                other = next(name for name in operands if name != conv.outputs[0])
                _fuse(graph, add, conv, other)
                break
            add.notes.append(f"not added in {conv.name or conv.op}: {refusal}")
    return graph


def _refusal(graph, conv, types, readers):
    if only_reader(graph, conv.outputs[0], readers) is None:
        return "its result is read by others too"
    if len(conv.inputs) > 3 or conv.attrs.get("low") is not None or conv.attrs.get("high") is not None:
        return "it adds or clamps something already"
    x, w = types[conv.inputs[0]], types[conv.inputs[1]]
    impl = select("conv.fwd", conv_problem("conv", conv.attrs, x.shape, w.shape, None, x.dtype), packed=True)
    return None if impl.epilogue else f"{impl.name} adds nothing to its result"


def _fuse(graph, add, conv, other):
    """The convolution moves to where the sum was: all that it needs is there by then."""
    drop(graph, [conv])
    conv.inputs = (*(*conv.inputs, None)[:3], other)
    conv.outputs = add.outputs
    conv.attrs.update((key, add.attrs[key]) for key in ("low", "high") if key in add.attrs)
    conv.notes.append(f"{add.name or add.op} with {other} added in registers")
    graph.nodes[next(i for i, node in enumerate(graph.nodes) if node is add)] = conv
