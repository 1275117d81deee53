"""SqueezeNet (Iandola et al. 2016, arXiv 1602.07360, table 1)."""

from .. import nn
from ..nn import init
from .blocks import check_choice, first_weights
from .catalogue import network

F = nn.functional


class Fire(nn.Module):
    """1x1 to few channels, then 1x1 and 3x3 side by side (figure 1)."""

    def __init__(self, in_channels, squeeze, expand1x1, expand3x3):
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand1x1, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand3x3, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


# First convolution (channels, kernel), then for each Fire its squeezed and its expanded width, or "pool".
VERSIONS = {
    "1_0": ((96, 7), "pool", 16, 16, 32, "pool", 32, 48, 48, 64, "pool", 64),
    "1_1": ((64, 3), "pool", 16, 16, "pool", 32, 32, "pool", 48, 48, 64, 64),
}


def fires(version):
    """The convolutional part.  Both expansions are four times as wide as the squeeze."""
    (channels, kernel), *rest = VERSIONS[version]
    yield nn.Conv2d(3, channels, kernel, stride=2)
    yield nn.ReLU()
    for squeeze in rest:
        if squeeze == "pool":
            yield nn.MaxPool2d(3, 2, ceil_mode=True)
        else:
            yield Fire(channels, squeeze, 4 * squeeze, 4 * squeeze)
            channels = 8 * squeeze


class SqueezeNet(nn.Module):
    """(N, 3, H, W), H and W at least 21, to (N, num_classes).  version: "1_0" or "1_1"."""

    def __init__(self, version="1_0", num_classes=1000, dropout=0.5):
        super().__init__()
        check_choice("SqueezeNet", "version", version, VERSIONS)
        self.features = nn.Sequential(*fires(version))
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        first_weights(self, conv=init.kaiming_uniform_)
        init.normal_(last.weight, 0.0, 0.01)

    def forward(self, x):
        return F.flatten(self.classifier(self.features(x)), 1)


@network("Iandola et al. 2016, arXiv 1602.07360, table 1", 1_248_424, 818_924_576)
def squeezenet1_0(**settings):
    """SqueezeNet as in the paper; settings as in `SqueezeNet`."""
    return SqueezeNet("1_0", **settings)


@network("Iandola et al. 2016, arXiv 1602.07360, authors' version 1.1", 1_235_496, 349_151_936)
def squeezenet1_1(**settings):
    """A third of the multiply-adds of version 1.0; settings as in `SqueezeNet`."""
    return SqueezeNet("1_1", **settings)
