"""Transposed convolution in 1, 2 and 3 dimensions, as in torch.nn.functional: the data gradient of a convolution.

x (n, ic, *size) or (ic, *size), w (ic, oc/groups, *kernel), b (oc,) -> y (n, oc, *out) or (oc, *out), float32 or
float64,

    y[n, o, q] = b[o] + sum over c, k, p with p*stride + k*dilation - padding = q of w[c, o, k] x[n, c, p]
    out = (size - 1)*stride - 2*padding + dilation*(kernel - 1) + output_padding + 1

The mirrored convolution takes y's shape to x's with the same weights.  With it <y, g> = <x, conv(g, w)> = <w,
bwd_weights(g, x)>, so the gradients are the other two passes of the convolution and have derivatives of any order.
"""

from functools import cache, lru_cache

import numpy as np

from .. import prepared
from .._jit import Block, tile_body
from .._registry import select
from ..autograd.op import Op
from ..driver import Row
from ..kernels import residue_winograd, residues  # noqa: F401  (they register their implementations)
from ..packing import dense
from ..simd import array_at, fields
from ..specs import ConvSpec, whole_numbers
from .conv import Conv, ConvBackwardWeights, PackedWeights, _array, _batched, _output, _same_dtype, add_up, takes_bias

BiasBlock = Block("AddBias", "y bias", "planes pixels channels part")
_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@cache
def make_add_bias(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(BiasBlock, dtype)
    def add_bias(block, tile, worker):
        """y[plane, i] += bias[channel of the plane].  Tile: `part` planes."""
        a = fields(block)
        y, bias = array_at(a.y, a.y_size, KIND), array_at(a.bias, a.bias_size, KIND)
        for plane in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            row, value = y[plane * a.pixels : (plane + 1) * a.pixels], bias[plane % a.channels]
            for i in range(a.pixels):
                row[i] += value

    return add_bias


def _bias_rows(y, bias, spec):
    planes, part = spec.n * spec.ic, max(1, 16384 // max(1, spec.in_pixels))
    numbers = {"planes": planes, "pixels": spec.in_pixels, "channels": spec.ic, "part": part}
    values, work = {"y": y, "bias": bias, **numbers}, 0.1 * planes * spec.in_pixels
    return (Row(make_add_bias(spec.dtype), -(-planes // part), values, work),)


class ConvTranspose(Op):
    """y from (x, w, b or None); spec: the mirrored convolution, whose output has the shape of x."""

    name = "conv_transpose"

    @staticmethod
    def forward(ctx, x, w, b, spec, packed=None):
        ctx.save(x, w)
        ctx.spec = spec
        y = _output(spec.x_shape, spec, x)
        impl, weights = packed or (select("conv.bwd_data", spec), None)
        added = b is not None and not takes_bias(impl)
        buffers = {"gy": dense(x), "w": dense(w), "b": None if added else dense(b), "packed": weights, "gx": y}
        prepared.run("conv.bwd_data", spec, buffers, impl)
        if added:
            prepared.run_rows(_bias_rows, (y, dense(b)), spec)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        gx = Conv.apply(gy, w, None, ctx.spec) if ctx.needs[0] else None
        gw = ConvBackwardWeights.apply(gy, x, ctx.spec) if ctx.needs[1] else None
        gb = None
        if ctx.needs[2]:
            batch = gy.shape[0] if gy.ndim == ctx.spec.ndim + 2 else 1
            gb = add_up(add_up(gy.reshape((batch, ctx.spec.ic, ctx.spec.in_pixels)), 2), 0)
        return gx, gw, gb, *(None,) * (len(ctx.needs) - 3)


# ---- checks


def _check_channels(op, x_shape, w_shape, bias_shape, groups):
    ic, ocg = w_shape[:2]
    if min(ic, ocg) < 1:
        raise ValueError(f"{op}: weight must have at least one input and one output channel, given shape {w_shape}")
    if groups < 1 or ic % groups:
        raise ValueError(
            f"{op}: groups must be at least 1 and divide {ic} input channels, given {groups}; weight shape {w_shape}"
        )
    if x_shape[1] != ic:
        raise ValueError(
            f"{op}: weight expects {ic} input channels, input has {x_shape[1]}; "
            f"input shape {x_shape}, weight shape {w_shape}"
        )
    if bias_shape is not None and bias_shape != (ocg * groups,):
        raise ValueError(
            f"{op}: bias must have shape ({ocg * groups},), one value per output channel ({ocg} per group x {groups}), "
            f"given {bias_shape}"
        )


@lru_cache(maxsize=4096, typed=True)
def _mirrored_spec(op, ndim, x_shape, w_shape, bias_shape, stride, padding, output_padding, groups, dilation, dtype):
    if len(w_shape) != ndim + 2:
        raise ValueError(f"{op}: weight must have {ndim + 2} dimensions, given {len(w_shape)}: shape {w_shape}")
    if len(x_shape) != ndim + 2:
        raise ValueError(
            f"{op}: input must have {ndim + 2} dimensions, or {ndim + 1} without a batch, given shape {x_shape}"
        )
    stride, dilation = (whole_numbers(op, name, v, ndim, 1) for name, v in (("stride", stride), ("dilation", dilation)))
    padding = whole_numbers(op, "padding", padding, ndim, 0)
    extra = whole_numbers(op, "output_padding", output_padding, ndim, 0)
    (groups,) = whole_numbers(op, "groups", groups, 1, 1)
    _check_channels(op, x_shape, w_shape, bias_shape, groups)
    size, kernel, out = x_shape[2:], w_shape[2:], []
    if min(kernel) < 1:
        raise ValueError(
            f"{op}: the kernel must have at least one tap in every dimension, given weight shape {w_shape}"
        )
    if min(size) < 1:
        raise ValueError(f"{op}: the input must have at least one pixel in every dimension, given shape {x_shape}")
    for axis, i, k, s, p, o, d in zip(_AXES[ndim], size, kernel, stride, padding, extra, dilation, strict=True):
        if o >= max(s, d):
            raise ValueError(
                f"{op}: output_padding must be less than stride or dilation, "
                f"given {o} in {axis} with stride {s}, dilation {d}"
            )
        out.append((i - 1) * s - 2 * p + d * (k - 1) + o + 1)
        if out[-1] < 1:
            raise ValueError(
                f"{op}: the output must have at least one pixel in every dimension, would have {out[-1]} in {axis}; "
                f"input shape {x_shape}, weight shape {w_shape}, stride {stride}, padding {padding}, "
                f"output_padding {extra}"
            )
    ones, zeros = (1,) * (3 - ndim), (0,) * (3 - ndim)
    return ConvSpec(
        *(x_shape[0], groups, w_shape[1] * groups, w_shape[0]),
        *(*ones, *out, *ones, *size, *ones, *kernel, *ones, *stride, *zeros, *padding, *ones, *dilation),
        dtype=str(dtype),
        ndim=ndim,
    )


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def conv_transpose_nd(op, ndim, input, weight, bias, *settings):
    """The public functions below; settings: stride, padding, output padding, groups, dilation."""
    spec, _ = _checked(op, ndim, input, weight, bias, *settings)
    return ConvTranspose.apply(input, weight, bias, spec)


def _checked(op, ndim, input, weight, bias, *settings):
    """The spec of the mirrored convolution, and the plain bias."""
    x, w = _array(op, "input", input), _array(op, "weight", weight)
    b = None if bias is None else _array(op, "bias", bias)
    _same_dtype(op, input=x, weight=w, bias=b)
    settings = map(_hashable, settings)
    shapes = _batched(x.shape, ndim), w.shape, None if b is None else b.shape
    return _mirrored_spec(op, ndim, *shapes, *settings, x.dtype), b


class PackedTransposed(PackedWeights):
    """What a layer in evaluation keeps; settings as for `conv_transpose_nd`."""

    operation = "conv.bwd_data"
    buffers = "gy", "w", "b", "gx"

    @staticmethod
    def checked(op, ndim, input, weight, bias, *settings):
        return _checked(op, ndim, input, weight, bias, *settings)

    @staticmethod
    def apply(*arguments):
        return ConvTranspose.apply(*arguments)


# ---- public functions


def conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """1-d transposed convolution: input (n, ic, length) or (ic, length), weight (ic, oc/groups, k), bias (oc,).

    Output length (length - 1)*stride - 2*padding + dilation*(k - 1) + output_padding + 1, where output_padding is less
    than stride or dilation.  Raises ValueError or TypeError with given and wanted numbers.
    """
    return conv_transpose_nd(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """2-d transposed convolution: input (n, ic, h, w) or (ic, h, w), weight (ic, oc/groups, kh, kw), bias (oc,).  See
    conv_transpose1d.
    """
    return conv_transpose_nd(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """3-d transposed convolution: input (n, ic, d, h, w) or (ic, d, h, w), weight (ic, oc/groups, kd, kh, kw), bias
    (oc,).

    See conv_transpose1d.
    """
    return conv_transpose_nd(
        "conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )
