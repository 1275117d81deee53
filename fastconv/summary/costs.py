"""What one operation costs: multiply-adds and memory traffic, from its arguments and outputs."""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable, value
from ..nn import Parameter

_WEIGHTED = ("conv", "adder", "deform_conv")  # y from (x, w, ...), w (oc, ic/groups, *kernel)


class Cost(NamedTuple):
    """multiply_adds; bytes of activations read, of outputs written, and of parameters and other constants read."""

    multiply_adds: int
    read: int
    written: int
    constants: int


def multiply_adds(name, args, out):
    """Products that are summed, taps in the padding included: convolutions, linear layers, products of matrices.

    Adder layers count their distances.  Everything else (bias, normalisation, activation, pooling) counts 0, as in the
    papers' tables.
    """
    shapes = [np.shape(value(a)) if isinstance(a, (np.ndarray, Variable)) else None for a in args]
    x, w, third = (*shapes, None, None, None)[:3]
    if name in _WEIGHTED:
        w = shapes[2] if name == "deform_conv" else w
        return out.size * prod(_shape(w)[1:])
    if name == "conv_transpose":
        return prod(_shape(x)) * prod(_shape(w)[1:])
    if name in ("linear", "matmul"):
        return out.size * _shape(x)[-1]
    if name == "involution":
        return out.size * _shape(w)[2]
    if name == "deform_aggregate":
        return out.size * len(args[-1].taps)
    if name == "non_local":  # scores, then their weighted sum
        (n, d, p), (_, e, q) = _shape(x), _shape(third)
        return n * p * q * (d + e)
    return 0


def _shape(shape) -> Any:
    return shape


def is_view(args, outputs):
    """Whether the operation only looks at its first argument in another way: no memory is moved."""
    first = value(args[0]) if args else None
    arrays = [value(o) for o in outputs if o is not None]
    return isinstance(first, np.ndarray) and bool(arrays) and all(np.may_share_memory(first, a) for a in arrays)


def cost(op, args, outputs):
    """The Cost of one call; every array counts once, as if the caches held nothing before and everything during it."""
    if is_view(args, outputs):
        return Cost(0, 0, 0, 0)
    arrays = [value(o) for o in outputs if o is not None]
    read = constants = 0
    seen = set()
    for a in args[:3] if op.name == "conv" else args:  # what follows are packed weights: the same bytes again
        array = value(a)
        if isinstance(array, np.ndarray) and id(array) not in seen:
            seen.add(id(array))
            if isinstance(a, Variable) and not isinstance(a, Parameter):
                read += array.nbytes
            else:
                constants += array.nbytes
    return Cost(multiply_adds(op.name, args, arrays[0]), read, sum(a.nbytes for a in arrays), constants)
