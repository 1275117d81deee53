"""The optional GPU path: kernels in numba.cuda behind the same functions.  Loaded only when a device is asked for.

gpu.py is the only file that imports numba.cuda.  array.py has the arrays, launch.py how kernels are run and how an op
gets its counterpart; the other files are kernels, and are imported here so that they register themselves.
"""

from . import (  # noqa: F401  (they register their rules and implementations)
    activation,
    adder,
    convolution,
    deform,
    dropout,
    gather,
    loss,
    non_local,
    norm,
    norm_rows,
    pool,
    products,
    response,
    shift,
    shuffle,
)
from .array import CudaArray, adopt, empty, full, upload, zeros
from .gpu import name, synchronize, why_not
from .memory import kept_bytes, release
from .resize import resample
from .steps import adam, sgd

__all__ = [
    "CudaArray",
    "adam",
    "adopt",
    "empty",
    "full",
    "kept_bytes",
    "name",
    "release",
    "resample",
    "sgd",
    "synchronize",
    "upload",
    "why_not",
    "zeros",
]
