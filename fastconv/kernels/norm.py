"""Batch, instance and group normalisation: x (n, c, length) in rows of `length` values, groups of rows with one mean.

    y = (x - mean) rstd w[c] + b[c],   rstd = 1 / sqrt(var + eps)
    gx = rstd (w[c] g - S1 / size - (x - mean) rstd^2 S2 / size),   S1 = sum(w g), S2 = sum(w g (x - mean)) of a group
    gw[c] = sum(g (x - mean)) rstd,   gb[c] = sum(g)

Group i has `count` rows: i * first + k * step.  Statistics: a first guess of the mean from the group's beginning, then
sums of (x - guess) and (x - guess)^2 in float64, a few vectors at a time (the corrected two-pass algorithm of Chan,
Golub and LeVeque 1983, The American Statistician 37, 242-247).  The mean that is subtracted has twice the precision of
the data.  Sums are kept for each row and added in the order of rows, whichever way the work is split.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from ..driver import Row
from ..prepared import run_rows
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import add_vector, fma_vector, keep_lanes, splat_vector, store_window, sub_vector, sum_vector
from .sums import VECTORS, make_sums

GUESS = 4096  # values at the beginning of a group whose mean is the first guess
ALL, SHIFT, SUMS, COMBINE, APPLY = range(5)  # stages: all for one group, or each for all groups or rows
COLUMNS = 4  # of `stats`, for each group: guess, mean, variance, rstd; going back the last two: slope along x, constant

_NUMBERS = "stage rows part length channels period per first step count"
NormBlock = Block(
    "NormBlock", {**dict.fromkeys(("x", "y", "weight", "bias")), "sums": "f8", "stats": "f8"}, _NUMBERS, "eps"
)
NormGradientBlock = Block(
    "NormGradientBlock",
    {**dict.fromkeys(("x", "g", "gx", "weight")), "sums": "f8", "stats": "f8", "slopes": "f8"},
    _NUMBERS,
)


class Groups(NamedTuple):
    """Which rows of x (n, channels, length) share a mean: group i = the rows i * first + k * step, k < count; row r is
    in group (r % period) // per."""

    groups: int
    first: int
    step: int
    count: int
    period: int
    per: int


def batch_groups(n, channels):
    """A group for each channel."""
    return Groups(channels, 1, channels, n, channels, 1)


def channel_groups(n, channels, groups):
    """`groups` groups of neighbouring channels in each image; as many as channels: instance normalisation."""
    per = channels // groups
    return Groups(n * groups, per, 1, per, n * channels, per)


@lru_cache
def make_moments(dtype):
    """(guess, deviations): the statistics of a run."""
    LANES, FLOAT = lanes(dtype), dtype.type
    BLOCK, STEP = VECTORS * LANES, 4 * LANES
    sum_run, _ = make_sums(dtype)

    @helper
    def guess(x, xi, n):
        """The mean of the first values of a run, in the precision of the data."""
        some = min(n, GUESS)
        return FLOAT(sum_run(x, xi, some) / some)

    @helper
    def block_deviations(x, i, last, shift, zero):
        """Sums of d and d^2, d = x - shift, over x[i:last], a few vectors."""
        s0, s1, s2, s3, q0, q1, q2, q3 = zero, zero, zero, zero, zero, zero, zero, zero
        while i + STEP <= last:
            d0, d1 = sub_vector(load_vector(x, i), shift), sub_vector(load_vector(x, i + LANES), shift)
            d2 = sub_vector(load_vector(x, i + 2 * LANES), shift)
            d3 = sub_vector(load_vector(x, i + 3 * LANES), shift)
            s0, s1, s2, s3 = add_vector(s0, d0), add_vector(s1, d1), add_vector(s2, d2), add_vector(s3, d3)
            q0, q1, q2, q3 = (
                fma_vector(d0, d0, q0),
                fma_vector(d1, d1, q1),
                fma_vector(d2, d2, q2),
                fma_vector(d3, d3, q3),
            )
            i += STEP
        while i < last:
            d0 = keep_lanes(sub_vector(load_window(x, i, 1, 0, last - i, 1), shift), last - i)
            s0, q0 = add_vector(s0, d0), fma_vector(d0, d0, q0)
            i += LANES
        s = sum_vector(add_vector(add_vector(s0, s1), add_vector(s2, s3)))
        return s, sum_vector(add_vector(add_vector(q0, q1), add_vector(q2, q3)))

    @helper
    def deviations(x, xi, n, shift):
        """The sums of x - shift and of its square over a run, in float64."""
        total, squares, zero, shift = 0.0, 0.0, splat_vector(x, FLOAT(0)), splat_vector(x, FLOAT(shift))
        for i in range(xi, xi + n, BLOCK):
            s, q = block_deviations(x, i, min(i + BLOCK, xi + n), shift, zero)
            total += s
            squares += q
        return total, squares

    return guess, deviations


@helper
def mean_and_variance(shift, total, squares, n):
    """From the sums of the deviations from `shift`."""
    off = total / n
    variance = squares / n - off * off
    return shift + off, variance if not variance < 0 else 0.0


@lru_cache
def make_apply(dtype):
    """(apply_run, run_products, slope_run): what happens to one run once its statistics are known."""
    LANES, FLOAT = lanes(dtype), dtype.type
    BLOCK = VECTORS * LANES

    @helper
    def apply_run(x, y, xi, n, mean, scale, bias):
        """y = (x - mean) scale + bias."""
        high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        scale, bias = splat_vector(x, FLOAT(scale)), splat_vector(x, bias)
        i, last = xi, xi + n
        while i + LANES <= last:
            d = sub_vector(sub_vector(load_vector(x, i), high), low)
            store_vector(fma_vector(d, scale, bias), y, i)
            i += LANES
        if i < last:
            d = sub_vector(sub_vector(load_window(x, i, 1, 0, last - i, 1), high), low)
            store_window(fma_vector(d, scale, bias), y, i, last - i)

    @helper
    def run_products(x, g, xi, n, mean):
        """The sums of g and of g (x - mean), in float64."""
        total, products, zero = 0.0, 0.0, splat_vector(x, FLOAT(0))
        high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        for start in range(xi, xi + n, BLOCK):
            s0, s1, p0, p1 = zero, zero, zero, zero
            i, last = start, min(start + BLOCK, xi + n)
            while i + 2 * LANES <= last:
                g0, g1 = load_vector(g, i), load_vector(g, i + LANES)
                s0, s1 = add_vector(s0, g0), add_vector(s1, g1)
                p0 = fma_vector(sub_vector(sub_vector(load_vector(x, i), high), low), g0, p0)
                p1 = fma_vector(sub_vector(sub_vector(load_vector(x, i + LANES), high), low), g1, p1)
                i += 2 * LANES
            while i < last:
                g0 = load_window(g, i, 1, 0, last - i, 1)
                s0 = add_vector(s0, g0)
                p0 = fma_vector(sub_vector(sub_vector(load_window(x, i, 1, 0, last - i, 1), high), low), g0, p0)
                i += LANES
            total += sum_vector(add_vector(s0, s1))
            products += sum_vector(add_vector(p0, p1))
        return total, products

    @helper
    def slope_run(x, g, gx, xi, n, mean, factor, along, constant):
        """gx = g factor + (x - mean) along + constant."""
        high, low = splat_vector(x, FLOAT(mean)), splat_vector(x, FLOAT(mean - FLOAT(mean)))
        factor, along, constant = (
            splat_vector(x, FLOAT(factor)),
            splat_vector(x, FLOAT(along)),
            splat_vector(x, FLOAT(constant)),
        )
        for i in range(xi, xi + n, LANES):
            left = xi + n - i
            d = sub_vector(sub_vector(load_window(x, i, 1, 0, left, 1), high), low)
            value = fma_vector(d, along, constant)
            store_window(fma_vector(load_window(g, i, 1, 0, left, 1), factor, value), gx, i, left)

    return apply_run, run_products, slope_run


@lru_cache
def make_norm(dtype):
    """Forward."""
    KIND = dtype.str[1:]
    guess, deviations = make_moments(dtype)
    apply_run, _, _ = make_apply(dtype)

    @helper
    def row_sums(x, sums, stats, row, group, length):
        sums[2 * row], sums[2 * row + 1] = deviations(x, row * length, length, stats[COLUMNS * group])

    @helper
    def combine(sums, stats, group, first, step, count, length, eps):
        total, squares = 0.0, 0.0
        for row in range(group * first, group * first + count * step, step):
            total += sums[2 * row]
            squares += sums[2 * row + 1]
        mean, variance = mean_and_variance(stats[COLUMNS * group], total, squares, count * length)
        stats[COLUMNS * group + 1], stats[COLUMNS * group + 2] = mean, variance
        stats[COLUMNS * group + 3] = 1 / np.sqrt(variance + eps)

    @helper
    def apply_row(x, y, weight, bias, stats, row, group, channel, length):
        mean, rstd = stats[COLUMNS * group + 1], stats[COLUMNS * group + 3]
        apply_run(x, y, row * length, length, mean, rstd * weight[channel], bias[channel])

    @tile_body(NormBlock, dtype)
    def norm_fwd(block, tile, worker):
        """Tile: a group (stages ALL, SHIFT, COMBINE) or `part` rows (SUMS, APPLY)."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        weight, bias = array_at(a.weight, a.weight_size, KIND), array_at(a.bias, a.bias_size, KIND)
        sums, stats = array_at(a.sums, a.sums_size, "f8"), array_at(a.stats, a.stats_size, "f8")
        low, high, step = tile * a.part, min((tile + 1) * a.part, a.rows), 1
        if a.stage in (ALL, SHIFT, COMBINE):
            low, high, step = tile * a.first, tile * a.first + a.count * a.step, a.step
        if a.stage in (ALL, SHIFT):
            stats[COLUMNS * tile] = guess(x, low * a.length, a.length)
        if a.stage in (ALL, SUMS):
            for row in range(low, high, step):
                row_sums(x, sums, stats, row, row % a.period // a.per, a.length)
        if a.stage in (ALL, COMBINE):
            combine(sums, stats, tile, a.first, a.step, a.count, a.length, a.eps)
        if a.stage in (ALL, APPLY):
            for row in range(low, high, step):
                apply_row(x, y, weight, bias, stats, row, row % a.period // a.per, row % a.channels, a.length)

    return norm_fwd


@lru_cache
def make_norm_gradient(dtype):
    """Backward."""
    KIND = dtype.str[1:]
    _, run_products, slope_run = make_apply(dtype)

    @helper
    def combine(sums, stats, slopes, weight, group, first, step, count, length, channels):
        total, products = 0.0, 0.0
        for row in range(group * first, group * first + count * step, step):
            total += weight[row % channels] * sums[2 * row]
            products += weight[row % channels] * sums[2 * row + 1]
        rstd, size = stats[COLUMNS * group + 3], count * length
        slopes[2 * group], slopes[2 * group + 1] = -products / size * rstd**3, -total / size * rstd

    @helper
    def slope_row(x, g, gx, weight, stats, slopes, row, group, channel, length):
        mean, rstd = stats[COLUMNS * group + 1], stats[COLUMNS * group + 3]
        along, constant = slopes[2 * group], slopes[2 * group + 1]
        slope_run(x, g, gx, row * length, length, mean, rstd * weight[channel], along, constant)

    @tile_body(NormGradientBlock, dtype)
    def norm_bwd(block, tile, worker):
        """Tile: a group (stages ALL, COMBINE) or `part` rows (SUMS, APPLY)."""
        a = fields(block)
        x, g, gx = array_at(a.x, a.x_size, KIND), array_at(a.g, a.g_size, KIND), array_at(a.gx, a.gx_size, KIND)
        weight, sums = array_at(a.weight, a.weight_size, KIND), array_at(a.sums, a.sums_size, "f8")
        stats, slopes = array_at(a.stats, a.stats_size, "f8"), array_at(a.slopes, a.slopes_size, "f8")
        low, high, step = tile * a.part, min((tile + 1) * a.part, a.rows), 1
        if a.stage in (ALL, COMBINE):
            low, high, step = tile * a.first, tile * a.first + a.count * a.step, a.step
        if a.stage in (ALL, SUMS):
            for row in range(low, high, step):
                mean = stats[COLUMNS * (row % a.period // a.per) + 1]
                sums[2 * row], sums[2 * row + 1] = run_products(x, g, row * a.length, a.length, mean)
        if a.stage in (ALL, COMBINE):
            combine(sums, stats, slopes, weight, tile, a.first, a.step, a.count, a.length, a.channels)
        if a.stage in (ALL, APPLY):
            for row in range(low, high, step):
                group = row % a.period // a.per
                slope_row(x, g, gx, weight, stats, slopes, row, group, row % a.channels, a.length)

    return norm_bwd


# ---- rows of a program


def _values(shape, groups):
    n, channels, length = shape
    part = max(1, 8192 // max(1, length))
    numbers = {"rows": n * channels, "part": part, "length": length, "channels": channels}
    return numbers | {name: getattr(groups, name) for name in ("period", "per", "first", "step", "count")}


def _rows(body, values, groups, stages, cost):
    """Many groups: each is a tile and stays in its core's cache. Few large ones: stage by stage."""
    size = values["rows"] * values["length"]
    if not size:
        return []
    if ALL in stages and (groups.groups >= 16 or size < 1 << 16):
        return [Row(body, groups.groups, values | {"stage": ALL}, size * cost)]
    tiles = {SUMS: -(-values["rows"] // values["part"]), APPLY: -(-values["rows"] // values["part"])}
    work = {SUMS: size * cost / 2, APPLY: size * cost / 2}
    return [
        Row(body, tiles.get(stage, groups.groups), values | {"stage": stage}, work.get(stage, 0))
        for stage in stages
        if stage != ALL
    ]


def _norm_rows(x, y, weight, bias, sums, stats, groups, eps, given):
    values = {**_values(x.shape, groups), "x": x, "y": y, "weight": weight, "bias": bias, "eps": eps}
    values |= {"sums": sums, "stats": stats}
    stages = (APPLY,) if given else (ALL, SHIFT, SUMS, COMBINE, APPLY)
    return _rows(make_norm(x.dtype), values, groups, stages, 0.4 if given else 0.7)


def _gradient_rows(x, g, gx, weight, sums, stats, slopes, groups):
    """Without gx only the sums."""
    none = np.empty(0, x.dtype)
    values = {**_values(x.shape, groups), "x": x, "g": g, "gx": none if gx is None else gx}
    values |= {"weight": none if weight is None else weight, "stats": stats, "sums": sums}
    values["slopes"] = np.empty(0) if slopes is None else slopes
    stages, cost = ((SUMS,), 0.8) if gx is None else ((ALL, SUMS, COMBINE, APPLY), 1.0)
    return _rows(make_norm_gradient(x.dtype), values, groups, stages, cost)


def normalise(x, y, weight, bias, groups, eps, stats=None):
    """y from x (n, c, length), weight and bias (c); the groups' statistics (groups, 4): guess, mean, variance, rstd.

    stats: given statistics (evaluation); without them they are computed.
    """
    given = stats is not None
    sums = np.empty(0 if given else 2 * x.shape[0] * x.shape[1])
    stats = np.zeros((groups.groups, COLUMNS)) if stats is None else stats
    run_rows(_norm_rows, (x, y, weight, bias, sums, stats), groups, eps, given)
    return stats


def norm_gradient(x, g, weight, groups, stats):
    """(gx, sums (n, c, 2) of g and g (x - mean)) for statistics that depend on x."""
    gx, slopes = _memory.empty(x.shape, x.dtype), np.empty((groups.groups, 2))
    sums = np.zeros((*x.shape[:2], 2))
    run_rows(_gradient_rows, (x, g, gx, weight, sums, stats, slopes), groups)
    return gx, sums


def norm_sums(x, g, groups, stats):
    """The sums (n, c, 2) of g and g (x - mean) alone."""
    sums = np.zeros((*x.shape[:2], 2))
    run_rows(_gradient_rows, (x, g, None, None, sums, stats, None), groups)
    return sums
