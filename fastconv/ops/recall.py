"""Calls that come again: a function of one array that was a single program is only that program the next time.

Checks, spec, choice of implementation and recording take three times as long as starting the program.  They depend on
the array's shape and dtype and on the other arguments alone, so a second call with the same ones needs none of them.
"""

from functools import wraps

import numpy as np

from .. import _memory, prepared
from ..autograd.op import is_watched

MOST_KNOWN = 1024


def recalled(function):
    """Decorator of a function of an array and settings, whose result depends on nothing else."""
    known = {}

    @wraps(function)
    def call(input, *args, **kwargs):
        if type(input) is not np.ndarray or is_watched():
            return function(input, *args, **kwargs)
        given = (*args, *kwargs.values())
        key = input.shape, input.dtype, prepared.settings(), given, *map(type, given), *kwargs
        try:
            program, shape = known.get(key, (None, None))
        except TypeError:  # a list among the arguments
            return function(input, *args, **kwargs)
        if program is not None and input.flags.c_contiguous and input.flags.aligned:
            output = _memory.empty(shape, input.dtype)
            prepared.start(program, (input, output))
            return output
        output, runs = prepared.watched(function, input, *args, **kwargs)
        if len(runs) == 1 and isinstance(output, np.ndarray) and output.dtype == input.dtype:
            program, *addresses = runs[0]
            if addresses == [_memory.address(input), _memory.address(output)]:
                if len(known) >= MOST_KNOWN:
                    known.clear()
                known[key] = program, output.shape
        return output

    return call
