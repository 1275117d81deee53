"""Non-local blocks (Wang et al. 2018, arXiv 1711.07971): every position sees every other."""

import math

import numpy as np

from .. import functional as F
from ..autograd import value
from . import init
from .container import Sequential
from .conv import Conv1d, Conv2d, Conv3d
from .module import Module, Parameter
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .pooling import MaxPool1d, MaxPool2d, MaxPool3d

_MODES = ("gaussian", "embedded", "dot", "concatenation")


class _NonLocal(Module):
    """What the three ranks share; see NonLocal2d."""

    _layers: tuple

    def __init__(
        self, in_channels, inter_channels=None, mode="embedded", sub_sample=False, norm=True, pool_first=False
    ):
        super().__init__()
        name = type(self).__name__
        if mode not in _MODES:
            raise ValueError(f"{name}: mode must be one of {', '.join(_MODES)}, got {mode!r}")
        inter = max(1, in_channels // 2) if inter_channels is None else inter_channels
        if in_channels < 1 or inter < 1:
            raise ValueError(f"{name}: channels must be positive, got {in_channels} and {inter} between")
        conv, batch_norm, pool = self._layers
        self.in_channels, self.inter_channels, self.mode = in_channels, inter, mode
        self.g, self.W = conv(in_channels, inter, 1), conv(inter, in_channels, 1)
        self.theta = self.phi = self.pool = None
        if mode != "gaussian":
            self.theta, self.phi = conv(in_channels, inter, 1), conv(in_channels, inter, 1)
        if mode == "concatenation":
            self.pair = Parameter(np.empty((2, inter), np.float32))
            init.uniform_(self.pair, -1 / math.sqrt(2 * inter), 1 / math.sqrt(2 * inter))
        self.pool_first = pool_first
        if sub_sample or pool_first:
            self.pool = pool((1, 2, 2) if len(self.g.kernel_size) == 3 else 2)
        last = self.W
        if norm:
            last = batch_norm(in_channels)
            self.W = Sequential(self.W, last)
        init.zeros_(last.weight)
        init.zeros_(last.bias)

    def _flat(self, x):
        return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))

    def forward(self, input):
        if np.ndim(input) == len(self.g.kernel_size) + 1:
            return self.forward(input.reshape(1, *input.shape))[0]
        theta = self._flat(input if self.theta is None else self.theta(input))
        seen = self.pool(input) if self.pool is not None and self.pool_first else input
        phi, g = seen if self.phi is None else self.phi(seen), self.g(seen)
        if self.pool is not None and not self.pool_first:
            phi, g = self.pool(phi), self.pool(g)
        y = self._pairs(theta, self._flat(phi), self._flat(g))
        return self.W(y.reshape(*y.shape[:2], *input.shape[2:])) + input

    def _pairs(self, theta, phi, g):
        if self.mode == "dot":
            return F.non_local(theta, phi, g, "dot")
        if self.mode != "concatenation":
            return F.non_local(theta, phi, g)
        left, right = self.pair[:1] @ theta, self.pair[1:] @ phi
        theta = F.cat([left, np.ones_like(value(left))], 1)
        phi = F.cat([np.ones_like(value(right)), right], 1)
        return F.non_local(theta, phi, g, "relu")

    def extra_repr(self):
        return f"{self.in_channels}, inter_channels={self.inter_channels}, mode={self.mode}"


class NonLocal1d(_NonLocal):
    """(N, C, L) or (C, L); see NonLocal2d."""

    _layers = Conv1d, BatchNorm1d, MaxPool1d


class NonLocal2d(_NonLocal):
    """(N, C, H, W) or (C, H, W): z = W y + x, y_i = 1/C(x) sum over j of f(x_i, x_j) g(x_j)  (equations 1 and 6).

    in_channels C; inter_channels I, C / 2 by default.  mode: f as in section 3.2: "gaussian", "embedded" (softmax of
    theta . phi), "dot", "concatenation".  sub_sample: maximum pooling by 2 of phi and g in space (section 3.3), a
    quarter of the work on pairs; pool_first: of their input instead, a quarter of the work of their convolutions too.
    norm: batch norm after W, its weight zero at first; without it W is zero at first: the block begins as the identity.

    Parameters: 4 C I + 3 I + C, without theta and phi (2 C I + 2 I) for "gaussian", 2 I more for "concatenation", 2 C
    more with norm.  Extra memory grows with the positions, not with their square.
    """

    _layers = Conv2d, BatchNorm2d, MaxPool2d


class NonLocal3d(_NonLocal):
    """(N, C, D, H, W) or (C, D, H, W); see NonLocal2d."""

    _layers = Conv3d, BatchNorm3d, MaxPool3d
