"""The layer of `functional.locally_connected2d`."""

import math
from typing import Any

import numpy as np

from .. import functional as F
from . import init
from .conv import _tuple
from .module import Module, Parameter


class LocallyConnected2d(Module):
    """A convolution whose every output pixel has its own weights, for images of one size, input_size (ih, iw).

    weight (out_channels, in_channels, *kernel_size, oh, ow), bias (out_channels, oh, ow) or None.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        input_size,
        kernel_size,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        bias=True,
        *,
        dtype=None,
    ):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        names = {"input_size": input_size, "kernel_size": kernel_size, "stride": stride, "padding": padding}
        sizes = {name: _tuple(f"LocallyConnected2d: {name}", value, 2) for name, value in names.items()}
        self.input_size, self.kernel_size, self.stride, self.padding = sizes.values()
        self.dilation = _tuple("LocallyConnected2d: dilation", dilation, 2)
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        room = [size + 2 * p - r for size, p, r in zip(self.input_size, self.padding, reach, strict=True)]
        if min(*room, in_channels - 1, out_channels - 1, *(s - 1 for s in self.stride)) < 0:
            raise ValueError(
                f"LocallyConnected2d: channels and stride must be positive and the kernel fit the image, got "
                f"{in_channels} -> {out_channels} channels, stride {self.stride}, a reach of {reach} in {input_size} "
                f"with padding {self.padding}"
            )
        out = [r // s + 1 for r, s in zip(room, self.stride, strict=True)]
        dtype = dtype or np.float32
        self.weight = Parameter(np.empty((out_channels, in_channels, *self.kernel_size, *out), dtype))
        self.register_parameter("bias", Parameter(np.empty((out_channels, *out), dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform within 1 / sqrt(terms of a sum), like a convolution's."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input):
        return F.locally_connected2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def extra_repr(self):
        return (
            f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, bias={self.bias is not None}"
        )
