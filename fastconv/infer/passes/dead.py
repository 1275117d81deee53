"""Dead code: nodes that no output needs, and constants that no node reads, go."""


def run(graph, derived=None):
    needed, nodes = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.update(name for name in node.inputs if name is not None)
    graph.nodes = nodes[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in needed}
    return graph
