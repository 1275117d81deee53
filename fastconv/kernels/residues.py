"""The data gradient of a strided convolution (so: transposed convolution), all residue classes of a tile from one
packing of the source.

With stride s, input pixel i = q*s + r - padding of class r sees, under tap k with k*dilation = r modulo s, output pixel
q + (r - k*dilation) / s.  So each class is a gather of stride 1 over the same grid of q, over its own taps and without
multiplications by zero (Dumoulin and Visin, arXiv 1603.07285, section 4).  Apart, the classes would each copy the same
source again, for few rows each.  Here classes that see the same offsets form a band, whose rows are (channel, class); a
band is one matrix product, so that one output channel with stride 256 is a product of 256 rows.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product

import numpy as np

from .. import driver
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, isa, lanes
from .gathers import NANOSECONDS_PER_FLOP, PACK_CYCLES, balanced, split, zeros
from .gemm import make_strip_product
from .patches import make_pack_row

PackBlock = Block(
    "ResiduesPack",
    {"w": None, "packed": None, "bands": "i8", "places": "i8"},
    "bands_count channels w_channel group_size height",
)
ResiduesBlock = Block(
    "Residues",
    {
        "x": None,
        "packed": None,
        "bias": None,
        "y": None,
        "bands": "i8",
        "taps": "i8",
        "steps": "i8",
        "rows": "i8",
        "scratch": None,
    },
    "xd xh xw grid_d grid_h grid_w sd sh sw groups channels y_planes yd yh yw up_d up_h up_w shift_d shift_h shift_w "
    "pixels chunks parts strips pitch block_channels taps_count group_size bands_count",
)
PACK_CHANNELS = 8
# the numbers of a band: strips before, taps before in `places`, taps, steps before, packed weights before, rows before
BAND = 6


@helper
def band_of(bands, count, strip):
    """Where the numbers of the band begin that a strip belongs to."""
    b = 0
    while b + 1 < count and bands[(b + 1) * BAND] <= strip:
        b += 1
    return b * BAND


@cache
def make_pack_weights(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(PackBlock, dtype)
    def conv_residues_pack(block, tile, worker):
        """packed[strip, channel, tap, m] = the weight of the strip's row m, 0 where it has no such row.  Tile: (group,
        PACK_CHANNELS channels).
        """
        a = fields(block)
        w, packed = array_at(a.w, a.w_size, KIND), array_at(a.packed, a.packed_size, KIND)
        bands, places = array_at(a.bands, a.bands_size, "i8"), array_at(a.places, a.places_size, "i8")
        parts = (a.channels + PACK_CHANNELS - 1) // PACK_CHANNELS
        group, first = tile // parts, tile % parts * PACK_CHANNELS
        zero = w.dtype.type(0)
        for b in range(a.bands_count):
            band = bands[b * BAND : (b + 2) * BAND]
            size = band[2] * a.height
            for local in range(band[BAND] - band[0]):
                table = places[band[1] + local * size : band[1] + (local + 1) * size]
                for c in range(first, min(first + PACK_CHANNELS, a.channels)):
                    source = (group * a.channels + c) * a.w_channel
                    at = group * a.group_size + band[4] + (local * a.channels + c) * size
                    out = packed[at : at + size]
                    for i in range(size):
                        out[i] = w[np.uintp(source + table[i])] if table[i] >= 0 else zero

    return conv_residues_pack


@helper
def spread(a, c, at, y, plane, rd, rh, rw, d, h, w, count):
    """y[plane, q*up + r - shift] = c[at + i] for the `count` grid points q from (d, h, w) on, where that lies
    inside.
    """
    first = max(0, (a.shift_w - rw + a.up_w - 1) // a.up_w)
    end = min(a.grid_w, (a.yw - 1 + a.shift_w - rw) // a.up_w + 1)
    i = 0
    while i < count:
        run = min(a.grid_w - w, count - i)
        di, hi = d * a.up_d + rd - a.shift_d, h * a.up_h + rh - a.shift_h
        if 0 <= di < a.yd and 0 <= hi < a.yh:
            place = ((plane * a.yd + di) * a.yh + hi) * a.yw + rw - a.shift_w
            for j in range(max(w, first), min(w + run, end)):
                y[place + j * a.up_w] = c[at + i + j - w]
        i += run
        w = 0
        h += 1
        if h == a.grid_h:
            h = 0
            d += 1


@cache
def make_residues(dtype, MR, NR):
    """The kernel for a register tile of MR x NR vectors."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    strip_product, pack_row = make_strip_product(MR, NR, LANES), make_pack_row(1, LANES)

    @tile_body(ResiduesBlock, dtype)
    def conv_bwd_data_residues(block, tile, worker):
        """Tile: (image, group, run of grid points, part of the rows); all its pixels of the output, bias included."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        packed, bias = array_at(a.packed, a.packed_size, KIND), array_at(a.bias, a.bias_size, KIND)
        bands, taps = array_at(a.bands, a.bands_size, "i8"), array_at(a.taps, a.taps_size, "i8")
        steps, rows = array_at(a.steps, a.steps_size, "i8"), array_at(a.rows, a.rows_size, "i8")
        panel = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        c = panel[a.block_channels * a.taps_count * a.pitch + LANES * (NR + 1) :]

        part, chunk = tile % a.parts, tile // a.parts % a.chunks
        image_group = tile // (a.parts * a.chunks)
        group = image_group % a.groups
        vectors = (a.pixels + LANES - 1) // LANES
        p = vectors * chunk // a.chunks * LANES
        count = min(a.pixels, vectors * (chunk + 1) // a.chunks * LANES) - p
        d, h, w = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
        strip0, strip1 = a.strips * part // a.parts, a.strips * (part + 1) // a.parts
        image = image_group * a.channels * a.xd * a.xh * a.xw
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            for k in range(channels):
                plane = image + (c0 + k) * a.xd * a.xh * a.xw
                for t in range(a.taps_count):
                    at = (k * a.taps_count + t) * a.pitch
                    pack_row(a, x, plane, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], d, h, w, count, panel, at)
            for strip in range(strip0, strip1):
                b = band_of(bands, a.bands_count, strip)
                local, size, first = strip - bands[b], bands[b + 2], bands[b + 3]
                weights = group * a.group_size + bands[b + 4] + (local * a.channels + c0) * size * MR
                strip_product(
                    *(packed, weights, 1, panel, 0, count, steps, first, first + channels * size),
                    *(c, (strip - strip0) * MR * a.pitch, a.pitch, bias, (group * a.strips + strip) * MR, 0, c0 > 0),
                )
        for row in range(strip0 * MR, strip1 * MR):
            if rows[4 * row] >= 0:
                plane, at = image_group * a.y_planes + rows[4 * row], (row - strip0 * MR) * a.pitch
                spread(a, c, at, y, plane, rows[4 * row + 1], rows[4 * row + 2], rows[4 * row + 3], d, h, w, count)

    return conv_bwd_data_residues


# ---- programs

BLOCK_K = 128  # terms of one sum, as in implicit_gemm.py
CHUNK_VECTORS = 12  # vectors of grid points in a panel
OUT_BYTES = 1 << 18  # of the rows that a tile keeps until they are spread over the output: a quarter of a cache of 1 MB
CALL_VECTORS = 20  # cycles to call one register tile, next to one cycle for each vector multiplication
SPREAD_CYCLES = 20  # to spread one vector of outputs over strided pixels
WEIGHT_CYCLES = 60  # to pack one vector of weights


@dataclass(frozen=True, eq=False)
class Layout:
    """Bands of rows and their taps; grid: sizes of q along (d, h, w); first: the least q; offsets: source offsets of
    the panel's taps.
    """

    grid: tuple
    first: tuple
    offsets: list
    bands: list  # (panel taps, rows); a row is (channel, class d, class h, class w, weight index of each tap)

    @property
    def pixels(self):
        return self.grid[0] * self.grid[1] * self.grid[2]


def _axis(kernel, stride, padding, dilation, size, source):
    """(grid, least q, {offsets: [(class, taps)]}) of one axis; offsets are those of the source from a grid point on."""
    first, last = padding // stride, (size - 1 + padding) // stride
    grid, classes = last - first + 1, {}
    for r in sorted({(i + padding) % stride for i in range(min(size, stride))}):
        taps = [(k, first + (r - k * dilation) // stride) for k in range(kernel) if (r - k * dilation) % stride == 0]
        taps = [(k, offset) for k, offset in taps if offset < source and offset + grid - 1 >= 0]
        classes.setdefault(tuple(offset for _, offset in taps), []).append((r, [k for k, _ in taps]))
    return grid, first, classes


@lru_cache(maxsize=256)
def layout(spec):
    """The bands of a spec: classes with the same offsets along all three axes."""
    axes = [
        _axis(*axis)
        for axis in zip(
            *(
                (spec.kd, spec.kh, spec.kw),
                (spec.sd, spec.sh, spec.sw),
                (spec.pd, spec.ph, spec.pw),
                (spec.dd, spec.dh, spec.dw),
            ),
            *((spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow)),
            strict=True,
        )
    ]
    unions = [sorted({offset for offsets in classes for offset in offsets}) for _, _, classes in axes]
    offsets = list(product(*unions))
    panel_tap = {offset: t for t, offset in enumerate(offsets)}
    bands = []
    for band in product(*(classes.items() for _, _, classes in axes)):
        taps = [panel_tap[offset] for offset in product(*(offsets for offsets, _ in band))]
        classes = [
            (d, h, w, [(kd * spec.kh + kh) * spec.kw + kw for kd, kh, kw in product(td, th, tw)])
            for (d, td), (h, th), (w, tw) in product(*(classes for _, classes in band))
        ]
        bands.append((taps, [(channel, *one) for channel in range(spec.icg) for one in classes]))
    return Layout(tuple(grid for grid, _, _ in axes), tuple(first for _, first, _ in axes), offsets, bands)


def _height(spec, bands):
    """Rows of a register tile: the height that leaves least over, where tiles of 1 and 2 rows wait for their loads."""
    sizes = [len(rows) for _, rows in bands]
    heights = {isa.tile(rows)[0] for rows in (8, 6, 4, 3, 2, 1)}
    return min(heights, key=lambda MR: (sum(split(size, MR) for size in sizes) * max(MR, 2.5), -MR))


def _tables(spec, bands, MR, pitch, block_channels, taps_count):
    """The arrays of whole numbers: bands, places (weight index by band, strip, tap, row), steps, rows; and the packed
    size of a group.
    """
    table, places, steps, rows = [], [], [], []
    strips = size = 0
    for taps, members in bands:
        table += [strips, sum(map(len, places)), len(taps), sum(map(len, steps)) // 2, size, len(rows)]
        count = split(len(members), MR)
        members = members + [(-1, 0, 0, 0, None)] * (count * MR - len(members))
        strips += count
        size += count * MR * spec.ocg * len(taps)
        index = np.array(
            [[-1] * len(taps) if t is None else [c * spec.taps + i for i in t] for c, _, _, _, t in members], np.int64
        )
        places.append(index.reshape(count, MR, -1).transpose(0, 2, 1).ravel())
        k = np.arange(block_channels * len(taps))
        panel = (np.arange(block_channels)[:, None] * taps_count + np.array(taps, np.int64)).ravel() * pitch
        steps.append(np.stack([k * MR, panel], axis=1).ravel())
        rows += [member[:4] for member in members]
    arrays = {
        "bands": np.array([*table, strips], np.int64),
        "places": np.concatenate(places),
        "steps": np.concatenate(steps),
    }
    return {**arrays, "rows": np.array(rows, np.int64).ravel()}, strips, size


@lru_cache(maxsize=256)
def _plan(spec, threads):
    """(bodies, tile counts, numbers and tables of the rows that pack and that multiply, scratch, weights in all,
    channel of each row).
    """
    LANES, plan = lanes(spec.dtype), layout(spec)
    MR, taps_count = _height(spec, plan.bands), len(plan.offsets)
    vectors = split(plan.pixels, LANES)
    chunks = max(1, round(vectors / CHUNK_VECTORS))
    pitch = (split(vectors, chunks) | 1) * LANES
    block_channels = min(spec.ocg, max(1, BLOCK_K // max(1, taps_count)))
    tables, strips, group_size = _tables(spec, plan.bands, MR, pitch, block_channels, taps_count)
    tiles = spec.n * spec.g * chunks
    parts = split(strips * MR * pitch * np.dtype(spec.dtype).itemsize, OUT_BYTES)
    if threads > 1 and tiles * parts < 2 * threads:
        parts = split(2 * threads, tiles)
    parts = min(parts, strips)
    shared = {"bands_count": len(plan.bands), "channels": spec.ocg, "group_size": group_size}
    grid = dict(zip(("grid_d", "grid_h", "grid_w"), plan.grid, strict=True))
    shift = [
        pad - first * s
        for pad, first, s in zip((spec.pd, spec.ph, spec.pw), plan.first, (spec.sd, spec.sh, spec.sw), strict=True)
    ]
    numbers = {
        **shared,
        **grid,
        **{"xd": spec.od, "xh": spec.oh, "xw": spec.ow, "sd": 1, "sh": 1, "sw": 1, "groups": spec.g},
        **{
            "y_planes": spec.icg,
            "yd": spec.id,
            "yh": spec.ih,
            "yw": spec.iw,
            "up_d": spec.sd,
            "up_h": spec.sh,
            "up_w": spec.sw,
        },
        **{"shift_d": shift[0], "shift_h": shift[1], "shift_w": shift[2], "pixels": plan.pixels, "chunks": chunks},
        **{
            "parts": parts,
            "strips": strips,
            "pitch": pitch,
            "block_channels": block_channels,
            "taps_count": taps_count,
        },
        **{"bands": tables["bands"], "steps": tables["steps"], "rows": tables["rows"]},
        "taps": np.array(plan.offsets, np.int64).reshape(-1),
    }
    pack = {
        **shared,
        "w_channel": spec.icg * spec.taps,
        "height": MR,
        "bands": tables["bands"],
        "places": tables["places"],
    }
    _, NR = isa.tile(MR)
    NR = balanced(split(vectors, chunks), NR)
    scratch = block_channels * taps_count * pitch + (NR + 1) * LANES + (split(strips, parts) * MR) * pitch + NR * LANES
    return pack, numbers, MR, NR, scratch, tables["rows"][::4]


@implements("conv.bwd_data", rank=30)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_residues"
    takes_bias = True  # a buffer `b` with a value per channel of gx

    @staticmethod
    def when(spec):
        if 0 in (spec.n, spec.ic, spec.oc, spec.in_pixels, spec.out_pixels):
            return "needs an image"
        if max(spec.sd, spec.sh, spec.sw) == 1:
            return "needs a stride"
        return None

    @staticmethod
    def cost(spec):
        """The multiplications, with the lanes and rows that tiles waste; one packing of the source for each part;
        packing and spreading.
        """
        LANES, plan = lanes(spec.dtype), layout(spec)
        MR, vectors = _height(spec, plan.bands), split(plan.pixels, LANES)
        products = sum(split(len(rows), MR) * max(MR, 2.5) * len(taps) for taps, rows in plan.bands)
        rows = sum(len(rows) for _, rows in plan.bands)
        calls = sum(split(len(rows), MR) for _, rows in plan.bands) * CALL_VECTORS / isa.tile(MR)[1]
        parts = split(rows * min(vectors, CHUNK_VECTORS) * LANES * np.dtype(spec.dtype).itemsize, OUT_BYTES)
        each = spec.ocg * (products + PACK_CYCLES * parts * len(plan.offsets)) + calls * split(
            spec.ocg * len(plan.offsets), BLOCK_K
        )
        weights = WEIGHT_CYCLES * spec.g * spec.ocg * spec.icg * spec.taps / LANES
        cycles = spec.n * spec.g * vectors * (each + SPREAD_CYCLES * rows) + weights
        return 2 * cycles * LANES * NANOSECONDS_PER_FLOP

    @staticmethod
    def emit(spec, buffers):
        pack, numbers, MR, NR, scratch, channels = _plan(spec, driver.get_num_threads())
        packed = Temporary(max(1, spec.g * pack["group_size"]), spec.dtype)
        bias = buffers.get("b")
        if bias is None:
            bias = zeros(spec.g * channels.size, spec.dtype)
        else:
            bias = bias.reshape(spec.g, spec.icg)[:, channels].ravel()  # rows without a channel take any
        tiles = spec.n * spec.g * numbers["chunks"] * numbers["parts"]
        w = {"w": buffers["w"], "packed": packed, **pack}
        x = {"x": buffers["gy"], "packed": packed, "bias": bias, "y": buffers["gx"], **numbers}
        return (
            Row(make_pack_weights(spec.dtype), spec.g * split(spec.ocg, PACK_CHANNELS), w, packed.size * 1.0)._replace(
                temporaries=("packed",)
            ),
            Row(make_residues(spec.dtype, MR, NR), tiles, x, spec.flops() * NANOSECONDS_PER_FLOP, scratch, ("packed",)),
        )
