"""Depthwise convolution on plain images: one register is LANES outputs of a row, nothing is copied or padded.

y[n, q, p] = b[q] + sum over its terms c and the taps k of w[q, c, k] x[n, c, p*stride + k*dilation - padding]: the
forward pass has one term, its data gradient of stride 1 (with the taps turned round) one for each output channel of the
group.  A tile of R rows by one register keeps the weights of a column of taps in registers, so that a loaded vector
feeds as many rows as the kernel is high; dilated rows and columns cost no more.  One-row problems take R registers of
a row instead.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from math import prod
from typing import NamedTuple

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, clamp_tile, fields, isa, lanes
from ..simd_depthwise import finish_rows, numbers_at, prefetch_rows, slide_rows, start_rows
from ..specs import NO_EPILOGUE
from .gathers import split, zeros
from .window import rows_per_tile, valid_taps

# The numbers of a problem travel in one array, ahead of its tables: an array costs a call less than 30 numbers do.
NUMBERS = (
    "xd xh xw od oh ow kd sd sh sw pd ph pw dd outs mul x_channels x_each w_each w_row w_col row_blocks units part "
    "n1 n2 second reach x_row y_row blocks block_size far"
)
SlideBlock = Block(
    "DepthwiseSlide", {"x": None, "w": None, "bias": None, "y": None, "plan": "i8"}, "accumulate clamp", "low high"
)


@cache
def make_slide(dtype, K1, G1, K2, G2, SH, SW, R, FLAT):
    """The kernel for tiles of R vectors and entries of K1 x G1 taps, then of K2 x G2 taps."""
    KIND, LANES, FIELDS = np.dtype(dtype).str[1:], lanes(dtype), NUMBERS
    TABLE = len(FIELDS.split())
    COLUMNS = R * LANES if FLAT else LANES
    AHEAD = R * SH  # rows of the image from one block to the next

    @tile_body(SlideBlock, dtype)
    def conv_depthwise_slide(block, tile, worker):
        """Tile: `part` blocks of R rows (FLAT: rows) of a plane of the output, whatever plane they belong to."""
        p = fields(block)
        x, w, y = array_at(p.x, p.x_size, KIND), array_at(p.w, p.w_size, KIND), array_at(p.y, p.y_size, KIND)
        bias, plan = array_at(p.bias, p.bias_size, KIND), array_at(p.plan, p.plan_size, "i8")
        a = numbers_at(p.plan, FIELDS)
        table, blocks = plan[TABLE:], plan[a.blocks :]
        for unit in range(tile * a.part, min((tile + 1) * a.part, a.units)):
            plane, number = unit // a.row_blocks, unit % a.row_blocks * a.block_size
            i, keep, whole, valid = blocks[number], blocks[number + 1], blocks[number + 2], number + 3
            q, image = plane // a.od % a.outs, plane // a.od // a.outs
            depth = plane % a.od * a.sd - a.pd
            d0, d1 = valid_taps(depth, a.xd, a.kd, a.dd)
            r0, r1, s0, s1 = d0 * a.n1, d1 * a.n1, a.second + d0 * a.n2, a.second + d1 * a.n2
            volume = (image * a.x_channels + q // a.mul * a.x_each) * a.xd + depth
            source, target = (volume * a.xh + i * a.sh - a.ph) * a.xw, (plane * a.oh + i) * a.ow
            wi, offset = q * a.w_each, bias[q]
            for j in range(0, a.ow, COLUMNS):
                column, columns, yi = j * a.sw - a.pw, a.ow - j, target + j
                xi, left, right = source + column, -column, a.xw - column
                if a.far:  # the next block of rows, by the time it is wanted: +15 % where it comes from memory
                    for v in range(SW):
                        prefetch_rows(x, xi + AHEAD * a.x_row + v * LANES, a.x_row, AHEAD, 0)
                    prefetch_rows(y, yi + R * a.y_row, a.y_row, R, 1)
                acc = start_rows(y, yi, a.y_row, keep, columns, offset, p.accumulate, R, FLAT)
                if whole and column >= 0 and right >= a.reach and columns >= COLUMNS:
                    acc = slide_rows(
                        acc, x, xi, a.x_row, blocks, valid, 0, 0, a.sw, w, wi, a.w_row, a.w_col, table, r0, r1, s0, s1,
                        K1, G1, K2, G2, SH, SW, R, 0, FLAT,
                    )  # fmt: skip
                    if p.clamp:
                        acc = clamp_tile(acc, p.low, p.high, R, 1)
                    finish_rows(acc, y, yi, a.y_row, keep, columns, R, 0, FLAT)
                else:
                    acc = slide_rows(
                        acc, x, xi, a.x_row, blocks, valid, left, right, a.sw, w, wi, a.w_row, a.w_col, table, r0, r1,
                        s0, s1, K1, G1, K2, G2, SH, SW, R, 1, FLAT,
                    )  # fmt: skip
                    if p.clamp:
                        acc = clamp_tile(acc, p.low, p.high, R, 1)
                    finish_rows(acc, y, yi, a.y_row, keep, columns, R, 1, FLAT)

    return conv_depthwise_slide


# ---- problems


@dataclass(frozen=True)
class Planes:
    """What a kernel computes; sizes are (d, h, w).  w_*: distances in the weights between the terms of a sum and the
    taps along each dimension; w_first: where the first tap is."""

    dtype: str
    images: int
    outs: int  # output channels
    mul: int  # output channels that read the same input channel
    terms: int  # input channels of one sum
    source: tuple
    grid: tuple
    kernel: tuple
    stride: tuple
    before: tuple
    dilation: tuple
    w_first: int
    w_term: int
    w_tap: tuple

    @property
    def taps(self):
        return prod(self.kernel)

    @property
    def bytes(self):
        """Bytes of the input and of the output, each once."""
        inputs = self.images * self.outs // self.mul * self.terms * prod(self.source)
        return np.dtype(self.dtype).itemsize * (inputs + self.images * self.outs * prod(self.grid))


@lru_cache(maxsize=1024)
def forward_planes(spec):
    kernel, taps = (spec.kd, spec.kh, spec.kw), (spec.kh * spec.kw, spec.kw, 1)
    return Planes(
        *(spec.dtype, spec.n, spec.oc, spec.ocg, 1, (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow), kernel),
        *((spec.sd, spec.sh, spec.sw), (spec.pd, spec.ph, spec.pw), (spec.dd, spec.dh, spec.dw), 0, 0, taps),
    )


@lru_cache(maxsize=1024)
def data_planes(spec):
    """The data gradient of stride 1: a convolution of gy with the taps turned round."""
    kernel, dilation = (spec.kd, spec.kh, spec.kw), (spec.dd, spec.dh, spec.dw)
    before = tuple((k - 1) * d - p for k, d, p in zip(kernel, dilation, (spec.pd, spec.ph, spec.pw), strict=True))
    return Planes(
        *(spec.dtype, spec.n, spec.ic, 1, spec.ocg, (spec.od, spec.oh, spec.ow), (spec.id, spec.ih, spec.iw), kernel),
        *((1, 1, 1), before, dilation, spec.taps - 1, spec.taps, (-spec.kh * spec.kw, -spec.kw, -1)),
    )


# ---- forms: how a kernel's taps are cut into the entries of a table


class Calls(NamedTuple):
    """K x G taps at a time: `entries` of them, (row tap, column tap) first."""

    k: int
    g: int
    entries: tuple


class Form(NamedTuple):
    """One way to compute the planes; see `slide_rows`."""

    first: Calls
    second: Calls
    sh: int
    sw: int
    rows: int
    flat: int
    row_gap: int  # distance of the row taps of an entry: in rows of the image, or in columns where flat
    classes: int  # output rows of a tile are so far apart


_NO_CALLS = Calls(0, 1, ())
_WIDE = isa.registers >= 32
ROWS = (14, 10, 8, 7, 4, 2, 1) if _WIDE else (7, 4, 2, 1)
_FLAT_ROWS = (14, 9, 7, 4) if _WIDE else (10, 7, 4)
MOST_K = 6 if _WIDE else 5  # more weights than that leave no room for loaded vectors


def _column_groups(form_sw, kw, dw):
    """(taps that share loads, first taps of such groups, first taps of groups of one)."""
    if form_sw != 2 or dw != 1 or kw == 1:
        return 1, range(kw), ()
    if kw == 3 and _WIDE:
        return 3, (0,), ()
    return 2, range(0, kw - 1, 2), (kw - 1,) * (kw % 2)


def forms(planes, least=4):
    """The forms that fit a problem, of `least` rows or more."""
    (_, kh, kw), (_, sh, sw), (_, dh, dw) = planes.kernel, planes.stride, planes.dilation
    fixed = sw if sw in (1, 2) else 0
    found = []
    for rows in (rows for rows in ROWS if rows >= least):
        single = Calls(1, 1, tuple((r, s) for r in range(kh) for s in range(kw)))
        found.append(Form(single, _NO_CALLS, 1, fixed, rows, 0, sh, 1))
        if kh > 1 and (sh == 1 or (sh == 2 and dh == 1)):
            group, many, left = _column_groups(fixed, kw, dw)
            k = split(kh, split(kh, MOST_K if group == 1 else 7))
            if k * group + rows + 4 + 3 * (group > 1) <= isa.registers and (kh % k == 0 or group == 1):
                first = Calls(k, group, tuple((r, s) for r in range(0, kh - k + 1, k) for s in many))
                second = Calls(k, 1, tuple((r, s) for r in range(0, kh - k + 1, k) for s in left))
                if kh % k:
                    second = Calls(kh % k, 1, tuple((kh - kh % k, s) for s in many))
                found.append(Form(first, second, sh, fixed, rows, 0, dh if sh == 1 else 1, dh if sh == 1 else 1))
    if planes.grid[1] <= 4:
        found += _flat_forms(planes, fixed)
    return found


def _flat_forms(planes, fixed):
    """Forms of tiles in one row: taps a whole register apart share its load."""
    (_, kh, kw), sw, dw = planes.kernel, planes.stride[2], planes.dilation[2]
    step = sw * lanes(planes.dtype)
    k = split(kw, step) if dw == 1 and fixed else 1
    columns = range(kw - (k - 1) * step) if k > 1 else range(kw)  # those with K taps
    first = Calls(k, 1, tuple((r, s) for r in range(kh) for s in columns))
    second = Calls(k - 1, 1, tuple((r, s) for r in range(kh) for s in range(len(columns), step)) if k > 1 else ())
    return [Form(first, second, 1, fixed, rows, 1, step, 1) for rows in _FLAT_ROWS if k + rows + 3 <= isa.registers]


# ---- cost: cycles of one core

SECOND_LEVEL = 1 << 20  # bytes of a second-level cache: what is larger is fetched ahead

NANOSECONDS = 0.22
_LOAD = {1: 1.64, 2: 3.3, 0: 32.0}  # of one vector by column step: misaligned, as two, by gathering
_GROUP = {1: 1.0, 2: 1.3, 3: 1.6}  # loads of a group of column taps of step 2, next to those of one


def tiles_of(planes, form):
    od, oh, ow = planes.grid
    columns = lanes(planes.dtype) * (form.rows if form.flat else 1)
    return planes.images * planes.outs * od * len(row_blocks(oh, form)) * split(ow, columns)


def cycles(planes, form):
    """Cycles of a form: its multiplications or loads, whichever takes longer, tile by tile."""
    wide = isa.width / 64
    entry = 0
    for k, g, entries in form[:2]:
        rows = (form.rows - 1) * form.sh + k
        work = max(form.rows * k * g, rows * _LOAD[form.sw] * (_GROUP[g] if form.sw == 2 else 1))
        entry += len(entries) * (work * wide + k * g + 8 + 0.3 * rows)
    each = 40 + 3.5 * form.rows + planes.kernel[0] * planes.terms * entry
    return tiles_of(planes, form) * each


@lru_cache(maxsize=1024)
def best_form(planes):
    """(form of least cost, its nanoseconds)."""
    form = min(forms(planes), key=lambda form: cycles(planes, form))
    return form, cycles(planes, form) * NANOSECONDS + 0.01 * planes.bytes


# ---- programs


@lru_cache(maxsize=1024)
def row_blocks(height, form):
    """(first output row, rows done before, rows) of each tile: rows of one class of the dilation, `classes` apart."""
    if form.flat:
        return [(i, 0, form.rows) for i in range(height)]
    blocks = []
    for start in range(min(form.classes, height)):
        count = -(-(height - start) // form.classes)
        for m in range(0, count, form.rows):
            top = max(0, min(m, count - form.rows))  # the last tile overlaps the one before it
            blocks.append((start + top * form.classes, m - top, min(form.rows, count - top)))
    return blocks


def _groups(form):
    """The first row taps of entries: rows of the image are inside or not for each of them."""
    return sorted({r for calls in form[:2] for r, _ in calls.entries})


def _block_table(planes, form):
    """For each tile: its first output row, the rows that it keeps, whether all it reads are in the image, and which."""
    stride, dilation, before, size = planes.stride[1], planes.dilation[1], planes.before[1], planes.source[1]
    step, depth = 0 if form.flat else form.row_gap, (form.rows - 1) * form.sh + max(form.first.k, form.second.k)
    table = []
    for i, done, rows in row_blocks(planes.grid[1], form):
        keep = bits(done <= m < rows for m in range(form.rows))
        top = i * stride - before
        inside = [[0 <= top + group * dilation + t * step < size for t in range(depth)] for group in _groups(form)]
        whole = keep == (1 << form.rows) - 1 and all(map(all, inside))
        table.append((i, keep, int(whole), *map(bits, inside)))
    return table


def bits(flags):
    """The number whose bit i is the i-th flag."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def _table(planes, form, calls):
    """The entries of a table for each tap in depth and each term of the sum."""
    (depth, h, w), (wd, wr, wc), (dd, dh, dw) = planes.source, planes.w_tap, planes.dilation
    groups = _groups(form)
    return [
        (
            *((term * depth + d * dd) * h * w + r * dh * w + s * dw, s * dw, groups.index(r)),
            planes.w_first + term * planes.w_term + d * wd + r * wr + s * wc,
        )
        for d in range(planes.kernel[0])
        for term in range(planes.terms)
        for r, s in calls.entries
    ]


def _numbers(planes, form):
    """The fields of the block that say where things are."""
    LANES, sw, dw, width = lanes(planes.dtype), planes.stride[2], planes.dilation[2], planes.source[2]
    rows, each, calls = form.rows, planes.terms, form[:2]
    span = LANES * max(form.sw, 1) if form.sw else (LANES - 1) * sw + 1  # columns that a load takes up
    reach = max(s * dw + span + (c.g == 3) for c in calls for _, s in c.entries)
    if form.flat:
        step = sw * LANES
        reach += (rows - 1 + max(c.k for c in calls) - 1) * step
        places = {"x_row": step, "y_row": LANES}
    else:
        places = {"x_row": form.row_gap * width, "y_row": form.classes * planes.grid[2]}
    w_row = planes.w_tap[2] * sw * LANES if form.flat else planes.w_tap[1]
    streams = planes.bytes > SECOND_LEVEL and form.sw in (1, 2) and form.sh in (1, 2) and not form.flat
    return {
        "far": int(streams),
        **dict(zip(("xd", "xh", "xw", "od", "oh", "ow"), planes.source + planes.grid, strict=True)),
        **dict(zip(("sd", "sh", "sw", "pd", "ph", "pw"), planes.stride + planes.before, strict=True)),
        **{"kd": planes.kernel[0], "dd": planes.dilation[0], "outs": planes.outs, "mul": planes.mul, "x_each": each},
        **{"x_channels": planes.outs // planes.mul * each, "w_row": w_row, "w_col": planes.w_tap[2]},
        **{"w_each": each * planes.taps, "n1": each * len(calls[0].entries), "reach": reach, **places},
        **{"n2": each * len(calls[1].entries), "second": planes.kernel[0] * each * len(calls[0].entries)},
    }


def plan_array(names, planes, form, more):
    """The numbers with these names, then the table of entries, then that of row blocks, for the kernel."""
    names, blocks = names.split(), _block_table(planes, form)
    table = _table(planes, form, form.first) + _table(planes, form, form.second)
    sizes = {"row_blocks": len(blocks), "blocks": len(names) + 4 * len(table), "block_size": len(blocks[0])}
    numbers = _numbers(planes, form) | sizes | more
    return np.array([*(numbers[name] for name in names), *chain(*table, *blocks)], np.int64)


@lru_cache(maxsize=1024)
def _plan(planes):
    """(body, tiles, numbers and tables, work) of the row that computes the planes: all but its arrays."""
    form, work = best_form(planes)
    units = planes.images * planes.outs * planes.grid[0] * len(row_blocks(planes.grid[1], form))
    part = rows_per_tile(units, work / units)
    plan = plan_array(NUMBERS, planes, form, {"units": units, "part": part})
    (k1, g1, _), (k2, g2, _) = form[:2]
    body = make_slide(planes.dtype, k1, g1, k2, g2, form.sh, form.sw, form.rows, form.flat)
    return body, split(units, part), plan, work


def _emit(planes, x, w, bias, y, epilogue):
    body, tiles, plan, work = _plan(planes)
    bias = zeros(planes.outs, planes.dtype) if bias is None else bias
    return [Row(body, tiles, {"x": x, "w": w, "bias": bias, "y": y, "plan": plan, **epilogue_fields(epilogue)}, work)]


def epilogue_fields(epilogue):
    """The fields of a block that say what is done to a result before it is stored."""
    low, high, accumulate = epilogue
    return {"low": low, "high": high, "accumulate": int(accumulate), "clamp": int(low > -np.inf or high < np.inf)}


def refusal(spec):
    if spec.icg != 1:
        return f"needs one input channel per group, has {spec.icg}"
    if 0 in (spec.n, spec.out_pixels, spec.in_pixels):
        return "needs an image"
    if max(spec.iw, spec.ow) * max(spec.sw, 1) >= 1 << 30:
        return "needs rows of less than 2**30 columns"
    return None


@implements("conv.fwd", rank=10)
class ConvForward(Impl):
    name = "conv_fwd_depthwise"
    epilogue = True

    @staticmethod
    def when(spec):
        return refusal(spec)

    @staticmethod
    def cost(spec):
        return best_form(forward_planes(spec))[1]

    @staticmethod
    def emit(spec, buffers):
        epilogue = buffers.get("epilogue", NO_EPILOGUE)
        return _emit(forward_planes(spec), buffers["x"], buffers["w"], buffers.get("b"), buffers["y"], epilogue)


@implements("conv.bwd_data", rank=10)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_depthwise"
    takes_bias = True  # a buffer `b` with a value per channel of gx
    epilogue = True

    @staticmethod
    def when(spec):
        if max(spec.sd, spec.sh, spec.sw) > 1:
            return "needs stride 1"
        return refusal(spec)

    @staticmethod
    def cost(spec):
        return best_form(data_planes(spec))[1]

    @staticmethod
    def emit(spec, buffers):
        epilogue = buffers.get("epilogue", NO_EPILOGUE)
        return _emit(data_planes(spec), buffers["gy"], buffers["w"], buffers.get("b"), buffers["gx"], epilogue)
