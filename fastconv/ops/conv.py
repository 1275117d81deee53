"""Convolution in 1, 2 and 3 dimensions, forward and backward, as in torch.nn.functional and torch.nn.grad.

x (n, ic, *size) or (ic, *size), w (oc, ic/groups, *kernel), b (oc,) -> y (n, oc, *out) or (oc, *out), float32 or
float64:

    y[n, o, p] = b[o] + sum over c, k of w[o, c, k] x[n, c, p*stride + k*dilation - padding]

The three passes are a closed set: with <., .> the sum of products,  <conv(x, w), gy> = <x, bwd_data(gy, w)> = <w,
bwd_weights(x, gy)>.  So the gradients of each are the other two, and derivatives of any order cost no further code.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import _memory, prepared
from .._device import DeviceArray, adopt
from .._memory import address
from .._registry import select
from ..autograd import sum as add_up
from ..autograd.op import Op, Variable, is_watched, value, wrap
from ..kernels import (  # noqa: F401  (they register their implementations)
    depthwise,
    depthwise_small,
    depthwise_strided,
    depthwise_taps,
    depthwise_weights,
    direct,
    direct_weights,
    dot,
    fft,
    grouped,
    implicit_gemm,
    merged,
    pointwise,
    products,
    regions,
    residue_winograd,
    residues,
    small_maps,
    spread_weights,
    winograd,
    winograd_weights,
)
from ..kernels.channel_sums import channel_sums_rows
from ..packing import dense
from ..specs import conv_spec, whole_numbers

_DTYPES = (np.dtype("float32"), np.dtype("float64"))


def _run(operation, spec, out, impl=None, **inputs):
    """Compute `out`, by the implementation that the registry selects if none is given; inputs are made dense."""
    buffers = {name: dense(array) for name, array in inputs.items()}
    prepared.run(operation, spec, {**buffers, **out}, impl)


def _output(shape, spec, like):
    """A new array of a batched shape, without the batch where `like` has none."""
    return _memory.empty(shape if like.ndim == spec.ndim + 2 else shape[1:], spec.dtype)


class Packed(NamedTuple):
    """An implementation, and weights as it likes them best; None: as they lie."""

    impl: type
    weights: np.ndarray | None


MOST_KNOWN = 64  # convolutions that a layer keeps, one for each shape of its input


class _Known(NamedTuple):
    """A convolution that a layer has made before."""

    run_at: Callable
    version: int  # of the weights
    weight: np.ndarray
    bias: np.ndarray | None
    packed: np.ndarray | None
    addresses: tuple  # of those of them that there are
    shape: tuple  # of the output

    def holds(self, weight, bias):
        """Whether these Tensors are what they were."""
        same = self.weight is weight._data and self.version == weight._version
        return same and self.bias is (None if bias is None else bias._data)


def takes_bias(impl):
    """Whether `emit` honours a buffer "b"."""
    return impl.operation == "conv.fwd" or getattr(impl, "takes_bias", False)


class PackedWeights:
    """What one layer in evaluation keeps: its weights in packed forms until they change, and how to make the
    convolutions that it made before, without checking what was checked then."""

    operation = "conv.fwd"
    buffers = "x", "w", "b", "y"  # names of input, weights, bias and output in the operation

    def __init__(self):
        self._source = None
        self._forms = {}
        self._known = {}

    def form(self, spec, weight):
        """`weight`, a Tensor, packed for the implementation that `spec` selects; None on a device."""
        if not isinstance(weight._data, np.ndarray):
            return None
        source = weight._data, weight._version
        if self._source is None or self._source[0] is not source[0] or self._source[1] != source[1]:
            self._source, self._forms, self._known = source, {}, {}
        impl = select(self.operation, spec, packed=True)
        key = impl.name, impl.layout(spec)
        if key not in self._forms:
            self._forms[key] = Packed(impl, impl.pack(spec, dense(weight._data)))
        return self._forms[key]

    @staticmethod
    def checked(op, ndim, input, weight, bias, *settings):
        """The spec, and the plain bias."""
        return _checked(op, ndim, input, weight, bias, *settings)

    @staticmethod
    def apply(*arguments):
        return Conv.apply(*arguments)

    def conv(self, op, ndim, input, weight, bias, *settings):
        """`conv_nd` where no gradient is wanted, weight and bias being Tensors; settings: what can be a key."""
        x = value(input)
        if not isinstance(x, np.ndarray) or is_watched():
            spec, _ = self.checked(op, ndim, input, weight, bias, *settings)
            packed = None if is_watched() else self.form(spec, weight)  # one call alone is not worth it
            return self.apply(input, weight, bias, spec, packed)
        key = x.shape, x.dtype, settings, prepared.settings()
        known = self._known.get(key)
        if known is None or not known.holds(weight, bias):
            spec, b = self.checked(op, ndim, input, weight, bias, *settings)
            y = self.apply(input, weight, bias, spec, self.form(spec, weight))
            self._know(key, spec, value(y), x, weight, b)
            return y if isinstance(input, Variable) else value(y)
        x = dense(x)
        y = _memory.empty(known.shape, x.dtype)
        known.run_at((address(x), *known.addresses, address(y)))
        return wrap(y) if isinstance(input, Variable) else y

    def _know(self, key, spec, y, x, weight, b):
        impl, packed = self.form(spec, weight)  # pyright: ignore[reportGeneralTypeIssues]
        held = dense(weight._data), dense(b), packed
        source, *names, target = self.buffers
        able = prepared.can_prepare(impl) and (b is None or takes_bias(impl))
        if not able or held[0] is not weight._data or held[1] is not b:
            return
        there = {name: array for name, array in zip((*names, "packed"), held, strict=True) if array is not None}
        run_at = prepared.call(impl, spec, {source: x, **there, target: y}).run_at
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        addresses = tuple(map(address, there.values()))
        self._known[key] = _Known(run_at, weight._version, weight._data, b, packed, addresses, y.shape)

    def __reduce__(self):  # a copy knows nothing: its weights lie elsewhere
        return type(self), ()


class Conv(Op):
    """y from (x, w, b or None), on packed weights where they are given."""

    name = "conv"

    @staticmethod
    def forward(ctx, x, w, b, spec, packed=None):
        ctx.save(x, w)
        ctx.spec = spec
        y = _output(spec.y_shape, spec, x)
        impl, weights = packed or (None, None)
        _run("conv.fwd", spec, {"y": y}, impl, x=x, w=w, b=b, packed=weights)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        gx = ConvBackwardData.apply(gy, w, ctx.spec) if ctx.needs[0] else None
        gw = ConvBackwardWeights.apply(x, gy, ctx.spec) if ctx.needs[1] else None
        gb = _sum_channels(gy, ctx.spec) if ctx.needs[2] else None
        return gx, gw, gb, *(None,) * (len(ctx.needs) - 3)


class ConvBackwardData(Op):
    """gx from (gy, w)."""

    name = "conv_bwd_data"

    @staticmethod
    def forward(ctx, gy, w, spec):
        ctx.save(gy, w)
        ctx.spec = spec
        gx = _output(spec.x_shape, spec, gy)
        _run("conv.bwd_data", spec, {"gx": gx}, gy=gy, w=w)
        return gx

    @staticmethod
    def backward(ctx, ggx):
        gy, w = ctx.saved
        ggy = Conv.apply(ggx, w, None, ctx.spec) if ctx.needs[0] else None
        gw = ConvBackwardWeights.apply(ggx, gy, ctx.spec) if ctx.needs[1] else None
        return ggy, gw, None


class ConvBackwardWeights(Op):
    """gw from (x, gy)."""

    name = "conv_bwd_weights"

    @staticmethod
    def forward(ctx, x, gy, spec):
        ctx.save(x, gy)
        ctx.spec = spec
        gw = _memory.empty(spec.w_shape, spec.dtype)
        _run("conv.bwd_weights", spec, {"gw": gw}, x=x, gy=gy)
        return gw

    @staticmethod
    def backward(ctx, ggw):
        x, gy = ctx.saved
        gx = ConvBackwardData.apply(gy, ggw, ctx.spec) if ctx.needs[0] else None
        ggy = Conv.apply(x, ggw, None, ctx.spec) if ctx.needs[1] else None
        return gx, ggy, None


def _sum_channels(gy, spec):
    """The gradient of the bias."""
    batch = gy.shape[0] if gy.ndim == spec.ndim + 2 else 1
    if isinstance(gy, np.ndarray):
        shape, sums = (batch, spec.oc, spec.out_pixels), np.empty(spec.oc, gy.dtype)
        prepared.run_rows(channel_sums_rows, (dense(gy), sums), shape)
        return sums
    return add_up(add_up(gy.reshape((batch, spec.oc, spec.out_pixels)), 2), 0)


# ---- checks


def _array(op, name, given):
    array = value(given)
    if not isinstance(array, np.ndarray):
        array = adopt(array)
        if not isinstance(array, DeviceArray):
            raise TypeError(f"{op}: {name} must be an array or a Tensor, given {type(given).__name__}")
    if array.dtype not in _DTYPES or not array.dtype.isnative:
        raise TypeError(f"{op}: {name} must be float32 or float64, given {array.dtype}")
    return array


def _same_dtype(op, **arrays):
    dtypes = {name: array.dtype for name, array in arrays.items() if array is not None}
    if len(set(dtypes.values())) > 1:
        raise TypeError(
            f"{op}: all arrays must have one dtype, given " + ", ".join(f"{n} {d}" for n, d in dtypes.items())
        )


def _size(op, name, given):
    """A shape given as a tuple or list."""
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"{op}: {name} must be a tuple of whole numbers, given {given!r}")
    return whole_numbers(op, name, given, len(given), 0)


def _batched(shape, ndim):
    """A shape with a batch; one of any wrong length is left for the spec to refuse."""
    return (1, *shape) if len(shape) == ndim + 1 else tuple(shape)


def conv_nd(op, ndim, input, weight, bias, stride, padding, dilation, groups):
    """The public functions below."""
    spec, _ = _checked(op, ndim, input, weight, bias, stride, padding, dilation, groups)
    return Conv.apply(input, weight, bias, spec)


def _checked(op, ndim, input, weight, bias, stride, padding, dilation, groups):
    """The spec of a convolution, and the plain bias."""
    x, w = _array(op, "input", input), _array(op, "weight", weight)
    b = None if bias is None else _array(op, "bias", bias)
    _same_dtype(op, input=x, weight=w, bias=b)
    shapes = _batched(x.shape, ndim), w.shape, None if b is None else b.shape
    return conv_spec(op, ndim, *shapes, stride, padding, dilation, groups, x.dtype), b


def _check_gradient(op, gy, spec):
    wanted = spec.y_shape if gy.ndim == spec.ndim + 2 else spec.y_shape[1:]
    if gy.shape != wanted:
        raise ValueError(f"{op}: grad_output must have shape {wanted}, given {gy.shape}")


def _conv_input(op, ndim, input_size, weight, grad_output, stride, padding, dilation, groups):
    gy, w = _array(op, "grad_output", grad_output), _array(op, "weight", weight)
    _same_dtype(op, grad_output=gy, weight=w)
    size = _size(op, "input_size", input_size)
    spec = conv_spec(op, ndim, _batched(size, ndim), w.shape, None, stride, padding, dilation, groups, gy.dtype)
    _check_gradient(op, gy, spec)
    if gy.ndim - ndim != len(size) - ndim:
        raise ValueError(f"{op}: input_size {size} and grad_output {gy.shape} must both have a batch or both have none")
    return ConvBackwardData.apply(grad_output, weight, spec)


def _conv_weight(op, ndim, input, weight_size, grad_output, stride, padding, dilation, groups):
    x, gy = _array(op, "input", input), _array(op, "grad_output", grad_output)
    _same_dtype(op, input=x, grad_output=gy)
    size = _size(op, "weight_size", weight_size)
    spec = conv_spec(op, ndim, _batched(x.shape, ndim), size, None, stride, padding, dilation, groups, x.dtype)
    _check_gradient(op, gy, spec)
    if gy.ndim != x.ndim:
        raise ValueError(f"{op}: input {x.shape} and grad_output {gy.shape} must both have a batch or both have none")
    return ConvBackwardWeights.apply(input, grad_output, spec)


# ---- public functions


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """1-d convolution: input (n, ic, length) or (ic, length), weight (oc, ic/groups, k), bias (oc,).

    padding: whole number, tuple, "same" (stride 1 only) or "valid".  Raises ValueError or TypeError with given and
    wanted numbers.
    """
    return conv_nd("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """2-d convolution: input (n, ic, h, w) or (ic, h, w), weight (oc, ic/groups, kh, kw), bias (oc,).  See conv1d."""
    return conv_nd("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """3-d convolution: input (n, ic, d, h, w) or (ic, d, h, w), weight (oc, ic/groups, kd, kh, kw), bias (oc,).  See
    conv1d."""
    return conv_nd("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


def conv1d_input(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv1d with respect to its input, of shape `input_size`, as torch.nn.grad.conv1d_input."""
    return _conv_input("conv1d_input", 1, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv2d_input(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv2d with respect to its input, of shape `input_size`, as torch.nn.grad.conv2d_input."""
    return _conv_input("conv2d_input", 2, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv3d_input(input_size, weight, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv3d with respect to its input, of shape `input_size`, as torch.nn.grad.conv3d_input."""
    return _conv_input("conv3d_input", 3, input_size, weight, grad_output, stride, padding, dilation, groups)


def conv1d_weight(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv1d with respect to its weight, of shape `weight_size`, as torch.nn.grad.conv1d_weight."""
    return _conv_weight("conv1d_weight", 1, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv2d_weight(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv2d with respect to its weight, of shape `weight_size`, as torch.nn.grad.conv2d_weight."""
    return _conv_weight("conv2d_weight", 2, input, weight_size, grad_output, stride, padding, dilation, groups)


def conv3d_weight(input, weight_size, grad_output, stride=1, padding=0, dilation=1, groups=1):
    """The gradient of conv3d with respect to its weight, of shape `weight_size`, as torch.nn.grad.conv3d_weight."""
    return _conv_weight("conv3d_weight", 3, input, weight_size, grad_output, stride, padding, dilation, groups)
