"""The data gradient of a strided convolution (so: transposed convolution) by Winograd's minimal filtering.

Where the stride divides the kernel, every residue class of the result (see `residues.py`) is a convolution of stride 1
with kernel / stride taps of one and the same source: y[q*s + r - p] = sum over t of w[r + t*s] x[q - t].  A tile of M
values of q under T taps takes M + T - 1 multiplications instead of M*T (Winograd 1980; Lavin and Gray, arXiv
1509.09308), the source is transformed once for all classes, and every (channel, class) is one column of the products:
DCGAN's 4x4 of stride 2 takes 16 multiplications for 36.

Weights are transformed where they are used, a few vectors of columns at a time.  That costs less than reading them
packed, as there are two or four times as many transformed ones.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, isa, lanes, load_vector, prefetch_tile, store_vector, transpose_block
from ..simd_permute import winograd_picked_weights
from ..simd_winograd import winograd_apart, winograd_columns, winograd_out_apart, winograd_sizes
from .gathers import NANOSECONDS_PER_FLOP, split, zeros
from .gemm import BIAS, OLD, make_panel_product
from .residues import make_woven

FORMS = {1: 11, 2: 32, 4: 34}  # taps of a class along one axis -> F(M, R)
PIXELS = "channels blocks xh xw first_h first_w tiles_h tiles_w tiles v_plane "
SourceBlock = Block("ResidueWinogradSource", "x v scratch", PIXELS)
ProductBlock = Block(
    "ResidueWinograd",
    dict.fromkeys(("v", "w", "zeros", "y", "scratch"))
    | dict.fromkeys(("bases", "runs", "steps"), "i8")
    | {"places": "i4"},
    PIXELS + "chunks vectors part_vectors block_channels w_channel u_plane m_at m_plane out_at rows_at pitch "
    "y_planes yd yh yw grid_d grid_h grid_w up_d up_h up_w shift_d shift_h shift_w",
)


@cache
def make_source(dtype, FH, FW):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    (AH, MH, TH), (AW, MW, TW) = winograd_sizes(FH), winograd_sizes(FW)

    @helper
    def turn(a, x, xi, channels, s):
        """s[p*LANES + c] = x[xi + c*pixels + p] for one block of channels."""
        pixels = a.xh * a.xw
        for p in range(0, pixels, LANES):
            if p + LANES <= pixels and channels == LANES:
                transpose_block(x, xi + p, pixels, s, p * LANES, LANES)
            else:
                for j in range(p, min(p + LANES, pixels)):
                    for c in range(channels):
                        s[j * LANES + c] = x[xi + c * pixels + j]

    @tile_body(SourceBlock, dtype)
    def conv_residues_winograd_source(block, tile, worker):
        """v[f, block, tile of pixels, channel] = (B^T x B)[f].  Tile: (image, block of LANES channels)."""
        a = fields(block)
        x, v = array_at(a.x, a.x_size, KIND), array_at(a.v, a.v_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        image, c0 = tile // a.blocks, tile % a.blocks * LANES
        turn(a, x, (image * a.channels + c0) * a.xh * a.xw, min(LANES, a.channels - c0), s)
        lines = a.xh * a.xw * LANES
        for th in range(a.tiles_h):
            for tw in range(a.tiles_w):
                column = a.first_w + tw * MW - (TW - 1)
                for i in range(AH):
                    row = a.first_h + th * MH - (TH - 1) + i
                    inside = 0 <= row < a.xh
                    low, high = (-column * LANES, (a.xw - column) * LANES) if inside else (0, 0)
                    at = (row * a.xw + column) * LANES
                    winograd_apart(s, at, low, high, LANES, s, lines + i * AW * LANES, LANES, FW)
                place = ((tile % a.blocks * a.tiles) + (image * a.tiles_h + th) * a.tiles_w + tw) * LANES
                winograd_columns(s, lines, LANES, v, place, a.v_plane, FH, FW)

    return conv_residues_winograd_source


@cache
def make_output(dtype, FH, FW, RUN):
    """From products to the output, LANES columns of it, of which runs of RUN lie side by side."""
    LANES, (_, MH, _), (_, MW, _) = lanes(dtype), winograd_sizes(FH), winograd_sizes(FW)
    RUNS = LANES // RUN
    _, weave = make_woven(LANES, RUN)

    @helper
    def copy_line(a, s, at, runs, plane, h, w, count, y):
        """Where the LANES columns are one run: the pixels q = (h, w), (h, w + 1), ... of it."""
        row = h * a.up_h + runs[1] - a.shift_h
        line = ((plane + runs[0]) * a.yh + row) * a.yw + runs[2] - a.shift_w
        low, high = (a.shift_w - runs[2]), (a.yw + a.shift_w - runs[2])
        if 0 <= row < a.yh:
            for i in range(count):
                first, here = (w + i) * a.up_w, at + i * LANES
                if low <= first and first + LANES <= high:
                    store_vector(load_vector(s, here), y, line + first)
                else:
                    for k in range(max(0, low - first), min(LANES, high - first)):
                        y[line + first + k] = s[here + k]

    @helper
    def write_output(a, s, m, p0, count, runs, zeros, y):
        """The pixels of the tiles p0 <= p < p0 + count, whose products are at s[m ...]."""
        p = 0
        while p < count:
            image, th, tw = (p0 + p) // (a.tiles_h * a.tiles_w), (p0 + p) // a.tiles_w % a.tiles_h, (p0 + p) % a.tiles_w
            tiles = min(a.tiles_w - tw, count - p)
            width = tiles * MW
            for i in range(tiles):
                at = a.out_at + i * MW * LANES
                product = m + (p + i) * a.part_vectors * LANES
                winograd_out_apart(s, product, a.m_plane, zeros, 0, s, at, width * LANES, LANES, FH, FW)
            if RUNS > 1:
                for i in range(0, MH * width, LANES):
                    transpose_block(s, a.out_at + i * LANES, LANES, s, a.rows_at + i, a.pitch)
            for n in range(RUNS):
                plane = image * a.y_planes
                for i in range(MH):
                    h, run = th * MH + i, runs[3 * n :]
                    if RUNS > 1:
                        at = a.rows_at + n * RUN * a.pitch + i * width
                        weave(a, s, at, y, plane + run[0], 0, run[1], run[2], 0, h, tw * MW, width)
                    else:
                        copy_line(a, s, a.out_at + i * width * LANES, run, plane, h, tw * MW, width, y)
            p += tiles

    return write_output


@cache
def make_product(dtype, FH, FW, MR, NR, SPAN, RUN):
    """Register tiles of MR tiles of pixels x NR vectors of columns; SPAN: vectors that a vector of weights of one tap
    is picked from, 0 where they lie side by side; RUN: columns that lie side by side in the output.
    """
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    (AH, _, TH), (AW, _, TW) = winograd_sizes(FH), winograd_sizes(FW)
    TAPS, RUNS = TH * TW, LANES // RUN
    panel_product, write_output = make_panel_product(MR, NR, LANES), make_output(dtype, FH, FW, RUN)

    @helper
    def ask_for_weights(w, wi, places):
        """Ask for the weights of one channel and NR vectors of columns."""
        for t in range(TAPS):
            prefetch_tile(w, wi + (t * NR * LANES if SPAN else places[t * LANES]), 0, 1, NR)

    @tile_body(ProductBlock, dtype)
    def conv_bwd_data_residues_winograd(block, tile, worker):
        """Tile: (run of tiles of pixels, some vectors of columns)."""
        a = fields(block)
        v, w, y = array_at(a.v, a.v_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        zeros, bases = array_at(a.zeros, a.zeros_size, KIND), array_at(a.bases, a.bases_size, "i8")
        steps, runs = array_at(a.steps, a.steps_size, "i8"), array_at(a.runs, a.runs_size, "i8")
        places = array_at(a.places, a.places_size, "i4")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        parts = (a.vectors + a.part_vectors - 1) // a.part_vectors
        chunk, v0 = tile // parts, tile % parts * a.part_vectors
        vectors = min(a.part_vectors, a.vectors - v0)
        p0 = a.tiles * chunk // a.chunks
        count, pitch = a.tiles * (chunk + 1) // a.chunks - p0, a.part_vectors * LANES
        for c0 in range(0, a.channels, a.block_channels):
            channels, add = min(a.block_channels, a.channels - c0), OLD if c0 else BIAS
            for c in range(channels):
                for n in range(vectors):
                    source, at = (c0 + c) * a.w_channel + bases[v0 + n], c * pitch + n * LANES
                    winograd_picked_weights(w, source, places, s, at, a.u_plane, FH, FW, SPAN)
            c1 = c0 + channels
            following = min(a.block_channels, a.channels - c1)
            for f in range(AH * AW):
                panel_product(
                    *(v, f * a.v_plane + (c0 * a.tiles + p0 * LANES), LANES, count),
                    *(s, f * a.u_plane, vectors * LANES, steps, 0, channels),
                    *(s, a.m_at + f * a.m_plane, pitch, zeros, 0, add),
                )
                for c in range(c1 + following * f // (AH * AW), c1 + following * (f + 1) // (AH * AW)):
                    ask_for_weights(w, c * a.w_channel + bases[v0], places)
        for n in range(vectors):
            columns = runs[(v0 + n) * RUNS * 3 :]
            write_output(a, s, a.m_at + n * LANES, p0, count, columns, zeros, y)

    return conv_bwd_data_residues_winograd


# ---- programs

SOURCE_BYTES = 1 << 26  # of the transformed source at most
CHUNK_BYTES = 1 << 19  # of the transformed source of one tile
BLOCK_TERMS = 2048  # transformed weights of a column in the second-level cache at a time
WEIGHT_CYCLES, PICK_CYCLES, SOURCE_CYCLES, OUT_CYCLES, RUN_CYCLES = 3, 9, 6, 4, 10  # for a vector of each


class Columns(NamedTuple):
    """Vectors of (channel, class) columns: where their weights lie, and their outputs."""

    bases: np.ndarray  # of each vector, the least place of its weights
    places: np.ndarray  # (taps, LANES): relative to those
    span: int  # vectors that hold the weights of one tap; 0: they lie side by side
    run: int  # columns that lie side by side in the output
    runs: np.ndarray  # (run, 3): channel, class along h and w
    alike: bool  # whether all vectors of columns lie like the first one in the weights


def _axes(spec):
    return zip((spec.kh, spec.kw), (spec.sh, spec.sw), (spec.ph, spec.pw), (spec.ih, spec.iw), strict=True)


@lru_cache(maxsize=256)
def _columns(spec):
    """The columns of channels and classes that fill vectors."""
    LANES, (th, tw) = lanes(spec.dtype), (spec.kh // spec.sh, spec.kw // spec.sw)
    channel, row, column = np.indices((spec.icg, spec.sh, spec.sw)).reshape(3, -1)
    tap_h, tap_w = np.indices((th, tw))[:, ::-1, ::-1].reshape(2, -1, 1)  # the last tap meets the first pixel
    index = (channel * spec.kh + row + spec.sh * tap_h) * spec.kw + column + spec.sw * tap_w
    index = index.reshape(th * tw, -1, LANES)
    bases = index.min(axis=(0, 2))
    every = index - bases[:, None]
    places, run = every[:, 0], min(spec.sw, LANES)
    runs = np.stack([channel, row, column], axis=1)[::run].astype(np.int64)
    alike, span = bool((every == places[:, None]).all()) and LANES % run == 0 == spec.sw % run, 0
    if (np.diff(places, axis=1) != 1).any():
        span = 2 if places.max() < 2 * LANES else 4
        alike &= places.max() < span * LANES and bases.max() + span * LANES <= spec.icg * spec.taps
    return Columns(bases, places.astype(np.int32), span, run, runs, bool(alike))


class Sizes(NamedTuple):
    forms: tuple
    first: tuple  # least q along h and w
    tiles: tuple  # of pixels along h and w

    @property
    def frequencies(self):
        return winograd_sizes(self.forms[0])[0] * winograd_sizes(self.forms[1])[0]


@lru_cache(maxsize=256)
def _sizes(spec):
    forms, first, tiles = [], [], []
    for kernel, stride, padding, size in _axes(spec):
        form = FORMS[kernel // stride]
        low, high = padding // stride, (size - 1 + padding) // stride
        forms.append(form)
        first.append(low)
        tiles.append(split(high - low + 1, winograd_sizes(form)[1]))
    return Sizes(tuple(forms), tuple(first), tuple(tiles))


def _register_tile(tiles):
    """(MR, NR) that leaves fewest rows over, the wider where that is equal."""
    shapes = [(9, 3), (6, 4), (12, 2), (8, 3)] if isa.registers >= 32 else [isa.tile(8)]
    shapes = [shape for shape in shapes if shape[0] <= tiles] or [isa.tile(tiles)]
    return min(shapes, key=lambda shape: (split(tiles, shape[0]) * shape[0], -shape[1]))


@lru_cache(maxsize=256)
def _plan(spec):
    """(forms, register tile, columns, chunks, numbers of both rows, numbers and tables of the product, scratch)."""
    LANES, columns, sizes = lanes(spec.dtype), _columns(spec), _sizes(spec)
    F, (MH, MW) = sizes.frequencies, (winograd_sizes(form)[1] for form in sizes.forms)
    blocks, tiles = split(spec.ocg, LANES), spec.n * sizes.tiles[0] * sizes.tiles[1]
    chunks = split(F * blocks * LANES * tiles * np.dtype(spec.dtype).itemsize, CHUNK_BYTES)
    chunks = max(1, min(chunks, tiles // 24))
    most = split(tiles, chunks)
    MR, NR = _register_tile(most)
    block_channels = min(256, max(32, BLOCK_TERMS // F // 16 * 16))
    columns_pitch, pixels = NR * LANES, split(MH * MW * most, LANES) * LANES
    u_plane, m_plane, pitch = block_channels * columns_pitch + LANES, most * columns_pitch + LANES, pixels + LANES
    m_at = F * u_plane
    out_at = m_at + F * m_plane
    rows_at = out_at + pixels * LANES
    scratch = rows_at + LANES * pitch
    shared = {
        **{"channels": spec.ocg, "blocks": blocks, "xh": spec.oh, "xw": spec.ow, "tiles": tiles},
        **{"first_h": sizes.first[0], "first_w": sizes.first[1], "tiles_h": sizes.tiles[0], "tiles_w": sizes.tiles[1]},
        "v_plane": (blocks * tiles + 1) * LANES,
    }
    channel = np.arange(block_channels)
    steps = np.stack([(channel // LANES * tiles * LANES) + channel % LANES, channel * columns_pitch], axis=1)
    vectors = columns.bases.size
    numbers = {
        **{"chunks": chunks, "vectors": vectors, "part_vectors": NR, "block_channels": block_channels},
        **{"w_channel": spec.icg * spec.taps, "y_planes": spec.icg, "yd": 1, "yh": spec.ih, "yw": spec.iw},
        **{"grid_d": 1, "grid_h": sizes.tiles[0] * MH, "grid_w": sizes.tiles[1] * MW},
        **{"up_d": 1, "up_h": spec.sh, "up_w": spec.sw, "shift_d": 0},
        **{"shift_h": spec.ph - sizes.first[0] * spec.sh, "shift_w": spec.pw - sizes.first[1] * spec.sw},
        **{"u_plane": u_plane, "m_plane": m_plane, "m_at": m_at, "out_at": out_at, "rows_at": rows_at, "pitch": pitch},
        **{"bases": columns.bases, "runs": columns.runs.ravel(), "places": columns.places.ravel()},
        "steps": steps.ravel(),
    }
    return (MR, NR), chunks * split(vectors, NR), shared, numbers, zeros(most, spec.dtype), scratch


def _source_size(spec):
    """Elements of the transformed source."""
    LANES, sizes = lanes(spec.dtype), _sizes(spec)
    tiles = spec.n * sizes.tiles[0] * sizes.tiles[1]
    return sizes.frequencies * (split(spec.ocg, LANES) * tiles + 1) * LANES


@implements("conv.bwd_data", rank=29)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_residues_winograd"

    @staticmethod
    def when(spec):
        if 0 in (spec.n, spec.ic, spec.oc, spec.in_pixels, spec.out_pixels):
            return "needs an image"
        if spec.g > 1 or max(spec.kd, spec.sd, spec.dd, spec.dh, spec.dw, spec.id) > 1:
            return "needs one group and a plane, not dilated"
        taps = [divmod(kernel, stride) for kernel, stride, *_ in _axes(spec)]
        if spec.sh * spec.sw == 1 or any(rest or whole not in FORMS for whole, rest in taps) or max(taps) == (1, 0):
            return "needs a kernel of 1, 2 or 4 strides"
        if spec.ic * spec.sh * spec.sw % lanes(spec.dtype) or not _columns(spec).alike:
            return "needs channels and classes that fill vectors"
        if _source_size(spec) * np.dtype(spec.dtype).itemsize > SOURCE_BYTES:
            return "needs a smaller source"
        return None

    @staticmethod
    def cost(spec):
        """The multiplications; the transforms of weights, for each run of tiles of pixels, of source and results."""
        LANES, columns, sizes = lanes(spec.dtype), _columns(spec), _sizes(spec)
        (MR, _), _, _, numbers, _, _ = _plan(spec)
        tiles, F, vectors = spec.n * sizes.tiles[0] * sizes.tiles[1], sizes.frequencies, columns.bases.size
        rows = numbers["chunks"] * split(split(tiles, numbers["chunks"]), MR) * MR
        products = F * spec.ocg * vectors * rows
        picks = PICK_CYCLES if columns.span else 3
        weights = numbers["chunks"] * spec.ocg * vectors * (F * WEIGHT_CYCLES + columns.places.shape[0] * picks)
        source = _source_size(spec) / LANES * SOURCE_CYCLES
        outputs = spec.n * spec.ic * spec.in_pixels / columns.run * RUN_CYCLES
        out = vectors * tiles * F * OUT_CYCLES
        return 2 * LANES * NANOSECONDS_PER_FLOP * (products + weights + source + outputs + out)

    @staticmethod
    def emit(spec, buffers):
        (MR, NR), tiles, shared, numbers, nothing, scratch = _plan(spec)
        LANES, columns, (FH, FW) = lanes(spec.dtype), _columns(spec), _sizes(spec).forms
        v = Temporary(_source_size(spec), spec.dtype)
        alpha = winograd_sizes(FH)[0] * winograd_sizes(FW)[0]
        first = Row(
            make_source(spec.dtype, FH, FW),
            spec.n * shared["blocks"],
            {"x": buffers["gy"], "v": v, **shared},
            v.size * SOURCE_CYCLES / 3,
            (spec.out_pixels + alpha) * LANES,
            ("v",),
        )
        body = make_product(spec.dtype, FH, FW, MR, NR, columns.span, columns.run)
        values = {"v": v, "w": buffers["w"], "zeros": nothing, "y": buffers["gx"]} | shared | numbers
        work = ConvBackwardData.cost(spec)
        return first, Row(body, tiles, values, work, scratch, ("v",))
