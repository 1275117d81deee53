"""Tensors, recorded operations and gradients: `op.py` is the op, `engine.py` backward, `tensor.py` the Tensor."""

from .basic import abs, add, clip, div, exp, log, matmul, mul, neg, pow, sqrt, sub, tanh, where
from .engine import grad
from .gradcheck import gradcheck, gradgradcheck
from .op import Op, Variable, capture, enable_grad, is_grad_enabled, no_grad, value
from .reduce import mean, sum, var
from .shaping import cast, cat, expand, flatten, index, permute, reshape, split, stack, sum_to, swap
from .tensor import Tensor, from_dlpack

__all__ = [
    "Op",
    "Tensor",
    "Variable",
    "abs",
    "add",
    "capture",
    "cast",
    "cat",
    "clip",
    "div",
    "enable_grad",
    "exp",
    "expand",
    "flatten",
    "from_dlpack",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "index",
    "is_grad_enabled",
    "log",
    "matmul",
    "mean",
    "mul",
    "neg",
    "no_grad",
    "permute",
    "pow",
    "reshape",
    "split",
    "sqrt",
    "stack",
    "sub",
    "sum",
    "sum_to",
    "swap",
    "tanh",
    "value",
    "var",
    "where",
]
