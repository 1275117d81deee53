"""What is left of a convolution without terms: the bias alone, or nothing."""

from functools import cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row
from ..simd import array_at, fields
from ..specs import NO_EPILOGUE

FillBlock = Block("FillBlock", "bias y", "channels pixels accumulate", "low high")


@cache
def make_fill(dtype):
    KIND, scalar = np.dtype(dtype).str[1:], np.dtype(dtype).type

    @tile_body(FillBlock, dtype)
    def conv_fill(block, tile, worker):
        """y[p, i] = clamp(bias[p % channels] + (y[p, i] if accumulate), low, high).  Tile: plane p."""
        a = fields(block)
        y, bias = array_at(a.y, a.y_size, KIND), array_at(a.bias, a.bias_size, KIND)
        low, high, value = scalar(a.low), scalar(a.high), bias[tile % a.channels]
        for i in range(tile * a.pixels, (tile + 1) * a.pixels):
            result = value + y[i] if a.accumulate else value
            result = low if result < low else result  # NaN is neither below nor above, and stays
            y[i] = high if result > high else result

    return conv_fill


def fill_row(y, planes, bias, epilogue=NO_EPILOGUE):
    """y: as many planes, one after the other; bias: one value for each channel, over and over."""
    numbers = {"channels": bias.size, "pixels": y.size // max(1, planes), "accumulate": int(epilogue.accumulate)}
    values = {"bias": bias, "y": y, **numbers, "low": epilogue.low, "high": epilogue.high}
    return Row(make_fill(y.dtype.name), planes, values, y.size * 0.1)
