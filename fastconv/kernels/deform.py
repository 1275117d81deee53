"""Deformable sampling: the value of an image between its pixels, where each tap of each output pixel asks for it.

A position (h, w) inside (-1, ih) x (-1, iw) is a bilinear mean of four corners, corners outside the image count as 0;
any other position is 0.  Corners and weights are computed once for a pixel, tap and offset group and serve all channels
of the group: the image is channels-last, (pixels + 1, channels), so a corner is a run of vectors.  The last pixel is
zero and stands for every corner outside.  Samples go straight into the panel of a product, (pixel, tap and channel).
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import pairwise

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, isa, lanes, load_vector, store_vector, transpose_block, zero_vector
from ..simd_vector import fma_vector, mul_vector, splat_vector
from .gathers import balanced, split, zeros
from .gemm import make_panel_product

PIXELS = 64  # of a tile
BLOCK_K = 512  # (tap, channel) pairs of a panel: with 64 pixels 128 KB, which a second-level cache holds
GEOMETRY = "ih iw oh ow sh sw taps_count modulated offset_groups pitch "


@dataclass(frozen=True)
class DeformSpec:
    """One deformable operation; g, og: groups of weights and of offsets; taps: (row, column) of each tap at offset 0.

    oc = 0: no weights, every channel is the sum over its taps (aggregation).
    """

    n: int
    ic: int
    oc: int
    g: int
    og: int
    ih: int
    iw: int
    oh: int
    ow: int
    sh: int
    sw: int
    taps: tuple
    modulated: bool
    dtype: str

    @cached_property
    def pitch(self):
        """Values from one pixel of a channels-last image to the next."""
        return split(self.ic, lanes(self.dtype)) * lanes(self.dtype)

    @property
    def pixels(self):
        return self.oh * self.ow

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))

    @cached_property
    def tap_table(self):
        return np.array(self.taps, np.int64).reshape(-1, 2)

    def numbers(self):
        values = (self.ih, self.iw, self.oh, self.ow, self.sh, self.sw, len(self.taps), int(self.modulated), self.og)
        return dict(zip(GEOMETRY.split(), (*values, self.pitch), strict=True))

    def blocks(self, most):
        """Rows (first channel, channels, offset group, weight group): runs of at most `most` channels of one of
        each.
        """
        cuts = {q * (self.ic // self.og) for q in range(self.og)} | {q * (self.ic // self.g) for q in range(self.g)}
        edges, rows = [*sorted(cuts), self.ic], []
        for first, end in pairwise(edges):
            for c in range(first, end, most):
                groups = c * self.og // self.ic, c * self.g // self.ic
                rows.append((c, min(most, end - c), *groups))
        return rows


# ---- channels-last images

LayoutBlock = Block("LayoutBlock", "first last", "channels pixels spare pitch chunks")


@cache
def make_layout(dtype, BACK):
    """Channels-first to channels-last, or with BACK the other way."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(LayoutBlock, dtype)
    def deform_layout(block, tile, worker):
        """last[n, p, c] = first[n, c, p], spare pixels 0, or back.  Tile: (image, run of pixels)."""
        a = fields(block)
        first, last = array_at(a.first, a.first_size, KIND), array_at(a.last, a.last_size, KIND)
        n, chunk = tile // a.chunks, tile % a.chunks
        p0, p1 = chunk * PIXELS, min(a.pixels, (chunk + 1) * PIXELS)
        for c in range(0, a.channels, LANES):
            for p in range(p0, p1, LANES):
                one = (n * a.channels + c) * a.pixels + p
                other = (n * (a.pixels + a.spare) + p) * a.pitch + c
                if c + LANES <= a.channels and p + LANES <= p1:
                    if BACK:
                        transpose_block(last, other, a.pitch, first, one, a.pixels)
                    else:
                        transpose_block(first, one, a.pixels, last, other, a.pitch)
                else:
                    for i in range(min(LANES, a.channels - c)):
                        for j in range(min(LANES, p1 - p)):
                            if BACK:
                                first[one + i * a.pixels + j] = last[other + j * a.pitch + i]
                            else:
                                last[other + j * a.pitch + i] = first[one + i * a.pixels + j]
        if chunk == 0 and not BACK:
            spare = (n * (a.pixels + a.spare) + a.pixels) * a.pitch
            for i in range(spare, spare + a.spare * a.pitch, LANES):
                zero_vector(last, i)

    return deform_layout


def layout_row(first, last, channels, pixels, spare, back=False):
    """The row between `first` (n, channels, pixels) and `last` (n, pixels + spare, pitch)."""
    chunks = split(pixels, PIXELS) if pixels else 0
    images, dtype = first.size // max(1, channels * pixels), first.dtype.name
    pitch = split(channels, lanes(dtype)) * lanes(dtype)
    values = {"first": first, "last": last, "channels": channels, "pixels": pixels, "spare": spare, "pitch": pitch}
    return Row(make_layout(dtype, back), images * chunks, {**values, "chunks": chunks}, first.size * 0.3)


def channels_last_size(spec):
    return spec.n * (spec.ih * spec.iw + 1) * spec.pitch + lanes(spec.dtype)


def channels_last(spec, zero=False):
    """An array for the channels-last image."""
    return (_memory.zeros if zero else _memory.empty)((channels_last_size(spec),), spec.dtype)


# ---- corners and samples

VALUES = 8  # of one pixel and tap: four weights times the modulation, the modulation, the fractions along h and w


@cache
def make_locate(dtype):
    """Where the corners of samples lie and how much each counts."""
    REAL = np.dtype(dtype).type

    @helper
    def locate(a, taps, offset, mask, image, group, t, first, count, where, values):
        """where[4*j + e], values[8*j ...] of tap t of an offset group, for pixels first <= p < first + count."""
        pixels, outside = a.oh * a.ow, a.ih * a.iw * a.pitch
        row = (image * a.offset_groups + group) * a.taps_count + t
        for j in range(count):
            p = first + j
            h = offset[2 * row * pixels + p] + REAL(p // a.ow * a.sh + taps[2 * t])
            w = offset[(2 * row + 1) * pixels + p] + REAL(p % a.ow * a.sw + taps[2 * t + 1])
            m = mask[row * pixels + p] if a.modulated else REAL(1)
            nan = h != h or w != w
            if h > -1 and h < a.ih and w > -1 and w < a.iw:
                top, left = int(np.floor(h)), int(np.floor(w))
                fh, fw = h - REAL(top), w - REAL(left)
                here = (top * a.iw + left) * a.pitch
                above, below, before, after = top >= 0, top + 1 < a.ih, left >= 0, left + 1 < a.iw
                where[4 * j] = here if above and before else outside
                where[4 * j + 1] = here + a.pitch if above and after else outside
                where[4 * j + 2] = here + a.iw * a.pitch if below and before else outside
                where[4 * j + 3] = here + (a.iw + 1) * a.pitch if below and after else outside
            else:
                where[4 * j : 4 * j + 4] = outside
                fh = fw = h + w if nan else REAL(0)  # NaN in an offset stays NaN in the sample
            values[8 * j] = (REAL(1) - fh) * (REAL(1) - fw) * m
            values[8 * j + 1] = (REAL(1) - fh) * fw * m
            values[8 * j + 2] = fh * (REAL(1) - fw) * m
            values[8 * j + 3] = fh * fw * m
            values[8 * j + 4], values[8 * j + 5], values[8 * j + 6] = m, fh, fw

    return locate


@cache
def make_sample(LANES):
    """The samples themselves."""

    @helper
    def sample(x, base, where, values, first, count, channels, panel, at, pitch, add):
        """panel[at + j*pitch + c] (+)= sample j of channel c, from x[base + corner + c]; whole vectors are written."""
        for j in range(count):
            i = 4 * (first + j)
            a, b, c, d = base + where[i], base + where[i + 1], base + where[i + 2], base + where[i + 3]
            wa, wb = splat_vector(x, values[2 * i]), splat_vector(x, values[2 * i + 1])
            wc, wd = splat_vector(x, values[2 * i + 2]), splat_vector(x, values[2 * i + 3])
            for v in range(0, channels, LANES):
                out = at + j * pitch + v
                if add:
                    value = fma_vector(load_vector(x, a + v), wa, load_vector(panel, out))
                else:
                    value = mul_vector(load_vector(x, a + v), wa)
                value = fma_vector(load_vector(x, b + v), wb, value)
                value = fma_vector(load_vector(x, c + v), wc, value)
                store_vector(fma_vector(load_vector(x, d + v), wd, value), panel, out)

    return sample


@cache
def make_store_pixels(LANES):
    """Results from (pixel, channel) to channels-first."""

    @helper
    def store_pixels(a, c, ci, pitch, count, channels, t, ti, y, yi, bias, oi):
        """y[yi + o*pixels + j] = c[ci + j*pitch + o] + bias[oi + o], by way of t[ti ...]."""
        rows = (count + LANES - 1) // LANES * LANES
        for o in range(0, channels, LANES):
            for j in range(0, count, LANES):
                transpose_block(c, ci + j * pitch + o, pitch, t, ti + j, rows)
            for i in range(min(LANES, channels - o)):
                out, here = yi + (o + i) * a.oh * a.ow, ti + i * rows
                for j in range(count):
                    y[out + j] = t[here + j] + bias[oi + o + i]

    return store_pixels


# ---- the forward pass

ForwardBlock = Block(
    "DeformForward",
    {
        **dict.fromkeys(("x", "offset", "mask", "w", "bias", "zeros", "y", "scratch")),
        **dict.fromkeys(("taps", "blocks", "starts", "steps"), "i8"),
    },
    GEOMETRY + "chunks runs units icg oc ocg oc_pitch block_pitch values_at panel_at sums_at turn_at",
)


@cache
def make_forward(dtype, MR, NR):
    """Deformable convolution for a register tile of MR pixels x NR vectors of output channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    locate, sample, store_pixels = make_locate(dtype), make_sample(LANES), make_store_pixels(LANES)
    product = make_panel_product(MR, NR, LANES)

    @tile_body(ForwardBlock, dtype)
    def deform_conv_fwd_channels_last(block, tile, worker):
        """Tile: (image, unit of groups, run of pixels)."""
        a = fields(block)
        x, offset, mask = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.offset, a.offset_size, KIND),
            array_at(a.mask, a.mask_size, KIND),
        )
        w, bias, y = array_at(a.w, a.w_size, KIND), array_at(a.bias, a.bias_size, KIND), array_at(a.y, a.y_size, KIND)
        zeros, taps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.taps, a.taps_size, "i8")
        blocks, starts = array_at(a.blocks, a.blocks_size, "i8"), array_at(a.starts, a.starts_size, "i8")
        steps = array_at(a.steps, a.steps_size, "i8")
        memory = a.scratch + worker * a.scratch_size * ITEM
        s, where = array_at(memory, a.scratch_size, KIND), array_at(memory, a.values_at * ITEM // 8, "i8")
        chunk, unit, image = tile % a.chunks, tile // a.chunks % a.units, tile // (a.chunks * a.units)
        pixels = a.oh * a.ow
        p = a.runs * chunk // a.chunks * MR
        count = (pixels if chunk == a.chunks - 1 else a.runs * (chunk + 1) // a.chunks * MR) - p
        located = -1
        for i in range(starts[unit], starts[unit + 1]):
            c0, channels, q, group = blocks[6 * i], blocks[6 * i + 1], blocks[6 * i + 2], blocks[6 * i + 3]
            if q != located:
                for t in range(a.taps_count):
                    corners, values = where[4 * t * count :], s[a.values_at + 8 * t * count :]
                    locate(a, taps, offset, mask, image, q, t, p, count, corners, values)
                located = q
            base = image * (a.ih * a.iw + 1) * a.pitch + c0
            row = a.taps_count * a.block_pitch
            for t in range(a.taps_count):
                at = a.panel_at + t * a.block_pitch
                sample(x, base, where, s[a.values_at :], t * count, count, channels, s, at, row, False)
            wi = c0 * a.taps_count * a.oc_pitch
            product(
                *(s, a.panel_at, row, count, w, wi, a.oc_pitch, steps, 0, channels * a.taps_count),
                *(s, a.sums_at, a.oc_pitch, zeros, 0, blocks[6 * i + 4] == 0),
            )
            if blocks[6 * i + 5]:
                out = (image * a.oc + group * a.ocg) * pixels + p
                store_pixels(a, s, a.sums_at, a.oc_pitch, count, a.ocg, s, a.turn_at, y, out, bias, group * a.ocg)

    return deform_conv_fwd_channels_last


def register_tile(rows, vectors):
    """(MR, NR) for at least `rows` rows and a whole number of vectors, of which none should be left over."""
    shapes = [(8, 3), (6, 4)] if isa.registers >= 32 and rows >= 8 else [isa.tile(rows)]
    shapes = [(MR, balanced(vectors, NR)) for MR, NR in shapes]
    return min(shapes, key=lambda shape: vectors // shape[1] * (shape[1] + 0.5) + vectors % shape[1] * 1.8)


@lru_cache(maxsize=256)
def _forward_plan(spec):
    """(body, tiles, numbers, tables, scratch) of the forward pass."""
    LANES, taps = lanes(spec.dtype), len(spec.taps)
    icg, ocg = spec.ic // spec.g, spec.oc // spec.g
    oc_pitch = split(ocg, LANES) * LANES
    most = max(LANES, BLOCK_K // taps // LANES * LANES)
    blocks = spec.blocks(most)
    fewer, more = sorted((spec.g, spec.og))
    units = fewer if more % fewer == 0 else 1
    rows = [
        (*b, int(i == 0 or blocks[i - 1][3] != b[3]), int(i + 1 == len(blocks) or blocks[i + 1][3] != b[3]))
        for i, b in enumerate(blocks)
    ]
    unit_of = [b[0] * units // spec.ic for b in blocks]
    widest = max(b[1] for b in blocks)
    block_pitch = split(widest, LANES) * LANES
    MR, NR = register_tile(spec.pixels // split(spec.pixels, PIXELS), oc_pitch // LANES)
    runs = max(1, spec.pixels // MR)  # of whole register tiles; what is left joins the last
    chunks = split(runs * MR, PIXELS)
    count = split(runs, chunks) * MR + MR
    whole = split(count, LANES) * LANES
    values_at = taps * count * 4 * 8 // np.dtype(spec.dtype).itemsize
    panel_at = values_at + taps * count * VALUES
    sums_at = panel_at + count * taps * block_pitch
    turn_at = sums_at + whole * oc_pitch
    channel = np.arange(widest)[:, None]
    tap = np.arange(taps)
    steps = np.stack([(channel + tap * block_pitch).ravel(), ((channel * taps + tap) * oc_pitch).ravel()], axis=1)
    numbers = {
        **spec.numbers(),
        **{"chunks": chunks, "runs": runs, "units": units, "icg": icg, "oc": spec.oc, "ocg": ocg, "oc_pitch": oc_pitch},
        **{"block_pitch": block_pitch, "values_at": values_at, "panel_at": panel_at, "sums_at": sums_at},
        "turn_at": turn_at,
    }
    tables = {
        "taps": spec.tap_table.ravel(),
        "blocks": np.array(rows, np.int64).ravel(),
        "starts": np.searchsorted(unit_of, np.arange(units + 1)).astype(np.int64),
        "steps": np.ascontiguousarray(steps).ravel(),
    }
    body = make_forward(spec.dtype, MR, NR)
    return body, spec.n * units * chunks, numbers, tables, turn_at + whole * LANES


def convolution_rows(spec, x, offset, w, y, mask=None, bias=None):
    """The rows of deformable convolution: of the image and of the weights channels last, and of the products."""
    body, tiles, numbers, tables, scratch = _forward_plan(spec)
    icg, ocg, taps = spec.ic // spec.g, spec.oc // spec.g, len(spec.taps)
    last, packed = (
        Temporary(channels_last_size(spec), spec.dtype),
        Temporary(spec.ic * taps * numbers["oc_pitch"], spec.dtype),
    )
    values = {"x": last, "offset": offset, "mask": offset if mask is None else mask, "w": packed, "y": y}
    values |= {"bias": zeros(spec.oc, spec.dtype) if bias is None else bias, "zeros": zeros(2 * PIXELS, spec.dtype)}
    values = {**values, **numbers, **tables}
    return (
        layout_row(x, last, spec.ic, spec.ih * spec.iw, 1)._replace(temporaries=("last",)),
        layout_row(w, packed, ocg, icg * taps, 0)._replace(temporaries=("last",)),
        Row(body, tiles, values, DeformForward.cost(spec), scratch, ("x", "w")),
    )


@implements("deform_conv.fwd", rank=90)
class DeformForward(Impl):
    """Buffers of `convolution_rows`."""

    name = "deform_conv_fwd_patches"

    @staticmethod
    def cost(spec):
        a_tap = spec.ic * (spec.oc // spec.g) / 50 + spec.ic / 8 + 8 * spec.og
        return spec.n * spec.pixels * len(spec.taps) * a_tap

    @staticmethod
    def emit(spec, buffers):
        return convolution_rows(spec, **buffers)


# ---- aggregation

AggregateBlock = Block(
    "DeformAggregate",
    {**dict.fromkeys(("x", "offset", "mask", "zeros", "y", "scratch")), "taps": "i8"},
    GEOMETRY + "chunks channels values_at panel_at panel_pitch turn_at",
)


@cache
def make_aggregate(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    locate, sample, store_pixels = make_locate(dtype), make_sample(LANES), make_store_pixels(LANES)

    @tile_body(AggregateBlock, dtype)
    def deform_aggregate_fwd_channels_last(block, tile, worker):
        """y[n, c, p] = sum over taps of the sample of channel c.  Tile: (image, offset group, run of pixels)."""
        a = fields(block)
        x, y, zeros = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.y, a.y_size, KIND),
            array_at(a.zeros, a.zeros_size, KIND),
        )
        offset, mask = array_at(a.offset, a.offset_size, KIND), array_at(a.mask, a.mask_size, KIND)
        taps = array_at(a.taps, a.taps_size, "i8")
        memory = a.scratch + worker * a.scratch_size * ITEM
        s, where = array_at(memory, a.scratch_size, KIND), array_at(memory, a.values_at * ITEM // 8, "i8")
        chunk, q, image = tile % a.chunks, tile // a.chunks % a.offset_groups, tile // (a.chunks * a.offset_groups)
        pixels, c0 = a.oh * a.ow, q * a.channels
        p = pixels * chunk // a.chunks
        count = pixels * (chunk + 1) // a.chunks - p
        base = image * (a.ih * a.iw + 1) * a.pitch + c0
        for t in range(a.taps_count):
            locate(a, taps, offset, mask, image, q, t, p, count, where, s[a.values_at :])
            sample(x, base, where, s[a.values_at :], 0, count, a.channels, s, a.panel_at, a.panel_pitch, t > 0)
        out = (image * a.offset_groups * a.channels + c0) * pixels + p
        store_pixels(a, s, a.panel_at, a.panel_pitch, count, a.channels, s, a.turn_at, y, out, zeros, 0)

    return deform_aggregate_fwd_channels_last


def aggregation_row(spec, last, offset, mask, y):
    """The row of aggregation; `last` the channels-last image."""
    LANES, channels = lanes(spec.dtype), spec.ic // spec.og
    chunks = split(spec.pixels, PIXELS)
    whole = split(split(spec.pixels, chunks), LANES) * LANES
    pitch = split(channels, LANES) * LANES
    values_at = whole * 4 * 8 // np.dtype(spec.dtype).itemsize
    panel_at = values_at + whole * VALUES
    turn_at = panel_at + whole * pitch
    values = {
        **{"x": last, "offset": offset, "mask": mask, "zeros": zeros(channels, spec.dtype), "y": y},
        **{"taps": spec.tap_table.ravel(), **spec.numbers(), "chunks": chunks, "channels": channels},
        **{"values_at": values_at, "panel_at": panel_at, "panel_pitch": pitch, "turn_at": turn_at},
    }
    work = DeformAggregateForward.cost(spec)
    return Row(make_aggregate(spec.dtype), spec.n * spec.og * chunks, values, work, turn_at + whole * LANES)


@implements("deform_aggregate.fwd", rank=90)
class DeformAggregateForward(Impl):
    """Buffers of `aggregation_row`."""

    name = "deform_aggregate_fwd_channels_last"

    @staticmethod
    def cost(spec):
        return spec.n * spec.pixels * len(spec.taps) * (spec.ic / 8 + 8 * spec.og)

    @staticmethod
    def emit(spec, buffers):
        return (aggregation_row(spec, **buffers),)
