"""The one module that imports numba.cuda: whether a device can be used, and how kernels are compiled and launched.

A kernel is a plain function on flat arrays and numbers with the signature of its arguments; it is compiled when it is
first launched, or to PTX where there is no device.  With NUMBA_ENABLE_CUDASIM=1 Numba's simulator takes the place of
the device: each thread of a block is a Python thread, so tiles and blocks are small there (`SIMULATED`).
"""

import warnings
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Numba's own CUDA target, which numba-cuda replaces, says that it is deprecated
    from numba import cuda as numba_cuda

cuda: Any = numba_cuda
SIMULATED = bool(config.ENABLE_CUDASIM)  # pyright: ignore[reportAttributeAccessIssue]
CAPABILITIES = ((7, 5), (8, 0), (9, 0))  # what kernels are compiled to where there is no device
THREADS = 4 if SIMULATED else 256  # of a block of kernels without shared memory
MOST_BLOCKS = 2 if SIMULATED else 1 << 16  # of such kernels, whose threads step over what is left

int32, uint32 = numba.int32, numba.uint32
TYPES = {
    "float32": numba.float32,
    "float64": numba.float64,
    "int32": int32,
    "int64": numba.int64,
    "bool": numba.boolean,
}
_ARRAYS = {numba.from_dtype(np.dtype(name))[::1] for name in (*TYPES, "uint8")}


@cache
def why_not():
    """None if kernels can run here, else the reason in a few words."""
    if SIMULATED or cuda.is_available():
        return None
    if "numba_cuda" not in (cuda.__file__ or ""):
        return "numba-cuda is not installed (pip install 'fastconv[cuda]')"
    text = " ".join(str(cuda.cuda_error() or "no CUDA device was found").split())
    return text.rstrip(".")


@cache
def can_compile():
    """Whether kernels can be compiled to PTX, for which no device is needed."""
    if SIMULATED or "numba_cuda" not in (cuda.__file__ or ""):
        return False
    try:
        cuda.compile_ptx(lambda: None, (), cc=CAPABILITIES[0])
    except Exception:  # whatever is missing has an error class of its own
        return False
    return True


def name():
    """The device in words."""
    if SIMULATED:
        return "Numba's simulator (NUMBA_ENABLE_CUDASIM=1)"
    device = cuda.get_current_device()
    text = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return f"{text}, compute capability {major}.{minor}"


class Kernel:
    """A function of flat arrays and numbers, run by `kernel(blocks, threads, *arguments)`."""

    def __init__(self, function, signature):
        self.function = function
        self.signature = signature
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._compiled = None

    def __call__(self, blocks, threads, *arguments):
        """Launch; arrays are flat Numba device arrays, `blocks` a number or a tuple. Nothing happens for no blocks."""
        if len(arguments) != len(self.signature):
            raise TypeError(f"{self.__name__}: {len(arguments)} arguments, wants {len(self.signature)}")
        if self._compiled is None:
            self._compiled = cuda.jit(self.function) if SIMULATED else cuda.jit(self.signature)(self.function)
        self._compiled[blocks, threads](*arguments)

    def of(self, formula):
        """This kernel, which computes a formula, under a name of its own."""
        self.__name__ = f"{self.function.__name__}[{formula}]"
        return self

    def ptx(self, capability):
        """Its code for a compute capability, such as (8, 0)."""
        return cuda.compile_ptx(self.function, self.signature, cc=capability)[0]


def kernel(*signature):
    """Decorator: a kernel whose arguments have these types.

    "x:float32" is a flat array of that dtype, "n" an int32, "f=float32" a number of that dtype, "d*6" a tuple of six
    int32; one string may have several, separated by blanks, in the order of the function's arguments.
    """
    types = tuple(_type(word) for text in signature for word in text.split())

    def decorate(function):
        return Kernel(function, types)

    return decorate


def _type(word):
    if ":" in word:
        return TYPES[word.partition(":")[2]][::1]
    if "=" in word:
        return TYPES[word.partition("=")[2]]
    if "*" in word:
        return numba.types.UniTuple(int32, int(word.partition("*")[2]))
    return int32


def helper(function):
    """Decorator: a function that kernels call; plain Python in the simulator."""
    return function if SIMULATED else cuda.jit(device=True, inline="always")(function)


def blocks_for(n, threads=THREADS):
    """How many blocks a kernel gets whose threads step over n elements."""
    return max(1, min(-(-n // threads), MOST_BLOCKS))


def synchronize():
    """Wait until everything launched has been done."""
    cuda.synchronize()
