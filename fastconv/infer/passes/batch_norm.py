"""Batch norm in evaluation is a scale and a shift for each channel: they go into the weights and bias of the
convolution or linear layer before it; where there is none they become one affine operation (Jacob et al. 2017, arXiv
1712.05877, section 3.2)."""

import numpy as np

from .rewrite import add_constant, constant, fixed_weights, take_over, times

_CHANNEL_AXIS = {"conv": 0, "linear": 0, "conv_transpose": 1}


def run(graph, derived):
    producers, readers = graph.producers(), graph.consumers()
    for node in [node for node in graph.nodes if node.op in ("batch_norm", "affine")]:
        parameters = parameters_of(graph, derived, node)
        if parameters is None:
            node.notes.append("not folded: its statistics are not constant")
            continue
        producer = producers.get(node.inputs[0])
        refusal = _refusal(graph, node, producer, readers)
        eps = epsilon(node)
        if refusal is None:
            _fold(graph, derived, producer, parameters, eps)
            producer.notes.append(f"batch norm {node.name} folded into the weights")
            take_over(graph, producer, node)
            producers[producer.outputs[0]] = producer
        elif node.op == "batch_norm":
            scale, shift = derived(scale_and_shift, *parameters, eps=eps)
            names = add_constant(graph, f"{node.outputs[0]}_scale", scale), None
            names = names[0], add_constant(graph, f"{node.outputs[0]}_shift", shift)
            node.op, node.attrs, node.inputs = "affine", {}, (node.inputs[0], *names)
            node.notes.append(f"batch norm as scale and shift: {refusal}")
    return graph


def epsilon(node):
    """What is added to the variance."""
    return 0.0 if node.op == "affine" else float(node.attrs.get("eps", 1e-5))


def parameters_of(graph, derived, node):
    """[mean, variance, weight or None, bias or None] of batch norm or of a scale and shift that does not clamp; None if
    they are not constant."""
    found = [constant(graph, name) for name in (*node.inputs[1:], None, None)[:4]]
    if found[0] is None or found[1] is None or any(node.attrs.get(bound) is not None for bound in ("low", "high")):
        return None
    return [*derived(_unit, found[0]), *found[:2]] if node.op == "affine" else found


def _unit(scale):
    return np.zeros_like(scale), np.ones_like(scale)


def _refusal(graph, node, producer, readers):
    if producer is None or producer.op not in _CHANNEL_AXIS:
        return f"follows {producer.op if producer else 'an input'}, which has no weights"
    return fixed_weights(graph, node, producer, readers)


def scale_and_shift(mean, var, weight, bias, eps):
    """y = x scale + shift."""
    scale = 1 / np.sqrt(var.astype(np.float64) + eps)
    if weight is not None:
        scale *= weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return scale.astype(mean.dtype), shift.astype(mean.dtype)


def _folded(w, b, mean, var, weight, bias, eps, axis, groups):
    scale, shift = scale_and_shift(mean.astype(np.float64), var, weight, bias, eps)
    if axis == 0:
        scaled = times(w, scale.reshape(-1, *(1,) * (w.ndim - 1)))
    else:  # a transposed convolution: input channels first, the groups side by side among them
        by_group = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        scaled = (by_group * scale.reshape(groups, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)
    moved = shift if b is None else b * scale + shift
    return scaled.astype(w.dtype, copy=False), moved.astype(w.dtype)


def _fold(graph, derived, producer, parameters, eps):
    w, b = (constant(graph, name) for name in (*producer.inputs, None)[1:3])
    settings = {"eps": eps, "axis": _CHANNEL_AXIS[producer.op], "groups": producer.attrs.get("groups", 1)}
    weights = derived(_folded, w, b, *parameters, **settings)
    names = (add_constant(graph, f"{producer.inputs[1]}_folded", weights[0]), None)
    names = names[0], add_constant(graph, f"{producer.inputs[1]}_folded_bias", weights[1])
    producer.inputs = (producer.inputs[0], *names)
