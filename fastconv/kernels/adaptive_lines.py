"""Adaptive pooling of narrow planes, forward and the gradient of means: whole rows as vectors, columns by permutation.

Forward, the rows of a window are combined first; two such rows, or the halves of one that is twice as wide, are the
operands of one permutation for each column of a window.  Backward, a row of gradients is spread over the columns, and
each row of the image is the sum of the spread rows that hold it.
"""

from functools import lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, isa, lanes, load_vector, load_window, store_vector
from ..simd_math import max_vector
from ..simd_permute import pick_pair
from ..simd_vector import add_vector, mul_vector, splat_vector, store_window
from .adaptive_pool import columns_of, mean_tables
from .window import SIZES, rows_per_tile, sizes

SUM, MAX = 0, 1
MOST_TAPS = 8  # columns of a window: each is a permutation in the code
MOST_SPREAD = 256  # vectors of spread rows, which stay in the nearest cache

LinesBlock = Block(
    "AdaptiveLines", {"x": None, "y": None, "weights": None, "spans": "i8", "places": "i4"}, f"{SIZES} planes part"
)
LinesBackwardBlock = Block(
    "AdaptiveLinesBackward",
    {"gx": None, "gy": None, "shares": None, "columns": None, "depths": "i8", "lines": "i8", "places": "i4"}
    | {"scratch": None},
    f"{SIZES} planes part",
)


@lru_cache
def make_adaptive_lines(dtype, OP, K, PAIR):
    """K: columns of the widest window.  PAIR: two output rows at once, else one of twice the width."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)
    combine = max_vector if OP == MAX else add_vector

    @helper
    def combined(x, corner, deep, high, area, iw, count):
        """x[corner + d*area + h*iw + lane] combined over d < deep and h < high; `count` lanes of it."""
        total = load_window(x, corner, 1, 0, count, 1)
        at, left = corner, high
        for _ in range(deep * high - 1):
            at, left = at + iw, left - 1
            if left == 0:
                at, left = at + area - high * iw, high
            total = combine(total, load_window(x, at, 1, 0, count, 1))
        return total

    @tile_body(LinesBlock, dtype)
    def adaptive_pool_fwd_lines(block, tile, worker):
        """y[p, o, j] = the maximum or the mean of window (o, j).  Tile: `part` planes."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        weights, spans = array_at(a.weights, a.weights_size, KIND), array_at(a.spans, a.spans_size, "i8")
        places = array_at(a.places, a.places_size, "i4")
        iw, ow, area, rows = a.iw, a.ow, a.ih * a.iw, a.od * a.oh
        for plane in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            start = plane * a.id * area
            for o in range(0, rows, 1 + PAIR):
                other, right = (min(o + 1, rows - 1), 0) if PAIR else (o, LANES)
                deep, high = spans[4 * o + 1] - spans[4 * o], spans[4 * o + 3] - spans[4 * o + 2]
                corner = start + spans[4 * o] * area + spans[4 * o + 2] * iw
                first = combined(x, corner, deep, high, area, iw, iw)
                deep, high = spans[4 * other + 1] - spans[4 * other], spans[4 * other + 3] - spans[4 * other + 2]
                corner = start + spans[4 * other] * area + spans[4 * other + 2] * iw + right
                second = combined(x, corner, deep, high, area, iw, iw - right)
                total = pick_pair(first, second, places, 0)
                for k in range(1, K):
                    total = combine(total, pick_pair(first, second, places, k * LANES))
                if OP == SUM:
                    total = mul_vector(total, load_vector(weights, o // (1 + PAIR) * LANES))
                store_window(total, y, (plane * rows + o) * ow, min(1 + PAIR, rows - o) * ow)

    return adaptive_pool_fwd_lines


@lru_cache
def make_spread_lines(dtype, K, VECTORS):
    """K: the most windows that hold a column.  VECTORS: of a row of the image."""
    KIND, ITEM, LANES = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize, lanes(dtype)

    @tile_body(LinesBackwardBlock, dtype)
    def adaptive_avg_pool_bwd_lines(block, tile, worker):
        """gx[p, d, h, w] = the sum of gy / pixels over the windows that hold it.  Tile: `part` planes."""
        a = fields(block)
        gx, gy = array_at(a.gx, a.gx_size, KIND), array_at(a.gy, a.gy_size, KIND)
        shares, columns = array_at(a.shares, a.shares_size, KIND), array_at(a.columns, a.columns_size, KIND)
        depths, lines = array_at(a.depths, a.depths_size, "i8"), array_at(a.lines, a.lines_size, "i8")
        places = array_at(a.places, a.places_size, "i4")
        s = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        iw, ow, oh, rows = a.iw, a.ow, a.oh, a.od * a.oh
        for plane in range(tile * a.part, min((tile + 1) * a.part, a.planes)):
            for o in range(rows):
                at, share = (plane * rows + o) * ow, splat_vector(s, shares[o])
                first = mul_vector(mul_vector(load_window(gy, at, 1, 0, ow, 1), load_vector(columns, 0)), share)
                right = load_window(gy, at + LANES, 1, 0, ow - LANES, 1)
                second = mul_vector(mul_vector(right, load_vector(columns, LANES)), share)
                for v in range(VECTORS):
                    total = pick_pair(first, second, places, v * K * LANES)
                    for k in range(1, K):
                        total = add_vector(total, pick_pair(first, second, places, (v * K + k) * LANES))
                    store_vector(total, s, (o * VECTORS + v) * LANES)
            for d in range(a.id):
                for h in range(a.ih):
                    xi = ((plane * a.id + d) * a.ih + h) * iw
                    for v in range(VECTORS):
                        total = load_vector(s, ((depths[2 * d] * oh + lines[2 * h]) * VECTORS + v) * LANES)
                        for z in range(depths[2 * d], depths[2 * d + 1]):
                            for i in range(lines[2 * h] + (z == depths[2 * d]), lines[2 * h + 1]):
                                total = add_vector(total, load_vector(s, ((z * oh + i) * VECTORS + v) * LANES))
                        store_window(total, gx, xi + v * LANES, iw - v * LANES)

    return adaptive_avg_pool_bwd_lines


# ---- implementations


def _refusal(spec):
    if isa.name != "avx512":
        return "needs permutations of two vectors, which AVX-512 has"
    if 0 in (spec.planes, spec.in_pixels, spec.out_pixels):
        return "needs an image"
    if spec.iw > 2 * lanes(spec.dtype) or spec.ow > spec.iw:
        return f"needs at most {2 * lanes(spec.dtype)} columns, and no more of them out than in"
    return None


def _pairs(spec):
    return spec.iw <= lanes(spec.dtype) and 2 * spec.ow <= lanes(spec.dtype)


def _frozen(tables):
    for table in tables.values():
        table.flags.writeable = False
    return tables


@lru_cache(maxsize=256)
def _forward_tables(spec, op):
    """(columns of the widest window, tables): where each output finds the columns of its window, in two vectors; for
    means their shares."""
    LANES, pair = lanes(spec.dtype), _pairs(spec)
    window = columns_of(spec.iw, spec.ow)
    first, counts = window["first"], window["end"] - window["first"]
    taps = np.arange(counts.max())[:, None]
    nothing = -1 if op == SUM else first  # a maximum may as well see its first column twice
    one = np.where(taps < counts, first + taps, nothing)
    places = np.full((len(taps), LANES), -1, np.int32)
    places[:, : spec.ow] = one
    mean = mean_tables(spec)
    shares = mean["shares"][:, None] * mean["column_shares"]
    if pair:
        places[:, spec.ow : 2 * spec.ow] = np.where(one < 0, -1, one + LANES)
        shares = np.concatenate([shares, shares[: len(shares) % 2]]).reshape(-1, 2 * spec.ow)
    weights = np.zeros((len(shares), LANES), spec.dtype)
    weights[:, : shares.shape[1]] = shares
    return len(taps), _frozen({"places": places.ravel(), "weights": weights.ravel()})


def _holding(size, out):
    """(first, end) of the windows that hold each position: two columns."""
    window = columns_of(size, out)
    inside = (window["first"] <= np.arange(size)[:, None]) & (np.arange(size)[:, None] < window["end"])
    return np.stack([inside.argmax(1), inside.argmax(1) + inside.sum(1)], 1)


@lru_cache(maxsize=256)
def _backward_tables(spec):
    """(the most windows that hold a column, tables): those that hold each depth, row and column, and the shares."""
    LANES = lanes(spec.dtype)
    depths, lines, holding = (_holding(*pair) for pair in ((spec.id, spec.od), (spec.ih, spec.oh), (spec.iw, spec.ow)))
    taps = np.arange((holding[:, 1] - holding[:, 0]).max())[:, None]
    vectors = -(-spec.iw // LANES)
    places = np.full((len(taps), vectors * LANES), -1, np.int32)
    places[:, : spec.iw] = np.where(taps < holding[:, 1] - holding[:, 0], holding[:, 0] + taps, -1)
    places = places.reshape(len(taps), vectors, LANES).swapaxes(0, 1)
    mean = mean_tables(spec)
    columns = np.zeros(2 * LANES, spec.dtype)
    columns[: spec.ow] = mean["column_shares"]
    tables = {"places": places.ravel(), "columns": columns, "depths": depths.ravel(), "lines": lines.ravel()}
    return len(taps), {**_frozen(tables), "shares": mean["shares"]}


class _Lines(Impl):
    op = SUM

    @classmethod
    def when(cls, spec):
        if spec.indices:
            return "gives no indices"
        refused = _refusal(spec)
        if refused is None and (spec.ow > lanes(spec.dtype) or _forward_tables(spec, cls.op)[0] > MOST_TAPS):
            return f"needs windows at most {MOST_TAPS} wide and at most {lanes(spec.dtype)} columns out"
        return refused

    @classmethod
    def _work(cls, spec):
        """Nanoseconds of a plane: a vector of each row of each window, then the steps."""
        rows = (-(-spec.id // spec.od) + 0.5) * (spec.ih / spec.oh + 0.7)
        taps, pair = _forward_tables(spec, cls.op)[0], _pairs(spec)
        steps = -(-spec.od * spec.oh // (1 + pair))
        return 3 + steps * (2.5 + 0.7 * rows + 0.6 * taps)

    @classmethod
    def cost(cls, spec):
        return spec.planes * cls._work(spec)

    @classmethod
    def emit(cls, spec, buffers):
        taps, tables = _forward_tables(spec, cls.op)
        part = rows_per_tile(spec.planes, cls._work(spec))
        values = {"x": buffers["x"], "y": buffers["y"], **tables, "spans": mean_tables(spec)["spans"], **sizes(spec)}
        body = make_adaptive_lines(spec.dtype, cls.op, taps, int(_pairs(spec)))
        return [Row(body, -(-spec.planes // part), {**values, "planes": spec.planes, "part": part}, cls.cost(spec))]


@implements("adaptive_avg_pool.fwd", rank=12)
class LinesAverage(_Lines):
    """Planes of few columns."""

    name = "adaptive_avg_pool_fwd_lines"


@implements("adaptive_max_pool.fwd", rank=12)
class LinesMaximum(_Lines):
    """Planes of few columns, values alone."""

    name, op = "adaptive_max_pool_fwd_lines", MAX


@implements("adaptive_avg_pool.bwd", rank=12)
class LinesAverageBackward(Impl):
    """Planes of few columns."""

    name = "adaptive_avg_pool_bwd_lines"

    @staticmethod
    def when(spec):
        if spec.od * spec.oh * -(-spec.iw // lanes(spec.dtype)) > MOST_SPREAD:
            return f"needs rows of gradients that take at most {MOST_SPREAD} vectors"
        return _refusal(spec)

    @staticmethod
    def _work(spec):
        vectors, taps = -(-spec.iw // lanes(spec.dtype)), _backward_tables(spec)[0]
        return 3 + spec.od * spec.oh * (2 + vectors * (1 + 0.6 * taps)) + 2.5 * spec.id * spec.ih * vectors

    @staticmethod
    def cost(spec):
        return spec.planes * LinesAverageBackward._work(spec)

    @staticmethod
    def emit(spec, buffers):
        LANES, work = lanes(spec.dtype), LinesAverageBackward._work(spec)
        taps, tables = _backward_tables(spec)
        vectors, part = -(-spec.iw // LANES), rows_per_tile(spec.planes, work)
        values = {"gx": buffers["gx"], "gy": buffers["gy"], **tables, **sizes(spec)}
        values |= {"planes": spec.planes, "part": part}
        body, scratch = make_spread_lines(spec.dtype, taps, vectors), spec.od * spec.oh * vectors * LANES
        return [Row(body, -(-spec.planes // part), values, spec.planes * work, scratch)]
