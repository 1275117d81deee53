"""Which ONNX operators become operations with kernels.

A rule is `rule(low, node, inputs, outputs)`: it adds operations to the `Lowering` and gives True, or gives False where
only the function of the table does what the node says.  All shapes are known when it is asked.
"""

from math import prod

import numpy as np

from .ops_convolution import conv_attrs, transpose_pads
from .ops_pooling import pool_settings
from .ops_resize import axis_map, sizes_and_scales
from .ops_shape import axes_of, padding, reshaped, slices, split_sizes
from .table import bounded
from .windows import per_axis

RULES = {}


def rule(*names):
    def add(function):
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


def known_value(low, inputs, position):
    """The array of a known input; None if there is none.  ValueError if only running tells."""
    name = inputs[position] if position < len(inputs) else None
    if name is None:
        return None
    if name not in low.known:
        raise ValueError(f"{name} depends on values")
    return low.known[name]


def only_first(outputs):
    return all(name is None for name in outputs[1:])


# ---- convolution and products


@rule("Conv")
def conv(low, node, inputs, outputs):
    """conv."""
    if not low.is_real(*inputs):
        return False
    attrs = conv_attrs(node, low.shape(inputs[0]), low.shape(inputs[1]))
    if any(p < 0 for pair in attrs["padding"] for p in pair):
        return False
    return low.add("conv", inputs, outputs, attrs, node)


@rule("ConvTranspose")
def conv_transpose(low, node, inputs, outputs):
    """conv_transpose, where padding is the same on both sides but for the output's."""
    x, w = low.shape(inputs[0]), low.shape(inputs[1])
    if not low.is_real(*inputs) or len(x) != len(w):
        return False
    ndim = len(w) - 2
    stride, dilation = per_axis(node, "strides", ndim), per_axis(node, "dilations", ndim)
    pairs, extra = transpose_pads(node, x[2:], w[2:], stride, dilation)
    more = tuple(e + a - z for (a, z), e in zip(pairs, extra, strict=True))
    if min(a for a, _ in pairs) < 0 or min(more) < 0:
        return False
    attrs = {"stride": stride, "padding": tuple(a for a, _ in pairs), "output_padding": more, "dilation": dilation}
    return low.add("conv_transpose", inputs, outputs, {**attrs, "groups": node.get("group", 1)}, node)


@rule("Gemm")
def gemm(low, node, inputs, outputs):
    """linear, where the second matrix is a weight."""
    a, b, c = (*inputs, None)[:3]
    if not low.is_real(a, b, c) or node.get("transA", 0) or b not in low.known:
        return False
    if node.get("alpha", 1.0) != 1 or (c is not None and (node.get("beta", 1.0) != 1 or c not in low.known)):
        return False
    width = low.shape(b)[0 if node.get("transB", 0) else 1]
    if c is not None and prod(low.shape(c)) != width:
        return False
    bias = None if c is None else low.constant("flat", c, lambda v: np.ascontiguousarray(v.reshape(-1)))
    return low.add("linear", [a, _transposed(low, b, node.get("transB", 0)), bias], outputs, {}, node)


def _transposed(low, name, already):
    return name if already else low.constant("transposed", name, lambda v: np.ascontiguousarray(v.T))


@rule("MatMul")
def matmul(low, node, inputs, outputs):
    """linear, where the second operand is a matrix of weights, else matmul."""
    (a, b), shape = inputs, low.shape(inputs[0])
    if not low.is_real(a, b) or len(shape) < 2 or len(low.shape(b)) < 2:
        return False
    if b not in low.known or len(low.shape(b)) != 2:
        return low.add("matmul", inputs, outputs, {}, node)
    weight = _transposed(low, b, False)
    if len(shape) == 2:
        return low.add("linear", [a, weight, None], outputs, {}, node)
    rows, width = prod(shape[:-1]), low.shape(b)[1]
    flat, made = low.fresh(f"{outputs[0]}/rows"), low.fresh(f"{outputs[0]}/product")
    low.add("reshape", [a], [flat], {"shape": (rows, shape[-1])}, node)
    low.add("linear", [flat, weight, None], [made], {}, node)
    return low.add("reshape", [made], outputs, {"shape": (*shape[:-1], width)}, node)


# ---- pooling and normalisation


@rule("MaxPool", "AveragePool")
def pool(low, node, inputs, outputs):
    """max_pool, avg_pool, where the windows are those of torch."""
    x = inputs[0]
    if not low.is_real(x) or not only_first(outputs):
        return False
    kernel, stride, dilation, pads, out = pool_settings(node, low.shape(x)[2:])
    attrs = {"kernel": kernel, "stride": stride, "padding": pads, "ceil_mode": bool(node.get("ceil_mode", 0))}
    if node.op == "MaxPool":
        attrs["dilation"] = dilation
    elif max(dilation) > 1:
        return False
    else:
        attrs |= {"count_include_pad": bool(node.get("count_include_pad", 0)), "divisor": None}
        if not any(p for pair in pads for p in pair):
            attrs["count_include_pad"] = False
    low.add("max_pool" if node.op == "MaxPool" else "avg_pool", [x], outputs, attrs, node)
    if low.shape(outputs[0])[2:] == out:
        return True
    low.steps.pop()
    return False


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(low, node, inputs, outputs):
    """adaptive pooling to one pixel."""
    shape = low.shape(inputs[0])
    if not low.is_real(inputs[0]) or not 3 <= len(shape) <= 5 or 0 in shape:
        return False
    op = "adaptive_avg_pool" if node.op == "GlobalAveragePool" else "adaptive_max_pool"
    return low.add(op, inputs, outputs, {"output_size": (1,) * (len(shape) - 2)}, node)


@rule("ReduceMean")
def reduce_mean(low, node, inputs, outputs):
    """Adaptive pooling, where all of an image is averaged."""
    x, shape = inputs[0], low.shape(inputs[0])
    axes = axes_of(node, known_value(low, inputs, 1), len(shape))
    if not low.is_real(x) or not 3 <= len(shape) <= 5 or 0 in shape or not axes:
        return False
    if sorted(axes) != list(range(2, len(shape))):
        return False
    size = {"output_size": (1,) * (len(shape) - 2)}
    if node.get("keepdims", 1):
        return low.add("adaptive_avg_pool", [x], outputs, size, node)
    pooled = low.fresh(f"{outputs[0]}/pooled")
    low.add("adaptive_avg_pool", [x], [pooled], size, node)
    return low.add("reshape", [pooled], outputs, {"shape": shape[:2]}, node)


@rule("BatchNormalization")
def batch_norm(low, node, inputs, outputs):
    """batch_norm in evaluation."""
    x, scale, shift, mean, var = inputs
    training = node.opset >= 14 and node.get("training_mode", 0)
    if not low.is_real(*inputs) or training or not only_first(outputs) or len(low.shape(x)) < 2:
        return False
    return low.add("batch_norm", [x, mean, var, scale, shift], outputs, {"eps": node.get("epsilon", 1e-5)}, node)


# ---- element by element

_UNARY = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Abs": "abs",
    "Neg": "neg",
    "Erf": "erf",
    "Softplus": "softplus",
    "Mish": "mish",
    "HardSwish": "hardswish",
}


@rule(*_UNARY)
def unary(low, node, inputs, outputs):
    """The operation of that name."""
    return low.is_real(inputs[0]) and low.add(_UNARY[node.op], inputs, outputs, {}, node)


@rule("Pow")
def power(low, node, inputs, outputs):
    """The square or the square root."""
    x, exponent = inputs[0], np.asarray(known_value(low, inputs, 1))
    if not low.is_real(x) or exponent.size != 1 or exponent.ndim > len(low.shape(x)):
        return False
    if float(exponent.reshape(-1)[0]) == 2:
        return low.add("mul", [x, x], outputs, {}, node)
    return float(exponent.reshape(-1)[0]) == 0.5 and low.add("sqrt", [x], outputs, {}, node)


@rule("LeakyRelu", "Elu")
def with_slope(low, node, inputs, outputs):
    """leaky_relu, elu."""
    if not low.is_real(inputs[0]):
        return False
    if node.op == "Elu":
        return low.add("elu", inputs, outputs, {"alpha": node.get("alpha", 1.0)}, node)
    return low.add("leaky_relu", inputs, outputs, {"slope": node.get("alpha", 0.01)}, node)


@rule("HardSigmoid")
def hard_sigmoid(low, node, inputs, outputs):
    """hardsigmoid, or clip(alpha x + beta)."""
    x, alpha, beta = inputs[0], node.get("alpha", 0.2), node.get("beta", 0.5)
    if not low.is_real(x):
        return False
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return low.add("hardsigmoid", [x], outputs, {}, node)
    factor, shift = low.fresh(f"{outputs[0]}/alpha"), low.fresh(f"{outputs[0]}/beta")
    dtype = low.type(x).dtype
    low.known[factor], low.known[shift] = np.full(1, alpha, dtype), np.full(1, beta, dtype)
    product, total = low.fresh(f"{outputs[0]}/product"), low.fresh(f"{outputs[0]}/sum")
    low.add("mul", [x, factor], [product], {}, node)
    low.add("add", [product, shift], [total], {}, node)
    return low.add("clip", [total], outputs, {"low": 0.0, "high": 1.0}, node)


@rule("Gelu")
def gelu(low, node, inputs, outputs):
    """gelu, gelu_tanh."""
    if not low.is_real(inputs[0]):
        return False
    return low.add("gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu", inputs, outputs, {}, node)


@rule("Clip")
def clip(low, node, inputs, outputs):
    """clip between known bounds."""
    if not low.is_real(inputs[0]):
        return False
    bounds = [known_value(low, inputs, 1), known_value(low, inputs, 2)]
    bounds = [
        node.get(n) if v is None else float(np.asarray(v).reshape(-1)[0])
        for n, v in zip(("min", "max"), bounds, strict=True)
    ]
    if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
        return False
    return low.add("clip", inputs[:1], outputs, {"low": bounds[0], "high": bounds[1]}, node)


@rule("Softmax", "LogSoftmax")
def softmax(low, node, inputs, outputs):
    """softmax, log_softmax of one axis."""
    shape = low.shape(inputs[0])
    axis = node.get("axis", -1 if node.opset >= 13 else 1) % max(len(shape), 1)
    if not low.is_real(inputs[0]) or not shape or 0 in shape or (node.opset < 13 and prod(shape[axis + 1 :]) != 1):
        return False
    return low.add("softmax" if node.op == "Softmax" else "log_softmax", inputs, outputs, {"axis": axis}, node)


@rule("Add", "Sub", "Mul", "Div")
def binary(low, node, inputs, outputs):
    """add, sub, mul, div, broadcast."""
    if not low.is_real(*inputs) or (node.opset < 7 and "axis" in node.attrs):
        return False
    if all(low.shape(name) == () for name in inputs):
        return False
    return low.add(node.op.lower(), [_without_rank_0(low, name) for name in inputs], outputs, {}, node)


def _without_rank_0(low, name):
    if name in low.known and low.shape(name) == ():
        return low.constant("one", name, lambda v: v.reshape(1))
    return name


# ---- arrangement


@rule("Identity", "Dropout")
def identity(low, node, inputs, outputs):
    """identity."""
    if len(inputs) > 2 or not only_first(outputs):
        return False
    return low.add("identity", inputs[:1], outputs, {}, node)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(low, node, inputs, outputs):
    """reshape to the numbers that the shapes at hand give."""
    shape, given = low.shape(inputs[0]), known_value(low, inputs, 1)
    if node.op == "Reshape":
        wanted = node.attrs["shape"] if given is None else tuple(int(n) for n in given)
        wanted = reshaped(shape, wanted, bool(node.get("allowzero", 0)))
    elif node.op == "Flatten":
        axis = node.get("axis", 1)
        axis = axis + len(shape) if axis < 0 else axis
        wanted = prod(shape[:axis]), prod(shape[axis:])
    elif node.op == "Squeeze":
        axes = axes_of(node, given, len(shape), tuple(i for i, n in enumerate(shape) if n == 1))
        if any(shape[a] != 1 for a in axes):
            return False
        wanted = tuple(n for i, n in enumerate(shape) if i not in axes)
    else:
        count = len(node.attrs["axes"] if given is None else np.asarray(given).reshape(-1))
        axes = axes_of(node, given, len(shape) + count)
        rest = iter(shape)
        wanted = tuple(1 if i in axes else next(rest) for i in range(len(shape) + count))
    return low.add("reshape", inputs[:1], outputs, {"shape": wanted}, node)


@rule("Transpose")
def transpose(low, node, inputs, outputs):
    """permute."""
    axes = tuple(node.get("perm") or reversed(range(len(low.shape(inputs[0])))))
    return low.is_real(inputs[0]) and low.add("permute", inputs, outputs, {"axes": axes}, node)


@rule("Concat")
def concat(low, node, inputs, outputs):
    """cat."""
    axis = node.attrs["axis"] % len(low.shape(inputs[0]))
    return low.is_real(*inputs) and low.add("cat", inputs, outputs, {"axis": axis}, node)


@rule("Slice")
def slice_(low, node, inputs, outputs):
    """index, forwards."""
    given = [known_value(low, inputs, i) for i in range(1, len(inputs))]
    shape = low.shape(inputs[0])
    key = slices(node, len(shape), shape, given)
    if not low.is_real(inputs[0]) or any((part.step or 1) < 0 for part in key):
        return False
    return low.add("index", inputs[:1], outputs, {"key": key}, node)


@rule("Split")
def split(low, node, inputs, outputs):
    """One index for each part."""
    shape = low.shape(inputs[0])
    axis, first = node.get("axis", 0) % len(shape), 0
    if not low.is_real(inputs[0]):
        return False
    for size, output in zip(split_sizes(node, shape[axis], known_value(low, inputs, 1)), outputs, strict=True):
        key = (*[slice(None)] * axis, slice(first, first + size))
        key += (slice(None),) * (len(shape) - axis - 1)
        first += size
        if output is not None:
            low.add("index", inputs[:1], [output], {"key": key}, node)
    return True


@rule("Pad")
def pad(low, node, inputs, outputs):
    """pad with a number."""
    shape = low.shape(inputs[0])
    pairs = padding(node, len(shape), known_value(low, inputs, 1), known_value(low, inputs, 3))
    fill = known_value(low, inputs, 2)
    fill = node.get("value", 0.0) if fill is None else float(np.asarray(fill).reshape(-1)[0])
    if not low.is_real(inputs[0]) or node.get("mode", "constant") != "constant" or min(map(min, pairs)) < 0:
        return False
    bounded([n + a + b for n, (a, b) in zip(shape, pairs, strict=True)], np.float64)
    attrs = {"pads": tuple(pairs), "mode": "constant", "fill": fill}
    return low.add("pad", inputs[:1], outputs, attrs, node)


@rule("DepthToSpace", "SpaceToDepth")
def blocks(low, node, inputs, outputs):
    """reshape, permute, reshape."""
    x, b = inputs[0], node.attrs["blocksize"]
    n, c, h, w = low.shape(x)
    if not low.is_real(x):
        return False
    first, second = low.fresh(f"{outputs[0]}/split"), low.fresh(f"{outputs[0]}/moved")
    columns_first = node.get("mode", "DCR") == "DCR"
    if node.op == "SpaceToDepth":
        parts, last = (n, c, h // b, b, w // b, b), (n, c * b * b, h // b, w // b)
        axes = (0, 3, 5, 1, 2, 4) if columns_first else (0, 1, 3, 5, 2, 4)
    else:
        parts = (n, b, b, c // (b * b), h, w) if columns_first else (n, c // (b * b), b, b, h, w)
        axes = (0, 3, 4, 1, 5, 2) if columns_first else (0, 1, 4, 2, 5, 3)
        last = (n, c // (b * b), h * b, w * b)
    low.add("reshape", [x], [first], {"shape": parts}, node)
    low.add("permute", [first], [second], {"axes": axes}, node)
    return low.add("reshape", [second], outputs, {"shape": last}, node)


# ---- other sizes


@rule("Resize", "Upsample")
def resize(low, node, inputs, outputs):
    """Repeated pixels, or the map of `interpolate`, for images."""
    x, shape = inputs[0], low.shape(inputs[0])
    if not low.is_real(x) or len(shape) != 4 or 0 in shape:
        return False
    given = [known_value(low, inputs, i) for i in range(1, len(inputs))]
    old = node.op == "Upsample" or node.opset < 11
    _, scales, sizes = (None, given[0] if given else None, None) if old else (*given, None, None, None)[:3]
    scales = None if scales is not None and not old and not np.size(scales) else scales
    out, factors, _ = sizes_and_scales(node, shape, None, scales, sizes)
    if out[:2] != shape[:2] or out == shape or 0 in out:
        return False
    if node.get("mode", "nearest") == "nearest":
        return _repeated(low, node, x, shape, out, factors, outputs)
    transform = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    if node.get("mode") not in ("linear", "bilinear") or node.get("antialias", 0) or node.get("exclude_outside", 0):
        return False
    if transform not in ("half_pixel", "pytorch_half_pixel", "align_corners") or 1 in out[2:]:
        return False
    aligned = transform == "align_corners"
    if aligned and any(abs(f * n - o) > 1e-4 for f, n, o in zip(factors, shape, out, strict=True)):
        return False
    by_factor = None if aligned or sizes is not None else factors[2:]
    settings = ("bilinear", shape[2:], out[2:], aligned, tuple(by_factor or (None, None)), False)
    return low.add("interpolate", [x], outputs, {"settings": settings, "transposed": False}, node)


def _repeated(low, node, x, shape, out, factors, outputs):
    for axis in (2, 3):
        indices, _, outside = axis_map(node, shape[axis], out[axis], factors[axis], (0.0, 1.0))
        times = out[axis] // shape[axis]
        if out[axis] % shape[axis] or outside is not None or (indices[:, 0] != np.arange(out[axis]) // times).any():
            return False
    settings = ("nearest", shape[2:], out[2:], False, (None, None), False)
    return low.add("interpolate", [x], outputs, {"settings": settings, "transposed": False}, node)
