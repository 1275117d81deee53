"""What a network costs and sees, layer by layer, and designs side by side."""

from .compare import Comparison, Design, compare, compare_convolutions
from .field import Field
from .guidelines import Advice
from .report import Layer, Summary, summary

__all__ = ["Advice", "Comparison", "Design", "Field", "Layer", "Summary", "compare", "compare_convolutions", "summary"]
