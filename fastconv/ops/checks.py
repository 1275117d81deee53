"""Checks that ops share: what was given, what is wanted."""

from typing import Any

import numpy as np

from .._device import DeviceArray, adopt
from ..autograd import Variable


def array(op, name, x) -> Any:
    """`x`, which must be an array or a Tensor; arrays on a device, also foreign ones, are made ours."""
    if not isinstance(x, (np.ndarray, Variable)):
        x = adopt(x)
        if isinstance(x, DeviceArray):
            return x
        raise TypeError(f"{op}: {name} must be an array or a Tensor, got {type(x).__name__}")
    return x


def floating(op, name, x) -> Any:
    """`x` must be a floating-point array or Tensor."""
    x = array(op, name, x)
    if x.dtype.kind != "f":
        raise TypeError(f"{op}: {name} must be floating point, got {x.dtype}")
    return x


def same_dtype(op, name, x, like) -> Any:
    """`x`, an array or Tensor or None, must have the dtype of the input `like`."""
    if x is None:
        return x
    x = array(op, name, x)
    if x.dtype != like.dtype:
        raise TypeError(f"{op}: {name} has dtype {x.dtype}, the input has {like.dtype}")
    return x


def probability(op, p):
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p must be from 0 to 1, got {p}")
    return p


def single_or_double(op, name, x) -> Any:
    """`x` must be a float32 or float64 array or Tensor: what the kernels compute."""
    x = array(op, name, x)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{op}: {name} must be float32 or float64, got {x.dtype}")
    return x
