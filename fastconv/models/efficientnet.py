"""EfficientNet (Tan and Le 2019, arXiv 1905.11946, table 1; compound scaling: section 3.3)."""

import math
from functools import partial
from typing import Any

from .. import nn
from ..nn import init
from .blocks import conv_norm, first_weights, he_fan_out, make_divisible, pooled
from .catalogue import network

# Table 1: expansion, kernel, stride, width, layers.
TABLE = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class MBConv(nn.Module):
    """1x1, depthwise, squeeze and excitation, 1x1; in training the whole branch is dropped with probability `drop`."""

    def __init__(self, inp, oup, expansion, kernel, stride, drop, norm_layer):
        super().__init__()
        self.shortcut = stride == 1 and inp == oup
        expanded = make_divisible(inp * expansion)
        settings = {"norm": norm_layer, "activation": nn.SiLU}
        layers: list[nn.Module] = [] if expanded == inp else [conv_norm(inp, expanded, 1, **settings)]
        layers.append(conv_norm(expanded, expanded, kernel, stride, expanded, **settings))
        layers.append(nn.SqueezeExcite(expanded, squeeze_channels=max(1, inp // 4), activation=nn.SiLU))
        layers.append(conv_norm(expanded, oup, 1, norm=norm_layer, activation=None))
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = nn.StochasticDepth(drop, "row")

    def forward(self, x):
        return x + self.stochastic_depth(self.block(x)) if self.shortcut else self.block(x)


class EfficientNet(nn.Module):
    """(N, 3, H, W) to (N, num_classes).

    width_mult, depth_mult: w and d of section 3.3.  stochastic_depth_prob: of the last block; it rises from 0.
    """

    def __init__(
        self,
        width_mult=1.0,
        depth_mult=1.0,
        dropout=0.2,
        stochastic_depth_prob=0.2,
        num_classes=1000,
        norm_layer: Any = nn.BatchNorm2d,
    ):
        super().__init__()
        rows = [(*row[:3], make_divisible(row[3] * width_mult), math.ceil(row[4] * depth_mult)) for row in TABLE]
        total, done = sum(row[4] for row in rows), 0
        channels = make_divisible(32 * width_mult)
        settings = {"norm": norm_layer, "activation": nn.SiLU}
        layers = [conv_norm(3, channels, 3, 2, **settings)]
        for expansion, kernel, stride, width, repeats in rows:
            stage = []
            for i in range(repeats):
                drop = stochastic_depth_prob * done / total
                stage.append(MBConv(channels, width, expansion, kernel, 1 if i else stride, drop, norm_layer))
                channels, done = width, done + 1
            layers.append(nn.Sequential(*stage))
        layers.append(conv_norm(channels, 4 * channels, 1, **settings))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * channels, num_classes))
        first_weights(self, conv=he_fan_out, linear=_uniform)

    def forward(self, x):
        return self.classifier(pooled(self.features, x))


def _uniform(weight):
    """Uniform in ±1 / sqrt(outputs)."""
    bound = 1 / math.sqrt(weight.shape[0])
    init.uniform_(weight, -bound, bound)


PAPER = "Tan and Le 2019, arXiv 1905.11946, table 1"
_fine = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


@network(PAPER, 5_288_548, 385_814_752)
def efficientnet_b0(dropout=0.2, **settings):
    """EfficientNet-B0; settings as in `EfficientNet`."""
    return EfficientNet(1.0, 1.0, dropout, **settings)


@network(PAPER, 7_794_184, 686_802_832, (3, 240, 240))
def efficientnet_b1(dropout=0.2, **settings):
    """EfficientNet-B1; settings as in `EfficientNet`."""
    return EfficientNet(1.0, 1.1, dropout, **settings)


@network(PAPER, 9_109_994, 1_087_529_456, (3, 288, 288))
def efficientnet_b2(dropout=0.3, **settings):
    """EfficientNet-B2; settings as in `EfficientNet`."""
    return EfficientNet(1.1, 1.2, dropout, **settings)


@network(PAPER, 12_233_232, 1_827_141_392, (3, 300, 300))
def efficientnet_b3(dropout=0.3, **settings):
    """EfficientNet-B3; settings as in `EfficientNet`."""
    return EfficientNet(1.2, 1.4, dropout, **settings)


@network(PAPER, 19_341_616, 4_393_771_024, (3, 380, 380))
def efficientnet_b4(dropout=0.4, **settings):
    """EfficientNet-B4; settings as in `EfficientNet`."""
    return EfficientNet(1.4, 1.8, dropout, **settings)


@network(PAPER, 30_389_784, 10_266_384_752, (3, 456, 456))
def efficientnet_b5(dropout=0.4, norm_layer=_fine, **settings):
    """EfficientNet-B5; settings as in `EfficientNet`."""
    return EfficientNet(1.6, 2.2, dropout, norm_layer=norm_layer, **settings)


@network(PAPER, 43_040_704, 19_067_593_536, (3, 528, 528))
def efficientnet_b6(dropout=0.5, norm_layer=_fine, **settings):
    """EfficientNet-B6; settings as in `EfficientNet`."""
    return EfficientNet(1.8, 2.6, dropout, norm_layer=norm_layer, **settings)


@network(PAPER, 66_347_960, 37_745_884_192, (3, 600, 600))
def efficientnet_b7(dropout=0.5, norm_layer=_fine, **settings):
    """EfficientNet-B7; settings as in `EfficientNet`."""
    return EfficientNet(2.0, 3.1, dropout, norm_layer=norm_layer, **settings)
