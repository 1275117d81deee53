"""Gradients of poolings with windows that overlap, as register operations: each pixel collects from its windows.

A block is LANES * SW neighbouring pixels of a row.  Pixel m*SW + f, counted from a multiple of the stride, is in the
windows m - q with q*SW + f < KW: for each q and phase f one vector operation serves LANES pixels.  Conventions as in
`simd.py`: capitals are compile-time numbers; the plain-Python twins are in `simd_python.py`.
"""

from llvmlite import ir
from numba.core import cgutils, types

from . import _config
from .simd_place import (
    Place,
    _between,
    _call,
    _clip,
    _const,
    _i32,
    _i64,
    _literals,
    _splat,
    _vec_of,
    operation,
)
from .simd_window import _interleave


def _check_lanes(b, place, offset, low, high, first=0):
    """In debug mode: the lanes `low <= first + lane < high` at an offset must lie inside the array."""
    if _config.DEBUG:
        low, high = (_clip(b, b.sub(v, _i64(first)), _i64(0), _i64(place.vec.lanes)) for v in (low, high))
        with b.if_then(b.icmp_signed("<", low, high)):
            place.scalar(b.add(offset, low))
            place.scalar(b.add(offset, b.sub(high, _i64(1))))


class _Windows:
    """A row of `out` windows as the pixels of a block see it, whose first one begins window `first`."""

    def __init__(self, b, vec, first, out, kw, sw):
        self.b, self.vec, self.kw, self.sw, self.first = b, vec, kw, sw, first
        self.shifts = range(-(-kw // sw))
        self.bounds = [(b.sub(_i64(q), first), b.sub(b.add(out, _i64(q)), first)) for q in self.shifts]
        self.masks = [_between(b, vec, low, high) for low, high in self.bounds]

    def phases(self, q):
        """The phases that see windows at shift q."""
        return range(min(self.sw, self.kw - q * self.sw))

    def load(self, place, start, q):
        """The values of the windows at shift q in the row that begins at `start`; 0 where there is none."""
        b = self.b
        offset = b.add(start, b.sub(self.first, _i64(q)))
        _check_lanes(b, place, offset, *self.bounds[q])
        return place.masked_load(offset, self.masks[q])

    def positions(self, data, start, q):
        """The positions of those windows, 32 bits of them; -1 where there is none."""
        b, wide = self.b, ir.VectorType(_i64, self.vec.lanes)
        pointer = b.bitcast(b.gep(data, [b.add(start, b.sub(self.first, _i64(q)))]), wide.as_pointer())
        nowhere = ir.Constant(wide, [-1] * self.vec.lanes)
        name = f"llvm.masked.load.v{self.vec.lanes}i64.p0"
        value = _call(b, name, wide, pointer, _i32(8), self.masks[q], nowhere)
        return b.trunc(value, ir.VectorType(_i32, self.vec.lanes))


class _Columns:
    """Where the rows of a block are stored: the columns in [left, right), counted from its first one."""

    def __init__(self, b, place, left, right, sw):
        self.b, self.place, self.left, self.right = b, place, left, right
        self.masks = [_between(b, place.vec, left, right, p * place.vec.lanes) for p in range(sw)]

    def store(self, phases, offset):
        b, lanes = self.b, self.place.vec.lanes
        for p, value in enumerate(_interleave(b, self.place.vec, phases)):
            at = b.add(offset, _i64(p * lanes))
            _check_lanes(b, self.place, at, self.left, self.right, p * lanes)
            self.place.masked_store(value, at, self.masks[p])


class _Strip:
    """Blocks one below the other: KH rows of pixels, of SW phases each, are being collected at a time."""

    def __init__(self, b, windows, columns, kh, x_row, bounds):
        self.b, self.windows, self.columns, self.x_row, self.bounds = b, windows, columns, x_row, bounds
        self.zero = _const(windows.vec, 0.0)
        self.acc = [[cgutils.alloca_once_value(b, self.zero) for _ in range(windows.sw)] for _ in range(kh)]
        for slot in (slot for row in self.acc for slot in row):
            b.store(self.zero, slot)

    def meet(self, values, positions, q, targets):
        """Add `values` where `positions` are targets[k][f]."""
        b = self.b
        for k, row in enumerate(self.acc):
            for f in self.windows.phases(q):
                before = b.load(row[f])
                hit = b.icmp_signed("==", positions, targets[k][f])
                b.store(b.select(hit, b.fadd(before, values), before), row[f])

    def store(self, t, row):
        """Store a row of sums, or of zeros, as row t counted from the first window's, if it is one of the image."""
        b, (top, bottom) = self.b, self.bounds
        with b.if_then(b.and_(b.icmp_signed(">=", t, top), b.icmp_signed("<", t, bottom)), likely=True):
            phases = [self.zero] * self.windows.sw if row is None else [b.load(slot) for slot in row]
            self.columns.store(phases, b.mul(t, self.x_row))

    def advance(self, t, sh):
        """Store the SH rows from t on, which no further window holds; the others move up."""
        b, kh = self.b, len(self.acc)
        for r in range(sh):
            self.store(b.add(t, _i64(r)), self.acc[r] if r < kh else None)
        for k in range(kh):
            for f, slot in enumerate(self.acc[k]):
                b.store(b.load(self.acc[k + sh][f]) if k + sh < kh else self.zero, slot)


@operation
def slide_maxima(
    typing, gy, at, gi, plane_step, planes, oh, ow, first, base, gx, xi, x_row, top, bottom, left, right, KH, KW, SH, SW
):
    """gx[xi + t*x_row + c] = the sum of gy over the windows whose position `at` is base + t*x_row + c.

    For the rows top <= t < bottom and the columns left <= c < min(right, LANES * SW), both counted from the first tap
    of window (0, first).  Windows: `planes` times oh x ow of them, from gi on, plane_step apart in gy and at.
    """
    sizes = _literals(KH, KW, SH, SW)
    if sizes is None:
        return None
    kh, kw, sh, sw = sizes
    vec = _vec_of(gy)

    def codegen(context, b, sig, args):
        gradients = Place(context, b, gy, args[0], args[2])
        data = context.make_array(at)(context, b, args[1]).data
        plane_step, planes, oh, ow, first, base = args[3:9]
        x_row, top, bottom, left, right = args[11:16]
        windows = _Windows(b, vec, first, ow, kw, sw)
        columns = _Columns(b, Place(context, b, gx, args[9], args[10]), left, right, sw)
        strip = _Strip(b, windows, columns, kh, x_row, (top, bottom))
        narrow = ir.VectorType(_i32, vec.lanes)
        lane = [ir.Constant(narrow, [i * sw + f for i in range(vec.lanes)]) for f in range(sw)]
        x_row32, base32 = b.trunc(x_row, _i32), b.trunc(base, _i32)
        shifts = [_splat(b, vec, b.mul(x_row32, _i32(k)), _i32) for k in range(kh)]
        targets = [[b.add(lane[f], shifts[k]) for f in range(sw)] for k in range(kh)]
        with cgutils.for_range_slice(b, _i64(0), oh, _i64(1)) as (i, _):
            t = b.mul(i, _i64(sh))
            origin = _splat(b, vec, b.add(base32, b.mul(x_row32, b.trunc(t, _i32))), _i32)
            with cgutils.for_range_slice(b, _i64(0), planes, _i64(1)) as (z, _):
                start = b.add(b.mul(z, plane_step), b.mul(i, ow))
                for q in windows.shifts:
                    values = windows.load(gradients, start, q)
                    places = windows.positions(data, b.add(args[2], start), q)
                    strip.meet(values, b.sub(places, origin), q, targets)
            strip.advance(t, sh)
        end = b.mul(oh, _i64(sh))
        for r in range(max(kh - sh, 0)):
            strip.store(b.add(end, _i64(r)), strip.acc[r])
        end = b.add(end, _i64(max(kh - sh, 0)))
        with cgutils.for_range_slice(b, end, bottom, _i64(1)) as (t, _):
            strip.store(t, None)
        return context.get_dummy_value()

    return types.void(gy, at, *[types.intp] * 7, gx, *[types.intp] * 6, KH, KW, SH, SW), codegen


@operation
def collect_columns(typing, s, first, out, gx, xi, left, right, KW, SW):
    """gx[xi + c] = the sum of s over the windows of one row that hold pixel c, for left <= c < right.

    s: one value for each of `out` windows; first: the window that begins at c = 0; for c < LANES * SW.
    """
    sizes = _literals(KW, SW)
    if sizes is None:
        return None
    vec = _vec_of(s)

    def codegen(context, b, sig, args):
        values, windows = Place(context, b, s, args[0], _i64(0)), _Windows(b, vec, *args[1:3], *sizes)
        phases = [_const(vec, 0.0)] * sizes[1]
        for q in windows.shifts:
            value = windows.load(values, _i64(0), q)
            for f in windows.phases(q):
                phases[f] = b.fadd(phases[f], value)
        target, left, right = Place(context, b, gx, args[3], args[4]), args[5], args[6]
        _Columns(b, target, left, right, sizes[1]).store(phases, _i64(0))
        return context.get_dummy_value()

    return types.void(s, types.intp, types.intp, gx, *[types.intp] * 3, KW, SW), codegen
