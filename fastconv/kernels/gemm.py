"""The product that convolution is made of: c (MR, NR*LANES) = a (MR, K) b (K, NR*LANES), kept in registers over all of
K.

Where the K values of a row of a and of a column of b lie is a table of steps: pairs (offset in a, offset in b).  So one
product serves packed patches, taps in any order, and weights as they lie in memory: only the table differs.
"""

from functools import cache

import numpy as np

from .._jit import helper
from ..simd import add_bias, add_part, clamp_tile, fma_loop, prefetch_tile, store_part, store_tile, zero_tile

BIAS, OLD, BOTH = 0, 1, 2  # what a product is added to


@helper
def part_rows(a, part, MR):
    """The first row of a part and its number of rows: whole register tiles, and the rest in the last part."""
    tiles = a.rows // MR
    first = tiles * part // a.parts * MR
    return first, (a.rows if part == a.parts - 1 else tiles * (part + 1) // a.parts * MR) - first


@cache
def make_product(MR, NR, LANES):
    """The product for a register tile of MR rows and NR vectors of LANES columns."""

    @helper
    def product(
        a, ai, a_m, b, bi, steps, first, last, c, ci, c_m, bias, oi, skip, columns, add, low=-np.inf, high=np.inf
    ):
        """c[ci + m*c_m + j] = sum over first <= k < last of a[ai + m*a_m + steps[k, 0]] * b[bi + steps[k, 1] + j], for
        skip <= m < MR and j < columns.

        add: plus bias[oi + m] (BIAS), plus what c holds (OLD), or plus both; the sum is clamped to low .. high."""
        prefetch_tile(c, ci, c_m, MR, NR)
        acc = fma_loop(zero_tile(b, MR, NR), a, ai, a_m, b, bi, steps, first, last, MR, NR)
        if add == BIAS and skip == 0 and columns >= NR * LANES:  # the usual end, by the shortest way
            if low > -np.inf or high < np.inf:
                store_tile(clamp_tile(add_bias(acc, bias, oi, MR, NR), low, high, MR, NR), c, ci, c_m, MR, NR)
            else:
                store_tile(add_bias(acc, bias, oi, MR, NR), c, ci, c_m, MR, NR)
            return
        if add != BIAS:
            acc = add_part(acc, c, ci, c_m, skip, columns, MR, NR)
        if add != OLD:
            acc = add_bias(acc, bias, oi, MR, NR)
        acc = clamp_tile(acc, low, high, MR, NR)
        if skip == 0 and columns >= NR * LANES:
            store_tile(acc, c, ci, c_m, MR, NR)
        else:
            store_part(acc, c, ci, c_m, skip, columns, MR, NR)

    return product


@cache
def make_strip_product(MR, NR, LANES):
    """The product of MR rows of a and a panel of `columns` columns, tile by tile."""
    wide, narrow = make_product(MR, NR, LANES), make_product(MR, 1, LANES)

    @helper
    def strip_product(
        a, ai, a_m, b, bi, columns, steps, first, last, c, ci, c_m, bias, oi, skip, add, low=-np.inf, high=np.inf
    ):
        j = 0
        while j < columns:
            left = columns - j
            if left > (NR - 1) * LANES:
                wide(a, ai, a_m, b, bi + j, steps, first, last, c, ci + j, c_m, bias, oi, skip, left, add, low, high)
                j += NR * LANES
            else:
                narrow(a, ai, a_m, b, bi + j, steps, first, last, c, ci + j, c_m, bias, oi, skip, left, add, low, high)
                j += LANES

    return strip_product


@cache
def make_panel_product(MR, NR, LANES):
    """The product of `rows` rows of a and a panel of b, strip by strip: the rows of a stay in the first-level cache,
    outputs are written in runs."""
    strip_product = make_strip_product(MR, NR, LANES)

    @helper
    def panel_product(a, ai, a_m, rows, b, bi, columns, steps, first, last, c, ci, c_m, bias, oi, add):
        for m in range(0, rows, MR):
            top = min(m, rows - MR)  # the last strip overlaps the one before it and skips the rows that are done
            strip_product(
                *(a, ai + top * a_m, a_m, b, bi, columns, steps, first, last),
                *(c, ci + top * c_m, c_m, bias, oi + top, m - top, add),
            )

    return panel_product
