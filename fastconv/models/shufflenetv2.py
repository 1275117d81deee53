"""ShuffleNet v2 (Ma et al. 2018, arXiv 1807.11164, table 5): half the channels pass, half are convolved; shuffled."""

from .. import nn
from .blocks import conv_norm, pooled
from .catalogue import network

F = nn.functional


class InvertedResidual(nn.Module):
    """Figure 3c; with stride 2 figure 3d, where both halves see all channels."""

    def __init__(self, inp, oup, stride):
        super().__init__()
        half = oup // 2
        if stride == 1 and inp != 2 * half:
            raise ValueError(f"InvertedResidual: stride 1 wants as many channels out as in, got {inp} and {oup}")
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                *conv_norm(inp, inp, 3, stride, inp, activation=None),
                *conv_norm(inp, half, 1),
            )
        self.branch2 = nn.Sequential(
            *conv_norm(inp if stride > 1 else half, half, 1),
            *conv_norm(half, half, 3, stride, half, activation=None),
            *conv_norm(half, half, 1),
        )
        self.stride = stride

    def forward(self, x):
        left, right = F.channel_split(x, 2) if self.stride == 1 else (x, x)
        return F.channel_shuffle(F.cat([self.branch1(left), self.branch2(right)], 1), 2)


class ShuffleNetV2(nn.Module):
    """(N, 3, H, W) to (N, num_classes).

    stages_repeats: blocks of stages 2 to 4; stages_out_channels: widths of the first convolution, the stages and the
    last convolution.
    """

    def __init__(self, stages_repeats, stages_out_channels, num_classes=1000):
        super().__init__()
        if len(stages_repeats) != 3 or len(stages_out_channels) != 5:
            raise ValueError(
                "ShuffleNetV2: wants 3 stages_repeats and 5 stages_out_channels, "
                f"got {stages_repeats} and {stages_out_channels}"
            )
        channels, *widths, last = stages_out_channels
        self.conv1 = conv_norm(3, channels, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, (repeats, width) in enumerate(zip(stages_repeats, widths, strict=True), 2):
            blocks = [InvertedResidual(channels, width, 2)]
            blocks += [InvertedResidual(width, width, 1) for _ in range(repeats - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
            channels = width
        self.conv5 = conv_norm(channels, last, 1)
        self.fc = nn.Linear(last, num_classes)

    def features(self, x):
        return self.conv5(self.stage4(self.stage3(self.stage2(self.maxpool(self.conv1(x))))))

    def forward(self, x):
        return self.fc(pooled(self.features, x))


PAPER, REPEATS = "Ma et al. 2018, arXiv 1807.11164, table 5", (4, 8, 4)


@network(PAPER, 1_366_792, 40_476_448)
def shufflenet_v2_x0_5(**settings):
    """ShuffleNet v2 at half the width; settings as in `ShuffleNetV2`."""
    return ShuffleNetV2(REPEATS, (24, 48, 96, 192, 1024), **settings)


@network(PAPER, 2_278_604, 144_907_992)
def shufflenet_v2_x1_0(**settings):
    """ShuffleNet v2; settings as in `ShuffleNetV2`."""
    return ShuffleNetV2(REPEATS, (24, 116, 232, 464, 1024), **settings)


@network(PAPER, 3_503_624, 295_759_392)
def shufflenet_v2_x1_5(**settings):
    """ShuffleNet v2 at one and a half times the width; settings as in `ShuffleNetV2`."""
    return ShuffleNetV2(REPEATS, (24, 176, 352, 704, 1024), **settings)


@network(PAPER, 7_393_996, 583_253_464)
def shufflenet_v2_x2_0(**settings):
    """ShuffleNet v2 at twice the width; settings as in `ShuffleNetV2`."""
    return ShuffleNetV2(REPEATS, (24, 244, 488, 976, 2048), **settings)
