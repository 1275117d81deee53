"""Layer normalisation and softmax on the device: whatever sees one row of values, or one column, at a time.

A block has `ROWS` rows of `LANES` threads; each of these rows of threads takes one row of the array, so short rows fill
a block too.  Sums along a row are trees of fixed shape in shared memory.
"""

from functools import lru_cache
from math import prod

import numpy as np

from ..._device import Rule
from .array import empty
from .elementwise import exp, log, sqrt
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch
from .shaping import dense

U = np.uint32
SHAPES = ((4, 1), (2, 2)) if SIMULATED else ((256, 1), (32, 8))  # (threads of a row, rows) of a block
COLUMN_PARTS = 2 if SIMULATED else 64  # parts in which sums over rows are added at most
LONG = 6 if SIMULATED else 1024  # rows of more values get a block each


def block_shape(length):
    """(threads of a row, rows) of a block for rows of `length` values."""
    return SHAPES[0] if length > LONG else SHAPES[1]


@helper
def row_sums(a, b, base, lane, lanes):
    """a[base] and b[base] = the sums of `lanes` values of two shared arrays from there on."""
    half = U(lanes >> 1)
    while half:
        cuda.syncthreads()
        if lane < half:
            a[U(base + lane)] += a[U(base + lane + half)]
            b[U(base + lane)] += b[U(base + lane + half)]
        half = U(half >> U(1))
    cuda.syncthreads()


@helper
def row_max(a, base, lane, lanes):
    """a[base] = the largest of `lanes` values of a shared array from there on."""
    half = U(lanes >> 1)
    while half:
        cuda.syncthreads()
        if lane < half and a[U(base + lane + half)] > a[U(base + lane)]:
            a[U(base + lane)] = a[U(base + lane + half)]
        half = U(half >> U(1))
    cuda.syncthreads()


# ---- layer normalisation


@lru_cache
def make_layer_norm(dtype, lanes, rows_of_block):
    """Forward."""
    LANES, ROWS, SIZE, REAL, add = lanes, rows_of_block, lanes * rows_of_block, np.dtype(dtype).type, row_sums

    @kernel(f"x:{dtype} y:{dtype} w:{dtype} b:{dtype} stats:{dtype} rows length has_w has_b eps={dtype}")
    def layer_norm(x, y, w, b, stats, rows, length, has_w, has_b, eps):
        """stats: (mean, rest of the mean, rstd) of each row.  Block: ROWS rows."""
        s = cuda.shared.array(SIZE, REAL)
        q = cuda.shared.array(SIZE, REAL)
        lane, place = U(cuda.threadIdx.x), U(cuda.threadIdx.y)
        row, base, length = U(U(cuda.blockIdx.x) * U(ROWS) + place), U(place * U(LANES)), U(length)
        top = U(row * length)
        total, squares, shift = REAL(0), REAL(0), REAL(0)
        if row < U(rows):
            shift = x[top]
            i = lane
            while i < length:
                d = x[U(top + i)] - shift
                total += d
                squares += d * d
                i = U(i + U(LANES))
        s[U(base + lane)] = total
        q[U(base + lane)] = squares
        add(s, q, base, lane, LANES)
        if row < U(rows):
            off = s[base] / REAL(length)
            variance = q[base] / REAL(length) - off * off
            mean = shift + off
            low = off - (mean - shift)
            rstd = REAL(1) / REAL(sqrt((variance if variance > 0 else REAL(0)) + eps))
            i = lane
            while i < length:
                d = (x[U(top + i)] - mean - low) * rstd
                y[U(top + i)] = d * (w[i] if has_w else REAL(1)) + (b[i] if has_b else REAL(0))
                i = U(i + U(LANES))
            if lane == 0:
                stats[U(row * U(3))] = mean
                stats[U(row * U(3) + U(1))] = low
                stats[U(row * U(3) + U(2))] = rstd

    return layer_norm


@lru_cache
def make_layer_gradient(dtype, lanes, rows_of_block):
    """The input's gradient: rstd (w g - S1 / length - (x - mean) rstd^2 S2 / length), S1 and S2 the row's sums."""
    LANES, ROWS, SIZE, REAL, add = lanes, rows_of_block, lanes * rows_of_block, np.dtype(dtype).type, row_sums

    @kernel(f"x:{dtype} g:{dtype} gx:{dtype} w:{dtype} stats:{dtype} rows length has_w")
    def layer_norm_gradient(x, g, gx, w, stats, rows, length, has_w):
        """Block: ROWS rows."""
        s = cuda.shared.array(SIZE, REAL)
        q = cuda.shared.array(SIZE, REAL)
        lane, place = U(cuda.threadIdx.x), U(cuda.threadIdx.y)
        row, base, length = U(U(cuda.blockIdx.x) * U(ROWS) + place), U(place * U(LANES)), U(length)
        top = U(row * length)
        total, products, mean, low, rstd = REAL(0), REAL(0), REAL(0), REAL(0), REAL(0)
        if row < U(rows):
            mean, low, rstd = stats[U(row * U(3))], stats[U(row * U(3) + U(1))], stats[U(row * U(3) + U(2))]
            i = lane
            while i < length:
                weighted = g[U(top + i)] * (w[i] if has_w else REAL(1))
                total += weighted
                products += weighted * (x[U(top + i)] - mean - low)
                i = U(i + U(LANES))
        s[U(base + lane)] = total
        q[U(base + lane)] = products
        add(s, q, base, lane, LANES)
        if row < U(rows):
            constant, along = s[base] / REAL(length), q[base] / REAL(length) * rstd * rstd
            i = lane
            while i < length:
                weighted = g[U(top + i)] * (w[i] if has_w else REAL(1))
                gx[U(top + i)] = rstd * (weighted - constant - (x[U(top + i)] - mean - low) * along)
                i = U(i + U(LANES))

    return layer_norm_gradient


@lru_cache
def make_column_sums(dtype, lanes, rows_of_block):
    """Sums over rows of g (x - mean) rstd and of g: the gradients of weight and bias, in parts."""
    LANES, ROWS, SIZE, REAL = lanes, rows_of_block, lanes * rows_of_block, np.dtype(dtype).type

    @kernel(f"x:{dtype} g:{dtype} stats:{dtype} parts:{dtype} rows length")
    def layer_norm_columns(x, g, stats, parts, rows, length):
        """parts (2, parts, length).  Block: (LANES places, one part of the rows), row r being in part r // ROWS %
        parts."""
        s = cuda.shared.array(SIZE, REAL)
        q = cuda.shared.array(SIZE, REAL)
        lane, place, length = U(cuda.threadIdx.x), U(cuda.threadIdx.y), U(length)
        i, part, count = U(U(cuda.blockIdx.x) * U(LANES) + lane), U(cuda.blockIdx.y), U(cuda.gridDim.y)
        row, total, products = U(part * U(ROWS) + place), REAL(0), REAL(0)
        if i < length:
            while row < U(rows):
                p, j = U(row * U(3)), U(row * length + i)
                total += g[j]
                products += g[j] * (x[j] - stats[p] - stats[U(p + U(1))]) * stats[U(p + U(2))]
                row = U(row + count * U(ROWS))
        s[U(place * U(LANES) + lane)] = products
        q[U(place * U(LANES) + lane)] = total
        cuda.syncthreads()
        if place == 0 and i < length:
            for k in range(1, ROWS):
                products += s[U(k * LANES + lane)]
                total += q[U(k * LANES + lane)]
            parts[U(part * length + i)] = products
            parts[U(U(count + part) * length + i)] = total

    return layer_norm_columns


@lru_cache
def make_add_parts(dtype):
    """The sums of parts, in their order."""

    @kernel(f"parts:{dtype} gw:{dtype} gb:{dtype} count length")
    def add_parts(parts, gw, gb, count, length):
        """gw, gb (length) from parts (2, count, length).  Thread: a place."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(length):
            total, products = 0.0, 0.0
            for k in range(count):
                products += parts[U(k * length + i)]
                total += parts[U((count + k) * length + i)]
            gw[i] = products
            gb[i] = total
            i = U(i + step)

    return add_parts


# ---- softmax


@lru_cache
def make_softmax_rows(dtype, log_of, lanes, rows_of_block):
    """Of rows that lie one after another."""
    LANES, ROWS, SIZE, LOG, REAL, add, most = (
        lanes,
        rows_of_block,
        lanes * rows_of_block,
        log_of,
        np.dtype(dtype).type,
        row_sums,
        row_max,
    )
    LOW = REAL(-np.inf)

    @kernel(f"x:{dtype} y:{dtype} rows length")
    def softmax_rows(x, y, rows, length):
        """y = e^(x - m) / sum, m the largest, or its logarithm.  Block: ROWS rows."""
        s = cuda.shared.array(SIZE, REAL)
        q = cuda.shared.array(SIZE, REAL)
        lane, place = U(cuda.threadIdx.x), U(cuda.threadIdx.y)
        row, base, length = U(U(cuda.blockIdx.x) * U(ROWS) + place), U(place * U(LANES)), U(length)
        top, last, best = U(row * length), length, LOW
        if row >= U(rows):
            last = U(0)
        i = lane
        while i < last:
            v = x[U(top + i)]
            if v > best:
                best = v
            i = U(i + U(LANES))
        s[U(base + lane)] = best
        most(s, base, lane, LANES)
        best = s[base]
        cuda.syncthreads()
        total, i = REAL(0), lane
        while i < last:
            total += REAL(exp(x[U(top + i)] - best))
            i = U(i + U(LANES))
        s[U(base + lane)] = total
        q[U(base + lane)] = total
        add(s, q, base, lane, LANES)
        total, i = s[base], lane
        while i < last:
            d = x[U(top + i)] - best
            y[U(top + i)] = d - REAL(log(total)) if LOG else REAL(exp(d)) / total
            i = U(i + U(LANES))

    return softmax_rows


@lru_cache
def make_softmax_columns(dtype, log_of):
    """Along an axis with others behind it."""
    LOG, REAL = log_of, np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} outer length inner")
    def softmax_columns(x, y, outer, length, inner):
        """x, y (outer, length, inner).  Thread: a column."""
        column, step, inner, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(inner), U(length)
        while column < U(outer * inner):
            top = U(U(column // inner) * U(length * inner) + U(column % inner))
            best, total, k = x[top], REAL(0), U(1)
            while k < length:
                v = x[U(top + k * inner)]
                if v > best:
                    best = v
                k = U(k + U(1))
            k = U(0)
            while k < length:
                total += REAL(exp(x[U(top + k * inner)] - best))
                k = U(k + U(1))
            k = U(0)
            while k < length:
                d = x[U(top + k * inner)] - best
                y[U(top + k * inner)] = d - REAL(log(total)) if LOG else REAL(exp(d)) / total
                k = U(k + U(1))
            column = U(column + step)

    return softmax_columns


@lru_cache
def make_softmax_gradient_rows(dtype, log_of, lanes, rows_of_block):
    """gx = y (g - sum(g y)), or g - e^y sum(g), of rows that lie one after another."""
    LANES, ROWS, SIZE, LOG, REAL, add = (
        lanes,
        rows_of_block,
        lanes * rows_of_block,
        log_of,
        np.dtype(dtype).type,
        row_sums,
    )

    @kernel(f"g:{dtype} y:{dtype} gx:{dtype} rows length")
    def softmax_gradient_rows(g, y, gx, rows, length):
        """Block: ROWS rows."""
        s = cuda.shared.array(SIZE, REAL)
        q = cuda.shared.array(SIZE, REAL)
        lane, place = U(cuda.threadIdx.x), U(cuda.threadIdx.y)
        row, base, length = U(U(cuda.blockIdx.x) * U(ROWS) + place), U(place * U(LANES)), U(length)
        top, last, total = U(row * length), length, REAL(0)
        if row >= U(rows):
            last = U(0)
        i = lane
        while i < last:
            total += g[U(top + i)] if LOG else g[U(top + i)] * y[U(top + i)]
            i = U(i + U(LANES))
        s[U(base + lane)] = total
        q[U(base + lane)] = total
        add(s, q, base, lane, LANES)
        total, i = s[base], lane
        while i < last:
            v, d = y[U(top + i)], g[U(top + i)]
            gx[U(top + i)] = d - REAL(exp(v)) * total if LOG else v * (d - total)
            i = U(i + U(LANES))

    return softmax_gradient_rows


@lru_cache
def make_softmax_gradient_columns(dtype, log_of):
    """The same along an axis with others behind it."""
    LOG, REAL = log_of, np.dtype(dtype).type

    @kernel(f"g:{dtype} y:{dtype} gx:{dtype} outer length inner")
    def softmax_gradient_columns(g, y, gx, outer, length, inner):
        """Thread: a column."""
        column, step, inner, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(inner), U(length)
        while column < U(outer * inner):
            top = U(U(column // inner) * U(length * inner) + U(column % inner))
            total, k = REAL(0), U(0)
            while k < length:
                i = U(top + k * inner)
                total += g[i] if LOG else g[i] * y[i]
                k = U(k + U(1))
            k = U(0)
            while k < length:
                i = U(top + k * inner)
                gx[i] = g[i] - REAL(exp(y[i])) * total if LOG else y[i] * (g[i] - total)
                k = U(k + U(1))
            column = U(column + step)

    return softmax_gradient_columns


def kernels(dtype):
    """For the test that compiles them."""
    yield make_layer_norm(dtype, 256, 1)
    yield make_layer_gradient(dtype, 32, 8)
    yield make_column_sums(dtype, 32, 8)
    yield make_add_parts(dtype)
    for log_of in (False, True):
        yield make_softmax_rows(dtype, log_of, 32, 8)
        yield make_softmax_gradient_rows(dtype, log_of, 32, 8)
        yield make_softmax_columns(dtype, log_of)
        yield make_softmax_gradient_columns(dtype, log_of)


# ---- the ops


def _row(make, x, rows, length, *arguments):
    """A launch with a row of threads for each row; make: from dtype and the shape of a block."""
    shape = block_shape(length)
    return Row(make(x.dtype.name, *shape), -(-rows // shape[1]), shape, arguments)


@counterpart("layer_norm.LayerNorm")
class LayerNorm(Rule):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        (rows, length), flat = x.shape, dense(x)
        y, ctx.stats = empty(x.shape, x.dtype), empty((rows, 3), x.dtype)
        w, b = (ctx.stats if a is None else dense(a) for a in (weight, bias))
        numbers = rows, length, int(weight is not None), int(bias is not None), float(eps)
        if x.size:
            launch(_row(make_layer_norm, x, rows, length, flat, y, w, b, ctx.stats, *numbers))
        ctx.save(x, weight)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        (rows, length), x, g = x.shape, dense(x), dense(g)
        gx = gw = gb = None
        if ctx.needs[0]:
            gx, w = empty(x.shape, x.dtype), ctx.stats if weight is None else dense(weight)
            arguments = x, g, gx, w, ctx.stats, rows, length, int(weight is not None)
            if x.size:
                launch(_row(make_layer_gradient, x, rows, length, *arguments))
        if ctx.needs[1] or ctx.needs[2]:
            gw, gb = _weight_gradients(x, g, ctx.stats)
        return gx, gw, gb, None


def _weight_gradients(x, g, stats):
    (rows, length), dtype, (lanes, deep) = x.shape, x.dtype, SHAPES[1]
    count = max(1, min(COLUMN_PARTS, -(-rows // (4 * deep))))
    parts, gw, gb = empty((2, count, length), dtype), empty((length,), dtype), empty((length,), dtype)
    grid = -(-length // lanes), count
    launch(
        Row(make_column_sums(dtype.name, lanes, deep), grid, SHAPES[1], (x, g, stats, parts, rows, length)),
        Row(make_add_parts(dtype.name), blocks_for(length), THREADS, (parts, gw, gb, count, length)),
    )
    return gw, gb


def softmax_into(arrays, out, axis, log_of, backward=False):
    """Softmax of one array, or its gradient from (g, y), along an axis; dense arrays."""
    length, inner = out.shape[axis], prod(out.shape[axis + 1 :])
    outer, dtype = prod(out.shape[:axis]), out.dtype.name
    if not out.size:
        return out
    if inner == 1:
        make, shape = make_softmax_gradient_rows if backward else make_softmax_rows, block_shape(length)
        arguments = (*arrays, out, outer, length)
        launch(Row(make(dtype, log_of, *shape), -(-outer // shape[1]), shape, arguments))
    else:
        make = make_softmax_gradient_columns if backward else make_softmax_columns
        arguments = (*arrays, out, outer, length, inner)
        launch(Row(make(dtype, log_of), blocks_for(outer * inner), THREADS, arguments))
    return out


@counterpart("activation.Softmax")
class Softmax(Rule):
    log = False

    @classmethod
    def forward(cls, ctx, x, axis):
        out = softmax_into((dense(x),), empty(x.shape, x.dtype), axis, cls.log)
        ctx.save(out)
        ctx.axis = axis
        return out

    @classmethod
    def backward(cls, ctx, g):
        (out,) = ctx.saved
        return softmax_into((dense(g), out), empty(g.shape, g.dtype), ctx.axis, cls.log, True), None


@counterpart("activation.LogSoftmax")
class LogSoftmax(Softmax):
    log = True
