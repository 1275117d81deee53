"""The transforms of the Winograd weight gradient, LANES tiles or sums at a time; their transposed forms are in
`simd_winograd.py`, whose points and conventions they share.

With y = A^T [(G w G^T) * (B^T d B)] A,  the gradient is  gw = G^T [sum over tiles of (A gy A^T) * (B^T d B)] G.
"""

from llvmlite import ir
from numba.core import cgutils, types

from .simd_place import Place, _const, _fma, _i32, _i64, _literals, _vec_of, operation
from .simd_python_winograd import WINOGRAD_POINTS, winograd_sizes
from .simd_winograd import _load_between, _split, _sum, weight_scales
from .simd_winograd_pieces import _piece_loader, _rows_of_pieces


def _gradient_line(b, vec, y, points):
    """A y: the polynomial with coefficients y at the points."""
    lines = [y[0]]
    for p in points:
        even = _sum(b, vec, [(p**k, y[k]) for k in range(0, len(y), 2)])
        odd = _sum(b, vec, [(p**k, y[k]) for k in range(1, len(y), 2)])
        lines += [b.fadd(even, odd), b.fsub(even, odd)]
    return [*lines, y[-1]]


def _weight_gradient_line(b, vec, u, form):
    """G^T u."""
    points = WINOGRAD_POINTS[form]
    first, scales = weight_scales(form)
    sums = [b.fadd(u[2 * i + 1], u[2 * i + 2]) for i in range(len(points))]
    differences = [b.fsub(u[2 * i + 1], u[2 * i + 2]) for i in range(len(points))]
    pairs = list(zip(points, scales, sums, differences, strict=True))
    return [
        _sum(b, vec, [(first, u[0]), *((scale, s) for _, scale, s, _ in pairs)]),
        _sum(b, vec, [(scale * p, d) for p, scale, _, d in pairs]),
        _sum(b, vec, [(1, u[-1]), *((scale * p * p, s) for p, scale, s, _ in pairs)]),
    ]


@operation
def winograd_gradient_row(typing, gy, gi, high, r, ri, pitch, F):
    """r[ri + j*pitch : +LANES] = (A g)[j] for the row g = gy[gi + M*lane : +M] of each tile; pixels from gi + high
    on are 0 and not read."""
    sizes = _literals(F)
    if sizes is None:
        return None
    (_, size, _), points = winograd_sizes(sizes[0]), WINOGRAD_POINTS[sizes[0]]

    def codegen(context, b, sig, args):
        source, target = Place(context, b, gy, *args[0:2]), Place(context, b, r, *args[3:5])
        starts = range(0, size * source.vec.lanes, source.vec.lanes)
        pixels = [_load_between(b, source, _i64(0), args[2], start) for start in starts]
        for j, value in enumerate(_gradient_line(b, source.vec, _split(b, pixels), points)):
            target.store(value, b.mul(args[5], _i64(j)))
        return context.get_dummy_value()

    return types.void(gy, types.intp, types.intp, r, types.intp, types.intp, F), codegen


@operation
def winograd_gradient_pieces(typing, gy, gi, table, ti, step, yd, yh, yw, r, ri, pitch, F, N):
    """`winograd_gradient_row` for all rows of LANES tiles in N pieces, as `winograd_pieces`."""
    sizes = _literals(F, N)
    if sizes is None:
        return None
    (alpha, size, _), count, points = winograd_sizes(sizes[0]), sizes[1], WINOGRAD_POINTS[sizes[0]]

    def codegen(context, b, sig, args):
        target = Place(context, b, r, *args[8:10])
        pieces = _rows_of_pieces(context, b, table, args[2], args[3], args[4], count, (_i64(0),) * 3, args[5:7])
        load = _piece_loader(context, b, gy, args[0], args[1], pieces, args[7], size)
        for i in range(size):
            for j, value in enumerate(_gradient_line(b, target.vec, load(i, 0), points)):
                target.store(value, b.mul(args[10], _i64(alpha * i + j)))
        return context.get_dummy_value()

    return types.void(gy, types.intp, table, *(types.intp,) * 5, r, types.intp, types.intp, F, N), codegen


@operation
def winograd_gradient_columns(typing, r, ri, pitch, v, vi, plane, F):
    """v[vi + (A*i + j)*plane : +LANES] = (A R)[i, j], R[i, j] = r[ri + (A*i + j)*pitch : +LANES], i < M."""
    sizes = _literals(F)
    if sizes is None:
        return None
    (alpha, size, _), points = winograd_sizes(sizes[0]), WINOGRAD_POINTS[sizes[0]]

    def codegen(context, b, sig, args):
        source, target = Place(context, b, r, *args[0:2]), Place(context, b, v, *args[3:5])
        for j in range(alpha):
            g = [source.load(b.mul(args[2], _i64(alpha * i + j))) for i in range(size)]
            for i, value in enumerate(_gradient_line(b, source.vec, g, points)):
                target.store(value, b.mul(args[5], _i64(alpha * i + j)))
        return context.get_dummy_value()

    return types.void(r, types.intp, types.intp, v, types.intp, types.intp, F), codegen


def _sums_of(b, vectors):
    """The vector whose lane i is the sum of the lanes of vector i: a transposition that adds (see transpose_block)."""
    lanes, half = len(vectors), 1
    while len(vectors) > 1:
        low = [j if not j & half else lanes + j - half for j in range(lanes)]
        high = [j + half if not j & half else lanes + j for j in range(lanes)]
        low, high = (ir.Constant(ir.VectorType(_i32, lanes), picks) for picks in (low, high))
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [b.fadd(b.shuffle_vector(*pair, low), b.shuffle_vector(*pair, high)) for pair in pairs]
        half *= 2
    return vectors[0]


@operation
def dot_products(typing, a, ai, a_m, b_, bi, b_n, count, c, ci, MR, NR):
    """c[ci + m*NR + n] += the sum of a[ai + m*a_m + i] * b[bi + n*b_n + i] over i < count, a multiple of LANES.
    MR * NR = LANES."""
    sizes = _literals(MR, NR)
    if sizes is None:
        return None
    mr, nr = sizes

    def codegen(context, b, sig, args):
        left, right = Place(context, b, a, *args[0:2]), Place(context, b, b_, *args[3:5])
        target, vec = Place(context, b, c, *args[7:9]), _vec_of(a)
        sums = [cgutils.alloca_once_value(b, _const(vec, 0.0)) for _ in range(mr * nr)]
        for place in sums:
            b.store(_const(vec, 0.0), place)
        with cgutils.for_range_slice(b, _i64(0), args[6], _i64(vec.lanes)) as (i, _):
            columns = [right.load(b.add(i, b.mul(args[5], _i64(n)))) for n in range(nr)]
            for m in range(mr):
                row = left.load(b.add(i, b.mul(args[2], _i64(m))))
                for n in range(nr):
                    place = sums[m * nr + n]
                    b.store(_fma(b, vec, row, columns[n], b.load(place)), place)
        total = _sums_of(b, [b.load(place) for place in sums])
        target.store(b.fadd(target.load(_i64(0)), total), _i64(0))
        return context.get_dummy_value()

    counts = [types.intp] * 2
    return types.void(a, *counts, b_, *counts, types.intp, c, types.intp, MR, NR), codegen


@operation
def winograd_weight_gradient(typing, u, ui, plane, w, wi, F):
    """w[wi + t*LANES : +LANES] = (G^T U G)[t], t < 9, with U[i, j] = u[ui + (A*i + j)*plane : +LANES]."""
    sizes = _literals(F)
    if sizes is None:
        return None
    size = winograd_sizes(sizes[0])[0]

    def codegen(context, b, sig, args):
        source, target = Place(context, b, u, *args[0:2]), Place(context, b, w, *args[3:5])
        vec, columns = source.vec, []
        for j in range(size):
            frequencies = [source.load(b.mul(args[2], _i64(size * i + j))) for i in range(size)]
            columns.append(_weight_gradient_line(b, vec, frequencies, sizes[0]))
        for i in range(3):
            for j, value in enumerate(_weight_gradient_line(b, vec, [column[i] for column in columns], sizes[0])):
                target.store(value, _i64((3 * i + j) * vec.lanes))
        return context.get_dummy_value()

    return types.void(u, types.intp, types.intp, w, types.intp, F), codegen
