"""AdderNet's layer: distances instead of products.

Chen et al. 2020, "AdderNet: Do We Really Need Multiplications in Deep Learning?", arXiv 1912.13200.

x (n, ic, h, w), w (oc, ic/groups, kh, kw), b (oc,) -> y (n, oc, oh, ow); padding counts as zeros:

    y[n, o, p] = b[o] - sum over c, k of |w[o, c, k] - x[n, c, p*stride + k*dilation - padding]|            (equation 2)

The gradients are the paper's, not the derivatives of y (which are signs):

    gw = sum (x - w) gy, in full precision (equation 6)        gx = sum clip(w - x, -1, 1) gy (equation 7)

The first is the convolution's weight gradient minus w times the sum of gy, and computed so.
"""

import numpy as np

from .. import _memory, prepared
from .._device import ARRAYS
from ..autograd import Op
from ..autograd.op import value
from ..kernels import adder, implicit_gemm  # noqa: F401  (they register their implementations)
from ..packing import dense
from ..specs import conv_spec
from .checks import floating, same_dtype
from .conv import ConvBackwardWeights


class Adder(Op):
    """y from (x, w, b or None)."""

    name = "adder"
    twice = False

    @staticmethod
    def forward(ctx, x, w, b, spec):
        ctx.save(x, w)
        ctx.spec = spec
        y = _memory.empty(spec.y_shape, spec.dtype)
        prepared.run("adder.fwd", spec, {"x": dense(x), "w": dense(w), "b": dense(b), "y": y})
        return y

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        spec, gx, gw = ctx.spec, None, None
        per_channel = gy.reshape(spec.n, spec.oc, spec.out_pixels).sum(2).sum(0)
        if ctx.needs[0]:
            gx = _memory.empty(spec.x_shape, spec.dtype)
            prepared.run("adder.bwd_data", spec, {"x": dense(x), "w": dense(w), "gy": dense(gy), "gx": gx})
        if ctx.needs[1]:
            gw = ConvBackwardWeights.apply(x, gy, spec) - w * per_channel[:, None, None, None]
        return gx, gw, per_channel if ctx.needs[2] else None, None


def adder2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """-sum |weight - input| under each window.

    input (n, ic, h, w) or (ic, h, w), weight (oc, ic/groups, kh, kw), bias (oc,).  Arguments as conv2d's; padding
    counts as zeros, so that |weight| is added there.  Gradients are those of AdderNet (arXiv 1912.13200, section 3.2),
    not the derivatives.  Raises ValueError or TypeError with given and wanted numbers.
    """
    input = floating("adder2d", "input", input)
    weight = same_dtype("adder2d", "weight", weight, input)
    bias = same_dtype("adder2d", "bias", bias, input)
    batched = input if input.ndim != 3 else input.reshape(1, *input.shape)
    shapes = batched.shape, weight.shape, None if bias is None else bias.shape
    spec = conv_spec("adder2d", 2, *shapes, stride, padding, dilation, groups, value(input).dtype)
    y = Adder.apply(batched, weight, bias, spec)
    return y if input.ndim != 3 else y.reshape(y.shape[1:])


def adder_learning_rate(gradient, eta=0.2):
    """The factor of the adaptive local learning rate: eta * sqrt(k) / ||gradient||, k = number of values (equation 12).

    The gradients of adder layers differ in norm by orders of magnitude from layer to layer; before the optimiser's step
    multiply each adder weight's gradient by its factor.  0 for a gradient of zeros.
    """
    array = value(gradient)
    if not isinstance(array, ARRAYS) or array.dtype.kind != "f":
        raise TypeError(f"adder_learning_rate: gradient must be a floating-point array or Tensor, got {gradient!r:.80}")
    if not eta > 0:
        raise ValueError(f"adder_learning_rate: eta must be positive, got {eta}")
    wide = array.astype(np.float64)
    norm = float(np.sqrt((wide * wide).sum()))
    return eta * array.size**0.5 / norm if norm else 0.0
