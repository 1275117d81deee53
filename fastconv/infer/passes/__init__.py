"""What makes a graph faster and means the same: each pass takes a graph, may change it, and gives it back.

A pass is `run(graph, derived)`: nodes are rewritten, new constants come from `derived`, which keeps them for the next
shape.  Passes leave a note in the nodes that they change or refuse to, which `explain` shows.
"""

from . import activation, apart, batch_norm, chains, channels, constants, dead, means, pad, residual, scale, simple
from .rewrite import Derived

PASSES = (
    *(dead, simple, constants, channels, simple, pad, chains, batch_norm, scale, residual, activation),
    *(means, dead, apart),
)


def optimise(graph, derived=None):
    """A copy of the graph after all passes."""
    graph, derived = graph.copy(), derived or Derived()
    for each in PASSES:
        graph = each.run(graph, derived)
    return graph


__all__ = ["PASSES", "Derived", "optimise"]
