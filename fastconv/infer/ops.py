"""The table of operations: for each, how to evaluate it eagerly, what types it gives, and how it becomes rows.

An op is `evaluate(attrs, *arrays) -> array or tuple`, `infer(attrs, *types) -> (Type, ...)` and, where it runs inside a
compiled program, an emitter in `rows.py`.  Inputs that are not there are None.  Every class of `fastconv.ops` and
`fastconv.autograd` is an op of its `Op.name` without being listed: what `forward` takes as arrays are the inputs, in
order; the rest are attributes by the parameter's name, for instance

    relu(x)   relu6(x)   sigmoid(x)   tanh(x)   silu(x)   gelu(x)   hardswish(x)   hardsigmoid(x)   mish(x)   exp(x)
    leaky_relu(x; slope)   elu(x; alpha)   prelu(x, weight)   clip(x; low, high)   softmax(x; axis)
    add(a, b)   sub   mul   div   pow   where(condition, a, b)   matmul(a, b)   linear(x (rows, I), weight (O, I), bias)
    permute(x; axes)   expand(x; shape)   index(x; key)   cat(*arrays; axis)   cast(x; dtype)
    pad(x; pads ((before, after) per axis), mode, fill)   sum(x; axes, keepdim)   mean(x; axes, keepdim)
    extreme(x; axes, keepdim, sign)   channel_shuffle(x; axis, groups)   pixel_shuffle(x; factor)

Where `forward` takes a spec, which holds for one shape only, the op here has attributes instead:

    conv(x, w, b, residual; stride, padding, dilation, groups, low, high)
        padding: a number, one per dimension, or (before, after) pairs; clamp(conv + residual, low, high): residual has
        the shape of the output; only passes write residual, low and high.
    conv_transpose(x, w, b; stride, padding, output_padding, groups, dilation)
    max_pool(x; kernel, stride, padding, dilation, ceil_mode, indices)   with indices also their positions
    avg_pool(x; kernel, stride, padding, ceil_mode, count_include_pad, divisor)
    adaptive_max_pool(x; output_size, indices)   adaptive_avg_pool(x; output_size)
    batch_norm(x, mean, var, weight, bias; eps)  in evaluation
    affine(x, scale, shift; low, high)           clamp(x scale + shift), one value per channel (axis 1)
    activation_mean(x; op)                       an activation, and the mean of each plane of its result
    channel_norm(x, weight, bias; eps)           the channels (axis 1) of each pixel normalised
    add, sub, mul, div, linear                   have low and high too, which passes write
    reshape(x; shape)   one -1 allowed; identity(x)
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ..autograd import Op, basic
from ..ops import norm, pool
from ..ops.conv import Conv
from ..ops.conv_transpose import ConvTranspose, _mirrored_spec
from ..ops.layer_norm import layer_norm
from ..ops.linear import Linear
from . import problems


class OpDef(NamedTuple):
    """evaluate(attrs, *arrays) -> array or tuple of arrays.  infer(attrs, *types) -> ((shape, dtype), ...), with shape
    None where it depends on values; None: found by evaluating on zeros."""

    evaluate: Callable
    infer: Callable | None = None


_table: dict[str, OpDef] = {}


def register(name, op):
    """Add an operation to the table; ValueError if the name is taken."""
    if name in _table:
        raise ValueError(f"there is an operation {name!r} already")
    _table[name] = op


def known(name):
    """Whether there is an operation of this name."""
    return name in _table or _op_class(name) is not None


def definition(name):
    """The OpDef of an operation; ValueError for an unknown name."""
    if name in _table:
        return _table[name]
    cls = _op_class(name)
    if cls is None:
        raise ValueError(f"unknown operation {name!r}")
    return _generic(cls)


def infer_types(name, attrs, types, outputs=1):
    """((shape, dtype), ...) of a node's outputs; both None where the shape of an input is known to nobody yet."""
    op = definition(name)
    if any(t is not None and t.shape is None for t in types):
        return ((None, None),) * outputs
    if op.infer is not None:
        return op.infer(attrs, *types)
    results = op.evaluate(attrs, *(None if t is None else _zeros(t.shape, t.dtype) for t in types))
    return tuple((a.shape, a.dtype) for a in (results if isinstance(results, tuple) else (results,)))


def _zeros(shape, dtype):
    return np.broadcast_to(np.zeros((), dtype), shape)


# ---- every recorded operation, as it is


def op_name(cls):
    """The name in the table of a class of recorded operations."""
    return _NAMES.get(cls.__name__, cls.name)


_NAMES = {"ProductNT": "product_nt", "ProductNN": "product_nn", "ProductTN": "product_tn"}


@cache
def _op_class(name):
    return next((cls for cls in _subclasses(Op) if op_name(cls) == name), None)


def _subclasses(cls):
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


class Parameter(NamedTuple):
    """A parameter of an op's `forward`: `many` takes all further arrays, or as an attribute all further numbers."""

    name: str
    many: bool
    optional: bool


_NUMBERS = {"leaky_relu": ("slope",), "elu": ("alpha",)}  # names of what activations take besides x


@cache
def parameters(cls):
    """The parameters of an op's `forward`, without the context."""
    if cls.name in _NUMBERS:
        return (Parameter("x", False, False), *(Parameter(name, False, False) for name in _NUMBERS[cls.name]))
    given = tuple(inspect.signature(cls.forward).parameters.values())[1:]
    return tuple(Parameter(p.name, p.kind is p.VAR_POSITIONAL, p.default is not p.empty) for p in given)


@cache
def _generic(cls):
    def evaluate(attrs, *arrays):
        given, args = list(arrays), []
        for parameter in parameters(cls):
            if parameter.name in attrs:
                args += attrs[parameter.name] if parameter.many else (attrs[parameter.name],)
            elif parameter.many:
                args += given
                given = []
            elif given:
                args.append(given.pop(0))
            elif not parameter.optional:
                raise TypeError(f"{cls.name}: needs {parameter.name}")
        return cls.apply(*args)

    return OpDef(evaluate, _INFER.get(cls.name))


# ---- operations of the same shape as their inputs, broadcast

_UNARY = """relu relu6 leaky_relu elu sigmoid silu gelu gelu_tanh hardswish hardsigmoid tanh_softplus mish softplus
    tanh exp log sqrt abs neg clip erf softmax log_softmax"""
UNARY = frozenset(_UNARY.split())
BINARY = frozenset(("add", "sub", "mul", "div", "pow", "prelu"))


def _infer_unary(attrs, x):
    return (x,)


def _infer_binary(attrs, a, b):
    return ((np.broadcast_shapes(a.shape, b.shape), np.result_type(a.dtype, b.dtype)),)


def _infer_cat(attrs, *types):
    axis = attrs["axis"]
    first = types[0].shape
    for t in types:
        if t.shape[:axis] + t.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ValueError(f"cat: shapes may differ in axis {axis} only, given {[t.shape for t in types]}")
    shape = (*first[:axis], sum(t.shape[axis] for t in types), *first[axis + 1 :])
    return ((shape, np.result_type(*(t.dtype for t in types))),)


def _infer_linear(attrs, x, weight, bias=None):
    return (((x.shape[0], weight.shape[0]), x.dtype),)


def _infer_matmul(attrs, a, b):
    if len(a.shape) < 2 or len(b.shape) < 2:
        found = np.matmul(_zeros(a.shape, a.dtype), _zeros(b.shape, b.dtype))
        return ((found.shape, found.dtype),)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: {a.shape[-1]} columns times {b.shape[-2]} rows; shapes {a.shape} and {b.shape}")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (((*lead, a.shape[-2], b.shape[-1]), np.result_type(a.dtype, b.dtype)),)


_INFER: dict[str, Callable] = {
    **dict.fromkeys((*UNARY, "layer_norm"), lambda attrs, x, *rest: (x,)),
    "matmul": _infer_matmul,
    **dict.fromkeys(BINARY, _infer_binary),
    "cat": _infer_cat,
    "linear": _infer_linear,
}


# ---- operations that clamp their result, where passes say so


def _clamped(attrs, y):
    low, high = attrs.get("low"), attrs.get("high")
    return y if low is None and high is None else np.clip(y, low, high)


def _register_clamped(name, cls):
    plain = _generic(cls)
    register(name, OpDef(lambda attrs, *arrays: _clamped(attrs, plain.evaluate({}, *arrays)), _INFER[name]))


for _class in (basic.Add, basic.Sub, basic.Mul, basic.Div, Linear):
    _register_clamped(_class.name, _class)


# ---- convolution


def _conv_problem(attrs, x, w, b):
    shapes = x.shape, w.shape, None if b is None else b.shape
    return problems.conv_problem("conv", attrs, *shapes, x.dtype)


def _conv(attrs, x, w, b=None, residual=None):
    y = Conv.apply(x, w, b, _conv_problem(attrs, x, w, b))
    return _clamped(attrs, y if residual is None else y + residual)


def _infer_conv(attrs, x, w, b=None, residual=None):
    spec = _conv_problem(attrs, x, w, b)
    return ((problems.like(spec.y_shape, x.shape, spec.ndim), x.dtype),)


def mirrored(attrs, x, w, b):
    """The ConvSpec whose data gradient a transposed convolution is."""
    ndim = len(w.shape) - 2
    shapes = problems.batched(x.shape, ndim), tuple(w.shape), None if b is None else tuple(b.shape)
    names = ("stride", 1), ("padding", 0), ("output_padding", 0), ("groups", 1), ("dilation", 1)
    return _mirrored_spec("conv_transpose", ndim, *shapes, *(attrs.get(*name) for name in names), x.dtype)


def _infer_conv_transpose(attrs, x, w, b=None):
    spec = mirrored(attrs, x, w, b)
    return ((problems.like(spec.x_shape, x.shape, spec.ndim), x.dtype),)


register("conv", OpDef(_conv, _infer_conv))
register(
    "conv_transpose",
    OpDef(
        lambda attrs, x, w, b=None: ConvTranspose.apply(x, w, b, mirrored(attrs, x, w, b)),
        _infer_conv_transpose,
    ),
)


# ---- pooling


def pool_spec(op, attrs, x):
    """The spec of any of the four poolings."""
    make = problems.adaptive_problem if op.startswith("adaptive") else problems.pool_problem
    return make(op, attrs, tuple(x.shape), x.dtype)


def _register_pool(op):
    def evaluate(attrs, x):
        spec = pool_spec(op, attrs, x)
        return pool.AvgPool.apply(x, spec) if op.endswith("avg_pool") else pool.MaxPool.apply(x, spec, spec.indices)

    def infer(attrs, x):
        spec = pool_spec(op, attrs, x)
        shape = problems.like(spec.y_shape, x.shape, spec.ndim)
        return ((shape, x.dtype), (shape, np.dtype("int64"))) if spec.indices else ((shape, x.dtype),)

    register(op, OpDef(evaluate, infer))


for _name in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool"):
    _register_pool(_name)


# ---- normalisation and shapes


def _batch_norm(attrs, x, mean, var, weight=None, bias=None):
    return norm.batch_norm(x, mean, var, weight, bias, False, 0.0, attrs.get("eps", 1e-5))


def _infer_reshape(attrs, x):
    """The wanted shape, a -1 replaced by what is left."""
    wanted, count = tuple(attrs["shape"]), int(np.prod(x.shape, dtype=np.int64))
    known_part = int(np.prod([n for n in wanted if n != -1], dtype=np.int64))
    missing = wanted.count(-1)
    if missing > 1 or (missing and (known_part == 0 or count % known_part)) or (not missing and known_part != count):
        raise ValueError(f"reshape: shape {tuple(x.shape)} has {count} elements, wanted {wanted}")
    return ((tuple(count // known_part if n == -1 else int(n) for n in wanted), x.dtype),)


def _affine(attrs, x, scale, shift):
    column = (-1, *(1,) * (x.ndim - 2))
    return _clamped(attrs, x * scale.reshape(column) + shift.reshape(column))


def _channel_norm(attrs, x, weight=None, bias=None):
    last = np.moveaxis(x, 1, -1)
    return np.moveaxis(layer_norm(last, last.shape[-1:], weight, bias, attrs["eps"]), -1, 1)


# activations without parameters that `activation_mean` may stand for
WITH_MEAN = frozenset(
    ("sigmoid", "silu", "gelu", "gelu_tanh", "hardswish", "hardsigmoid", "mish", "softplus", "tanh", "relu")
)


def _activation_mean(attrs, x):
    """An activation, and the means of its planes."""
    y = definition(attrs["op"]).evaluate({}, x)
    return y, y.mean(tuple(range(2, y.ndim)), keepdims=True)


def _infer_activation_mean(attrs, x):
    return (x, ((*x.shape[:2], *(1,) * (len(x.shape) - 2)), x.dtype))


register("activation_mean", OpDef(_activation_mean, _infer_activation_mean))
register("channel_norm", OpDef(_channel_norm, lambda attrs, x, *rest: (x,)))
register("affine", OpDef(_affine, lambda attrs, x, *rest: (x,)))
register("batch_norm", OpDef(_batch_norm, lambda attrs, x, *rest: (x,)))
register("reshape", OpDef(lambda attrs, x: x.reshape(attrs["shape"]), _infer_reshape))
register("identity", OpDef(lambda attrs, x: x, _infer_unary))
