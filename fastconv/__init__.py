"""Convolution and pooling on the CPU at the hardware's limit, forward and backward, from Numba and NumPy alone."""

from . import functional, models, nn, optim, views
from ._config import batch_invariant
from ._memory import release as release_memory
from ._random import manual_seed
from .autograd import (
    Tensor,
    enable_grad,
    from_dlpack,
    grad,
    gradcheck,
    gradgradcheck,
    is_grad_enabled,
    no_grad,
)
from .driver import get_num_threads, set_num_threads
from .infer import compile
from .onnx import InferenceSession
from .state import load_state, save_state
from .summary import compare, compare_convolutions, summary

__version__ = "0.1.0"

__all__ = [
    "InferenceSession",
    "Tensor",
    "batch_invariant",
    "compare",
    "compare_convolutions",
    "compile",
    "enable_grad",
    "from_dlpack",
    "functional",
    "get_num_threads",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "is_grad_enabled",
    "load_state",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "optim",
    "release_memory",
    "save_state",
    "set_num_threads",
    "summary",
    "views",
]
