"""Xception (Chollet 2017, arXiv 1610.02357, figure 5): 36 separable convolutions with shortcuts.

22,855,952 parameters (table 3).
"""

from .. import nn
from .blocks import pooled
from .catalogue import network


def separable(in_channels, out_channels):
    """3x3 one channel at a time, then 1x1, then batch norm; neither bias nor activation between (section 4.7)."""
    return [
        nn.DepthwiseSeparableConv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


class Block(nn.Module):
    """ReLU and separable convolution once for each of `widths`; with stride 2 a maximum, and 1x1 in the shortcut."""

    def __init__(self, in_channels, widths, stride=1, first_relu=True):
        super().__init__()
        layers, channels = [], in_channels
        for i, width in enumerate(widths):
            layers += [nn.ReLU()] if i or first_relu else []
            layers += separable(channels, width)
            channels = width
        if stride > 1:
            layers.append(nn.MaxPool2d(3, stride, 1))
        self.rep = nn.Sequential(*layers)
        self.skip = nn.Identity()
        if stride > 1:
            self.skip = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        return self.rep(x) + self.skip(x)


class Xception(nn.Module):
    """(N, 3, H, W), 299x299 in the paper, to (N, num_classes): entry flow, middle flow, exit flow."""

    def __init__(self, num_classes=1000, middle_blocks=8, dropout=0.0):
        super().__init__()
        entry = [
            *(nn.Conv2d(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
            Block(64, (128, 128), 2, first_relu=False),
            Block(128, (256, 256), 2),
            Block(256, (728, 728), 2),
        ]
        middle = [Block(728, (728, 728, 728)) for _ in range(middle_blocks)]
        exit = [
            Block(728, (728, 1024), 2),
            *(*separable(1024, 1536), nn.ReLU()),
            *(*separable(1536, 2048), nn.ReLU()),
        ]
        self.features = nn.Sequential(*entry, *middle, *exit)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)

    def forward(self, x):
        return self.fc(self.dropout(pooled(self.features, x)))


@network("Chollet 2017, arXiv 1610.02357, figure 5", 22_855_952, 8_357_403_496, (3, 299, 299))
def xception(**settings):
    """Xception; settings as in `Xception`."""
    return Xception(**settings)
