"""Strided convolution on phases: rows and columns of the image split by their residue modulo the stride, once, so that
every tap of every output pixel lies one step from its neighbour's.

The phases of a plane are stored like planes of depth; a gather with stride s becomes one with stride 1 whose taps see
depth (residue of the row, residue of the column).
"""

from dataclasses import replace
from functools import cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, load_window, store_part, store_vector
from .gathers import column_step, split

FRAME_NANOSECONDS = 0.2  # to write one value

PhasesBlock = Block("PhasesBlock", "x y", "xh xw sh sw height width")


@cache
def make_split(dtype, STEP):
    """The kernel for a column step (0: any)."""
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(PhasesBlock, dtype)
    def conv_split_phases(block, tile, worker):
        """y[plane, rh*sw + rw, i, j] = x[plane, i*sh + rh, j*sw + rw], 0 outside.  Tile: a plane."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        for phase in range(a.sh * a.sw):
            rh, rw = phase // a.sw, phase % a.sw
            for i in range(a.height):
                row = i * a.sh + rh
                source = (tile * a.xh + row) * a.xw + rw
                inside = (a.xw - rw + a.sw - 1) // a.sw if row < a.xh else 0
                at = ((tile * a.sh * a.sw + phase) * a.height + i) * a.width
                for j in range(0, a.width, LANES):
                    if STEP and j + LANES <= min(inside, a.width):  # masks that the compiler knows cost nothing
                        store_vector(load_window(x, source + j * STEP, STEP, 0, LANES, STEP), y, at + j)
                    else:
                        value = load_window(x, source + j * a.sw, a.sw, 0, inside - j, STEP)
                        store_part((value,), y, at + j, 0, 0, a.width - j, 1, 1)

    return conv_split_phases


def on_phases(source, grid, step, taps):
    """(source, step, taps) on the phases of the source; None where there is no stride, where there is a depth, or where
    taps are so few that most phases go unused."""
    (sd, sh, sw), (depth, height, width) = step, source
    if sd > 1 or depth > 1 or grid[0] > 1 or taps[:, 0].any() or sh * sw == 1 or len(taps) < sh * sw:
        return None
    row, row_phase = np.divmod(taps[:, 1], sh)
    column, column_phase = np.divmod(taps[:, 2], sw)
    turned = np.stack([row_phase * sw + column_phase, row, column, taps[:, 3]], axis=1)
    return (sh * sw, split(height, sh), split(width, sw)), (1, 1, 1), turned


def phased(gathers):
    """The gathers of a forward pass on phases, or () where phases don't pay."""
    result = []
    for gather in gathers:
        turned = on_phases(gather.source, gather.grid, gather.step, gather.taps)
        if turned is None:
            return ()
        source, step, taps = turned
        result.append(replace(gather, source=source, step=step, taps=taps))
    return tuple(result)


def split_row(spec, x):
    """(the row that splits the image, its result: a Temporary)."""
    size = split(spec.ih, spec.sh), split(spec.iw, spec.sw)
    return _row(spec.dtype, spec.n * spec.ic, x, (spec.ih, spec.iw), (spec.sh, spec.sw), size)


def frame_row(dtype, planes, x, source, size):
    """(the row that copies planes of the size `source` to the upper left of larger ones of zeros, a Temporary)."""
    return _row(dtype, planes, x, source, (1, 1), size)


def _row(dtype, planes, x, source, step, size):
    phases = Temporary(planes * step[0] * step[1] * size[0] * size[1], dtype)
    names = ("xh", "xw", "sh", "sw", "height", "width")
    numbers = dict(zip(names, (*source, *step, *size), strict=True))
    body = make_split(dtype, column_step(step[1]))
    row = Row(body, planes, {"x": x, "y": phases, **numbers}, phases.size * FRAME_NANOSECONDS, temporaries=("y",))
    return row, phases
