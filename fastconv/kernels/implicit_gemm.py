"""Convolution as a product with patches that are packed tile by tile: any kernel, stride, dilation, padding and groups.

gather   y[row, p] = sum over channels c and taps t of w[row, c, t] * x[c, p*step + offset(t)].  The forward pass, and the data gradient: with stride 1
         it is a gather with the taps turned round; with stride s the input pixels fall into residue classes, each a gather with its own taps
         and no multiplication by zero (Dumoulin and Visin, arXiv 1603.07285, section 4).
weights  gw[row, (c, t)] = sum over images and pixels p of gy[row, p] * x[c, p*step + offset(t)]: patches transposed, pixels as the inner dimension.

Sums are taken over blocks of at most BLOCK_K terms and the blocks added: the error of long sums shrinks, and the same terms are added in the same
order whatever the thread count.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .. import driver
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, isa, lanes, transpose_block
from .gemm import make_panel_product
from .patches import make_pack_row

GEOMETRY = "groups channels rows parts chunks pixels grid_d grid_h grid_w sd sh sw xd xh xw taps_count pitch "

GatherBlock = Block(
    "GatherBlock",
    {"x": None, "w": None, "bias": None, "y": None, "taps": "i8", "steps": "i8", "scratch": None},
    GEOMETRY + "block_channels block_taps w_row w_channel direct y_plane y_first y_d y_h y_w",
)
WeightsBlock = Block(
    "WeightsBlock",
    {"x": None, "gy": None, "gw": None, "zeros": None, "taps": "i8", "steps": "i8", "scratch": None},
    GEOMETRY + "images chunk_pixels k_part k_parts k_pitch",
)


@helper
def part_rows(a, part, MR):
    """The first row of a part and its number of rows: whole register tiles, and the rest in the last part."""
    tiles = a.rows // MR
    first = tiles * part // a.parts * MR
    return first, (a.rows if part == a.parts - 1 else tiles * (part + 1) // a.parts * MR) - first


@helper
def scatter_rows(a, c, rows, d, h, w, count, y, yi):
    """y[yi + row*y_plane + place of the grid point] = c[row*pitch + i] for `count` grid points from (d, h, w) on."""
    for row in range(rows):
        base, at = yi + row * a.y_plane, row * a.pitch
        i, dd, hh, ww = 0, d, h, w
        while i < count:
            run = min(a.grid_w - ww, count - i)
            place = base + dd * a.y_d + hh * a.y_h + ww * a.y_w
            for j in range(run):
                y[place + j * a.y_w] = c[at + i + j]
            i += run
            ww = 0
            hh += 1
            if hh == a.grid_h:
                hh = 0
                dd += 1


@lru_cache(maxsize=None)
def make_gather(dtype, MR, NR, STEP):
    """The gather for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    panel_product, pack_row = make_panel_product(MR, NR, LANES), make_pack_row(STEP, LANES)

    @tile_body(GatherBlock, dtype)
    def conv_gather_implicit_gemm(block, tile, worker):
        """Tile: (image, group, run of pixels, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, taps = array_at(a.bias, a.bias_size, KIND), array_at(a.taps, a.taps_size, "i8")
        steps = array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)

        part, chunk = tile % a.parts, tile // a.parts % a.chunks
        image_group = tile // (a.parts * a.chunks)
        group = image_group % a.groups
        vectors = (a.pixels + LANES - 1) // LANES
        p = vectors * chunk // a.chunks * LANES
        count = min(a.pixels, vectors * (chunk + 1) // a.chunks * LANES) - p
        d, h, w0 = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
        row, rows = part_rows(a, part, MR)
        x_first = image_group * a.channels * a.xd * a.xh * a.xw
        w_first = group * a.w_size // a.groups + row * a.w_row
        y_first = (image_group * a.rows + row) * a.y_plane + a.y_first
        panel_size = a.block_channels * a.block_taps * a.pitch + LANES
        for c0 in range(0, a.channels, a.block_channels):
            channels = min(a.block_channels, a.channels - c0)
            for t0 in range(0, a.taps_count, a.block_taps):
                t1 = min(t0 + a.block_taps, a.taps_count)
                for c in range(channels):
                    plane = x_first + (c0 + c) * a.xd * a.xh * a.xw
                    for t in range(t0, t1):
                        at = (c * (t1 - t0) + t - t0) * a.pitch
                        pack_row(
                            *(a, x, plane, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], d, h, w0, count, scratch, at)
                        )
                wa, add = w_first + c0 * a.w_channel, c0 + t0 > 0
                last = t0 + channels * (t1 - t0)
                if a.direct:
                    panel_product(
                        *(w, wa, a.w_row, rows, scratch, -t0 * a.pitch, count, steps, t0, last),
                        *(y, y_first + p, a.y_plane, bias, group * a.rows + row, add),
                    )
                else:
                    panel_product(
                        *(w, wa, a.w_row, rows, scratch, -t0 * a.pitch, count, steps, t0, last),
                        *(scratch, panel_size, a.pitch, bias, group * a.rows + row, add),
                    )
        if not a.direct:
            scatter_rows(a, scratch[panel_size:], rows, d, h, w0, count, y, y_first)

    return conv_gather_implicit_gemm


@lru_cache(maxsize=None)
def make_weights(dtype, MR, NR, STEP):
    """The weight gradient for a register tile of MR x NR vectors and a column step (0: any)."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    panel_product, pack_row = make_panel_product(MR, NR, LANES), make_pack_row(STEP, LANES)

    @helper
    def pack_transposed(a, taps, x, image, k0, count_k, d, h, w, count, panel, temporary):
        """panel[p*k_pitch + k] = patch value of pixel p under k = (channel, tap), LANES of k at a time by way of `temporary`."""
        row_pitch = a.pitch
        for k in range(0, count_k, LANES):
            for lane in range(min(LANES, count_k - k)):
                c, t = (k0 + k + lane) // a.taps_count, (k0 + k + lane) % a.taps_count
                plane = image + c * a.xd * a.xh * a.xw
                pack_row(
                    *(a, x, plane, taps[3 * t], taps[3 * t + 1], taps[3 * t + 2], d, h, w, count),
                    *(temporary, lane * row_pitch),
                )
            for p in range(0, count, LANES):
                transpose_block(temporary, p, row_pitch, panel, p * a.k_pitch + k, a.k_pitch)

    @tile_body(WeightsBlock, dtype)
    def conv_bwd_weights_implicit_gemm(block, tile, worker):
        """Tile: (group, part of the (input channel, tap) pairs, part of the output channels); sums over images and pixels in order."""
        a = fields(block)
        x, gy, gw = array_at(a.x, a.x_size, KIND), array_at(a.gy, a.gy_size, KIND), array_at(a.gw, a.gw_size, KIND)
        zeros, taps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.taps, a.taps_size, "i8")
        steps = array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        panel = scratch[LANES * a.pitch + LANES :]

        part, k_part, group = tile % a.parts, tile // a.parts % a.k_parts, tile // (a.parts * a.k_parts)
        row, rows = part_rows(a, part, MR)
        k_size = a.channels * a.taps_count
        k0 = k_part * a.k_part
        count_k = min(a.k_part, k_size - k0)
        out = (group * a.rows + row) * k_size + k0
        add = False
        for n in range(a.images):
            image = (n * a.groups + group) * a.channels * a.xd * a.xh * a.xw
            gradient = ((n * a.groups + group) * a.rows + row) * a.pixels
            for p in range(0, a.pixels, a.chunk_pixels):
                count = min(a.chunk_pixels, a.pixels - p)
                d, h, w = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
                pack_transposed(a, taps, x, image, k0, count_k, d, h, w, count, panel, scratch)
                panel_product(
                    *(gy, gradient + p, a.pixels, rows, panel, 0, count_k, steps, 0, count),
                    *(gw, out, k_size, zeros, row, add),
                )
                add = True

    return conv_bwd_weights_implicit_gemm


# ---- programs

BLOCK_K = 128  # terms of one sum: a panel of BLOCK_K x 3 vectors stays in a first-level cache of 32 KB
CHUNK_VECTORS = 12  # vectors of pixels in a panel
CHUNK_PIXELS = 256  # pixels in a panel of the weight gradient
PART_K = 384  # (channel, tap) pairs in a panel of the weight gradient
NANOSECONDS_PER_FLOP = 1 / 100


def _odd(vectors):
    """An odd number of vectors: rows of a panel then fall on all sets of a cache, not on a few."""
    return vectors | 1


def _geometry(source, grid, step, taps, direct=True):
    """The fields of a gather from `source` (d, h, w) on `grid`; one flat row where the taps allow it and the output is contiguous."""
    if direct and source == grid and step == (1, 1, 1) and (taps[:, :3] == 0).all():
        source = grid = (1, 1, grid[0] * grid[1] * grid[2])
    names = ("xd", "xh", "xw", "grid_d", "grid_h", "grid_w", "sd", "sh", "sw")
    return dict(zip(names, source + grid + step, strict=True))


def _column_step(step):
    return step if step in (1, 2) else 0


@lru_cache(maxsize=1024)
def _zeros(size, dtype):
    return np.zeros(size, dtype)


def _split(size, most):
    """How many parts a size is split into so that none is larger than `most`."""
    return max(1, -(-size // most))


@lru_cache(maxsize=1024)
def _axis_taps(kernel, stride, padding, dilation, size, grid, residue=None):
    """(tap, offset) along one axis, without taps that only ever see padding; with a residue, those of its class of the data gradient."""
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


def _tap_table(spec, axes):
    """Rows (offset d, h, w, index of the tap in the weights) for the taps of three axes."""
    rows = [
        (od, oh, ow, (kd * spec.kh + kh) * spec.kw + kw)
        for kd, od in axes[0]
        for kh, oh in axes[1]
        for kw, ow in axes[2]
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


@lru_cache(maxsize=1024)
def _gather_plan(spec, forward, residue, threads):
    """Everything of a gather but its buffers: (body, tiles, numbers, taps, steps, work, scratch); None where no tap contributes."""
    kernel, stride = (spec.kd, spec.kh, spec.kw), (spec.sd, spec.sh, spec.sw)
    padding, dilation = (spec.pd, spec.ph, spec.pw), (spec.dd, spec.dh, spec.dw)
    inside, outside = (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow)
    if forward:
        source, grid, step, residue = inside, outside, stride, (None,) * 3
        rows, channels, w_row, w_channel = spec.ocg, spec.icg, spec.icg * spec.taps, spec.taps
    else:
        source, step = outside, (1, 1, 1)
        grid = tuple(-(-(size - r) // s) for size, r, s in zip(inside, residue, stride, strict=True))
        rows, channels, w_row, w_channel = spec.icg, spec.ocg, spec.taps, spec.icg * spec.taps
    axes = [_axis_taps(*axis) for axis in zip(kernel, stride, padding, dilation, source, grid, residue, strict=True)]
    table = _tap_table(spec, axes)
    taps, pixels, images = len(table), grid[0] * grid[1] * grid[2], spec.n * spec.g
    if 0 in (taps, channels, rows, pixels, images):
        return None
    LANES = lanes(spec.dtype)
    MR, NR = isa.tile(rows)
    vectors = -(-pixels // LANES)
    chunks = max(1, round(vectors / CHUNK_VECTORS))
    chunks = max(chunks, _split(vectors, 2 * CHUNK_VECTORS))
    parts = min(rows // MR, _split(2 * threads, images * chunks)) if threads > 1 else 1
    block_taps = min(taps, BLOCK_K)
    block_channels = min(channels, max(1, BLOCK_K // block_taps))
    pitch = _odd(-(-vectors // chunks)) * LANES
    out_h, out_w = (outside if forward else inside)[1:]
    y_step = (1, 1, 1) if forward else stride
    y_d, y_h, y_w = y_step[0] * out_h * out_w, y_step[1] * out_w, y_step[2]
    direct = y_step == (1, 1, 1)
    numbers = dict(
        groups=spec.g,
        channels=channels,
        rows=rows,
        parts=parts,
        chunks=chunks,
        pixels=pixels,
        taps_count=taps,
        pitch=pitch,
        block_channels=block_channels,
        block_taps=block_taps,
        w_row=w_row,
        w_channel=w_channel,
        direct=int(direct),
        y_plane=spec.out_pixels if forward else spec.in_pixels,
        y_first=0 if forward else (residue[0] * out_h + residue[1]) * out_w + residue[2],
        y_d=y_d,
        y_h=y_h,
        y_w=y_w,
        **_geometry(source, grid, step, table, direct),
    )
    w_steps = (np.arange(block_channels)[:, None] * w_channel + table[:, 3]).ravel()
    steps = np.stack([w_steps, np.arange(w_steps.size) * pitch], axis=1).ravel()
    scratch = block_channels * block_taps * pitch + 2 * LANES
    if not direct:
        scratch += rows * pitch
    body = make_gather(spec.dtype, MR, NR, _column_step(step[2]))
    work = 2 * images * rows * pixels * channels * taps * NANOSECONDS_PER_FLOP
    return body, images * chunks * parts, numbers, np.ascontiguousarray(table[:, :3]).ravel(), steps, work, scratch


def _gather_row(plan, x, w, bias, y):
    body, tiles, numbers, taps, steps, work, scratch = plan
    return Row(body, tiles, {"x": x, "w": w, "bias": bias, "y": y, "taps": taps, "steps": steps, **numbers}, work, scratch)


def _cost(spec, rows):
    """Arithmetic at the direct limit, and every patch value packed for `rows` output channels at about a fifth of a product's cost."""
    return spec.flops() * NANOSECONDS_PER_FLOP * (1 + 4 / max(1, rows))


@implements("conv.fwd", rank=50)
class ConvForward(Impl):
    name = "conv_fwd_implicit_gemm"

    @staticmethod
    def cost(spec):
        return _cost(spec, spec.ocg)

    @staticmethod
    def emit(spec, buffers):
        plan = _gather_plan(spec, True, None, driver.get_num_threads())
        bias = buffers.get("b")
        if bias is None:
            bias = _zeros(spec.oc, spec.dtype)
        if plan is None:
            buffers["y"].reshape(spec.n, spec.oc, spec.out_pixels)[...] = bias[:, None]
            return ()
        return (_gather_row(plan, buffers["x"], buffers["w"], bias, buffers["y"]),)


@implements("conv.bwd_data", rank=50)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_implicit_gemm"

    @staticmethod
    def cost(spec):
        return _cost(spec, spec.icg)

    @staticmethod
    def emit(spec, buffers):
        residues = [
            (rd, rh, rw)
            for rd in range(min(spec.sd, spec.id))
            for rh in range(min(spec.sh, spec.ih))
            for rw in range(min(spec.sw, spec.iw))
        ]
        plans = [_gather_plan(spec, False, residue, driver.get_num_threads()) for residue in residues]
        if any(plan is None for plan in plans) or not plans:
            buffers["gx"][...] = 0  # some input pixels touch no output
        bias = _zeros(spec.ic, spec.dtype)
        return tuple(_gather_row(plan, buffers["gy"], buffers["w"], bias, buffers["gx"]) for plan in plans if plan)


@lru_cache(maxsize=1024)
def _weights_plan(spec, threads):
    kernel, stride = (spec.kd, spec.kh, spec.kw), (spec.sd, spec.sh, spec.sw)
    padding, dilation = (spec.pd, spec.ph, spec.pw), (spec.dd, spec.dh, spec.dw)
    source, grid = (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow)
    axes = [
        [(i, i * d - p) for i in range(k)] for k, p, d in zip(kernel, padding, dilation, strict=True)
    ]
    table = _tap_table(spec, axes)
    LANES = lanes(spec.dtype)
    MR, NR = isa.tile(spec.ocg)
    k_size = spec.icg * spec.taps
    k_parts = _split(k_size, PART_K)
    if threads > 1:
        k_parts = max(k_parts, min(_split(2 * threads, spec.g), _split(k_size, 2 * NR * LANES)))
    k_part = -(-_split(k_size, k_parts) // (NR * LANES)) * NR * LANES
    k_parts = _split(k_size, k_part)
    parts = min(spec.ocg // MR, _split(threads, spec.g * k_parts)) if threads > 1 else 1
    k_pitch = _odd(-(-min(k_part, k_size) // LANES)) * LANES
    chunk = min(CHUNK_PIXELS, spec.out_pixels)
    pitch = _odd(-(-chunk // LANES)) * LANES
    numbers = dict(
        groups=spec.g,
        channels=spec.icg,
        rows=spec.ocg,
        parts=parts,
        chunks=1,
        pixels=spec.out_pixels,
        taps_count=spec.taps,
        pitch=pitch,
        images=spec.n,
        chunk_pixels=CHUNK_PIXELS,
        k_part=k_part,
        k_parts=k_parts,
        k_pitch=k_pitch,
        **_geometry(source, grid, stride, table),
    )
    scratch = LANES * pitch + 2 * LANES + pitch * k_pitch
    body = make_weights(spec.dtype, MR, NR, _column_step(spec.sw))
    work = spec.flops() * NANOSECONDS_PER_FLOP
    steps = np.stack([np.arange(chunk), np.arange(chunk) * k_pitch], axis=1).ravel()
    return body, spec.g * k_parts * parts, numbers, np.ascontiguousarray(table[:, :3]).ravel(), steps, work, scratch


@implements("conv.bwd_weights", rank=50)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_implicit_gemm"

    @staticmethod
    def cost(spec):
        return _cost(spec, spec.ocg)

    @staticmethod
    def emit(spec, buffers):
        if 0 in (spec.n, spec.out_pixels, spec.ic, spec.oc):
            buffers["gw"][...] = 0
            return ()
        body, tiles, numbers, taps, steps, work, scratch = _weights_plan(spec, driver.get_num_threads())
        values = {"x": buffers["x"], "gy": buffers["gy"], "gw": buffers["gw"], "zeros": _zeros(spec.oc, spec.dtype)}
        return (Row(body, tiles, {**values, "taps": taps, "steps": steps, **numbers}, work, scratch),)
