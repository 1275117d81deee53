"""Stochastic pooling: in training one value of each window, drawn with probability p_i = a_i / sum of a; else its mean.

a = max(x, 0).  Training: y = a at the drawn tap, and the gradient goes there alone.  Else y = sum of p a, the expected
value.  A window without a positive value gives 0.  Input (n, c, *size) or (c, *size), float32 or float64 -> output
(n, c, *out) or (c, *out).  Source: Zeiler and Fergus, "Stochastic pooling for regularization of deep convolutional
neural networks", 2013, arXiv 1301.3557, equations 4 to 6.
"""

from .. import _memory, prepared
from .._random import generator
from ..autograd.op import Op, value
from ..kernels import stochastic_pool as kernels  # noqa: F401  (it registers its implementations)
from ..packing import dense
from ..pool_specs import pool_spec
from .checks import array
from .pool import MaxPoolBackward
from .soft_pool import WeightedPool


class StochasticPool(Op):
    """y, or (y, at) with the int64 positions of what was drawn, -1 where nothing was."""

    name = "stochastic_pool"

    @staticmethod
    def forward(ctx, x, u, spec, return_indices):
        ctx.spec = spec.with_indices
        shape = spec.y_shape if x.ndim == spec.ndim + 2 else spec.y_shape[1:]
        y, at = _memory.empty(shape, spec.dtype), _memory.empty(shape, "int64")
        buffers = {"x": dense(x), "u": dense(u), "y": y, "at": at}
        prepared.run("stochastic_pool.fwd", spec, buffers)
        ctx.save(at)
        return (y, at) if return_indices else y

    @staticmethod
    def backward(ctx, gy, _=None):
        (at,) = ctx.saved
        return MaxPoolBackward.apply(gy, at, ctx.spec), None, None, None


def _samples(op, samples, shape, dtype):
    if samples is None:
        return generator().random(shape, dtype)
    samples = value(array(op, "_random_samples", samples))
    if samples.dtype != dtype:
        raise TypeError(f"{op}: _random_samples must have the input's dtype {dtype}, given {samples.dtype}")
    if samples.shape != shape:
        raise ValueError(f"{op}: _random_samples must have the output's shape {shape}, given {samples.shape}")
    if samples.size and not (samples.min() >= 0 and samples.max() <= 1):
        raise ValueError(
            f"{op}: _random_samples must be from 0 to 1, given values from {samples.min()} to {samples.max()}"
        )
    return samples


def _stochastic(ndim, x, kernel_size, stride, ceil_mode, training, return_indices, samples):
    op = f"stochastic_pool{ndim}d"
    for name, flag in (("training", training), ("return_indices", return_indices)):
        if not isinstance(flag, bool):
            raise TypeError(f"{op}: {name} must be True or False, given {flag!r}")
    spec = pool_spec(op, ndim, array(op, "input", x).shape, kernel_size, stride, 0, 1, ceil_mode, x.dtype)
    if not training:
        if return_indices or samples is not None:
            raise ValueError(f"{op}: return_indices and _random_samples need training=True, given training=False")
        return WeightedPool.apply(x, spec, "stochastic_pool_mean")
    shape = spec.y_shape if x.ndim == ndim + 2 else spec.y_shape[1:]
    return StochasticPool.apply(x, _samples(op, samples, shape, spec.dtype), spec, return_indices)


def stochastic_pool1d(
    input, kernel_size, stride=None, ceil_mode=False, training=False, return_indices=False, _random_samples=None
):
    """A randomly drawn value of each window, or the expected one; see `stochastic_pool2d`.  Input (n, c, l) or
    (c, l)."""
    return _stochastic(1, input, kernel_size, stride, ceil_mode, training, return_indices, _random_samples)


def stochastic_pool2d(
    input, kernel_size, stride=None, ceil_mode=False, training=False, return_indices=False, _random_samples=None
):
    """A randomly drawn value of each window (training), or the expected one.

    Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).  Negative values count as 0.
    kernel_size, stride (default: kernel_size): a number or one per dimension.
    ceil_mode: a last window that hangs over the end is kept.
    return_indices (training only): also the int64 position of what was drawn, flat; -1 where nothing is positive.
    _random_samples (training only): numbers from 0 to 1 of the output's shape in the input's dtype, instead of random
    ones (`fastconv.manual_seed`).
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _stochastic(2, input, kernel_size, stride, ceil_mode, training, return_indices, _random_samples)


def stochastic_pool3d(
    input, kernel_size, stride=None, ceil_mode=False, training=False, return_indices=False, _random_samples=None
):
    """A randomly drawn value of each window, or the expected one; see `stochastic_pool2d`.  Input (n, c, d, h, w) or
    (c, d, h, w)."""
    return _stochastic(3, input, kernel_size, stride, ceil_mode, training, return_indices, _random_samples)
