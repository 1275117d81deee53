"""Networks of the literature, built from `fastconv.nn` alone: names, arguments and keys as torchvision's.

    import fastconv as fc

    net = fc.models.resnet18(num_classes=10)                                   # new weights
    net = fc.models.resnet18(weights=fc.load_state("resnet18.safetensors"))   # the state_dict of torchvision's
    with fc.no_grad():
        scores = net.eval()(images)                                            # (N, 3, 224, 224) to (N, 1000)

`table()` lists all of them with their sizes and papers (`fastconv models` prints it), `get_model(name)` makes one by
its name.  Each family is one short file that cites the table of its paper.
"""

from .addernet import AdderResNet, adder_resnet20
from .alexnet import AlexNet, alexnet
from .catalogue import NETWORKS, Network, get_model, list_models, table
from .convnext import ConvNeXt, convnext_base, convnext_large, convnext_small, convnext_tiny
from .deeplab import DeepLabV3, deeplabv3_mobilenet_v3_large, deeplabv3_resnet50, deeplabv3_resnet101
from .deform import DeformResNet, deform_resnet50
from .densenet import DenseNet, densenet121, densenet161, densenet169, densenet201
from .efficientnet import (
    EfficientNet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
)
from .googlenet import GoogLeNet, GoogLeNetOutputs, googlenet
from .inception import Inception3, InceptionOutputs, inception_v3
from .lenet import LeNet5, lenet5
from .mobilenetv1 import MobileNetV1, mobilenet_v1
from .mobilenetv2 import MobileNetV2, mobilenet_v2
from .mobilenetv3 import MobileNetV3, mobilenet_v3_large, mobilenet_v3_small
from .nin import NIN, nin_cifar10, nin_imagenet
from .non_local import C2D, NonLocalResNet, non_local_c2d_50, non_local_c2d_101, non_local_resnet50
from .resnet import (
    BasicBlock,
    Bottleneck,
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .se_resnet import SEResNet, se_resnet50
from .shiftnet import ShiftNet, shiftnet_a, shiftnet_b
from .shufflenetv1 import (
    ShuffleNetV1,
    shufflenet_v1_g1,
    shufflenet_v1_g2,
    shufflenet_v1_g3,
    shufflenet_v1_g4,
    shufflenet_v1_g8,
)
from .shufflenetv2 import ShuffleNetV2, shufflenet_v2_x0_5, shufflenet_v2_x1_0, shufflenet_v2_x1_5, shufflenet_v2_x2_0
from .squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from .vgg import VGG, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from .video import VideoResNet, mc3_18, r2plus1d_18, r3d_18
from .xception import Xception, xception

__all__ = [
    "C2D",
    "NETWORKS",
    "NIN",
    "VGG",
    "AdderResNet",
    "AlexNet",
    "BasicBlock",
    "Bottleneck",
    "ConvNeXt",
    "DeepLabV3",
    "DeformResNet",
    "DenseNet",
    "EfficientNet",
    "GoogLeNet",
    "GoogLeNetOutputs",
    "Inception3",
    "InceptionOutputs",
    "LeNet5",
    "MobileNetV1",
    "MobileNetV2",
    "MobileNetV3",
    "Network",
    "NonLocalResNet",
    "ResNet",
    "SEResNet",
    "ShiftNet",
    "ShuffleNetV1",
    "ShuffleNetV2",
    "SqueezeNet",
    "VideoResNet",
    "Xception",
    "adder_resnet20",
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deform_resnet50",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "get_model",
    "googlenet",
    "inception_v3",
    "lenet5",
    "list_models",
    "mc3_18",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "nin_cifar10",
    "nin_imagenet",
    "non_local_c2d_50",
    "non_local_c2d_101",
    "non_local_resnet50",
    "r2plus1d_18",
    "r3d_18",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "se_resnet50",
    "shiftnet_a",
    "shiftnet_b",
    "shufflenet_v1_g1",
    "shufflenet_v1_g2",
    "shufflenet_v1_g3",
    "shufflenet_v1_g4",
    "shufflenet_v1_g8",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "table",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "xception",
]
