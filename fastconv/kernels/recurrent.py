"""LSTM and GRU over all times, one call: the part of the gates that comes from the input is given, the part that comes
from the state before is a product with a panel of weights at a time, and what follows runs on vectors.

With x' = x W^T + b for every time, and the weights of the state R:

    LSTM    i, o, f, n = x' + h R^T,                c <- s(f) c + s(i) tanh(n),       h <- s(o) tanh(c)
    GRU     z, r = s(x'_zr + h R_zr^T),             h <- (1 - z) n + z h
            n = tanh(x'_n + (r h) R_n^T),  or with `after`  n = tanh(x'_n + r (h R_n^T + b_n))

s is the sigmoid. Hochreiter and Schmidhuber (1997); Cho et al. (2014, arXiv:1406.1078). A state of the time before is
read from the outputs, where it is.
"""

from functools import cache

import numpy as np

from .._jit import Block, helper, tile_body
from ..driver import Row
from ..simd import array_at, fields, isa, lanes, load_window
from ..simd_math import activation_vector
from ..simd_vector import fma_vector, mul_vector, splat_vector, store_window, sub_vector
from .gathers import NANOSECONDS_PER_FLOP, split, zeros
from .gemm import OLD, make_strip_product, part_rows
from .products import packed

STEP_NANOSECONDS = 3.0  # to apply the functions to a value of the state

RecurrentBlock = Block(
    "RecurrentBlock",
    {**dict.fromkeys(("x", "r", "inner", "h", "c", "y", "last_h", "last_c", "zeros", "scratch")), "steps": "i8"},
    "times rows parts hidden directions backwards after",
)


@cache
def make_state_product(dtype, MR, NR):
    """A helper: g (rows, `pitch`), from column `column` on, += h (rows, H) times panels of weights."""
    LANES = lanes(dtype)
    PANEL = NR * LANES
    strip_product = make_strip_product(MR, NR, LANES)

    @helper
    def state_product(h, hi, hidden, rows, r, ri, columns, steps, zero, g, gi, pitch):
        for column in range(0, columns, PANEL):
            width, at = min(PANEL, columns - column), ri + column * hidden
            for m in range(0, rows, MR):
                top = min(m, rows - MR)
                strip_product(
                    *(h, hi + top * hidden, hidden, r, at, width, steps, 0, hidden),
                    *(g, gi + top * pitch + column, pitch, zero, 0, m - top, OLD),
                )

    return state_product


@cache
def make_cells(dtype):
    """Helpers: the functions of a row of LSTM and of GRU."""
    LANES, FLOAT = lanes(dtype), np.dtype(dtype).type

    @helper
    def lstm_row(g, gi, n, c, ci, y, yi):
        none = splat_vector(g, FLOAT(0))
        for j in range(0, n, LANES):
            left = n - j
            write = activation_vector(load_window(g, gi + j, 1, 0, left, 1), none, none, "sigmoid")
            show = activation_vector(load_window(g, gi + n + j, 1, 0, left, 1), none, none, "sigmoid")
            keep = activation_vector(load_window(g, gi + 2 * n + j, 1, 0, left, 1), none, none, "sigmoid")
            new = activation_vector(load_window(g, gi + 3 * n + j, 1, 0, left, 1), none, none, "tanh")
            state = fma_vector(write, new, mul_vector(keep, load_window(c, ci + j, 1, 0, left, 1)))
            store_window(state, c, ci + j, left)
            store_window(mul_vector(show, activation_vector(state, none, none, "tanh")), y, yi + j, left)

    @helper
    def reset_row(g, gi, n, h, hi, out, oi):
        """out = r h."""
        none = splat_vector(g, FLOAT(0))
        for j in range(0, n, LANES):
            reset = activation_vector(load_window(g, gi + n + j, 1, 0, n - j, 1), none, none, "sigmoid")
            store_window(mul_vector(reset, load_window(h, hi + j, 1, 0, n - j, 1)), out, oi + j, n - j)

    @helper
    def gru_row(g, gi, n, x, xi, after, h, hi, y, yi):
        """`after`: the last part of g is of the state alone, that of the input is in x."""
        none, one = splat_vector(g, FLOAT(0)), splat_vector(g, FLOAT(1))
        for j in range(0, n, LANES):
            left = n - j
            keep = activation_vector(load_window(g, gi + j, 1, 0, left, 1), none, none, "sigmoid")
            inner = load_window(g, gi + 2 * n + j, 1, 0, left, 1)
            if after:
                reset = activation_vector(load_window(g, gi + n + j, 1, 0, left, 1), none, none, "sigmoid")
                inner = fma_vector(reset, inner, load_window(x, xi + j, 1, 0, left, 1))
            new = activation_vector(inner, none, none, "tanh")
            value = mul_vector(sub_vector(one, keep), new)
            store_window(fma_vector(keep, load_window(h, hi + j, 1, 0, left, 1), value), y, yi + j, left)

    return lstm_row, reset_row, gru_row


@cache
def make_step(dtype, kind, MR, NR):
    """Helpers: one time of all cells, and copies of runs."""
    LANES, LSTM, GATES = lanes(dtype), kind == "lstm", 4 if kind == "lstm" else 3
    state_product = make_state_product(dtype, MR, NR)
    lstm_row, reset_row, gru_row = make_cells(dtype)

    @helper
    def copy_run(x, xi, n, y, yi):
        for j in range(0, n, LANES):
            store_window(load_window(x, xi + j, 1, 0, n - j, 1), y, yi + j, n - j)

    @helper
    def step(a, x, xi, r, ri, inner, direction, h, hi, rows, steps, zero, g, reset, c, y, yi):
        """One time: the states of `rows` rows, h, become y."""
        n, pitch = a.hidden, GATES * a.hidden
        x_pitch = a.directions * pitch
        columns = pitch if LSTM else 2 * n
        for m in range(rows):
            copy_run(x, xi + m * x_pitch, pitch, g, m * pitch)
            if not LSTM and a.after:
                copy_run(inner, direction * n, n, g, m * pitch + 2 * n)
        state_product(h, hi, n, rows, r, ri, columns, steps, zero, g, 0, pitch)
        if not LSTM:  # the weights of the new value begin a panel
            at = ri + (2 * n + NR * LANES - 1) // (NR * LANES) * (NR * LANES) * n
            source, place = h, hi
            if not a.after:
                for m in range(rows):
                    reset_row(g, m * pitch, n, h, hi + m * n, reset, m * n)
                source, place = reset, 0
            state_product(source, place, n, rows, r, at, n, steps, zero, g, 2 * n, pitch)
        for m in range(rows):
            if LSTM:
                lstm_row(g, m * pitch, n, c, m * n, y, yi + m * n)
            else:
                gru_row(g, m * pitch, n, x, xi + m * x_pitch + 2 * n, a.after, h, hi + m * n, y, yi + m * n)

    return step, copy_run


@cache
def make_recurrent(dtype, kind, MR, NR):
    """The kernel for "lstm" or "gru" and a register tile of MR rows and NR vectors of gates."""
    KIND, ITEM = np.dtype(dtype).str[1:], np.dtype(dtype).itemsize
    LSTM, GATES = kind == "lstm", 4 if kind == "lstm" else 3
    step, copy_run = make_step(dtype, kind, MR, NR)

    @tile_body(RecurrentBlock, dtype)
    def recurrent(block, tile, worker):
        """Tile: (direction, part of the rows), all times."""
        a = fields(block)
        x, r, inner = (
            array_at(a.x, a.x_size, KIND),
            array_at(a.r, a.r_size, KIND),
            array_at(a.inner, a.inner_size, KIND),
        )
        h, c, y = array_at(a.h, a.h_size, KIND), array_at(a.c, a.c_size, KIND), array_at(a.y, a.y_size, KIND)
        last_h, last_c = array_at(a.last_h, a.last_h_size, KIND), array_at(a.last_c, a.last_c_size, KIND)
        zero, steps = array_at(a.zeros, a.zeros_size, KIND), array_at(a.steps, a.steps_size, "i8")
        scratch = array_at(a.scratch + worker * a.scratch_size * ITEM, a.scratch_size, KIND)
        direction, part = tile // a.parts, tile % a.parts
        first, rows = part_rows(a, part, MR)
        n = a.hidden
        g, reset = scratch, scratch[rows * GATES * n :]
        cells = reset[rows * n :]
        ri = direction * (a.r_size // a.directions)
        begin = (direction * a.rows + first) * n
        copy_run(c, begin, rows * n, cells, 0)
        source, hi, yi = h, begin, begin
        for time in range(a.times):
            t = a.times - 1 - time if direction or a.backwards else time
            xi = ((t * a.rows + first) * a.directions + direction) * GATES * n
            yi = ((t * a.directions + direction) * a.rows + first) * n
            step(a, x, xi, r, ri, inner, direction, source, hi, rows, steps, zero, g, reset, cells, y, yi)
            source, hi = y, yi
        copy_run(y, yi, rows * n, last_h, begin)
        if LSTM:
            copy_run(cells, 0, rows * n, last_c, begin)

    return recurrent


def panel_width(rows, dtype):
    """Columns of a panel of packed weights for this many rows of states."""
    return isa.tile(rows)[1] * lanes(dtype)


def pack_states(kind, r, panel):
    """The weights of the state (directions, gates * H, H), packed; those of GRU's new value begin a panel."""
    hidden = r.shape[2]
    parts = [r] if kind == "lstm" else [r[:, : 2 * hidden], r[:, 2 * hidden :]]
    made = [np.concatenate([packed(part[d], panel).reshape(-1) for part in parts]) for d in range(len(r))]
    return np.stack(made)


def recurrent_row(kind, dtype, sizes, buffers, backwards=False, after=False):
    """The row.  sizes: (times, rows, directions, hidden).

    buffers: x (times, rows, directions * gates * hidden), r from `pack_states`, inner (directions, hidden), h and c
    (directions, rows, hidden) at the start, y (times, directions, rows, hidden), last_h and last_c; dense.  backwards:
    a single direction runs from the last time to the first, as the second of two always does.
    """
    times, rows, directions, hidden = sizes
    gates = 4 if kind == "lstm" else 3
    MR, NR = isa.tile(rows)
    parts = max(1, min(rows // MR, 8 // directions))
    most = split(rows // MR, parts) * MR + MR
    columns = [np.arange(hidden), np.arange(hidden) * NR * lanes(dtype)]
    values = {
        **buffers,
        **{"zeros": zeros(MR, dtype), "steps": np.stack(columns, axis=1).ravel()},
        **{"times": times, "rows": rows, "parts": parts, "hidden": hidden, "directions": directions},
        **{"backwards": int(backwards), "after": int(after)},
    }
    work = times * rows * directions * hidden * (2 * gates * hidden * NANOSECONDS_PER_FLOP + STEP_NANOSECONDS * gates)
    scratch = most * (gates + 2) * hidden + lanes(dtype)
    return Row(make_recurrent(dtype.name, kind, MR, NR), directions * parts, values, work, scratch=scratch)
