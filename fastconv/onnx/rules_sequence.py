"""Which ONNX operators of sequence models become operations with kernels; see `rules.py`."""

from math import prod

import numpy as np

from .rules import known_value, only_first, rule


@rule("LayerNormalization")
def layer_norm(low, node, inputs, outputs):
    """layer_norm of rows."""
    (x, scale, shift), shape = (*inputs, None)[:3], low.shape(inputs[0])
    axis = node.get("axis", -1) % len(shape)
    length = prod(shape[axis:])
    one_each = all(n is None or prod(low.shape(n)) == length for n in (scale, shift))
    if not low.is_real(x, scale, shift) or not only_first(outputs) or not one_each:
        return False
    return normalised(low, node, x, (scale, shift), length, node.get("epsilon", 1e-5), outputs[0])


def normalised(low, node, x, parameters, length, eps, output):
    """layer_norm over the last `length` values, in the shape of x."""
    shape, rows, made = low.shape(x), low.fresh(f"{output}/rows"), low.fresh(f"{output}/normalised")
    flat = [None if n is None else low.fresh(f"{n}/flat") for n in parameters]
    for name, given in zip(flat, parameters, strict=True):
        if given is not None:
            low.add("reshape", [given], [name], {"shape": (length,)}, node)
    low.add("reshape", [x], [rows], {"shape": (-1, length)}, node)
    low.add("layer_norm", [rows, *flat], [made], {"eps": eps}, node)
    return low.add("reshape", [made], [output], {"shape": shape}, node)


_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}


def _is_plain(low, node, inputs):
    """Whether a recurrent layer has the usual functions, all times of all rows, and nothing more."""
    directions = low.shape(inputs[1])[0]
    names = [name.lower() for name in node.get("activations") or _ACTIVATIONS[node.op] * directions]
    lengths, peepholes = (*inputs, None, None, None, None)[4:8:3]
    if lengths is not None and not np.all(known_value(low, inputs, 4) == low.shape(inputs[0])[node.get("layout", 0)]):
        return False
    odd = node.get("clip") or node.get("input_forget", 0) or node.get("activation_alpha")
    return not odd and peepholes is None and names == _ACTIVATIONS[node.op] * directions


@rule("LSTM", "GRU")
def recurrent(low, node, inputs, outputs):
    """lstm, gru; with the batch first, around copies in another order."""
    x, w, r, b, _, h, c = (*inputs, None, None, None, None)[:7]
    c = c if node.op == "LSTM" else None
    if not low.is_real(x, w, r, b, h, c) or not _is_plain(low, node, inputs) or len(low.shape(x)) != 3:
        return False
    kind, first = node.get("direction", "forward"), node.get("layout", 0)
    if low.shape(w)[0] != (2 if kind == "bidirectional" else 1):
        return False
    if first:
        x, h, c = (_swapped(low, node, name) for name in (x, h, c))
    attrs = {"backwards": kind == "reverse"}
    if node.op == "GRU":
        attrs["after"] = bool(node.get("linear_before_reset", 0))
    count = 3 if node.op == "LSTM" else 2
    wanted = (*outputs, None, None)[:count]
    stem = next(name for name in outputs if name is not None)
    made = [low.fresh(f"{stem}/made") if first or name is None else name for name in wanted]
    given = [x, w, r, b, h, c] if node.op == "LSTM" else [x, w, r, b, h]
    low.add(node.op.lower(), given, made, attrs, node)
    if first:
        orders = (2, 0, 1, 3), (1, 0, 2), (1, 0, 2)
        for name, source, axes in zip(wanted, made, orders, strict=False):
            if name is not None:
                low.add("permute", [source], [name], {"axes": axes}, node)
    return True


def _swapped(low, node, name):
    """The first two axes the other way round; None stays."""
    if name is None:
        return None
    made = low.fresh(f"{name}/times_first")
    low.add("permute", [name], [made], {"axes": (1, 0, 2)}, node)
    return made
