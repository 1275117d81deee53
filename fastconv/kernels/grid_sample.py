"""Sampling of images at the points of a grid: forward, gradient of the image, gradient of the grid.

Every output point is a weighted sum of taps (`grid_taps.py`).  With many channels the image is laid out in blocks of
LANES channels, (block, pixel, lane), so that a tap is one vector for all of them and nothing is gathered; the pixel
after the last is zero and stands for all that lies outside.  With few channels the lanes are points, and taps are
gathered from the image as it lies.
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector, transpose_block, zero_vector
from ..simd_vector import fma_vector, gather_places, mul_vector, splat_vector, store_window, sum_vector
from .grid_taps import CHUNK, NEAREST, SCRATCH_BYTES, make_taps

LayoutBlock = Block("GridLayout", "first last scratch", "channels pixels spare blocks chunks")
_TABLES = {"at": "i8", "w": None, "dw": None}
SampleBlock = Block(
    "GridSample",
    {"x": None, "y": None, "grid": None, **_TABLES, "scratch": None},
    "axes channels pixels spare points chunks blocks taps",
)
RUN = 1024  # pixels that a tile of the layout moves


# ---- blocks of channels


@cache
def make_rows(dtype):
    """Blocks of LANES x LANES values between an array with pixels innermost and one with channels innermost."""
    LANES = lanes(dtype)

    @helper
    def take_block(first, one, pixels, channels, count, last, other, s):
        """last[other + j*LANES + i] = first[one + i*pixels + j]; 0 for i >= channels or j >= count."""
        if channels >= LANES and count >= LANES:
            transpose_block(first, one, pixels, last, other, LANES)
        else:
            for i in range(LANES):
                if i < channels:
                    store_vector(load_window(first, one + i * pixels, 1, 0, min(count, LANES), 1), s, i * LANES)
                else:
                    zero_vector(s, i * LANES)
            transpose_block(s, 0, LANES, last, other, LANES)

    @helper
    def give_block(last, other, first, one, pixels, channels, count, s):
        """first[one + i*pixels + j] = last[other + j*LANES + i] for i < channels and j < count."""
        if channels >= LANES and count >= LANES:
            transpose_block(last, other, LANES, first, one, pixels)
        else:
            transpose_block(last, other, LANES, s, 0, LANES)
            for i in range(min(channels, LANES)):
                store_window(load_vector(s, i * LANES), first, one + i * pixels, count)

    return take_block, give_block


@cache
def make_layout(dtype):
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    take_block, _ = make_rows(dtype)

    @tile_body(LayoutBlock, dtype)
    def grid_sample_layout(block, tile, worker):
        """last[n, b, p, i] = first[n, b*LANES + i, p], 0 beyond.  Tile: (image, block, run of pixels)."""
        a = fields(block)
        first, last = array_at(a.first, a.first_size, KIND), array_at(a.last, a.last_size, KIND)
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        nb, start = tile // a.chunks, tile % a.chunks * RUN
        n, c = nb // a.blocks, nb % a.blocks * LANES
        for p in range(start, min(start + RUN, a.spare), LANES):
            one, other = (n * a.channels + c) * a.pixels + p, (nb * a.spare + p) * LANES
            take_block(first, one, a.pixels, a.channels - c, a.pixels - p, last, other, s)

    return grid_sample_layout


@cache
def make_forward(dtype):
    """The image at the points, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    _, give_block = make_rows(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_fwd_blocks(block, tile, worker):
        """y[n, c, p] = the sum of the taps of point p.  Tile: (image, block of channels, run of points)."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at = array_at(a.at, a.at_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        nb, chunk = tile // a.chunks, tile % a.chunks
        n, c, size = nb // a.blocks, nb % a.blocks * LANES, a.taps * CHUNK
        image, table = nb * a.spare * LANES, (n * a.chunks + chunk) * size
        count = min(CHUNK, a.points - chunk * CHUNK)
        for p in range(0, count, LANES):
            for q in range(min(LANES, count - p)):
                k = table + p + q
                total = mul_vector(splat_vector(x, w[k]), load_vector(x, image + at[k] * LANES))
                for k in range(table + p + q + CHUNK, table + size, CHUNK):
                    total = fma_vector(splat_vector(x, w[k]), load_vector(x, image + at[k] * LANES), total)
                store_vector(total, s, q * LANES)
            one = (n * a.channels + c) * a.points + chunk * CHUNK + p
            give_block(s, 0, y, one, a.points, a.channels - c, count - p, s[LANES * LANES :])

    return grid_sample_fwd_blocks


@cache
def make_input(dtype):
    """The gradient of the image, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    take_block, give_block = make_rows(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_input_blocks(block, tile, worker):
        """x[n, c, at] += w y[n, c, p], point by point.  Tile: (image, block of channels), whole planes."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at = array_at(a.at, a.at_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        image, rows, s = scratch[: a.spare * LANES], scratch[a.spare * LANES :], scratch[(a.spare + LANES) * LANES :]
        n, c = tile // a.blocks, tile % a.blocks * LANES
        for p in range(0, a.spare * LANES, LANES):
            zero_vector(image, p)
        for start in range(0, a.points, LANES):
            count, first = min(LANES, a.points - start), start // CHUNK * CHUNK
            one = (n * a.channels + c) * a.points + start
            take_block(y, one, a.points, a.channels - c, count, rows, 0, s)
            table = (n * a.chunks * CHUNK + first) * a.taps + start - first
            for q in range(count):
                value = load_vector(rows, q * LANES)
                for k in range(table + q, table + q + a.taps * CHUNK, CHUNK):
                    place = at[k] * LANES
                    store_vector(fma_vector(splat_vector(x, w[k]), value, load_vector(image, place)), image, place)
        for p in range(0, a.pixels, LANES):
            one = (n * a.channels + c) * a.pixels + p
            give_block(image, p * LANES, x, one, a.pixels, a.channels - c, a.pixels - p, s)

    return grid_sample_bwd_input_blocks


@cache
def make_grid(dtype):
    """The gradient of the grid, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    real, (take_block, _) = np.dtype(dtype).type, make_rows(dtype)

    @helper
    def point_gradient(a, x, rows, q, image, at, dw, k0, d0, size):
        """The gradient's three coordinates of one point: for every block and tap, gradient times value times slope."""
        gx = gy = gz = splat_vector(x, real(0))
        for b in range(a.blocks):
            value = load_vector(rows, (b * LANES + q) * LANES)
            for k in range(0, size, CHUNK):
                seen = mul_vector(value, load_vector(x, image + (b * a.spare + at[k0 + k]) * LANES))
                gx = fma_vector(splat_vector(x, dw[d0 + k]), seen, gx)
                gy = fma_vector(splat_vector(x, dw[d0 + size + k]), seen, gy)
                if a.axes == 3:
                    gz = fma_vector(splat_vector(x, dw[d0 + 2 * size + k]), seen, gz)
        return gx, gy, gz

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_grid_blocks(block, tile, worker):
        """grid[n, p, axis] = the sum over channels and taps of y dw x.  Tile: (image, run of points)."""
        a = fields(block)
        x, y, dw = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.dw, a.dw_size, KIND)
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i8")
        rows = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s = rows[a.blocks * LANES * LANES :]
        n, chunk, size = tile // a.chunks, tile % a.chunks, a.taps * CHUNK
        count = min(CHUNK, a.points - chunk * CHUNK)
        for p in range(0, count, LANES):
            for b in range(a.blocks):
                one = (n * a.channels + b * LANES) * a.points + chunk * CHUNK + p
                take_block(y, one, a.points, a.channels - b * LANES, count - p, rows, b * LANES * LANES, s)
            for q in range(min(LANES, count - p)):
                k0, d0 = tile * size + p + q, tile * a.axes * size + p + q
                gx, gy, gz = point_gradient(a, x, rows, q, n * a.blocks * a.spare * LANES, at, dw, k0, d0, size)
                place = (n * a.points + chunk * CHUNK + p + q) * a.axes
                grid[place], grid[place + 1] = sum_vector(gx), sum_vector(gy)
                if a.axes == 3:
                    grid[place + 2] = sum_vector(gz)

    return grid_sample_bwd_grid_blocks


# ---- few channels: points in the lanes


@cache
def make_few_forward(dtype):
    """The image at the points, few channels."""
    KIND, LANES, real = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type

    @tile_body(SampleBlock, dtype)
    def grid_sample_fwd_points(block, tile, worker):
        """y[n, c, p] = the sum of the taps of point p.  Tile: (image, run of points)."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at = array_at(a.at, a.at_size, "i8")
        n, chunk, size = tile // a.chunks, tile % a.chunks, a.taps * CHUNK
        count = min(CHUNK, a.points - chunk * CHUNK)
        for c in range(n * a.channels, (n + 1) * a.channels):
            for p in range(0, count, LANES):
                total = splat_vector(x, real(0))
                for k in range(tile * size + p, (tile + 1) * size, CHUNK):
                    total = fma_vector(load_vector(w, k), gather_places(x, c * a.pixels, at, k), total)
                store_window(total, y, c * a.points + chunk * CHUNK + p, count - p)

    return grid_sample_fwd_points


@cache
def make_few_input(dtype):
    """The gradient of the image, few channels."""
    KIND, real = np.dtype(dtype).str[1:], np.dtype(dtype).type

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_input_points(block, tile, worker):
        """x[n, c, at] += w y[n, c, p], point by point.  Tile: a plane."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at, n = array_at(a.at, a.at_size, "i8"), tile // a.channels
        plane = x[tile * a.pixels : (tile + 1) * a.pixels]
        plane[:] = real(0)
        for chunk in range(a.chunks):
            first, table = tile * a.points + chunk * CHUNK, (n * a.chunks + chunk) * a.taps * CHUNK
            for p in range(min(CHUNK, a.points - chunk * CHUNK)):
                value = y[first + p]
                for k in range(table + p, table + a.taps * CHUNK, CHUNK):
                    place = at[k]
                    if place >= 0:
                        plane[np.uintp(place)] += w[k] * value

    return grid_sample_bwd_input_points


@cache
def make_few_grid(dtype):
    """The gradient of the grid, few channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    real = np.dtype(dtype).type

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_grid_points(block, tile, worker):
        """grid[n, p, axis] = the sum over channels and taps of y dw x.  Tile: (image, run of points)."""
        a = fields(block)
        x, y, dw = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.dw, a.dw_size, KIND)
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        n, chunk, size = tile // a.chunks, tile % a.chunks, a.taps * CHUNK
        count = min(CHUNK, a.points - chunk * CHUNK)
        for p in range(0, count, LANES):
            gx = gy = gz = splat_vector(x, real(0))
            for k in range(p, size, CHUNK):
                seen, d = splat_vector(x, real(0)), tile * a.axes * size + k
                for c in range(n * a.channels, (n + 1) * a.channels):
                    gradient = load_window(y, c * a.points + chunk * CHUNK + p, 1, 0, min(LANES, count - p), 1)
                    seen = fma_vector(gradient, gather_places(x, c * a.pixels, at, tile * size + k), seen)
                gx = fma_vector(load_window(dw, d, 1, 0, min(LANES, count - p), 1), seen, gx)
                gy = fma_vector(load_window(dw, d + size, 1, 0, min(LANES, count - p), 1), seen, gy)
                if a.axes == 3:
                    gz = fma_vector(load_window(dw, d + 2 * size, 1, 0, min(LANES, count - p), 1), seen, gz)
            store_vector(gx, s, 0)
            store_vector(gy, s, LANES)
            store_vector(gz, s, 2 * LANES)
            place = (n * a.points + chunk * CHUNK + p) * a.axes
            for q in range(min(LANES, count - p)):
                for axis in range(a.axes):
                    grid[place + q * a.axes + axis] = s[axis * LANES + q]

    return grid_sample_bwd_grid_points


# ---- rows of a call


class _Call:
    """The numbers of one call: size of the image, settings, and whether channels or points are in the lanes."""

    def __init__(self, size, mode, padding, align, x_shape, y_shape, dtype):
        self.n, self.channels = x_shape[:2]
        self.axes, self.pixels, self.points = len(size), int(np.prod(size)), int(np.prod(y_shape[2:]))
        self.taps, self.chunks = max(1, 2 * mode) ** self.axes, -(-self.points // CHUNK)
        self.dtype, self.vector = dtype, lanes(dtype)
        self.blocks = -(-self.channels // self.vector)
        self.spare = (self.pixels // self.vector + 1) * self.vector  # with at least one pixel of zeros
        self.settings = dict(zip(("id", "ih", "iw"), (1,) * (3 - self.axes) + tuple(size), strict=True))
        self.settings |= {"mode": mode, "padding": padding, "align": int(align)}
        full = 3 * self.channels > self.vector  # lanes of a block that have a channel
        self.wide = full and self.points * self.taps * 2 > self.pixels and mode != NEAREST

    def tables(self, derive):
        """(at, w, dw) for `taps_row` and the rows that use them."""
        size = self.n * self.chunks * self.taps * CHUNK
        dw = Temporary(self.axes * size, self.dtype) if derive else np.zeros(1, self.dtype)
        return {"at": Temporary(size, np.int64), "w": Temporary(size, self.dtype), "dw": dw}

    def taps_row(self, grid, tables, derive):
        numbers = {"axes": self.axes, "points": self.points, "chunks": self.chunks, "taps": self.taps}
        values = {**self.settings, **numbers, "outside": self.pixels if self.wide else -1, "derive": int(derive)}
        scratch = SCRATCH_BYTES // self.dtype.itemsize + 26 * CHUNK
        work = self.n * self.points * (10 + self.taps * (2 + 2 * derive))
        temporaries = ("at", "w", "dw") if derive else ("at", "w")
        body = make_taps(self.dtype.name)
        return Row(body, self.n * self.chunks, {**values, **tables, "grid": grid}, work, scratch, temporaries)

    def layout_row(self, x, image):
        chunks = -(-self.spare // RUN)
        values = {"channels": self.channels, "pixels": self.pixels, "spare": self.spare, "blocks": self.blocks}
        values |= {"chunks": chunks, "first": x, "last": image}
        work, scratch = self.n * self.channels * self.pixels * 0.3, self.vector**2
        body = make_layout(self.dtype.name)
        return Row(body, self.n * self.blocks * chunks, values, work, scratch, ("last",))

    def image(self):
        return Temporary(self.n * self.blocks * self.spare * self.vector, self.dtype)

    def row(self, make, tiles, scratch, derive, x, y, grid, tables):
        names = ("axes", "channels", "pixels", "spare", "points", "chunks", "blocks", "taps")
        values = {name: getattr(self, name) for name in names} | {"x": x, "y": y, "grid": grid, **tables}
        temporaries = [name for name in ("x", "at", "w", "dw") if isinstance(values[name], Temporary)]
        work = self.n * self.points * self.taps * (4 + self.channels * (0.15 if self.wide else 1.0))
        return Row(make(self.dtype.name), tiles, values, work, scratch, tuple(temporaries))


def forward_rows(size, mode, padding, align, x, grid, y):
    """The rows that compute y, none of the arrays empty."""
    call = _Call(size, mode, padding, align, x.shape, y.shape, y.dtype)
    tables = call.tables(False)
    rows = [call.taps_row(grid, tables, False)]
    if not call.wide:
        return [*rows, call.row(make_few_forward, call.n * call.chunks, 0, False, x, y, grid, tables)]
    image, tiles, scratch = call.image(), call.n * call.blocks * call.chunks, 2 * call.vector**2
    return [*rows, call.layout_row(x, image), call.row(make_forward, tiles, scratch, False, image, y, grid, tables)]


def input_rows(size, mode, padding, align, gx, grid, gy):
    """The rows that compute gx from gy."""
    call = _Call(size, mode, padding, align, gx.shape, gy.shape, gy.dtype)
    tables = call.tables(False)
    rows = [call.taps_row(grid, tables, False)]
    if not call.wide:
        return [*rows, call.row(make_few_input, call.n * call.channels, 0, False, gx, gy, grid, tables)]
    scratch = (call.spare + 2 * call.vector) * call.vector
    return [*rows, call.row(make_input, call.n * call.blocks, scratch, False, gx, gy, grid, tables)]


def grid_rows(size, mode, padding, align, x, grid, gy, g_grid):
    """The rows that compute the gradient of the grid."""
    call = _Call(size, mode, padding, align, x.shape, gy.shape, gy.dtype)
    tables, tiles = call.tables(True), call.n * call.chunks
    rows = [call.taps_row(grid, tables, True)]
    if not call.wide:
        scratch = 3 * call.vector
        return [*rows, call.row(make_few_grid, tiles, scratch, True, x, gy, g_grid, tables)]
    image, scratch = call.image(), (call.blocks + 1) * call.vector**2
    return [*rows, call.layout_row(x, image), call.row(make_grid, tiles, scratch, True, image, gy, g_grid, tables)]
