"""Sampling of images at the points of a grid: forward, gradient of the image, gradient of the grid.

Every output point is a weighted sum of taps (`grid_taps.py`).  With many channels the image is laid out in blocks of
LANES channels, (block, pixel, lane), so that a tap is one vector for all of them and nothing is gathered; the pixel
after the last is zero and stands for all that lies outside.  With few channels the lanes are points, and taps are
gathered from the image as it lies.
"""

from functools import cache, lru_cache
from math import prod

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector, transpose_block, zero_vector
from ..simd_vector import fma_vector, gather_places, mul_vector, splat_vector, store_window, sum_vector
from .grid_taps import CHUNK, NEAREST, SCRATCH_BYTES, make_taps

LayoutBlock = Block("GridLayout", "first last scratch", "channels pixels spare blocks chunks")
_TABLES = {"at": "i4", "w": None, "dw": None}
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
def make_forward(dtype, TAPS):
    """The image at the points, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    _, give_block = make_rows(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_fwd_blocks(block, tile, worker):
        """y[n, c, p] = the sum of the taps of point p.  Tile: (image, block of channels, run of points)."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at = array_at(a.at, a.at_size, "i4")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        nb, chunk = tile // a.chunks, tile % a.chunks
        n, c, size = nb // a.blocks, nb % a.blocks * LANES, TAPS * CHUNK
        image, table = nb * a.spare * LANES, (n * a.chunks + chunk) * size
        count = min(CHUNK, a.points - chunk * CHUNK)
        for p in range(0, count, LANES):
            for q in range(min(LANES, count - p)):
                k = np.uintp(table + p + q)
                total = mul_vector(splat_vector(x, w[k]), load_vector(x, image + at[k] * LANES))
                for tap in range(1, TAPS):
                    k = np.uintp(table + p + q + tap * CHUNK)
                    total = fma_vector(splat_vector(x, w[k]), load_vector(x, image + at[k] * LANES), total)
                store_vector(total, s, q * LANES)
            one = (n * a.channels + c) * a.points + chunk * CHUNK + p
            give_block(s, 0, y, one, a.points, a.channels - c, count - p, s[LANES * LANES :])

    return grid_sample_fwd_blocks


@cache
def make_input(dtype, TAPS):
    """The gradient of the image, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    take_block, give_block = make_rows(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_input_blocks(block, tile, worker):
        """x[n, c, at] += w y[n, c, p], point by point.  Tile: (image, block of channels), whole planes."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at = array_at(a.at, a.at_size, "i4")
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
                for tap in range(TAPS):
                    k = np.uintp(table + q + tap * CHUNK)
                    place = at[k] * LANES
                    store_vector(fma_vector(splat_vector(x, w[k]), value, load_vector(image, place)), image, place)
        for p in range(0, a.pixels, LANES):
            one = (n * a.channels + c) * a.pixels + p
            give_block(image, p * LANES, x, one, a.pixels, a.channels - c, a.pixels - p, s)

    return grid_sample_bwd_input_blocks


@cache
def make_grid(dtype, TAPS, AXES):
    """The gradient of the grid, many channels."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    real, (take_block, _) = np.dtype(dtype).type, make_rows(dtype)

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_grid_blocks(block, tile, worker):
        """grid[n, p, axis] = the sum over channels and taps of y dw x.  Tile: (image, run of points)."""
        a = fields(block)
        x, y, dw = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.dw, a.dw_size, KIND)
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i4")
        rows = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        s = rows[a.blocks * LANES * LANES :]
        n, chunk, size = tile // a.chunks, tile % a.chunks, TAPS * CHUNK
        count = min(CHUNK, a.points - chunk * CHUNK)
        for p in range(0, count, LANES):
            for b in range(a.blocks):
                one = (n * a.channels + b * LANES) * a.points + chunk * CHUNK + p
                take_block(y, one, a.points, a.channels - b * LANES, count - p, rows, b * LANES * LANES, s)
            for q in range(min(LANES, count - p)):
                gx = gy = gz = splat_vector(x, real(0))
                for b in range(a.blocks):
                    value, image = load_vector(rows, (b * LANES + q) * LANES), (n * a.blocks + b) * a.spare * LANES
                    for tap in range(TAPS):
                        k = tap * CHUNK + p + q
                        seen = mul_vector(value, load_vector(x, image + at[np.uintp(tile * size + k)] * LANES))
                        d = tile * AXES * size + k
                        gx = fma_vector(splat_vector(x, dw[np.uintp(d)]), seen, gx)
                        gy = fma_vector(splat_vector(x, dw[np.uintp(d + size)]), seen, gy)
                        if AXES == 3:
                            gz = fma_vector(splat_vector(x, dw[np.uintp(d + 2 * size)]), seen, gz)
                place = (n * a.points + chunk * CHUNK + p + q) * AXES
                grid[place], grid[place + 1] = sum_vector(gx), sum_vector(gy)
                if AXES == 3:
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
        at = array_at(a.at, a.at_size, "i4")
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
def make_nearest(dtype):
    """The image at the points, one tap each."""
    KIND, real = np.dtype(dtype).str[1:], np.dtype(dtype).type

    @tile_body(SampleBlock, dtype)
    def grid_sample_fwd_nearest(block, tile, worker):
        """y[n, c, p] = x[n, c, at]: plain loads beat the machine's gather.  Tile: (image, run of points)."""
        a = fields(block)
        x, y, at = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.at, a.at_size, "i4")
        n, chunk = tile // a.chunks, tile % a.chunks
        count, places = min(CHUNK, a.points - chunk * CHUNK), at[tile * CHUNK : (tile + 1) * CHUNK]
        last = (n + 1) * a.channels - 1
        for c in range(n * a.channels, last + 1, 4):  # four planes share a place; the last one may be done again
            c1, c2, c3 = min(c + 1, last), min(c + 2, last), min(c + 3, last)
            x0, x1, x2, x3 = x[c * a.pixels :], x[c1 * a.pixels :], x[c2 * a.pixels :], x[c3 * a.pixels :]
            first = chunk * CHUNK
            y0, y1 = y[c * a.points + first :], y[c1 * a.points + first :]
            y2, y3 = y[c2 * a.points + first :], y[c3 * a.points + first :]
            for p in range(count):
                place = np.uintp(max(places[p], 0))
                if places[p] >= 0:
                    y0[p], y1[p], y2[p], y3[p] = x0[place], x1[place], x2[place], x3[place]
                else:
                    y0[p] = y1[p] = y2[p] = y3[p] = real(0)

    return grid_sample_fwd_nearest


@cache
def make_few_input(dtype):
    """The gradient of the image, few channels."""
    KIND, real = np.dtype(dtype).str[1:], np.dtype(dtype).type

    @tile_body(SampleBlock, dtype)
    def grid_sample_bwd_input_points(block, tile, worker):
        """x[n, c, at] += w y[n, c, p], point by point.  Tile: a plane."""
        a = fields(block)
        x, y, w = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.w, a.w_size, KIND)
        at, n = array_at(a.at, a.at_size, "i4"), tile // a.channels
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
        grid, at = array_at(a.grid, a.grid_size, KIND), array_at(a.at, a.at_size, "i4")
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


def blocks_row(x, image):
    """The row that lays x (n, channels, *size) out in blocks of channels, in `image`, a Temporary."""
    (n, channels), pixels, vector = x.shape[:2], prod(x.shape[2:]), lanes(x.dtype)
    blocks, spare = -(-channels // vector), (pixels // vector + 1) * vector  # with at least one pixel of zeros
    chunks = -(-spare // RUN)
    values = {"first": x, "last": image, "channels": channels, "pixels": pixels, "spare": spare, "blocks": blocks}
    values["chunks"] = chunks
    return Row(make_layout(x.dtype.name), n * blocks * chunks, values, x.size * 0.3, vector**2, ("last",))


class _Call:
    """The numbers of one call: size of the image, settings, and whether channels or points are in the lanes."""

    def __init__(self, n, channels, size, out, settings, dtype):
        mode, padding, align = settings
        self.n, self.channels, self.axes = n, channels, len(size)
        self.pixels, self.points = prod(size), prod(out)
        self.taps, self.chunks = max(1, 2 * mode) ** self.axes, -(-self.points // CHUNK)
        self.dtype, self.vector, self.nearest = np.dtype(dtype), lanes(dtype), mode == NEAREST
        self.blocks = -(-channels // self.vector)
        self.spare = (self.pixels // self.vector + 1) * self.vector  # with at least one pixel of zeros
        depth, height, width = (1,) * (3 - self.axes) + tuple(size)
        self.settings = {"id": depth, "ih": height, "iw": width, "mode": mode, "padding": padding, "align": int(align)}
        self.settings.update(points=self.points, axes=self.axes, chunks=self.chunks, taps=self.taps)
        names = ("axes", "channels", "pixels", "spare", "points", "chunks", "blocks", "taps")
        self.numbers = {name: getattr(self, name) for name in names}
        full = 3 * channels > self.vector  # of the lanes of a block enough have a channel
        self.wide = full and self.points * self.taps * 2 > self.pixels

    def tables(self, derive):
        """(at, w, dw) for `taps_row` and the rows that use them."""
        size = self.n * self.chunks * self.taps * CHUNK
        dw = Temporary(self.axes * size, self.dtype) if derive else np.zeros(1, self.dtype)
        return {"at": Temporary(size, np.int32), "w": Temporary(size, self.dtype), "dw": dw}

    def taps_row(self, grid, tables, derive, wide):
        values = {**self.settings, "outside": self.pixels if wide else -1, "derive": int(derive), **tables}
        values["grid"] = grid
        scratch = SCRATCH_BYTES // self.dtype.itemsize + 26 * CHUNK
        work = self.n * self.points * (3 + self.taps * (1 + derive))
        temporaries = ("at", "w", "dw") if derive else ("at", "w")
        return Row(make_taps(self.dtype.name), self.n * self.chunks, values, work, scratch, temporaries)

    def image(self):
        return Temporary(self.n * self.blocks * self.spare * self.vector, self.dtype)

    def row(self, body, tiles, scratch, wide, x, y, grid, tables):
        values = {**self.numbers, "x": x, "y": y, "grid": grid, **tables}
        temporaries = [name for name in ("x", "at", "w", "dw") if isinstance(values[name], Temporary)]
        work = self.n * self.points * self.taps * (1 + self.channels * (0.2 if wide else 0.8))
        return Row(body, tiles, values, work, scratch, tuple(temporaries))


@lru_cache(maxsize=256)
def _call(*arguments):
    return _Call(*arguments)


def forward_rows(x, grid, y, settings):
    """The rows that compute y, none of the arrays empty; settings: mode, padding, align."""
    call = _call(*x.shape[:2], x.shape[2:], y.shape[2:], settings, y.dtype.name)
    tables, wide = call.tables(False), call.wide and not call.nearest  # a single tap is gathered as quickly
    rows = [call.taps_row(grid, tables, False, wide)]
    if not wide:
        make = make_nearest if call.nearest else make_few_forward
        return [*rows, call.row(make(call.dtype.name), call.n * call.chunks, 0, False, x, y, grid, tables)]
    image, tiles, scratch = call.image(), call.n * call.blocks * call.chunks, 2 * call.vector**2
    return [
        *rows,
        blocks_row(x, image),
        call.row(make_forward(call.dtype.name, call.taps), tiles, scratch, True, image, y, grid, tables),
    ]


def backward_rows(x, grid, gy, gx, g_grid, settings):
    """The rows that compute gx and g_grid, either of which may be None; g_grid is, for the nearest pixel."""
    call = _call(*x.shape[:2], x.shape[2:], gy.shape[2:], settings, gy.dtype.name)
    tables, rows, wide = call.tables(g_grid is not None), [], call.wide
    if gx is not None or g_grid is not None:
        rows.append(call.taps_row(grid, tables, g_grid is not None, wide))
    if gx is not None and wide:
        scratch = (call.spare + 2 * call.vector) * call.vector
        rows.append(
            call.row(make_input(call.dtype.name, call.taps), call.n * call.blocks, scratch, True, gx, gy, grid, tables)
        )
    elif gx is not None:
        rows.append(call.row(make_few_input(call.dtype.name), call.n * call.channels, 0, False, gx, gy, grid, tables))
    if g_grid is not None and wide:
        image, scratch = call.image(), (call.blocks + 1) * call.vector**2
        rows.append(blocks_row(x, image))
        rows.append(
            call.row(
                make_grid(call.dtype.name, call.taps, call.axes),
                call.n * call.chunks,
                scratch,
                True,
                image,
                gy,
                g_grid,
                tables,
            )
        )
    elif g_grid is not None:
        tiles, scratch = call.n * call.chunks, 3 * call.vector
        rows.append(call.row(make_few_grid(call.dtype.name), tiles, scratch, False, x, gy, g_grid, tables))
    return rows
