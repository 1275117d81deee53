"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998, Gradient-Based Learning Applied to Document Recognition, section II-B).

60,000 trainable parameters and 340,908 connections, as the paper counts them (page 8).
"""

import numpy as np

from .. import nn
from ..nn import init
from .catalogue import network

F = nn.functional

# Table I: the maps of S2 that each of the 16 maps of C3 sees.
SEES = (
    *((i, (i + 1) % 6, (i + 2) % 6) for i in range(6)),
    *(tuple(sorted((i + j) % 6 for j in range(4))) for i in range(6)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


def squash(x):
    """The paper's activation, equation 6: 1.7159 tanh(2 x / 3), which maps ±1 to ±1."""
    return F.tanh(x * (2 / 3)) * 1.7159


class Subsampling(nn.Module):
    """Layers S2 and S4: sums of 2x2 squares, times one coefficient and plus one bias for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(np.full((channels, 1, 1), 0.25, np.float32))
        self.bias = nn.Parameter(np.zeros((channels, 1, 1), np.float32))

    def forward(self, x):
        return F.avg_pool2d(x, 2, divisor_override=1) * self.weight + self.bias


class PartialConv2d(nn.Module):
    """Layer C3: a 5x5 convolution in which each output channel sees the channels that `sees` names.

    Parameters: one 5x5 kernel for each pair (60 of them), and one bias for each output.
    """

    def __init__(self, sees, kernel_size=5):
        super().__init__()
        pairs = [(o, i) for o, inputs in enumerate(sees) for i in inputs]
        bound = 1 / np.sqrt(kernel_size**2 * len(pairs) / len(sees))
        self.weight = nn.Parameter(np.empty((len(pairs), kernel_size, kernel_size), np.float32))
        self.bias = nn.Parameter(np.empty(len(sees), np.float32))
        for parameter in self.weight, self.bias:
            init.uniform_(parameter, -bound, bound)
        # Where each kernel of the dense weight (O, I) comes from; the last, of zeros, is for pairs that are not joined.
        self.place = np.full((len(sees), 1 + max(map(max, sees))), len(pairs))
        for number, (o, i) in enumerate(pairs):
            self.place[o, i] = number

    def forward(self, x):
        nothing = np.zeros_like(self.weight.data[:1])
        return F.conv2d(x, F.cat([self.weight, nothing], 0)[self.place], self.bias)


class EuclideanRBF(nn.Module):
    """The output layer, equation 7: the squared distance of the features (N, 84) to the code of each class (K, 84).

    Codes are fixed, ±1 drawn at random once, one of the choices that the paper gives (page 8).  Their squared distance
    comes back with its sign changed, so that the largest is the answer and a softmax over them is the paper's
    equation 9.
    """

    def __init__(self, num_classes, features):
        super().__init__()
        codes = np.random.default_rng(1998).choice([-1.0, 1.0], (num_classes, features))
        self.register_buffer("codes", codes.astype(np.float32))

    def forward(self, x):
        distance = x.reshape(x.shape[0], 1, x.shape[1]) - self.codes
        return -(distance * distance).sum(-1)


class LeNet5(nn.Module):
    """(N, 1, 32, 32), or (N, 1, 28, 28) which gets a border of 2, to scores (N, num_classes).

    Layers C1, S2, C3, S4, C5, F6 and the output, named as in the paper's figure 2.  Pixels are meant to have mean 0 and
    variance 1: background -0.1, foreground 1.175.
    """

    def __init__(self, num_classes=10):
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = Subsampling(6)
        self.c3 = PartialConv2d(SEES)
        self.s4 = Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = EuclideanRBF(num_classes, 84)

    def forward(self, x):
        if x.ndim != 4 or x.shape[1:] not in ((1, 32, 32), (1, 28, 28)):
            raise ValueError(f"LeNet5: wants input (N, 1, 32, 32) or (N, 1, 28, 28), got shape {x.shape}")
        if x.shape[2] == 28:
            x = F.pad(x, (2, 2, 2, 2), value=-0.1)
        x = squash(self.s2(squash(self.c1(x))))
        x = squash(self.s4(squash(self.c3(x))))
        x = squash(self.c5(x))
        return self.output(squash(self.f6(F.flatten(x, 1))))


@network("LeCun et al. 1998, Proc. IEEE 86(11), section II-B", 60_000, 415_680, (1, 32, 32))
def lenet5(num_classes=10):
    """LeNet-5; see `LeNet5`."""
    return LeNet5(num_classes)
