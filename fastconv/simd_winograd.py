"""The transforms of Winograd convolution F(M x M, 3 x 3), LANES tiles of the image at a time.

One vector holds the same element of LANES tiles.  Points are infinity, the pairs of POINTS with both signs, and 0 where
an odd number is wanted: fractions that are exact in binary, chosen for their small error (Winograd 1980; Lavin and
Gray, arXiv 1509.09308; on points Barabasz et al., arXiv 1803.10986).  A pair +-p shares its even and odd parts.  Rows
and columns are transformed one after the other, each by a form F(M, R) that is written as the number MR; 11 leaves them
as they are, for kernels in one dimension.  A = M + R - 1.  A form MRS is for outputs S pixels apart: every S-th pixel
meets every S-th weight only, so that it is the sum of S forms for fewer weights, transformed side by side.  Conventions
as in `simd.py`; the plain-Python twins are in `simd_python_winograd.py`.
"""

import math

from llvmlite import ir
from numba.core import types

from . import _config
from .simd_place import Place, _between, _clip, _const, _fma, _i32, _i64, _literals, _splat, operation
from .simd_python_winograd import (
    WINOGRAD_POINTS,
    winograd_has_zero,
    winograd_lines,
    winograd_phases,
    winograd_sizes,
    winograd_stride,
)

# ---- sums and shuffles


def _sum(b, vec, terms):
    """The sum of coefficient * value: one multiplication at most that is not part of a fused one."""
    terms = sorted(terms, key=lambda term: term[0] != 1)
    total = None
    for factor, value in terms:
        if total is None:
            total = value if factor == 1 else b.fmul(_const(vec, factor), value)
        else:
            total = b.fadd(value, total) if factor == 1 else _fma(b, vec, _const(vec, factor), value, total)
    return total


def _polynomial(roots):
    """Coefficients of the product of (z - root), lowest first."""
    coefficients = [1.0]
    for root in roots:
        shifted, scaled = [0.0, *coefficients], [*(-root * c for c in coefficients), 0.0]
        coefficients = [a + c for a, c in zip(shifted, scaled, strict=True)]
    return coefficients


def _input_line(b, vec, d, form):
    """B^T d: the rows of B^T are the coefficients of prod_{q != p} (x - q)."""
    phases = winograd_phases(form)
    if len(phases) > 1:
        return [value for i, phase in enumerate(phases) for value in _input_line(b, vec, d[i :: len(phases)], phase)]
    if form % 10 == 1:
        return d
    points, zero = WINOGRAD_POINTS[form], int(winograd_has_zero(form))
    every = _polynomial([p * p for p in points])
    first = [_sum(b, vec, [(c, d[2 * i]) for i, c in enumerate(every)])] * zero
    last = _sum(b, vec, [(c, d[2 * i + zero]) for i, c in enumerate(every)])
    middle = []
    for p in points:
        rest = _polynomial([q * q for q in points if q != p])
        one = _sum(b, vec, [(c, d[2 * i + 1 + zero]) for i, c in enumerate(rest)])
        other = _sum(b, vec, [(p * c, d[2 * i + zero]) for i, c in enumerate(rest)])
        middle += [b.fadd(one, other), b.fsub(one, other)]
    return [*first, *middle, last]


def _output_line(b, vec, m, form):
    """A^T m: row i has the i-th powers of the points."""
    total = []
    for phase in winograd_phases(form):
        count = winograd_sizes(phase)[0]
        lines, m = _output_phase(b, vec, m[:count], phase), m[count:]
        total = [b.fadd(*pair) for pair in zip(total, lines, strict=True)] if total else lines
    return total


def _output_phase(b, vec, m, form):
    if form % 10 == 1:
        return m
    points, zero, (_, M, _) = WINOGRAD_POINTS[form], int(winograd_has_zero(form)), winograd_sizes(form)
    pairs = [(m[2 * i + zero], m[2 * i + 1 + zero]) for i in range(len(points))]
    sums, differences = [b.fadd(*pair) for pair in pairs], [b.fsub(*pair) for pair in pairs]
    lines = []
    for power in range(M):
        terms = [(p**power, t) for p, t in zip(points, differences if power % 2 else sums, strict=True)]
        terms += [(1, m[0])] if power == 0 and zero else []
        terms += [(1, m[-1])] if power == M - 1 else []
        lines.append(_sum(b, vec, terms))
    return lines


def weight_scales(form):
    """1 / prod_{q != p} (p - q) for the point 0, where it is one, and for each positive p."""
    points, zero = WINOGRAD_POINTS[form], int(winograd_has_zero(form))
    scales = [1 / (2 * p ** (1 + zero) * math.prod(p * p - q * q for q in points if q != p)) for p in points]
    return 1 / math.prod(-p * p for p in points), scales


def _weight_line(b, vec, w, form):
    """The rows of G w that differ, for R weights: row p has the powers of p over prod_{q != p} (p - q)."""
    phases = winograd_phases(form)
    if len(phases) > 1:
        return [value for i, phase in enumerate(phases) for value in _weight_line(b, vec, w[i :: len(phases)], phase)]
    if form % 10 == 1:
        return w
    first, scales = weight_scales(form)
    zero = winograd_has_zero(form)
    lines = [b.fmul(_const(vec, first), w[0])] if zero else []
    for p, scale in zip(WINOGRAD_POINTS[form], scales, strict=True):
        even = _sum(b, vec, [(scale * p**k, w[k]) for k in range(0, len(w), 2)])
        odd = _sum(b, vec, [(scale * p**k, w[k]) for k in range(1, len(w), 2)])
        lines += [b.fadd(even, odd), b.fsub(even, odd) if zero else b.fsub(odd, even)]
    return [*lines, w[-1]]


def _shuffle(b, left, right, picks):
    return b.shuffle_vector(left, right, ir.Constant(ir.VectorType(_i32, len(picks)), picks))


def _split(b, vectors):
    """The phases of neighbouring values: phase q of m vectors holds every m-th value from the q-th on."""
    if len(vectors) == 1:
        return vectors
    lanes = vectors[0].type.count
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even = _split(b, [_shuffle(b, *pair, list(range(0, 2 * lanes, 2))) for pair in pairs])
    odd = _split(b, [_shuffle(b, *pair, list(range(1, 2 * lanes, 2))) for pair in pairs])
    return [phase for both in zip(even, odd, strict=True) for phase in both]


def _merge(b, phases):
    """Neighbouring values from their phases: the inverse of _split."""
    if len(phases) == 1:
        return phases
    lanes, merged = phases[0].type.count, []
    for even, odd in zip(_merge(b, phases[::2]), _merge(b, phases[1::2]), strict=True):
        for start in (0, lanes // 2):
            merged.append(_shuffle(b, even, odd, [start + i // 2 + i % 2 * lanes for i in range(lanes)]))
    return merged


# ---- operations


def _load_between(b, place, low, high, start):
    """The vector from `start` on, with 0 for what lies outside [low, high) and is not read."""
    if _config.DEBUG:
        first, end = (_clip(b, b.sub(bound, _i64(start)), _i64(0), _i64(place.vec.lanes)) for bound in (low, high))
        with b.if_then(b.icmp_signed("<", first, end)):
            place.scalar(b.add(_i64(start), first))
            place.scalar(b.add(_i64(start), b.sub(end, _i64(1))))
    return place.masked_load(_i64(start), _between(b, place.vec, low, high, start))


def _load_apart(b, place, low, high, step, count):
    """`count` vectors, each `step` elements behind the one before it; what lies outside [low, high) is 0 and not
    read."""
    offsets = [b.mul(step, _i64(i)) for i in range(count)]
    behind = b.add(offsets[-1], _i64(place.vec.lanes))
    inside = b.and_(b.icmp_signed("<=", low, _i64(0)), b.icmp_signed(">=", high, behind))
    with b.if_else(inside) as (then, otherwise):
        with then:
            whole = [place.load(offset) for offset in offsets]
            then_block = b.block
        with otherwise:
            parts = [_load_clipped(b, place, low, high, offset) for offset in offsets]
            else_block = b.block
    return _joined(b, place.vec, (whole, then_block), (parts, else_block))


def _load_clipped(b, place, low, high, offset):
    """The vector at a distance, with 0 for what lies outside [low, high) and is not read."""
    bounds = [_clip(b, b.sub(bound, offset), _i64(0), _i64(place.vec.lanes)) for bound in (low, high)]
    if _config.DEBUG:
        with b.if_then(b.icmp_signed("<", *bounds)):
            place.scalar(b.add(offset, bounds[0]))
            place.scalar(b.add(offset, b.sub(bounds[1], _i64(1))))
    return place.masked_load(offset, _between(b, place.vec, *bounds))


def _joined(b, vec, *branches):
    """The vectors that either of two branches came with."""
    values = []
    for pair in zip(*(vectors for vectors, _ in branches), strict=True):
        phi = b.phi(vec.ir)
        for value, (_, block) in zip(pair, branches, strict=True):
            phi.add_incoming(value, block)
        values.append(phi)
    return values


def _load_one(b, place, start):
    """A vector whose first lane is the value at `start`."""
    return b.insert_element(_const(place.vec, 0.0), b.load(place.scalar(_i64(start))), _i32(0))


def _load_whole(b, place, low, high, start, one):
    """`_load_between`, quicker where all of the vector lies inside (masks cost more than branches that are alike from
    row to row); one: only its first lane."""
    end = start + (1 if one else place.vec.lanes)
    inside = b.and_(b.icmp_signed("<=", low, _i64(start)), b.icmp_signed(">=", high, _i64(end)))
    with b.if_else(inside) as (then, otherwise):
        with then:
            whole, then_block = _load_one(b, place, start) if one else place.load(_i64(start)), b.block
        with otherwise:
            part = _const(place.vec, 0.0) if one else _load_between(b, place, low, high, start)
            else_block = b.block
    return _joined(b, place.vec, ([whole], then_block), ([part], else_block))[0]


def _load_pixels(b, place, low, high, size, behind):
    """`size` vectors of neighbouring pixels, and `behind` whose first lanes are the pixels behind them; pixels outside
    [low, high) are 0."""
    vec, last = place.vec, size * place.vec.lanes
    starts, ends = range(0, last, vec.lanes), range(last, last + behind)
    inside = b.and_(b.icmp_signed("<=", low, _i64(0)), b.icmp_signed(">=", high, _i64(last + behind)))
    with b.if_else(inside) as (then, otherwise):
        with then:
            whole = [place.load(_i64(start)) for start in starts] + [_load_one(b, place, start) for start in ends]
            then_block = b.block
        with otherwise:
            parts = [_load_whole(b, place, low, high, start, False) for start in starts]
            parts += [_load_whole(b, place, low, high, start, True) for start in ends]
            else_block = b.block
    return _joined(b, vec, (whole, then_block), (parts, else_block))


@operation
def winograd_row(typing, x, xi, low, high, r, ri, pitch, F):
    """r[ri + j*pitch : +LANES] = (B^T d)[j] for the row d = x[xi + M*S*lane : +A] of each lane's tile; pixels outside
    x[xi + low : xi + high] are 0 and not read."""
    sizes = _literals(F)
    if sizes is None:
        return None
    (form,), (count, size, _) = sizes, winograd_sizes(sizes[0])
    size *= winograd_stride(form)

    def codegen(context, b, sig, args):
        source, target = Place(context, b, x, *args[0:2]), Place(context, b, r, *args[4:6])
        vec = source.vec
        pixels = _load_pixels(b, source, args[2], args[3], size, count - size)
        d = _split(b, pixels[:size])
        following = [i + 1 for i in range(vec.lanes)]  # the next tile's first pixels are this one's last
        d += [_shuffle(b, d[i], pixel, following) for i, pixel in enumerate(pixels[size:])]
        for j, value in enumerate(_input_line(b, vec, d, form)):
            target.store(value, b.mul(args[6], _i64(j)))
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, types.intp, r, types.intp, types.intp, F), codegen


@operation
def winograd_apart(typing, x, xi, low, high, step, r, ri, pitch, F):
    """r[ri + j*pitch : +LANES] = (B^T d)[j] for d[i] = x[xi + i*step : +LANES]: the pixels of a tile lie `step` apart,
    the tiles side by side; pixels outside x[xi + low : xi + high] are 0 and not read."""
    sizes = _literals(F)
    if sizes is None:
        return None
    (form,) = sizes

    def codegen(context, b, sig, args):
        source, target = Place(context, b, x, *args[0:2]), Place(context, b, r, *args[5:7])
        d = _load_apart(b, source, args[2], args[3], args[4], winograd_sizes(form)[0])
        for j, value in enumerate(_input_line(b, source.vec, d, form)):
            target.store(value, b.mul(args[7], _i64(j)))
        return context.get_dummy_value()

    return types.void(x, *(types.intp,) * 4, r, types.intp, types.intp, F), codegen


@operation
def winograd_columns(typing, r, ri, pitch, v, vi, plane, FH, FW):
    """v[vi + (AW*i + j)*plane : +LANES] = (B^T R)[i, j] with R[i, j] = r[ri + (AW*i + j)*pitch : +LANES]."""
    sizes = _literals(FH, FW)
    if sizes is None:
        return None
    height, (rows, columns) = sizes[0], (winograd_sizes(form)[0] for form in sizes)

    def codegen(context, b, sig, args):
        source, target = Place(context, b, r, *args[0:2]), Place(context, b, v, *args[3:5])
        for j in range(columns):
            d = [source.load(b.mul(args[2], _i64(columns * i + j))) for i in range(rows)]
            for i, value in enumerate(_input_line(b, source.vec, d, height)):
                target.store(value, b.mul(args[5], _i64(columns * i + j)))
        return context.get_dummy_value()

    return types.void(r, types.intp, types.intp, v, types.intp, types.intp, FH, FW), codegen


def _output(context, b, m, bias, args, height, width):
    """The pixels [i][j] of LANES tiles: (A^T m A)[i, j] + bias; args: m, its index, plane, bias, its index."""
    source, ((rows, size, _), (columns, _, _)) = Place(context, b, m, *args[0:2]), map(winograd_sizes, (height, width))
    vec = source.vec
    shift = _splat(b, vec, b.load(Place(context, b, bias, *args[3:5]).scalar(_i64(0))))
    lines = []
    for j in range(columns):
        frequencies = [source.load(b.mul(args[2], _i64(columns * i + j))) for i in range(rows)]
        lines.append(_output_line(b, vec, frequencies, height))
    for i in range(size):
        pixels = _output_line(b, vec, [line[i] for line in lines], width)
        yield [b.fadd(pixel, shift) for pixel in pixels]


@operation
def winograd_out(typing, m, mi, plane, bias, oi, y, yi, row, FH, FW):
    """y[yi + i*row + MW*lane + j] = (A^T m A)[i, j] + bias[oi] of each lane's tile, m[f] = m[mi + f*plane : +LANES]."""
    sizes = _literals(FH, FW)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        target = Place(context, b, y, *args[5:7])
        for i, pixels in enumerate(_output(context, b, m, bias, args, *sizes)):
            for n, value in enumerate(_merge(b, pixels)):
                target.store(value, b.add(b.mul(args[7], _i64(i)), _i64(n * target.vec.lanes)))
        return context.get_dummy_value()

    return types.void(m, types.intp, types.intp, bias, types.intp, y, *(types.intp,) * 2, FH, FW), codegen


@operation
def winograd_out_apart(typing, m, mi, plane, bias, oi, y, yi, row, column, FH, FW):
    """`winograd_out` for tiles side by side: pixel (i, j) of all of them is y[yi + i*row + j*column : +LANES]."""
    sizes = _literals(FH, FW)
    if sizes is None:
        return None

    def codegen(context, b, sig, args):
        target = Place(context, b, y, *args[5:7])
        for i, pixels in enumerate(_output(context, b, m, bias, args, *sizes)):
            for j, value in enumerate(pixels):
                target.store(value, b.add(b.mul(args[7], _i64(i)), b.mul(args[8], _i64(j))))
        return context.get_dummy_value()

    return types.void(m, types.intp, types.intp, bias, types.intp, y, *(types.intp,) * 3, FH, FW), codegen


@operation
def winograd_weights(typing, w, wi, u, ui, plane, FH, FW):
    """u[ui + (BW*i + j)*plane : +LANES] = (G w G^T)[i, j] of the weights w[wi + t*LANES : +LANES], t < RH * RW, for the
    BH rows and BW columns of G w G^T that differ."""
    sizes = _literals(FH, FW)
    if sizes is None:
        return None
    (height, width), ((_, _, rows), (_, _, columns)) = sizes, map(winograd_sizes, sizes)
    count = winograd_lines(width)

    def codegen(context, b, sig, args):
        source, target = Place(context, b, w, *args[0:2]), Place(context, b, u, *args[2:4])
        vec = source.vec
        taps = [source.load(_i64(t * vec.lanes)) for t in range(rows * columns)]
        lines = [_weight_line(b, vec, taps[j::columns], height) for j in range(columns)]
        for i, row in enumerate(zip(*lines, strict=True)):
            for j, value in enumerate(_weight_line(b, vec, list(row), width)):
                target.store(value, b.mul(args[4], _i64(count * i + j)))
        return context.get_dummy_value()

    return types.void(w, types.intp, u, types.intp, types.intp, FH, FW), codegen
