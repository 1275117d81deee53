"""Where an array lives: the CPU, or a device whose kernels are an optional leaf (`kernels/cuda/`).  Pure Python.

All that the rest of the library knows of devices is here: the base of their arrays, how foreign arrays are taken over,
and `rules`, the table by which operations find their counterpart on a device.  The table is empty, and nothing of a
device is imported, until somebody asks for one.
"""

import importlib
from typing import Any

import numpy as np

rules: dict[str, dict[str, Any]] = {}  # device -> "<file>.<class>" of an op -> its counterpart there
_LEAVES = {"cuda": ".kernels.cuda"}
_CUDA = (2, 13)  # device types of DLPack: CUDA memory, CUDA managed memory


class DeviceArray:
    """The base of arrays on a device.  They take part in NumPy's protocols for functions, but never become NumPy
    arrays by themselves."""

    __slots__ = ()
    device: str
    shape: tuple[int, ...]
    size: int
    ndim: int
    dtype: np.dtype
    flags: Any
    astype: Any
    copy: Any
    view: Any
    numpy: Any


ARRAYS = (np.ndarray, DeviceArray)


class Rule:
    """The counterpart of an op on a device: `forward` as there; `backward` too where the op's own is not array
    arithmetic.  Of a second derivative the op's own `backward` makes Tensors, unless `twice` says that there is none.
    """

    twice = True
    backward: Any = None

    @staticmethod
    def forward(ctx, *args):
        raise NotImplementedError


def leaf(device) -> Any:
    """The package of a device.  ValueError for a name that is none; RuntimeError, with the reason, where the device
    can't be used."""
    name, _, number = str(device).partition(":")
    if name not in _LEAVES or (number and not number.isdecimal()):
        raise ValueError(f"device must be 'cpu' or one of {', '.join(map(repr, _LEAVES))}, given {device!r}")
    try:
        package = importlib.import_module(_LEAVES[name], __package__)
    except ImportError as problem:  # a Numba that has no CUDA target of its own any more
        install = f"numba-cuda is not installed (pip install 'fastconv[{name}]'): {problem}"
        raise RuntimeError(f"{name}: no device can be used: {install}") from None
    reason = package.why_not()
    if reason:
        raise RuntimeError(f"{name}: no device can be used: {reason}")
    if int(number or 0):
        raise ValueError(f"device {device!r}: only device 0 is used; CUDA_VISIBLE_DEVICES chooses which one that is")
    return package


def device_of(x):
    """ "cpu", or the name of the device where an array (or a number) is."""
    return x.device if isinstance(x, DeviceArray) else "cpu"


def move(x, device):
    """The array `x` on "cpu" or a device: itself if it is there, else a copy."""
    if device == "cpu":
        return x.numpy() if isinstance(x, DeviceArray) else x
    if isinstance(x, DeviceArray) and x.device == str(device).partition(":")[0]:
        return x
    return leaf(device).upload(x)


def is_foreign(x):
    """Whether `x` is an array on a CUDA device that is not ours: of Numba, CuPy, PyTorch, ..."""
    if isinstance(x, (*ARRAYS, np.generic, int, float, bool, str, list, tuple)) or x is None:
        return False
    if hasattr(type(x), "__cuda_array_interface__"):
        try:
            return x.__cuda_array_interface__ is not None
        except (AttributeError, TypeError, RuntimeError):  # a PyTorch tensor on the CPU has the property, but refuses
            return False
    if type(x).__name__ == "FakeCUDAArray":  # an array of Numba's simulator
        return True
    try:
        return hasattr(type(x), "__dlpack_device__") and x.__dlpack_device__()[0] in _CUDA
    except (AttributeError, TypeError, RuntimeError, BufferError):
        return False


def adopt(x) -> Any:
    """A foreign device array as ours, sharing its memory; anything else as it is."""
    return leaf("cuda").adopt(x) if is_foreign(x) else x


def as_array(x) -> Any:
    """`numpy.asarray`, except that arrays on a device stay there."""
    if isinstance(x, ARRAYS):
        return x
    return adopt(x) if is_foreign(x) else np.asarray(x)


def placed(op, args) -> Any:
    """(the op itself if no argument is on a device, else its counterpart; the arguments, foreign arrays made ours).

    TypeError if arrays are on different devices, NotImplementedError if the op has no counterpart.
    """
    args = tuple(map(adopt, args))
    device = next((v.device for v in args if isinstance(v, DeviceArray)), None)
    if device is None:
        return op, args
    for v in args:
        if isinstance(v, np.ndarray) and v.ndim:
            raise TypeError(
                f"{op.name}: arguments on different devices: one on {device}, one of shape {v.shape} on the CPU; "
                f'move them together with .to("{device}") or .to("cpu")'
            )
    table = rules[device]
    for cls in op.__mro__:
        found = table.get(f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}")
        if found is not None:
            return found, args
    if op.anywhere:
        return op, args
    raise NotImplementedError(f'{op.name}: has no implementation on {device}; move its arguments with .to("cpu")')
