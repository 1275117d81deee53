"""Batch normalisation layers: arguments, state_dict keys and repr of torch.nn."""

import numpy as np

from .. import functional as F
from . import init
from .module import Module, Parameter


class _BatchNorm(Module):
    """Parameters weight, bias (C); buffers running_mean, running_var (C), num_batches_tracked.

    momentum None keeps the plain average over all batches instead of a moving one.
    """

    _ranks: tuple[int, ...]

    def __init__(
        self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, *, bias=True, dtype=None
    ):
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

    def forward(self, input):
        if input.ndim not in self._ranks:
            wanted = " or ".join(f"{r}-dimensional" for r in self._ranks)
            raise ValueError(f"{type(self).__name__}: wants {wanted} input, got shape {input.shape}")
        batch_statistics = self.training or self.running_mean is None
        update = self.training and self.running_mean is not None
        factor = self.momentum
        if update:
            self.num_batches_tracked[...] += 1
            factor = 1.0 / int(self.num_batches_tracked) if factor is None else factor
        keep = update or not batch_statistics
        return F.batch_norm(
            input,
            self.running_mean if keep else None,
            self.running_var if keep else None,
            self.weight,
            self.bias,
            batch_statistics,
            factor or 0.0,
            self.eps,
        )

    def extra_repr(self):
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """(N, C) or (N, C, L)."""

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """(N, C, H, W)."""

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """(N, C, D, H, W)."""

    _ranks = (5,)
