"""The networks that training.py trains, each written once for both libraries: `nn` is fastconv.nn or torch.nn."""

from functools import cache
from types import SimpleNamespace


def lenet5(lib):
    """LeNet-5 as it is written today: maximum pooling, ReLU, 28 x 28 pixels padded."""
    nn = lib.nn
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def _resnet20(lib, convolution):
    """He et al. 2016, section 4.2, with 3 blocks a stage; convolution(inputs, outputs, kernel, stride, padding)."""
    nn = lib.nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.body = nn.Sequential(
                *(convolution(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()),
                *(convolution(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs)),
            )
            self.shortcut = nn.Sequential()
            if stride > 1:
                self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride, 0), nn.BatchNorm2d(outputs))
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(self.body(x) + self.shortcut(x))

    widths = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2)]
    widths += [(64, 64, 1), (64, 64, 1)]
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Block(*width) for width in widths),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def resnet20(lib):
    """ResNet-20 for 32 x 32 pixels."""
    return _resnet20(lib, lambda *sizes: lib.nn.Conv2d(*sizes, bias=False))


def adder_resnet20(lib):
    """ResNet-20 of adder layers (Chen et al. 2020)."""
    return _resnet20(lib, lib.Adder2d)


def vgg_cifar(lib):
    """VGG-style: pairs of 3 x 3 layers of 64, 128 and 256 channels with batch norm, for 32 x 32 pixels."""
    nn, layers, inputs = lib.nn, [], 3
    for outputs in (64, 128, 256):
        for _ in range(2):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 256), nn.ReLU(), nn.Linear(256, 10))


def mobilenet_v2(lib):
    """The library's own MobileNetV2."""
    return lib.models.mobilenet_v2(num_classes=100)


def shufflenet_v2_x0_5(lib):
    """The library's own ShuffleNetV2, half as wide."""
    return lib.models.shufflenet_v2_x0_5(num_classes=100)


# name -> (maker, batch, shape of an image, classes)
NETWORKS = {
    "LeNet-5": (lenet5, 64, (1, 28, 28), 10),
    "ResNet-20": (resnet20, 32, (3, 32, 32), 10),
    "MobileNetV2": (mobilenet_v2, 8, (3, 96, 96), 100),
    "ShuffleNetV2 0.5x": (shufflenet_v2_x0_5, 16, (3, 96, 96), 100),
    "VGG-style": (vgg_cifar, 64, (3, 32, 32), 10),
    "AdderNet ResNet-20": (adder_resnet20, 8, (3, 32, 32), 10),
}


def fastconv_library():
    """What the networks are made of here."""
    import fastconv as fc

    return SimpleNamespace(nn=fc.nn, models=fc.models, Adder2d=fc.nn.Adder2d)


@cache
def torch_library():
    """The same from PyTorch, with the adder layer as a user would compose it; ImportError where it is absent."""
    import torch

    operators = torch.library.Library(
        "torchvision", "FRAGMENT"
    )  # asked for at import, absent beside some builds of torch
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    class Adder2d(torch.nn.Module):
        """y = -sum |x - w|: unfolded, broadcast and summed."""

        def __init__(self, inputs, outputs, kernel, stride, padding):
            super().__init__()
            self.sizes = kernel, stride, padding
            self.weight = torch.nn.Parameter(torch.randn(outputs, inputs * kernel * kernel))

        def forward(self, x):
            kernel, stride, padding = self.sizes
            patches = torch.nn.functional.unfold(x, kernel, 1, padding, stride)
            size = (x.shape[2] + 2 * padding - kernel) // stride + 1
            y = -(patches[:, None] - self.weight[None, :, :, None]).abs().sum(2)
            return y.reshape(x.shape[0], -1, size, size)

    return SimpleNamespace(nn=torch.nn, models=torchvision.models, Adder2d=Adder2d, operators=operators)
