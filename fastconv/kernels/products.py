"""Products of matrices, many at once: c[i] = a[i] b[i] + bias, and fully connected layers for several images.

A panel of b, as wide as a register tile, is read from front to back for each few rows of a: packed beforehand where b
is a weight, else copied into scratch on the way, from rows or, where b is given transposed, turned round in blocks.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, isa, lanes, load_window, store_vector, transpose_block
from ..simd_vector import add_vector, store_window
from ..specs import NO_EPILOGUE
from .gathers import NANOSECONDS_PER_FLOP, split, zeros
from .gemm import BIAS, OLD, make_strip_product, part_rows

DEPTH = 256  # of a panel that stays in the caches
PART_BYTES = 1 << 17  # of the rows of a that a tile reads
BYTES_PER_NANOSECOND = 60  # of weights, read once
PACKED, ROWS, TRANSPOSED = 0, 1, 2  # how b lies

ProductBlock = Block(
    "ProductBlock",
    {**dict.fromkeys(("a", "b", "bias", "zeros", "c", "scratch")), "steps": "i8", "batches": "i8"},
    "rows columns depth block parts panels how biased accumulate",
    "low high",
)


@cache
def make_pack_panel(dtype, PANEL):
    """Helpers: `count` rows of `width` columns of b into a panel, zeros up to a whole vector."""
    LANES, FLOAT = lanes(dtype), np.dtype(dtype).type

    @helper
    def pack_rows(b, bi, pitch, count, width, panel):
        for k in range(count):
            for j in range(0, width, LANES):
                store_vector(load_window(b, bi + k * pitch + j, 1, 0, width - j, 1), panel, k * PANEL + j)

    @helper
    def pack_transposed(b, bi, pitch, count, width, panel):
        """b holds columns, each of them `pitch` from the last."""
        for j in range(0, width, LANES):
            k = 0
            if j + LANES <= width:
                while k + LANES <= count:
                    transpose_block(b, bi + j * pitch + k, pitch, panel, k * PANEL + j, PANEL)
                    k += LANES
            for row in range(k, count):
                for i in range(j, j + LANES):
                    panel[row * PANEL + i] = b[bi + i * pitch + row] if i < width else FLOAT(0)

    return pack_rows, pack_transposed


@cache
def make_products(dtype, MR, NR):
    """The kernel for a register tile of MR rows and NR vectors of columns."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    PANEL = NR * LANES
    strip_product = make_strip_product(MR, NR, LANES)
    pack_rows, pack_transposed = make_pack_panel(dtype, PANEL)

    @helper
    def begin(a, bias, column, c, ci, rows, width):
        """c = the bias, added to what it holds if wanted."""
        for m in range(rows):
            for j in range(0, width, LANES):
                value = load_window(bias, column + j, 1, 0, width - j, 1)
                if a.accumulate:
                    value = add_vector(value, load_window(c, ci + m * a.columns + j, 1, 0, width - j, 1))
                store_window(value, c, ci + m * a.columns + j, width - j)

    @tile_body(ProductBlock, dtype)
    def matrix_products(block, tile, worker):
        """Tile: (product, part of the rows, panel of columns)."""
        a = fields(block)
        left, right = array_at(a.a, a.a_size, KIND), array_at(a.b, a.b_size, KIND)
        bias, zeros, c = (
            array_at(a.bias, a.bias_size, KIND),
            array_at(a.zeros, a.zeros_size, KIND),
            array_at(a.c, a.c_size, KIND),
        )
        steps, batches = array_at(a.steps, a.steps_size, "i8"), array_at(a.batches, a.batches_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        panel, part, batch = tile % a.panels, tile // a.panels % a.parts, tile // (a.panels * a.parts)
        first, rows = part_rows(a, part, MR)
        column = panel * PANEL
        width = min(PANEL, a.columns - column)
        ai, bi = batches[2 * batch] + first * a.depth, batches[2 * batch + 1]
        ci = (batch * a.rows + first) * a.columns + column
        add = OLD if a.biased or a.accumulate else BIAS
        if a.biased:
            begin(a, bias, column, c, ci, rows, width)
        for k in range(0, a.depth, a.block):
            count = min(a.block, a.depth - k)
            source, at = scratch, 0
            if a.how == PACKED:
                source, at = right, bi + (panel * a.depth + k) * PANEL
            elif a.how == ROWS:
                pack_rows(right, bi + k * a.columns + column, a.columns, count, width, scratch)
            else:
                pack_transposed(right, bi + column * a.depth + k, a.depth, count, width, scratch)
            low, high = (a.low, a.high) if k + count == a.depth else (-np.inf, np.inf)
            then = OLD if k else add
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips its rows
                top = min(m, rows - MR)
                strip_product(
                    *(left, ai + top * a.depth + k, a.depth, source, at, width, steps, 0, count),
                    *(c, ci + top * a.columns, a.columns, zeros, 0, m - top, then, low, high),
                )

    return matrix_products


class Sizes(NamedTuple):
    """a (batch, rows, depth), b (batch, depth, columns)."""

    batch: int
    rows: int
    columns: int
    depth: int
    dtype: str


@lru_cache(maxsize=1024)
def _tables(depth, panel):
    return np.stack([np.arange(depth), np.arange(depth) * panel], axis=1).ravel()


def _panel(sizes):
    return isa.tile(sizes.rows)[1] * lanes(sizes.dtype)


def product_row(sizes, buffers, how, batches=None, low=-np.inf, high=np.inf, accumulate=False):
    """The row for c = clamp(a b + bias (+ c)).

    buffers: a, b, c, and bias (columns) or None, dense; how: PACKED (`packed`), ROWS (depth, columns) or TRANSPOSED
    (columns, depth); batches: (batch, 2), where the matrices of each product begin in a and b, None for one product.
    """
    MR, NR = isa.tile(sizes.rows)
    panel, itemsize = NR * lanes(sizes.dtype), np.dtype(sizes.dtype).itemsize
    block, panels = min(DEPTH, sizes.depth), split(sizes.columns, panel)
    parts = split(sizes.rows * sizes.depth * itemsize, PART_BYTES)
    parts = max(1, min(max(parts, split(16, sizes.batch * panels)), sizes.rows // max(MR, 1 if how == PACKED else 64)))
    bias = buffers.get("bias")
    values = {
        **{name: buffers[name] for name in "abc"},
        **{"bias": zeros(1, sizes.dtype) if bias is None else bias, "zeros": zeros(MR, sizes.dtype)},
        **{"steps": _tables(block, panel), "batches": np.zeros(2, np.int64) if batches is None else batches.ravel()},
        **{"rows": sizes.rows, "columns": sizes.columns, "depth": sizes.depth, "block": block},
        **{"parts": parts, "panels": panels, "how": how},
        **{"biased": int(bias is not None), "accumulate": int(accumulate), "low": low, "high": high},
    }
    tiles = sizes.batch * parts * panels
    scratch = 0 if how == PACKED else block * panel
    return Row(make_products(sizes.dtype, MR, NR), tiles, values, product_cost(sizes), scratch=scratch)


def product_cost(sizes):
    """Nanoseconds on one thread, packed."""
    multiplications = sizes.batch * sizes.rows * sizes.depth * split(sizes.columns, lanes(sizes.dtype))
    weights = sizes.batch * sizes.depth * sizes.columns * np.dtype(sizes.dtype).itemsize
    height = isa.tile(sizes.rows)[0]
    waste = split(sizes.rows, height) * height / sizes.rows
    work = 2 * multiplications * lanes(sizes.dtype) * NANOSECONDS_PER_FLOP
    return work * 1.05 * waste + weights / BYTES_PER_NANOSECOND


def packed(weight, panel):
    """A matrix (columns, depth) as (panel of columns, depth, column of the panel), zeros beyond."""
    columns, depth = weight.shape
    made = np.zeros((split(columns, panel), depth, panel), weight.dtype)
    for i in range(len(made)):
        part = weight[i * panel : (i + 1) * panel]
        made[i, :, : len(part)] = part.T
    return made


# ---- fully connected layers, as convolutions whose kernel covers the image


def _sizes(spec):
    return Sizes(1, spec.n, spec.oc, spec.icg * spec.taps, spec.dtype)


@implements("conv.fwd", rank=6)
class ConvForward(Impl):
    name = "conv_fwd_products"
    epilogue = True

    @staticmethod
    def when(spec):
        kernel, padding = (spec.kd, spec.kh, spec.kw), (spec.pd, spec.ph, spec.pw)
        if spec.out_pixels != 1 or kernel != (spec.id, spec.ih, spec.iw) or any(padding):
            return "needs a kernel that covers the whole image"
        if spec.g != 1 or spec.n < 2 or 0 in (spec.ic, spec.oc):
            return "needs one group and several images"
        return None

    @staticmethod
    def cost(spec):
        return product_cost(_sizes(spec))

    @staticmethod
    def layout(spec):
        return _panel(_sizes(spec))

    @staticmethod
    def pack(spec, weight):
        return packed(weight.reshape(spec.oc, -1), _panel(_sizes(spec)))

    @staticmethod
    def pack_cost(spec):
        """Weights are turned round block by block."""
        return 0.4 * spec.oc * spec.icg * spec.taps

    @staticmethod
    def emit(spec, buffers):
        epilogue, weights = buffers.get("epilogue", NO_EPILOGUE), buffers.get("packed")
        given = {"a": buffers["x"], "b": buffers["w"] if weights is None else weights, "c": buffers["y"]}
        given["bias"] = buffers.get("b")
        how, clamp = TRANSPOSED if weights is None else PACKED, (epilogue.low, epilogue.high)
        return (product_row(_sizes(spec), given, how, None, *clamp, epilogue.accumulate),)
