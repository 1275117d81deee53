"""ShuffleNet (Zhang et al. 2018, arXiv 1707.01083, table 1): grouped 1x1 convolutions with their channels shuffled.

Multiply-adds as in the last row of table 1: 143, 140, 137, 133 and 137 M for 1, 2, 3, 4 and 8 groups.
"""

from .. import nn
from .blocks import check_choice, conv_norm, first_weights, he_fan_out, pooled
from .catalogue import network

F = nn.functional

# Table 1: the width of stage 2 for each number of groups; each stage doubles it.
WIDTH = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
REPEATS = (4, 8, 4)


class Unit(nn.Module):
    """1x1 in groups, shuffle, 3x3 one channel at a time, 1x1 in groups (figure 2b; with stride 2 figure 2c).

    With stride 2 the shortcut is a 3x3 average, and its channels come before those of the branch.
    """

    def __init__(self, inp, oup, groups, stride, first_groups):
        super().__init__()
        self.groups, self.stride = groups, stride
        between, new = oup // 4, oup - inp if stride == 2 else oup
        self.compress = conv_norm(inp, between, 1, groups=first_groups)
        self.depthwise = conv_norm(between, between, 3, stride, between, activation=None)
        self.expand = conv_norm(between, new, 1, groups=groups, activation=None)
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None

    def forward(self, x):
        y = F.channel_shuffle(self.compress(x), self.groups)
        y = self.expand(self.depthwise(y))
        return F.relu(x + y) if self.pool is None else F.cat([self.pool(x), F.relu(y)], 1)


class ShuffleNetV1(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  groups: 1, 2, 3, 4, 8.  width_mult: the scale factor of section 4.1."""

    def __init__(self, groups=3, num_classes=1000, width_mult=1.0):
        super().__init__()
        check_choice("ShuffleNetV1", "groups", groups, WIDTH)
        unit = 4 * groups  # the smallest width whose quarter divides into groups
        width = max(1, round(WIDTH[groups] * width_mult / unit)) * unit
        channels = max(1, round(24 * width_mult / groups)) * groups
        self.conv1 = conv_norm(3, channels, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, repeats in enumerate(REPEATS, 2):
            units = []
            for i in range(repeats):
                # The first 1x1 convolution of all is not grouped: it has few channels (section 3.2).
                first_groups = 1 if stage == 2 and i == 0 else groups
                units.append(Unit(channels, width, groups, 1 if i else 2, first_groups))
                channels = width
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            width *= 2
        self.fc = nn.Linear(channels, num_classes)
        first_weights(self, conv=he_fan_out)

    def features(self, x):
        return self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x)))))

    def forward(self, x):
        return self.fc(pooled(self.features, x))


PAPER = "Zhang et al. 2018, arXiv 1707.01083, table 1"


@network(PAPER, 1_531_936, 143_078_976)
def shufflenet_v1_g1(**settings):
    """ShuffleNet, 1 group; settings as in `ShuffleNetV1`."""
    return ShuffleNetV1(1, **settings)


@network(PAPER, 1_733_848, 140_836_512)
def shufflenet_v1_g2(**settings):
    """ShuffleNet, 2 groups; settings as in `ShuffleNetV1`."""
    return ShuffleNetV1(2, **settings)


@network(PAPER, 1_865_728, 137_460_672)
def shufflenet_v1_g3(**settings):
    """ShuffleNet, 3 groups; settings as in `ShuffleNetV1`."""
    return ShuffleNetV1(3, **settings)


@network(PAPER, 1_968_344, 134_339_776)
def shufflenet_v1_g4(**settings):
    """ShuffleNet, 4 groups; settings as in `ShuffleNetV1`."""
    return ShuffleNetV1(4, **settings)


@network(PAPER, 2_434_768, 138_365_952)
def shufflenet_v1_g8(**settings):
    """ShuffleNet, 8 groups; settings as in `ShuffleNetV1`."""
    return ShuffleNetV1(8, **settings)
