"""The forward pass and the data gradient of convolution as gathers, whatever algorithm then computes them.

A gather computes, for every point p of a grid,  y[row, place(p)] = sum over channels c and taps t of w[row, c, t] *
x[c, p*step + offset(t)]. The forward pass is one.  The data gradient is one with the taps turned round; with stride s
the input pixels fall into residue classes, each a gather over its own taps and without multiplications by zero
(Dumoulin and Visin, arXiv 1603.07285, section 4).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from .. import driver
from .._jit import TileBody
from ..driver import Row
from ..packing import strips
from ..simd import isa
from ..specs import NO_EPILOGUE
from .fill import fill_row
from .gemm import BIAS, BOTH

NANOSECONDS_PER_FLOP = 1 / 100
NANOSECONDS_ALONE = 1.3  # to write an output that has no neighbour
CACHE_LINE, CACHES, NANOSECONDS_PER_LINE = 64, 1 << 24, 4.3  # bytes; a line from memory, beyond all caches
PACK_CYCLES = 5  # to copy one vector of patches, next to one cycle for each vector multiplication


@dataclass(frozen=True, eq=False)
class Gather:
    """Sizes as (d, h, w); taps: rows (offset d, h, w, index in the weights); y_*: where grid point (d, h, w) lies in an
    output plane.  w_*: distances in the weights between rows, channels and taps; between strips of rows, where they are
    packed, else 0."""

    dtype: str
    images: int
    groups: int
    rows: int
    channels: int
    source: tuple
    grid: tuple
    step: tuple
    taps: np.ndarray
    w_row: int
    w_channel: int
    y_plane: int
    y_first: int
    y_d: int
    y_h: int
    y_w: int
    w_step: int = 1
    w_strip: int = 0

    @property
    def pixels(self):
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def contiguous(self):
        """Whether the grid points lie side by side in the output."""
        return (self.y_d, self.y_h, self.y_w) == (self.grid[1] * self.grid[2], self.grid[2], 1)

    @property
    def work(self):
        """Nanoseconds of the multiplications, and of what a residue class scatters or leaves out on the way."""
        outputs, weights = self.images * self.rows * self.pixels, self.rows * self.channels
        each = 2 * outputs * self.channels * len(self.taps) * NANOSECONDS_PER_FLOP
        if self.y_w != 1:
            each += outputs * NANOSECONDS_ALONE
            if weights * CACHE_LINE > CACHES and len(self.taps) * np.dtype(self.dtype).itemsize < CACHE_LINE:
                each += weights * NANOSECONDS_PER_LINE  # lines in which other classes have their taps
        return self.groups * each

    def numbers(self):
        """The fields that the blocks of all gathers share."""
        names = ("xd", "xh", "xw", "grid_d", "grid_h", "grid_w", "sd", "sh", "sw")
        return {
            **dict(zip(names, self.source + self.grid + self.step, strict=True)),
            **{name: getattr(self, name) for name in ("groups", "rows", "channels", "w_row", "w_channel", "w_strip")},
            **{name: getattr(self, name) for name in ("y_plane", "y_first", "y_d", "y_h", "y_w")},
            "direct": int(self.contiguous),
        }


GEOMETRY_NUMBERS = "xd xh xw grid_d grid_h grid_w sd sh sw groups rows channels parts "
GATHER_NUMBERS = GEOMETRY_NUMBERS + "w_row w_channel w_strip y_plane y_first y_d y_h y_w direct start "
GATHER_REALS = "low high"  # of specs.Epilogue; start: what the first block of terms is added to


COPY_NUMBERS = (
    "phases_count row_first row_span column_first copy_rows copy_pitch "  # of rows that are copied once, by phase
)


def axis_taps(kernel, stride, padding, dilation, size, grid, residue=None):
    """(tap, offset) along one axis, without taps that only ever see padding; with a residue, those of its class of the
    data gradient."""
    taps = []
    for k in range(kernel):
        offset, step = k * dilation - padding, stride
        if residue is not None:
            if (residue - offset) % stride:
                continue
            offset, step = (residue - offset) // stride, 1
        if offset < size and offset + (grid - 1) * step >= 0:
            taps.append((k, offset))
    return taps


def tap_table(spec, axes):
    """Rows (offset d, h, w, index of the tap in the weights) for the taps of three axes."""
    rows = [(od, oh, ow, (kd * spec.kh + kh) * spec.kw + kw) for (kd, od), (kh, oh), (kw, ow) in product(*axes)]
    return np.array(rows, np.int64).reshape(-1, 4)


def _axes(spec):
    kernel, stride = (spec.kd, spec.kh, spec.kw), (spec.sd, spec.sh, spec.sw)
    return kernel, stride, (spec.pd, spec.ph, spec.pw), (spec.dd, spec.dh, spec.dw)


def _is_empty(gather):
    return 0 in (gather.images, gather.groups, gather.rows, gather.channels, gather.pixels, len(gather.taps))


@lru_cache(maxsize=1024)
def forward_gathers(spec):
    """The gathers of the forward pass: one, or none where the output is the bias alone."""
    source, grid = (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow)
    axes = [axis_taps(*axis) for axis in zip(*_axes(spec), source, grid, strict=True)]
    gather = Gather(
        *(
            spec.dtype,
            spec.n,
            spec.g,
            spec.ocg,
            spec.icg,
            source,
            grid,
            (spec.sd, spec.sh, spec.sw),
            tap_table(spec, axes),
        ),
        *(spec.icg * spec.taps, spec.taps, spec.out_pixels, 0, spec.oh * spec.ow, spec.ow, 1),
    )
    return () if _is_empty(gather) else (gather,)


@lru_cache(maxsize=1024)
def packed_gathers(spec):
    """The gathers of the forward pass on weights from `pack_strips`."""
    height = isa.tile(spec.ocg)[0]
    strip = spec.icg * spec.taps * height
    return tuple(
        replace(gather, w_row=1, w_channel=spec.taps * height, w_step=height, w_strip=strip)
        for gather in forward_gathers(spec)
    )


def pack_strips(spec, weight):
    """The weights in strips of a register tile's rows, or None where there are none to pack."""
    return strips(weight, spec.g, isa.tile(spec.ocg)[0]) if weight.size else None


@lru_cache(maxsize=1024)
def data_gathers(spec):
    """The gathers of the data gradient: one for each residue class of input pixels that touches an output at all."""
    stride, size = (spec.sd, spec.sh, spec.sw), (spec.id, spec.ih, spec.iw)
    source, gathers = (spec.od, spec.oh, spec.ow), []
    for residue in product(*(range(min(s, i)) for s, i in zip(stride, size, strict=True))):
        grid = tuple(-(-(i - r) // s) for i, r, s in zip(size, residue, stride, strict=True))
        axes = [axis_taps(*axis) for axis in zip(*_axes(spec), source, grid, residue, strict=True)]
        gather = Gather(
            *(spec.dtype, spec.n, spec.g, spec.icg, spec.ocg, source, grid, (1, 1, 1), tap_table(spec, axes)),
            *(
                spec.taps,
                spec.icg * spec.taps,
                spec.in_pixels,
                (residue[0] * spec.ih + residue[1]) * spec.iw + residue[2],
            ),
            *(spec.sd * spec.ih * spec.iw, spec.sh * spec.iw, spec.sw),
        )
        if not _is_empty(gather):
            gathers.append(gather)
    return tuple(gathers)


class Plan(NamedTuple):
    """A gather's row but for its buffers; tables: arrays of whole numbers by buffer name."""

    body: TileBody
    tiles: int
    numbers: dict
    tables: dict
    work: float
    scratch: int


def _row(plan, x, w, bias, y, epilogue=NO_EPILOGUE):
    values = {"x": x, "w": w, "bias": bias, "y": y, **plan.tables, **plan.numbers}
    values |= {"low": epilogue.low, "high": epilogue.high, "start": BOTH if epilogue.accumulate else BIAS}
    return Row(plan.body, plan.tiles, values, plan.work, plan.scratch)


@lru_cache(maxsize=1024)
def zeros(size, dtype):
    return np.zeros(size, dtype)


@lru_cache(maxsize=1024)
def _plans(plan, gathers, spec, threads):
    return tuple(plan(gather, threads) for gather in gathers(spec))


def emit_forward(plan, spec, buffers, eager=forward_gathers, kept=packed_gathers):
    """The rows of the forward pass by an algorithm's `plan(gather, threads)`; on packed weights where there are some.
    eager, kept: the functions that give the gathers of a spec on weights as they lie, and on packed ones."""
    bias = buffers.get("b")
    if bias is None:
        bias = zeros(spec.oc, spec.dtype)
    packed = buffers.get("packed")
    gathers, w = (eager, buffers["w"]) if packed is None else (kept, packed)
    plans = _plans(plan, gathers, spec, driver.get_num_threads())
    epilogue = buffers.get("epilogue", NO_EPILOGUE)
    if not plans:
        return (fill_row(buffers["y"], spec.n * spec.oc, bias, epilogue),)
    return tuple(_row(plan, buffers["x"], w, bias, buffers["y"], epilogue) for plan in plans)


def emit_data(plan, spec, buffers, gathers=data_gathers):
    """The rows of the data gradient by an algorithm's `plan(gather, threads)`; gathers: the function that gives those
    of a spec."""
    plans = _plans(plan, gathers, spec, driver.get_num_threads())
    bias = zeros(spec.ic, spec.dtype)
    rows = tuple(_row(plan, buffers["gy"], buffers["w"], bias, buffers["gx"]) for plan in plans)
    if len(plans) == spec.sd * spec.sh * spec.sw:
        return rows
    return fill_row(buffers["gx"], spec.n * spec.ic, bias), *rows  # some input pixels touch no output


# ---- what the plans of all algorithms need


def split(size, most):
    """How many parts a size is split into so that none is larger than `most`."""
    return max(1, -(-size // most))


def column_step(step):
    """The STEP of the packing kernels for a column step."""
    return step if step in (1, 2) else 0


def balanced(vectors, most):
    """Vectors of a register tile, `most` at most: a tile costs its vectors and half as much again as one, a vector left
    over nearly two."""
    widths = [width for width in (1, 2, 3, 4, 6, 7, 8) if width <= most]
    return min(widths, key=lambda width: (vectors // width * (width + 0.5) + vectors % width * 1.8, -width))


def parts_for(rows, height, tiles, threads):
    """In how many parts the rows are computed, so that there are tiles for all threads."""
    return max(1, min(rows // height, split(2 * threads, tiles))) if threads > 1 and tiles < 2 * threads else 1


def phases_of(gather):
    """The phases (offset d, phase h, phase w), for each tap (phase, row, column) in units of steps, and the least row
    and column."""
    rows, row_phase = np.divmod(gather.taps[:, 1], gather.step[1])
    columns, column_phase = np.divmod(gather.taps[:, 2], gather.step[2])
    keys = list(zip(gather.taps[:, 0].tolist(), row_phase.tolist(), column_phase.tolist(), strict=True))
    phases = sorted(set(keys))
    return (
        phases,
        np.array([phases.index(key) for key in keys]),
        rows - rows.min(),
        columns - columns.min(),
        rows.min(),
        columns.min(),
    )
