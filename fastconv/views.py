"""The three matrix views of a convolution, small and exact, for study.

sliding          what every output position sees, as a view of the padded input: convolution is a product over it
im2col_matrix    the same as columns: convolution is one matrix product, weight (oc, c*taps) times (c*taps, windows)
toeplitz_matrix  the weight as a matrix: convolution is its product with the flattened input, and the transposed
                 convolution (the gradient of the input) the product with its transpose

After Goodfellow, Bengio and Courville, Deep Learning, section 9.1, and Dumoulin and Visin, arXiv 1603.07285.
"""

from math import prod
from numbers import Integral

import numpy as np

from .specs import whole_numbers


def _settings(name, size, kernel, stride, padding, dilation):
    """(kernel, stride, padding, dilation, out), one value per dimension each."""
    rank = len(size)
    kernel = whole_numbers(name, "kernel", kernel, rank, 1)
    stride = whole_numbers(name, "stride", stride, rank, 1)
    padding = whole_numbers(name, "padding", padding, rank, 0)
    dilation = whole_numbers(name, "dilation", dilation, rank, 1)
    out = []
    for i, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        out.append((i + 2 * p - d * (k - 1) - 1) // s + 1)
        if out[-1] < 1:
            raise ValueError(
                f"{name}: the kernel covers {d * (k - 1) + 1}, more than the padded input's {i + 2 * p}; "
                f"size {tuple(size)}, kernel {kernel}, padding {padding}, dilation {dilation}"
            )
    return kernel, stride, padding, dilation, tuple(out)


def _rank(name, x, kernel):
    """The number of spatial dimensions: those of the kernel, or for a single number all but batch and channels."""
    x = np.asarray(x)
    rank = len(kernel) if isinstance(kernel, (tuple, list)) else x.ndim - 2
    if rank < 1 or x.ndim < rank:
        raise ValueError(f"{name}: x of shape {x.shape} has too few dimensions for kernel {kernel!r}")
    return x, rank


def sliding(x, kernel, stride=1, padding=0, dilation=1):
    """x (..., *size) -> (..., *out, *kernel): what each output position sees, 0 beyond the image.

    A read-only view of the input, or of its padded copy; nothing is copied per tap.  kernel: a tuple with one number
    per spatial dimension, or a number for an x of shape (n, c, *size).

    >>> sliding(np.arange(5), (3,))
    array([[0, 1, 2],
           [1, 2, 3],
           [2, 3, 4]])
    """
    x, rank = _rank("sliding", x, kernel)
    size = x.shape[x.ndim - rank :]
    kernel, stride, padding, dilation, out = _settings("sliding", size, kernel, stride, padding, dilation)
    if any(padding):
        x = np.pad(x, ((0, 0),) * (x.ndim - rank) + tuple((p, p) for p in padding))
    steps = x.strides[x.ndim - rank :]
    strides = (
        *x.strides[: x.ndim - rank],
        *(step * s for step, s in zip(steps, stride, strict=True)),
        *(step * d for step, d in zip(steps, dilation, strict=True)),
    )
    shape = (*x.shape[: x.ndim - rank], *out, *kernel)
    return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)


def im2col_matrix(x, kernel, stride=1, padding=0, dilation=1):
    """x (n, c, *size) -> (n, c*taps, windows), so that weight.reshape(oc, -1) @ columns is the convolution.

    With a tuple as kernel also x (c, *size) -> (c*taps, windows).
    """
    x, rank = _rank("im2col_matrix", x, kernel)
    if x.ndim not in (rank + 1, rank + 2):
        raise ValueError(f"im2col_matrix: x must be (n, c, *size) or (c, *size), given {x.shape} and kernel {kernel!r}")
    seen = sliding(x, kernel, stride, padding, dilation)
    lead = x.ndim - rank
    order = (*range(lead), *range(lead + rank, lead + 2 * rank), *range(lead, lead + rank))
    columns = x.shape[lead - 1] * prod(seen.shape[lead + rank :])
    return seen.transpose(order).reshape(*x.shape[: lead - 1], columns, prod(seen.shape[lead : lead + rank]))


def toeplitz_matrix(weight, size, stride=1, padding=0, dilation=1, groups=1):
    """weight (oc, ic/groups, *kernel) and the input's spatial size -> T (oc*outputs, ic*inputs).

    T @ x.ravel() is the convolution of an image x (ic, *size), flattened; T.T @ y.ravel() the transposed convolution
    of y (oc, *out).  Without padding and with stride 1, T is Toeplitz in one dimension and, by blocks, in more.
    """
    weight = np.asarray(weight)
    if weight.ndim < 3:
        raise ValueError(f"toeplitz_matrix: weight must be (oc, ic/groups, *kernel), given shape {weight.shape}")
    rank, (oc, icg) = weight.ndim - 2, weight.shape[:2]
    if isinstance(groups, bool) or not isinstance(groups, Integral) or groups < 1 or oc % groups:
        raise ValueError(f"toeplitz_matrix: groups must divide {oc} output channels, given {groups!r}")
    size = whole_numbers("toeplitz_matrix", "size", size, rank, 1)
    given = weight.shape[2:], stride, padding, dilation
    kernel, stride, padding, dilation, out = _settings("toeplitz_matrix", size, *given)
    matrix = np.zeros((oc, *out, icg * groups, *size), weight.dtype)
    for position in np.ndindex(*out):
        for tap in np.ndindex(*kernel):
            pixel = tuple(
                o * s + t * d - p for o, s, t, d, p in zip(position, stride, tap, dilation, padding, strict=True)
            )
            if all(0 <= q < n for q, n in zip(pixel, size, strict=True)):
                for g in range(groups):
                    rows, columns = slice(g * oc // groups, (g + 1) * oc // groups), slice(g * icg, (g + 1) * icg)
                    matrix[(rows, *position, columns, *pixel)] = weight[(rows, slice(None), *tap)]
    return matrix.reshape(oc * prod(out), icg * groups * prod(size))
