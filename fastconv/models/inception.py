"""Inception v3 (Szegedy et al. 2016, Rethinking the Inception architecture, arXiv 1512.00567, table 1)."""

from typing import Any, NamedTuple

from .. import nn
from .blocks import ConvNormReLU, first_weights
from .catalogue import network
from .googlenet import standard_inputs, truncated

F = nn.functional


class InceptionOutputs(NamedTuple):
    """What the network returns in training: scores of the main and of the auxiliary classifier."""

    logits: Any
    aux_logits: Any


class Branches(nn.Module):
    """Chains of layers side by side; an attribute is one layer, `chains` says in which order they follow each other."""

    chains: tuple[tuple[str, ...], ...]

    def add(self, name, in_channels, out_channels, kernel_size, stride=1):
        """A layer; without stride it keeps the size of the image."""
        kernel = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        padding = 0 if stride > 1 else tuple(k // 2 for k in kernel)
        self.add_module(name, ConvNormReLU(in_channels, out_channels, kernel, stride, padding))

    def branches(self, x):
        """The output of each chain."""
        for chain in self.chains:
            y = x
            for name in chain:
                y = self._modules[name](y)
            yield y

    def pooled(self, x):
        return self.branch_pool(F.avg_pool2d(x, 3, 1, 1))

    def forward(self, x):
        return F.cat([*self.branches(x), self.pooled(x)], 1)


class InceptionA(Branches):
    """Figure 5: 5x5, and 3x3 twice."""

    chains = (
        ("branch1x1",),
        ("branch5x5_1", "branch5x5_2"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
    )

    def __init__(self, in_channels, pool_features):
        super().__init__()
        self.add("branch1x1", in_channels, 64, 1)
        self.add("branch5x5_1", in_channels, 48, 1)
        self.add("branch5x5_2", 48, 64, 5)
        self.add("branch3x3dbl_1", in_channels, 64, 1)
        self.add("branch3x3dbl_2", 64, 96, 3)
        self.add("branch3x3dbl_3", 96, 96, 3)
        self.add("branch_pool", in_channels, pool_features, 1)


class InceptionB(Branches):
    """Figure 10: half the size, by convolutions and a maximum side by side."""

    chains = ("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")

    def __init__(self, in_channels):
        super().__init__()
        self.add("branch3x3", in_channels, 384, 3, 2)
        self.add("branch3x3dbl_1", in_channels, 64, 1)
        self.add("branch3x3dbl_2", 64, 96, 3)
        self.add("branch3x3dbl_3", 96, 96, 3, 2)

    def pooled(self, x):
        return F.max_pool2d(x, 3, 2)


class InceptionC(Branches):
    """Figure 6: 7x7 as 1x7 and 7x1."""

    chains = (
        ("branch1x1",),
        ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
        ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"),
    )

    def __init__(self, in_channels, channels_7x7):
        super().__init__()
        wide, row, column = channels_7x7, (1, 7), (7, 1)
        self.add("branch1x1", in_channels, 192, 1)
        self.add("branch7x7_1", in_channels, wide, 1)
        self.add("branch7x7_2", wide, wide, row)
        self.add("branch7x7_3", wide, 192, column)
        self.add("branch7x7dbl_1", in_channels, wide, 1)
        self.add("branch7x7dbl_2", wide, wide, column)
        self.add("branch7x7dbl_3", wide, wide, row)
        self.add("branch7x7dbl_4", wide, wide, column)
        self.add("branch7x7dbl_5", wide, 192, row)
        self.add("branch_pool", in_channels, 192, 1)


class InceptionD(Branches):
    """Figure 10 once more, with 7x7."""

    chains = ("branch3x3_1", "branch3x3_2"), ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4")

    def __init__(self, in_channels):
        super().__init__()
        self.add("branch3x3_1", in_channels, 192, 1)
        self.add("branch3x3_2", 192, 320, 3, 2)
        self.add("branch7x7x3_1", in_channels, 192, 1)
        self.add("branch7x7x3_2", 192, 192, (1, 7))
        self.add("branch7x7x3_3", 192, 192, (7, 1))
        self.add("branch7x7x3_4", 192, 192, 3, 2)

    def pooled(self, x):
        return F.max_pool2d(x, 3, 2)


class InceptionE(Branches):
    """Figure 7: 1x3 and 3x1 side by side."""

    chains = (
        ("branch1x1",),
        ("branch3x3_1", "branch3x3_2a"),
        ("branch3x3_1", "branch3x3_2b"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"),
        ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"),
    )

    def __init__(self, in_channels):
        super().__init__()
        self.add("branch1x1", in_channels, 320, 1)
        self.add("branch3x3_1", in_channels, 384, 1)
        self.add("branch3x3_2a", 384, 384, (1, 3))
        self.add("branch3x3_2b", 384, 384, (3, 1))
        self.add("branch3x3dbl_1", in_channels, 448, 1)
        self.add("branch3x3dbl_2", 448, 384, 3)
        self.add("branch3x3dbl_3a", 384, 384, (1, 3))
        self.add("branch3x3dbl_3b", 384, 384, (3, 1))
        self.add("branch_pool", in_channels, 192, 1)

    def branches(self, x):
        """Two of the layers are shared by two chains: they run once."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        yield self.branch1x1(x)
        yield from (self.branch3x3_2a(single), self.branch3x3_2b(single))
        yield from (self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double))


class Auxiliary(nn.Module):
    """The classifier halfway: section 4."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.conv0 = ConvNormReLU(in_channels, 128, 1)
        self.conv1 = ConvNormReLU(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x):
        x = self.conv1(self.conv0(F.avg_pool2d(x, 5, 3)))
        return self.fc(F.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class Inception3(nn.Module):
    """(N, 3, H, W), at least 75 (299 in training with aux_logits is the paper's size), to (N, num_classes).

    In training, with aux_logits, the result is InceptionOutputs.
    """

    def __init__(self, num_classes=1000, aux_logits=True, transform_input=False, init_weights=True, dropout=0.5):
        super().__init__()
        self.aux_logits, self.transform_input = aux_logits, transform_input
        self.Conv2d_1a_3x3 = ConvNormReLU(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvNormReLU(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvNormReLU(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        if aux_logits:
            self.AuxLogits = Auxiliary(768, num_classes)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048, num_classes)
        if init_weights:
            first_weights(self, conv=truncated(0.1), linear=truncated(0.1))
            if aux_logits:
                truncated(0.01)(self.AuxLogits.conv1.conv.weight)
                truncated(0.001)(self.AuxLogits.fc.weight)

    def forward(self, x):
        x = standard_inputs(x) if self.transform_input else x
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        auxiliary = self.training and self.aux_logits
        halfway = self.AuxLogits(x) if auxiliary else None
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        x = self.fc(F.flatten(self.dropout(F.adaptive_avg_pool2d(x, 1)), 1))
        return InceptionOutputs(x, halfway) if auxiliary else x


@network("Szegedy et al. 2016, arXiv 1512.00567, table 1", 27_161_264, 5_713_216_096, (3, 299, 299))
def inception_v3(**settings):
    """Inception v3; settings as in `Inception3`."""
    return Inception3(**settings)
