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
from ..simd import array_at, fields, isa, lanes, load_window
from ..simd_permute import store_interleaved
from ..simd_vector import gather_places, store_window
from .gathers import NANOSECONDS_PER_FLOP, PACK_CYCLES, balanced, split, zeros
from .gemm import make_strip_product
from .patches import make_pack_row

PackBlock = Block(
    "ResiduesPack",
    {"w": None, "packed": None, "bands": "i8", "places": "i4"},
    "bands_count channels w_channel group_size",
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
    "pixels chunks parts strips pitch block_channels taps_count group_size bands_count in_place",
)
PACK_CHANNELS = 8
# the numbers of a band: strips before, taps before in `places`, taps, steps before, packed weights before, rows before,
# whether the weights of a strip's rows lie side by side under every tap, rows
BAND = 8
WOVEN = (2, 4, 8)  # strides along a row at which the rows of neighbouring classes are written together


@helper
def band_of(bands, count, strip):
    """Where the numbers of the band begin that a strip belongs to."""
    b = 0
    while b + 1 < count and bands[(b + 1) * BAND] <= strip:
        b += 1
    return b * BAND


@cache
def make_pack_weights(dtype, MR):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @helper
    def pack_runs(w, source, table, out, at, taps, count):
        """The weights of `count` rows that lie side by side under each tap, then zeros up to MR rows."""
        for t in range(taps):
            first = source + table[np.uintp(t * MR)]
            for m in range(0, MR, LANES):
                if count >= MR:
                    store_window(load_window(w, first + m, 1, 0, MR - m, 1), out, at + t * MR + m, MR - m)
                else:
                    value = load_window(w, first + m, 1, 0, min(LANES, count - m), 1)
                    store_window(value, out, at + t * MR + m, MR - m)

    @tile_body(PackBlock, dtype)
    def conv_residues_pack(block, tile, worker):
        """packed[strip, channel, tap, m] = the weight of the strip's row m, 0 where it has no such row.  Tile: (group,
        PACK_CHANNELS channels).
        """
        a = fields(block)
        w, packed = array_at(a.w, a.w_size, KIND), array_at(a.packed, a.packed_size, KIND)
        bands, places = array_at(a.bands, a.bands_size, "i8"), array_at(a.places, a.places_size, "i4")
        parts = (a.channels + PACK_CHANNELS - 1) // PACK_CHANNELS
        group, first = tile // parts, tile % parts * PACK_CHANNELS
        for b in range(a.bands_count):
            band = bands[b * BAND : (b + 2) * BAND]
            size = band[2] * MR
            for local in range(band[BAND] - band[0]):
                start = band[1] + local * size
                rows = min(MR, band[7] - local * MR)
                for c in range(first, min(first + PACK_CHANNELS, a.channels)):
                    source = (group * a.channels + c) * a.w_channel
                    at = group * a.group_size + band[4] + (local * a.channels + c) * size
                    if band[6]:
                        pack_runs(w, source, places[start:], packed, at, band[2], rows)
                    else:
                        for i in range(0, size, LANES):
                            value = gather_places(w, source, places, start + i)
                            store_window(value, packed, at + i, size - i)

    return conv_residues_pack


BiasBlock = Block("ResiduesBias", {"bias": None, "rows": None, "channels": "i8"}, "groups each")


@cache
def make_lay_bias(dtype):
    KIND = np.dtype(dtype).str[1:]

    @tile_body(BiasBlock, dtype)
    def conv_residues_bias(block, tile, worker):
        """rows[g, m] = bias[g, channels[m]].  One tile."""
        a = fields(block)
        bias, rows = array_at(a.bias, a.bias_size, KIND), array_at(a.rows, a.rows_size, KIND)
        channels = array_at(a.channels, a.channels_size, "i8")
        for g in range(a.groups):
            for m in range(a.channels_size):
                rows[g * a.channels_size + m] = bias[g * a.each + channels[m]]

    return conv_residues_bias


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
def make_woven(LANES, WEAVE):
    @helper
    def same_line(rows, row):
        """Whether the WEAVE rows from `row` on are neighbouring classes of one line of a channel's output."""
        last = 4 * (row + WEAVE - 1)
        same = rows[last] == rows[4 * row] and rows[last + 1] == rows[4 * row + 1]
        return same and rows[last + 2] == rows[4 * row + 2] and rows[last + 3] - rows[4 * row + 3] == WEAVE - 1

    @helper
    def weave(a, c, at, y, plane, rd, rh, rw, d, h, w, count):
        """`spread` for WEAVE rows at once, the classes of a whole stride, whose outputs are a run."""
        i = 0
        while i < count:
            run = min(a.grid_w - w, count - i)
            di, hi = d * a.up_d + rd - a.shift_d, h * a.up_h + rh - a.shift_h
            if 0 <= di < a.yd and 0 <= hi < a.yh:
                line = ((plane * a.yd + di) * a.yh + hi) * a.yw
                for j in range(0, run, LANES):
                    place = (w + j) * WEAVE + rw - a.shift_w
                    high = min(a.yw - place, (run - j) * WEAVE)
                    store_interleaved(c, at + i + j, a.pitch, y, line + place, -place, high, WEAVE)
            i += run
            w = 0
            h += 1
            if h == a.grid_h:
                h = 0
                d += 1

    return same_line, weave


@cache
def make_residues(dtype, MR, NR, WEAVE):
    """The kernel for a register tile of MR x NR vectors; WEAVE: the stride along a row if its classes are written
    together, else 0.
    """
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    same_line, weave = make_woven(LANES, WEAVE or 2)
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
            source, first_pixel = (x, image + c0 * a.pixels + p) if a.in_place else (panel, 0)
            for k in range(0 if a.in_place else channels):
                plane = image + (c0 + k) * a.xd * a.xh * a.xw
                for t in range(a.taps_count):
                    at = (k * a.taps_count + t) * a.pitch
                    pack_row(a, x, plane, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], d, h, w, count, panel, at)
            for strip in range(strip0, strip1):
                b = band_of(bands, a.bands_count, strip)
                local, size, first = strip - bands[b], bands[b + 2], bands[b + 3]
                weights = group * a.group_size + bands[b + 4] + (local * a.channels + c0) * size * MR
                strip_product(
                    *(packed, weights, 1, source, first_pixel, count, steps, first, first + channels * size),
                    *(c, (strip - strip0) * MR * a.pitch, a.pitch, bias, (group * a.strips + strip) * MR, 0, c0 > 0),
                )
        row = strip0 * MR
        while row < strip1 * MR:
            plane, at = image_group * a.y_planes + rows[4 * row], (row - strip0 * MR) * a.pitch
            rd, rh, rw = rows[4 * row + 1], rows[4 * row + 2], rows[4 * row + 3]
            if WEAVE and rows[4 * row] >= 0 and row + WEAVE <= strip1 * MR and same_line(rows, row):
                weave(a, c, at, y, plane, rd, rh, rw, d, h, w, count)
                row += WEAVE
            else:
                if rows[4 * row] >= 0:
                    spread(a, c, at, y, plane, rd, rh, rw, d, h, w, count)
                row += 1

    return conv_bwd_data_residues


# ---- programs

BLOCK_K = 512  # terms of one sum: its panel fits the second-level cache
CHUNK_VECTORS = 12  # vectors of grid points in a panel
OUT_BYTES = 1 << 18  # of the rows that a tile keeps until they are spread over the output: a quarter of a cache of 1 MB
CALL_VECTORS = 100  # cycles to call one register tile, next to one cycle for each vector multiplication
SPREAD_CYCLES, WEAVE_CYCLES = (
    40,
    10,
)  # to spread one vector of outputs over strided pixels, alone or with its neighbours
MISS_CYCLES = 70  # to wait for one vector of the output where the rows of many channels are written in turns
WEIGHT_NANOSECONDS = 0.5  # to pack one weight
OUTPUT_NANOSECONDS = 0.3  # to write one output, beyond the second-level cache


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


def _tables(spec, bands, MR, row, block_channels, taps_count):
    """The arrays of whole numbers: bands, places (weight index by band, strip, tap, row), steps, rows; and the packed
    size of a group.  row: from one row of the panel, or one channel of the source, to the next.
    """
    table, places, steps, rows = [], [], [], []
    strips = size = 0
    for taps, members in bands:
        table += [strips, sum(map(len, places)), len(taps), sum(map(len, steps)) // 2, size, len(rows)]
        index = np.array([[c * spec.taps + i for i in t] for c, _, _, _, t in members], np.int64)
        inside = np.arange(1, len(members)) % MR > 0  # neighbours in one strip
        table += [int((np.diff(index, axis=0)[inside] == 1).all()), len(members)]
        count = split(len(members), MR)
        members = members + [(-1, 0, 0, 0, None)] * (count * MR - len(members))
        strips += count
        size += count * MR * spec.ocg * len(taps)
        index = np.concatenate([index, np.full((count * MR - len(index), len(taps)), -1)])
        places.append(index.reshape(count, MR, -1).transpose(0, 2, 1).ravel())
        k = np.arange(block_channels * len(taps))
        panel = (np.arange(block_channels)[:, None] * taps_count + np.array(taps, np.int64)).ravel() * row
        steps.append(np.stack([k * MR, panel], axis=1).ravel())
        rows += [member[:4] for member in members]
    arrays = {
        "bands": np.array([*table, strips], np.int64),
        "places": np.concatenate([*places, np.full(64, -1)]).astype(np.int32),
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
    in_place = plan.offsets == [(0, 0, 0)] and plan.grid == (spec.od, spec.oh, spec.ow) and plan.pixels % LANES == 0
    row = plan.pixels if in_place else pitch
    tables, strips, group_size = _tables(spec, plan.bands, MR, row, block_channels, taps_count)
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
    numbers = {**shared, **grid, "xd": spec.od, "xh": spec.oh, "xw": spec.ow, "sd": 1, "sh": 1, "sw": 1}
    numbers |= {"groups": spec.g, "y_planes": spec.icg, "yd": spec.id, "yh": spec.ih, "yw": spec.iw}
    numbers |= {"up_d": spec.sd, "up_h": spec.sh, "up_w": spec.sw}
    numbers |= {"shift_d": shift[0], "shift_h": shift[1], "shift_w": shift[2], "pixels": plan.pixels, "chunks": chunks}
    numbers |= {"parts": parts, "strips": strips, "pitch": pitch, "block_channels": block_channels}
    numbers |= {"taps_count": taps_count, "in_place": int(in_place), "taps": np.array(plan.offsets, np.int64).ravel()}
    numbers |= {name: tables[name] for name in ("bands", "steps", "rows")}
    pack = {
        **shared,
        "w_channel": spec.icg * spec.taps,
        "bands": tables["bands"],
        "places": tables["places"],
    }
    _, NR = isa.tile(MR)
    NR = balanced(split(vectors, chunks), NR)
    scratch = block_channels * taps_count * pitch + (NR + 1) * LANES + (split(strips, parts) * MR) * pitch + NR * LANES
    return pack, numbers, MR, NR, scratch, np.ascontiguousarray(tables["rows"][::4])


def _weave(spec, MR):
    """The stride along a row if tiles of MR rows hold all its classes, or several tiles do; else 0."""
    return spec.sw if spec.sw in WOVEN and MR % spec.sw == 0 else 0


def _pack_row(spec, w, packed, pack, MR):
    values, tiles = {"w": w, "packed": packed, **pack}, spec.g * split(spec.ocg, PACK_CHANNELS)
    return Row(make_pack_weights(spec.dtype, MR), tiles, values, packed.size * WEIGHT_NANOSECONDS)


def _bias_row(spec, bias, channels):
    """The row that lays out the bias by rows of the product; rows without a channel take any."""
    rows = Temporary(spec.g * channels.size, spec.dtype)
    values = {"bias": bias, "rows": rows, "channels": channels % spec.icg, "groups": spec.g, "each": spec.icg}
    return Row(make_lay_bias(spec.dtype), 1, values, rows.size * 1.0, temporaries=("rows",))


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
        spreading = WEAVE_CYCLES if _weave(spec, MR) else SPREAD_CYCLES
        if len(plan.offsets) > 1:
            spreading += MISS_CYCLES * min(1, spec.icg / 16)
        cycles = spec.n * spec.g * vectors * (each + spreading * rows)
        return 2 * cycles * LANES * NANOSECONDS_PER_FLOP + OUTPUT_NANOSECONDS * spec.n * spec.ic * spec.in_pixels

    @staticmethod
    def pack_cost(spec):
        return WEIGHT_NANOSECONDS * spec.g * spec.ocg * spec.icg * spec.taps

    @staticmethod
    def layout(spec):
        """Which taps each class has: images of different sizes mostly agree."""
        pack, _, MR, _, _, _ = _plan(spec, driver.get_num_threads())
        return MR, pack["places"].tobytes(), pack["bands"].tobytes()

    @staticmethod
    def pack(spec, weight):
        pack, _, MR, _, _, _ = _plan(spec, driver.get_num_threads())
        packed = np.empty(max(1, spec.g * pack["group_size"]), spec.dtype)
        driver.launch(_pack_row(spec, weight, packed, pack, MR))
        return packed

    @staticmethod
    def emit(spec, buffers):
        pack, numbers, MR, NR, scratch, channels = _plan(spec, driver.get_num_threads())
        packed, bias, rows, made = buffers.get("packed"), buffers.get("b"), [], []
        if packed is None:
            packed = Temporary(max(1, spec.g * pack["group_size"]), spec.dtype)
            rows.append(_pack_row(spec, buffers["w"], packed, pack, MR)._replace(temporaries=("packed",)))
            made.append("packed")
        if bias is None:
            bias = zeros(spec.g * channels.size, spec.dtype)
        else:
            rows.append(_bias_row(spec, bias, channels))
            bias = rows[-1].values["rows"]
            made.append("bias")
        tiles = spec.n * spec.g * numbers["chunks"] * numbers["parts"]
        x = {"x": buffers["gy"], "packed": packed, "bias": bias, "y": buffers["gx"], **numbers}
        body = make_residues(spec.dtype, MR, NR, _weave(spec, MR))
        rows.append(Row(body, tiles, x, spec.flops() * NANOSECONDS_PER_FLOP, scratch, tuple(made)))
        return rows
