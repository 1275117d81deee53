"""Sums over all pairs of positions, without a matrix of all pairs: blocks of scores live in working memory only.

With scores s[i, j] = sum over k of theta[k, i] phi[k, j]:

    softmax   y[:, i] = sum over j of p[i, j] g[:, j],  p[i, j] = e^s[i, j] / sum over j of e^s[i, j]
    relu      y[:, i] = sum over j of p[i, j] g[:, j],  p[i, j] = max(s[i, j], 0) / number of j

The softmax is taken while the blocks pass by: running maximum m and sum l of each row; what is summed up shrinks by
e^(old m - new m) when the maximum grows (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv
2205.14135).  Going back, p is computed again from the kept logarithm m + log l, once by rows and once by columns:

    ds[i, j] = p[i, j] (sum over c of gy[c, i] g[c, j] - sum over c of gy[c, i] y[c, i])
    gtheta[:, i] = sum over j of ds[i, j] phi[:, j]     gphi[:, j] = sum over i of ds[i, j] theta[:, i]
    gg[:, j] = sum over i of p[i, j] gy[:, i]
"""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from .. import _memory
from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, store_vector
from ..simd_math import exp_vector
from ..simd_vector import (
    add_vector,
    mul_vector,
    relu_vector,
    splat_vector,
    step_vector,
    sub_vector,
    sum_vector,
)
from ..simd_window import MAX_NAN, reduce_run
from .deform import register_tile
from .gathers import split, zeros
from .gemm import make_panel_product

ROWS, COLUMNS = 64, 128  # of a block of scores: 32 KB, a first-level cache
SOFTMAX, RELU = 0, 1

ForwardBlock = Block(
    "NonLocalForward",
    {
        **dict.fromkeys(("theta", "phi", "g", "y", "log", "zeros", "scratch")),
        **dict.fromkeys(("steps", "out_steps"), "i8"),
    },
    "rows columns column_blocks chunks depth pitch",
)


@helper
def fill_tail(s, si, count, valid, columns, value):
    """s[si + r*columns + j] = value for j >= valid."""
    for r in range(count):
        for j in range(valid, columns):
            s[si + r * columns + j] = value


@cache
def make_softmax_rows(dtype):
    """Softmax of a block of scores, given the running maxima and sums."""
    LANES, ZERO = lanes(dtype), np.dtype(dtype).type(0)

    @helper
    def softmax_rows(s, count, most, total, y, yi, pitch):
        """s = e^(s - most), total += its sums; `most` grows first, and then total and y's rows shrink."""
        for r in range(count):
            new = reduce_run(s, r * COLUMNS, COLUMNS, MAX_NAN)
            if new < most[r]:
                new = most[r]
            shrink, shift, acc = np.exp(most[r] - new), splat_vector(s, new), splat_vector(s, ZERO)
            for v in range(r * COLUMNS, (r + 1) * COLUMNS, LANES):
                value = exp_vector(sub_vector(load_vector(s, v), shift))
                store_vector(value, s, v)
                acc = add_vector(acc, value)
            if shrink != 1:
                factor = splat_vector(s, shrink)
                for v in range(yi + r * pitch, yi + (r + 1) * pitch, LANES):
                    store_vector(mul_vector(load_vector(y, v), factor), y, v)
            total[r] = total[r] * shrink + sum_vector(acc)
            most[r] = new

    return softmax_rows


@cache
def make_forward(dtype, MR, NR, OUT_NR, FUNCTION):
    """The forward pass for a register tile of MR rows x NR vectors of scores, and x OUT_NR vectors of y."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    ZERO, INF = np.dtype(dtype).type(0), np.dtype(dtype).type(np.inf)
    scores, out_product = make_panel_product(MR, NR, LANES), make_panel_product(MR, OUT_NR, LANES)
    softmax_rows = make_softmax_rows(dtype)

    @tile_body(ForwardBlock, dtype)
    def non_local_fwd_streaming(block, tile, worker):
        """y (n, rows, pitch), positions first.  Tile: (image, run of rows)."""
        a = fields(block)
        theta, phi = array_at(a.theta, a.theta_size, KIND), array_at(a.phi, a.phi_size, KIND)
        g, y, log = array_at(a.g, a.g_size, KIND), array_at(a.y, a.y_size, KIND), array_at(a.log, a.log_size, KIND)
        zeros, steps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.steps, a.steps_size, "i8")
        out_steps = array_at(a.out_steps, a.out_steps_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        most, total = s[ROWS * COLUMNS : ROWS * COLUMNS + ROWS], s[ROWS * COLUMNS + ROWS :]
        image, chunk = tile // a.chunks, tile % a.chunks
        first = a.rows * chunk // a.chunks
        count = a.rows * (chunk + 1) // a.chunks - first
        out = (image * a.rows + first) * a.pitch
        y[out : out + count * a.pitch] = ZERO
        most[:count], total[:count] = -INF, ZERO
        wide = a.column_blocks * COLUMNS
        for j in range(0, wide, COLUMNS):
            scores(
                *(theta, image * a.depth * a.rows + first, 1, count, phi, image * a.depth * wide + j, COLUMNS),
                *(steps, 0, a.depth, s, 0, COLUMNS, zeros, 0, False),
            )
            if a.columns - j < COLUMNS:
                fill_tail(s, 0, count, a.columns - j, COLUMNS, -INF)
            if FUNCTION == SOFTMAX:
                softmax_rows(s, count, most, total, y, out, a.pitch)
            else:
                for v in range(0, count * COLUMNS, LANES):
                    store_vector(relu_vector(load_vector(s, v)), s, v)
            out_product(
                *(s, 0, COLUMNS, count, g, (image * wide + j) * a.pitch, a.pitch, out_steps, 0, COLUMNS),
                *(y, out, a.pitch, zeros, 0, True),
            )
        for r in range(count):
            divisor = total[r] if FUNCTION == SOFTMAX else ZERO + a.columns
            for v in range(out + r * a.pitch, out + (r + 1) * a.pitch):
                y[v] /= divisor
            log[image * a.rows + first + r] = most[r] + np.log(total[r]) if FUNCTION == SOFTMAX else ZERO

    return non_local_fwd_streaming


BackwardBlock = Block(
    "NonLocalBackward",
    {
        **dict.fromkeys(("left", "left_g", "right", "right_g", "log", "dot", "turned", "turned_g")),
        **dict.fromkeys(("out", "out_g", "zeros", "scratch")),
        **dict.fromkeys(("steps", "out_steps", "out_steps_g"), "i8"),
    },
    "rows columns column_blocks chunks depth depth_g pitch pitch_g",
    "scale",
)


@cache
def make_score_gradients(dtype, FUNCTION, BY_COLUMN):
    """From scores and products of gy and g to p and ds, in place."""
    LANES = lanes(dtype)

    @helper
    def score_gradients(s, d, count, log, dot, stat, scale):
        """s becomes p and d becomes ds; log and dot belong to rows or, BY_COLUMN, to columns, from `stat` on."""
        weight = splat_vector(s, s.dtype.type(scale))
        for r in range(count):
            for v in range(0, COLUMNS, LANES):
                i = r * COLUMNS + v
                score, product = load_vector(s, i), load_vector(d, i)
                if FUNCTION == RELU:
                    store_vector(mul_vector(relu_vector(score), weight), s, i)
                    store_vector(mul_vector(mul_vector(step_vector(score), weight), product), d, i)
                else:
                    if BY_COLUMN:
                        shift, mean = load_vector(log, stat + v), load_vector(dot, stat + v)
                    else:
                        shift, mean = splat_vector(s, log[stat + r]), splat_vector(s, dot[stat + r])
                    p = exp_vector(sub_vector(score, shift))
                    store_vector(p, s, i)
                    store_vector(mul_vector(p, sub_vector(product, mean)), d, i)

    return score_gradients


@cache
def make_backward(dtype, MR, NRS, FUNCTION, BY_COLUMN):
    """One half of the backward pass; NRS: vectors of a register tile for scores, `out` and `out_g`."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    INF = np.dtype(dtype).type(np.inf)
    scores, product = make_panel_product(MR, NRS[0], LANES), make_panel_product(MR, NRS[1], LANES)
    product_g, score_gradients = make_panel_product(MR, NRS[2], LANES), make_score_gradients(dtype, FUNCTION, BY_COLUMN)

    @tile_body(BackwardBlock, dtype)
    def non_local_bwd_streaming(block, tile, worker):
        """out[r] = sum over columns of ds turned; BY_COLUMN also out_g[r] = sum of p turned_g.  Tile: (image, run of
        rows).
        """
        a = fields(block)
        left, left_g = array_at(a.left, a.left_size, KIND), array_at(a.left_g, a.left_g_size, KIND)
        right, right_g = array_at(a.right, a.right_size, KIND), array_at(a.right_g, a.right_g_size, KIND)
        turned, turned_g = array_at(a.turned, a.turned_size, KIND), array_at(a.turned_g, a.turned_g_size, KIND)
        out, out_g = array_at(a.out, a.out_size, KIND), array_at(a.out_g, a.out_g_size, KIND)
        log, dot = array_at(a.log, a.log_size, KIND), array_at(a.dot, a.dot_size, KIND)
        zeros, steps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.steps, a.steps_size, "i8")
        out_steps, out_steps_g = (
            array_at(a.out_steps, a.out_steps_size, "i8"),
            array_at(a.out_steps_g, a.out_steps_g_size, "i8"),
        )
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        d = s[ROWS * COLUMNS :]
        image, chunk = tile // a.chunks, tile % a.chunks
        first = a.rows * chunk // a.chunks
        count = a.rows * (chunk + 1) // a.chunks - first
        row, wide = image * a.rows + first, a.column_blocks * COLUMNS
        for j in range(0, wide, COLUMNS):
            scores(
                *(left, image * a.depth * a.rows + first, 1, count, right, image * a.depth * wide + j, COLUMNS),
                *(steps, 0, a.depth, s, 0, COLUMNS, zeros, 0, False),
            )
            scores(
                *(left_g, image * a.depth_g * a.rows + first, 1, count, right_g, image * a.depth_g * wide + j, COLUMNS),
                *(steps, 0, a.depth_g, d, 0, COLUMNS, zeros, 0, False),
            )
            if a.columns - j < COLUMNS:
                fill_tail(s, 0, count, a.columns - j, COLUMNS, -INF)
            score_gradients(s, d, count, log, dot, image * wide + j if BY_COLUMN else row, a.scale)
            product(
                *(d, 0, COLUMNS, count, turned, (image * wide + j) * a.pitch, a.pitch, out_steps, 0, COLUMNS),
                *(out, row * a.pitch, a.pitch, zeros, 0, j > 0),
            )
            if BY_COLUMN:
                product_g(
                    *(s, 0, COLUMNS, count, turned_g, (image * wide + j) * a.pitch_g, a.pitch_g, out_steps_g),
                    *(0, COLUMNS, out_g, row * a.pitch_g, a.pitch_g, zeros, 0, j > 0),
                )

    return non_local_bwd_streaming


# ---- programs


def _pitch(depth, dtype):
    return split(depth, lanes(dtype)) * lanes(dtype)


def _padded(x, fill=0.0):
    """x (n, k, positions) or (n, positions) with positions filled up to whole blocks."""
    wide = split(x.shape[-1], COLUMNS) * COLUMNS
    out = np.full((*x.shape[:-1], wide), fill, x.dtype)
    out[..., : x.shape[-1]] = x
    return out


def _turned(x):
    """x (n, k, positions) as (n, positions, pitch), filled up with zeros to whole blocks and vectors."""
    n, k, positions = x.shape
    out = np.zeros((n, split(positions, COLUMNS) * COLUMNS, _pitch(k, x.dtype)), x.dtype)
    out[:, :positions, :k] = x.transpose(0, 2, 1)
    return out


def _back(x, depth):
    """(n, positions, pitch) as (n, depth, positions)."""
    return np.ascontiguousarray(x[:, :, :depth].transpose(0, 2, 1))


def _steps(count, left, right):
    return np.stack([np.arange(count) * left, np.arange(count) * right], axis=1).ravel()


def _shape(rows, columns):
    chunks, blocks = split(rows, ROWS), split(columns, COLUMNS)
    return {"rows": rows, "columns": columns, "chunks": chunks, "column_blocks": blocks}


def forward_row(theta, phi, g, function):
    """(row, finish): finish() gives y (n, e, rows) and the logarithms (n, rows) once the row has run."""
    (n, depth, rows), (_, e, columns), dtype = theta.shape, g.shape, theta.dtype.name
    shape, pitch = _shape(rows, columns), _pitch(e, dtype)
    y, log = _memory.empty((n, rows, pitch), dtype), np.empty((n, rows), dtype)
    wide = shape["column_blocks"] * COLUMNS
    MR, NR = register_tile(rows // shape["chunks"], COLUMNS // lanes(dtype))
    out_NR = register_tile(rows // shape["chunks"], pitch // lanes(dtype))[1]
    values = {
        **{"theta": theta, "phi": _padded(phi), "g": _turned(g), "y": y, "log": log, "zeros": zeros(ROWS, dtype)},
        **{"steps": _steps(depth, rows, wide), "out_steps": _steps(COLUMNS, 1, pitch)},
        **shape,
        **{"depth": depth, "pitch": pitch},
    }
    work, scratch = n * rows * columns * ((depth + e) / 50 + 0.5), ROWS * COLUMNS + 2 * ROWS
    row = Row(make_forward(dtype, MR, NR, out_NR, function), n * shape["chunks"], values, work, scratch)
    return row, lambda: (_back(y, e), log)


def _half(left, left_g, right, right_g, log, dot, function, by_column, scale):
    """(row, out, out_g) of the gradient of `left`, positions as rows."""
    (n, depth, rows), (_, e, columns), dtype = left.shape, right_g.shape, left.dtype.name
    shape, pitch, pitch_g = _shape(rows, columns), _pitch(depth, dtype), _pitch(e, dtype)
    wide = shape["column_blocks"] * COLUMNS
    out = _memory.empty((n, rows, pitch), dtype)
    out_g = _memory.empty((n, rows, pitch_g) if by_column else (0,), dtype)
    least = rows // shape["chunks"]
    MR, NR = register_tile(least, COLUMNS // lanes(dtype))
    sizes = (NR, *(register_tile(least, width // lanes(dtype))[1] for width in (pitch, pitch_g)))
    values = {
        **{"left": left, "left_g": left_g, "right": _padded(right), "right_g": _padded(right_g)},
        **{"log": log, "dot": dot, "turned": _turned(right), "turned_g": _turned(right_g) if by_column else out_g},
        **{"out": out, "out_g": out_g, "zeros": zeros(ROWS, dtype), "steps": _steps(max(depth, e), rows, wide)},
        **{"out_steps": _steps(COLUMNS, 1, pitch), "out_steps_g": _steps(COLUMNS, 1, pitch_g)},
        **shape,
        **{"depth": depth, "depth_g": e, "pitch": pitch, "pitch_g": pitch_g, "scale": scale},
    }
    work = n * rows * columns * ((3 * depth + 2 * e) / 50 + 0.5)
    body = make_backward(dtype, MR, sizes, function, by_column)
    return Row(body, n * shape["chunks"], values, work, 2 * ROWS * COLUMNS), out, out_g


def backward_rows(theta, phi, g, y, log, gy, function):
    """(rows, finish): finish() gives (gtheta, gphi, gg) once the rows have run."""
    dot = np.einsum("nci,nci->ni", gy, y)
    scale = 1 / g.shape[2]
    by_row, gtheta, _ = _half(theta, gy, phi, g, log, dot, function, False, scale)
    # a column that only fills up a block has p = e^(0 - infinity) = 0
    statistics = _padded(log, np.inf), _padded(dot)
    by_column, gphi, gg = _half(phi, g, theta, gy, *statistics, function, True, scale)
    depth, e = theta.shape[1], g.shape[1]
    return (by_row, by_column), lambda: (_back(gtheta, depth), _back(gphi, depth), _back(gg, e))


# ---- implementations


@dataclass(frozen=True)
class NonLocalSpec:
    """theta (n, depth, rows), phi (n, depth, columns), g (n, e, columns); function: SOFTMAX or RELU of the scores."""

    n: int
    depth: int
    e: int
    rows: int
    columns: int
    function: int
    dtype: str

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))


@implements("non_local.fwd", rank=90)
class NonLocalForward(Impl):
    """Blocks of scores that never leave the cache; buffers["finish"]() gives the results once the row has run."""

    name = "non_local_fwd_streaming"

    @staticmethod
    def cost(spec):
        return spec.n * spec.rows * spec.columns * ((spec.depth + spec.e) / 50 + 0.5)

    @staticmethod
    def emit(spec, buffers):
        row, buffers["finish"] = forward_row(**buffers, function=spec.function)
        return (row,)


@implements("non_local.bwd", rank=90)
class NonLocalBackward(Impl):
    """All three gradients, the scores computed again."""

    name = "non_local_bwd_streaming"

    @staticmethod
    def cost(spec):
        return 4 * NonLocalForward.cost(spec)

    @staticmethod
    def emit(spec, buffers):
        rows, buffers["finish"] = backward_rows(**buffers, function=spec.function)
        return rows
