"""Video ResNets of 18 layers (Tran et al. 2018, arXiv 1711.11248, table 1): R3D, MC3, R(2+1)D."""

from typing import Any

from .. import nn
from .blocks import first_weights, he_fan_out, normal
from .catalogue import network

F = nn.functional


def conv3d(inp, oup, kernel_size, stride: Any = 1):
    """A convolution without bias that keeps the size (divided by the stride)."""
    padding = tuple(k // 2 for k in kernel_size)
    return nn.Conv3d(inp, oup, kernel_size, stride, padding, bias=False)


class Conv3DSimple:
    """3x3x3 convolutions (R3D)."""

    @staticmethod
    def conv(inp, oup, between, stride=1):
        return conv3d(inp, oup, (3, 3, 3), stride)

    @staticmethod
    def shortcut_stride(stride):
        return (stride, stride, stride)


class Conv3DNoTemporal:
    """1x3x3 convolutions: each frame on its own (the later stages of MC3)."""

    @staticmethod
    def conv(inp, oup, between, stride=1):
        return conv3d(inp, oup, (1, 3, 3), (1, stride, stride))

    @staticmethod
    def shortcut_stride(stride):
        return (1, stride, stride)


class Conv2Plus1D(Conv3DSimple):
    """1x3x3, batch norm, ReLU, 3x1x1 (R(2+1)D, section 3.5)."""

    @staticmethod
    def conv(inp, oup, between, stride=1):
        return nn.Sequential(
            conv3d(inp, between, (1, 3, 3), (1, stride, stride)),
            nn.BatchNorm3d(between),
            nn.ReLU(),
            conv3d(between, oup, (3, 1, 1), (stride, 1, 1)),
        )


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut.  between: width that gives R(2+1)D as many parameters as R3D (section 3.5)."""

    def __init__(self, inp, oup, kind, stride, downsample):
        super().__init__()
        between = inp * oup * 27 // (inp * 9 + 3 * oup)
        self.conv1 = nn.Sequential(kind.conv(inp, oup, between, stride), nn.BatchNorm3d(oup), nn.ReLU())
        self.conv2 = nn.Sequential(kind.conv(oup, oup, between), nn.BatchNorm3d(oup))
        self.downsample = downsample

    def forward(self, x):
        return F.relu(self.conv2(self.conv1(x)) + (x if self.downsample is None else self.downsample(x)))


def basic_stem():
    """3x7x7, batch norm, ReLU."""
    return nn.Sequential(conv3d(3, 64, (3, 7, 7), (1, 2, 2)), nn.BatchNorm3d(64), nn.ReLU())


def separated_stem():
    """1x7x7, batch norm, ReLU, 3x1x1, batch norm, ReLU."""
    first = conv3d(3, 45, (1, 7, 7), (1, 2, 2)), nn.BatchNorm3d(45), nn.ReLU()
    return nn.Sequential(*first, conv3d(45, 64, (3, 1, 1)), nn.BatchNorm3d(64), nn.ReLU())


class VideoResNet(nn.Module):
    """(N, 3, frames, H, W) to (N, num_classes).  kinds: of the convolutions in each of the four stages."""

    def __init__(self, kinds, stem, num_classes=400):
        super().__init__()
        self.stem = stem()
        channels = 64
        for stage, kind in enumerate(kinds, 1):
            wide, stride = 64 << (stage - 1), 1 if stage == 1 else 2
            downsample = None
            if stage > 1:
                conv = nn.Conv3d(channels, wide, 1, kind.shortcut_stride(stride), bias=False)
                downsample = nn.Sequential(conv, nn.BatchNorm3d(wide))
            first = BasicBlock(channels, wide, kind, stride, downsample)
            self.add_module(f"layer{stage}", nn.Sequential(first, BasicBlock(wide, wide, kind, 1, None)))
            channels = wide
        self.fc = nn.Linear(channels, num_classes)
        first_weights(self, conv=he_fan_out, linear=normal(0.01))

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(F.flatten(F.adaptive_avg_pool3d(x, 1), 1))


PAPER, CLIP = "Tran et al. 2018, arXiv 1711.11248, table 1", (3, 16, 112, 112)


@network(PAPER, 33_371_472, 40_696_553_472, CLIP)
def r3d_18(**settings):
    """R3D-18: convolutions in space and time; settings as in `VideoResNet`."""
    return VideoResNet([Conv3DSimple] * 4, basic_stem, **settings)


@network(PAPER, 11_695_440, 43_342_635_008, CLIP)
def mc3_18(**settings):
    """MC3-18: in time only in the first stage; settings as in `VideoResNet`."""
    return VideoResNet([Conv3DSimple] + [Conv3DNoTemporal] * 3, basic_stem, **settings)


@network(PAPER, 31_505_325, 40_519_080_960, CLIP)
def r2plus1d_18(**settings):
    """R(2+1)D-18: first in space, then in time; settings as in `VideoResNet`."""
    return VideoResNet([Conv2Plus1D] * 4, separated_stem, **settings)
