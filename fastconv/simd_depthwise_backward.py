"""The gradients of a depthwise convolution as register operations, on the tables and tiles of `simd_depthwise.py`."""

from itertools import product

from numba.core import cgutils, types

from . import _config
from .simd_depthwise import _alive, _bit, _entries, _Lines, _Numbers, _row_masks, _Taps, _users
from .simd_place import Place, _below, _between, _clip, _fma, _i64, _literals, _splat, _vec_of, operation
from .simd_window import _check_run, _interleave, _ints

# ---- the gradient of the weights


@operation
def load_rows(typing, y, yi, y_row, keep, columns, R, EDGE, FLAT):
    """R vectors y[yi + m*y_row + i]; with EDGE zeros for rows without a bit in `keep` and columns
    i >= columns (FLAT: m*LANES + i)."""
    sizes = _literals(R, EDGE, FLAT)
    if sizes is None:
        return None
    count, edge, flat = sizes
    vec = _vec_of(y)

    def codegen(context, b, sig, args):
        place, (y_row, keep, columns) = Place(context, b, y, args[0], args[1]), args[2:5]
        if not edge:
            tile = [place.load(b.mul(y_row, _i64(m))) for m in range(count)]
            return context.make_tuple(b, sig.return_type, tile)
        tile = []
        for m, (whether, run, _) in enumerate(_row_masks(b, vec, keep, columns, count, flat)):
            run, offset = b.select(whether, run, _i64(0)), b.mul(y_row, _i64(m))
            _check_run(b, place, offset, run)
            tile.append(place.masked_load(offset, _below(b, vec, run)))
        return context.make_tuple(b, sig.return_type, tile)

    n = types.intp
    return types.UniTuple(vec, count)(y, n, n, n, n, R, EDGE, FLAT), codegen


@operation
def collect_rows(
    typing, gy, x, xi, x_row, valid, vi, left, right, step, columns, s, si, w_row, w_col, table, first1, last1, first2,
    last2, K1, G1, K2, G2, SH, SW, R, EDGE, FLAT,
):  # fmt: skip
    """What `slide_rows` adds up, the other way round: the vectors of s grow by products of gy and x, lane by lane.

        s[si + (e.weights + r*w_row + g*w_col)*LANES + i] +=
            the sum over m < R of gy[m][i] * x[xi + e.element + (m*SH + r)*x_row + g + i*SW]

    EDGE: as there, and lanes i >= columns (FLAT: m*LANES + i) take no part.
    """
    sizes = _literals(K1, G1, K2, G2, SH, SW, R, EDGE, FLAT)
    if sizes is None:
        return None
    k1, g1, k2, g2, sh, sw, count, edge, flat = sizes
    vec = _vec_of(x)

    def codegen(context, b, sig, args):
        place, sums = Place(context, b, x, args[1], args[2]), Place(context, b, s, args[10], args[11])
        tile, inside = cgutils.unpack_tuple(b, args[0], count), _Numbers(context, b, valid, args[4], args[5])
        masks = [_below(b, vec, b.sub(args[9], _i64(m * vec.lanes if flat else 0))) for m in range(count)]
        for k, g, first, last in ((k1, g1, *args[15:17]), (k2, g2, *args[17:19])):
            lines = _Lines(b, place, inside, (args[3], *args[6:9]), (g, sw, edge, flat))
            for offset, column, group, weight in _entries(context, b, table, args[14], first, last) if k else ():
                lines.begin(offset, column, group)
                acc = {}
                for r, c in product(range(k), range(g)):
                    at = b.add(weight, b.add(b.mul(args[12], _i64(r)), b.mul(args[13], _i64(c))))
                    at = b.mul(at, _i64(vec.lanes))
                    acc[r, c] = at, cgutils.alloca_once_value(b, sums.load(at))
                for t in range((count - 1) * sh + k):
                    users = _users(t, count, k, sh)
                    with _alive(b, lines.inside(t)):
                        for c, value in enumerate(lines.taps(t) if users else ()):
                            for m, r in users:
                                old = b.load(acc[r, c][1])
                                new = _fma(b, vec, tile[m], value, old)
                                b.store(b.select(masks[m], new, old) if edge else new, acc[r, c][1])
                for at, value in acc.values():
                    sums.store(b.load(value), at)
        return context.get_dummy_value()

    n = types.intp
    arguments = (gy, x, n, n, valid, *[n] * 5, s, n, n, n, table, *[n] * 4, K1, G1, K2, G2, SH, SW, R, EDGE, FLAT)
    return types.void(*arguments), codegen


@operation
def sum_lanes(typing, s, si, y, yi, count):
    """y[yi + j] = the sum of the lanes of the vector s[si + j*LANES], for j < count, at most LANES.

    LANES vectors are read; halves of pairs of them are added until one is left, in a fixed order.
    """

    def codegen(context, b, sig, args):
        source, target = Place(context, b, s, args[0], args[1]), Place(context, b, y, args[2], args[3])
        vec = source.vec
        values, block = [source.load(_i64(j * vec.lanes)) for j in range(vec.lanes)], vec.lanes
        while block > 1:
            half, rest = block // 2, len(values) // 2
            # lane by lane: the lower half of a block of the one vector, then that of the other
            low = [(i % block // half) * vec.lanes + i // block * block + i % half for i in range(vec.lanes)]
            pairs = zip(values[:rest], values[rest:], strict=True)
            values = [
                b.fadd(
                    b.shuffle_vector(one, other, _ints(vec, low)),
                    b.shuffle_vector(one, other, _ints(vec, [i + half for i in low])),
                )
                for one, other in pairs
            ]
            block = half
        _check_run(b, target, _i64(0), args[4])
        target.masked_store(values[0], _i64(0), _below(b, vec, args[4]))
        return context.get_dummy_value()

    return types.void(s, types.intp, y, types.intp, types.intp), codegen


# ---- the data gradient with strides


@operation
def spread_rows(
    typing, acc, x, xi, x_row, valid, vi, left, right, w, wi, w_row, table, first1, last1, first2, last2, first3, last3,
    first4, last4, K1, K2, SW, PART, R, EDGE,
):  # fmt: skip
    """acc[c*R + m][i] + the sum over entries e = first1 .. last1-1 and row taps r < K1 of

        w[wi + e.weights + r*w_row + c] * x[xi + e.element + (m + r)*x_row + i]

    for classes of columns c < SW; over those of first2, last2 and K1 for c < PART alone; then over the other two ranges
    likewise, with K2.  EDGE as in `slide_rows`.
    """
    sizes = _literals(K1, K2, SW, PART, R, EDGE)
    if sizes is None:
        return None
    k1, k2, sw, part, count, edge = sizes
    vec = _vec_of(x)

    def codegen(context, b, sig, args):
        place, weights = Place(context, b, x, args[1], args[2]), Place(context, b, w, args[8], args[9])
        taps, one = _Taps(b, weights, args[10], _i64(1)), _i64(1)
        inside = _Numbers(context, b, valid, args[4], args[5])
        lines = _Lines(b, place, inside, (args[3], *args[6:8], one), (1, 1, edge, 0))
        tile = [cgutils.alloca_once_value(b, value) for value in cgutils.unpack_tuple(b, args[0], sw * count)]
        for n, (k, g) in enumerate(((k1, sw), (k1, part), (k2, sw), (k2, part))):
            first, last = args[12 + 2 * n : 14 + 2 * n]
            for offset, column, group, weight in _entries(context, b, table, args[11], first, last) if k * g else ():
                lines.begin(offset, column, group)
                splats = taps.take(weight, k, g)
                for t in range(count - 1 + k):
                    with _alive(b, lines.inside(t)):
                        (value,) = lines.taps(t)
                        for c, (m, r) in product(range(g), _users(t, count, k, 1)):
                            sums = tile[c * count + m]
                            b.store(_fma(b, vec, splats[r, c], value, b.load(sums)), sums)
        return context.make_tuple(b, sig.return_type, [b.load(value) for value in tile])

    n = types.intp
    return acc(acc, x, n, n, valid, n, n, n, w, n, n, table, *[n] * 8, K1, K2, SW, PART, R, EDGE), codegen


@operation
def weave_rows(typing, acc, y, yi, y_row, keep, first, columns, accumulate, low, high, SW, R, EDGE):
    """y[yi + m*y_row + i*SW + c] = acc[c*R + m][i] for c < SW, no less than `low`, no more than `high`.

    With `accumulate` the old value of y is added first.  EDGE: only rows whose bit in `keep` is set and columns
    first <= i*SW + c < columns are touched.
    """
    sizes = _literals(SW, R, EDGE)
    if sizes is None:
        return None
    sw, count, edge = sizes
    vec = _vec_of(y)

    def codegen(context, b, sig, args):
        tile, target = cgutils.unpack_tuple(b, args[0], sw * count), Place(context, b, y, args[1], args[2])
        y_row, keep, first, columns, accumulate = args[3:8]
        low, high = (_splat(b, vec, v) for v in args[8:10])
        masks = [_between(b, vec, first, columns, p * vec.lanes) for p in range(sw)]
        add = b.icmp_signed("!=", accumulate, _i64(0))
        for m in range(count):
            with _alive(b, _bit(b, keep, m) if edge else None):
                for p, value in enumerate(_interleave(b, vec, tile[m::count])):
                    at = b.add(b.mul(y_row, _i64(m)), _i64(p * vec.lanes))
                    _check_part(b, target, at, first, columns, p * vec.lanes)
                    place = cgutils.alloca_once_value(b, value)
                    with b.if_then(add, likely=False):
                        b.store(b.fadd(value, target.masked_load(at, masks[p])), place)
                    value = _clamp(b, b.load(place), low, high)
                    if edge:
                        target.masked_store(value, at, masks[p])
                    else:
                        target.store(value, at)
        return context.get_dummy_value()

    n = types.intp
    return types.void(acc, y, *[n] * 6, y.dtype, y.dtype, SW, R, EDGE), codegen


def _clamp(b, value, low, high):
    """No less than low, no more than high; NaN stays NaN."""
    value = b.select(b.fcmp_ordered(">", low, value), low, value)
    return b.select(b.fcmp_ordered("<", high, value), high, value)


def _check_part(b, place, offset, first, columns, skipped):
    """In debug mode: those of a vector's lanes that are in [first, columns) must lie inside the array."""
    if _config.DEBUG:
        low, high = (_clip(b, b.sub(v, _i64(skipped)), _i64(0), _i64(place.vec.lanes)) for v in (first, columns))
        with b.if_then(b.icmp_signed("<", low, high)):
            place.scalar(b.add(offset, low))
            place.scalar(b.add(offset, b.sub(high, _i64(1))))
