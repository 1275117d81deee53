"""What a convolution is, in float64: sliding windows and einsum, for any number of spatial dimensions.

x (n, ic, *size), w (oc, ic/groups, *kernel), b (oc,) -> y (n, oc, *out).  `stride`, `dilation`, `padding` are numbers
or one per dimension; padding is also "valid", "same" (the odd pixel after the image), or a pair (before, after) per
dimension.  Slow and plain on purpose.
"""

import numpy as np

_OUT, _KERNEL = "XYZ", "uvw"  # einsum letters of the spatial dimensions


def each(value, ndim):
    """One value per spatial dimension."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * ndim


def pads(padding, kernel, dilation):
    """(before, after) for each spatial dimension."""
    if padding == "same":
        spans = [d * (k - 1) for k, d in zip(kernel, each(dilation, len(kernel)), strict=True)]
        return tuple((span // 2, span - span // 2) for span in spans)
    padding = each(0 if padding == "valid" else padding, len(kernel))
    return tuple(each(p, 2) for p in padding)


def out_size(size, kernel, stride, padding, dilation):
    """The spatial size of the output."""
    stride, dilation = each(stride, len(size)), each(dilation, len(size))
    rows = zip(size, kernel, stride, pads(padding, kernel, dilation), dilation, strict=True)
    return tuple((i + before + after - d * (k - 1) - 1) // s + 1 for i, k, s, (before, after), d in rows)


def _windows(padded, kernel, out, stride, dilation):
    """The view [..., *out, *kernel] of the padded image: what each tap of the kernel sees at each output position."""
    first = padded.ndim - len(kernel)
    steps = padded.strides[first:]
    strides = (
        *padded.strides[:first],
        *(step * s for step, s in zip(steps, stride, strict=True)),
        *(step * d for step, d in zip(steps, dilation, strict=True)),
    )
    return np.lib.stride_tricks.as_strided(padded, (*padded.shape[:first], *out, *kernel), strides)


def _grouped(x, groups):
    """(n, channels, ...) -> (n, groups, channels per group, ...)"""
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])


def _problem(x_shape, w_shape, stride, padding, dilation):
    ndim, kernel = len(x_shape) - 2, w_shape[2:]
    before_after = pads(padding, kernel, dilation)
    out = out_size(x_shape[2:], kernel, stride, padding, dilation)
    return kernel, before_after, out, each(stride, ndim), each(dilation, ndim), _OUT[:ndim], _KERNEL[:ndim]


def conv(x, w, b=None, stride=1, padding=0, dilation=1, groups=1):
    """y[n, g*o] = b + sum over channels i of the group and taps u of x[n, g*i, pixel seen by u] w[g*o, i, u]

    Tap u at an output position sees pixel position*stride + u*dilation - padding; beyond the image it sees 0.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    kernel, before_after, out, stride, dilation, X, U = _problem(x.shape, w.shape, stride, padding, dilation)
    padded = _grouped(np.pad(x, ((0, 0), (0, 0), *before_after)), groups)
    weight = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    seen = _windows(padded, kernel, out, stride, dilation)
    y = np.einsum(f"ngi{X}{U},goi{U}->ngo{X}", seen, weight, optimize=True).reshape(x.shape[0], w.shape[0], *out)
    return y if b is None else y + np.asarray(b, np.float64).reshape(-1, *(1,) * len(out))


def conv_weights(x, w_shape, gy, stride=1, padding=0, dilation=1, groups=1):
    """gw[g*o, i, u] = sum over images and positions of gy[n, g*o, position] x[n, g*i, pixel seen by u]"""
    x, gy = np.asarray(x, np.float64), np.asarray(gy, np.float64)
    kernel, before_after, out, stride, dilation, X, U = _problem(x.shape, w_shape, stride, padding, dilation)
    padded = _grouped(np.pad(x, ((0, 0), (0, 0), *before_after)), groups)
    seen = _windows(padded, kernel, out, stride, dilation)
    return np.einsum(f"ngi{X}{U},ngo{X}->goi{U}", seen, _grouped(gy, groups), optimize=True).reshape(w_shape)


def conv_data(x_shape, w, gy, stride=1, padding=0, dilation=1, groups=1):
    """gx: each tap adds gy times its weight to the pixels that it saw."""
    w, gy = np.asarray(w, np.float64), np.asarray(gy, np.float64)
    kernel, before_after, out, stride, dilation, X, _ = _problem(x_shape, w.shape, stride, padding, dilation)
    padded = _grouped(np.pad(np.zeros(x_shape), ((0, 0), (0, 0), *before_after)), groups)
    seen = _windows(padded, kernel, out, stride, dilation)
    weight, gradient = w.reshape(groups, w.shape[0] // groups, *w.shape[1:]), _grouped(gy, groups)
    for tap in np.ndindex(*kernel):
        seen[(..., *tap)] += np.einsum(f"ngo{X},goi->ngi{X}", gradient, weight[(..., *tap)], optimize=True)
    inside = tuple(slice(before, before + i) for (before, _), i in zip(before_after, x_shape[2:], strict=True))
    return padded[(..., *inside)].reshape(x_shape)


def conv_transpose(x, w, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The data gradient of a convolution whose output has the shape of x; w (ic, oc/groups, *kernel)."""
    ndim = x.ndim - 2
    settings = (each(value, ndim) for value in (stride, padding, output_padding, dilation))
    rows = zip(x.shape[2:], w.shape[2:], *settings, strict=True)
    size = tuple((i - 1) * s - 2 * p + d * (k - 1) + o + 1 for i, k, s, p, o, d in rows)
    y = conv_data((x.shape[0], w.shape[1] * groups, *size), w, x, stride, padding, dilation, groups)
    return y if b is None else y + np.asarray(b, np.float64).reshape(-1, *(1,) * ndim)
