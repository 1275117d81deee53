"""LSTM and GRU as operations of graphs, in the order of the gates and the layout that ONNX has.

    lstm(x, w, r, b, h, c; backwards)          gates i, o, f, n; y, last h, last c
    gru(x, w, r, b, h; backwards, after)       gates z, r, n;    y, last h

x (times, rows, inputs), w (directions, gates * H, inputs), r (directions, gates * H, H), b (directions, 2 * gates * H)
or None: added to the products with w, then to those with r; h and c (directions, rows, H), None for zeros; y (times,
directions, rows, H).  backwards: a single direction runs from the last time to the first; the second of two does so
always.  after: GRU resets the product with the state, not the state.
"""

import numpy as np

from ..driver import Temporary
from ..kernels.gathers import zeros
from ..kernels.products import PACKED, Sizes, packed, product_row
from ..kernels.recurrent import pack_states, panel_width, recurrent_row
from ..simd import isa, lanes
from .ops import OpDef, register

_GATES = {"lstm": 4, "gru": 3}


# ---- the meaning


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm_step(gates, r, inner, h, c, after):
    i, o, f, n = np.split(gates + h @ r.T, 4, axis=1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(n)
    return _sigmoid(o) * np.tanh(c), c


def _gru_step(gates, r, inner, h, c, after):
    size = h.shape[1]
    z, reset = np.split(_sigmoid(gates[:, : 2 * size] + h @ r[: 2 * size].T), 2, axis=1)
    rn = r[2 * size :].T
    of_state = reset * (h @ rn + inner) if after else (reset * h) @ rn
    return (1 - z) * np.tanh(gates[:, 2 * size :] + of_state) + z * h, c


def _evaluate(kind, attrs, x, w, r, b=None, h=None, c=None):
    (times, rows, _), directions, hidden = x.shape, len(w), r.shape[2]
    after, step = attrs.get("after", False), _lstm_step if kind == "lstm" else _gru_step
    start = np.zeros((directions, rows, hidden), x.dtype)
    h, c = (start if a is None else a for a in (h, c))
    y = np.empty((times, directions, rows, hidden), x.dtype)
    last_h, last_c = start.copy(), start.copy()
    outer, inner = _bias_parts(kind, b, len(w), w.shape[1], after, x.dtype)
    for d in range(directions):
        state, cell = h[d], c[d]
        for t in range(times)[:: -1 if d or attrs.get("backwards") else 1]:
            state, cell = step(x[t] @ w[d].T + outer[d], r[d], inner[d], state, cell, after)
            y[t, d] = state
        last_h[d], last_c[d] = state, cell
    return (y, last_h, last_c) if kind == "lstm" else (y, last_h)


def _bias_parts(kind, b, directions, gates, after, dtype):
    """(what is added to the products with the input, what is added to those of GRU's new value with the state)."""
    size = gates // _GATES[kind]
    if b is None:
        return np.zeros((directions, gates), dtype), np.zeros((directions, size), dtype)
    outer = b[:, :gates] + b[:, gates:]
    if kind == "gru" and after:
        outer[:, 2 * size :] = b[:, 2 * size : gates]
    return outer, np.ascontiguousarray(b[:, gates + (gates - size) :])


def _infer(kind, attrs, x, w, r, *rest):
    (times, rows, _), directions, hidden = x.shape, w.shape[0], r.shape[2]
    gates = _GATES[kind] * hidden
    if w.shape[1:] != (gates, x.shape[2]) or r.shape[1] != gates:
        raise ValueError(f"{kind}: weights {w.shape} and {r.shape} do not fit input {x.shape}")
    state = ((directions, rows, hidden), x.dtype)
    return (((times, directions, rows, hidden), x.dtype), *(state,) * (2 if kind == "lstm" else 1))


# ---- rows


class _Form:
    """How a constant is kept in another form: see `rows.Packed.form`."""

    def __init__(self, name, key, make):
        self.name, self._key, self.pack = name, key, lambda key, array: make(array)

    def layout(self, spec):
        return self._key


def _rows(kind):
    def rows(attrs, inputs, outputs, kept):
        (x, w, r), (b, h, c) = inputs[:3], (*inputs[3:], None, None, None)[:3]
        (times, rows, width), (directions, hidden), after = x.shape, r.shape[::2], bool(attrs.get("after"))
        if not kept.knows(w, r, b) or 0 in (times, rows, width, hidden):
            return None
        gates, dtype = w.shape[1], x.dtype
        sizes = Sizes(1, times * rows, directions * gates, width, dtype.name)
        panels = isa.tile(sizes.rows)[1] * lanes(dtype), panel_width(rows, dtype)
        panel = _Form("recurrent_input", panels[0], lambda a: packed(a.reshape(sizes.columns, width), panels[0]))
        states = _Form(f"recurrent_{kind}", panels[1], lambda a: pack_states(kind, a, panels[1]))
        parts = _bias_parts(kind, b, directions, gates, after, dtype)
        found = Temporary(times * rows * sizes.columns, dtype)
        given = {"a": x, "b": kept.form(panel, None, w), "bias": np.ascontiguousarray(parts[0]).reshape(-1), "c": found}
        product = product_row(sizes, given, PACKED)._replace(temporaries=("c",))
        start = zeros(directions * rows * hidden, dtype)
        buffers = {"x": found, "r": kept.form(states, None, r), "inner": parts[1], "y": outputs[0]}
        buffers |= {"h": start if h is None else h, "c": start if c is None else c, "last_h": outputs[1]}
        buffers["last_c"] = outputs[2] if kind == "lstm" else start
        settings = (times, rows, directions, hidden), buffers, bool(attrs.get("backwards")), after
        row = recurrent_row(kind, dtype, *settings)._replace(temporaries=("x",))
        flops = 2 * times * rows * directions * gates * (width + hidden)
        return (product, row), kind, flops

    return rows


EMIT = {kind: _rows(kind) for kind in _GATES}
for _kind in _GATES:
    register(
        _kind,
        OpDef(
            lambda attrs, *arrays, kind=_kind: _evaluate(kind, attrs, *arrays),
            lambda attrs, *types, kind=_kind: _infer(kind, attrs, *types),
        ),
    )
