"""Deformable convolution layers."""

from typing import Any

import numpy as np

from .. import functional as F
from . import init
from .conv import Conv2d
from .module import Module, Parameter


class DeformConv2d(Conv2d):
    """torchvision.ops.DeformConv2d: called as layer(input, offset, mask=None).

    input (N, C, H, W), offset (N, 2 * offset groups * kh * kw, oh, ow), mask (N, offset groups * kh * kw, oh, ow).
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, dtype=None
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype=dtype)

    def forward(self, input, offset, mask=None):
        return F.deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask=mask
        )


class DeformConv2dPack(Conv2d):
    """Deformable convolution that predicts its own offsets, and with `modulated` its mask, by a convolution beside it.

    That convolution, `offset_conv`, begins as zero: the layer begins as a convolution (v2: with mask sigmoid(0) = 1/2;
    arXiv 1811.11168, section 3.2).  Its parameters: (2 or 3) * offset_groups * kh*kw * (in_channels * kh*kw + 1).
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        bias=True,
        offset_groups=1,
        modulated=True,
        dtype=None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype=dtype)
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(
                f"DeformConv2dPack: offset_groups must divide the input channels, got {offset_groups} for {in_channels}"
            )
        self.offset_groups, self.modulated = offset_groups, modulated
        maps = (3 if modulated else 2) * offset_groups * self.kernel_size[0] * self.kernel_size[1]
        self.offset_conv = Conv2d(in_channels, maps, self.kernel_size, stride, padding, dilation, dtype=dtype)
        init.zeros_(self.offset_conv.weight)
        init.zeros_(self.offset_conv.bias)

    def forward(self, input):
        maps, mask, axis = self.offset_conv(input), None, np.ndim(input) - 3
        if self.modulated:
            taps = self.offset_groups * self.kernel_size[0] * self.kernel_size[1]
            maps, mask = F.split(maps, [2 * taps, taps], axis)
            mask = F.sigmoid(mask)
        return F.deform_conv2d(input, maps, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


class ActiveConv2d(Conv2d):
    """Convolution with one learned displacement a tap (Jeon and Kim 2017, arXiv 1703.09076).

    Parameters: a convolution's and 2 * kh * kw; `position` begins as zero, which is a convolution.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=True, dtype=None
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype=dtype)
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.position = Parameter(np.zeros((taps, 2), dtype or np.float32))

    def forward(self, input):
        settings: Any = (self.stride, self.padding, self.dilation)
        return F.active_conv2d(input, self.weight, self.position, self.bias, *settings)


class DeformAggregate2d(Module):
    """The operator of DCNv4 (Xiong et al. 2024, arXiv 2401.06197): values, offsets and unbounded masks from 1x1 layers.

    (N, C, H, W) -> the same.  Parameters: 2 * C * (C + 1) + 3 * C / group_channels * taps * (C + 1), taps = k * k, one
    less with remove_center.
    """

    def __init__(
        self, channels, kernel_size=3, padding=1, dilation=1, group_channels=16, offset_scale=1.0, remove_center=False
    ):
        super().__init__()
        if group_channels < 1 or channels % group_channels:
            raise ValueError(
                f"DeformAggregate2d: group_channels must divide the channels, got {group_channels} for {channels}"
            )
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.offset_scale, self.remove_center = offset_scale, remove_center
        self.maps = channels // group_channels * (kernel_size**2 - int(remove_center))
        self.value_proj = Conv2d(channels, channels, 1)
        self.offset_mask = Conv2d(channels, 3 * self.maps, 1)
        self.output_proj = Conv2d(channels, channels, 1)
        init.zeros_(self.offset_mask.weight)
        init.zeros_(self.offset_mask.bias)

    def forward(self, input):
        maps = self.offset_mask(input)
        offset, mask = F.split(maps, [2 * self.maps, self.maps], np.ndim(input) - 3)
        y = F.deform_aggregate2d(
            self.value_proj(input),
            offset,
            mask,
            self.kernel_size,
            1,
            self.padding,
            self.dilation,
            self.offset_scale,
            self.remove_center,
        )
        return self.output_proj(y)
