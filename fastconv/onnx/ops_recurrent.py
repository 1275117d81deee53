"""ONNX LSTM, GRU and RNN, in NumPy: one product of matrices for all times, one for each step."""

import numpy as np

from .ops_elementwise import ACTIVATIONS, DEFAULTS
from .table import in_float, op

_DEFAULT = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _functions(node, directions):
    """For each direction, its activation functions."""
    per = len(_DEFAULT[node.op])
    names = list(node.get("activations") or _DEFAULT[node.op] * directions)
    if len(names) != per * directions:
        raise ValueError(f"wants {per * directions} activations, given {len(names)}")
    known = {name.lower(): name for name in ACTIVATIONS}
    alphas, betas = list(node.get("activation_alpha") or ()), list(node.get("activation_beta") or ())
    made = []
    for given in names:
        name = known.get(given.lower())
        if name is None:
            raise ValueError(f"unknown activation {given!r}; known: {', '.join(ACTIVATIONS)}")
        alpha, beta = DEFAULTS.get(name, (0.0, 0.0))
        if name in DEFAULTS:
            alpha = alphas.pop(0) if alphas else alpha
            if name in ("HardSigmoid", "Affine", "ScaledTanh"):
                beta = betas.pop(0) if betas else beta
        made.append(lambda x, name=name, a=alpha, b=beta: ACTIVATIONS[name](x, x.dtype.type(a), x.dtype.type(b)))
    return [made[i * per : (i + 1) * per] for i in range(directions)]


def _lstm(node, gates, r, bias, peepholes, state, functions, limit):
    """One step: gates (N, 4H) from the input; state (h, c)."""
    f, g, h_of = functions
    h, c = state
    i, o, forget, new = np.split(gates + h @ r.T, 4, axis=1)
    pi, po, pf = (0, 0, 0) if peepholes is None else np.split(peepholes, 3)
    i = f(limit(i + pi * c))
    forget = 1 - i if node.get("input_forget", 0) else f(limit(forget + pf * c))
    c = forget * c + i * g(limit(new))
    return f(limit(o + po * c)) * h_of(c), c


def _gru(node, gates, r, bias, peepholes, state, functions, limit):
    f, g = functions
    (h,) = state
    size = h.shape[1]
    z, reset = np.split(f(limit(gates[:, : 2 * size] + h @ r[: 2 * size].T)), 2, axis=1)
    rh, rb = r[2 * size :], bias[2 * size :]
    before = gates[:, 2 * size :]
    if node.get("linear_before_reset", 0):
        new = g(limit(before + reset * (h @ rh.T + rb)))
    else:
        new = g(limit(before + (reset * h) @ rh.T + rb))
    return ((1 - z) * new + z * h,)


def _rnn(node, gates, r, bias, peepholes, state, functions, limit):
    (f,), (h,) = functions, state
    return (f(limit(gates + h @ r.T)),)


_STEP = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _bias(node, b, hidden):
    """(what is added to the input's part, what is added inside the step)."""
    if b is None:
        return 0, np.zeros(3 * hidden, np.float32)
    of_input, of_state = np.split(b, 2)
    if node.op != "GRU":
        return of_input + of_state, of_state
    inner = of_state.copy()
    inner[: 2 * hidden] = 0
    return of_input + np.where(np.arange(3 * hidden) < 2 * hidden, of_state, 0), inner


def _one_direction(node, x, lengths, parameters, state, functions, backwards):
    """(outputs (T, N, H), last state) of one direction."""
    w, r, b, peepholes = parameters
    added, inner = _bias(node, b, r.shape[1])
    clip = node.get("clip")
    limit = (lambda v: np.clip(v, -clip, clip)) if clip else (lambda v: v)
    gates = x @ w.T + added
    times = x.shape[0]
    y = np.zeros((times, x.shape[1], r.shape[1]), x.dtype)
    for step in range(times):
        if lengths is None:
            at, alive = np.full(x.shape[1], times - 1 - step if backwards else step), None
        else:
            at, alive = np.where(backwards, lengths - 1 - step, step), (step < lengths)[:, None]
        batch = np.arange(x.shape[1])
        new = _STEP[node.op](node, gates[at, batch], r, inner, peepholes, state, functions, limit)
        new = tuple(part.astype(x.dtype, copy=False) for part in new)
        if alive is None:
            y[at[0]] = new[0]
            state = new
        else:
            rows = alive[:, 0]
            y[at[rows], batch[rows]] = new[0][rows]
            state = tuple(np.where(alive, a, old) for a, old in zip(new, state, strict=True))
    return y, state


@op("LSTM", "GRU", "RNN")
@in_float
def recurrent(node, x, w, r, b=None, lengths=None, h=None, c=None, peepholes=None):
    """Outputs of all times (T, directions, N, H) and the last state; layout 1 has the batch first.

    Hochreiter and Schmidhuber (1997) with Gers' peepholes; Cho et al. (2014).
    """
    batch_first, directions, hidden = bool(node.get("layout", 0)), w.shape[0], r.shape[2]
    if batch_first:
        x = x.swapaxes(0, 1)
        h, c = (a if a is None else a.swapaxes(0, 1) for a in (h, c))
    zeros = np.zeros((directions, x.shape[1], hidden), x.dtype)
    start = [zeros if a is None else a for a in ((h, c) if node.op == "LSTM" else (h,))]
    functions, kind = _functions(node, directions), node.get("direction", "forward")
    if directions != (2 if kind == "bidirectional" else 1):
        raise ValueError(f"direction {kind} does not fit weights for {directions}")
    results = []
    for d in range(directions):
        parameters = w[d], r[d], None if b is None else b[d], None if peepholes is None else peepholes[d]
        backwards = kind == "reverse" or d == 1
        state = tuple(a[d] for a in start)
        results.append(_one_direction(node, x, lengths, parameters, state, functions[d], backwards))
    y = np.stack([result[0] for result in results], 1)
    states = [np.stack([result[1][i] for result in results]) for i in range(len(start))]
    if batch_first:
        y, states = y.transpose(2, 0, 1, 3), [s.swapaxes(0, 1) for s in states]
    return tuple(a.astype(x.dtype, copy=False) for a in (y, *states))
