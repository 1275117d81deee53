"""Initialisers with torch.nn.init's names and arguments. Each fills a Tensor or an array in place and returns it.

Xavier: Glorot and Bengio 2010. Kaiming: He et al. 2015 (arXiv:1502.01852). Orthogonal: Saxe et al. 2013
(arXiv:1312.6120).
"""

import contextlib
import math
import threading

import numpy as np

from .._random import generator
from ..autograd import Tensor

_PIECE = 1 << 18  # numbers drawn at once: float64 draws of a whole layer would need twice the layer's memory


class _State(threading.local):
    skip = False


_state = _State()


@contextlib.contextmanager
def skipped():
    """Layers made in this context, in this thread, keep whatever was in their memory: for weights loaded right after.

    with nn.init.skipped():
        net = fc.models.vgg16()
    net.load_state_dict(state)
    """
    before = _state.skip
    _state.skip = True
    try:
        yield
    finally:
        _state.skip = before


def _array(tensor):
    array = tensor.data if isinstance(tensor, Tensor) else tensor
    if not isinstance(array, np.ndarray):
        raise TypeError(f"init: wants a Tensor or an array, got {type(tensor).__name__}")
    return array


def _fill(tensor, draw):
    """Fill with draw(count), in pieces; the pieces follow each other in the generator as one draw would."""
    array = _array(tensor)
    if _state.skip:
        return tensor
    flat = array.reshape(-1) if array.flags.c_contiguous else np.empty(array.size, array.dtype)
    for start in range(0, array.size, _PIECE):
        piece = flat[start : start + _PIECE]
        piece[...] = draw(piece.size)
    if not array.flags.c_contiguous:
        array[...] = flat.reshape(array.shape)
    return tensor


def uniform_(tensor, a=0.0, b=1.0):
    """Uniform in [a, b)."""
    return _fill(tensor, lambda count: generator().uniform(a, b, count))


def normal_(tensor, mean=0.0, std=1.0):
    """Normal with the given mean and standard deviation."""
    return _fill(tensor, lambda count: generator().normal(mean, std, count))


def trunc_normal_(tensor, mean=0.0, std=1.0, a=-2.0, b=2.0):
    """Normal with the given mean and standard deviation, what falls outside [a, b] drawn again."""
    if not a < b or std <= 0 or max(a - mean, mean - b) > 2 * std:
        raise ValueError(
            f"trunc_normal_: wants a < b, std > 0 and the mean within two std of [a, b], got mean {mean}, std {std}, "
            f"a {a}, b {b}"
        )

    def draw(count):
        numbers = generator().normal(mean, std, count)
        while (outside := np.flatnonzero((numbers < a) | (numbers > b))).size:
            numbers[outside] = generator().normal(mean, std, outside.size)
        return numbers

    return _fill(tensor, draw)


def constant_(tensor, val):
    array = _array(tensor)
    if not _state.skip:
        array[...] = val
    return tensor


def zeros_(tensor):
    return constant_(tensor, 0)


def ones_(tensor):
    return constant_(tensor, 1)


def calculate_gain(nonlinearity, param=None) -> float:
    """The factor that keeps the variance of activations through `nonlinearity`; `param` is leaky_relu's slope."""
    linear = ("linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)))
    if nonlinearity in linear:
        return 1.0
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    known = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    if nonlinearity not in known:
        raise ValueError(f"nonlinearity {nonlinearity!r} is not one of {', '.join([*linear, *known, 'leaky_relu'])}")
    return known[nonlinearity]


def _fans(array):
    """(inputs per output, outputs per input) of a weight (O, I, *kernel)."""
    if array.ndim < 2:
        raise ValueError(f"init: fan in and fan out need at least 2 dimensions, got shape {array.shape}")
    window = math.prod(array.shape[2:])
    return array.shape[1] * window, array.shape[0] * window


def xavier_uniform_(tensor, gain=1.0):
    """Uniform in ±gain·sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / max(sum(_fans(_array(tensor))), 1))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor, gain=1.0):
    """Normal with standard deviation gain·sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(sum(_fans(_array(tensor))), 1)))


def _kaiming_std(tensor, a, mode, nonlinearity):
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(_array(tensor))[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    """Uniform in ±gain·sqrt(3 / fan)."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    """Normal with standard deviation gain / sqrt(fan)."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor, gain=1.0):
    """Rows or columns, whichever are fewer, of the matrix (shape[0], rest) become orthonormal, times `gain`."""
    array = _array(tensor)
    if array.ndim < 2:
        raise ValueError(f"orthogonal_: needs at least 2 dimensions, got shape {array.shape}")
    if array.size == 0 or _state.skip:
        return tensor
    rows, columns = array.shape[0], array.size // array.shape[0]
    q, r = np.linalg.qr(generator().standard_normal((max(rows, columns), min(rows, columns))))
    # The signs of r's diagonal make q uniformly distributed (Mezzadri 2007, arXiv:math-ph/0609050, section 5).
    q = q * np.sign(np.diag(r))
    array[...] = gain * (q.T if rows < columns else q).reshape(array.shape)
    return tensor
