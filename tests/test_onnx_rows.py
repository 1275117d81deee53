"""Operators of sequence models that become rows: products of matrices, layer norm, sums, recurrent layers."""

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

from onnx import helper

import fastconv as fc

from .test_onnx import array, both, model, node, steps


def python_steps(proto, feeds):
    """The names of the nodes that run as steps of Python."""
    network = fc.InferenceSession(proto.SerializeToString()).network
    assert network is not None
    return [n.name for n in network.profile(*feeds.values(), repeats=1).nodes if n.algorithm == "Python"]


NORM = (
    """ReduceMean x,m; Sub x,m,d; Pow d,two,q; ReduceMean q,v; Add v,eps,e; Sqrt e,s; Div d,s,n; Mul n,w,k; Add k,b,y"""
)


def nodes_of(text, axes=-1):
    made = []
    for call in text.split("; "):
        op, _, names = call.partition(" ")
        *given, output = names.split(",")
        attrs = {"axes": [axes]} if op == "ReduceMean" else {}
        made.append(helper.make_node(op, given, [output], **attrs))
    return made


CONSTANTS = {
    "two": np.array(2, np.float32),
    "eps": np.array(1e-5, np.float32),
    "w": array(24),
    "b": array(24, seed=1),
    "one": np.ones(1, np.float32),
    "matrix": array(24, 10),
    "column": array(1, 1, 10),
}


def built(text, shape, **options):
    nodes = nodes_of(text, **options)
    used = {name for n in nodes for name in n.input}
    return model(nodes, {"x": list(shape)}, ["y"], {n: a for n, a in CONSTANTS.items() if n in used}, opset=17)


@pytest.mark.parametrize("last", ["y", "k,b,y", "n,w,y"], ids=["all", "no weight", "no bias"])
def test_layer_norm_that_is_spelled_out(last):
    text = {"y": NORM, "k,b,y": NORM.replace("Mul n,w,k; ", "").replace("k,b,y", "n,b,y")}.get(last)
    proto = built(text or NORM.replace("Mul n,w,k; Add k,b,y", "Mul n,w,y"), (2, 5, 24))
    assert steps(proto, {"x": (2, 5, 24)})[-3:] == ["reshape", "layer_norm", "reshape"]
    x = array(2, 5, 24)
    both(proto, {"x": x})
    assert python_steps(proto, {"x": x}) == []


def test_other_arithmetic_is_no_layer_norm():
    for text in (NORM.replace("Sub x,m", "Sub m,x"), NORM.replace("Div d,s", "Div x,s"), NORM.replace("q,v", "d,v")):
        proto = built(text, (2, 5, 24))
        assert "layer_norm" not in steps(proto, {"x": (2, 5, 24)})
    both(built(NORM.replace("Div d,s", "Div x,s"), (2, 5, 24)), {"x": array(2, 5, 24)})


def test_layer_normalization():
    proto = model(
        [node("LayerNormalization", "x w b", axis=-1)], {"x": [2, 5, 24]}, ["y"], {"w": array(24), "b": array(24)}
    )
    assert steps(proto, {"x": (2, 5, 24)}) == ["reshape", "reshape", "reshape", "layer_norm", "reshape"]
    x = array(2, 5, 24)
    both(proto, {"x": x})
    assert python_steps(proto, {"x": x}) == []


def test_products_with_weights_take_the_bias():
    proto = built("MatMul x,matrix,p; Add p,column,y", (2, 5, 24))
    assert "add" not in steps(proto, {"x": (2, 5, 24)})[-2:]
    both(proto, {"x": array(2, 5, 24)})


def test_products_of_values_are_rows():
    proto = model([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")], {"x": [2, 5, 24]}, ["y"])
    x = array(2, 5, 24)
    both(proto, {"x": x})
    assert python_steps(proto, {"x": x}) == []


def test_products_with_one_are_nothing():
    proto = built("Mul x,one,a; Sigmoid a,s; Mul x,s,y", (2, 5, 24))
    assert steps(proto, {"x": (2, 5, 24)})[-1] == "silu"
    both(proto, {"x": array(2, 5, 24)})


# ---- recurrent layers


def recurrent(op, directions=1, hidden=20, biased=True, **attrs):
    gates = {"LSTM": 4, "GRU": 3}[op] * hidden
    constants = {"w": array(directions, gates, 7, seed=2) / 3, "r": array(directions, gates, hidden, seed=3) / 4}
    if biased:
        constants["b"] = array(directions, 2 * gates, seed=4)
    names = "x w r b" if biased else "x w r"
    outputs = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    made = node(op, names, " ".join(outputs), hidden_size=hidden, **attrs)
    return made, constants, outputs


@pytest.mark.parametrize("op, attrs", [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})])
@pytest.mark.parametrize("rows", [1, 9])
def test_recurrent_layers_are_rows(op, attrs, rows):
    made, constants, outputs = recurrent(op, **attrs)
    proto = model([made], {"x": [5, "rows", 7]}, outputs, constants, opset=14)
    x = array(5, rows, 7)
    both(proto, {"x": x})
    assert python_steps(proto, {"x": x}) == []


def test_recurrent_layers_in_both_directions_with_the_batch_first():
    made, constants, outputs = recurrent("LSTM", 2, direction="bidirectional", layout=1)
    made.input.extend(["", "h0", "c0"])
    constants |= {"h0": array(3, 2, 20, seed=5), "c0": array(3, 2, 20, seed=6)}
    proto = model([made], {"x": [3, 5, 7]}, outputs, constants, opset=14)
    got = both(proto, {"x": array(3, 5, 7)})
    assert [a.shape for a in got] == [(3, 5, 2, 20), (3, 2, 20), (3, 2, 20)]
    assert python_steps(proto, {"x": array(3, 5, 7)}) == []


def test_recurrent_layers_backwards_without_bias():
    made, constants, outputs = recurrent("GRU", biased=False, direction="reverse", hidden=5)
    both(model([made], {"x": [4, 2, 7]}, outputs, constants, opset=14), {"x": array(4, 2, 7)})


@pytest.mark.parametrize("change", [{"clip": 0.5}, {"activations": ["Sigmoid", "Relu", "Tanh"]}, {"input_forget": 1}])
def test_other_recurrent_layers_are_steps_of_python(change):
    made, constants, outputs = recurrent("LSTM", **change)
    proto = model([made], {"x": [3, 2, 7]}, outputs, constants, opset=14)
    assert steps(proto, {"x": (3, 2, 7)}) == ["onnx"]
    both(proto, {"x": array(3, 2, 7)})


def test_recurrent_layers_whose_weights_are_inputs():
    made, constants, outputs = recurrent("GRU", biased=False)
    proto = model([made], {"x": [3, 2, 7], "w": [1, 60, 7]}, outputs, {"r": constants["r"]}, opset=14)
    both(proto, {"x": array(3, 2, 7), "w": constants["w"]})
