"""The layer of AdderNet (Chen et al. 2020, arXiv 1912.13200)."""

from typing import Any

import numpy as np

from .. import functional as F
from . import init
from .conv import Conv2d


class Adder2d(Conv2d):
    """-sum |w - x| in place of a convolution's sum of products: (N, C, H, W) or (C, H, W); arguments as Conv2d's.

    No bias by default: a batch norm follows, since outputs are large and negative.  Weights begin normal with standard
    deviation 1, as in the paper's code.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=False, dtype=None
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype=dtype)

    def reset_parameters(self):
        init.normal_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _conv(self, x, padding):
        geometry: Any = (self.stride, padding, self.dilation, self.groups)
        return F.adder2d(x, self.weight, self.bias, *geometry)

    def scale_gradient(self, eta=0.2):
        """Give the weight's gradient the norm eta * sqrt(k), k = number of weights: call it between backward and the
        optimiser's step (section 3.3 of the paper)."""
        if self.weight.grad is not None:
            rate = F.adder_learning_rate(self.weight.grad, eta)
            self.weight.grad = self.weight.grad * np.asarray(rate, self.weight.dtype)
