"""Pooling layers that torch.nn does not have; RoI layers have the arguments and repr of torchvision.ops."""

import numpy as np

from .. import functional as F
from .module import Module, Parameter


class _Windows(Module):
    """kernel_size, stride (default: kernel_size) and ceil_mode."""

    def __init__(self, kernel_size, stride=None, ceil_mode=False):
        super().__init__()
        self.kernel_size, self.ceil_mode = kernel_size, ceil_mode
        self.stride = kernel_size if stride is None else stride

    def _args(self):
        return self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, ceil_mode={self.ceil_mode}"


class SoftPool1d(_Windows):
    def forward(self, input):
        return F.soft_pool1d(input, *self._args())


class SoftPool2d(_Windows):
    """Mean of windows, weighted by e^x (Stergiou et al. 2021)."""

    def forward(self, input):
        return F.soft_pool2d(input, *self._args())


class SoftPool3d(_Windows):
    def forward(self, input):
        return F.soft_pool3d(input, *self._args())


class StochasticPool1d(_Windows):
    def forward(self, input):
        return F.stochastic_pool1d(input, *self._args(), self.training)


class StochasticPool2d(_Windows):
    """A random value of each window in training, the expected one in evaluation (Zeiler and Fergus 2013)."""

    def forward(self, input):
        return F.stochastic_pool2d(input, *self._args(), self.training)


class StochasticPool3d(_Windows):
    def forward(self, input):
        return F.stochastic_pool3d(input, *self._args(), self.training)


class _MixedPool(Module):
    """`alpha`: one learned number, or with `channels` one for each of them; 1/2 at first."""

    def __init__(
        self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, channels=None, alpha=0.5
    ):
        super().__init__()
        self.kernel_size, self.padding, self.ceil_mode = kernel_size, padding, ceil_mode
        self.stride, self.count_include_pad = kernel_size if stride is None else stride, count_include_pad
        self.alpha = Parameter(np.full(1 if channels is None else channels, alpha, np.float32))

    def _args(self):
        return self.alpha, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MixedPool1d(_MixedPool):
    def forward(self, input):
        return F.mixed_pool1d(input, *self._args())


class MixedPool2d(_MixedPool):
    """alpha max + (1 - alpha) mean of windows (Lee et al. 2016)."""

    def forward(self, input):
        return F.mixed_pool2d(input, *self._args())


class MixedPool3d(_MixedPool):
    def forward(self, input):
        return F.mixed_pool3d(input, *self._args())


class _GatedPool(Module):
    """`weight` of the gate: as large as the window, one for each of `channels` or one for all; 0 at first."""

    ndim = 0

    def __init__(self, kernel_size, stride=None, padding=0, count_include_pad=True, channels=None):
        super().__init__()
        kernel = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size,) * self.ndim
        self.stride, self.padding, self.count_include_pad = stride, padding, count_include_pad
        self.weight = Parameter(np.zeros(kernel if channels is None else (channels, *kernel), np.float32))

    def _args(self):
        return self.weight, self.stride, self.padding, self.count_include_pad

    def extra_repr(self):
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}"


class GatedPool1d(_GatedPool):
    ndim = 1

    def forward(self, input):
        return F.gated_pool1d(input, *self._args())


class GatedPool2d(_GatedPool):
    """g max + (1 - g) mean of windows, g a learned gate that sees the window (Lee et al. 2016)."""

    ndim = 2

    def forward(self, input):
        return F.gated_pool2d(input, *self._args())


class GatedPool3d(_GatedPool):
    ndim = 3

    def forward(self, input):
        return F.gated_pool3d(input, *self._args())


class _BlurPool(Module):
    def __init__(self, kernel_size=3, stride=2, padding_mode="reflect"):
        super().__init__()
        self.kernel_size, self.stride, self.padding_mode = kernel_size, stride, padding_mode

    def _args(self):
        return self.kernel_size, self.stride, self.padding_mode

    def extra_repr(self):
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding_mode={self.padding_mode!r}"


class BlurPool1d(_BlurPool):
    def forward(self, input):
        return F.blur_pool1d(input, *self._args())


class BlurPool2d(_BlurPool):
    """Binomial filter and downsampling (Zhang 2019)."""

    def forward(self, input):
        return F.blur_pool2d(input, *self._args())


class BlurPool3d(_BlurPool):
    def forward(self, input):
        return F.blur_pool3d(input, *self._args())


class MaxBlurPool2d(Module):
    """Maximum with stride 1, then binomial filter and downsampling (Zhang 2019)."""

    def __init__(self, kernel_size=2, stride=2, padding=0, filter_size=3, padding_mode="reflect"):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.filter_size, self.padding_mode = filter_size, padding_mode

    def forward(self, input):
        window = self.kernel_size, self.stride, self.padding
        return F.max_blur_pool2d(input, *window, self.filter_size, self.padding_mode)

    def extra_repr(self):
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"filter_size={self.filter_size}, padding_mode={self.padding_mode!r}"
        )


class SpatialPyramidPool2d(Module):
    """Adaptive poolings of several sizes in one vector (He et al. 2014)."""

    def __init__(self, levels=(4, 2, 1), mode="max"):
        super().__init__()
        self.levels, self.mode = levels, mode

    def forward(self, input):
        return F.spatial_pyramid_pool2d(input, self.levels, self.mode)

    def extra_repr(self):
        return f"levels={self.levels}, mode={self.mode!r}"


class RoIPool(Module):
    """`roi_pool` as a layer: called with the input and the boxes."""

    def __init__(self, output_size, spatial_scale):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale

    def forward(self, input, rois):
        return F.roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self):
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class RoIAlign(Module):
    """`roi_align` as a layer: called with the input and the boxes."""

    def __init__(self, output_size, spatial_scale, sampling_ratio, aligned=False):
        super().__init__()
        self.output_size, self.spatial_scale = output_size, spatial_scale
        self.sampling_ratio, self.aligned = sampling_ratio, aligned

    def forward(self, input, rois):
        return F.roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self):
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )
