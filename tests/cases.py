"""The convolutions that are tested, in tiers.

SMOKE    a few tiny ones: every run, also without the JIT.
FULL     sampled with a fixed seed from all combinations of odd sizes, kernels, strides, paddings, dilations, groups and
         batches, and EDGES, where sizes meet the limits of tiles, images and kernels.
NETWORK  the layers of benchmarks/shapes/layers.csv, scaled down until the oracle is quick; a transposed convolution
         stands for its adjoint.
"""

import random
import zlib
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from benchmarks import layers
from fastconv.specs import ConvSpec

from . import oracle


class Arrays(NamedTuple):
    """The operands of a case: input, weight, bias or None, and gradient of the output."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    gy: np.ndarray


@dataclass(frozen=True)
class ConvCase:
    """One convolution; ic and oc are channels of one group, `padding` is anything that the oracle takes."""

    size: tuple
    kernel: tuple
    stride: tuple
    padding: object
    dilation: tuple
    groups: int = 1
    icg: int = 1
    ocg: int = 1
    n: int = 1
    bias: bool = True

    def __str__(self):
        size, kernel, stride, dilation = (
            "x".join(map(str, v)) for v in (self.size, self.kernel, self.stride, self.dilation)
        )
        padding = str(self.padding).replace(" ", "")
        channels = f"g{self.groups}ic{self.icg}oc{self.ocg}" + "b" * self.bias
        return f"{self.ndim}d-n{self.n}-{channels}-{size}-k{kernel}-s{stride}-p{padding}-d{dilation}"

    @property
    def ndim(self):
        return len(self.size)

    @property
    def out(self):
        return oracle.out_size(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def x_shape(self):
        return (self.n, self.groups * self.icg, *self.size)

    @property
    def w_shape(self):
        return (self.groups * self.ocg, self.icg, *self.kernel)

    @property
    def y_shape(self):
        return (self.n, self.groups * self.ocg, *self.out)

    @property
    def terms(self):
        """The number of products in one value of each pass."""
        taps = prod(self.kernel)
        return {
            "conv.fwd": self.icg * taps + self.bias,
            "conv.bwd_data": self.ocg * taps,
            "conv.bwd_weights": self.n * prod(self.out),
        }

    @property
    def macs(self):
        return prod(self.y_shape) * self.icg * prod(self.kernel)

    @property
    def settings(self):
        """stride, padding, dilation, groups: as the public functions and the oracle take them."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def is_public(self):
        """Whether the public functions can say it: they have no pairs of paddings, and "same" only with stride 1."""
        if self.padding == "same":
            return set(self.stride) == {1}
        return isinstance(self.padding, str) or not any(isinstance(p, tuple) for p in self.padding)

    def arrays(self, dtype):
        """Seeded operands of this dtype."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        shapes = (self.x_shape, self.w_shape, self.w_shape[:1], self.y_shape)
        x, w, b, gy = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return Arrays(x, w, b if self.bias else None, gy)

    def spec(self, dtype):
        """The library's own form of the case, made without its checks."""
        before = [pair[0] for pair in oracle.pads(self.padding, self.kernel, self.dilation)]
        groups = (
            (("id", "ih", "iw"), self.size, 1),
            (("od", "oh", "ow"), self.out, 1),
            (("kd", "kh", "kw"), self.kernel, 1),
            (("sd", "sh", "sw"), self.stride, 1),
            (("pd", "ph", "pw"), before, 0),
            (("dd", "dh", "dw"), self.dilation, 1),
        )
        sizes = {}
        for names, values, fill in groups:
            sizes |= zip(names, (fill,) * (3 - self.ndim) + tuple(values), strict=True)
        channels = {"g": self.groups, "ic": self.groups * self.icg, "oc": self.groups * self.ocg}
        return ConvSpec(n=self.n, **channels, **sizes, dtype=str(np.dtype(dtype)), ndim=self.ndim)


def case(size, kernel, stride=1, padding=0, dilation=1, channels=(1, 1, 1), n=1, bias=True):
    """A case from plain numbers; channels: (groups, input, output channels of a group)."""
    size = oracle.each(size, 1)
    kernel, stride, dilation = (oracle.each(v, len(size)) for v in (kernel, stride, dilation))
    padding = padding if isinstance(padding, str) else oracle.each(padding, len(size))
    return ConvCase(size, kernel, stride, padding, dilation, *channels, n=n, bias=bias)


SMOKE = [
    case(11, 3, 1, 1, 1, (1, 3, 5), n=2),
    case(13, 4, 3, 2, 1, (2, 2, 3)),
    case((5, 7), 3, 1, 1, 1, (1, 3, 4), n=2),
    case((6, 5), 1, 1, 0, 1, (1, 5, 9)),
    case((7, 6), (2, 3), 2, (1, 0), 1, (1, 2, 3)),
    case((7, 9), 3, 1, "same", 2, (3, 1, 1)),
    case((5, 6), (3, 2), 3, 0, 1, (2, 1, 2), bias=False),
    case((1, 1), 3, 1, 1, 1, (1, 2, 3)),
    case((3, 4, 5), (2, 3, 2), (1, 2, 1), (0, 1, 1), 1, (1, 2, 3)),
    case((4, 3, 5), 2, 1, "same", 1, (2, 1, 1), n=0),
]

_MANY, _FEW = (1, 16, 15), (1, 3, 8)
EDGES = [
    # tile +- 1: pixels around one and three vectors, rows around the register tile
    *(case(pixels, 3, 1, 1, 1, (1, 5, rows)) for pixels in (15, 17, 47, 49, 95, 97) for rows in (7, 8, 9)),
    *(case((3, 16 * v + extra), 1, 1, 0, 1, (1, 9, 17)) for v in (1, 3) for extra in (-1, 0, 1)),
    *(case((7, 7), 3, 1, 1, 1, (1, 4, rows)) for rows in (1, 2, 3, 4, 5, 6, 12, 13)),
    # asymmetric padding, also by "same" with even kernels
    case((5, 7), (2, 4), 1, "same", 1, _FEW),
    case((6, 9), (4, 3), 1, "same", (1, 3), _FEW),
    case((7, 5), 3, 2, ((0, 1), (2, 0)), 1, _FEW),
    case(10, 4, 1, ((3, 1),), 1, _FEW),
    # stride beyond the kernel: pixels that touch no output
    case((9, 11), 1, (3, 2), 0, 1, _FEW),
    case((11, 13), (2, 1), (5, 3), 1, 1, _FEW, n=3),
    case(29, 2, 7, 0, 1, _MANY),
    # a long kernel of single channels
    case(230, 49, 1, 24, 1, (5, 1, 1), n=2),
    # dilation, also with stride, and taps that only ever see padding
    case((13, 11), 3, 1, 4, 4, _FEW),
    case((12, 10), 3, 2, (2, 3), (2, 3), _FEW),
    case((5, 4), 3, 1, 6, 6, _FEW),
    case(40, 5, 3, 8, 4, _FEW),
    # a kernel that is larger than the image, once padded as large as it or larger
    case((3, 2), (5, 4), 1, (1, 1), 1, _FEW),
    case((2, 3), 7, 1, 5, 1, _FEW),
    case((2, 2, 2), 5, 1, 2, 1, (1, 2, 3)),
    case(3, 9, 1, 6, 1, (3, 2, 4)),
    # one pixel; 1x1
    case((1, 1), 1, 1, 0, 1, (1, 40, 33)),
    case((1, 1), 3, 1, 1, 1, (1, 9, 7), n=3),
    case((1, 1), 1, 2, 1, 1, _FEW),
    case(1, 1, 1, 0, 1, (4, 1, 1)),
    case((1, 1, 1), 3, 2, 1, 1, (1, 3, 2)),
    case((13, 11), 1, 1, 0, 1, (3, 10, 20)),
    case((5, 7), 1, 1, 2, 1, _FEW),
    # groups, depthwise, channel multiplier
    case((9, 7), 3, 1, 1, 1, (4, 4, 4), n=3),
    case((9, 7), 5, 1, 2, 1, (11, 1, 1)),
    case((9, 7), 3, 2, 1, 1, (6, 1, 3)),
    case((9, 7), 3, 1, 1, 1, (2, 8, 1)),
    # long sums: more than one block of the inner dimension
    case((5, 7), 3, 1, 1, 1, (1, 131, 9)),
    case((5, 6), (13, 11), 1, (6, 5), 1, (1, 3, 9)),
    case((37, 41), 3, 1, 1, 1, (1, 5, 8), n=3),
    # batches; empty ones too
    case((5, 7), 3, 1, 1, 1, _FEW, n=0),
    case(9, 3, 2, 0, 2, _FEW, n=0, bias=False),
    case((2, 3, 5), 1, 1, 0, 1, _MANY, n=3),
]

_SIZES = {
    1: [1, 2, 5, 13, 16, 31, 48, 101, 193],
    2: [(1, 1), (5, 7), (13, 11), (7, 7), (3, 16), (17, 3), (1, 47), (23, 19), (16, 16), (2, 29)],
    3: [(3, 5, 7), (1, 6, 5), (4, 4, 4), (2, 7, 11), (5, 3, 17), (3, 1, 1)],
}
_KERNELS = {
    1: [1, 2, 3, 4, 5, 7, 9],
    2: [(1, 1), (3, 3), (2, 2), (3, 5), (5, 1), (1, 7), (4, 3), (7, 7)],
    3: [(1, 1, 1), (3, 3, 3), (2, 2, 2), (1, 3, 3), (3, 1, 2), (2, 3, 4)],
}
# Kernels are compiled for each register tile and column step: few of them in each rank keep the suite quick, EDGES have
# the rest.
_STRIDES = {1: (1, 1, 1, 3, 5), 2: (1, 1, 1, 2), 3: (1, 1, 2, 3)}
_CHANNELS = {
    1: [(1, 3, 8), (1, 8, 9), (1, 16, 15), (1, 40, 33), (2, 8, 10), (3, 9, 8), (13, 1, 1), (5, 1, 1)],
    2: [(1, 1, 1), (1, 7, 4), (1, 4, 7), (1, 17, 5), (2, 4, 6), (3, 5, 4), (4, 1, 1), (13, 1, 1), (5, 4, 1), (6, 1, 4)],
    3: [(1, 3, 8), (1, 8, 9), (1, 16, 15), (1, 17, 12), (2, 8, 8), (3, 8, 1)],
}
_COUNTS = {1: 22, 2: 44, 3: 22}


def _sample():
    draw, chosen = random.Random(1998), {}
    for ndim, count in _COUNTS.items():
        wanted = len(chosen) + count
        while len(chosen) < wanted:
            stride = [draw.choice(_STRIDES[ndim]) for _ in range(ndim)]
            pairs = tuple((draw.randrange(3), draw.randrange(4)) for _ in range(ndim))
            padding = draw.choice((0, 1, tuple(draw.randrange(4) for _ in range(ndim)), pairs, "same", "valid"))
            dilation = [draw.choice((1, 1, 1, 2, 3)) for _ in range(ndim)]
            new = case(
                *(draw.choice(_SIZES[ndim]), draw.choice(_KERNELS[ndim]), tuple(stride), padding, tuple(dilation)),
                *(draw.choice(_CHANNELS[ndim]), draw.choice((1, 1, 3)), draw.random() < 0.7),
            )
            if min(new.out) >= 1 and new.macs < 4e6:
                chosen[str(new)] = new
    return list(chosen.values())


FULL = EDGES + _sample()


def _scaled(layer, most=16_000_000):
    """A convolution row of the benchmarks as a case of at most so many multiply-adds: image first, then channels."""
    spans = [d * (k - 1) for k, d in zip(layer.kernel, layer.dilation, strict=True)]
    size, ic, oc, groups = layer.size, layer.in_channels, layer.out_channels, layer.groups
    if layer.kind == "conv_transpose":  # the convolution whose data gradient it is
        size, ic, oc = layer.out_size, layer.out_channels, layer.in_channels
    icg, ocg, n = ic // groups, oc // groups, layer.batch
    while True:
        new = ConvCase(size, layer.kernel, layer.stride, layer.padding, layer.dilation, groups, icg, ocg, n, bias=False)
        if new.macs <= most:
            return new
        if n > 3:
            n = 3
        elif max(size) > max(28, *spans):
            size = tuple(-(-i // 2) if i > max(7, span) else i for i, span in zip(size, spans, strict=True))
        elif groups > 4:
            groups = -(-groups // 2)
        else:
            icg, ocg = -(-icg // 2), -(-ocg // 2)


_CONVOLUTIONS = [layer for layer in layers.read() if layer.kind in ("conv", "conv_transpose")]
NETWORK = list({str(new): new for new in map(_scaled, _CONVOLUTIONS)}.values())
