"""`fc.Tensor`: a NumPy array that remembers how it was made, with the method names of `torch.Tensor`.

Every differentiable method is one op of `basic.py`, `shaping.py` or `reduce.py`; this file only gives them their
places.
"""

import numpy as np

from .._device import ARRAYS, DeviceArray, adopt, as_array, device_of, is_foreign, move
from . import basic, engine, reduce, shaping
from .op import Variable, is_grad_enabled, tensor_class, wrap

_DTYPE_KINDS = "fiub"


@tensor_class
class Tensor(Variable):
    """An array with a gradient.

    data: anything `numpy.asarray` takes. Arrays keep their dtype and are shared, not copied; Python floats become
    float32. requires_grad: whether operations on it are recorded, so that `backward` fills `.grad`; floating point
    only.

    Attributes: `data` (the array), `grad` (None or a Tensor of the same shape), `requires_grad`, `shape`, `dtype`,
    `ndim`, `size`, `T`, `mT`, `is_leaf`. Comparisons return plain boolean arrays. NumPy's own functions do not take
    Tensors, since they would lose the graph: use the methods, or `.detach().numpy()`.
    """

    __slots__ = ()
    __array_ufunc__ = None  # `array * tensor` goes to Tensor.__rmul__, and `np.exp(tensor)` is an error

    def __init__(self, data, requires_grad=False, dtype=None):
        array = data._data if isinstance(data, Variable) else as_array(data)
        if array.dtype.kind not in _DTYPE_KINDS:
            raise TypeError(f"Tensor: wants numbers or bools, got {type(data).__name__} of dtype {array.dtype}")
        if dtype is None and array.dtype == np.float64 and not isinstance(data, (*ARRAYS, np.generic, Variable)):
            dtype = getattr(data, "dtype", np.float32)
        self._data = array if dtype is None else array.astype(dtype, copy=False)
        self._grad = None
        self._needs = False
        self._node = None
        self._index = 0
        self._version = 0
        if requires_grad:
            self.requires_grad = True

    # -- the array ---------------------------------------------------------------------------------------------------

    @property
    def data(self) -> np.ndarray:
        """The array itself. Who reads it may write to it: caches made from the array (packed weights) are renewed."""
        self._version += 1
        return self._data

    @data.setter
    def data(self, array):
        array = array._data if isinstance(array, Variable) else as_array(array)
        if self._needs and array.dtype.kind != "f":
            raise TypeError(f"data: a tensor that requires a gradient wants floating point, got {array.dtype}")
        self._data = array
        self._version += 1

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._data.size

    def dim(self) -> int:
        return self._data.ndim

    def numel(self) -> int:
        return self._data.size

    def numpy(self) -> np.ndarray:
        """The array, shared; from a device, a copy. A tensor that requires a gradient must be detached first: its graph
        would be lost."""
        if self._needs:
            raise RuntimeError("numpy: this Tensor requires a gradient; use .detach().numpy()")
        return move(self.data, "cpu")

    @property
    def device(self) -> str:
        """Where the array is: "cpu" or "cuda"."""
        return device_of(self._data)

    def item(self):
        """The one element, as a Python number."""
        if self._data.size != 1:
            raise ValueError(f"item: wants exactly one element, got {self._data.size} in shape {self.shape}")
        return self._data.item()

    def tolist(self):
        return self._data.tolist()

    def detach(self) -> "Tensor":
        """The same memory, without a graph."""
        return wrap(self._data.view())

    def clone(self) -> "Tensor":
        """A copy; gradients flow through it."""
        return self * 1 if self._needs and is_grad_enabled() else wrap(self._data.copy())

    def __array__(self, dtype=None, copy=None):
        if isinstance(self._data, DeviceArray):
            raise TypeError(f'this Tensor is on {self.device}: NumPy wants .numpy() or .to("cpu") first')
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    @property
    def __cuda_array_interface__(self):
        if self._needs or self.device != "cuda":
            raise AttributeError("__cuda_array_interface__ is there on CUDA Tensors that require no gradient only")
        return self._data.__cuda_array_interface__  # pyright: ignore[reportAttributeAccessIssue]

    def __dlpack__(self, **options):
        if self._needs:
            raise RuntimeError("__dlpack__: this Tensor requires a gradient; use .detach()")
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()

    def __len__(self):
        if self.ndim == 0:
            raise TypeError("len() of a 0-d Tensor")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self._data)

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        return self._data.__index__()

    def __repr__(self):
        text = np.array2string(move(self._data, "cpu"), separator=", ", prefix="Tensor(")
        plain = self.dtype in (np.float32, np.int64, np.bool_)
        notes = [] if plain else [f"dtype={self.dtype}"]
        if self.device != "cpu":
            notes.append(f"device={self.device!r}")
        if self._node is not None:
            notes.append(f"grad_fn={self._node.op.name}")
        elif self._needs:
            notes.append("requires_grad=True")
        return f"Tensor({', '.join([text, *notes])})"

    def __format__(self, spec):
        return format(self.item(), spec) if self.ndim == 0 and spec else str(self)

    def __copy__(self):
        return self.__deepcopy__({}, copy=False)

    def __deepcopy__(self, memo, copy=True):
        if self._node is not None:
            raise RuntimeError("only leaf Tensors can be copied this way; use .clone()")
        out = type(self).__new__(type(self))
        Tensor.__init__(out, self._data.copy() if copy else self._data, self._needs)
        if self._grad is not None:
            out._grad = wrap(self._grad._data.copy())
        memo[id(self)] = out
        return out

    def __reduce__(self):
        if self._node is not None:
            raise RuntimeError("only leaf Tensors can be pickled; use .detach()")
        return type(self), (self._data, self._needs)

    # -- the graph ---------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        return self._needs

    @requires_grad.setter
    def requires_grad(self, on):
        if self._node is not None and not on:
            raise RuntimeError("requires_grad can be switched off on leaf Tensors only; use .detach()")
        if on and self.dtype.kind != "f":
            raise TypeError(f"only floating-point Tensors can require a gradient, this one is {self.dtype}")
        self._needs = bool(on)

    def requires_grad_(self, requires_grad=True) -> "Tensor":
        self.requires_grad = requires_grad
        return self

    @property
    def is_leaf(self) -> bool:
        return self._node is None

    @property
    def grad(self) -> "Tensor | None":
        return self._grad  # pyright: ignore[reportReturnType]

    @grad.setter
    def grad(self, g):
        if g is not None:
            g = g if isinstance(g, Variable) else wrap(as_array(g))
            if g._data.shape != self.shape or g._data.dtype != self.dtype:
                raise ValueError(
                    f"grad: wants shape {self.shape} and dtype {self.dtype}, got {g._data.shape} and {g._data.dtype}"
                )
        self._grad = g

    def backward(self, grad=None, retain_graph=False, create_graph=False):
        """Add the gradient of this tensor, times `grad`, to `.grad` of every leaf it was made from.

        `grad` has this tensor's shape; a scalar needs none. The arrays kept for backward are freed on the way unless
        `retain_graph`; with `create_graph` the gradients are recorded, so that they can be differentiated again.
        """
        engine.backward((self,), (grad,), retain_graph or create_graph, create_graph)

    # -- arithmetic --------------------------------------------------------------------------------------------------

    def __add__(self, other):
        return basic.add(self, other)

    __radd__ = __add__

    def __sub__(self, other):
        return basic.sub(self, other)

    def __rsub__(self, other):
        return basic.sub(other, self)

    def __mul__(self, other):
        return basic.mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return basic.div(self, other)

    def __rtruediv__(self, other):
        return basic.div(other, self)

    def __pow__(self, other):
        return basic.pow(self, other)

    def __rpow__(self, other):
        return basic.pow(other, self)

    def __matmul__(self, other):
        return basic.matmul(self, other)

    def __rmatmul__(self, other):
        return basic.matmul(other, self)

    def __neg__(self):
        return basic.neg(self)

    def __abs__(self):
        return basic.abs(self)

    def __eq__(self, other):
        return self._data == basic.value(other)

    def __ne__(self, other):
        return self._data != basic.value(other)

    def __lt__(self, other):
        return self._data < basic.value(other)

    def __le__(self, other):
        return self._data <= basic.value(other)

    def __gt__(self, other):
        return self._data > basic.value(other)

    def __ge__(self, other):
        return self._data >= basic.value(other)

    __hash__ = object.__hash__

    def matmul(self, other):
        return basic.matmul(self, other)

    def pow(self, exponent):
        return basic.pow(self, exponent)

    def exp(self):
        return basic.exp(self)

    def log(self):
        return basic.log(self)

    def sqrt(self):
        return basic.sqrt(self)

    def tanh(self):
        return basic.tanh(self)

    def abs(self):
        return basic.abs(self)

    def clip(self, min=None, max=None):
        return basic.clip(self, min, max)

    clamp = clip

    # -- reductions --------------------------------------------------------------------------------------------------

    def sum(self, dim=None, keepdim=False):
        return reduce.sum(self, dim, keepdim)

    def mean(self, dim=None, keepdim=False):
        return reduce.mean(self, dim, keepdim)

    def var(self, dim=None, correction=1, keepdim=False):
        return reduce.var(self, dim, correction, keepdim)

    def std(self, dim=None, correction=1, keepdim=False):
        return basic.sqrt(reduce.var(self, dim, correction, keepdim))

    def max(self, dim=None, keepdim=False):
        """The largest value; with `dim`, (values, indices) along that axis."""
        return reduce.extreme(self, dim, keepdim, 1)

    def min(self, dim=None, keepdim=False):
        """The smallest value; with `dim`, (values, indices) along that axis."""
        return reduce.extreme(self, dim, keepdim, -1)

    def argmax(self, dim=None, keepdim=False) -> np.ndarray:
        return as_array(np.argmax(self._data, axis=dim, keepdims=keepdim))

    def argmin(self, dim=None, keepdim=False) -> np.ndarray:
        return as_array(np.argmin(self._data, axis=dim, keepdims=keepdim))

    # -- shapes ------------------------------------------------------------------------------------------------------

    def reshape(self, *shape):
        return shaping.reshape(self, _sizes(shape))

    def view(self, *shape):
        """`reshape`: a view where the memory allows it."""
        return shaping.reshape(self, _sizes(shape))

    def flatten(self, start_dim=0, end_dim=-1):
        return shaping.flatten(self, start_dim, end_dim)

    def permute(self, *dims):
        return shaping.permute(self, _sizes(dims))

    def transpose(self, dim0, dim1):
        return shaping.swap(self, dim0, dim1)

    @property
    def T(self):  # noqa: N802
        return shaping.permute(self, range(self.ndim)[::-1])

    @property
    def mT(self):  # noqa: N802
        return shaping.swap(self, -1, -2)

    def expand(self, *sizes):
        """Repeat axes of size 1; -1 keeps an axis as it is."""
        sizes = _sizes(sizes)
        lead = len(sizes) - self.ndim
        if lead < 0:
            raise ValueError(f"expand: {len(sizes)} sizes {sizes} given for the {self.ndim} axes of shape {self.shape}")
        kept = (None,) * lead + self.shape
        return shaping.expand(self, tuple(k if n == -1 else n for n, k in zip(sizes, kept, strict=True)))

    def squeeze(self, dim=None):
        """Without the axes of size 1, or without axis `dim` if its size is 1."""
        dims = range(self.ndim) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
        drop = {shaping.operator_index(d, self.ndim, "squeeze") for d in dims}
        shape = tuple(n for i, n in enumerate(self.shape) if n != 1 or i not in drop)
        return shaping.reshape(self, shape)

    def unsqueeze(self, dim):
        axis = shaping.operator_index(dim, self.ndim + 1, "unsqueeze")
        return shaping.reshape(self, (*self.shape[:axis], 1, *self.shape[axis:]))

    def contiguous(self):
        return self if self._data.flags.c_contiguous else self.clone()

    def __getitem__(self, key):
        return shaping.index(self, key)

    def __setitem__(self, key, new):
        if self._needs:
            raise RuntimeError("item assignment on a Tensor that requires a gradient is not recorded; write to .data")
        key = tuple(map(basic.value, key)) if isinstance(key, tuple) else basic.value(key)
        self.data[key] = basic.value(new)

    def astype(self, dtype):
        return shaping.cast(self, dtype)

    def to(self, target):
        """On a device, "cpu" or "cuda", or as a dtype. Itself if there is nothing to do; gradients flow through it."""
        is_device = isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda")
        return shaping.to_device(self, target) if is_device else shaping.cast(self, target)

    def cpu(self):
        return self.to("cpu")

    def cuda(self):
        return self.to("cuda")

    def float(self):
        return shaping.cast(self, np.float32)

    def double(self):
        return shaping.cast(self, np.float64)


def from_dlpack(source) -> Tensor:
    """A Tensor that shares the memory of any array, on the CPU or a CUDA device, with the DLPack protocol (NumPy,
    PyTorch, JAX, ...)."""
    return Tensor(adopt(source) if is_foreign(source) else np.from_dlpack(source))


def _sizes(sizes):
    """The sizes of `t.reshape(2, 3)` or of `t.reshape((2, 3))`, with at most one -1."""
    sizes = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list, range)) else sizes
    return tuple(int(n) for n in sizes)
