"""MobileNet v3 (Howard et al. 2019, arXiv 1905.02244, tables 1 and 2)."""

from functools import partial

from .. import nn
from .blocks import conv_norm, first_weights, he_fan_out, make_divisible, normal, pooled
from .catalogue import network

# Tables 1 and 2: kernel, expanded width, width, squeeze and excite, activation, stride; then the width of the head.
LARGE = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)
SMALL = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)
LAST_STAGE = 3  # blocks of the last stage: what reduced_tail narrows and dilated dilates


class InvertedResidual(nn.Module):
    """1x1, depthwise, squeeze and excitation, 1x1 (figure 4)."""

    def __init__(self, inp, kernel, expanded, oup, squeeze, activation, stride, dilation, norm_layer):
        super().__init__()
        self.shortcut = stride == 1 and inp == oup
        self.strided, self.out_channels = stride > 1, oup
        layers = []
        if expanded != inp:
            layers.append(conv_norm(inp, expanded, 1, norm=norm_layer, activation=activation))
        stride = 1 if dilation > 1 else stride
        layers.append(conv_norm(expanded, expanded, kernel, stride, expanded, dilation, norm_layer, activation))
        if squeeze:
            between = make_divisible(expanded // 4)
            layers.append(nn.SqueezeExcite(expanded, squeeze_channels=between, scale_activation=nn.Hardsigmoid))
        layers.append(conv_norm(expanded, oup, 1, norm=norm_layer, activation=None))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(nn.Module):
    """(N, 3, H, W) to (N, num_classes).

    rows: as in `LARGE`; last_channel: width of the head.  width_mult: multiplies all widths.  reduced_tail: the last
    stage and the head with half the width (section 6.3); dilated: the last stage keeps the size of the image (6.4).
    """

    def __init__(
        self,
        rows,
        last_channel,
        num_classes=1000,
        width_mult=1.0,
        reduced_tail=False,
        dilated=False,
        norm_layer=None,
        dropout=0.2,
    ):
        super().__init__()
        norm_layer = norm_layer or partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
        divisor = 2 if reduced_tail else 1

        def wide(width, half=1):
            return make_divisible(width // half * width_mult)

        channels = wide(16)
        layers: list[nn.Module] = [conv_norm(3, channels, 3, 2, norm=norm_layer, activation=nn.Hardswish)]
        for i, (kernel, expanded, width, squeeze, activation, stride) in enumerate(rows, LAST_STAGE - len(rows)):
            tail, inner = (divisor if i >= 0 else 1), (divisor if i >= 1 else 1)
            sizes = channels, kernel, wide(expanded, inner), wide(width, tail)
            dilation = 2 if dilated and i >= 0 else 1
            layers.append(InvertedResidual(*sizes, squeeze, activation, stride, dilation, norm_layer))
            channels = wide(width, tail)
        last = 6 * channels
        layers.append(conv_norm(channels, last, 1, norm=norm_layer, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        head = wide(last_channel, divisor)
        self.classifier = nn.Sequential(
            nn.Linear(last, head), nn.Hardswish(), nn.Dropout(dropout), nn.Linear(head, num_classes)
        )
        first_weights(self, conv=he_fan_out, linear=normal(0.01))

    def forward(self, x):
        return self.classifier(pooled(self.features, x))


@network("Howard et al. 2019, arXiv 1905.02244, table 1", 5_483_032, 216_589_760)
def mobilenet_v3_large(**settings):
    """MobileNet v3, large; settings as in `MobileNetV3`."""
    return MobileNetV3(LARGE, 1280, **settings)


@network("Howard et al. 2019, arXiv 1905.02244, table 2", 2_542_856, 56_510_400)
def mobilenet_v3_small(**settings):
    """MobileNet v3, small; settings as in `MobileNetV3`."""
    return MobileNetV3(SMALL, 1024, **settings)
