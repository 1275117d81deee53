"""What several networks share: convolution with normalisation and activation, rounding of widths, first weights."""

from typing import Any

from .. import nn
from ..nn import init


def pair(size) -> tuple:
    """A size as (rows, columns)."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def conv_norm(
    in_channels,
    out_channels,
    kernel_size=3,
    stride=1,
    groups=1,
    dilation=1,
    norm: Any = nn.BatchNorm2d,
    activation: Any = nn.ReLU,
):
    """Convolution without bias that keeps the size (divided by the stride), normalisation, activation or None."""
    padding = tuple((k - 1) // 2 * d for k, d in zip(pair(kernel_size), pair(dilation), strict=True))
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    layers = [conv, norm(out_channels)]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation())


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm with eps 0.001, ReLU: the layer of the Inception networks."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding: Any = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x):
        return nn.functional.relu(self.bn(self.conv(x)))


def make_divisible(width, divisor=8):
    """`width` rounded to a multiple of `divisor`, at least one of it and never below 90 % of `width`."""
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor


def pooled(features, x):
    """The means of the channels, (N, C), of features(x)."""
    return nn.functional.flatten(nn.functional.adaptive_avg_pool2d(features(x), 1), 1)


def first_weights(model, conv=None, linear=None):
    """Fill the weights of all convolutions by `conv` and of all linear layers by `linear`, functions of a Parameter.

    Where a function is given, biases become zero.  Layers for which None is given keep their own first weights.
    """
    for module in model.modules():
        fill = linear if isinstance(module, nn.Linear) else conv if isinstance(module, CONVOLUTIONS) else None
        if fill is not None:
            fill(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def he_fan_out(weight):
    """He et al. 2015, arXiv 1502.01852, equation 14: normal, for the backward pass."""
    init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def normal(std):
    """An initialiser: normal with this standard deviation."""
    return lambda weight: init.normal_(weight, 0.0, std)


def check_choice(function, argument, value, known):
    """Raise ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{function}: {argument} must be one of {', '.join(map(str, known))}, got {value!r}")
