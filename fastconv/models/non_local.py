"""Non-local networks (Wang et al. 2018, arXiv 1711.07971): ResNets whose positions see all others.

For images ResNets with non-local blocks; for video the paper's own (table 1): C2D, a ResNet that sees each frame on its
own, with non-local blocks over space and time.  Table 2e: C2D on ResNet-101 has 43.2 M parameters and 34.2 G
multiply-adds, five blocks make both 1.2 times as many (with keys and values pooled before their convolutions).
"""

from typing import Any

from .. import nn
from .blocks import first_weights, he_fan_out
from .catalogue import network
from .resnet import Bottleneck, ResNet

F = nn.functional


def after(depth, blocks):
    """Which of `depth` residual blocks are followed by one of `blocks` non-local ones: evenly spread."""
    if not 0 <= blocks <= depth:
        raise ValueError(f"non-local blocks: between 0 and {depth} fit behind {depth} residual blocks, got {blocks}")
    step = depth // blocks if blocks else 1
    return [step * (i + 1) - 1 for i in range(blocks)]


def add_non_local(stage, blocks, layer, **settings):
    """Give `blocks` of the residual blocks of a stage a non-local block, as their attribute `non_local`.

    It begins as the identity: its batch norm has weight zero (section 4.1).
    """
    for i in after(len(stage), blocks):
        stage[i].non_local = layer(stage[i].conv3.out_channels, **settings)


class NonLocalBottleneck(Bottleneck):
    """A bottleneck, and maybe a non-local block behind it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.non_local = None

    def forward(self, x):
        x = super().forward(x)
        return x if self.non_local is None else self.non_local(x)


class NonLocalResNet(ResNet):
    """(N, 3, H, W) to (N, num_classes).  blocks: non-local blocks in the second and in the third stage.

    Keys of all other layers are ResNet's: weights of a ResNet load with strict=False.  mode, sub_sample: as in
    nn.NonLocal2d.
    """

    def __init__(self, layers, blocks=(2, 3), mode="embedded", sub_sample=False, **settings):
        super().__init__(NonLocalBottleneck, layers, **settings)
        for stage, count in zip((self.layer2, self.layer3), blocks, strict=True):
            add_non_local(stage, count, nn.NonLocal2d, mode=mode, sub_sample=sub_sample)


class FrameBottleneck(nn.Module):
    """1x1x1, 1x3x3 and 1x1x1 convolutions, a shortcut, and maybe a non-local block."""

    def __init__(self, inp, planes, stride, downsample):
        super().__init__()
        wide, step = 4 * planes, (1, stride, stride)
        self.conv1, self.bn1 = nn.Conv3d(inp, planes, 1, step, bias=False), nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, (1, 3, 3), 1, (0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3, self.bn3 = nn.Conv3d(planes, wide, 1, bias=False), nn.BatchNorm3d(wide)
        self.downsample, self.non_local = downsample, None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        y = F.relu(y + (x if self.downsample is None else self.downsample(x)))
        return y if self.non_local is None else self.non_local(y)


class C2D(nn.Module):
    """(N, 3, frames, H, W), 32 frames of 224x224 in the paper, to (N, num_classes): table 1.

    blocks: non-local blocks in res3 and in res4, embedded Gaussian; pool_first: they see a pooled image (section 3.3).
    """

    def __init__(self, layers, blocks=(2, 3), num_classes=400, pool_first=True):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (1, 7, 7), 2, (0, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.pool1 = nn.MaxPool3d(3, 2, 1)
        frames: Any = (3, 1, 1), (2, 1, 1), (1, 0, 0)
        self.pool2 = nn.MaxPool3d(*frames)
        channels = 64
        for number, depth in enumerate(layers, 2):
            stage, planes = [], 32 << (number - 1)
            for i in range(depth):
                stride, downsample = 2 if number > 2 and i == 0 else 1, None
                if i == 0:
                    conv = nn.Conv3d(channels, 4 * planes, 1, (1, stride, stride), bias=False)
                    downsample = nn.Sequential(conv, nn.BatchNorm3d(4 * planes))
                stage.append(FrameBottleneck(channels, planes, stride, downsample))
                channels = 4 * planes
            self.add_module(f"res{number}", nn.Sequential(*stage))
        self.fc = nn.Linear(channels, num_classes)
        first_weights(self, conv=he_fan_out)
        for stage, count in zip((self.res3, self.res4), blocks, strict=True):
            add_non_local(stage, count, nn.NonLocal3d, pool_first=pool_first)

    def forward(self, x):
        x = self.pool1(F.relu(self.bn1(self.conv1(x))))
        x = self.pool2(self.res2(x))
        x = self.res5(self.res4(self.res3(x)))
        return self.fc(F.flatten(F.adaptive_avg_pool3d(x, 1), 1))


PAPER, CLIP = "Wang et al. 2018, arXiv 1711.07971", (3, 32, 224, 224)


@network(f"{PAPER}, section 4", 32_915_496, 6_891_814_912)
def non_local_resnet50(**settings):
    """ResNet-50 with five non-local blocks, for images; settings as in `NonLocalResNet` and `ResNet`."""
    return NonLocalResNet((3, 4, 6, 3), **settings)


@network(f"{PAPER}, table 1", 31_686_096, 27_640_168_448, CLIP)
def non_local_c2d_50(**settings):
    """C2D on ResNet-50 with five non-local blocks, for video; settings as in `C2D`."""
    return C2D((3, 4, 6, 3), **settings)


@network(f"{PAPER}, table 2e", 50_678_224, 42_489_053_184, CLIP)
def non_local_c2d_101(**settings):
    """C2D on ResNet-101 with five non-local blocks, for video; settings as in `C2D`."""
    return C2D((3, 4, 23, 3), **settings)
