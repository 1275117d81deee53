"""How each operation of a graph is written in operators of ONNX (opset 18 and newer): the table of `export.py`.

A function of the table is `f(w, attrs, inputs, outputs)`: it adds nodes to the Writer `w`; inputs and outputs are
names, None or "" where there is none.  UnsupportedError where the standard has no such thing.  Operations that compute
are here, those that move values in `export_shapes.py`.
"""

from math import prod

import numpy as np

from ..infer import problems
from .table import ModelError

TABLE = {}


class UnsupportedError(ModelError):
    """An operation that ONNX can't express, and why."""


def writes(*names):
    def add(function):
        TABLE.update(dict.fromkeys(names, function))
        return function

    return add


def _need_batch(w, name, ndim):
    if len(w.shape(name)) != ndim + 2:
        raise UnsupportedError(f"ONNX wants a batch: {ndim + 2} axes, given shape {w.shape(name)}")


def scalar(w, value, name):
    """The name of a number in the dtype of a value."""
    return w.numbers(value, w.dtype(name), "number")


# ---- element by element

_SAME = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "neg": "Neg",
    "erf": "Erf",
    "hardswish": "HardSwish",
    "mish": "Mish",
    "matmul": "MatMul",
    "product_nn": "MatMul",
    "pow": "Pow",
    "where": "Where",
    "identity": "Identity",
}


def _same(op):
    def write(w, attrs, inputs, outputs):
        w.add(op, inputs, outputs)

    return write


TABLE.update((name, _same(op)) for name, op in _SAME.items())


@writes("leaky_relu")
def _leaky_relu(w, attrs, inputs, outputs):
    w.add("LeakyRelu", inputs, outputs, alpha=float(attrs["slope"]))


@writes("elu")
def _elu(w, attrs, inputs, outputs):
    w.add("Elu", inputs, outputs, alpha=float(attrs["alpha"]))


@writes("prelu")
def _prelu(w, attrs, inputs, outputs):
    x, slope = inputs
    shape = w.shape(x)
    if len(w.shape(slope)) == 1 and len(shape) > 2 and w.shape(slope) != (1,):
        slope = w.add("Reshape", [slope, w.numbers([-1, *(1,) * (len(shape) - 2)])])
    w.add("PRelu", [x, slope], outputs)


@writes("hardsigmoid")
def _hardsigmoid(w, attrs, inputs, outputs):
    w.add("HardSigmoid", inputs, outputs, alpha=1 / 6, beta=0.5)


@writes("silu")
def _silu(w, attrs, inputs, outputs):
    w.add("Mul", [inputs[0], w.add("Sigmoid", inputs)], outputs)


@writes("tanh_softplus")
def _tanh_softplus(w, attrs, inputs, outputs):
    w.add("Tanh", [w.add("Softplus", inputs)], outputs)


@writes("gelu")
def _gelu(w, attrs, inputs, outputs):
    if w.opset >= 20:
        w.add("Gelu", inputs, outputs)
        return
    x = inputs[0]
    inner = w.add("Erf", [w.add("Mul", [x, scalar(w, 0.5**0.5, x)])])
    half = w.add("Mul", [x, scalar(w, 0.5, x)])
    w.add("Mul", [half, w.add("Add", [inner, scalar(w, 1, x)])], outputs)


@writes("gelu_tanh")
def _gelu_tanh(w, attrs, inputs, outputs):
    if w.opset < 20:
        raise UnsupportedError("the operator Gelu came with opset 20")
    w.add("Gelu", inputs, outputs, approximate="tanh")


@writes("clip")
def _clip(w, attrs, inputs, outputs):
    _clamped(w, {"low": attrs.get("low"), "high": attrs.get("high")}, inputs[0], outputs)


@writes("relu6")
def _relu6(w, attrs, inputs, outputs):
    _clamped(w, {"low": 0, "high": 6}, inputs[0], outputs)


def _clamped(w, attrs, x, outputs, dtype_of=None):
    """Clip x to attrs' low and high."""
    bounds = [None if attrs.get(n) is None else scalar(w, attrs[n], dtype_of or x) for n in ("low", "high")]
    w.add("Clip", [x, *bounds], outputs)


def _then_clamped(w, attrs, outputs, write):
    """What `write(outputs)` makes, clamped where passes said so."""
    if attrs.get("low") is None and attrs.get("high") is None:
        write(outputs)
        return
    made = w.fresh("sum")
    write([made])
    _clamped(w, attrs, made, outputs, outputs[0])


def _binary(op):
    def write(w, attrs, inputs, outputs):
        _then_clamped(w, attrs, outputs, lambda made: w.add(op, inputs, made))

    return write


TABLE.update((op, _binary(op.capitalize())) for op in ("add", "sub", "mul", "div"))


@writes("softmax")
def _softmax(w, attrs, inputs, outputs):
    w.add("Softmax", inputs, outputs, axis=attrs["axis"])


@writes("log_softmax")
def _log_softmax(w, attrs, inputs, outputs):
    w.add("LogSoftmax", inputs, outputs, axis=attrs["axis"])


# ---- convolution and products


def _pads(padding, ndim):
    pairs = problems.pairs(padding, ndim)
    return [before for before, _ in pairs] + [after for _, after in pairs]


@writes("conv")
def _conv(w, attrs, inputs, outputs):
    x, weight, bias, residual = (*inputs, None, None)[:4]
    ndim = len(w.shape(weight)) - 2
    _need_batch(w, x, ndim)
    settings = {
        "kernel_shape": w.shape(weight)[2:],
        "strides": _each(attrs.get("stride", 1), ndim),
        "dilations": _each(attrs.get("dilation", 1), ndim),
        "group": attrs.get("groups", 1),
        "pads": _pads(problems.conv_attrs(_conv_spec(w, attrs, x, weight))["padding"], ndim),
    }

    def write(made):
        if residual is None:
            w.add("Conv", [x, weight, bias], made, **settings)
        else:
            w.add("Add", [w.add("Conv", [x, weight, bias], **settings), residual], made)

    _then_clamped(w, attrs, outputs, write)


def _conv_spec(w, attrs, x, weight):
    return problems.conv_problem("conv", attrs, w.shape(x), w.shape(weight), None, np.dtype(w.dtype(x)))


def _each(value, ndim):
    return [value] * ndim if isinstance(value, int) else list(value)


@writes("conv_transpose")
def _conv_transpose(w, attrs, inputs, outputs):
    ndim = len(w.shape(inputs[1])) - 2
    _need_batch(w, inputs[0], ndim)
    padding = _each(attrs.get("padding", 0), ndim)
    w.add(
        "ConvTranspose",
        inputs,
        outputs,
        kernel_shape=w.shape(inputs[1])[2:],
        strides=_each(attrs.get("stride", 1), ndim),
        dilations=_each(attrs.get("dilation", 1), ndim),
        output_padding=_each(attrs.get("output_padding", 0), ndim),
        group=attrs.get("groups", 1),
        pads=padding * 2,
    )


@writes("deform_conv")
def _deform_conv(w, attrs, inputs, outputs):
    x, offset, weight, bias, mask = inputs
    spec = attrs["spec"]
    if w.opset < 19:
        raise UnsupportedError("the operator DeformConv came with opset 19")
    rows, columns = (sorted({tap[axis] for tap in spec.taps}) for axis in (0, 1))
    grid = tuple((r, c) for r in rows for c in columns)
    apart = [steps[1] - steps[0] if len(steps) > 1 else 1 for steps in (rows, columns)]
    lines = zip((rows, columns), apart, strict=True)
    regular = all(steps == [steps[0] + i * d for i in range(len(steps))] for steps, d in lines)
    if tuple(map(tuple, spec.taps)) != grid or not regular or len(w.shape(weight)) != 4:
        raise UnsupportedError(f"ONNX has taps on a regular grid alone, given {spec.taps}")
    before = [-rows[0], -columns[0]]
    if min(before) < 0:
        raise UnsupportedError(f"ONNX has no negative padding, given taps from {(rows[0], columns[0])} on")
    sizes = zip((spec.oh, spec.ow), (spec.sh, spec.sw), (rows, columns), (spec.ih, spec.iw), strict=True)
    after = [max((out - 1) * step + steps[-1] + 1 - size, 0) for out, step, steps, size in sizes]
    w.add(
        "DeformConv",
        [x, weight, offset, bias, mask],
        outputs,
        kernel_shape=w.shape(weight)[2:],
        strides=[spec.sh, spec.sw],
        dilations=apart,
        group=spec.g,
        offset_group=spec.og,
        pads=[*before, *after],
    )


@writes("linear")
def _linear(w, attrs, inputs, outputs):
    _then_clamped(w, attrs, outputs, lambda made: w.add("Gemm", inputs, made, transB=1))


@writes("product_nt")
def _product_nt(w, attrs, inputs, outputs):
    w.add("Gemm", inputs, outputs, transB=1)


@writes("product_tn")
def _product_tn(w, attrs, inputs, outputs):
    w.add("Gemm", inputs, outputs, transA=1)


@writes("non_local")
def _non_local(w, attrs, inputs, outputs):
    theta, phi, g = inputs
    pairs = w.add("MatMul", [w.add("Transpose", [theta], perm=[0, 2, 1]), phi])
    if attrs["function"] == 0:
        weights = w.add("Softmax", [pairs], axis=-1)
    else:
        weights = w.add("Div", [w.add("Relu", [pairs]), scalar(w, w.shape(phi)[2], phi)])
    w.add("MatMul", [g, w.add("Transpose", [weights], perm=[0, 2, 1])], outputs)


@writes("shift")
def _shift(w, attrs, inputs, outputs):
    """A depthwise convolution whose kernels have a single 1."""
    x, moves = inputs[0], w.known(inputs[1])
    if moves is None:
        raise UnsupportedError("its displacements must be constants")
    moves = np.rint(moves).astype(int)
    reach = np.abs(moves).max(0)
    kernels = np.zeros((len(moves), 1, *(2 * reach + 1)), w.dtype(x))
    kernels[np.arange(len(moves)), 0, reach[0] + moves[:, 0], reach[1] + moves[:, 1]] = 1
    pads = [int(n) for n in reach] * 2
    w.add("Conv", [x, w.numbers(kernels, w.dtype(x), "moves")], outputs, group=len(moves), pads=pads)


# ---- pooling


@writes("max_pool", "avg_pool")
def _pool(w, attrs, inputs, outputs):
    x, y = inputs[0], outputs[0]
    ndim = attrs.get("ndim", len(w.shape(x)) - 2)
    _need_batch(w, x, ndim)
    average = "count_include_pad" in attrs
    kernel, apart = _each(attrs["kernel"], ndim), _each(attrs.get("dilation", 1), ndim)
    stride = kernel if attrs.get("stride") is None else _each(attrs["stride"], ndim)
    begins = [before for before, _ in problems.pairs(attrs.get("padding", 0), ndim)]
    axes = zip(w.shape(y)[2:], stride, apart, kernel, w.shape(x)[2:], begins, strict=True)
    ends = [max((out - 1) * s + d * (k - 1) + 1 - size - begin, begin) for out, s, d, k, size, begin in axes]
    settings = {"kernel_shape": kernel, "strides": stride}
    if average:
        _avg_pool(w, attrs, x, outputs, settings, (begins, ends))
    else:
        _max_pool(w, x, outputs, {**settings, "dilations": apart, "pads": [*begins, *ends]})


def _avg_pool(w, attrs, x, outputs, settings, pads):
    """In torch a window may stand out over the padding, which then counts, while what is beyond does not."""
    begins, ends = pads
    if attrs.get("divisor"):
        total = w.add("AveragePool", [x], count_include_pad=1, pads=[*begins, *ends], **settings)
        factor = prod(settings["kernel_shape"]) / attrs["divisor"]
        w.add("Mul", [total, scalar(w, factor, x)], outputs)
        return
    counted = bool(attrs["count_include_pad"]) and any(begins)
    if counted and ends != begins:
        both = [0, 0, *begins, 0, 0, *begins]
        x = w.add("Pad", [x, w.numbers(both), scalar(w, 0, x)])
        begins, ends = [0] * len(begins), [end - begin for begin, end in zip(begins, ends, strict=True)]
        counted = False
    w.add("AveragePool", [x], outputs, count_include_pad=int(counted), pads=[*begins, *ends], **settings)


def _max_pool(w, x, outputs, settings):
    if len(outputs) < 2 or not outputs[1]:
        w.add("MaxPool", [x], outputs[:1], **settings)
        return
    places = w.fresh("places")  # ONNX counts through the whole tensor, torch within a plane
    w.add("MaxPool", [x], [outputs[0], places], **settings)
    w.add("Mod", [places, w.numbers(prod(w.shape(x)[2:]))], outputs[1:])


def _adaptive_pool(w, attrs, inputs, outputs, average):
    x, y = inputs[0], outputs[0]
    ndim = attrs.get("ndim", len(w.shape(x)) - 2)
    _need_batch(w, x, ndim)
    sizes, wanted = w.shape(x)[2:], w.shape(y)[2:]
    if attrs.get("indices"):
        raise UnsupportedError("ONNX has no positions of adaptive maxima")
    if all(n == 1 for n in wanted):
        w.add("GlobalAveragePool" if average else "GlobalMaxPool", [x], outputs)
    elif all(size % out == 0 for size, out in zip(sizes, wanted, strict=True)):
        kernel = [size // out for size, out in zip(sizes, wanted, strict=True)]
        w.add("AveragePool" if average else "MaxPool", [x], outputs, kernel_shape=kernel, strides=kernel)
    else:
        raise UnsupportedError(f"ONNX has no windows of different sizes: {sizes} to {wanted}")


@writes("adaptive_avg_pool")
def _adaptive_avg_pool(w, attrs, inputs, outputs):
    _adaptive_pool(w, attrs, inputs, outputs, True)


@writes("adaptive_max_pool")
def _adaptive_max_pool(w, attrs, inputs, outputs):
    _adaptive_pool(w, attrs, inputs, outputs, False)


# ---- normalisation


@writes("batch_norm")
def _batch_norm(w, attrs, inputs, outputs):
    x, mean, var, scale, shift = inputs
    channels, dtype = w.shape(x)[1], w.dtype(x)
    scale = scale or w.numbers(np.ones(channels), dtype, "ones")
    shift = shift or w.numbers(np.zeros(channels), dtype, "zeros")
    w.add("BatchNormalization", [x, scale, shift, mean, var], outputs, epsilon=float(attrs.get("eps", 1e-5)))


@writes("affine")
def _affine(w, attrs, inputs, outputs):
    x, *values = inputs
    column = w.numbers([-1, *(1,) * (len(w.shape(x)) - 2)])
    scale, shift = (w.add("Reshape", [value, column]) for value in values)
    _then_clamped(w, attrs, outputs, lambda made: w.add("Add", [w.add("Mul", [x, scale]), shift], made))


@writes("layer_norm")
def _layer_norm(w, attrs, inputs, outputs):
    x, scale, shift = inputs
    scale = scale or w.numbers(np.ones(w.shape(x)[1]), w.dtype(x), "ones")
    w.add("LayerNormalization", [x, scale, shift], outputs, axis=1, epsilon=float(attrs["eps"]))


@writes("group_norm")
def _group_norm(w, attrs, inputs, outputs):
    """Instance normalisation of groups laid end to end, then weight and bias of each channel."""
    x, scale, shift = (*inputs, None, None)[:3]
    shape, groups, dtype = w.shape(x), attrs["groups"], w.dtype(x)
    flat = w.add("Reshape", [x, w.numbers([shape[0], groups, -1])])
    ones, zeros = w.numbers(np.ones(groups), dtype, "ones"), w.numbers(np.zeros(groups), dtype, "zeros")
    even = w.add("InstanceNormalization", [flat, ones, zeros], epsilon=float(attrs["eps"]))
    parts, column = [("Mul", scale), ("Add", shift)], [-1, *(1,) * (len(shape) - 2)]
    parts = [(op, value) for op, value in parts if value is not None]
    value = w.add("Reshape", [even, w.numbers(shape)], None if parts else outputs)
    for i, (op, factor) in enumerate(parts):
        last = outputs if i == len(parts) - 1 else None
        value = w.add(op, [value, w.add("Reshape", [factor, w.numbers(column)])], last)


@writes("local_response_norm")
def _local_response_norm(w, attrs, inputs, outputs):
    x, size = inputs[0], attrs["size"]
    if size % 2 == 0:
        raise UnsupportedError(f"ONNX has even windows of channels the other way round, given size {size}")
    flat = w.add("Reshape", [x, w.numbers([*w.shape(x)[:2], -1, 1])])
    numbers = {"alpha": float(attrs["alpha"]), "beta": float(attrs["beta"]), "bias": float(attrs["k"])}
    w.add("Reshape", [w.add("LRN", [flat], size=size, **numbers), w.numbers(w.shape(x))], outputs)
