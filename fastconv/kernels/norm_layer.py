"""Layer normalisation: rows of `length` values with a mean each, a weight and a bias for each place in the row.

    y = (x - mean) rstd w + b,   gx = rstd (w g - S1 / length - (x - mean) rstd^2 S2 / length)
    gw = sum over rows of g (x - mean) rstd,   gb = sum over rows of g

with S1 = sum(w g), S2 = sum(w g (x - mean)) of a row. Row r has the weights of its kind, r % period: group
normalisation of short rows is layer normalisation with a kind for each group.  Statistics as in `norm.py`.
"""

from functools import lru_cache

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from ..driver import Row, Temporary
from ..prepared import run_rows
from ..simd import array_at, fields, lanes, load_window
from ..simd_vector import add_vector, fma_vector, mul_vector, splat_vector, store_window, sub_vector, sum_vector
from .norm import make_moments, mean_and_variance
from .sums import VECTORS

ROWS = 256  # of a partial sum of weight gradients
WIDTH = 4  # vectors of places that a tile of weight gradients owns

LayerBlock = Block(
    "LayerBlock",
    {**dict.fromkeys(("x", "y", "weight", "bias")), "stats": "f8"},
    "rows part length period",
    "eps",
)
LayerGradientBlock = Block(
    "LayerGradientBlock", {**dict.fromkeys(("x", "g", "gx", "weight")), "stats": "f8"}, "rows part length period"
)
WeightGradientBlock = Block(
    "LayerWeightGradientBlock", {**dict.fromkeys(("x", "g", "gw", "gb")), "stats": "f8"}, "rows length period blocks"
)


@lru_cache
def make_layer_norm(dtype):
    """Forward; stats: (mean, rstd) of each row."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    guess, deviations = make_moments(dtype)

    @helper
    def apply_row(x, y, weight, bias, xi, wi, n, mean, rstd):
        high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        scale = splat_vector(x, FLOAT(rstd))
        for i in range(0, n, LANES):
            d = sub_vector(sub_vector(load_window(x, xi + i, 1, 0, n - i, 1), high), low)
            w, b = load_window(weight, wi + i, 1, 0, n - i, 1), load_window(bias, wi + i, 1, 0, n - i, 1)
            store_window(fma_vector(mul_vector(d, scale), w, b), y, xi + i, n - i)

    @tile_body(LayerBlock, dtype)
    def layer_norm_fwd(block, tile, worker):
        """Tile: `part` rows."""
        a = fields(block)
        x, y, stats = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.y, a.y_size, KIND),
            array_at(a.stats, a.stats_size, "f8"),
        )
        weight, bias = array_at(a.weight, a.weight_size, KIND), array_at(a.bias, a.bias_size, KIND)
        for row in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            i = row * a.length
            shift = guess(x, i, a.length)
            total, squares = deviations(x, i, a.length, shift)
            mean, variance = mean_and_variance(np.float64(shift), total, squares, a.length)
            rstd = 1 / np.sqrt(variance + a.eps)
            stats[2 * row], stats[2 * row + 1] = mean, rstd
            apply_row(x, y, weight, bias, i, row % a.period * a.length, a.length, mean, rstd)

    return layer_norm_fwd


@lru_cache
def make_layer_gradient(dtype):
    """The input's gradient."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    BLOCK = VECTORS // 4 * LANES

    @helper
    def row_products(x, g, weight, xi, wi, n, mean):
        """The sums of w g and of w g (x - mean), in float64."""
        total, products, zero = 0.0, 0.0, splat_vector(x, FLOAT(0))
        high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        for start in range(0, n, BLOCK):
            s, p = zero, zero
            for i in range(start, min(start + BLOCK, n), LANES):
                d = sub_vector(sub_vector(load_window(x, xi + i, 1, 0, n - i, 1), high), low)
                w = mul_vector(load_window(g, xi + i, 1, 0, n - i, 1), load_window(weight, wi + i, 1, 0, n - i, 1))
                s, p = add_vector(s, w), fma_vector(w, d, p)
            total += sum_vector(s)
            products += sum_vector(p)
        return total, products

    @tile_body(LayerGradientBlock, dtype)
    def layer_norm_bwd(block, tile, worker):
        """Tile: `part` rows."""
        a = fields(block)
        x, g, gx = array_at(a.x, a.x_size, KIND), array_at(a.g, a.g_size, KIND), array_at(a.gx, a.gx_size, KIND)
        weight, stats = array_at(a.weight, a.weight_size, KIND), array_at(a.stats, a.stats_size, "f8")
        n = a.length
        for row in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            xi, wi, mean, rstd = row * n, row % a.period * n, stats[2 * row], stats[2 * row + 1]
            total, products = row_products(x, g, weight, xi, wi, n, mean)
            high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
            factor, constant = splat_vector(x, FLOAT(rstd)), splat_vector(x, FLOAT(-total / n * rstd))
            along = splat_vector(x, FLOAT(-products / n * rstd**3))
            for i in range(0, n, LANES):
                d = sub_vector(sub_vector(load_window(x, xi + i, 1, 0, n - i, 1), high), low)
                w = mul_vector(load_window(g, xi + i, 1, 0, n - i, 1), load_window(weight, wi + i, 1, 0, n - i, 1))
                store_window(fma_vector(w, factor, fma_vector(d, along, constant)), gx, xi + i, n - i)

    return layer_norm_bwd


@lru_cache
def make_layer_weight_gradient(dtype):
    """Gradients of weight and bias, partial sums of ROWS rows each."""
    KIND, LANES, FLOAT = dtype.str[1:], lanes(dtype), dtype.type
    PLACES = WIDTH * LANES

    @helper
    def sum_places(x, g, gw, gb, stats, first, last, period, length, column, target):
        """One vector of places."""
        left = length - column
        w, b = splat_vector(x, FLOAT(0)), splat_vector(x, FLOAT(0))
        for row in range(first, last, period):
            mean, i = stats[2 * row], row * length + column
            d = sub_vector(load_window(x, i, 1, 0, left, 1), splat_vector(x, FLOAT(mean)))
            d = mul_vector(
                sub_vector(d, splat_vector(x, FLOAT(mean - FLOAT(mean)))), splat_vector(x, FLOAT(stats[2 * row + 1]))
            )
            slope = load_window(g, i, 1, 0, left, 1)
            w, b = fma_vector(slope, d, w), add_vector(b, slope)
        store_window(w, gw, target + column, left)
        store_window(b, gb, target + column, left)

    @tile_body(WeightGradientBlock, dtype)
    def layer_norm_bwd_weight(block, tile, worker):
        """gw, gb (parts, period, length).  Tile: (ROWS rows of a kind, kind, WIDTH vectors of places)."""
        a = fields(block)
        x, g, stats = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.g, a.g_size, KIND),
            array_at(a.stats, a.stats_size, "f8"),
        )
        gw, gb = array_at(a.gw, a.gw_size, KIND), array_at(a.gb, a.gb_size, KIND)
        kind, column = tile // a.blocks % a.period, tile % a.blocks * PLACES
        part = tile // a.blocks // a.period
        first, target = part * ROWS * a.period + kind, (part * a.period + kind) * a.length
        last = min(first + ROWS * a.period, a.rows)
        for c in range(column, min(column + PLACES, a.length), LANES):
            sum_places(x, g, gw, gb, stats, first, last, a.period, a.length, c, target)

    return layer_norm_bwd_weight


def _values(x):
    rows, length = x.shape
    part = max(1, 8192 // max(1, length))
    return {"rows": rows, "length": length, "part": part}, -(-rows // part) if length else 0


def _norm_rows(x, y, weight, bias, stats, eps):
    return (layer_norm_row(x, y, weight, bias, eps, stats),)


def _gradient_rows(x, g, gx, weight, stats):
    values, tiles = _values(x)
    values |= {"x": x, "g": g, "gx": gx, "weight": weight, "stats": stats, "period": len(weight)}
    return (Row(make_layer_gradient(x.dtype), tiles, values, x.size * 0.8),)


def _weight_gradient_rows(x, g, gw, gb, stats):
    (rows, length), (parts, period, _) = x.shape, gw.shape
    blocks = -(-length // (WIDTH * lanes(x.dtype)))
    values = {"x": x, "g": g, "gw": gw, "gb": gb, "stats": stats}
    values |= {"rows": rows, "length": length, "period": period, "blocks": blocks}
    return (Row(make_layer_weight_gradient(x.dtype), parts * period * blocks, values, x.size * 0.8),)


def normalise_rows(x, y, weight, bias, eps):
    """y from x (rows, length), weight and bias (period, length), all dense; the statistics (rows, 2): mean, rstd."""
    stats = np.zeros((len(x), 2))
    run_rows(_norm_rows, (x, y, weight, bias, stats), eps)
    return stats


def layer_norm_row(x, y, weight, bias, eps, stats):
    """The row that does it; stats may be a `Temporary` of 2 rows values in float64."""
    values, tiles = _values(x)
    values |= {"x": x, "y": y, "weight": weight, "bias": bias, "stats": stats, "period": len(weight), "eps": eps}
    temporaries = ("stats",) if isinstance(stats, Temporary) else ()
    return Row(make_layer_norm(x.dtype), tiles, values, x.size * 0.6, temporaries=temporaries)


def rows_gradient(x, g, weight, stats):
    """gx (rows, length)."""
    gx = _memory.empty(x.shape, x.dtype)
    run_rows(_gradient_rows, (x, g, gx, weight, stats))
    return gx


def rows_weight_gradient(x, g, stats, period):
    """(gw, gb), each (period, length)."""
    rows, length = x.shape
    parts = -(-rows // (ROWS * period))
    gw, gb = (_memory.empty((parts, period, length), x.dtype) for _ in range(2))
    run_rows(_weight_gradient_rows, (x, g, gw, gb, stats))
    return tuple(part.sum(0, dtype=np.float64).astype(x.dtype) for part in (gw, gb))
