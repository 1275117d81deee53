"""The data gradient of depthwise convolution with strides (so: its transposed convolution) on plain images.

Pixel i of the input, i + padding = p*stride + c of class c, sees output p + (c - k*dilation) / stride under those taps
k for which that is whole (Dumoulin and Visin, arXiv 1603.07285, section 4).  So each class is a convolution of stride 1
over p.  A tile is R rows of one class of rows under all classes of columns: SW neighbouring column taps of a row read
the same vector of the output, each for its own class.  In the end the classes are put side by side in registers, so
that the result is written in whole vectors.
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
from ..simd_depthwise import numbers_at, prefetch_rows, start_rows
from ..simd_depthwise_backward import spread_rows, weave_rows
from ..specs import NO_EPILOGUE
from . import depthwise
from .depthwise import bits
from .gathers import split, zeros
from .window import rows_per_tile, valid_taps

NUMBERS = (
    "xd xh xw yd yh yw sd sh pd pw outs x_each x_channels w_each w_row row_blocks units part low_column "
    "blocks block_size classes depths far"
)
ClassesBlock = Block(
    "DepthwiseClasses", {"x": None, "w": None, "bias": None, "y": None, "plan": "i8"}, "accumulate clamp", "low high"
)
MOST_STEP = 8  # columns side by side: each vector of the result is picked from so many
DEPTH, KINDS = 3, 4  # numbers of a class of depths; kinds of entries


@cache
def make_classes(dtype, K1, K2, SW, PART, R):
    """The kernel for strides of SW along the row and tiles of R rows, with entries of K1 or K2 row taps and SW or PART
    column taps."""
    KIND, LANES, FIELDS = np.dtype(dtype).str[1:], lanes(dtype), NUMBERS
    TABLE, CLASSES = len(FIELDS.split()), SW * R

    @tile_body(ClassesBlock, dtype)
    def conv_bwd_data_depthwise_classes(block, tile, worker):
        """Tile: `part` blocks of R rows of one class in a plane of the output, whatever plane they belong to."""
        p = fields(block)
        x, w, y = array_at(p.x, p.x_size, KIND), array_at(p.w, p.w_size, KIND), array_at(p.y, p.y_size, KIND)
        bias, plan = array_at(p.bias, p.bias_size, KIND), array_at(p.plan, p.plan_size, "i8")
        a, low, high = numbers_at(p.plan, FIELDS), y.dtype.type(p.low), y.dtype.type(p.high)
        table, blocks, classes, depths = plan[TABLE:], plan[a.blocks :], plan[a.classes :], plan[a.depths :]
        for unit in range(tile * a.part, min((tile + 1) * a.part, a.units)):
            plane, number = unit // a.row_blocks, unit % a.row_blocks * a.block_size
            i, keep, whole, valid = blocks[number], blocks[number + 1], blocks[number + 2], number + 5
            q, image, z = plane // a.yd % a.outs, plane // a.yd // a.outs, plane % a.yd + a.pd
            depth_class = z % a.sd * DEPTH
            depth = z // a.sd + depths[depth_class + 1]
            d0, d1 = valid_taps(depth, a.xd, depths[depth_class], depths[depth_class + 2])
            source = (((image * a.x_channels + q * a.x_each) * a.xd + depth) * a.xh + blocks[number + 3]) * a.xw
            target, wi, y_row = (plane * a.yh + i) * a.yw, q * a.w_each, a.sh * a.yw
            c = classes[(z % a.sd * a.sh + blocks[number + 4]) * 2 * KINDS :]
            f1, l1, f2, l2 = c[0] + d0 * c[1], c[0] + d1 * c[1], c[2] + d0 * c[3], c[2] + d1 * c[3]
            f3, l3, f4, l4 = c[4] + d0 * c[5], c[4] + d1 * c[5], c[6] + d0 * c[7], c[6] + d1 * c[7]
            for column in range(a.pw // SW, (a.pw + a.yw - 1) // SW + 1, LANES):
                j, xi = column * SW - a.pw, source + column
                yi, columns = target + j, a.yw - j
                if a.far:
                    for v in range(SW):
                        prefetch_rows(y, yi + R * y_row + v * LANES, y_row, R, 1)
                acc = start_rows(y, 0, 0, 0, 0, bias[q], 0, CLASSES, 0)
                inside = column + a.low_column >= 0 and column + LANES <= a.xw and j >= 0 and columns >= SW * LANES
                if whole and inside:
                    acc = spread_rows(
                        acc, x, xi, a.xw, blocks, valid, 0, 0, w, wi, a.w_row, table, f1, l1, f2, l2, f3, l3, f4, l4,
                        K1, K2, SW, PART, R, 0,
                    )  # fmt: skip
                    weave_rows(acc, y, yi, y_row, keep, 0, columns, p.accumulate, low, high, SW, R, 0)
                else:
                    acc = spread_rows(
                        acc, x, xi, a.xw, blocks, valid, -column, a.xw - column, w, wi, a.w_row, table, f1, l1, f2,
                        l2, f3, l3, f4, l4, K1, K2, SW, PART, R, 1,
                    )  # fmt: skip
                    weave_rows(acc, y, yi, y_row, keep, -j, columns, p.accumulate, low, high, SW, R, 1)

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
    """How a problem is computed: rows of a tile, row taps of the two kinds of entries, depths and rows in classes."""

    rows: int
    k1: int
    k2: int
    depth: Axis
    height: Axis


ROWS = (14, 12, 10, 8, 7, 5, 4, 3, 2, 1)


def _layouts(spec):
    depth, height = _axis(spec.kd, spec.sd, spec.dd), _axis(spec.kh, spec.sh, spec.dh)
    most = max(map(len, height.classes))
    together = most if height.gap == 1 and most <= depthwise.MOST_K else 1
    for rows in ROWS:
        for k in {together, 1}:
            if spec.sw * (rows + k) + 2 <= isa.registers or rows == k == 1:
                yield Layout(rows, k, k - 1, depth, height)


def _groups(layout):
    """The least offsets of entries: rows of the output are inside or not for each of them."""
    starts = [taps[:1] if layout.k1 > 1 else taps for taps in layout.height.classes]
    return sorted({offset for taps in starts for _, offset in taps})


def _row_blocks(spec, layout):
    """For each tile of a plane: its first row, the rows that it keeps, whether all it reads are inside, its first p and
    its class, and which rows are inside for each group."""
    blocks, depth = [], layout.rows - 1 + layout.k1
    for c in range(spec.sh):
        first = (c - spec.ph) % spec.sh
        count = max(0, split(spec.ih - first, spec.sh)) if first < spec.ih else 0
        for m in range(0, count, layout.rows):
            top = max(0, min(m, count - layout.rows))  # the last tile overlaps the one before it
            i, done, rows = first + top * spec.sh, m - top, min(layout.rows, count - top)
            p, keep = (i + spec.ph) // spec.sh, bits(done <= r < rows for r in range(layout.rows))
            inside = [[0 <= p + group + t < spec.oh for t in range(depth)] for group in _groups(layout)]
            whole = keep == (1 << layout.rows) - 1 and all(map(all, inside))
            blocks.append((i, keep, int(whole), p, c, *map(bits, inside)))
    return sorted(blocks)  # down the image, so that memory is met in its order


def _entries(spec, layout, depth_taps, row_taps, columns):
    """The entries of one class and some columns, the first taps of their groups, depth after depth."""
    size, groups = spec.oh * spec.ow, _groups(layout)
    starts = row_taps[:1] if layout.k1 > 1 else row_taps
    return [
        (
            term * spec.od * size + j * layout.depth.gap * size + oh * spec.ow - kw // spec.sw,
            *(-(kw // spec.sw), groups.index(oh), ((term * spec.kd + kd) * spec.kh + kh) * spec.kw + kw),
        )
        for j, (kd, _) in enumerate(depth_taps)
        for term in range(spec.ocg)
        for kh, oh in starts
        for kw in columns
    ]


def _tables(spec, layout):
    """(entries, where those of each class are: for each kind the first and how many a depth)."""
    table, classes, whole = [], [], spec.kw - spec.kw % spec.sw
    for depth_taps, row_taps in product(layout.depth.classes, layout.height.classes):
        places = []
        for columns in (range(0, whole, spec.sw), range(whole, spec.kw, spec.sw)):
            entries = _entries(spec, layout, depth_taps, row_taps, columns)
            places += [len(table), len(entries) // max(1, len(depth_taps))]
            table += entries
        fewer = layout.k1 > 1 and len(row_taps) < layout.k1
        classes.append([0] * KINDS * fewer + places + [0] * KINDS * (not fewer))
    return table, classes


def _cycles(spec, layout):
    """Cycles: the entries of every tile, what it takes to begin and end one and to put its classes side by side."""
    rows, wide, groups = layout.rows, isa.width / 64, split(spec.kw, spec.sw)
    each = 0.0
    for block in _row_blocks(spec, layout):
        taps = len(layout.height.classes[block[4]])
        k, starts = (taps, min(taps, 1)) if layout.k1 > 1 else (1, taps)
        work = max(rows * k * spec.kw, 1.64 * (rows + k - 1) * groups) * wide + k * spec.kw + 8 * groups
        each += starts * work * spec.ocg * spec.kd / spec.sd + 60 + rows * spec.sw * (3 + spec.sw)
    vectors = split((spec.pw + spec.iw - 1) // spec.sw + 1 - spec.pw // spec.sw, lanes(spec.dtype))
    return spec.n * spec.ic * spec.id * vectors * each


@lru_cache(maxsize=1024)
def best_layout(spec):
    """(layout of least cost, its nanoseconds)."""
    layout = min(_layouts(spec), key=lambda layout: _cycles(spec, layout))
    return layout, _cycles(spec, layout) * depthwise.NANOSECONDS + 0.01 * spec.bytes()


@lru_cache(maxsize=1024)
def _plan(spec):
    """(body, tiles, numbers and tables, work) of the row: all but its arrays."""
    layout, work = best_layout(spec)
    blocks, (table, classes) = _row_blocks(spec, layout), _tables(spec, layout)
    depths = [(len(taps), taps[0][1] if taps else 0, layout.depth.gap) for taps in layout.depth.classes]
    units = spec.n * spec.ic * spec.id * len(blocks)
    part, names = rows_per_tile(units, work / units), NUMBERS.split()
    numbers = {
        **{"xd": spec.od, "xh": spec.oh, "xw": spec.ow, "yd": spec.id, "yh": spec.ih, "yw": spec.iw},
        **{name: getattr(spec, name) for name in ("sd", "sh", "pd", "pw")},
        **{"outs": spec.ic, "x_each": spec.ocg, "x_channels": spec.oc, "w_each": spec.ocg * spec.taps},
        **{"w_row": -layout.height.tap_gap * spec.kw, "row_blocks": len(blocks), "units": units, "part": part},
        **{
            "far": int(spec.bytes() > depthwise.SECOND_LEVEL),
            "low_column": -((spec.kw - 1) // spec.sw),
            "block_size": len(blocks[0]),
        },
    }
    numbers["blocks"] = len(names) + 4 * len(table)
    numbers["classes"] = numbers["blocks"] + numbers["block_size"] * len(blocks)
    numbers["depths"] = numbers["classes"] + 2 * KINDS * len(classes)
    plan = np.array([*(numbers[name] for name in names), *chain(*table, *blocks, *classes, *depths)], np.int64)
    body = make_classes(spec.dtype, layout.k1, layout.k2, spec.sw, spec.kw % spec.sw, layout.rows)
    return body, split(units, part), plan, work


@implements("conv.bwd_data", rank=11)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_depthwise_classes"
    takes_bias = True  # a buffer `b` with a value per channel of gx
    epilogue = True

    @staticmethod
    def when(spec):
        if max(spec.sd, spec.sh, spec.sw) == 1:
            return "needs a stride"
        if spec.dw > 1:
            return f"needs columns that are not dilated, has dilation {spec.dw}"
        if spec.sw > MOST_STEP:
            return f"needs a stride of at most {MOST_STEP} along the row, has {spec.sw}"
        return depthwise.refusal(spec)

    @staticmethod
    def cost(spec):
        return best_layout(spec)[1]

    @staticmethod
    def emit(spec, buffers):
        body, tiles, plan, work = _plan(spec)
        epilogue = depthwise.epilogue_fields(buffers.get("epilogue", NO_EPILOGUE))
        bias = buffers.get("b")
        bias = zeros(spec.ic, spec.dtype) if bias is None else bias
        arrays = {"x": buffers["gy"], "w": buffers["w"], "bias": bias, "y": buffers["gx"], "plan": plan}
        return [Row(body, tiles, {**arrays, **epilogue}, work)]
