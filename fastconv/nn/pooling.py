"""Pooling layers: arguments and repr of torch.nn."""

from typing import Any

from .. import functional as F
from .module import Module


class _MaxPool(Module):
    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def _args(self):
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self):
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    def forward(self, input):
        return F.max_pool1d(input, *self._args())


class MaxPool2d(_MaxPool):
    def forward(self, input):
        return F.max_pool2d(input, *self._args())


class MaxPool3d(_MaxPool):
    def forward(self, input):
        return F.max_pool3d(input, *self._args())


class _AvgPool(Module):
    def __init__(
        self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def _args(self):
        return self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        given = self.kernel_size, self.stride, self.padding
        self.kernel_size, self.stride, self.padding = (v if isinstance(v, (tuple, list)) else (v,) for v in given)

    def forward(self, input):
        return F.avg_pool1d(input, *self._args())


class AvgPool2d(_AvgPool):
    def forward(self, input):
        return F.avg_pool2d(input, *self._args(), self.divisor_override)


class AvgPool3d(_AvgPool):
    def forward(self, input):
        return F.avg_pool3d(input, *self._args(), self.divisor_override)


class _AdaptiveAvgPool(Module):
    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def extra_repr(self):
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    def forward(self, input):
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    def forward(self, input):
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    def forward(self, input):
        return F.adaptive_avg_pool3d(input, self.output_size)


class _AdaptiveMaxPool(Module):
    def __init__(self, output_size, return_indices=False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def extra_repr(self):
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    def forward(self, input):
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    def forward(self, input):
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    def forward(self, input):
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class _LPPool(Module):
    def __init__(self, norm_type, kernel_size, stride=None, ceil_mode=False):
        super().__init__()
        self.norm_type, self.kernel_size = norm_type, kernel_size
        self.stride, self.ceil_mode = stride, ceil_mode

    def _args(self):
        return self.norm_type, self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self):
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    def forward(self, input):
        return F.lp_pool1d(input, *self._args())


class LPPool2d(_LPPool):
    def forward(self, input):
        return F.lp_pool2d(input, *self._args())


class LPPool3d(_LPPool):
    def forward(self, input):
        return F.lp_pool3d(input, *self._args())


def _each(value, ndim):
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * ndim


class _MaxUnpool(Module):
    ndim = 0

    def __init__(self, kernel_size, stride=None, padding=0):
        super().__init__()
        self.kernel_size = _each(kernel_size, self.ndim)
        self.stride = _each(kernel_size if stride is None else stride, self.ndim)
        self.padding = _each(padding, self.ndim)

    def _args(self) -> Any:
        return self.kernel_size, self.stride, self.padding

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    ndim = 1

    def forward(self, input, indices, output_size=None):
        return F.max_unpool1d(input, indices, *self._args(), output_size=output_size)


class MaxUnpool2d(_MaxUnpool):
    ndim = 2

    def forward(self, input, indices, output_size=None):
        return F.max_unpool2d(input, indices, *self._args(), output_size=output_size)


class MaxUnpool3d(_MaxUnpool):
    ndim = 3

    def forward(self, input, indices, output_size=None):
        return F.max_unpool3d(input, indices, *self._args(), output_size=output_size)


class _FractionalMaxPool(Module):
    ndim = 0

    def __init__(self, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = _each(kernel_size, self.ndim)
        if min(self.kernel_size) <= 0:
            raise ValueError(f"{name}: kernel_size must be at least 1, given {kernel_size}")
        if (output_size is None) == (output_ratio is None):
            raise ValueError(
                f"{name}: wants either output_size or output_ratio, given {output_size} and {output_ratio}"
            )
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else _each(output_size, self.ndim)
        self.output_ratio = None if output_ratio is None else _each(output_ratio, self.ndim)
        if self.output_ratio is not None and not all(0 < ratio < 1 for ratio in self.output_ratio):
            raise ValueError(f"{name}: output_ratio must be between 0 and 1, given {output_ratio}")

    def _args(self):
        return self.kernel_size, self.output_size, self.output_ratio, self.return_indices, self._random_samples


class FractionalMaxPool2d(_FractionalMaxPool):
    ndim = 2

    def forward(self, input):
        return F.fractional_max_pool2d(input, *self._args())


class FractionalMaxPool3d(_FractionalMaxPool):
    ndim = 3

    def forward(self, input):
        return F.fractional_max_pool3d(input, *self._args())
