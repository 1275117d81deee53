"""Network in network (Lin, Chen, Yan 2014, arXiv 1312.4400): convolutions followed by 1x1 ones, and no linear layer.

The paper draws the network (figure 2) without its widths; they are those of the authors' published definitions for
CIFAR-10 and ImageNet.  Springenberg et al. 2015 (arXiv 1412.6806, table 3) gives about 1 M parameters for the first,
the authors' model card 7.6 M for the second.
"""

from .. import nn
from .blocks import first_weights, normal
from .catalogue import network


def mlpconv(in_channels, widths, kernel_size, stride=1, padding=0):
    """A convolution and two of 1x1, each with ReLU: section 3.1."""
    first, second, third = widths
    return [
        nn.Conv2d(in_channels, first, kernel_size, stride, padding),
        nn.ReLU(),
        nn.Conv2d(first, second, 1),
        nn.ReLU(),
        nn.Conv2d(second, third, 1),
        nn.ReLU(),
    ]


class NIN(nn.Module):
    """Feature maps of the classes, (N, num_classes, h, w), and their means: section 3.2."""

    def __init__(self, layers):
        super().__init__()
        self.features = nn.Sequential(*layers)
        first_weights(self, conv=normal(0.05))

    def forward(self, x):
        return nn.functional.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1)


@network("Lin et al. 2014, arXiv 1312.4400, figure 2", 966_986, 222_486_528, (3, 32, 32))
def nin_cifar10(num_classes=10, dropout=0.5):
    """The network for images of 32x32."""
    return NIN(
        [
            *mlpconv(3, (192, 160, 96), 5, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Dropout(dropout),
            *mlpconv(96, (192, 192, 192), 5, padding=2),
            nn.AvgPool2d(3, 2, ceil_mode=True),
            nn.Dropout(dropout),
            *mlpconv(192, (192, 192, num_classes), 3, padding=1),
        ]
    )


@network("Lin et al. 2014, arXiv 1312.4400, authors' model for ImageNet", 7_595_176, 1_100_188_800)
def nin_imagenet(num_classes=1000, dropout=0.5):
    """The network for images of 224x224."""
    return NIN(
        [
            *mlpconv(3, (96, 96, 96), 11, stride=4),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *mlpconv(96, (256, 256, 256), 5, padding=2),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            *mlpconv(256, (384, 384, 384), 3, padding=1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Dropout(dropout),
            *mlpconv(384, (1024, 1024, num_classes), 3, padding=1),
        ]
    )
