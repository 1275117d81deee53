"""GoogLeNet (Szegedy et al. 2015, arXiv 1409.4842, table 1), with batch norm, and 3x3 for 5x5, as in torchvision."""

from typing import Any, NamedTuple

from .. import nn
from ..nn import init
from .blocks import ConvNormReLU, first_weights
from .catalogue import network

F = nn.functional


class GoogLeNetOutputs(NamedTuple):
    """What the network returns in training: scores of the main and of the two auxiliary classifiers."""

    logits: Any
    aux_logits2: Any
    aux_logits1: Any


def truncated(std):
    """An initialiser: normal with this standard deviation, within ±2."""
    return lambda weight: init.trunc_normal_(weight, 0.0, std, -2.0, 2.0)


def standard_inputs(x):
    """Images normalised by ImageNet's means and deviations of each colour, normalised by 0.5 and 0.5 instead."""
    scaled = [x[:, i : i + 1] * (s / 0.5) + (m - 0.5) / 0.5 for i, (m, s) in enumerate(IMAGENET)]
    return F.cat(scaled, 1)


IMAGENET = (0.485, 0.229), (0.456, 0.224), (0.406, 0.225)  # mean and standard deviation of red, green, blue


class Inception(nn.Module):
    """Figure 2b: 1x1; 1x1 then 3x3; 1x1 then 3x3 (the paper: 5x5); maximum then 1x1.  Arguments as in table 1."""

    def __init__(self, in_channels, ch1x1, ch3x3red, ch3x3, ch5x5red, ch5x5, pool_proj):
        super().__init__()
        conv = ConvNormReLU
        self.branch1 = conv(in_channels, ch1x1, 1)
        self.branch2 = nn.Sequential(conv(in_channels, ch3x3red, 1), conv(ch3x3red, ch3x3, 3, padding=1))
        self.branch3 = nn.Sequential(conv(in_channels, ch5x5red, 1), conv(ch5x5red, ch5x5, 3, padding=1))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(in_channels, pool_proj, 1))

    def forward(self, x):
        return F.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Auxiliary(nn.Module):
    """The classifiers halfway: section 5."""

    def __init__(self, in_channels, num_classes, dropout=0.7):
        super().__init__()
        self.conv = ConvNormReLU(in_channels, 128, 1)
        self.fc1, self.fc2 = nn.Linear(2048, 1024), nn.Linear(1024, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = F.flatten(self.conv(F.adaptive_avg_pool2d(x, 4)), 1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


# Table 1: channels of the input, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
TABLE = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


class GoogLeNet(nn.Module):
    """(N, 3, H, W), H and W at least 15, to (N, num_classes); in training, with aux_logits, to GoogLeNetOutputs."""

    def __init__(
        self,
        num_classes=1000,
        aux_logits=True,
        transform_input=False,
        init_weights=True,
        dropout=0.2,
        dropout_aux=0.7,
    ):
        super().__init__()
        self.aux_logits, self.transform_input = aux_logits, transform_input
        self.conv1 = ConvNormReLU(3, 64, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = ConvNormReLU(64, 64, 1)
        self.conv3 = ConvNormReLU(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        for name, sizes in TABLE.items():
            self.add_module(f"inception{name}", Inception(*sizes))
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        if aux_logits:
            self.aux1, self.aux2 = Auxiliary(512, num_classes, dropout_aux), Auxiliary(528, num_classes, dropout_aux)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        if init_weights:
            first_weights(self, conv=truncated(0.01), linear=truncated(0.01))

    def forward(self, x):
        x = standard_inputs(x) if self.transform_input else x
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        x = self.inception4a(self.maxpool3(self.inception3b(self.inception3a(x))))
        auxiliary = self.training and self.aux_logits
        first = self.aux1(x) if auxiliary else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        second = self.aux2(x) if auxiliary else None
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(x))))
        x = self.fc(self.dropout(F.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        return GoogLeNetOutputs(x, second, first) if auxiliary else x


@network("Szegedy et al. 2015, arXiv 1409.4842, table 1", 13_004_888, 1_498_376_192)
def googlenet(**settings):
    """GoogLeNet; settings as in `GoogLeNet`."""
    return GoogLeNet(**settings)
