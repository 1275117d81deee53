"""Dropout layers: arguments and repr of torch.nn. `inplace` is accepted and has no effect."""

from .. import functional as F
from ..ops.checks import probability
from .module import Module


class Dropout(Module):
    """In training, zeroes elements with probability p."""

    def __init__(self, p=0.5, inplace=False):
        super().__init__()
        self.p, self.inplace = probability(type(self).__name__, p), inplace

    def forward(self, input):
        return F.dropout(input, self.p, self.training)

    def extra_repr(self):
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """In training, zeroes whole channels with probability p."""

    def forward(self, input):
        return F.dropout2d(input, self.p, self.training)


class StochasticDepth(Module):
    """torchvision.ops.StochasticDepth: in training, a whole residual branch becomes zero with probability p.

    mode "batch": for all images together; "row": for each image on its own.
    """

    def __init__(self, p, mode):
        super().__init__()
        self.p, self.mode = probability("StochasticDepth", p), mode
        if mode not in ("batch", "row"):
            raise ValueError(f"StochasticDepth: mode must be 'batch' or 'row', got {mode!r}")

    def forward(self, input):
        return F.stochastic_depth(input, self.p, self.mode, self.training)

    def extra_repr(self):
        return f"p={self.p}, mode={self.mode}"
