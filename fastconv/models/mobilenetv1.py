"""MobileNet (Howard et al. 2017, arXiv 1704.04861, table 1): 3x3 one channel at a time, then 1x1.

Tables 6 and 7: 569 M multiply-adds and 4.2 M parameters at width 1 and 224x224.
"""

from .. import nn
from .blocks import conv_norm, first_weights, he_fan_out, pooled
from .catalogue import network

# Table 1: width and stride of each pair of depthwise and 1x1 convolution.
TABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  width_mult: the paper's width multiplier, section 3.3."""

    def __init__(self, num_classes=1000, width_mult=1.0, dropout=0.001):
        super().__init__()
        if width_mult <= 0:
            raise ValueError(f"MobileNetV1: width_mult must be positive, got {width_mult}")
        channels = max(1, int(32 * width_mult))
        layers = [conv_norm(3, channels, 3, 2)]
        for width, stride in TABLE:
            wide = max(1, int(width * width_mult))
            layers.append(conv_norm(channels, channels, 3, stride, channels))
            layers.append(conv_norm(channels, wide, 1))
            channels = wide
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels, num_classes))
        first_weights(self, conv=he_fan_out)

    def forward(self, x):
        return self.classifier(pooled(self.features, x))


@network("Howard et al. 2017, arXiv 1704.04861, table 1", 4_231_976, 568_740_352)
def mobilenet_v1(**settings):
    """MobileNet; settings as in `MobileNetV1`."""
    return MobileNetV1(**settings)
