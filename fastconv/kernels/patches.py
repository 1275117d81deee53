"""Patches: for one channel and one tap, the source values under a run of output pixels, padding included.

A run starts at grid point (d, h, w) of a grid (grid_d, grid_h, grid_w); the source of grid point (d, h, w) under a tap
is (d*sd + off_d, h*sh + off_h, w*sw + off_w) of an image (xd, xh, xw), and 0 outside it.  The names are fields of the
kernel's parameter block `a`.
"""

from functools import cache

from .._jit import helper
from ..simd import isa, load_bits, load_vector, load_window, store_vector, zero_vector


@helper
def first_inside(offset, step):
    """The least grid index w >= 0 with w*step + offset >= 0."""
    return 0 if offset >= 0 else (step - 1 - offset) // step


@helper
def end_inside(offset, step, size, grid):
    """The least grid index with w*step + offset >= size, or the grid's end."""
    return 0 if size <= offset else min(grid, (size - offset + step - 1) // step)


@cache
def make_copy_run(STEP, LANES):
    """Copying of a run of one row for column step STEP (1 or 2; 0 for any, by gathering)."""

    @helper
    def copy_run(x, source, step, first, end, count, panel, at):
        """panel[at + j] = x[source + j*step] for first <= j < end, 0 for the other j < count; up to LANES-1 values more
        are overwritten."""
        for v in range(0, count, LANES):
            if STEP == 1 and first <= v and v + LANES <= end:
                value = load_vector(x, source + v)
            elif STEP == 2 and first <= v and v + LANES <= end:  # masks that the compiler knows cost nothing
                value = load_window(x, source + v * 2, 2, 0, LANES, 2)
            else:
                value = load_window(x, source + v * step, step, first - v, end - v, STEP)
            store_vector(value, panel, at + v)

    return copy_run


@helper
def zero_run(count, panel, at, LANES):
    """panel[at + j] = 0 for j < count; up to LANES-1 values more are overwritten."""
    for v in range(0, count, LANES):
        zero_vector(panel, at + v)


@cache
def make_pack_row(STEP, LANES):
    """Packing for column step STEP."""
    copy_run = make_copy_run(STEP, LANES)

    @helper
    def pack_row(a, x, plane, off_d, off_h, off_w, d, h, w, count, panel, row):
        """panel[row : row+count] = the patch values of `count` grid points from (d, h, w) on; up to LANES-1 values more
        are overwritten."""
        first, end = first_inside(off_w, a.sw), end_inside(off_w, a.sw, a.xw, a.grid_w)
        at = 0
        while at < count:
            run = min(a.grid_w - w, count - at)
            di, hi = d * a.sd + off_d, h * a.sh + off_h
            if 0 <= di < a.xd and 0 <= hi < a.xh:
                source = plane + (di * a.xh + hi) * a.xw + off_w + w * a.sw
                copy_run(x, source, a.sw, first - w, end - w, run, panel, row + at)
            else:
                zero_run(run, panel, row + at, LANES)
            at += run
            w = 0
            h += 1
            if h == a.grid_h:
                h = 0
                d += 1

    return pack_row


@cache
def make_pack_flat(LANES):
    """Packing where source and grid have rows of one length and step 1: a tap then is one shift of all pixels, across
    the ends of rows; bits tell which of them lie inside the image."""
    MASKS, ALL = isa.name == "avx512", (1 << LANES) - 1  # other processors make masks of bits in several steps

    @helper
    def pack_flat(x, source, bits, first, count, panel, row):
        """panel[row + j] = x[source + j] for j < count where the bit is set, 0 elsewhere; bits[first:]: one number for
        each vector."""
        for v in range(0, count, LANES):
            inside = bits[first + v // LANES]
            if not MASKS and inside == ALL:
                store_vector(load_vector(x, source + v), panel, row + v)
            else:
                store_vector(load_bits(x, source + v, inside), panel, row + v)

    return pack_flat


@cache
def make_copy_rows(STEP, LANES):
    """Copying the input rows under a block of output rows for column step STEP."""
    copy_run = make_copy_run(STEP, LANES)

    @helper
    def copy_rows(a, x, planes, channels, phases, d, h, rows, w, width, panel, at):
        """panel[at:] as [c, phase, r, j] = x[c, d*sd + off_d, (h + row_first + r)*sh + phase_h, (w + column_first +
        j)*sw + phase_w], 0 outside."""
        for c in range(channels):
            for phase in range(0, 3 * a.phases_count, 3):
                depth = d * a.sd + phases[phase]
                offset = (w + a.column_first) * a.sw + phases[phase + 2]
                first, end = first_inside(offset, a.sw), end_inside(offset, a.sw, a.xw, width)
                for r in range(rows):
                    row = (h + a.row_first + r) * a.sh + phases[phase + 1]
                    if 0 <= depth < a.xd and 0 <= row < a.xh:
                        source = planes + ((c * a.xd + depth) * a.xh + row) * a.xw + offset
                        copy_run(x, source, a.sw, first, end, width, panel, at + r * a.copy_pitch)
                    else:
                        zero_run(width, panel, at + r * a.copy_pitch, LANES)
                at += a.copy_rows * a.copy_pitch

    return copy_rows


@helper
def scatter_rows(a, c, rows, d, h, w, count, y, yi):
    """y[yi + row*y_plane + place of the grid point] = c[row*pitch + i] for `count` grid points from (d, h, w) on."""
    for row in range(rows):
        base, at = yi + row * a.y_plane, row * a.pitch
        i, dd, hh, ww = 0, d, h, w
        while i < count:
            run = min(a.grid_w - ww, count - i)
            place = base + dd * a.y_d + hh * a.y_h + ww * a.y_w
            for j in range(run):
                y[place + j * a.y_w] = c[at + i + j]
            i += run
            ww = 0
            hh += 1
            if hh == a.grid_h:
                hh = 0
                dd += 1
