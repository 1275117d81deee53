"""Convolution layers: arguments, state_dict keys, initialisation and repr of torch.nn."""

import math
from typing import Any

import numpy as np

from .. import functional as F
from ..autograd import is_grad_enabled
from ..ops.conv import PackedWeights, conv_nd
from . import init
from .module import Module, Parameter

_MODES = ("zeros", "reflect", "replicate", "circular")


def _tuple(name, value, dims):
    """`value` once per dimension, as ints."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims
    if len(values) != dims:
        raise ValueError(f"{name} must be one number or {dims}, got {value!r}")
    return tuple(int(v) for v in values)


class _ConvNd(Module):
    """weight (out_channels, in_channels / groups, *kernel_size), bias (out_channels) or None."""

    _dims: int
    _keeper = PackedWeights

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups=1,
        bias=True,
        padding_mode="zeros",
        *,
        dtype=None,
    ):
        super().__init__()
        name, dims = type(self).__name__, self._dims
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: groups must be positive and divide the channels, "
                f"got groups {groups}, in_channels {in_channels}, out_channels {out_channels}"
            )
        if padding_mode not in _MODES:
            raise ValueError(f"{name}: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _tuple(f"{name}: kernel_size", kernel_size, dims)
        self.stride = _tuple(f"{name}: stride", stride, dims)
        self.dilation = _tuple(f"{name}: dilation", dilation, dims)
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{name}: padding must be numbers, 'same' or 'valid', got {padding!r}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError(f"{name}: padding 'same' needs stride 1, got {self.stride}")
            self.padding = padding
        else:
            self.padding = _tuple(f"{name}: padding", padding, dims)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = Parameter(np.empty(shape, dtype or np.float32))
        self.register_parameter("bias", Parameter(np.empty(out_channels, dtype or np.float32)) if bias else None)
        self._kept = self._keeper()
        self.reset_parameters()

    def reset_parameters(self):
        """Uniform in ±1 / sqrt(fan_in), weight and bias: torch's default."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = math.prod(self.weight.shape[1:])
        if self.bias is not None and fan_in:
            init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(self, input):
        if self.padding_mode == "zeros":
            return self._conv(input, self.padding)
        return self._conv(F.pad(input, self._border(), self.padding_mode), 0)

    def _conv(self, x, padding):
        """The convolution itself: the one place where the layer meets the op.  In evaluation, without gradients, the
        layer keeps its weights packed."""
        conv = conv_nd if self.training or is_grad_enabled() else self._kept.conv
        arguments = x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        return conv(f"conv{self._dims}d", self._dims, *arguments)

    def _border(self):
        """Padding as `F.pad` takes it: before and after, last axis first."""
        if self.padding == "valid":
            return (0, 0) * self._dims
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(t // 2, t - t // 2) for t in total]
        else:
            pairs = [(p, p) for p in self.padding]
        return tuple(p for pair in reversed(pairs) for p in pair)

    def extra_repr(self):
        ones, zeros = (1,) * self._dims, (0,) * self._dims
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding != zeros:
            parts.append(f"padding={self.padding}")
        if self.dilation != ones:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class Conv1d(_ConvNd):
    """(N, C, L) or (C, L)."""

    _dims = 1


class Conv2d(_ConvNd):
    """(N, C, H, W) or (C, H, W)."""

    _dims = 2


class Conv3d(_ConvNd):
    """(N, C, D, H, W) or (C, D, H, W)."""

    _dims = 3
