"""What an ONNX model costs: the operations that are left of it for one set of shapes, with their weights."""

from math import prod

import numpy as np

from .onnx_model import session_of, wanted_shapes


def onnx_summary(path, words):
    """The table of a file's operations; words: shapes of inputs, where the file leaves them open."""
    session = session_of(path)
    if session.network is None:
        raise ValueError(f"{path} has values that no plan can hold, such as text or sequences: there is no summary")
    shapes = wanted_shapes(session, words)
    example = {n: np.zeros(shape, session.network._example[n].dtype) for n, shape in shapes.items()}
    graph = session.network.graph(example)
    types, lines, seen, totals = graph.types(), [], set(), [0, 0]
    for node in graph.nodes:
        fresh = [name for name in node.inputs if name in graph.constants and name not in seen]
        seen.update(fresh)
        weights = sum(graph.constants[name].size for name in fresh)
        work = _multiply_adds(node, types)
        totals = [totals[0] + weights, totals[1] + work]
        shape = types[node.outputs[0]].shape
        size = "?" if shape is None else "x".join(map(str, shape)) or "number"
        lines.append(f"{node.name[:40]:40} {node.op:18} {size:>18} {weights:12,} {work / 1e6:10.2f}")
    head = f"{'node':40} {'operation':18} {'output':>18} {'weights':>12} {'10^6 MACs':>10}"
    return "\n".join([head, *lines, f"{len(lines)} nodes, {totals[0]:,} weights, {totals[1] / 1e6:,.1f} million MACs"])


def _multiply_adds(node, types):
    """Multiply-adds of products and convolutions."""
    shapes = [types[name].shape for name in (*node.inputs[:2], node.outputs[0])] if len(node.inputs) > 1 else []
    if len(shapes) < 3 or any(shape is None for shape in shapes):
        return 0
    first, second, out = shapes
    if node.op in ("conv", "linear"):
        return prod(out) * prod(second[1:])
    if node.op == "conv_transpose":
        return prod(first) * prod(second[1:])
    return prod(out) * first[-1] if node.op == "matmul" else 0
