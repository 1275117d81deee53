"""Small tile bodies for the tests of the kernel layer."""

from functools import lru_cache

import numpy as np

from fastconv import _memory
from fastconv._jit import Block, helper, tile_body
from fastconv.driver import Row, launch
from fastconv.simd import array_at, fields

MapBlock = Block("MapBlock", "x y", numbers="n part", reals="factor")
ScratchBlock = Block("ScratchBlock", {"x": None, "y": None, "scratch": None}, numbers="n reach")
CountBlock = Block("CountBlock", {"x": "i8", "y": None}, numbers="rounds")


@helper
def scaled(value, factor):
    return factor * value


@lru_cache
def make_scale(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def scale(block, tile, worker):
        """y[i] = factor * x[i].  Tile: a run of `part` elements."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for i in range(tile * a.part, min((tile + 1) * a.part, a.n)):
            y[i] = scaled(x[i], a.factor)

    return scale


@lru_cache
def make_power(dtype, EXPONENT):
    """A family by a number of the closure, over a helper of the closure."""
    KIND = np.dtype(dtype).str[1:]

    @helper
    def power(value):
        result = value
        for _ in range(EXPONENT - 1):
            result *= value
        return result

    @tile_body(MapBlock, dtype)
    def power_of(block, tile, worker):
        """y[i] = x[i] ** EXPONENT.  Tile: a run of `part` elements."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for i in range(tile * a.part, min((tile + 1) * a.part, a.n)):
            y[i] = power(x[i])

    return power_of


@lru_cache
def make_reverse(dtype):
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize

    @tile_body(ScratchBlock, dtype)
    def reverse(block, tile, worker):
        """y[tile, i] = x[tile, n-1-i] by way of scratch; `reach` elements beyond it are touched.  Tile: a row."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        for i in range(a.n):
            s[i] = x[tile * a.n + i]
        for i in range(a.reach):
            s[a.n + i] = 0
        for i in range(a.n):
            y[tile * a.n + i] = s[a.n - 1 - i]

    return reverse


@lru_cache
def make_reader(dtype, OFFSET):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(MapBlock, dtype)
    def reader(block, tile, worker):
        """y[tile] = x[tile + OFFSET]: a kernel with a planted fault, for OFFSET beyond the array.  Tile: an element."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        y[tile] = x[tile + OFFSET]

    return reader


@lru_cache
def make_churn(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(CountBlock, dtype)
    def churn(block, tile, worker):
        """y[tile] = sqrt(x[tile]^2 + rounds), root by root: work that takes its time.  Tile: an element."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, "i8"), array_at(a.y, a.y_size, KIND)
        value = np.float64(x[tile])
        for _ in range(a.rounds):
            value = np.sqrt(value * value + 1.0)
        y[tile] = value

    return churn


BIG = 1e9  # an estimate of work that makes the driver use threads


def run_scale(x, factor=2.0, part=64, work=BIG):
    y = _memory.empty(x.shape, x.dtype)
    tiles = -(-x.size // part)
    launch(Row(make_scale(str(x.dtype)), tiles, {"x": x, "y": y, "n": x.size, "part": part, "factor": factor}, work))
    return y


def run_power(x, exponent, part=64):
    y = _memory.empty(x.shape, x.dtype)
    values = {"x": x, "y": y, "n": x.size, "part": part, "factor": 0.0}
    launch(Row(make_power(str(x.dtype), exponent), -(-x.size // part), values, BIG))
    return y


def run_reverse(x, reach=0, work=BIG):
    y = _memory.empty(x.shape, x.dtype)
    values = {"x": x, "y": y, "n": x.shape[1], "reach": reach}
    launch(Row(make_reverse(str(x.dtype)), x.shape[0], values, work, scratch=x.shape[1]))
    return y


def run_reader(x, offset, dtype="float32"):
    y = np.zeros(x.shape, dtype)
    values = {"x": x, "y": y, "n": x.size, "part": 1, "factor": 0.0}
    launch(Row(make_reader(dtype, offset), x.size, values, 0.0))
    return y


def run_churn(starts, rounds):
    starts = np.asarray(starts, np.int64)
    y = _memory.empty(starts.shape, np.float64)
    launch(Row(make_churn("float64"), starts.size, {"x": starts, "y": y, "rounds": rounds}, BIG))
    return y
