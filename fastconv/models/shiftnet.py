"""ShiftNet (Wu et al. 2018, arXiv 1711.08141, section 4.2): 1x1 convolutions, and shifts in place of larger ones.

The paper's ShiftNet-A has 4.1 M parameters and 1.4 G multiply-adds, ShiftNet-B, of half the width, 1.1 M and 371 M.
"""

from .. import nn
from .blocks import first_weights, he_fan_out, pooled
from .catalogue import network

F = nn.functional

# For each group: width, modules, kernel size of the shift, expansion of the first module and of the others.
TABLE = ((64, 5, 5, 4, 4), (128, 6, 5, 4, 3), (256, 7, 3, 3, 2), (512, 3, 3, 2, 1))


class ConvShiftConv(nn.Module):
    """Batch norm, ReLU, 1x1, shift, batch norm, ReLU, 1x1, and a shortcut (section 3.3).

    With stride 2 the shortcut is a 3x3 average, and the convolutions add the missing channels beside it.
    """

    def __init__(self, inp, oup, kernel_size, expansion, stride):
        super().__init__()
        new = oup - inp if stride > 1 else oup
        between = new * expansion
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv1 = nn.Conv2d(inp, between, 1, bias=False)
        self.shift = nn.Shift2d(between, kernel_size)
        self.bn2 = nn.BatchNorm2d(between)
        self.conv2 = nn.Conv2d(between, new, 1, stride, bias=False)
        self.pool = nn.AvgPool2d(3, stride, 1) if stride > 1 else None

    def forward(self, x):
        y = self.shift(self.conv1(F.relu(self.bn1(x))))
        y = self.conv2(F.relu(self.bn2(y)))
        return x + y if self.pool is None else F.cat([y, self.pool(x)], 1)


class ShiftNet(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  width_mult: multiplies all widths."""

    def __init__(self, num_classes=1000, width_mult=1.0):
        super().__init__()
        channels = int(32 * width_mult)
        if channels < 1:
            raise ValueError(f"ShiftNet: width_mult must be at least 1/32, got {width_mult}")
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        for group, (width, modules, kernel, first, others) in enumerate(TABLE, 1):
            wide, blocks = int(width * width_mult), []
            for i in range(modules):
                blocks.append(ConvShiftConv(channels, wide, kernel, others if i else first, 1 if i else 2))
                channels = wide
            self.add_module(f"group{group}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        first_weights(self, conv=he_fan_out)

    def features(self, x):
        x = self.group4(self.group3(self.group2(self.group1(self.conv1(x)))))
        return F.relu(self.bn(x))

    def forward(self, x):
        return self.fc(pooled(self.features, x))


PAPER = "Wu et al. 2018, arXiv 1711.08141, section 4.2"


@network(PAPER, 4_188_680, 1_424_306_176)
def shiftnet_a(**settings):
    """ShiftNet-A; settings as in `ShiftNet`."""
    return ShiftNet(**settings)


@network(PAPER, 1_183_480, 370_956_288)
def shiftnet_b(width_mult=0.5, **settings):
    """ShiftNet-B; settings as in `ShiftNet`."""
    return ShiftNet(width_mult=width_mult, **settings)
