"""Transposed convolution layers: arguments, state_dict keys, initialisation and repr of torch.nn."""

import numpy as np

from ..autograd import is_grad_enabled
from ..ops.conv_transpose import PackedTransposed, conv_transpose_nd
from .conv import _ConvNd, _tuple
from .module import Parameter


class _ConvTransposeNd(_ConvNd):
    """weight (in_channels, out_channels / groups, *kernel_size), bias (out_channels) or None."""

    _keeper = PackedTransposed

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        output_padding=0,
        groups=1,
        bias=True,
        dilation=1,
        padding_mode="zeros",
        dtype=None,
    ):
        name, dims = type(self).__name__, self._dims
        if padding_mode != "zeros":
            raise ValueError(f'{name}: padding_mode must be "zeros", got {padding_mode!r}')
        if isinstance(padding, str):
            raise TypeError(f"{name}: padding must be a whole number or a tuple of {dims}, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype=dtype)
        self.output_padding = _tuple(f"{name}: output_padding", output_padding, dims)

    def reset_parameters(self):
        """Uniform in ±1 / sqrt(out_channels / groups * taps), weight and bias: torch's default."""
        shape = (self.in_channels, self.out_channels // self.groups, *self.kernel_size)
        if self.weight.shape != shape:
            self.weight = Parameter(np.empty(shape, self.weight.dtype))
        super().reset_parameters()

    def forward(self, input, output_size=None):
        """output_size: the wanted spatial sizes, with or without batch and channels; it sets the output padding."""
        extra = self.output_padding if output_size is None else self._extra(input.shape, tuple(output_size))
        conv = conv_transpose_nd if self.training or is_grad_enabled() else self._kept.conv
        arguments = input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        return conv(f"conv_transpose{self._dims}d", self._dims, *arguments)

    def _extra(self, shape, wanted):
        name, dims = type(self).__name__, self._dims
        if len(wanted) == len(shape) and len(shape) > dims:
            wanted = wanted[-dims:]
        if len(wanted) != dims:
            raise ValueError(f"{name}: output_size must have {dims} or {len(shape)} values, got {wanted}")
        settings = zip(shape[-dims:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = [(i - 1) * s - 2 * p + d * (k - 1) + 1 for i, s, p, d, k in settings]
        most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
        if any(not low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"{name}: output_size {wanted} must be from {tuple(least)} to {tuple(most)} for input {tuple(shape)}"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))

    def extra_repr(self):
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        zeros, ones = (0,) * self._dims, (1,) * self._dims
        for name, default in (("padding", zeros), ("dilation", ones), ("output_padding", zeros), ("groups", 1)):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts + (["bias=False"] if self.bias is None else []))


class ConvTranspose1d(_ConvTransposeNd):
    """(N, C, L) or (C, L)."""

    _dims = 1


class ConvTranspose2d(_ConvTransposeNd):
    """(N, C, H, W) or (C, H, W)."""

    _dims = 2


class ConvTranspose3d(_ConvTransposeNd):
    """(N, C, D, H, W) or (C, D, H, W)."""

    _dims = 3
