"""Pointwise (1x1) convolution as a product with the image as it lies: a channel of the image is a row of the second
operand, its pixels are the columns, so nothing is copied but the weights of one strip and the last pixels of an image.

With a stride the pixels that are seen are copied side by side first; everything else is the same.  The data gradient
is the same product with the weights turned round.
"""

from functools import cache, lru_cache

import numpy as np

from .. import driver
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..packing import strips
from ..simd import array_at, fields, isa, lanes, load_vector, load_window, store_vector, transpose_block
from ..simd_vector import add_vector, fma_vector, splat_vector, store_window
from ..specs import NO_EPILOGUE
from .fill import fill_row
from .gathers import (
    GATHER_REALS,
    GEOMETRY_NUMBERS,
    NANOSECONDS_PER_FLOP,
    column_step,
    split,
    zeros,
)
from .gemm import BIAS, BOTH, OLD, make_strip_product, part_rows
from .patches import make_pack_row

FEW = 4  # pixels that are not worth a vector of their own

PointwiseBlock = Block(
    "PointwiseBlock",
    {"x": None, "w": None, "bias": None, "y": None, "steps": "i8", "scratch": None},
    GEOMETRY_NUMBERS + "runs run pixels block_k pitch packed w_row w_channel start",
    GATHER_REALS,
)


@cache
def make_load_strips(LANES):
    """Bringing the weights of LANES rows to the first-level cache."""

    @helper
    def load_strips(w, first, w_row, w_channel, count, panel):
        """panel[k*LANES + m] = w[first + m*w_row + k*w_channel] for k < count and m < LANES, 0 beyond the end of w."""
        for k in range(0, count, LANES):
            block, depth = first + k * w_channel, min(LANES, count - k)
            inside = block + (LANES - 1) * (w_row + w_channel) < w.size
            if w_channel == 1 and inside:
                transpose_block(w, block, w_row, panel, k * LANES, LANES)
            elif w_row == 1 and inside:
                for j in range(depth):
                    store_vector(load_vector(w, block + j * w_channel), panel, (k + j) * LANES)
            else:
                for j in range(depth):
                    at = block + j * w_channel
                    values = load_window(w, at, w_row, 0, (w.size - 1 - at) // w_row + 1, 0)
                    store_vector(values, panel, (k + j) * LANES)

    return load_strips


@cache
def make_load_pixels(STEP, LANES):
    """Bringing the pixels of a run that can't be read as they lie to a panel: all of them, or, where STEP is None, the
    last ones, which fill no vector."""
    pack_row = make_pack_row(STEP or 0, LANES)

    @helper
    def load_strided(a, x, image, p, count, depth, panel):
        """panel[k*pitch + j] = pixel p + j of the grid in channel k."""
        d, h, col = p // (a.grid_h * a.grid_w), p // a.grid_w % a.grid_h, p % a.grid_w
        for k in range(depth):
            plane = image + k * (a.xd * a.xh * a.xw)
            pack_row(a, x, plane, 0, 0, 0, d, h, col, count, panel, k * a.pitch)

    @helper
    def load_tail(a, x, image, p, count, depth, panel):
        """panel[k*pitch + j] = x[image + k*pixels + p + j] for the last count % LANES pixels j; pitch: FEW if they are
        no more, else LANES."""
        rest = count % LANES
        if rest:
            pitch = FEW if rest <= FEW else LANES
            for k in range(depth):
                values = load_window(x, image + k * a.pixels + p + count - rest, 1, 0, rest, 1)
                store_window(values, panel, k * pitch, pitch)

    return load_tail if STEP is None else load_strided


@cache
def make_few_product(dtype, MR):
    """The product for the last pixels of an image, FEW at most: lanes are its MR channels, so that no lane is idle."""
    FLOAT = np.dtype(dtype).type

    @helper
    def one_sum(w, wi, pitch, panel, depth):
        """The sum for the first pixel: four parts, so that additions need not wait for each other."""
        zero = splat_vector(w, FLOAT(0))
        s0, s1, s2, s3 = zero, zero, zero, zero
        k, last = 0, depth // 4 * 4
        while k < last:
            at = wi + k * pitch
            s0 = fma_vector(load_window(w, at, 1, 0, MR, 1), splat_vector(w, panel[k * FEW]), s0)
            s1 = fma_vector(load_window(w, at + pitch, 1, 0, MR, 1), splat_vector(w, panel[(k + 1) * FEW]), s1)
            s2 = fma_vector(load_window(w, at + 2 * pitch, 1, 0, MR, 1), splat_vector(w, panel[(k + 2) * FEW]), s2)
            s3 = fma_vector(load_window(w, at + 3 * pitch, 1, 0, MR, 1), splat_vector(w, panel[(k + 3) * FEW]), s3)
            k += 4
        for j in range(last, depth):
            s0 = fma_vector(load_window(w, wi + j * pitch, 1, 0, MR, 1), splat_vector(w, panel[j * FEW]), s0)
        return add_vector(add_vector(s0, s1), add_vector(s2, s3))

    @helper
    def four_sums(w, wi, pitch, panel, depth):
        """The sums for FEW pixels."""
        zero = splat_vector(w, FLOAT(0))
        s0, s1, s2, s3 = zero, zero, zero, zero
        for k in range(depth):
            weights = load_window(w, wi + k * pitch, 1, 0, MR, 1)
            s0 = fma_vector(weights, splat_vector(w, panel[k * FEW]), s0)
            s1 = fma_vector(weights, splat_vector(w, panel[k * FEW + 1]), s1)
            s2 = fma_vector(weights, splat_vector(w, panel[k * FEW + 2]), s2)
            s3 = fma_vector(weights, splat_vector(w, panel[k * FEW + 3]), s3)
        return s0, s1, s2, s3

    @helper
    def few_product(w, wi, pitch, panel, count, depth, sums, y, yi, y_row, bias, o, skip, add, low, high):
        """y[yi + m*y_row + j] = sum over k < depth of w[wi + k*pitch + m] * panel[k*FEW + j], for skip <= m < MR and
        j < count <= FEW; add, low, high as in `make_product`; sums: room for FEW vectors."""
        lanes_of = sums.size // FEW
        if count == 1:
            store_vector(one_sum(w, wi, pitch, panel, depth), sums, 0)
        else:
            s0, s1, s2, s3 = four_sums(w, wi, pitch, panel, depth)
            store_vector(s0, sums, 0)
            store_vector(s1, sums, lanes_of)
            store_vector(s2, sums, 2 * lanes_of)
            store_vector(s3, sums, 3 * lanes_of)
        least, most = FLOAT(low), FLOAT(high)
        for m in range(skip, MR):
            term = FLOAT(0) if add == OLD else bias[o + m]
            for j in range(count):
                value, at = sums[j * lanes_of + m] + term, yi + m * y_row + j
                if add != BIAS:
                    value += y[at]
                value = least if value < least else value  # NaN is neither below nor above, and stays
                y[at] = most if value > most else value

    return few_product


@cache
def make_image_strip(dtype, MR, NR, LANES):
    """The product of MR rows of weights with a run of an image as it lies, and with its last pixels in a panel."""
    strip_product, tail_product = make_strip_product(MR, NR, LANES), make_strip_product(MR, 1, LANES)
    few_product = make_few_product(dtype, MR)

    @helper
    def image_strip(a, w, wi, x, xi, panel, count, steps, depth, sums, y, yi, bias, o, skip, add, low, high):
        whole = count // LANES * LANES  # the rest of the last vector would reach beyond the image
        strip_product(
            *(w, wi, 1, x, xi, whole, steps, 0, depth),
            *(y, yi, a.pixels, bias, o, skip, add, low, high),
        )
        if 0 < count - whole <= FEW:
            pitch = MR if a.packed else LANES
            few_product(
                *(w, wi, pitch, panel, count - whole, depth, sums),
                *(y, yi + whole, a.pixels, bias, o, skip, add, low, high),
            )
        elif whole < count:
            tail_product(
                *(w, wi, 1, panel, 0, count - whole, steps, a.block_k, a.block_k + depth),
                *(y, yi + whole, a.pixels, bias, o, skip, add, low, high),
            )

    return image_strip


@cache
def make_pointwise(dtype, MR, NR, STEP):
    """The kernel for a register tile of MR x NR vectors; STEP: None to read the image as it lies, else the column step
    (0: any) of the pixels that are copied."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    COPIED = STEP is not None
    strip_product, image_strip = make_strip_product(MR, NR, LANES), make_image_strip(dtype, MR, NR, LANES)
    load_strips, load_pixels = make_load_strips(LANES), make_load_pixels(STEP, LANES)
    BLOCK_ROWS = LANES // MR * MR

    @tile_body(PointwiseBlock, dtype)
    def conv_pointwise(block, tile, worker):
        """Tile: (image, group, run of pixels, part of the output channels)."""
        a = fields(block)
        x, w, y = array_at(a.x, a.x_size, KIND), array_at(a.w, a.w_size, KIND), array_at(a.y, a.y_size, KIND)
        bias, steps = array_at(a.bias, a.bias_size, KIND), array_at(a.steps, a.steps_size, "i8")
        weights = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        sums = weights[(a.block_k + LANES) * LANES :]
        sums, panel = sums[: FEW * LANES], sums[FEW * LANES :]

        part, rest = tile % a.parts, tile // a.parts
        p, image_group = rest % a.runs * a.run, rest // a.runs
        group, count = image_group % a.groups, min(a.run, a.pixels - p)
        first, rows = part_rows(a, part, MR)
        w_group, plane = group * (a.w_size // a.groups), a.xd * a.xh * a.xw
        y_first = (image_group * a.rows + first) * a.pixels + p
        for k0 in range(0, a.channels, a.block_k):
            depth, image = min(a.block_k, a.channels - k0), (image_group * a.channels + k0) * plane
            add = OLD if k0 else a.start
            low, high = (a.low, a.high) if k0 + depth == a.channels else (-np.inf, np.inf)
            load_pixels(a, x, image, p, count, depth, panel)
            base = 0
            for m in range(0, rows, MR):  # the last strip overlaps the one before it and skips the rows that are done
                top = min(m, rows - MR)
                if a.packed:
                    left, at = w, w_group + ((first + m) // MR * a.channels + k0) * MR
                else:
                    if m % BLOCK_ROWS == 0:
                        base = top
                        source = w_group + (first + base) * a.w_row + k0 * a.w_channel
                        load_strips(w, source, a.w_row, a.w_channel, depth, weights)
                    left, at = weights, top - base
                out, o, done = y_first + top * a.pixels, group * a.rows + first + top, m - top
                if COPIED:
                    strip_product(
                        *(left, at, 1, panel, 0, count, steps, 0, depth),
                        *(y, out, a.pixels, bias, o, done, add, low, high),
                    )
                else:
                    image_strip(
                        *(a, left, at, x, image + p, panel, count, steps, depth, sums),
                        *(y, out, bias, o, done, add, low, high),
                    )

    return conv_pointwise


# ---- programs

FEW_CYCLES = 40  # to begin and end the product of the last pixels, and for each of them
BLOCK_K = 256  # terms of one sum
PANEL_BYTES = 3 << 17  # of the image under one run of pixels: what a second-level cache of 1 MB keeps beside the output
CALL_CYCLES = 60  # to begin and end one register tile
WEIGHT_CYCLES = 0.5  # to bring one weight to the first-level cache
PEAK_SHARE = 0.87  # NANOSECONDS_PER_FLOP includes losses that are counted here one by one
COPY_CYCLES = 6  # to copy one vector of pixels


def _width(height):
    """Vectors of pixels beside `height` channels: the sums, the vectors and one broadcast must fit the registers."""
    return min(8, (isa.registers - 1) // (height + 1))


def _cycles(height, width):
    """Cycles of one step of a register tile: its products, its loads, or the wait for four additions."""
    return max(height * width, height + width + 2, 8)


@lru_cache(maxsize=256)
def tile_height(rows, most):
    """Channels of a register tile, at most `most`: the height that leaves the least over.  It must not depend on the
    image: layers keep weights packed for it."""
    heights = [height for height in (8, 6, 10, 5, 7, 4, 3, 2, 1) if height <= min(rows, most) and _width(height)]
    return min(heights, key=lambda height: split(rows, height) * _cycles(height, _width(height)) / _width(height))


def _refusal(spec):
    if spec.taps > 1:
        return f"needs a 1x1 kernel, has {spec.kd}x{spec.kh}x{spec.kw}"
    sizes = (
        (spec.id, spec.od, spec.sd, spec.pd),
        (spec.ih, spec.oh, spec.sh, spec.ph),
        (spec.iw, spec.ow, spec.sw, spec.pw),
    )
    if any(before or (out - 1) * stride >= max(size, 1) for size, out, stride, before in sizes):
        return "needs no padding"
    return None


def _strided(spec):
    return max(spec.sd, spec.sh, spec.sw) > 1


@lru_cache(maxsize=1024)
def _plan(spec, backward, packed, threads):
    """(body, tiles, numbers and tables, scratch) of the forward pass or, `backward`, of the data gradient."""
    LANES, itemsize = lanes(spec.dtype), np.dtype(spec.dtype).itemsize
    rows, channels = (spec.icg, spec.ocg) if backward else (spec.ocg, spec.icg)
    MR, copied = tile_height(rows, LANES), _strided(spec)
    block_k = split(channels, split(channels, BLOCK_K))
    vectors = split(spec.out_pixels, LANES)
    NR = _width(MR)
    runs = split(vectors * LANES * block_k * itemsize, PANEL_BYTES)
    run = split(split(vectors, runs), NR) * NR * LANES
    runs = split(spec.out_pixels, run)
    tiles = spec.n * spec.g * runs
    parts = max(1, min(rows // MR, split(4 * threads, tiles))) if threads > 1 else 1  # small ones, for even shares
    pitch = (run // LANES | 1) * LANES if copied else spec.in_pixels
    k = np.arange(block_k)
    left = k * (MR if packed else LANES)
    steps = np.concatenate([np.stack([left, k * pitch], axis=1), np.stack([left, k * LANES], axis=1)]).ravel()
    names = ("xd", "xh", "xw", "grid_d", "grid_h", "grid_w", "sd", "sh", "sw")
    sizes = (spec.id, spec.ih, spec.iw, spec.od, spec.oh, spec.ow, spec.sd, spec.sh, spec.sw)
    values = {
        **dict(zip(names, sizes, strict=True)),
        **{"groups": spec.g, "rows": rows, "channels": channels, "parts": parts, "runs": runs, "run": run},
        **{"pixels": spec.out_pixels, "block_k": block_k, "pitch": pitch, "packed": int(packed), "steps": steps},
        **{"w_row": 1 if backward else spec.icg, "w_channel": spec.icg if backward else 1},
    }
    scratch = (block_k + LANES + FEW) * LANES + block_k * (pitch if copied else LANES) + LANES
    body = make_pointwise(spec.dtype, MR, NR, column_step(spec.sw) if copied else None)
    return body, tiles * parts, values, scratch


def _emit(spec, backward, x, w, bias, y, packed=None, epilogue=NO_EPILOGUE):
    size, channels = (spec.ic, spec.oc) if backward else (spec.oc, spec.ic)
    if bias is None:
        bias = zeros(size, spec.dtype)
    if 0 in (spec.n, size, channels, spec.out_pixels):
        return (fill_row(y, spec.n * size, bias, epilogue),)
    body, tiles, values, scratch = _plan(spec, backward, packed is not None, driver.get_num_threads())
    arrays = {"x": x, "w": w if packed is None else packed, "bias": bias, "y": y}
    ends = {"low": epilogue.low, "high": epilogue.high, "start": BOTH if epilogue.accumulate else BIAS}
    return (Row(body, tiles, {**values, **arrays, **ends}, spec.flops() * NANOSECONDS_PER_FLOP, scratch),)


def _cost(spec, backward):
    """The multiplications, with the lanes and rows that register tiles waste, the start of each tile, and the copies of
    weights and of strided pixels."""
    rows, channels = (spec.icg, spec.ocg) if backward else (spec.ocg, spec.icg)
    if 0 in (spec.n, rows, channels, spec.out_pixels):
        return 0.0
    LANES = lanes(spec.dtype)
    MR = tile_height(rows, LANES)
    vectors = split(spec.out_pixels, LANES)
    NR = _width(MR)
    whole = spec.out_pixels // LANES
    wide, narrow = whole // NR, whole % NR + vectors - whole
    step, begun = wide * _cycles(MR, NR) + narrow * max(MR, 8), (wide + narrow) * CALL_CYCLES
    rest = spec.out_pixels % LANES
    if 0 < rest <= FEW and not _strided(spec):
        step += (1.5 if rest == 1 else 4.5) - max(MR, 8)
        begun += FEW_CYCLES * (rest + 1) - CALL_CYCLES
    calls = begun * split(channels, BLOCK_K)
    copies = COPY_CYCLES * vectors if _strided(spec) else COPY_CYCLES * (vectors - whole)
    cycles = split(rows, MR) * (channels * step + calls) + channels * (copies + WEIGHT_CYCLES * rows)
    return spec.n * spec.g * cycles * 2 * LANES * NANOSECONDS_PER_FLOP * PEAK_SHARE


@implements("conv.fwd", rank=35)
class ConvForward(Impl):
    name = "conv_fwd_pointwise"
    epilogue = True

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(spec, False)

    @staticmethod
    def pack(spec, weight):
        return strips(weight, spec.g, tile_height(spec.ocg, lanes(spec.dtype))) if weight.size else None

    @staticmethod
    def emit(spec, buffers):
        packed, epilogue = buffers.get("packed"), buffers.get("epilogue", NO_EPILOGUE)
        return _emit(spec, False, buffers["x"], buffers["w"], buffers.get("b"), buffers["y"], packed, epilogue)


@implements("conv.bwd_data", rank=35)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_pointwise"

    @staticmethod
    def when(spec):
        return "needs stride 1" if _strided(spec) else _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(spec, True)

    @staticmethod
    def emit(spec, buffers):
        return _emit(spec, True, buffers["gy"], buffers["w"], None, buffers["gx"])
