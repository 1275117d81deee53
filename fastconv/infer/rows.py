"""How operations become rows of a program: `emit(node, inputs, outputs, kept)` for each op that has kernels.

inputs and outputs are dense arrays (None for inputs that are not there); an emitter gives the rows that compute the
outputs, or None where it can't (weights that are not constant, for instance, since rows keep no memory of their own
from one to the next): the node then runs as a step of Python.  `kept` keeps packed weights from plan to plan.
An output may be the array of an input named in `IN_PLACE`: of an activation's input, of a sum's operand, of a
convolution's residual.
"""

import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .._registry import select
from ..kernels.activation_mean import activation_mean_row
from ..kernels.arithmetic import Walk, affine_row, broadcast, combine_row, strides
from ..kernels.channel_norm import channel_norm_row
from ..kernels.elementwise import activation_row
from ..kernels.gathers import data_gathers, zeros
from ..kernels.move import move_row, repeat_row
from ..kernels.separable import row as separable_row
from ..kernels.shift import ShiftSpec, split_displacement
from ..kernels.softmax import softmax_row
from ..ops.interpolate import _maps as maps
from ..packing import dense
from ..simd_formulas import FORWARD
from ..specs import Epilogue, conv_spec
from . import ops, problems, recurrent, rows_matrix
from .store import LARGE, Store

_FLOATS = (np.dtype("float32"), np.dtype("float64"))


class Emission(NamedTuple):
    """The rows of a node, the algorithm's name, and its floating-point operations."""

    rows: tuple
    algorithm: str
    flops: int = 0


class Packed:
    """Constants in the forms that implementations like, kept for every plan that uses them; derived: what knows where
    constants come from."""

    def __init__(self, derived):
        self._derived, self._store = derived, Store()
        self._forms = {}
        self._constants = weakref.WeakValueDictionary()  # id -> dense constant

    def knows(self, *arrays):
        """Whether arrays are constants (None is one): their values may be read before the network runs."""
        return all(array is None or self._constants.get(id(array)) is array for array in arrays)

    def form(self, impl, spec, weight):
        """`weight` as `impl` likes it; None: as it lies."""
        key = self._derived.key(weight), impl.name, impl.layout(spec)
        if key not in self._forms:
            packed = impl.pack(spec, weight)
            self._forms[key] = None if packed is None else self._store.keep(packed)
        return self._forms[key]

    def dense(self, array):
        """The array, or one copy of it for all plans, dense."""
        found = array
        if not (array.flags.c_contiguous and array.flags.aligned):
            found = self._derived(dense, array)
        self._constants[id(found)] = found
        return found

    def lying(self, array):
        """A dense constant where it is read fastest."""
        if array.nbytes >= LARGE:
            return array
        key = self._derived.key(array), "lying"
        if key not in self._forms:
            self._forms[key] = self._store.keep(array)
        return self._forms[key]


def emit(node, inputs, outputs, kept):
    """The Emission of a node, or None."""
    emitter = _EMIT.get(node.op)
    arrays = [a for a in (*inputs, *outputs) if a is not None]
    mixed = len({a.dtype for a in arrays}) > 1 and node.op != "shift"  # which moves by whole numbers
    if emitter is None or any(a.dtype not in _FLOATS for a in arrays[:1]) or mixed:
        return None
    emission = emitter(node.attrs, inputs, outputs, kept)
    if emission is None or None in emission.rows or not emission.rows:
        return None
    varying = [a for a in arrays if not kept.knows(a)]
    return emission._replace(rows=tuple(_on_kept(row, varying, kept) for row in emission.rows))


def _on_kept(row, varying, kept):
    """The row with its constants where they are read fastest; rows on constants alone run once, as they are."""
    buffers = {
        name: row.values[name] for name in row.body.block.buffers if isinstance(row.values.get(name), np.ndarray)
    }
    if not any(np.may_share_memory(buffer, array) for buffer in buffers.values() for array in varying):
        return row
    moved = {name: kept.lying(array) for name, array in buffers.items() if kept.knows(array)}
    return row._replace(values={**row.values, **moved}) if moved else row


# ---- convolution and matrix products


def _bounds(attrs):
    low, high = attrs.get("low"), attrs.get("high")
    return -np.inf if low is None else float(low), np.inf if high is None else float(high)


def conv_rows(spec, x, w, b, y, kept, low, high, residual=None):
    """The Emission of a convolution with what follows it: y = clamp(conv + residual, low, high)."""
    if not kept.knows(w):
        return None
    impl = select("conv.fwd", spec, packed=True)
    packed = kept.form(impl, spec, w)
    buffers = {"x": x, "w": w, "b": b, "packed": packed, "y": y}
    rows, in_place = [], residual is not None and _same(residual, y)
    if impl.epilogue:
        if residual is not None and not in_place:
            rows.append(_copied(residual, y))
        epilogue = Epilogue(low, high, residual is not None)
        rows += impl.emit(spec, {**buffers, "epilogue": epilogue})
    elif residual is not None and in_place:
        return None
    else:
        rows += impl.emit(spec, buffers)
        if residual is not None:
            rows.append(_combined("add", y, residual, y, low, high))
        elif (low, high) != (-np.inf, np.inf):
            rows.append(activation_row("clip", y, y, low, high))
    return Emission(tuple(rows), impl.name, spec.flops())


def _same(a, b):
    return a.__array_interface__["data"] == b.__array_interface__["data"]


def _four(inputs) -> Any:
    """The inputs, those that are not given as None."""
    return (*inputs, *(None,) * (4 - len(inputs)))


def _conv(attrs, inputs, outputs, kept):
    x, w, b, residual = _four(inputs)
    spec = problems.conv_problem("conv", attrs, x.shape, w.shape, None, x.dtype)
    return conv_rows(spec, x, w, b, outputs[0], kept, *_bounds(attrs), residual)


def _linear(attrs, inputs, outputs, kept):
    """The rows of x as images of one pixel, or a product of matrices, whichever costs less."""
    (x, w, b, _), y = _four(inputs), outputs[0]
    rows, width = x.shape
    low, high = _bounds(attrs)
    pixel = conv_spec("linear", 1, (rows, width, 1), (w.shape[0], width, 1), None, 1, 0, 1, 1, x.dtype)
    spec = conv_spec("linear", 1, (1, w.shape[0], width), (rows, w.shape[0], 1), None, 1, 0, 1, 1, x.dtype)
    impl = select("conv.bwd_weights", spec)
    if kept.knows(w) and select("conv.fwd", pixel, packed=True).cost(pixel) < impl.cost(spec):
        return conv_rows(pixel, x, w, b, y, kept, low, high)
    emitted = [*impl.emit(spec, {"gy": x, "x": w, "gw": y, "b": None})]
    if b is not None:
        emitted.append(_combined("add", y, b, y, low, high))
    elif (low, high) != (-np.inf, np.inf):
        emitted.append(activation_row("clip", y, y, low, high))
    return Emission(tuple(emitted), impl.name, spec.flops())


def _conv_transpose(attrs, inputs, outputs, kept):
    (x, w, b, _), y = _four(inputs), outputs[0]
    spec = ops.mirrored(attrs, x, w, b)
    impl = select("conv.bwd_data", spec)
    buffers, takes_bias = {"gy": x, "w": w, "gx": y}, getattr(impl, "takes_bias", False)
    if not kept.knows(w, b) or len(data_gathers(spec)) < spec.sd * spec.sh * spec.sw:
        return None  # pixels that no tap reaches are cleared while rows are made, not when they run
    rows = [*impl.emit(spec, {**buffers, "b": b} if takes_bias and b is not None else buffers)]
    if b is not None and not takes_bias:
        planes = y.reshape(spec.n * spec.ic, spec.in_pixels)
        rows.append(affine_row(planes, ones(spec.ic, b.dtype), b, planes))
    return Emission(tuple(rows), impl.name, spec.flops())


# ---- pooling


def _pool(op):
    def rows(attrs, inputs, outputs, kept):
        spec = ops.pool_spec(op, attrs, inputs[0])
        impl = select(f"{op}.fwd", spec)
        buffers = {"x": inputs[0], "y": outputs[0]}
        if spec.indices:
            return None
        return Emission(tuple(impl.emit(spec, buffers)), impl.name, spec.flops())

    return rows


# ---- elementwise

_PARAMETERS = {"leaky_relu": ("slope",), "elu": ("alpha",)}


def _softmax(op):
    def rows(attrs, inputs, outputs, kept):
        row = softmax_row(inputs[0], outputs[0], attrs["axis"], op == "log_softmax")
        return Emission((row,), op, 4 * inputs[0].size)

    return rows


def _interpolate(attrs, inputs, outputs, kept):
    if attrs["transposed"]:
        return None
    _, values, axes = maps(*attrs["settings"], inputs[0].dtype.name, False)
    times = _repeats(axes)
    if times is not None:
        return Emission((repeat_row(inputs[0], outputs[0], *times),), "repeat")
    return Emission((separable_row(values, inputs[0], outputs[0]),), "resample_separable", 2 * outputs[0].size)


def _repeats(axes):
    """How often a map repeats lines and pixels, both whole numbers; None if it does something else."""
    times = []
    for axis in axes:
        count, rest = divmod(axis.out, max(axis.size, 1))
        same = not rest and axis.taps == 1 and (axis.weights == 1).all()
        if not same or not np.array_equal(axis.at.ravel(), np.arange(axis.out) // max(count, 1)):
            return None
        times.append(count)
    return None if times[0] != 1 or times[2] > 16 else times[1:]


def _activation(op):
    def rows(attrs, inputs, outputs, kept):
        x, y = inputs[0], outputs[0]
        alpha, beta = (*(attrs[name] for name in _PARAMETERS.get(op, ())), 0.0, 0.0)[:2]
        if op == "clip":
            alpha, beta = _bounds(attrs)
        return Emission((activation_row(op, x, y, alpha, beta),), f"{op}", x.size)

    return rows


def _activation_mean(attrs, inputs, outputs, kept):
    (x,), (y, mean) = inputs, outputs
    planes = x.shape[0] * x.shape[1], x.size // (x.shape[0] * x.shape[1])
    row = activation_mean_row(attrs["op"], x.reshape(planes), y.reshape(planes), mean)
    return Emission((row,), f"{attrs['op']} and mean", 2 * x.size)


def _shift(attrs, inputs, outputs, kept):
    """Displacements that are constant."""
    x, displacement = inputs
    if x.ndim != 4 or not kept.knows(displacement):
        return None
    displacement = displacement.astype(x.dtype)
    whole, fraction = split_displacement(np.rint(displacement) if attrs.get("whole") else displacement, x.shape[2:])
    n, channels, h, w = x.shape
    spec = ShiftSpec(n, channels, h, w, x.dtype.name)
    impl = select("shift.fwd", spec)
    buffers = {"x": x, "y": outputs[0], "whole": whole, "fraction": fraction}
    return Emission(tuple(impl.emit(spec, buffers)), impl.name)


def _combined(op, x, z, y, low=-np.inf, high=np.inf):
    walk = Walk(y.shape, broadcast(x.shape, y.shape), broadcast(z.shape, y.shape), strides(y.shape))
    return combine_row(op, x, z, y, walk, low, high)


@lru_cache(maxsize=1024)
def ones(size, dtype):
    return np.ones(size, dtype)


def _copied(x, y):
    return combine_row("copy", x, x, y, Walk(y.shape, *(strides(y.shape),) * 3))


def _by_channel(x, z):
    """The values of z, one for each channel or each channel of each image of x (n, c, *size), or None."""
    if x.ndim < 3 or z.size not in (x.shape[1], x.shape[0] * x.shape[1]) or z.ndim not in (x.ndim - 1, x.ndim):
        return None
    lead = z.shape[: z.ndim - x.ndim + 2]
    return z.reshape(-1) if lead in (x.shape[1:2], (1, x.shape[1]), x.shape[:2]) else None


def _binary(op):
    def rows(attrs, inputs, outputs, kept):
        x, z = inputs
        values = _by_channel(x, z) if op in ("mul", "add") and x.shape == outputs[0].shape else None
        if values is not None:
            scale, shift = (
                (values, zeros(values.size, x.dtype)) if op == "mul" else (ones(values.size, x.dtype), values)
            )
            return _affine(attrs, (x, scale, shift), outputs, kept)
        return Emission((_combined(op, x, z, outputs[0], *_bounds(attrs)),), op, outputs[0].size)

    return rows


def _affine(attrs, inputs, outputs, kept):
    x, scale, shift = inputs
    planes = x.shape[0] * x.shape[1]
    pixels = x.size // max(1, planes)
    row = affine_row(x.reshape(planes, pixels), scale, shift, outputs[0].reshape(planes, pixels), *_bounds(attrs))
    return Emission((row,), "affine", 2 * x.size)


def _channel_norm(attrs, inputs, outputs, kept):
    x, w, b, _ = _four(inputs)
    n, channels = x.shape[:2]
    w, b = ones(channels, x.dtype) if w is None else w, zeros(channels, x.dtype) if b is None else b
    image, y = x.reshape(n, channels, -1), outputs[0]
    if 0 in x.shape:
        return None
    return Emission((channel_norm_row(image, w, b, y, attrs["eps"]),), "channel_norm", 8 * x.size)


# ---- copies in another order


def _moved(x, y, shape, steps):
    """y, dense, of x read as an array of `shape` with these strides."""
    return Emission((move_row(x, y, shape, steps, strides(shape)),), "copy")


def _permute(attrs, inputs, outputs, kept):
    x, y = inputs[0], outputs[0]
    steps = strides(x.shape)
    steps = tuple(steps[axis] for axis in attrs["axes"])
    return _moved(x, y, y.shape, steps)


def _channel_shuffle(attrs, inputs, outputs, kept):
    x, axis, groups = inputs[0], attrs["axis"], attrs["groups"]
    split = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    order = [*range(x.ndim + 1)]
    order[axis], order[axis + 1] = axis + 1, axis
    shape, steps = [split[i] for i in order], strides(split)
    return _moved(x, outputs[0], shape, tuple(steps[i] for i in order))


def _expand(attrs, inputs, outputs, kept):
    x, y = inputs[0], outputs[0]
    return _moved(x, y, y.shape, broadcast(x.shape, y.shape))


def _copy(attrs, inputs, outputs, kept):
    return Emission((_copied(inputs[0].reshape(-1), outputs[0].reshape(-1)),), "copy")


def _index(attrs, inputs, outputs, kept):
    """Slices alone; what they leave out lies between the runs that are read."""
    x, y = inputs[0], outputs[0]
    found = slices(attrs["key"], x.shape)
    if found is None:
        return None
    offset, shape, steps = found
    return _moved(x.reshape(-1)[offset:], y, shape, steps)


def slices(key, shape):
    """(offset, shape, strides) of an array's part that a key of slices with positive steps, numbers and Ellipsis
    selects; None for other keys."""
    key = key if isinstance(key, tuple) else (key,)
    if any(not isinstance(k, (slice, int, type(Ellipsis))) or isinstance(k, bool) for k in key):
        return None
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key = key[:at] + (slice(None),) * (len(shape) - len(key) + 1) + key[at + 1 :]
    key = key + (slice(None),) * (len(shape) - len(key))
    offset, sizes, steps = 0, [], []
    for k, size, step in zip(key, shape, strides(shape), strict=True):
        if isinstance(k, int):
            offset += (k % size) * step
            continue
        start, _, stride = k.indices(size)
        if stride < 1:
            return None
        offset += start * step
        sizes.append(len(range(*k.indices(size))))
        steps.append(stride * step)
    return offset, tuple(sizes), tuple(steps)


def cat_rows(axis, parts, y):
    """Rows that copy arrays into their places along an axis of y; parts: (first position along the axis, array)."""
    steps, rows = strides(y.shape), []
    for first, x in parts:
        place = y.reshape(-1)[first * steps[axis] :]
        rows.append(move_row(x, place, x.shape, strides(x.shape), steps))
    return rows


def _cat(attrs, inputs, outputs, kept):
    """Inputs that lie in their place already are not copied."""
    axis, parts, first = attrs["axis"], [], 0
    steps = strides(outputs[0].shape)
    for x in inputs:
        place = outputs[0].reshape(-1)[first * steps[axis] :]
        if not _same(x, place):
            parts.append((first, x))
        first += x.shape[axis]
    return Emission(tuple(cat_rows(axis, parts, outputs[0])), "copy") if parts else None


def _pad(attrs, inputs, outputs, kept):
    """A constant everywhere, then x in its place."""
    x, y, pads = inputs[0], outputs[0], attrs["pads"]
    if attrs["mode"] != "constant" or any(n < 0 for pair in pads for n in pair) or x.ndim != len(pads):
        return None
    steps = strides(y.shape)
    place = y.reshape(-1)[sum(before * step for (before, _), step in zip(pads, steps, strict=True)) :]
    filled = move_row(_number(attrs.get("fill") or 0.0, x.dtype), y.reshape(-1), (y.size,), (0,), (1,))
    return Emission((filled, move_row(x, place, x.shape, strides(x.shape), steps)), "pad")


@lru_cache(maxsize=1024)
def _number(value, dtype):
    return np.full(1, value, dtype)


def _described(emitter):
    """An emitter of one that gives (rows, algorithm, operations) or None."""

    def rows(attrs, inputs, outputs, kept):
        found = emitter(attrs, inputs, outputs, kept)
        return None if found is None else Emission(*found)

    return rows


_EMIT = {
    **{op: _described(emitter) for op, emitter in {**rows_matrix.EMIT, **recurrent.EMIT}.items()},
    "conv": _conv,
    "linear": _linear,
    "conv_transpose": _conv_transpose,
    **{op: _pool(op) for op in ("max_pool", "avg_pool", "adaptive_max_pool", "adaptive_avg_pool")},
    **{op: _activation(op) for op in FORWARD if op in ops.UNARY},
    **{op: _binary(op) for op in ("add", "sub", "mul", "div")},
    "activation_mean": _activation_mean,
    **dict.fromkeys(("shift", "active_shift"), _shift),
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "interpolate": _interpolate,
    "affine": _affine,
    "channel_norm": _channel_norm,
    "permute": _permute,
    "channel_shuffle": _channel_shuffle,
    "expand": _expand,
    "identity": _copy,
    "reshape": _copy,
    "index": _index,
    "cat": _cat,
    "pad": _pad,
}

# op -> inputs whose memory the output may take over when nobody needs them any more
IN_PLACE = {
    **dict.fromkeys(ops.UNARY - {"softmax", "log_softmax"}, (0,)),
    **dict.fromkeys(("add", "sub", "mul", "div"), (0, 1)),
    "activation_mean": (0,),
    "affine": (0,),
    "channel_norm": (0,),
    "conv": (3,),
}
