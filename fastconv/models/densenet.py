"""DenseNet (Huang et al. 2017, arXiv 1608.06993, table 1)."""

from .. import nn
from ..nn import init
from .blocks import first_weights
from .catalogue import network

F = nn.functional


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1; batch norm, ReLU, 3x3: `growth_rate` new maps from all that came before (DenseNet-B)."""

    def __init__(self, in_channels, growth_rate, bn_size, drop_rate):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, bn_size * growth_rate, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth_rate)
        self.conv2 = nn.Conv2d(bn_size * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x):
        x = self.conv1(F.relu(self.norm1(x)))
        return self.dropout(self.conv2(F.relu(self.norm2(x))))


class DenseBlock(nn.Module):
    """Each layer sees the input of the block and the outputs of all layers before it (section 3)."""

    def __init__(self, layers, in_channels, bn_size, growth_rate, drop_rate):
        super().__init__()
        for i in range(layers):
            layer = DenseLayer(in_channels + i * growth_rate, growth_rate, bn_size, drop_rate)
            self.add_module(f"denselayer{i + 1}", layer)

    def forward(self, x):
        for layer in self.children():
            x = F.cat([x, layer(x)], 1)
        return x


class DenseNet(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  Between blocks, half the channels and half the size (DenseNet-C)."""

    def __init__(
        self,
        growth_rate=32,
        block_config=(6, 12, 24, 16),
        num_init_features=64,
        bn_size=4,
        drop_rate=0.0,
        num_classes=1000,
    ):
        super().__init__()
        channels = num_init_features
        layers: dict[str, nn.Module] = {
            "conv0": nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            "norm0": nn.BatchNorm2d(channels),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }
        for i, depth in enumerate(block_config, 1):
            layers[f"denseblock{i}"] = DenseBlock(depth, channels, bn_size, growth_rate, drop_rate)
            channels += depth * growth_rate
            if i < len(block_config):
                layers[f"transition{i}"] = transition(channels)
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, num_classes)
        first_weights(self, conv=init.kaiming_normal_)
        init.zeros_(self.classifier.bias)

    def forward(self, x):
        x = F.relu(self.features(x))
        return self.classifier(F.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def transition(channels):
    """Batch norm, ReLU, 1x1 to half the channels, 2x2 average."""
    conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
    return nn.Sequential(
        {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "conv": conv, "pool": nn.AvgPool2d(2, 2)}
    )


PAPER = "Huang et al. 2017, arXiv 1608.06993, table 1"


@network(PAPER, 7_978_856, 2_834_161_664)
def densenet121(**settings):
    """DenseNet-121; settings as in `DenseNet`."""
    return DenseNet(32, (6, 12, 24, 16), 64, **settings)


@network(PAPER, 28_681_000, 7_727_907_072)
def densenet161(**settings):
    """DenseNet-161, growth rate 48; settings as in `DenseNet`."""
    return DenseNet(48, (6, 12, 36, 24), 96, **settings)


@network(PAPER, 14_149_480, 3_359_843_328)
def densenet169(**settings):
    """DenseNet-169; settings as in `DenseNet`."""
    return DenseNet(32, (6, 12, 32, 32), 64, **settings)


@network(PAPER, 20_013_928, 4_291_365_888)
def densenet201(**settings):
    """DenseNet-201; settings as in `DenseNet`."""
    return DenseNet(32, (6, 12, 48, 32), 64, **settings)
