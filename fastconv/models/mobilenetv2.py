"""MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381, table 2)."""

from .. import nn
from .blocks import conv_norm, first_weights, he_fan_out, make_divisible, normal, pooled
from .catalogue import network

# Table 2: expansion, width, repeats, stride of the first.
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 one channel at a time, 1x1 to few, without activation after it (figure 4d)."""

    def __init__(self, inp, oup, stride, expand_ratio, norm_layer=nn.BatchNorm2d):
        super().__init__()
        hidden = round(inp * expand_ratio)
        self.shortcut = stride == 1 and inp == oup
        settings = {"norm": norm_layer, "activation": nn.ReLU6}
        expand = [] if expand_ratio == 1 else [conv_norm(inp, hidden, 1, **settings)]
        depthwise = conv_norm(hidden, hidden, 3, stride, hidden, **settings)
        self.conv = nn.Sequential(*expand, depthwise, nn.Conv2d(hidden, oup, 1, bias=False), norm_layer(oup))

    def forward(self, x):
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  inverted_residual_setting: rows as in table 2."""

    def __init__(
        self,
        num_classes=1000,
        width_mult=1.0,
        inverted_residual_setting=TABLE,
        round_nearest=8,
        norm_layer=nn.BatchNorm2d,
        dropout=0.2,
    ):
        super().__init__()
        if any(len(row) != 4 for row in inverted_residual_setting):
            raise ValueError(
                "MobileNetV2: each row of inverted_residual_setting wants expansion, width, repeats, stride; "
                f"got {inverted_residual_setting}"
            )
        channels = make_divisible(32 * width_mult, round_nearest)
        last = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, norm=norm_layer, activation=nn.ReLU6)]
        for expansion, width, repeats, stride in inverted_residual_setting:
            wide = make_divisible(width * width_mult, round_nearest)
            for i in range(repeats):
                layers.append(InvertedResidual(channels, wide, 1 if i else stride, expansion, norm_layer))
                channels = wide
        layers.append(conv_norm(channels, last, 1, norm=norm_layer, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        first_weights(self, conv=he_fan_out, linear=normal(0.01))

    def forward(self, x):
        return self.classifier(pooled(self.features, x))


@network("Sandler et al. 2018, arXiv 1801.04381, table 2", 3_504_872, 300_774_272)
def mobilenet_v2(**settings):
    """MobileNet v2; settings as in `MobileNetV2`."""
    return MobileNetV2(**settings)
