"""ResNet, wide ResNet and ResNeXt.

He et al. 2016, arXiv 1512.03385, table 1; Zagoruyko and Komodakis 2016, arXiv 1605.07146; Xie et al. 2017, arXiv
1611.05431, table 1.  The stride is in the 3x3 convolution of a bottleneck (Goyal et al. 2017, arXiv 1706.02677).
"""

from .. import nn
from ..nn import init
from .blocks import first_weights, he_fan_out, pooled
from .catalogue import network

F = nn.functional


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(
        self,
        inplanes,
        planes,
        stride=1,
        downsample=None,
        groups=1,
        base_width=64,
        dilation=1,
        norm_layer=nn.BatchNorm2d,
    ):
        super().__init__()
        if groups != 1 or base_width != 64 or dilation != 1:
            raise ValueError(
                "BasicBlock: wants groups 1, base_width 64 and dilation 1, "
                f"got groups {groups}, base_width {base_width}, dilation {dilation}"
            )
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample

    @property
    def last_norm(self):
        return self.bn2

    def residual(self, x):
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        return F.relu(self.residual(x) + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (figure 5, right)."""

    expansion = 4
    stride_first = False  # the paper's: the stride in the first 1x1 convolution

    def __init__(
        self,
        inplanes,
        planes,
        stride=1,
        downsample=None,
        groups=1,
        base_width=64,
        dilation=1,
        norm_layer=nn.BatchNorm2d,
    ):
        super().__init__()
        width = int(planes * (base_width / 64)) * groups
        first, second = (stride, 1) if self.stride_first else (1, stride)
        self.conv1 = nn.Conv2d(inplanes, width, 1, first, bias=False)
        self.bn1 = norm_layer(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, dilation, dilation, groups, bias=False)
        self.bn2 = norm_layer(width)
        self.conv3 = nn.Conv2d(width, planes * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(planes * self.expansion)
        self.downsample = downsample

    @property
    def last_norm(self):
        return self.bn3

    def residual(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x)))))

    def forward(self, x):
        return F.relu(self.residual(x) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """(N, 3, H, W) to (N, num_classes).  layers: number of blocks in each of the four stages.

    groups, width_per_group: of the 3x3 convolutions (ResNeXt, wide ResNet).  replace_stride_with_dilation: for each of
    the last three stages, whether it keeps the size of the image and dilates instead.  zero_init_residual: every block
    begins as the identity (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        block,
        layers,
        num_classes=1000,
        zero_init_residual=False,
        groups=1,
        width_per_group=64,
        replace_stride_with_dilation=None,
        norm_layer=None,
    ):
        super().__init__()
        dilate = [False] * 3 if replace_stride_with_dilation is None else list(replace_stride_with_dilation)
        if len(dilate) != 3:
            raise ValueError(f"ResNet: replace_stride_with_dilation wants 3 values or None, got {dilate}")
        if len(layers) != 4:
            raise ValueError(f"ResNet: layers wants the number of blocks in each of 4 stages, got {layers}")
        self.block, self.norm_layer = block, norm_layer or nn.BatchNorm2d
        self.groups, self.base_width, self.inplanes, self.dilation = groups, width_per_group, 64, 1
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = self.norm_layer(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._stage(64, layers[0], 1, False)
        self.layer2 = self._stage(128, layers[1], 2, dilate[0])
        self.layer3 = self._stage(256, layers[2], 2, dilate[1])
        self.layer4 = self._stage(512, layers[3], 2, dilate[2])
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        first_weights(self, conv=he_fan_out)
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    init.zeros_(module.last_norm.weight)

    def _stage(self, planes, blocks, stride, dilate):
        dilation = self.dilation
        if dilate:
            self.dilation, stride = self.dilation * stride, 1
        wide, downsample = planes * self.block.expansion, None
        if stride != 1 or self.inplanes != wide:
            downsample = nn.Sequential(nn.Conv2d(self.inplanes, wide, 1, stride, bias=False), self.norm_layer(wide))
        made = []
        for i in range(blocks):
            geometry = (stride, downsample, dilation) if i == 0 else (1, None, self.dilation)
            made.append(self._block(planes, *geometry))
            self.inplanes = wide
        return nn.Sequential(*made)

    def _block(self, planes, stride, downsample, dilation):
        width = self.groups, self.base_width
        return self.block(self.inplanes, planes, stride, downsample, *width, dilation, self.norm_layer)

    def features(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x):
        return self.fc(pooled(self.features, x))


HE, XIE = "He et al. 2016, arXiv 1512.03385, table 1", "Xie et al. 2017, arXiv 1611.05431"
WIDE = "Zagoruyko and Komodakis 2016, arXiv 1605.07146"


@network(HE, 11_689_512, 1_814_073_344)
def resnet18(**settings):
    """ResNet-18; settings as in `ResNet`."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **settings)


@network(HE, 21_797_672, 3_663_761_408)
def resnet34(**settings):
    """ResNet-34; settings as in `ResNet`."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **settings)


@network(HE, 25_557_032, 4_089_184_256)
def resnet50(**settings):
    """ResNet-50; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **settings)


@network(HE, 44_549_160, 7_801_405_440)
def resnet101(**settings):
    """ResNet-101; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **settings)


@network(HE, 60_192_808, 11_513_626_624)
def resnet152(**settings):
    """ResNet-152; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **settings)


@network(f"{XIE}, table 1", 25_028_904, 4_230_479_872)
def resnext50_32x4d(groups=32, width_per_group=4, **settings):
    """ResNeXt-50, 32 groups of 4; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), groups=groups, width_per_group=width_per_group, **settings)


@network(XIE, 88_791_336, 16_414_015_488)
def resnext101_32x8d(groups=32, width_per_group=8, **settings):
    """ResNeXt-101, 32 groups of 8; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), groups=groups, width_per_group=width_per_group, **settings)


@network(WIDE, 68_883_240, 11_398_021_120)
def wide_resnet50_2(width_per_group=128, **settings):
    """ResNet-50 with 3x3 convolutions of twice the width; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 6, 3), width_per_group=width_per_group, **settings)


@network(WIDE, 126_886_696, 22_753_050_624)
def wide_resnet101_2(width_per_group=128, **settings):
    """ResNet-101 with 3x3 convolutions of twice the width; settings as in `ResNet`."""
    return ResNet(Bottleneck, (3, 4, 23, 3), width_per_group=width_per_group, **settings)
