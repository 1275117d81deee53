"""Arrays on the device: a shape and steps over a flat buffer, and NumPy's protocols.

NumPy functions and operators on them run on the device and give arrays there; nothing becomes a NumPy array by itself.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..._device import DeviceArray
from .gpu import SIMULATED, TYPES, cuda
from .memory import lease

MOST = 2**31 - 1  # kernels count elements in int32


class Flags(NamedTuple):
    """What callers ask of NumPy's flags."""

    c_contiguous: bool
    writeable: bool
    aligned: bool = True


class CudaArray(DeviceArray, np.lib.mixins.NDArrayOperatorsMixin):
    """An array in the memory of the device.  `steps` are strides in elements; `base` is None for who made the buffer.

    `.numpy()` copies it to the CPU. `__cuda_array_interface__` and DLPack share it with Numba, CuPy, PyTorch and
    others; what they share is taken by fastconv's functions as it is.
    """

    __slots__ = ("_flat", "base", "buffer", "dtype", "offset", "owner", "shape", "size", "steps", "writeable")

    device = "cuda"
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def __init__(self, shape, dtype, buffer, owner, steps=None, offset=0, base=None, writeable=True):
        self.shape = shape
        self.dtype = dtype
        self.size = math.prod(shape)
        self.buffer = buffer
        self.owner = owner
        self.steps = dense_steps(shape) if steps is None else steps
        self.offset = offset
        self.base = base
        self.writeable = writeable
        self._flat = None

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def itemsize(self):
        return self.dtype.itemsize

    @property
    def nbytes(self):
        return self.size * self.dtype.itemsize

    @property
    def strides(self):
        """In bytes."""
        return tuple(s * self.dtype.itemsize for s in self.steps)

    @property
    def is_dense(self):
        """Whether elements follow one another in C order."""
        return self.size == 0 or all(
            n == 1 or s == d for n, s, d in zip(self.shape, self.steps, dense_steps(self.shape), strict=True)
        )

    @property
    def flags(self):
        return Flags(self.is_dense, self.writeable)

    @property
    def raw(self):
        """A flat device array for kernels, from the first element on."""
        if self._flat is None:
            self._flat = self.buffer[self.offset :] if self.offset else self.buffer
        return self._flat

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"CudaArray({np.array2string(self.numpy(), separator=', ', prefix='CudaArray(')}, dtype={self.dtype})"

    # -- to and from the CPU and other libraries -----------------------------------------------------------------------

    def numpy(self) -> np.ndarray:
        """A copy on the CPU, which waits until the values are there."""
        from .shaping import dense

        x = dense(self)
        if x.size == 0:
            return np.empty(x.shape, x.dtype)
        return x.raw[: x.size].copy_to_host().reshape(x.shape)

    def item(self):
        return self.numpy().item()

    def tolist(self):
        return self.numpy().tolist()

    def __bool__(self):
        return bool(self.numpy())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        return self.numpy().__index__()

    def __array__(self, dtype=None, copy=None):
        raise TypeError(f"this array of shape {self.shape} is on the device: NumPy wants .numpy() first")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if SIMULATED:
            raise AttributeError("__cuda_array_interface__: arrays of the simulator have no address on a device")
        start = self.buffer.__cuda_array_interface__["data"][0] + self.offset * self.dtype.itemsize
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (start if self.size else 0, not self.writeable),
            "strides": None if self.is_dense else self.strides,
            "stream": 1,  # the default stream, in which everything here runs
            "version": 3,
        }

    def __dlpack__(self, **options):
        from .dlpack import capsule

        return capsule(self, **options)

    def __dlpack_device__(self):
        return (2, 0)

    # -- views -------------------------------------------------------------------------------------------------------

    def _view(self, shape, steps, offset=0):
        base = self if self.base is None else self.base
        return CudaArray(shape, self.dtype, self.buffer, self.owner, steps, self.offset + offset, base, self.writeable)

    def view(self):
        return self._view(self.shape, self.steps)

    def reshape(self, *shape, order="C"):
        from .shaping import reshape

        return reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def ravel(self):
        return self.reshape(-1)

    def transpose(self, *axes):
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(axes) if axes else tuple(range(self.ndim))[::-1]
        return self._view(tuple(self.shape[a] for a in order), tuple(self.steps[a] for a in order))

    @property
    def T(self):  # noqa: N802
        return self.transpose()

    def swapaxes(self, a, b):
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.transpose(order)

    def squeeze(self, axis=None):
        axes = range(self.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        drop = {a % self.ndim for a in axes if self.shape[a] == 1}
        return self.reshape(tuple(n for i, n in enumerate(self.shape) if i not in drop))

    def __getitem__(self, key):
        from .shaping import get_item

        return get_item(self, key)

    def __setitem__(self, key, new):
        from .shaping import set_item

        set_item(self, key, new)

    def take(self, indices, axis):
        return self[(slice(None),) * (axis % self.ndim) + (indices,)]

    # -- copies and arithmetic -----------------------------------------------------------------------------------------

    def copy(self):
        from .elementwise import copied

        return copied(self, self.dtype)

    def astype(self, dtype, copy=True):
        from .elementwise import copied

        return copied(self, np.dtype(dtype)) if copy or self.dtype != dtype else self

    def fill(self, number):
        self[...] = number

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        from .elementwise import call_ufunc

        return call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function, types, args, kwargs):
        from .functions import call_function

        return call_function(function, args, kwargs)

    def sum(self, axis=None, dtype=None, keepdims=False):
        from .reduce import reduced

        return reduced("sum", self, axis, keepdims)

    def mean(self, axis=None, dtype=None, keepdims=False):
        total = self.sum(axis, None, keepdims)
        return total / (self.size // max(total.size, 1))

    def max(self, axis=None, keepdims=False):
        from .reduce import reduced

        return reduced("max", self, axis, keepdims)

    def min(self, axis=None, keepdims=False):
        from .reduce import reduced

        return reduced("min", self, axis, keepdims)

    def any(self, axis=None, keepdims=False):
        from .reduce import reduced

        return reduced("max", self.astype(np.bool_, copy=False), axis, keepdims)

    def all(self, axis=None, keepdims=False):
        from .reduce import reduced

        return reduced("min", self.astype(np.bool_, copy=False), axis, keepdims)

    def argmax(self, axis=None, keepdims=False):
        from .reduce import first_extreme

        return first_extreme("max", self, axis, keepdims)

    def argmin(self, axis=None, keepdims=False):
        from .reduce import first_extreme

        return first_extreme("min", self, axis, keepdims)


def dense_steps(shape):
    """Steps in elements of a dense array."""
    steps, step = [], 1
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))


def _checked(shape, dtype):
    count = math.prod(shape)
    if count > MOST:
        raise ValueError(f"an array on the device may have at most {MOST} elements, given shape {tuple(shape)}")
    if dtype.name not in TYPES:
        raise TypeError(f"arrays on the device have one of the dtypes {', '.join(TYPES)}; given {dtype}")
    return count


def empty(shape, dtype) -> CudaArray:
    """An uninitialised dense array from the pool."""
    shape, dtype = tuple(int(n) for n in shape), np.dtype(dtype)
    owner = lease(_checked(shape, dtype), dtype)
    return CudaArray(shape, dtype, owner.buffer, owner)


def full(shape, number, dtype) -> CudaArray:
    """A dense array of one number."""
    out = empty(shape, dtype)
    out.fill(number)
    return out


def zeros(shape, dtype) -> CudaArray:
    return full(shape, 0, dtype)


def upload(x) -> CudaArray:
    """A copy of a NumPy array, or of what `numpy.asarray` takes."""
    x = np.asarray(x)
    out = empty(x.shape, x.dtype)
    if x.size:
        out.buffer[: x.size].copy_to_device(np.ascontiguousarray(x).reshape(-1))
    return out


def adopt(x) -> CudaArray:
    """An array of another library, its memory shared."""
    if type(x).__name__ == "FakeCUDAArray":
        return _adopt_simulated(x)
    if not hasattr(type(x), "__cuda_array_interface__"):
        from .dlpack import imported

        return imported(x)
    return from_interface(x.__cuda_array_interface__, x)


def from_interface(described, owner) -> CudaArray:
    """What a CUDA array interface (version 2 or 3) describes; `owner` keeps the memory."""
    dtype = np.dtype(described["typestr"])
    shape = tuple(described["shape"])
    _checked(shape, dtype)
    strides = described.get("strides")
    steps = dense_steps(shape) if strides is None else tuple(s // dtype.itemsize for s in strides)
    if 0 in shape:
        return empty(shape, dtype)
    if min(steps, default=0) < 0 or (strides and any(s % dtype.itemsize for s in strides)):
        raise ValueError(f"device array of shape {shape}: strides {strides} must be positive whole elements; copy it")
    span = 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    flat = {**described, "shape": (span,), "strides": None}
    buffer = cuda.from_cuda_array_interface(flat, owner=owner)
    return CudaArray(shape, dtype, buffer, owner, steps, base=owner, writeable=not described["data"][1])


def _adopt_simulated(x):
    ary = x._ary
    _checked(ary.shape, ary.dtype)
    steps = tuple(s // ary.itemsize for s in ary.strides)
    if min(steps, default=0) < 0:
        raise ValueError(f"device array of shape {ary.shape}: strides {ary.strides} must be positive; copy it")
    span = 1 + sum((n - 1) * s for n, s in zip(ary.shape, steps, strict=True)) if ary.size else 0
    buffer = type(x)(np.lib.stride_tricks.as_strided(ary, (span,), (ary.itemsize,)))
    return CudaArray(ary.shape, ary.dtype, buffer, x, steps, base=x)
