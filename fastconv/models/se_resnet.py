"""ResNet with squeeze and excitation (Hu et al. 2018, arXiv 1709.01507, tables 1 and 2): SE-ResNet-50.

28.1 M parameters and 3.87 G multiply-adds, 0.26 % more than ResNet-50's 3.86 (section 4).  As there, the stride of a
bottleneck is in its first convolution.
"""

from .. import nn
from .catalogue import network
from .resnet import Bottleneck, ResNet


class SEBottleneck(Bottleneck):
    """The channels of the residual are weighted before they meet the shortcut (figure 3)."""

    stride_first = True

    def __init__(self, *args, reduction=16):
        super().__init__(*args)
        self.se_module = nn.SqueezeExcite(self.conv3.out_channels, reduction)

    def residual(self, x):
        return self.se_module(super().residual(x))


class SEResNet(ResNet):
    """reduction: channels over those between the two layers of a squeeze; settings as in `ResNet`."""

    def __init__(self, layers, reduction=16, **settings):
        if reduction < 1:
            raise ValueError(f"SEResNet: reduction must be at least 1, got {reduction}")
        self.reduction = reduction
        super().__init__(SEBottleneck, layers, **settings)

    def _block(self, planes, stride, downsample, dilation):
        width = self.groups, self.base_width
        args = self.inplanes, planes, stride, downsample, *width, dilation, self.norm_layer
        return SEBottleneck(*args, reduction=self.reduction)


@network("Hu et al. 2018, arXiv 1709.01507, table 1", 28_088_024, 3_860_488_192)
def se_resnet50(reduction=16, **settings):
    """SE-ResNet-50; settings as in `SEResNet`."""
    return SEResNet((3, 4, 6, 3), reduction, **settings)
