"""Shift: every channel moves by its own displacement; a 1x1 convolution beside it mixes the channels.

shift2d          whole displacements: y[c, i, j] = x[c, i + dy, j + dx] (Wu et al. 2017, arXiv 1711.08141, equation 3)
active_shift2d   real, learned displacements, bilinear (Jeon and Kim 2018, arXiv 1806.07370, equations 4 to 9)
sparse_shift2d   learned displacements that are rounded going forward and bilinear going back (Chen et al. 2019, "All
You
                 Need is a Few Shifts", arXiv 1903.05285, section 3.2)

x (n, c, h, w) or (c, h, w) -> the same shape; what comes from outside the image is 0.
"""

from typing import Any

import numpy as np

from .. import _memory, prepared
from .._device import DeviceArray, as_array, move
from ..autograd import Op
from ..autograd.op import value
from ..kernels.shift import ShiftSpec, split_displacement
from ..packing import dense
from .checks import floating, same_dtype


def _moved(x, displacement):
    """x shifted by displacements (c, 2) in x's dtype."""
    y = _memory.empty(x.shape, x.dtype)
    whole, fraction = split_displacement(displacement, x.shape[2:])
    spec = _spec(x)
    prepared.run("shift.fwd", spec, {"x": dense(x), "y": y, "whole": whole, "fraction": fraction})
    return y


def _spec(x):
    n, channels, h, w = x.shape
    return ShiftSpec(n, channels, h, w, x.dtype.name)


class Shift(Op):
    """Linear in x: the gradient is the shift back."""

    name = "shift"

    @staticmethod
    def forward(ctx, x, displacement):
        ctx.displacement = displacement
        return _moved(x, displacement.astype(x.dtype))

    @staticmethod
    def backward(ctx, gy):
        return Shift.apply(gy, -ctx.displacement), None


class ActiveShift(Op):
    """y from (x, displacement); whole: round the displacement; normalize: each channel's gradient has length 1."""

    name = "active_shift"
    twice = False

    @staticmethod
    def forward(ctx, x, displacement, whole, normalize):
        ctx.save(x, displacement)
        ctx.whole, ctx.normalize = whole, normalize
        return _moved(x, np.rint(displacement) if whole else displacement)

    @staticmethod
    def backward(ctx, gy):
        x, displacement = ctx.saved
        gx = g = None
        if ctx.needs[0]:
            gx = _moved(gy, -np.rint(displacement) if ctx.whole else -displacement)
        if ctx.needs[1]:
            g = np.empty(displacement.shape, displacement.dtype)
            whole, fraction = split_displacement(displacement, x.shape[2:])
            spec, buffers = _spec(x), {"x": dense(x), "gy": dense(gy), "g": g, "whole": whole, "fraction": fraction}
            prepared.run("shift.bwd_displacement", spec, buffers)
            if ctx.normalize:
                length = np.sqrt((g * g).sum(1, keepdims=True))
                g /= np.where(length > 0, length, 1)
        return gx, g, None, None


# ---- checks


def _images(op, x):
    """x with a batch."""
    x = floating(op, "input", x)
    if x.ndim not in (3, 4):
        raise ValueError(f"{op}: input must be (n, c, h, w) or (c, h, w), given shape {x.shape}")
    return x if x.ndim == 4 else x.reshape(1, *x.shape)


def _check_displacement(op, name, displacement, channels):
    if tuple(displacement.shape) != (channels, 2):
        raise ValueError(
            f"{op}: {name} must have shape ({channels}, 2), (down, right) for each channel, given {displacement.shape}"
        )


def _active(op, input, displacement, whole, normalize):
    x = _images(op, input)
    displacement = same_dtype(op, "displacement", displacement, x)
    _check_displacement(op, "displacement", displacement, x.shape[1])
    if not bool(np.isfinite(value(displacement)).all()):
        raise ValueError(f"{op}: displacement must be finite")
    return ActiveShift.apply(x, displacement, whole, normalize).reshape(input.shape)


# ---- public functions


def shift2d(input, shift):
    """Shift by whole displacements: y[c, i, j] = input[c, i + shift[c, 0], j + shift[c, 1]], 0 from outside.

    input (n, c, h, w) or (c, h, w), shift (c, 2) whole numbers.  Raises ValueError or TypeError with given and wanted
    numbers.  arXiv 1711.08141.
    """
    x, whole = _images("shift2d", input), as_array(shift)
    if whole.dtype.kind not in "iu":
        raise TypeError(f"shift2d: shift must be whole numbers, given {whole.dtype}; active_shift2d takes real ones")
    _check_displacement("shift2d", "shift", whole, x.shape[1])
    if isinstance(value(x), DeviceArray):
        whole: Any = move(whole, value(x).device)
    return Shift.apply(x, np.clip(whole, -(2**30), 2**30).astype(np.float64)).reshape(input.shape)


def active_shift2d(input, displacement, normalize=False):
    """Shift by real displacements (c, 2) in pixels, bilinear, with gradients for both.

    normalize: each channel's displacement gradient is divided by its length, as the paper trains (arXiv 1806.07370,
    section 3.2).  At whole displacements the gradient is the slope towards larger ones.
    """
    return _active("active_shift2d", input, displacement, False, normalize)


def sparse_shift2d(input, displacement):
    """Shift by displacements (c, 2) rounded to whole pixels; gradients as if they had not been rounded (1903.05285).

    The input gradient shifts back by the rounded displacement, that of the displacement is active_shift2d's.
    """
    return _active("sparse_shift2d", input, displacement, True, False)


def shift_groups(channels, kernel_size=3):
    """(channels, 2) whole displacements: equal groups for the kernel_size^2 of a window, the rest stays in the centre.

    floor(channels / kernel_size^2) channels have each displacement (arXiv 1711.08141, section 3.1); the order of the
    groups is of no consequence, since the 1x1 convolutions around learn to permute channels.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"shift_groups: kernel_size must be odd and positive, given {kernel_size}")
    if channels < 0:
        raise ValueError(f"shift_groups: channels must not be negative, given {channels}")
    reach, size = kernel_size // 2, channels // kernel_size**2
    window = np.array([(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)], np.int64)
    shifts = np.zeros((channels, 2), np.int64)
    shifts[: size * len(window)] = np.repeat(window, size, axis=0)
    return shifts
