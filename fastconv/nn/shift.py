"""Shift layers: no multiplications, and two numbers a channel at most; a 1x1 convolution follows each."""

import numpy as np

from .. import functional as F
from . import init
from .module import Module, Parameter


class Shift2d(Module):
    """Every channel moves by a fixed whole displacement (Wu et al. 2017, arXiv 1711.08141).  Parameters: 0.

    channels, kernel_size (odd): the displacements are those of a kernel_size x kernel_size window, in equal groups.
    """

    def __init__(self, channels, kernel_size=3):
        super().__init__()
        self.channels, self.kernel_size = channels, kernel_size
        self.register_buffer("shift", F.shift_groups(channels, kernel_size))

    def forward(self, input):
        return F.shift2d(input, self.shift)

    def extra_repr(self):
        return f"{self.channels}, kernel_size={self.kernel_size}"


class _LearnedShift2d(Module):
    def __init__(self, channels, reach=1.0, dtype=None):
        super().__init__()
        self.channels, self.reach = channels, reach
        self.displacement = Parameter(np.empty((channels, 2), dtype or np.float32))
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform in ±reach pixels."""
        init.uniform_(self.displacement, -self.reach, self.reach)

    def extra_repr(self):
        return f"{self.channels}"


class ActiveShift2d(_LearnedShift2d):
    """Every channel moves by a learned real displacement, bilinear (Jeon and Kim 2018, arXiv 1806.07370).

    Parameters: 2 * channels.  normalize: gradients of displacements have length 1, as in the paper.
    """

    def __init__(self, channels, reach=1.0, normalize=True, dtype=None):
        super().__init__(channels, reach, dtype)
        self.normalize = normalize

    def forward(self, input):
        return F.active_shift2d(input, self.displacement, self.normalize)


class SparseShift2d(_LearnedShift2d):
    """Learned displacements, rounded going forward (Chen et al. 2019, arXiv 1903.05285).  Parameters: 2 * channels.

    Add `weight * penalty()` to the loss: displacements near zero become zero, and those channels need not be moved.
    """

    def forward(self, input):
        return F.sparse_shift2d(input, self.displacement)

    def penalty(self):
        """The sum of the displacements' absolute values."""
        return abs(self.displacement).sum()
