"""Normalisation layers: arguments, state_dict keys and repr of torch.nn."""

import warnings

import numpy as np

from .. import functional as F
from ..ops.norm import clamped_batch_norm
from . import init
from .module import Module, Parameter


class _Tracking(Module):
    """Parameters weight, bias (C); buffers running_mean, running_var (C), num_batches_tracked; None if not wanted."""

    _ranks: tuple[int, ...]

    def __init__(self, num_features, eps, momentum, affine, track_running_stats, bias, dtype):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        dtype = dtype or np.float32
        self.register_parameter("weight", Parameter(np.ones(num_features, dtype)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(num_features, dtype)) if affine and bias else None)
        self.register_buffer("running_mean", np.zeros(num_features, dtype) if track_running_stats else None)
        self.register_buffer("running_var", np.ones(num_features, dtype) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", np.zeros((), np.int64) if track_running_stats else None)

    def reset_running_stats(self):
        """Running mean 0, variance 1, no batch seen."""
        if self.track_running_stats:
            self.running_mean[...], self.running_var[...], self.num_batches_tracked[...] = 0, 1, 0

    def reset_parameters(self):
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def _check_rank(self, input):
        if input.ndim not in self._ranks:
            wanted = " or ".join(f"{r}-dimensional" for r in self._ranks)
            raise ValueError(f"{type(self).__name__}: wants {wanted} input, got shape {input.shape}")

    def extra_repr(self):
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Tracking):
    """momentum None keeps the plain average over all batches instead of a moving one."""

    def __init__(
        self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, *, bias=True, dtype=None
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, input):
        self._check_rank(input)
        running, own = (self._buffers["running_mean"], self._buffers["running_var"]), self._parameters
        batch_statistics = self.training or running[0] is None
        factor = self._count()
        return F.batch_norm(input, *running, own["weight"], own["bias"], batch_statistics, factor, self.eps)

    def clamped(self, input, high):
        """`forward` in training with the ReLU (high: NaN) or ReLU6 (high: 6) that follows it, in one pass."""
        self._check_rank(input)
        running, own = self._buffers, self._parameters  # attributes that are found last take a microsecond each
        arrays = running["running_mean"], running["running_var"], own["weight"], own["bias"]
        return clamped_batch_norm(input, *arrays, self._count(), self.eps, high)

    def _count(self):
        """The weight of this batch in the running statistics; in training it is counted."""
        factor, count = self.momentum, self._buffers["num_batches_tracked"]
        if self.training and count is not None:
            count[...] += 1
            factor = 1.0 / int(count) if factor is None else factor
        return factor or 0.0


class BatchNorm1d(_BatchNorm):
    """(N, C) or (N, C, L)."""

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """(N, C, H, W)."""

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """(N, C, D, H, W)."""

    _ranks = (5,)


class _InstanceNorm(_Tracking):
    """Statistics of each image, or with track_running_stats in evaluation the running ones."""

    def __init__(
        self, num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False, *, bias=True, dtype=None
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias, dtype)

    def forward(self, input):
        self._check_rank(input)
        channels = input.shape[-self._ranks[0]]
        if channels != self.num_features:
            text = f"{type(self).__name__}: num_features is {self.num_features}, input {input.shape} has {channels}"
            if self.affine:
                raise ValueError(text)
            warnings.warn(f"{text}; of no consequence without affine", UserWarning, stacklevel=2)
        batched = input.ndim > self._ranks[0]
        out = F.instance_norm(
            input if batched else input.reshape(1, *input.shape),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum or 0.0,
            self.eps,
        )
        return out if batched else out.reshape(input.shape)


class InstanceNorm1d(_InstanceNorm):
    """(N, C, L) or (C, L)."""

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """(N, C, H, W) or (C, H, W)."""

    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """(N, C, D, H, W) or (C, D, H, W)."""

    _ranks = (4, 5)


class GroupNorm(Module):
    """(N, C, *); weight, bias (C)."""

    def __init__(self, num_groups, num_channels, eps=1e-5, affine=True, *, bias=True, dtype=None):
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups must divide num_channels {num_channels}, got {num_groups}")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        dtype = dtype or np.float32
        self.register_parameter("weight", Parameter(np.ones(num_channels, dtype)) if affine else None)
        self.register_parameter("bias", Parameter(np.zeros(num_channels, dtype)) if affine and bias else None)

    def reset_parameters(self):
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input):
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self):
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LayerNorm(Module):
    """(*, *normalized_shape); weight, bias of normalized_shape, which may be one number."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, bias=True, *, dtype=None):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        dtype = dtype or np.float32
        self.register_parameter("weight", Parameter(np.ones(shape, dtype)) if elementwise_affine else None)
        self.register_parameter("bias", Parameter(np.zeros(shape, dtype)) if elementwise_affine and bias else None)

    def reset_parameters(self):
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self):
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """(N, C, *), across `size` neighbouring channels."""

    def __init__(self, size, alpha=1e-4, beta=0.75, k=1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input):
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self):
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
