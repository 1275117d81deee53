"""NumPy's protocol for functions on whole arrays: those that the rest of the library uses on arrays of the device."""

import numpy as np

from ..._registry import select
from ...specs import conv_spec
from . import elementwise, shaping
from .array import CudaArray, empty, full, zeros
from .launch import launch
from .shaping import dense


def _where(condition, a, b):
    operands = [elementwise._operand("where", x) for x in (condition, a, b)]
    # Python numbers take the dtype of the array they meet.
    dtype = np.result_type(*(x.dtype if isinstance(x, (CudaArray, np.generic)) else x for x in operands[1:]))
    out = empty(elementwise._shape("where", operands), dtype)
    return elementwise.apply("where", operands, out, dtype.name)


def _clip(x, a_min=None, a_max=None, out=None, **kwargs):
    low, high = kwargs.get("min", a_min), kwargs.get("max", a_max)
    y = x if low is None else np.maximum(x, low)
    return y if high is None else np.minimum(y, high)


def _like(x, number, dtype, shape):
    return full(x.shape if shape is None else shape, number, x.dtype if dtype is None else dtype)


def matmul(a, b):
    """(.., m, k) @ (.., k, n), with the rules of `numpy.matmul` for vectors and leading axes: a grouped convolution of
    kernel size 1, one group for each matrix."""
    if not (isinstance(a, CudaArray) and isinstance(b, CudaArray) and a.ndim and b.ndim):
        raise TypeError("matmul: wants two arrays on the device with at least one axis")
    if a.ndim == 1 or b.ndim == 1:
        out = matmul(a if a.ndim > 1 else a.reshape(1, -1), b if b.ndim > 1 else b.reshape(-1, 1))
        shape = out.shape[:-2] + out.shape[-2:][a.ndim == 1 : 2 - (b.ndim == 1)]
        return out.reshape(shape)
    if a.shape[-1] != b.shape[-2] or a.dtype != b.dtype:
        raise ValueError(f"matmul: {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape} do not fit")
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    count = int(np.prod(lead, dtype=np.int64))
    if 0 in (count, rows, inner, columns):
        return zeros((*lead, rows, columns), a.dtype)
    a, b = (dense(shaping.expand(m, (*lead, *m.shape[-2:]))) for m in (a, b))
    shapes = (1, count * inner, columns), (count * rows, inner, 1)
    spec = conv_spec("matmul", 1, *shapes, None, 1, 0, 1, count, str(a.dtype))
    out = empty((*lead, rows, columns), a.dtype)
    launch(*select("conv.fwd", spec, device="cuda").emit(spec, {"x": b, "w": a, "b": None, "y": out}))
    return out


def _extreme(kind):
    return lambda x, axis=None, out=None, keepdims=False: getattr(x, kind)(axis=axis, keepdims=bool(keepdims))


def _move_axis(x, source, destination):
    axes = [a for a in range(x.ndim) if a != source % x.ndim]
    axes.insert(destination % x.ndim, source % x.ndim)
    return x.transpose(axes)


FUNCTIONS = {
    np.where: _where,
    np.clip: _clip,
    np.sum: _extreme("sum"),
    np.max: _extreme("max"),
    np.min: _extreme("min"),
    np.any: _extreme("any"),
    np.all: _extreme("all"),
    np.mean: _extreme("mean"),
    np.argmax: _extreme("argmax"),
    np.argmin: _extreme("argmin"),
    np.broadcast_to: lambda x, shape: shaping.expand(x, shape if isinstance(shape, (tuple, list)) else (shape,)),
    np.concatenate: lambda arrays, axis=0: shaping.concatenate(arrays, axis),
    np.reshape: lambda x, shape: x.reshape(shape),
    np.transpose: lambda x, axes=None: x.transpose(*(() if axes is None else (axes,))),
    np.moveaxis: _move_axis,
    np.swapaxes: lambda x, a, b: x.swapaxes(a, b),
    np.shape: lambda x: x.shape,
    np.ndim: lambda x: x.ndim,
    np.size: lambda x: x.size,
    np.copy: lambda x: x.copy(),
    np.empty_like: lambda x, dtype=None, shape=None: empty(
        x.shape if shape is None else shape, x.dtype if dtype is None else dtype
    ),
    np.zeros_like: lambda x, dtype=None, shape=None: _like(x, 0, dtype, shape),
    np.ones_like: lambda x, dtype=None, shape=None: _like(x, 1, dtype, shape),
    np.full_like: lambda x, fill_value, dtype=None, shape=None: _like(x, fill_value, dtype, shape),
    np.array_equal: lambda a, b: a.shape == b.shape and bool((a == b).all()),
}


def call_function(function, args, kwargs):
    """What `__array_function__` asks for."""
    if function not in FUNCTIONS:
        raise NotImplementedError(
            f'numpy.{function.__name__}: has no implementation on cuda; move its arguments with .to("cpu")'
        )
    return FUNCTIONS[function](*args, **kwargs)
