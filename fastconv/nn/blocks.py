"""Named combinations of convolutions: separable, flattened, shuffled, atrous pyramids, Inception, squeeze and
excitation.

Parameter counts in the docstrings: C input and O output channels, k kernel size; biases and batch norms where they say
so.
"""

from typing import Any

from .. import functional as F
from ..autograd import expand
from .activation import ReLU, Sigmoid
from .container import ModuleList, Sequential
from .conv import Conv2d
from .module import Module
from .norm import BatchNorm2d
from .pooling import AdaptiveAvgPool2d, MaxPool2d


def _pair(name, kernel_size) -> Any:
    """A kernel size as (kh, kw)."""
    pair: Any = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size, kernel_size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}: kernel_size must be one positive number or two, got {kernel_size!r}")
    return pair


def _twice(padding):
    """Padding as (rows, columns)."""
    return padding if isinstance(padding, (tuple, list)) else (padding, padding)


def _conv(*args: Any, **settings: Any):
    """A convolution; settings may be pairs."""
    return Conv2d(*args, **settings)


def _conv_norm_relu(in_channels, out_channels, kernel_size, **settings):
    """Convolution without bias, batch norm, ReLU."""
    return Sequential(
        Conv2d(in_channels, out_channels, kernel_size, bias=False, **settings), BatchNorm2d(out_channels), ReLU()
    )


class DepthwiseSeparableConv2d(Module):
    """A depthwise convolution, then a 1x1 convolution (Howard et al. 2017, MobileNets, arXiv 1704.04861, section 3.1).

    (N, C, H, W) -> (N, O, ...).  multiplier m: channels of the depthwise convolution for each input channel.
    Parameters: m C k^2 + m C O, and with bias m C + O; a convolution has C O k^2.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, bias=True, multiplier=1
    ):
        super().__init__()
        if multiplier < 1:
            raise ValueError(f"DepthwiseSeparableConv2d: multiplier must be positive, got {multiplier}")
        between = in_channels * multiplier
        self.depthwise = Conv2d(in_channels, between, kernel_size, stride, padding, dilation, in_channels, bias)
        self.pointwise = Conv2d(between, out_channels, 1, bias=bias)

    def forward(self, input):
        return self.pointwise(self.depthwise(input))


class SpatialSeparableConv2d(Module):
    """A 1 x kw convolution, then a kh x 1 one (asymmetric convolution: Szegedy et al. 2015, arXiv 1512.00567, section
    3.2).

    (N, C, H, W) -> (N, O, ...); size, stride and padding as one kh x kw convolution.  mid_channels M: O by default.
    Parameters: C M kw + M O kh, and with bias M + O.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, bias=True, mid_channels=None
    ):
        super().__init__()
        name = "SpatialSeparableConv2d"
        kh, kw = _pair(name, kernel_size)
        (sh, sw), (dh, dw) = _pair(f"{name}: stride", stride), _pair(f"{name}: dilation", dilation)
        ph, pw = _twice(padding)
        between = out_channels if mid_channels is None else mid_channels
        self.row = _conv(in_channels, between, (1, kw), (1, sw), (0, pw), (1, dw), bias=bias)
        self.column = _conv(between, out_channels, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=bias)

    def forward(self, input):
        return self.column(self.row(input))


class FlattenedConv2d(Module):
    """Convolutions along channels (1x1), columns (kh x 1) and rows (1 x kw), the last two one channel at a time.

    Jin et al. 2015, arXiv 1412.5474, section 3.  (N, C, H, W) -> (N, O, ...).  Parameters: C O + O kh + O kw, and with
    bias 3 O; a convolution has C O kh kw.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, bias=True):
        super().__init__()
        name = "FlattenedConv2d"
        kh, kw = _pair(name, kernel_size)
        (sh, sw), (dh, dw) = _pair(f"{name}: stride", stride), _pair(f"{name}: dilation", dilation)
        ph, pw = _twice(padding)
        self.channel = _conv(in_channels, out_channels, 1, bias=bias)
        depthwise = {"groups": out_channels, "bias": bias}
        self.column = _conv(out_channels, out_channels, (kh, 1), (sh, 1), (ph, 0), (dh, 1), **depthwise)
        self.row = _conv(out_channels, out_channels, (1, kw), (1, sw), (0, pw), (1, dw), **depthwise)

    def forward(self, input):
        return self.row(self.column(self.channel(input)))


class ShuffledGroupConv2d(Conv2d):
    """A grouped convolution whose output channels are shuffled: the next grouped one sees every group.

    Zhang et al. 2018, ShuffleNet, arXiv 1707.01083, section 3.1.  Arguments as Conv2d's.  Parameters: C O k^2 / groups,
    and O with bias.
    """

    def _conv(self, x, padding):
        return F.channel_shuffle(super()._conv(x, padding), self.groups)


class ASPP(Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, DeepLabv3, arXiv 1706.05587, section 3.3).

    (N, C, H, W) -> (N, O, H, W): a 1x1 convolution, a 3x3 one for each rate and the mean of the image, side by side,
    then a 1x1 convolution; each with batch norm and ReLU.  Parameters, with r rates: O (C + 9 r C + C + (r + 2) O) and
    2 O for each of the r + 3 batch norms.
    """

    def __init__(self, in_channels, out_channels=256, rates=(6, 12, 18)):
        super().__init__()
        if any(rate < 1 for rate in rates):
            raise ValueError(f"ASPP: rates must be positive, got {tuple(rates)}")
        self.branches = ModuleList(
            [
                _conv_norm_relu(in_channels, out_channels, 1),
                *(_conv_norm_relu(in_channels, out_channels, 3, padding=rate, dilation=rate) for rate in rates),
            ]
        )
        self.mean = Sequential(AdaptiveAvgPool2d(1), *_conv_norm_relu(in_channels, out_channels, 1))
        self.project = _conv_norm_relu((len(self.branches) + 1) * out_channels, out_channels, 1)

    def forward(self, input):
        parts = [branch(input) for branch in self.branches]
        parts.append(expand(self.mean(input), parts[0].shape))
        return self.project(F.cat(parts, 1))


class InceptionBlock(Module):
    """Kernels of several sizes side by side (Szegedy et al. 2015, GoogLeNet, arXiv 1409.4842, figure 2b).

    (N, C, H, W) -> (N, O1 + O3 + O5 + P, H, W): 1x1; 1x1 then 3x3; 1x1 then 5x5; 3x3 maximum then 1x1; each with ReLU.
    Arguments as in the paper's table 1: #1x1, #3x3 reduce R3, #3x3, #5x5 reduce R5, #5x5, pool proj P.
    Parameters: C (O1 + R3 + R5 + P) + 9 R3 O3 + 25 R5 O5, and one bias for each of these channels.
    """

    def __init__(self, in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj):
        super().__init__()
        self.branch1 = Sequential(Conv2d(in_channels, ch1x1, 1), ReLU())
        self.branch2 = Sequential(
            Conv2d(in_channels, ch3x3red, 1), ReLU(), Conv2d(ch3x3red, ch3x3, 3, padding=1), ReLU()
        )
        self.branch3 = Sequential(
            Conv2d(in_channels, ch5x5red, 1), ReLU(), Conv2d(ch5x5red, ch5x5, 5, padding=2), ReLU()
        )
        self.branch4 = Sequential(MaxPool2d(3, 1, 1), Conv2d(in_channels, pool_proj, 1), ReLU())

    def forward(self, input):
        branches = self.branch1, self.branch2, self.branch3, self.branch4
        return F.cat([branch(input) for branch in branches], 1)


class SqueezeExcite(Module):
    """Weights for the channels, from their means (Hu et al. 2018, SENet, arXiv 1709.01507, equations 2 to 4).

    (N, C, H, W) -> the same: x * sigmoid(W2 relu(W1 mean(x))), with S = C / reduction channels between, or
    squeeze_channels.  Parameters: 2 C S + C + S.  activation, scale_activation: other layers for relu and sigmoid.
    """

    def __init__(
        self, in_channels, reduction=16, squeeze_channels=None, activation: Any = ReLU, scale_activation: Any = Sigmoid
    ):
        super().__init__()
        between = max(1, in_channels // reduction) if squeeze_channels is None else squeeze_channels
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = Conv2d(in_channels, between, 1), Conv2d(between, in_channels, 1)
        self.activation, self.scale_activation = activation(), scale_activation()

    def forward(self, input):
        return input * self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(input)))))
