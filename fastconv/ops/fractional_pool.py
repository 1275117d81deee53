"""Fractional maximum pooling in 2 and 3 dimensions, as in torch.nn.functional.

Input (n, c, *size) or (c, *size), float32 or float64 -> output (n, c, *out) or (c, *out).  O windows of size K along a
size I begin at floor((i + u) a) - floor(u a), a = (I - K)/(O - 1), the last one at I - K; u is a random number from 0
to 1, one per image, channel and dimension.  Source: Graham, "Fractional max-pooling", 2014, arXiv 1412.6071, section 2.
"""

from numbers import Real

import numpy as np

from .. import _memory, prepared
from .._random import generator
from ..autograd.op import Op, value
from ..kernels import fractional_pool as kernels  # noqa: F401  (it registers its implementations)
from ..packing import dense
from ..pool_specs import fractional_spec
from .checks import array
from .pool import MaxPoolBackward


def _places(samples, size, kernel, out):
    """The first position of each window, (planes, out), for samples (planes,) in the input's dtype, as torch rounds.

    Samples outside 0 to 1 are as good, since only the differences of the floors count.
    """
    real = samples.dtype.type
    places = np.full((len(samples), out), size - kernel, np.int64)
    if out > 1:
        step = real(size - kernel) / real(out - 1)
        u = samples[:, None]
        places[:, :-1] = ((np.arange(out - 1, dtype=real) + u) * step).astype(np.int64) - (u * step).astype(np.int64)
    return np.clip(places, 0, size - kernel)


class FractionalMaxPool(Op):
    """y, or (y, at) with the int64 positions of the maxima in their planes; places: the windows of each dimension."""

    name = "fractional_max_pool"

    @staticmethod
    def forward(ctx, x, places, spec, return_indices):
        batched = x.ndim == spec.ndim + 2
        shape = spec.y_shape if batched else spec.y_shape[1:]
        buffers = {"x": dense(x), "y": _memory.empty(shape, spec.dtype), **places}
        if return_indices or ctx.needs[0]:
            spec = spec.with_indices
            buffers["at"] = _memory.empty(shape, "int64")
            ctx.save(buffers["at"])
        ctx.spec = spec
        prepared.run("fractional_max_pool.fwd", spec, buffers)
        return (buffers["y"], buffers["at"]) if return_indices else buffers["y"]

    @staticmethod
    def backward(ctx, gy, _=None):
        (at,) = ctx.saved
        return MaxPoolBackward.apply(gy, at, ctx.spec), None, None, None


def _output_size(op, ndim, x, output_size, output_ratio):
    if output_size is not None:
        return output_size
    if output_ratio is None:
        raise ValueError(f"{op}: wants output_size or output_ratio, given neither")
    ratios = output_ratio
    if ndim == 3 and isinstance(ratios, Real):
        ratios = (ratios,) * 3
    if not isinstance(ratios, (tuple, list)) or not all(isinstance(ratio, Real) for ratio in ratios):
        raise TypeError(f"{op}: output_ratio must be a tuple of {ndim} numbers, given {output_ratio!r}")
    if len(ratios) != ndim:
        raise ValueError(f"{op}: output_ratio must have {ndim} values, given {len(ratios)}: {output_ratio!r}")
    return tuple(int(size * ratio) for size, ratio in zip(x.shape[-ndim:], ratios, strict=True))


def _samples(op, spec, samples):
    """The random numbers, (planes, ndim)."""
    n, c, ndim = spec.n, spec.c, spec.ndim
    if samples is None:
        return generator().random((n * c, ndim), spec.dtype)
    samples = value(array(op, "_random_samples", samples))
    if samples.dtype != spec.dtype:
        raise TypeError(f"{op}: _random_samples must have the input's dtype {spec.dtype}, given {samples.dtype}")
    if samples.ndim != 3 or samples.shape[0] < n or samples.shape[1:] != (c, ndim):
        raise ValueError(f"{op}: _random_samples must have shape ({n}, {c}, {ndim}), given {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{op}: _random_samples must be finite numbers")
    return samples[:n].reshape(n * c, ndim)


def _fractional(ndim, x, kernel_size, output_size, output_ratio, return_indices, samples):
    op = f"fractional_max_pool{ndim}d"
    array(op, "input", x)
    if not isinstance(return_indices, bool):
        raise TypeError(f"{op}: return_indices must be True or False, given {return_indices!r}")
    if x.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"{op}: input must have {ndim + 2} dimensions, or {ndim + 1} without a batch, given shape {tuple(x.shape)}"
        )
    out = _output_size(op, ndim, x, output_size, output_ratio)
    spec = fractional_spec(op, ndim, x.shape, kernel_size, out, x.dtype)
    u = _samples(op, spec, samples)
    columns = {"w": 0, "h": 1, "d": None} if ndim == 2 else {"d": 0, "h": 1, "w": 2}  # whose sample torch uses for what
    places = {}
    for name, column in columns.items():
        size, kernel, count = (getattr(spec, prefix + name) for prefix in "iko")
        numbers = np.zeros(spec.planes, spec.dtype) if column is None else u[:, column]
        places[f"first_{name}"] = _places(numbers, size, kernel, count)
    return FractionalMaxPool.apply(x, places, spec, return_indices)


def fractional_max_pool2d(
    input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    """Maximum over randomly placed windows.  Input (n, c, h, w) or (c, h, w) -> output (n, c, oh, ow) or (c, oh, ow).

    kernel_size: a number or one per dimension.
    output_size: a number or one per dimension; else output_ratio, two numbers, times the input's size, rounded down.
    return_indices: also the int64 position of each maximum in its plane, flat, as in `max_pool2d`.
    _random_samples: (n, c, 2) numbers from 0 to 1 in the input's dtype, for the columns and for the rows, instead of
    random ones (`fastconv.manual_seed`).
    Raises ValueError or TypeError for arguments that don't fit the input, with both numbers.
    """
    return _fractional(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool3d(
    input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    """Maximum over randomly placed windows; see `fractional_max_pool2d`.  Input (n, c, d, h, w) or (c, d, h, w).

    _random_samples: (n, c, 3), for depth, rows and columns.  As in torch, windows must leave a pixel of the input over.
    """
    return _fractional(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)
