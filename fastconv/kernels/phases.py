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
from ..simd import array_at, fields, lanes, load_window, store_part
from .gathers import column_step, split

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
    height, width = split(spec.ih, spec.sh), split(spec.iw, spec.sw)
    phases = Temporary(spec.n * spec.ic * spec.sh * spec.sw * height * width, spec.dtype)
    numbers = {"xh": spec.ih, "xw": spec.iw, "sh": spec.sh, "sw": spec.sw, "height": height, "width": width}
    body = make_split(spec.dtype, column_step(spec.sw))
    row = Row(body, spec.n * spec.ic, {"x": x, "y": phases, **numbers}, phases.size * 0.2, temporaries=("y",))
    return row, phases
