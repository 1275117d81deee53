"""Compiled networks: one graph, rewritten, planned and run in one call."""

from .graph import Graph, Node, Type
from .ops import OpDef, register

__all__ = ["Graph", "Node", "OpDef", "Type", "register"]
