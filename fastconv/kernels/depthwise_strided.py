"""The data gradient of depthwise convolution with strides (so: its transposed convolution) on plain images.

Pixel i of the input, i + padding = p*stride + c of class c, sees output p + (c - k*dilation) / stride under those taps
k for which that is whole (Dumoulin and Visin, arXiv 1603.07285, section 4).  So each class is a convolution of stride 1
over p, computed as in `depthwise.py`.  A tile is R rows of one class; the classes of its columns are computed one after
the other and put side by side in registers, so that the result is written in whole vectors.
"""

from functools import cache, lru_cache
from itertools import chain, product
from math import gcd
from typing import NamedTuple

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, isa, lanes
from ..simd_depthwise import finish_rows, numbers_at, slide_rows, start_rows, weave_rows
from ..specs import NO_EPILOGUE
from . import depthwise
from .gathers import split, zeros
from .window import rows_per_tile, valid_taps

NUMBERS = (
    "xd xh xw yd yh yw sd sh sw pd pw outs x_each x_channels w_each w_row row_blocks units part low_row high_row "
    "low_column high_column blocks classes depths"
)
ClassesBlock = Block(
    "DepthwiseClasses",
    {"x": None, "w": None, "bias": None, "y": None, "plan": "i8", "scratch": None},
    "accumulate",
    "low high",
)
MOST_STEP = 8  # columns side by side: each vector of the result is picked from so many
BLOCK, DEPTH = 5, 3  # numbers of a block of rows, of a class of depths


@cache
def make_classes(dtype, K1, K2, SW, R):
    """The kernel for strides of SW along the row, tiles of R rows and entries of K1, then of K2 row taps."""
    KIND, ITEM, LANES, FIELDS = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype), NUMBERS
    TABLE, PHASE = len(FIELDS.split()), R * LANES

    @tile_body(ClassesBlock, dtype)
    def conv_bwd_data_depthwise_classes(block, tile, worker):
        """Tile: `part` blocks of R rows of one class in a plane of the output, whatever plane they belong to."""
        p = fields(block)
        x, w, y = array_at(p.x, p.x_size, KIND), array_at(p.w, p.w_size, KIND), array_at(p.y, p.y_size, KIND)
        bias, plan = array_at(p.bias, p.bias_size, KIND), array_at(p.plan, p.plan_size, "i8")
        s = array_at(p.scratch + worker * p.scratch_size * ITEM, p.scratch_size, KIND)
        a, low, high = numbers_at(p.plan, FIELDS), y.dtype.type(p.low), y.dtype.type(p.high)
        table, blocks, classes, depths = plan[TABLE:], plan[a.blocks :], plan[a.classes :], plan[a.depths :]
        for unit in range(tile * a.part, min((tile + 1) * a.part, a.units)):
            plane, number = unit // a.row_blocks, unit % a.row_blocks * BLOCK
            i, skip, rows, row = blocks[number], blocks[number + 1], blocks[number + 2], blocks[number + 3]
            q, image, z = plane // a.yd % a.outs, plane // a.yd // a.outs, plane % a.yd + a.pd
            depth_class = z % a.sd * DEPTH
            depth = z // a.sd + depths[depth_class + 1]
            d0, d1 = valid_taps(depth, a.xd, depths[depth_class], depths[depth_class + 2])
            source = (((image * a.x_channels + q * a.x_each) * a.xd + depth) * a.xh + row) * a.xw
            target, wi, offset = (plane * a.yh + i) * a.yw, q * a.w_each, bias[q]
            first_class = (z % a.sd * a.sh + blocks[number + 4]) * SW
            whole = row + a.low_row >= 0 and row + a.high_row < a.xh and skip == 0 and rows == R
            for c in range(a.pw // SW, (a.pw + a.yw - 1) // SW + 1, LANES):
                j, xi = c * SW - a.pw, source + c
                inside = whole and c + a.low_column >= 0 and c + a.high_column <= a.xw
                inside = inside and j >= 0 and j + SW * LANES <= a.yw
                for k in range(SW):
                    at = (first_class + k) * 4
                    n1, n2 = classes[at + 1], classes[at + 3]
                    r0, s0 = classes[at] + d0 * n1, classes[at + 2] + d0 * n2
                    r1, s1 = r0 + (d1 - d0) * n1, s0 + (d1 - d0) * n2
                    acc = start_rows(s, 0, 0, 0, 0, 0, offset, 0, R, 0)
                    if inside:
                        acc = slide_rows(
                            acc, x, xi, a.xw, 0, 0, 1, 0, 0, 1, w, wi, a.w_row, 0, table, r0, r1, s0, s1, K1, 1, K2, 1,
                            1, 1, R, 0, 0,
                        )  # fmt: skip
                    else:
                        acc = slide_rows(
                            acc, x, xi, a.xw, -row, a.xh - row, 1, -c, a.xw - c, 1, w, wi, a.w_row, 0, table, r0, r1,
                            s0, s1, K1, 1, K2, 1, 1, 1, R, 1, 0,
                        )  # fmt: skip
                    finish_rows(acc, s, k * PHASE, LANES, 0, R, LANES, R, 0, 0)
                y_row, columns = a.sh * a.yw, a.yw - j
                if inside:
                    weave_rows(s, 0, PHASE, y, target + j, y_row, 0, R, 0, columns, p.accumulate, low, high, SW, R, 0)
                else:
                    weave_rows(
                        s, 0, PHASE, y, target + j, y_row, skip, rows, -j, columns, p.accumulate, low, high, SW, R, 1
                    )

    return conv_bwd_data_depthwise_classes


# ---- programs


class Axis(NamedTuple):
    """The classes along one axis: for each its taps and the outputs that they see, (tap, offset) by offset; between
    neighbouring taps of a class, the distance of the outputs and that of the taps."""

    classes: tuple
    gap: int
    tap_gap: int


def _axis(kernel, stride, dilation):
    shared = gcd(stride, dilation)
    classes = tuple(
        tuple((k, (c - k * dilation) // stride) for k in reversed(range(kernel)) if (c - k * dilation) % stride == 0)
        for c in range(stride)
    )
    return Axis(classes, dilation // shared, stride // shared)


class Layout(NamedTuple):
    """How the classes of a problem are computed: rows of a tile, row taps of the two kinds of entries, axes d, h, w."""

    rows: int
    k1: int
    k2: int
    axes: tuple


def _layouts(spec):
    axes = tuple(_axis(getattr(spec, "k" + d), getattr(spec, "s" + d), getattr(spec, "d" + d)) for d in "dhw")
    most = max(map(len, axes[1].classes))
    together = most if axes[1].gap == 1 and most <= depthwise.MOST_K else 1
    for rows in depthwise.ROWS:
        if rows + together + 3 <= isa.registers:
            yield Layout(rows, together, together - 1, axes)


def _row_blocks(spec, layout):
    """(first row, rows done before, rows, its p, its class) of every tile of a plane."""
    blocks = []
    for c in range(spec.sh):
        first = (c - spec.ph) % spec.sh
        count = max(0, split(spec.ih - first, spec.sh)) if first < spec.ih else 0
        for m in range(0, count, layout.rows):
            top = max(0, min(m, count - layout.rows))  # the last tile overlaps the one before it
            i = first + top * spec.sh
            blocks.append((i, m - top, min(layout.rows, count - top), (i + spec.ph) // spec.sh, c))
    return blocks


def _entries(spec, layout, depth_taps, row_taps, column_taps):
    """The entries of one class, depth after depth."""
    size = spec.oh * spec.ow
    starts = row_taps[:1] if layout.k1 > 1 else row_taps
    return [
        (
            *(term * spec.od * size + j * layout.axes[0].gap * size + oh * spec.ow + ow, ow, oh),
            (term * spec.kd + kd) * spec.kh * spec.kw + kh * spec.kw + kw,
        )
        for j, (kd, _) in enumerate(depth_taps)
        for term in range(spec.ocg)
        for kh, oh in starts
        for kw, ow in column_taps
    ]


def _tables(spec, layout):
    """(entries, where each class's entries are: first and number a depth of the first kind, of the second)."""
    table, classes = [], []
    for depth_taps, row_taps, column_taps in product(*(axis.classes for axis in layout.axes)):
        entries = _entries(spec, layout, depth_taps, row_taps, column_taps)
        place = [len(table), len(entries) // max(1, len(depth_taps))]
        table += entries
        second = layout.k1 > 1 and len(row_taps) < layout.k1
        classes.append([0, 0, *place] if second else [*place, 0, 0])
    return table, classes


def _cycles(spec, layout):
    """Cycles: the entries of every tile, what it takes to begin and end one, and to put its classes side by side."""
    rows, blocks = layout.rows, _row_blocks(spec, layout)
    each, wide = 0.0, isa.width / 64
    for *_, row_class in blocks:
        taps = len(layout.axes[1].classes[row_class])
        k, starts = (taps, min(taps, 1)) if layout.k1 > 1 else (1, taps)
        work = max(rows * k, 1.64 * (rows + k - 1)) * wide + k + 8
        each += starts * work * spec.ocg * spec.kw * spec.kd / spec.sd + spec.sw * (30 + rows * (4 + spec.sw))
    vectors = split(split(spec.iw, spec.sw) + 1, lanes(spec.dtype))
    return spec.n * spec.ic * spec.id * vectors * each


@lru_cache(maxsize=1024)
def best_layout(spec):
    """(layout of least cost, its nanoseconds)."""
    layout = min(_layouts(spec), key=lambda layout: _cycles(spec, layout))
    return layout, _cycles(spec, layout) * depthwise.NANOSECONDS + 0.01 * spec.bytes()


@lru_cache(maxsize=1024)
def _plan(spec):
    """(body, tiles, numbers and tables, scratch, work) of the row: all but its arrays."""
    layout, work = best_layout(spec)
    LANES, blocks = lanes(spec.dtype), _row_blocks(spec, layout)
    table, classes = _tables(spec, layout)
    depth, rows, columns = layout.axes
    depths = [(len(taps), taps[0][1] if taps else 0, depth.gap) for taps in depth.classes]
    row_offsets = [offset for taps in rows.classes for _, offset in taps]
    column_offsets = [offset for taps in columns.classes for _, offset in taps]
    units = spec.n * spec.ic * spec.id * len(blocks)
    part, names = rows_per_tile(units, work / units), NUMBERS.split()
    numbers = {
        **{"xd": spec.od, "xh": spec.oh, "xw": spec.ow, "yd": spec.id, "yh": spec.ih, "yw": spec.iw},
        **{name: getattr(spec, name) for name in ("sd", "sh", "sw", "pd", "pw")},
        **{"outs": spec.ic, "x_each": spec.ocg, "x_channels": spec.oc, "w_each": spec.ocg * spec.taps},
        **{"w_row": -rows.tap_gap * spec.kw, "row_blocks": len(blocks), "units": units, "part": part},
        **{"low_row": min(row_offsets), "high_row": layout.rows - 1 + max(row_offsets)},
        **{"low_column": min(column_offsets), "high_column": max(column_offsets) + LANES},
    }
    numbers["blocks"] = len(names) + 4 * len(table)
    numbers["classes"] = numbers["blocks"] + BLOCK * len(blocks)
    numbers["depths"] = numbers["classes"] + 4 * len(classes)
    plan = np.array([*(numbers[name] for name in names), *chain(*table, *blocks, *classes, *depths)], np.int64)
    body = make_classes(spec.dtype, layout.k1, layout.k2, spec.sw, layout.rows)
    return body, split(units, part), plan, spec.sw * layout.rows * LANES, work


@implements("conv.bwd_data", rank=11)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_depthwise_classes"
    takes_bias = True  # a buffer `b` with a value per channel of gx
    epilogue = True

    @staticmethod
    def when(spec):
        if max(spec.sd, spec.sh, spec.sw) == 1:
            return "needs a stride"
        if spec.sw > MOST_STEP:
            return f"needs a stride of at most {MOST_STEP} along the row, has {spec.sw}"
        return depthwise.refusal(spec)

    @staticmethod
    def cost(spec):
        return best_layout(spec)[1]

    @staticmethod
    def emit(spec, buffers):
        body, tiles, plan, scratch, work = _plan(spec)
        low, high, accumulate = buffers.get("epilogue", NO_EPILOGUE)
        bias = buffers.get("b")
        bias = zeros(spec.ic, spec.dtype) if bias is None else bias
        arrays = {"x": buffers["gy"], "w": buffers["w"], "bias": bias, "y": buffers["gx"], "plan": plan}
        reals = {"low": low, "high": high, "accumulate": int(accumulate)}
        return [Row(body, tiles, {**arrays, **reals}, work, scratch)]
