"""Deformable ResNets: 3x3 convolutions of the last stages that learn where to look.

Dai et al. 2017, arXiv 1703.06211, section 3.1 (v1); Zhu et al. 2019, arXiv 1811.11168, section 3 and table 1 (v2, with
masks): deformable convolutions in stages conv3 to conv5.
"""

from .. import nn
from .blocks import check_choice
from .catalogue import network
from .resnet import Bottleneck, ResNet

STAGES = (2, 3, 4, 5)


class DeformResNet(ResNet):
    """ResNet of bottlenecks with deformable 3x3 convolutions in the given stages, conv2 to conv5.

    Keys of all other layers are ResNet's, and `conv2.weight` keeps its own: weights of a ResNet load with strict=False.
    modulated: with masks (v2).  offset_groups: groups of channels with offsets of their own.  The convolutions that
    predict offsets begin as zero, and they learn at a tenth of the rate in the paper.
    """

    def __init__(self, layers, stages=(3, 4, 5), modulated=True, offset_groups=1, **settings):
        super().__init__(Bottleneck, layers, **settings)
        for stage in stages:
            check_choice("DeformResNet", "stages", stage, STAGES)
            for block in getattr(self, f"layer{stage - 1}"):
                block.conv2 = deformable(block.conv2, modulated, offset_groups)


def deformable(conv, modulated, offset_groups):
    """A deformable convolution with the geometry, and the first weights, of `conv`."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    channels = conv.in_channels, conv.out_channels
    layer = nn.DeformConv2dPack(*channels, *geometry, bias=False, offset_groups=offset_groups, modulated=modulated)
    layer.weight.data[...] = conv.weight.data
    return layer


@network("Zhu et al. 2019, arXiv 1811.11168, table 1", 26_428_295, 4_278_172_160)
def deform_resnet50(**settings):
    """ResNet-50 with modulated deformable convolutions in conv3 to conv5; settings as in `DeformResNet`, `ResNet`."""
    return DeformResNet((3, 4, 6, 3), **settings)
