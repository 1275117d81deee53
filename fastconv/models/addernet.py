"""AdderNet (Chen et al. 2020, arXiv 1912.13200): ResNet-20 for 32x32 images with adder layers.

All convolutions but the first are adder layers, the 1x1 ones of the shortcuts included; the classifier is linear
(section 4).  The paper's table 1 counts 80.74 M additions: two for each of the 40.37 M terms |w - x|.
Shape of the network: He et al. 2016, arXiv 1512.03385, section 4.2.
"""

from .. import nn
from .blocks import he_fan_out, pooled
from .catalogue import network

F = nn.functional


class BasicBlock(nn.Module):
    """Two 3x3 adder layers and a shortcut."""

    def __init__(self, inp, oup, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Adder2d(inp, oup, 3, stride, 1), nn.BatchNorm2d(oup)
        self.conv2, self.bn2 = nn.Adder2d(oup, oup, 3, 1, 1), nn.BatchNorm2d(oup)
        self.downsample = None
        if stride != 1 or inp != oup:
            self.downsample = nn.Sequential(nn.Adder2d(inp, oup, 1, stride), nn.BatchNorm2d(oup))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class AdderResNet(nn.Module):
    """(N, 3, 32, 32) to (N, num_classes); 6 n + 2 layers.  Call `scale_gradients()` between backward and each step."""

    def __init__(self, n=3, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range(n):
                blocks.append(BasicBlock(channels, width, 2 if stage > 1 and i == 0 else 1))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)
        he_fan_out(self.conv1.weight)

    def features(self, x):
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def forward(self, x):
        return self.fc(pooled(self.features, x))

    def scale_gradients(self, eta=0.2):
        """The adaptive learning rate of every adder layer (section 3.3)."""
        for module in self.modules():
            if isinstance(module, nn.Adder2d):
                module.scale_gradient(eta)


@network("Chen et al. 2020, arXiv 1912.13200, table 1", 272_474, 40_813_184, (3, 32, 32))
def adder_resnet20(num_classes=10):
    """AdderNet ResNet-20; see `AdderResNet`."""
    return AdderResNet(3, num_classes)
