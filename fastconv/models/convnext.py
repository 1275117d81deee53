"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545, table 9)."""

from functools import partial

import numpy as np

from .. import nn
from ..nn import init
from .blocks import first_weights
from .catalogue import network

F = nn.functional


class LayerNorm2d(nn.LayerNorm):
    """(N, C, H, W): each pixel's channels normalised."""

    def forward(self, input):
        return nn.Permute([0, 3, 1, 2])(super().forward(nn.Permute([0, 2, 3, 1])(input)))


class CNBlock(nn.Module):
    """7x7 one channel at a time, layer norm, 1x1 to four times the width, GELU, 1x1 back (figure 4).

    The branch is scaled by a learned number for each channel; in training it is dropped with probability `drop`.
    """

    def __init__(self, width, layer_scale, drop, norm_layer=None):
        super().__init__()
        norm_layer = norm_layer or partial(nn.LayerNorm, eps=1e-6)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.Permute([0, 2, 3, 1]),
            norm_layer(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(np.full((width, 1, 1), layer_scale, np.float32))
        self.stochastic_depth = nn.StochasticDepth(drop, "row")

    def forward(self, x):
        return x + self.stochastic_depth(self.block(x) * self.layer_scale)


class ConvNeXt(nn.Module):
    """(N, 3, H, W), H and W at least 32, to (N, num_classes).

    widths, depths: of the four stages.  stochastic_depth_prob: of the last block; it rises from 0.
    """

    def __init__(self, widths, depths, stochastic_depth_prob=0.0, layer_scale=1e-6, num_classes=1000, norm_layer=None):
        super().__init__()
        norm_layer = norm_layer or partial(LayerNorm2d, eps=1e-6)
        layers, total, done = [nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), norm_layer(widths[0]))], sum(depths), 0
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if i:
                layers.append(nn.Sequential(norm_layer(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)))
            drops = [stochastic_depth_prob * (done + j) / max(total - 1, 1) for j in range(depth)]
            layers.append(nn.Sequential(*(CNBlock(width, layer_scale, drop) for drop in drops)))
            done += depth
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(norm_layer(widths[-1]), nn.Flatten(), nn.Linear(widths[-1], num_classes))
        first_weights(self, conv=_truncated, linear=_truncated)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)))


def _truncated(weight):
    init.trunc_normal_(weight, std=0.02)


PAPER, WIDTHS = "Liu et al. 2022, arXiv 2201.03545, section 3", (96, 192, 384, 768)


@network(PAPER, 28_589_128, 4_455_531_264)
def convnext_tiny(stochastic_depth_prob=0.1, **settings):
    """ConvNeXt-T; settings as in `ConvNeXt`."""
    return ConvNeXt(WIDTHS, (3, 3, 9, 3), stochastic_depth_prob, **settings)


@network(PAPER, 50_223_688, 8_683_712_256)
def convnext_small(stochastic_depth_prob=0.4, **settings):
    """ConvNeXt-S; settings as in `ConvNeXt`."""
    return ConvNeXt(WIDTHS, (3, 3, 27, 3), stochastic_depth_prob, **settings)


@network(PAPER, 88_591_464, 15_354_729_472)
def convnext_base(stochastic_depth_prob=0.5, **settings):
    """ConvNeXt-B; settings as in `ConvNeXt`."""
    return ConvNeXt((128, 256, 512, 1024), (3, 3, 27, 3), stochastic_depth_prob, **settings)


@network(PAPER, 197_767_336, 34_361_433_600)
def convnext_large(stochastic_depth_prob=0.5, **settings):
    """ConvNeXt-L; settings as in `ConvNeXt`."""
    return ConvNeXt((192, 384, 768, 1536), (3, 3, 27, 3), stochastic_depth_prob, **settings)
