"""Arithmetic element by element, with broadcasting: one kernel for each formula, dtypes and number of axes.

An operand is an array ("a", any steps, also 0) or a number ("s").  Dense operands of one shape take the kernel of one
axis; otherwise axes are merged where all operands allow it, and positions are divided into three or six of them.
"""

import math
from functools import cache

import numpy as np

from ..._device import DeviceArray
from .array import CudaArray, empty, upload
from .gpu import SIMULATED, THREADS, TYPES, blocks_for, cuda, helper, int32, kernel, uint32

MOST_AXES = 6
# The simulator has Python numbers, whose functions raise where those of the device give infinity or NaN.
exp = np.exp if SIMULATED else math.exp
log = np.log if SIMULATED else math.log
sqrt = np.sqrt if SIMULATED else math.sqrt
tanh = np.tanh if SIMULATED else math.tanh
power = np.power if SIMULATED else math.pow

# Formulas of three numbers; those of fewer ignore the rest.
FORMULAS = {
    "copy": lambda a, b, c: a,
    "add": lambda a, b, c: a + b,
    "subtract": lambda a, b, c: a - b,
    "multiply": lambda a, b, c: a * b,
    "divide": lambda a, b, c: a / b,
    "power": lambda a, b, c: power(a, b),
    "square": lambda a, b, c: a * a,
    "reciprocal": lambda a, b, c: 1 / a,
    "negative": lambda a, b, c: -a,
    "absolute": lambda a, b, c: abs(a),
    "sign": lambda a, b, c: a if a != a else 1 * (a > 0) - 1 * (a < 0),
    "exp": lambda a, b, c: exp(a),
    "log": lambda a, b, c: log(a),
    "sqrt": lambda a, b, c: sqrt(a),
    "tanh": lambda a, b, c: tanh(a),
    "maximum": lambda a, b, c: a if a != a or a >= b else b,
    "minimum": lambda a, b, c: a if a != a or a <= b else b,
    "greater": lambda a, b, c: a > b,
    "greater_equal": lambda a, b, c: a >= b,
    "less": lambda a, b, c: a < b,
    "less_equal": lambda a, b, c: a <= b,
    "equal": lambda a, b, c: a == b,
    "not_equal": lambda a, b, c: a != b,
    "isnan": lambda a, b, c: a != a,
    "isfinite": lambda a, b, c: a - a == 0,
    "bitwise_and": lambda a, b, c: a & b,
    "bitwise_or": lambda a, b, c: a | b,
    "bitwise_xor": lambda a, b, c: a ^ b,
    "logical_and": lambda a, b, c: a != 0 and b != 0,
    "logical_or": lambda a, b, c: a != 0 or b != 0,
    "logical_not": lambda a, b, c: a == 0,
    "invert": lambda a, b, c: a == 0,  # of bools: whole numbers are refused
    "where": lambda a, b, c: b if a else c,
}
_POSITION = helper(lambda x, i: x[uint32(i)])
_NUMBER = helper(lambda x, i: x)


@cache
def make_map(formula, operands, loop, result, axes):
    """out = formula(x, y, z).  operands: for each "a:dtype" or "s"; loop: dtype of the arithmetic, result: of `out`;
    axes: 1 (all dense), 3 or 6.  Each thread steps over elements."""
    f = helper(FORMULAS[formula])
    get_x, get_y, get_z = (_NUMBER if o == "s" else _POSITION for o in operands)
    first = "bool" if formula == "where" else loop
    A, LOOP, OUT = TYPES[first], TYPES[loop], TYPES[result]
    kinds = [(f"v={t}" if o == "s" else f"v:{o[2:]}") for o, t in zip(operands, (first, loop, loop), strict=True)]

    @kernel(*kinds, f"out:{result} n")
    def dense_map(x, y, z, out, n):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            out[uint32(i)] = OUT(f(A(get_x(x, i)), LOOP(get_y(y, i)), LOOP(get_z(z, i))))

    @kernel(*kinds, f"out:{result} n d*3 sx*3 sy*3 sz*3 so*3")
    def three_axes(x, y, z, out, n, d, sx, sy, sz, so):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest = uint32(uint32(i) // uint32(d[2]))
            i2 = int32(uint32(i) - rest * uint32(d[2]))
            i0 = int32(rest // uint32(d[1]))
            i1 = int32(rest - uint32(i0) * uint32(d[1]))
            at_x = int32(i0 * sx[0] + i1 * sx[1] + i2 * sx[2])
            at_y = int32(i0 * sy[0] + i1 * sy[1] + i2 * sy[2])
            at_z = int32(i0 * sz[0] + i1 * sz[1] + i2 * sz[2])
            at = uint32(i0 * so[0] + i1 * so[1] + i2 * so[2])
            out[at] = OUT(f(A(get_x(x, at_x)), LOOP(get_y(y, at_y)), LOOP(get_z(z, at_z))))

    @kernel(*kinds, f"out:{result} n d*6 sx*6 sy*6 sz*6 so*6")
    def six_axes(x, y, z, out, n, d, sx, sy, sz, so):
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            r = uint32(i)
            i5, r = uint32(r % uint32(d[5])), uint32(r // uint32(d[5]))
            i4, r = uint32(r % uint32(d[4])), uint32(r // uint32(d[4]))
            i3, r = uint32(r % uint32(d[3])), uint32(r // uint32(d[3]))
            i2, r = uint32(r % uint32(d[2])), uint32(r // uint32(d[2]))
            i1, i0 = uint32(r % uint32(d[1])), uint32(r // uint32(d[1]))
            at_x = i0 * sx[0] + i1 * sx[1] + i2 * sx[2] + i3 * sx[3] + i4 * sx[4] + i5 * sx[5]
            at_y = i0 * sy[0] + i1 * sy[1] + i2 * sy[2] + i3 * sy[3] + i4 * sy[4] + i5 * sy[5]
            at_z = i0 * sz[0] + i1 * sz[1] + i2 * sz[2] + i3 * sz[3] + i4 * sz[4] + i5 * sz[5]
            at = i0 * so[0] + i1 * so[1] + i2 * so[2] + i3 * so[3] + i4 * so[4] + i5 * so[5]
            out[uint32(at)] = OUT(f(A(get_x(x, at_x)), LOOP(get_y(y, at_y)), LOOP(get_z(z, at_z))))

    return {1: dense_map, 3: three_axes, 6: six_axes}[axes].of(formula)


def kernels(dtype):
    """For the test that compiles them."""
    for formula in FORMULAS:
        loop = "bool" if formula.startswith(("bitwise", "logical", "invert")) else dtype
        operands = [f"a:{loop}"] * 3 if formula != "where" else ["a:bool", f"a:{loop}", "s"]
        yield make_map(formula, tuple(operands), loop, loop, 1)
    for axes in (3, 6):
        yield make_map("add", (f"a:{dtype}", f"a:{dtype}", "s"), dtype, dtype, axes)


def merged(shape, *steps):
    """Sizes and steps with neighbouring axes merged where every operand steps over them as over one; at least one."""
    axes = []
    for n, *each in zip(shape, *steps, strict=True):
        if n == 1:
            continue
        if axes and all(last == n * s for last, s in zip(axes[-1][1:], each, strict=True)):
            axes[-1] = [axes[-1][0] * n, *each]
        else:
            axes.append([n, *each])
    return axes or [[1, *[0] * len(steps)]]


def _spread(x, shape):
    """The steps of x, broadcast to `shape`."""
    lead = len(shape) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, shape[lead:], strict=True)):
        raise ValueError(f"shape {x.shape} can't be broadcast to {tuple(shape)}")
    return (0,) * lead + tuple(0 if n == 1 else s for n, s in zip(x.shape, x.steps, strict=True))


def _overlaps(x, out):
    """Whether a thread may write what another has yet to read: the same buffer, seen in another way."""
    same = isinstance(x, CudaArray) and x.owner is out.owner
    return same and (x.offset, x.shape, x.steps) != (out.offset, out.shape, out.steps)


def apply(formula, inputs, out, loop):
    """out = formula(*inputs), each input an array or a number; `loop`: dtype of the arithmetic."""
    if not out.size:
        return out
    inputs = [*(copied(x, x.dtype) if _overlaps(x, out) else x for x in inputs), *[0] * (3 - len(inputs))]
    arrays = [x if isinstance(x, CudaArray) else None for x in inputs]
    steps = [(0,) * out.ndim if x is None else _spread(x, out.shape) for x in arrays]
    operands = tuple("s" if x is None else f"a:{x.dtype.name}" for x in arrays)
    values = [v.item() if isinstance(v, np.generic) else v for v in inputs]
    values = [v if x is None else x.raw for v, x in zip(values, arrays, strict=True)]
    axes = merged(out.shape, *steps, out.steps)
    blocks = blocks_for(out.size)
    if len(axes) == 1 and all(axes[0][1 + i] == 1 for i, x in enumerate([*arrays, out]) if x is not None):
        make_map(formula, operands, loop, out.dtype.name, 1)(blocks, THREADS, *values, out.raw, out.size)
        return out
    if len(axes) > MOST_AXES:
        raise ValueError(f"{formula}: more than {MOST_AXES} axes that can't be merged in shape {out.shape}")
    count = 3 if len(axes) <= 3 else 6
    axes = [[1, 0, 0, 0, 0]] * (count - len(axes)) + axes
    columns = [tuple(axis[i] for axis in axes) for i in range(5)]
    sizes, *strides = columns
    compiled = make_map(formula, operands, loop, out.dtype.name, count)
    compiled(blocks, THREADS, *values, out.raw, out.size, sizes, *strides)
    return out


# ---- NumPy's protocol for functions on elements


def _operand(name, x):
    """An array on the device or a number; NumPy arrays of one element are numbers."""
    if isinstance(x, (CudaArray, int, float, bool, np.generic)):
        return x
    if isinstance(x, np.ndarray):
        if x.ndim == 0:
            return x[()]
        raise TypeError(
            f"{name}: one operand is on the device, the other, of shape {x.shape}, on the CPU; "
            'move them together with .to("cuda") or .to("cpu")'
        )
    raise TypeError(f"{name}: wants arrays on the device or numbers, given {type(x).__name__}")


def _shape(name, operands):
    shapes = [x.shape for x in operands if isinstance(x, CudaArray)]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{name}: shapes {', '.join(map(str, shapes))} can't be broadcast together") from None


def _dtypes(ufunc, operands, dtype):
    """(loop dtype, result dtype) as NumPy has them; Python numbers take the dtype of the arrays."""
    kinds = [type(x) if type(x) in (int, float) else np.dtype(bool) if type(x) is bool else x.dtype for x in operands]
    resolved = ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout))
    if dtype is not None:
        return np.dtype(dtype), np.dtype(dtype)
    return np.result_type(*resolved[: ufunc.nin]), resolved[ufunc.nin]


def call_ufunc(ufunc, method, inputs, options):
    """What `__array_ufunc__` asks for: a NumPy function of elements, or `ufunc.reduce` of the last three."""
    name = ufunc.__name__
    if any(not isinstance(x, (DeviceArray, np.ndarray, np.generic, int, float, bool)) for x in inputs):
        return NotImplemented
    if ufunc is np.matmul and method == "__call__":
        from .functions import matmul

        return matmul(*inputs)
    if method == "reduce" and name in ("add", "maximum", "minimum"):
        axis, keep = options.get("axis", 0), options.get("keepdims", False)
        return getattr(inputs[0], {"add": "sum", "maximum": "max", "minimum": "min"}[name])(axis=axis, keepdims=keep)
    if method != "__call__" or name not in FORMULAS:
        what = name if method == "__call__" else f"{name}.{method}"
        raise NotImplementedError(f'{what}: has no implementation on cuda; move its arguments with .to("cpu")')
    if set(options) - {"out", "dtype", "casting"}:
        raise NotImplementedError(f"{name}: options {', '.join(options)} have no implementation on cuda")
    operands = [_operand(name, x) for x in inputs]
    loop, result = _dtypes(ufunc, operands, options.get("dtype"))
    if name == "invert" and loop != np.bool_:
        raise NotImplementedError(f"invert: wants bools on cuda, given {loop}")
    shape = _shape(name, operands)
    out = options["out"][0] if options.get("out") else empty(shape, result)
    if not isinstance(out, CudaArray):
        raise TypeError(f"{name}: the result is on the device, `out` on the CPU")
    if out.shape != shape:
        raise ValueError(f"{name}: result of shape {shape} into an array of shape {out.shape}")
    return apply(name, operands, _writeable(out), loop.name)


def _writeable(x):
    if not x.writeable:
        raise ValueError(f"an array of shape {x.shape} is read-only")
    return x


def copied(x, dtype):
    """A dense copy as `dtype`."""
    return apply("copy", [x], empty(x.shape, dtype), _wider(x.dtype, dtype))


def _wider(a, b):
    """The dtype in which a copy is made: that of the result, except that truth is asked of the source."""
    return (a if b == np.bool_ else b).name


def assign(out, new):
    """out[...] = new, a number or an array that broadcasts to out; NumPy arrays are uploaded."""
    if isinstance(new, np.ndarray) and new.ndim:
        new = upload(new)
    new = _operand("assignment", new)
    dtype = new.dtype if isinstance(new, (CudaArray, np.generic)) else out.dtype
    return apply("copy", [new], _writeable(out), _wider(dtype, out.dtype))
