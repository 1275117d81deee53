"""Constant folding: what depends on constants alone is computed once."""

from ..ops import definition

_RANDOM = {"dropout"}


def run(graph, derived):
    nodes = []
    for node in graph.nodes:
        arrays = [None if name is None else graph.constants.get(name) for name in node.inputs]
        known = all(name is None or array is not None for name, array in zip(node.inputs, arrays, strict=True))
        if node.op in _RANDOM or not known or set(node.outputs) & set(graph.outputs):
            nodes.append(node)
            continue
        results = derived(_evaluate, *arrays, op=node.op, attrs=_Held(node.attrs))
        graph.constants.update((name, array) for name, array in zip(node.outputs, results, strict=False) if name)
    graph.nodes = nodes
    return graph


class _Held:
    """Attributes that are compared by their text."""

    def __init__(self, attrs):
        self.attrs = attrs

    def __repr__(self):
        return repr(sorted(self.attrs.items()))


def _evaluate(*arrays, op, attrs):
    results = definition(op).evaluate(attrs.attrs, *arrays)
    return results if isinstance(results, tuple) else (results,)
