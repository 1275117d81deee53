"""Gradients of poolings with windows that overlap, as register operations: each pixel collects from its windows.

A block is LANES * SW neighbouring pixels of a row, from a multiple of LANES * SW on: stores are of whole cache lines
where rows are.  Pixel i*SW + f of the block that window m begins at, padding aside, is tap f + PW + q*SW of window
m + i - q: for each shift q and phase f one vector operation serves LANES pixels.  Conventions as in `simd.py`: capitals
are compile-time numbers; the plain-Python twins are in `simd_python.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from . import _config
from .simd_place import (
    Place,
    _between,
    _clip,
    _const,
    _fma,
    _i32,
    _i64,
    _literals,
    _splat,
    _vec_of,
    operation,
)
from .simd_window import PixelRows, load_positions


def _check_lanes(b, place, offset, low, high, first=0):
    """In debug mode: the lanes `low <= first + lane < high` at an offset must lie inside the array."""
    if _config.DEBUG:
        low, high = (_clip(b, b.sub(v, _i64(first)), _i64(0), _i64(place.vec.lanes)) for v in (low, high))
        with b.if_then(b.icmp_signed("<", low, high)):
            place.scalar(b.add(offset, low))
            place.scalar(b.add(offset, b.sub(high, _i64(1))))


class _Windows:
    """A row of `out` windows as the pixels of a block see it, the one at window `first`, padding aside."""

    def __init__(self, b, vec, first, out, kw, sw, pw):
        self.b, self.vec, self.first = b, vec, first
        self.phases = {q: [f for f in range(sw) if 0 <= f + pw + q * sw < kw] for q in range(-kw, kw)}
        self.shifts = [q for q, phases in self.phases.items() if phases]
        self.bounds = {q: (b.sub(_i64(q), first), b.sub(b.add(out, _i64(q)), first)) for q in self.shifts}
        self.masks = {q: _between(b, vec, *self.bounds[q]) for q in self.shifts}

    def load(self, place, start, q):
        """The values of the windows at shift q in the row that begins at `start`; 0 where there is none."""
        b = self.b
        offset = b.add(start, b.sub(self.first, _i64(q)))
        _check_lanes(b, place, offset, *self.bounds[q])
        return place.masked_load(offset, self.masks[q])

    def positions(self, at, start, q):
        """The positions of those windows, 32 bits of them; -1 where there is none.  at: type and data of an array."""
        index = self.b.add(start, self.b.sub(self.first, _i64(q)))
        return load_positions(self.b, self.vec, at[0], at[1], index, self.masks[q])


class _Strip:
    """Blocks one below the other: KH rows of pixels, of SW phases each, are being collected at a time.

    Row t, counted from the first window's first row, is stored at place + t*x_row if it is one of the image: in
    [top, bottom); of a row the first `columns` pixels.
    """

    def __init__(self, b, place, kh, sw, x_row, bounds, columns):
        self.b, self.x_row, self.bounds, self.pixels = b, x_row, bounds, PixelRows(b, place, columns, sw)
        self.zero = _const(place.vec, 0.0)
        self.acc = [[cgutils.alloca_once_value(b, self.zero) for _ in range(sw)] for _ in range(kh)]
        for slot in (slot for row in self.acc for slot in row):
            b.store(self.zero, slot)

    def each(self):
        """(row, phase, slot of its sum) of all that are being collected."""
        return [(k, f, slot) for k, row in enumerate(self.acc) for f, slot in enumerate(row)]

    def _store(self, t, row):
        """Store a row of sums, or of zeros."""
        b, (top, bottom) = self.b, self.bounds
        with b.if_then(b.and_(b.icmp_signed(">=", t, top), b.icmp_signed("<", t, bottom)), likely=True):
            phases = [self.zero] * len(self.acc[0]) if row is None else [b.load(slot) for slot in row]
            self.pixels.store(phases, b.mul(t, self.x_row))

    def _advance(self, t, sh):
        """Store the SH rows from t on, which no further window holds; the others move up."""
        b, kh = self.b, len(self.acc)
        for r in range(sh):
            self._store(b.add(t, _i64(r)), self.acc[r] if r < kh else None)
        for k, f, slot in self.each():
            b.store(b.load(self.acc[k + sh][f]) if k + sh < kh else self.zero, slot)

    def run(self, oh, sh, meet):
        """meet(i, t) adds the window row i, whose first tap is in row t, to the sums; all rows are stored."""
        b, more = self.b, max(len(self.acc) - sh, 0)
        with cgutils.for_range_slice(b, _i64(0), oh, _i64(1)) as (i, _):
            t = b.mul(i, _i64(sh))
            meet(i, t)
            self._advance(t, sh)
        end = b.mul(oh, _i64(sh))
        for r in range(more):
            self._store(b.add(end, _i64(r)), self.acc[r])
        with cgutils.for_range_slice(b, b.add(end, _i64(more)), self.bounds[1], _i64(1)) as (t, _):
            self._store(t, None)


@operation
def slide_maxima(
    typing, gy, at, gi, plane_step, planes, oh, ow, first, base, gx, xi, x_row, top, bottom, columns, KH, KW, SH, SW, PW
):
    """gx[xi + t*x_row + c] = the sum of gy over the windows whose position `at` is base + t*x_row + c.

    For the rows top <= t < bottom, counted from the first tap of window row 0, and c < min(columns, LANES * SW).
    Windows: `planes` times oh x ow of them, from gi on, plane_step apart in gy and at; `first` begins at c = -PW.
    """
    sizes = _literals(KH, KW, SH, SW, PW)
    if sizes is None:
        return None
    kh, kw, sh, sw, pw = sizes
    vec = _vec_of(gy)

    def codegen(context, b, sig, args):
        gradients = Place(context, b, gy, args[0], args[2])
        positions = at, context.make_array(at)(context, b, args[1]).data
        plane_step, planes, oh, ow, first, base = args[3:9]
        x_row, top, bottom, columns = args[11:15]
        windows = _Windows(b, vec, first, ow, kw, sw, pw)
        strip = _Strip(b, Place(context, b, gx, args[9], args[10]), kh, sw, x_row, (top, bottom), columns)
        narrow, x_row32, base32 = ir.VectorType(_i32, vec.lanes), b.trunc(x_row, _i32), b.trunc(base, _i32)
        lane = [ir.Constant(narrow, [i * sw + f for i in range(vec.lanes)]) for f in range(sw)]
        down = [_splat(b, vec, b.mul(x_row32, _i32(k)), _i32) for k in range(kh)]
        targets = [[b.add(lane[f], down[k]) for f in range(sw)] for k in range(kh)]

        def meet(i, t):
            origin = _splat(b, vec, b.add(base32, b.mul(x_row32, b.trunc(t, _i32))), _i32)
            with cgutils.for_range_slice(b, _i64(0), planes, _i64(1)) as (z, _):
                start = b.add(b.mul(z, plane_step), b.mul(i, ow))
                for q in windows.shifts:
                    values = windows.load(gradients, start, q)
                    places = b.sub(windows.positions(positions, b.add(args[2], start), q), origin)
                    for k, f, slot in strip.each():
                        if f in windows.phases[q]:
                            hit = b.icmp_signed("==", places, targets[k][f])
                            before = b.load(slot)
                            b.store(b.select(hit, b.fadd(before, values), before), slot)

        strip.run(oh, sh, meet)
        return context.get_dummy_value()

    return types.void(gy, at, *[types.intp] * 7, gx, *[types.intp] * 5, KH, KW, SH, SW, PW), codegen


@operation
def slide_means(
    typing, gy, shares, along, gi, si, planes, oh, ow, first, gx, xi, x_row, top, bottom, columns, KH, KW, SH, SW, PW
):
    """gx[xi + t*x_row + c] = the sum over the windows that hold it of gy times the shares of their row and column.

    Rows, columns and windows as for `slide_maxima`; the planes of windows lie side by side, their rows' shares in
    shares[si:], their columns' in `along`.
    """
    sizes = _literals(KH, KW, SH, SW, PW)
    if sizes is None:
        return None
    kh, kw, sh, sw, pw = sizes
    vec = _vec_of(gy)

    def codegen(context, b, sig, args):
        gradients, factors = Place(context, b, gy, args[0], args[3]), Place(context, b, shares, args[1], args[4])
        planes, oh, ow, first = args[5:9]
        x_row, top, bottom, columns = args[11:15]
        windows = _Windows(b, vec, first, ow, kw, sw, pw)
        strip = _Strip(b, Place(context, b, gx, args[9], args[10]), kh, sw, x_row, (top, bottom), columns)
        weights = {q: windows.load(Place(context, b, along, args[2], _i64(0)), _i64(0), q) for q in windows.shifts}

        def meet(i, t):
            with cgutils.for_range_slice(b, _i64(0), planes, _i64(1)) as (z, _):
                row = b.add(b.mul(z, oh), i)
                share = _splat(b, vec, b.load(factors.scalar(row)))
                phases = [None] * sw
                for q in windows.shifts:
                    value = b.fmul(windows.load(gradients, b.mul(row, ow), q), weights[q])
                    for f in windows.phases[q]:
                        phases[f] = value if phases[f] is None else b.fadd(phases[f], value)
                for _k, f, slot in strip.each():
                    if phases[f] is not None:
                        b.store(_fma(b, vec, phases[f], share, b.load(slot)), slot)

        strip.run(oh, sh, meet)
        return context.get_dummy_value()

    whole = [types.intp]
    return types.void(gy, shares, along, *whole * 6, gx, *whole * 5, KH, KW, SH, SW, PW), codegen
