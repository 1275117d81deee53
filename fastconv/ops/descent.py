"""One step of an optimizer on many arrays at once."""

from functools import lru_cache

import numpy as np

from .._memory import address
from ..kernels.sgd import sgd_rows, tiles_of
from ..prepared import run_rows

_tiles = lru_cache(maxsize=64)(tiles_of)


def fits(*arrays):
    """Whether `sgd` takes these arrays of one parameter (None: one that is not there)."""
    first = arrays[0]
    return first.dtype in (np.float32, np.float64) and all(
        a is None or (type(a) is np.ndarray and a.dtype == first.dtype and a.flags.c_contiguous and a.flags.aligned)
        for a in arrays
    )


def sgd(dtype, parameters, lr, momentum, dampening, weight_decay, nesterov, maximize):
    """v = momentum v + (1 - dampening) d, p -= lr v, with d = g + weight_decay p, as `optim.SGD` says, in place.

    parameters: (p, g, v or None, whether v is new) of one dtype, arrays that `fits` accepts, none of them empty.
    """
    lines = [(address(p), address(g), 0 if v is None else address(v), p.size, begin) for p, g, v, begin in parameters]
    table, tiles = np.array(lines, np.int64).ravel(), _tiles(tuple([line[3] for line in lines]))
    sign = -1 if maximize else 1
    options = np.array([-lr, momentum, sign * (1 - dampening), sign * weight_decay, sign], np.float64)
    run_rows(sgd_rows, (table, tiles, options), np.dtype(dtype), int(momentum != 0), int(nesterov))
