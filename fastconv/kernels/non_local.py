"""Sums over all pairs of positions, without a matrix of all pairs: blocks of scores live in working memory only.

With scores s[i, j] = sum over k of theta[k, i] phi[k, j]:

    softmax   y[:, i] = sum over j of p[i, j] g[:, j],  p[i, j] = e^s[i, j] / sum over j of e^s[i, j]
    relu      y[:, i] = sum over j of p[i, j] g[:, j],  p[i, j] = max(s[i, j], 0) / number of j

The softmax is taken while the blocks pass by: running maximum m and sum l of each row; what is summed up shrinks by
e^(old m - new m) when the maximum grows (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv
2205.14135).  Going back, p is computed again from the kept logarithm m + log l, for some j at a time; groups of j have
a share of gtheta each, which are added in order:

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
from ..driver import Row, launch
from ..simd import array_at, fields, isa, lanes, load_vector, store_vector
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
from .deform import layout_row, register_tile
from .gathers import balanced, split, zeros
from .gemm import make_panel_product

ROWS, COLUMNS = 64, 192  # of a block of scores at most: 48 KB
LEAST_GROUPS, SHARES = 4, 1 << 20  # of positions j; values of all their shares of gtheta, where they are more
PART_ROWS = 56  # of a block mostly: what is left of an image joins the last one
SOFTMAX, RELU = 0, 1

ForwardBlock = Block(
    "NonLocalForward",
    {
        **dict.fromkeys(("theta", "phi", "g", "y", "log", "zeros", "scratch")),
        **dict.fromkeys(("steps", "out_steps"), "i8"),
    },
    "rows runs columns wide chunks depth pitch",
)


@helper
def fill_tail(s, count, valid, width, value):
    """s[r*COLUMNS + j] = value for valid <= j < width."""
    for r in range(count):
        for j in range(valid, width):
            s[r * COLUMNS + j] = value


@helper
def part_of_rows(a, chunk, MR):
    """The first row of a chunk and its number of rows: whole register tiles, and what is left in the last chunk."""
    first = a.runs * chunk // a.chunks * MR
    return first, (a.rows if chunk == a.chunks - 1 else a.runs * (chunk + 1) // a.chunks * MR) - first


@cache
def make_softmax_rows(dtype):
    """Softmax of a block of scores, given the running maxima and sums."""
    LANES, ZERO = lanes(dtype), np.dtype(dtype).type(0)

    @helper
    def softmax_rows(s, count, width, most, total, y, yi, pitch):
        """s = e^(s - most), total += its sums; `most` grows first, and then total and y's rows shrink."""
        for r in range(count):
            new = reduce_run(s, r * COLUMNS, width, MAX_NAN)
            if new < most[r]:
                new = most[r]
            shrink, shift, acc = np.exp(most[r] - new), splat_vector(s, new), splat_vector(s, ZERO)
            for v in range(r * COLUMNS, r * COLUMNS + width, LANES):
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
        first, count = part_of_rows(a, chunk, MR)
        out = (image * a.rows + first) * a.pitch
        y[out : out + count * a.pitch] = ZERO
        most[:count], total[:count] = -INF, ZERO
        wide = a.wide
        for j in range(0, wide, COLUMNS):
            width = min(COLUMNS, wide - j)
            scores(
                *(theta, image * a.depth * a.rows + first, 1, count, phi, image * a.depth * wide + j, width),
                *(steps, 0, a.depth, s, 0, COLUMNS, zeros, 0, False),
            )
            fill_tail(s, count, a.columns - j, width, -INF)
            if FUNCTION == SOFTMAX:
                softmax_rows(s, count, width, most, total, y, out, a.pitch)
            else:
                for v in range(0, count * COLUMNS, LANES):
                    store_vector(relu_vector(load_vector(s, v)), s, v)
            out_product(
                *(s, 0, COLUMNS, count, g, (image * wide + j) * a.pitch, a.pitch, out_steps, 0, width),
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
        **dict.fromkeys(("phi", "g", "theta", "gy", "phi_last", "theta_last", "gy_last", "log", "dot")),
        **dict.fromkeys(("gphi", "gg", "share", "zeros", "scratch")),
        **dict.fromkeys(("steps", "out_steps", "out_steps_g", "turned_steps"), "i8"),
    },
    "rows runs wide_rows columns wide chunks groups depth depth_g pitch pitch_g",
    "scale",
)


@cache
def make_score_gradients(dtype, FUNCTION):
    """From scores and products of gy and g to p and ds, in place."""
    LANES = lanes(dtype)

    @helper
    def score_gradients(s, d, count, width, log, dot, stat, scale):
        """s becomes p and d becomes ds; the columns of the block are positions i, of log[stat] and dot[stat] on."""
        weight = splat_vector(s, s.dtype.type(scale))
        for r in range(count):
            for v in range(0, width, LANES):
                i = r * COLUMNS + v
                score, product = load_vector(s, i), load_vector(d, i)
                if FUNCTION == RELU:
                    store_vector(mul_vector(relu_vector(score), weight), s, i)
                    store_vector(mul_vector(mul_vector(step_vector(score), weight), product), d, i)
                else:
                    p = exp_vector(sub_vector(score, load_vector(log, stat + v)))
                    store_vector(p, s, i)
                    store_vector(mul_vector(p, sub_vector(product, load_vector(dot, stat + v))), d, i)

    return score_gradients


@cache
def make_backward(dtype, MR, NRS, FUNCTION):
    """The backward pass; NRS: vectors of a register tile for scores, gradients of theta and phi, and gradients of g."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)
    ZERO, INF = np.dtype(dtype).type(0), np.dtype(dtype).type(np.inf)
    scores, product = make_panel_product(MR, NRS[0], LANES), make_panel_product(MR, NRS[1], LANES)
    product_g, score_gradients = make_panel_product(MR, NRS[2], LANES), make_score_gradients(dtype, FUNCTION)

    @tile_body(BackwardBlock, dtype)
    def non_local_bwd_streaming(block, tile, worker):
        """Rows are positions j, columns positions i.  Tile: (image, group of rows): their gphi and gg, and their share
        of gtheta.
        """
        a = fields(block)
        phi, g = array_at(a.phi, a.phi_size, KIND), array_at(a.g, a.g_size, KIND)
        theta, gy = array_at(a.theta, a.theta_size, KIND), array_at(a.gy, a.gy_size, KIND)
        theta_last, gy_last = array_at(a.theta_last, a.theta_last_size, KIND), array_at(a.gy_last, a.gy_last_size, KIND)
        phi_last, share = array_at(a.phi_last, a.phi_last_size, KIND), array_at(a.share, a.share_size, KIND)
        gphi, gg = array_at(a.gphi, a.gphi_size, KIND), array_at(a.gg, a.gg_size, KIND)
        log, dot = array_at(a.log, a.log_size, KIND), array_at(a.dot, a.dot_size, KIND)
        zeros, steps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.steps, a.steps_size, "i8")
        out_steps = array_at(a.out_steps, a.out_steps_size, "i8")
        out_steps_g = array_at(a.out_steps_g, a.out_steps_g_size, "i8")
        turned_steps = array_at(a.turned_steps, a.turned_steps_size, "i8")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        d = s[ROWS * COLUMNS :]
        image, group = tile // a.groups, tile % a.groups
        wide, share_at = a.wide, tile * a.wide * a.pitch
        share[share_at : share_at + wide * a.pitch] = ZERO
        for chunk in range(a.chunks * group // a.groups, a.chunks * (group + 1) // a.groups):
            first, count = part_of_rows(a, chunk, MR)
            row, last = image * a.rows + first, (image * a.wide_rows + first) * a.pitch
            for j in range(0, wide, COLUMNS):
                width, add = min(COLUMNS, wide - j), j > 0
                scores(
                    *(phi, image * a.depth * a.rows + first, 1, count, theta, image * a.depth * wide + j, width),
                    *(steps, 0, a.depth, s, 0, COLUMNS, zeros, 0, False),
                )
                scores(
                    *(g, image * a.depth_g * a.rows + first, 1, count, gy, image * a.depth_g * wide + j, width),
                    *(steps, 0, a.depth_g, d, 0, COLUMNS, zeros, 0, False),
                )
                fill_tail(s, count, a.columns - j, width, -INF)
                score_gradients(s, d, count, width, log, dot, image * wide + j, a.scale)
                product(
                    *(d, 0, COLUMNS, count, theta_last, (image * wide + j) * a.pitch, a.pitch, out_steps, 0, width),
                    *(gphi, row * a.pitch, a.pitch, zeros, 0, add),
                )
                product_g(
                    *(s, 0, COLUMNS, count, gy_last, (image * wide + j) * a.pitch_g, a.pitch_g, out_steps_g, 0, width),
                    *(gg, row * a.pitch_g, a.pitch_g, zeros, 0, add),
                )
                product(
                    *(d, 0, 1, width, phi_last, last, a.pitch, turned_steps, 0, count),
                    *(share, share_at + j * a.pitch, a.pitch, zeros, 0, True),
                )

    return non_local_bwd_streaming


# ---- programs


def _pitch(depth, dtype):
    return split(depth, lanes(dtype)) * lanes(dtype)


def _padded(x, fill=0.0):
    """x (n, k, positions) or (n, positions) with positions filled up to whole vectors."""
    wide = _pitch(x.shape[-1], x.dtype)
    if wide == x.shape[-1]:
        return x
    out = np.full((*x.shape[:-1], wide), fill, x.dtype)
    out[..., : x.shape[-1]] = x
    return out


def _turned(x):
    """(row, x (n, k, positions) as (n, positions, pitch)), positions filled up with zeros to whole vectors."""
    n, k, positions = x.shape
    wide = _pitch(positions, x.dtype)
    out = _memory.empty((n, wide, _pitch(k, x.dtype)), x.dtype)
    return layout_row(x, out, k, positions, wide - positions), out


def _back(x, depth):
    """(row, array): (n, positions, pitch) as (n, depth, positions)."""
    out = _memory.empty((x.shape[0], depth, x.shape[1]), x.dtype)
    return layout_row(out, x, depth, x.shape[1], 0, back=True), out


def _steps(count, left, right):
    return np.stack([np.arange(count) * left, np.arange(count) * right], axis=1).ravel()


def _shape(rows, columns, MR, dtype):
    runs = max(1, rows // MR)
    chunks = split(runs * MR, PART_ROWS)
    return {"rows": rows, "runs": runs, "chunks": chunks, "columns": columns, "wide": _pitch(columns, dtype)}


def _register_tiles(rows, *vectors):
    """(MR, NR of each product) of products of as many vectors, on the same rows."""
    shapes = {register_tile(min(rows, PART_ROWS), count)[0] for count in vectors}
    MR = min(shapes)
    return MR, *(balanced(count, isa.tile(MR)[1] if MR != 6 else 4) for count in vectors)


def forward_rows(theta, phi, g, function):
    """(rows, finish): finish() gives y (n, e, rows) and the logarithms (n, rows) once the rows have run."""
    (n, depth, rows), (_, e, columns), dtype = theta.shape, g.shape, theta.dtype.name
    pitch = _pitch(e, dtype)
    MR, NR, out_NR = _register_tiles(rows, COLUMNS // lanes(dtype), pitch // lanes(dtype))
    shape = _shape(rows, columns, MR, dtype)
    last, log = _memory.empty((n, rows, pitch), dtype), np.empty((n, rows), dtype)
    (turn, g_last), (back, y) = _turned(g), _back(last, e)
    values = {
        **{"theta": theta, "phi": _padded(phi), "g": g_last, "y": last, "log": log, "zeros": zeros(ROWS, dtype)},
        **{"steps": _steps(depth, rows, shape["wide"]), "out_steps": _steps(COLUMNS, 1, pitch)},
        **shape,
        **{"depth": depth, "pitch": pitch},
    }
    work, scratch = n * rows * columns * ((depth + e) / 50 + 0.5), ROWS * COLUMNS + 2 * ROWS
    row = Row(make_forward(dtype, MR, NR, out_NR, function), n * shape["chunks"], values, work, scratch)
    return (turn, row, back), lambda: (y, log)


def backward_rows(theta, phi, g, y, log, gy, function):
    """(rows, finish): finish() gives (gtheta, gphi, gg) once the rows have run."""
    (n, depth, columns), (_, e, rows), dtype = theta.shape, g.shape, theta.dtype.name
    pitch, pitch_g = _pitch(depth, dtype), _pitch(e, dtype)
    MR, *sizes = _register_tiles(rows, *(width // lanes(dtype) for width in (COLUMNS, pitch, pitch_g)))
    shape = _shape(rows, columns, MR, dtype)
    groups = min(shape["chunks"], max(LEAST_GROUPS, SHARES // (shape["wide"] * pitch)))
    share = _memory.empty((n, groups, shape["wide"], pitch), dtype)
    last, last_g = _memory.empty((n, rows, pitch), dtype), _memory.empty((n, rows, pitch_g), dtype)
    turns, turned = zip(*map(_turned, (phi, theta, gy)), strict=True)
    backs, (gphi, gg) = zip(_back(last, depth), _back(last_g, e), strict=True)
    # a column that only fills up a vector has p = e^(0 - infinity) = 0
    dot = np.einsum("nci,nci->ni", gy, y)
    values = {
        **{"phi": phi, "g": g, "theta": _padded(theta), "gy": _padded(gy)},
        **dict(zip(("phi_last", "theta_last", "gy_last"), turned, strict=True)),
        **{"log": _padded(log, np.inf), "dot": _padded(dot), "gphi": last, "gg": last_g, "share": share},
        **{"zeros": zeros(COLUMNS, dtype), "steps": _steps(max(depth, e), rows, shape["wide"])},
        **{"out_steps": _steps(COLUMNS, 1, pitch), "out_steps_g": _steps(COLUMNS, 1, pitch_g)},
        **{"turned_steps": _steps(ROWS, COLUMNS, pitch), "wide_rows": _pitch(rows, dtype), "groups": groups},
        **{**shape, "depth": depth, "depth_g": e, "pitch": pitch, "pitch_g": pitch_g, "scale": 1 / rows},
    }
    work = n * rows * columns * ((3 * depth + 2 * e) / 50 + 0.5)
    body = make_backward(dtype, MR, tuple(sizes), function)
    row = Row(body, n * groups, values, work, 2 * ROWS * COLUMNS)

    def finish():
        total = share[:, 0]
        for group in range(1, groups):
            total += share[:, group]
        back, gtheta = _back(np.ascontiguousarray(total[:, :columns]), depth)
        launch(back)
        return gtheta, gphi, gg

    return (*turns, row, *backs), finish


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
        rows, buffers["finish"] = forward_rows(**buffers, function=spec.function)
        return rows


@implements("non_local.bwd", rank=90)
class NonLocalBackward(Impl):
    """All three gradients, the scores computed again once."""

    name = "non_local_bwd_streaming"

    @staticmethod
    def cost(spec):
        return 4 * NonLocalForward.cost(spec)

    @staticmethod
    def emit(spec, buffers):
        rows, buffers["finish"] = backward_rows(**buffers, function=spec.function)
        return rows
