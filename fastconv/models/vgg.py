"""VGG (Simonyan and Zisserman 2015, arXiv 1409.1556, table 1: configurations A, B, D, E)."""

from .. import nn
from .blocks import first_weights, he_fan_out, normal
from .catalogue import network

# Widths of the five stages, each followed by maximum pooling, and how many convolutions each stage has.
WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def convolutions(depths, batch_norm):
    """The convolutional part: stages of 3x3 convolutions, optionally with batch norm."""
    layers, channels = [], 3
    for width, depth in zip(WIDTHS, depths, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """(N, 3, H, W), H and W at least 32, to (N, num_classes)."""

    def __init__(self, features, num_classes=1000, init_weights=True, dropout=0.5):
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )
        if init_weights:
            first_weights(self, conv=he_fan_out, linear=normal(0.01))

    def forward(self, x):
        x = self.avgpool(self.features(x))
        return self.classifier(nn.functional.flatten(x, 1))


def _vgg(depth, batch_norm, settings):
    return VGG(convolutions(DEPTHS[depth], batch_norm), **settings)


PAPER = "Simonyan and Zisserman 2015, arXiv 1409.1556, table 1"


@network(f"{PAPER} A", 132_863_336, 7_609_090_048)
def vgg11(**settings):
    """Configuration A; settings as in `VGG`."""
    return _vgg(11, False, settings)


@network(f"{PAPER} A", 132_868_840, 7_609_090_048)
def vgg11_bn(**settings):
    """Configuration A with batch norm; settings as in `VGG`."""
    return _vgg(11, True, settings)


@network(f"{PAPER} B", 133_047_848, 11_308_466_176)
def vgg13(**settings):
    """Configuration B; settings as in `VGG`."""
    return _vgg(13, False, settings)


@network(f"{PAPER} B", 133_053_736, 11_308_466_176)
def vgg13_bn(**settings):
    """Configuration B with batch norm; settings as in `VGG`."""
    return _vgg(13, True, settings)


@network(f"{PAPER} D", 138_357_544, 15_470_264_320)
def vgg16(**settings):
    """Configuration D; settings as in `VGG`."""
    return _vgg(16, False, settings)


@network(f"{PAPER} D", 138_365_992, 15_470_264_320)
def vgg16_bn(**settings):
    """Configuration D with batch norm; settings as in `VGG`."""
    return _vgg(16, True, settings)


@network(f"{PAPER} E", 143_667_240, 19_632_062_464)
def vgg19(**settings):
    """Configuration E; settings as in `VGG`."""
    return _vgg(19, False, settings)


@network(f"{PAPER} E", 143_678_248, 19_632_062_464)
def vgg19_bn(**settings):
    """Configuration E with batch norm; settings as in `VGG`."""
    return _vgg(19, True, settings)
