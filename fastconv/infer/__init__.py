"""Compiled networks: one graph, rewritten, planned and run in one call."""

from .graph import Graph, Node, Type
from .network import CompiledNetwork, compile
from .ops import OpDef, register

__all__ = ["CompiledNetwork", "Graph", "Node", "OpDef", "Type", "compile", "register"]
