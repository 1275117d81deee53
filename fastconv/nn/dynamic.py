"""Layers whose kernels depend on the input: involution, conditional and dynamic convolution."""

import math
from typing import Any

import numpy as np

from .. import functional as F
from . import init
from .activation import ReLU
from .container import Sequential
from .conv import Conv2d, _tuple
from .linear import Linear
from .module import Module, Parameter
from .norm import BatchNorm2d
from .pooling import AvgPool2d


class Involution2d(Module):
    """Involution (Li et al. 2021, arXiv 2103.06255): (N, C, H, W) -> (N, C, H/stride, W/stride), C unchanged.

    The kernels are H = W1 relu(batchnorm(W0 x)) with C / reduction_ratio channels between, after average pooling where
    stride > 1.  Parameters, with r = reduction_ratio, G = C / group_channels, k = kernel_size:
    C^2 / r + 3 C / r + (C / r + 1) k^2 G.
    """

    def __init__(self, channels, kernel_size=7, stride=1, group_channels=16, reduction_ratio=4):
        super().__init__()
        if channels % group_channels or channels % reduction_ratio:
            raise ValueError(
                f"Involution2d: group_channels {group_channels} and reduction_ratio {reduction_ratio} "
                f"must divide the {channels} channels"
            )
        if kernel_size % 2 == 0:
            raise ValueError(f"Involution2d: kernel_size must be odd, got {kernel_size}")
        self.kernel_size, self.stride = kernel_size, stride
        between = channels // reduction_ratio
        self.reduce = Sequential(Conv2d(channels, between, 1), BatchNorm2d(between), ReLU())
        self.span = Conv2d(between, kernel_size**2 * (channels // group_channels), 1)
        self.pool = AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else None

    def forward(self, input):
        x = input if self.pool is None else self.pool(input)
        kernel = self.span(self.reduce(x))
        return F.involution2d(input, kernel, self.kernel_size, self.stride, self.kernel_size // 2)


class _MixedConv2d(Module):
    """Experts' weights are mixed for each image by `routing`; then one grouped convolution serves all images."""

    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, num_experts):
        super().__init__()
        name = type(self).__name__
        if num_experts < 1:
            raise ValueError(f"{name}: the number of experts must be positive, got {num_experts}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"{name}: groups {groups} must divide the channels {in_channels} and {out_channels}")
        self.in_channels, self.out_channels, self.num_experts = in_channels, out_channels, num_experts
        self.kernel_size = _tuple(f"{name}: kernel_size", kernel_size, 2)
        self.stride, self.padding = _tuple(f"{name}: stride", stride, 2), _tuple(f"{name}: padding", padding, 2)
        self.dilation, self.groups = _tuple(f"{name}: dilation", dilation, 2), groups
        shape = num_experts, out_channels, in_channels // groups, *self.kernel_size
        self.weight = Parameter(np.empty(shape, np.float32))
        self.register_parameter("bias", Parameter(np.empty(shape[:2], np.float32)) if bias else None)

    def reset_parameters(self):
        """Each expert as a Conv2d: uniform in ±1 / sqrt(fan_in)."""
        bound = 1 / math.sqrt(math.prod(self.weight.shape[2:]))
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def routing(self, means):
        """(N, num_experts) from the means of the channels (N, in_channels)."""
        raise NotImplementedError

    def forward(self, input):
        if np.ndim(input) == 3:
            return self.forward(input.reshape(1, *input.shape))[0]
        batch = input.shape[0]
        shares = self.routing(F.flatten(F.adaptive_avg_pool2d(input, 1), 1))
        weight = shares @ self.weight.reshape(self.num_experts, -1)
        bias = None if self.bias is None else shares @ self.bias
        settings: Any = (self.stride, self.padding, self.dilation, max(batch, 1) * self.groups)
        if not batch:  # no image, no group: any expert gives the shape
            return F.conv2d(input, self.weight[0], None if self.bias is None else self.bias[0], *settings)
        weight = weight.reshape(batch * self.out_channels, *self.weight.shape[2:])
        x = input.reshape(1, batch * self.in_channels, *input.shape[2:])
        bias = None if bias is None else bias.reshape(-1)
        y = F.conv2d(x, weight, bias, *settings)
        return y.reshape(batch, self.out_channels, *y.shape[2:])

    def extra_repr(self):
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, num_experts={self.num_experts}"
        )


class CondConv2d(_MixedConv2d):
    """CondConv (Yang et al. 2019, arXiv 1904.04971): W = sum over experts e of sigmoid(R mean(x))_e W_e for each image.

    Parameters, with E = num_experts: E times a Conv2d's, and E (C + 1) of the routing.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        num_experts=8,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, num_experts)
        self.route = Linear(in_channels, num_experts)
        self.reset_parameters()

    def routing(self, means):
        return F.sigmoid(self.route(means))


class DynamicConv2d(_MixedConv2d):
    """Dynamic convolution (Chen et al. 2020, arXiv 1912.03458): weights mixed by a softmax with a temperature.

    Attention: softmax(fc2(relu(fc1(mean(x)))) / temperature), C / reduction channels between.  The temperature begins
    at 30 and falls to 1 over the first epochs: call `anneal(progress)`.  Parameters, with K = num_experts, h = C /
    reduction: K times a Conv2d's, and h (C + 1) + K (h + 1).
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        num_experts=4,
        reduction=4,
        temperature=30.0,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, num_experts)
        if not temperature >= 1:
            raise ValueError(f"DynamicConv2d: temperature must be at least 1, got {temperature}")
        between = max(1, in_channels // reduction)
        self.fc1, self.fc2 = Linear(in_channels, between), Linear(between, num_experts)
        self.temperature = self.first_temperature = float(temperature)
        self.reset_parameters()

    def routing(self, means):
        return F.softmax(self.fc2(F.relu(self.fc1(means))) / self.temperature, 1)

    def anneal(self, progress):
        """Set the temperature on the straight line from its first value (progress 0) to 1 (progress 1 and beyond)."""
        self.temperature = 1 + (self.first_temperature - 1) * (1 - min(max(progress, 0), 1))
