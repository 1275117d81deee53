"""Sliding blocks of images as columns and back, as in torch.nn.functional: each is the other's gradient.

With tap (i, j) of channel c as row r = (c*kh + i)*kw + j and window (p, q) as column p*ow + q:

    unfold  cols[n, r, column] = x[n, c, p*sh + i*dh - ph, q*sw + j*dw - pw], 0 outside the image
    fold    x[n, c, y, z] = the sum of cols over all (tap, window) that see pixel (y, z), in the order of the taps
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from math import prod

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from ..autograd.op import Op
from ..driver import Row
from ..kernels.window import valid_outputs
from ..prepared import run_rows
from ..simd import array_at, fields
from ..specs import whole_numbers
from . import checks

FoldBlock = Block("Fold", "x cols", "h w oh ow kh kw sh sw ph pw dh dw rows part")


@dataclass(frozen=True)
class FoldSpec:
    """h, w: image; oh, ow: windows along it; kernel, stride, padding and dilation as in a convolution."""

    h: int
    w: int
    oh: int
    ow: int
    kh: int
    kw: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int

    @property
    def taps(self):
        return self.kh * self.kw

    @property
    def windows(self):
        return self.oh * self.ow


# ---- kernels


@helper
def copy_strided(out, x, step):
    """out[j] = x[j*step]."""
    if step == 1:
        for j in range(out.size):
            out[j] = x[j]
    else:
        for j in range(out.size):
            out[j] = x[np.uintp(j * step)]


@helper
def add_at_stride(x, column, step):
    """x[j*step] += column[j]."""
    if step == 1:
        for j in range(column.size):
            x[j] += column[j]
    else:
        for j in range(column.size):
            x[np.uintp(j * step)] += column[j]


@cache
def make_unfold(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(FoldBlock, dtype)
    def unfold_rows(block, tile, worker):
        """Tile: `part` rows (image, channel, tap) of cols."""
        a = fields(block)
        x, cols = array_at(a.x, a.x_size, KIND), array_at(a.cols, a.cols_size, KIND)
        zero = x.dtype.type(0)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            tap = r % (a.kh * a.kw)
            plane, off_h, off_w = r // (a.kh * a.kw) * a.h, tap // a.kw * a.dh - a.ph, tap % a.kw * a.dw - a.pw
            first, end = valid_outputs(off_w, a.w, a.ow, a.sw)
            for p in range(a.oh):
                row, y = cols[(r * a.oh + p) * a.ow : (r * a.oh + p + 1) * a.ow], p * a.sh + off_h
                if y < 0 or y >= a.h or first >= end:
                    row[:] = zero
                else:
                    row[:first] = zero
                    copy_strided(row[first:end], x[(plane + y) * a.w + first * a.sw + off_w :], a.sw)
                    row[end:] = zero

    return unfold_rows


@cache
def make_fold(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(FoldBlock, dtype)
    def fold_rows(block, tile, worker):
        """Tile: `part` rows (image, channel, y) of x; each adds its taps in order."""
        a = fields(block)
        x, cols = array_at(a.x, a.x_size, KIND), array_at(a.cols, a.cols_size, KIND)
        for r in range(tile * a.part, min((tile + 1) * a.part, a.rows)):
            plane, y = r // a.h, r % a.h
            out = x[r * a.w : (r + 1) * a.w]
            out[:] = x.dtype.type(0)
            for i in range(a.kh):
                top = y + a.ph - i * a.dh
                if top < 0 or top % a.sh or top // a.sh >= a.oh:
                    continue
                for j in range(a.kw):
                    offset = j * a.dw - a.pw
                    first, end = valid_outputs(offset, a.w, a.ow, a.sw)
                    if first < end:
                        at = (((plane * a.kh + i) * a.kw + j) * a.oh + top // a.sh) * a.ow
                        add_at_stride(out[first * a.sw + offset :], cols[at + first : at + end], a.sw)

    return fold_rows


def _row(make, spec, rows, row_work, x, cols):
    part = max(1, min(rows, int(20_000 / row_work)))
    numbers = {name: getattr(spec, name) for name in FoldSpec.__dataclass_fields__}
    values = {"x": x, "cols": cols, "rows": rows, "part": part, **numbers}
    return Row(make(x.dtype.name), -(-rows // part), values, rows * row_work)


def _unfold_rows(x, cols, spec):
    return (_row(make_unfold, spec, prod(x.shape[:-2]) * spec.taps, 20 + 0.15 * spec.windows, x, cols),)


def _fold_rows(x, cols, spec):
    work = 20 + 0.15 * spec.taps * (spec.windows / max(1, spec.h) + 5)
    return (_row(make_fold, spec, prod(x.shape[:-1]), work, x, cols),)


# ---- operations


class Unfold(Op):
    """x (n, c, h, w) or (c, h, w) -> cols (n, c*taps, windows) or (c*taps, windows)."""

    name = "unfold"

    @staticmethod
    def forward(ctx, x, spec):
        ctx.spec = spec
        channels = x.shape[-3] * spec.taps
        cols = _memory.empty((*x.shape[:-3], channels, spec.windows), x.dtype)
        x = np.require(x, requirements=("C", "A"))
        run_rows(_unfold_rows, (x, cols), spec)
        return cols

    @staticmethod
    def backward(ctx, g):
        return Fold.apply(g, ctx.spec), None


class Fold(Op):
    """cols (n, c*taps, windows) or (c*taps, windows) -> x (n, c, h, w) or (c, h, w)."""

    name = "fold"

    @staticmethod
    def forward(ctx, cols, spec):
        ctx.spec = spec
        x = _memory.empty((*cols.shape[:-2], cols.shape[-2] // spec.taps, spec.h, spec.w), cols.dtype)
        cols = np.require(cols, requirements=("C", "A"))
        run_rows(_fold_rows, (x, cols), spec)
        return x

    @staticmethod
    def backward(ctx, g):
        return Unfold.apply(g, ctx.spec), None


# ---- checks


def _pair(op, name, value, minimum):
    if isinstance(value, (tuple, list)) and len(value) != 2:
        raise ValueError(f"{op}: {name} must be a whole number or two, given {value!r}")
    return whole_numbers(op, name, value, 2, minimum)


@lru_cache(maxsize=1024, typed=True)
def _spec(op, size, kernel, dilation, padding, stride):
    out = []
    for axis, i, k, s, p, d in zip(("height", "width"), size, kernel, stride, padding, dilation, strict=True):
        out.append((i + 2 * p - d * (k - 1) - 1) // s + 1)
        if out[-1] < 1:
            raise ValueError(
                f"{op}: the blocks cover {d * (k - 1) + 1} in {axis}, more than the padded image's {i + 2 * p}; "
                f"image {size}, kernel_size {kernel}, dilation {dilation}, padding {padding}"
            )
    return FoldSpec(*size, *out, *kernel, *stride, *padding, *dilation)


def _settings(op, kernel_size, dilation, padding, stride):
    named = (("kernel_size", kernel_size, 1), ("dilation", dilation, 1), ("padding", padding, 0), ("stride", stride, 1))
    return tuple(_pair(op, *setting) for setting in named)


def _check_input(op, x, dims, wanted):
    checks.floating(op, "input", x)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{op}: input must be float32 or float64, given {x.dtype}")
    if x.ndim not in (dims, dims + 1) or 0 in x.shape[x.ndim - dims :]:
        raise ValueError(f"{op}: input must have shape {wanted}, only the batch may be empty; given {x.shape}")


# ---- public functions


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    """Sliding blocks: input (n, c, h, w) or (c, h, w) -> (n, c*kh*kw, windows) or (c*kh*kw, windows)."""
    _check_input("unfold", input, 3, "(n, c, h, w) or (c, h, w)")
    return Unfold.apply(
        input, _spec("unfold", tuple(input.shape[-2:]), *_settings("unfold", kernel_size, dilation, padding, stride))
    )


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    """Sums of sliding blocks: input (n, c*kh*kw, windows) or without n -> (n, c, *output_size) or (c, *output_size)."""
    _check_input("fold", input, 2, "(n, c*kh*kw, windows) or (c*kh*kw, windows)")
    size = _pair("fold", "output_size", output_size, 1)
    spec = _spec("fold", size, *_settings("fold", kernel_size, dilation, padding, stride))
    if input.shape[-2] % spec.taps:
        raise ValueError(
            f"fold: {input.shape[-2]} rows can't be split into blocks of {spec.kh}x{spec.kw} taps; "
            f"input shape {input.shape}"
        )
    if input.shape[-1] != spec.windows:
        raise ValueError(
            f"fold: output_size {size} has {spec.oh}x{spec.ow} = {spec.windows} windows, "
            f"the input has {input.shape[-1]}"
        )
    return Fold.apply(input, spec)
