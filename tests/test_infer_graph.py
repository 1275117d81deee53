"""The graph of a network: checks, types, and the reference evaluation."""

import numpy as np
import pytest

from fastconv import functional as F
from fastconv.infer import Graph, Node, OpDef, Type, register
from fastconv.infer.ops import known

f32 = np.dtype("float32")


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(f32)


def small():
    """conv, batch norm, relu, pool, flatten, linear."""
    constants = {"w": array(6, 3, 3, 3), "b": array(6), "m": array(6), "v": array(6) ** 2, "fc": array(4, 6)}
    nodes = [
        Node("conv", ("x", "w", "b"), ("c",), {"padding": ((1, 1), (0, 2)), "stride": 2}),
        Node("batch_norm", ("c", "m", "v", None, None), ("n",), {"eps": 1e-3}),
        Node("relu", ("n",), ("r",)),
        Node("adaptive_avg_pool", ("r",), ("p",), {"output_size": 1}),
        Node("reshape", ("p",), ("f",), {"shape": (-1, 6)}),
        Node("linear", ("f", "fc", None), ("y",)),
    ]
    return Graph(nodes, {"x": ((2, 3, 9, 8), f32)}, ("y",), constants)


def test_evaluate_is_the_public_operations():
    graph, x = small(), array(2, 3, 9, 8, seed=1)
    k = graph.constants
    c = F.conv2d(np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 2))), k["w"], k["b"], stride=2)
    r = F.relu(F.batch_norm(c, k["m"], k["v"], eps=1e-3))
    wanted = F.linear(r.mean((2, 3)), k["fc"])
    np.testing.assert_allclose(graph.check().evaluate({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)
    assert graph.evaluate({"x": x}, ["r", "c"])["c"].shape == (2, 6, 5, 4)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (1, 3, 16, 16)])
def test_types_are_those_of_the_arrays(shape):
    graph = small()
    types = graph.types({"x": Type(shape, f32)})
    values = graph.evaluate({"x": array(*shape)}, [name for node in graph.nodes for name in node.outputs])
    assert {name: types[name] for name in values} == {name: Type.of(a) for name, a in values.items()}


OPS = [
    ("conv", ["x", "w", None, "x"], {"padding": 1, "low": 0.0, "high": 2.0}),
    ("conv_transpose", ["x", "w"], {"stride": 2, "output_padding": 1}),
    ("max_pool", ["x"], {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ("max_pool", ["x"], {"kernel": 3, "stride": 2, "padding": ((0, 1), (1, 0))}),
    ("avg_pool", ["x"], {"kernel": 2, "stride": 1}),
    ("adaptive_max_pool", ["x"], {"output_size": (2, 3)}),
    ("add", ["x", "s"], {}),
    ("softmax", ["x"], {"axis": 1}),
    ("clip", ["x"], {"low": 0.0, "high": None}),
    ("cat", ["x", "x"], {"axis": 1}),
    ("permute", ["x"], {"axes": (0, 2, 3, 1)}),
    ("index", ["x"], {"key": (slice(None), slice(1, 3))}),
    ("pad", ["x"], {"pads": ((0, 0), (0, 0), (1, 2), (0, 0)), "mode": "constant", "fill": 0}),
    ("mean", ["x"], {"axes": (2, 3), "keepdim": True}),
    ("channel_shuffle", ["x"], {"axis": 1, "groups": 2}),
    ("matmul", ["x", "x"], {}),
    ("identity", ["x"], {}),
]


@pytest.mark.parametrize("op, inputs, attrs", OPS, ids=[f"{op}{i}" for i, (op, *_) in enumerate(OPS)])
def test_every_op_says_what_it_gives(op, inputs, attrs):
    constants = {"w": array(4, 4, 3, 3), "s": array(4, 1, 1)}
    graph = Graph([Node(op, tuple(inputs), ("y",), attrs)], {"x": ((1, 4, 6, 6), f32)}, ("y",), constants).check()
    y = graph.evaluate({"x": array(1, 4, 6, 6)})["y"]
    assert graph.types()["y"] == Type.of(y)


def test_all_problems_at_once():
    nodes = [Node("nonsense", ("x",), ("a",)), Node("relu", ("later",), ("x",)), Node("relu", ("a",), ("a",))]
    with pytest.raises(ValueError, match="nonsense") as error:
        Graph(nodes, {"x": ((1,), f32)}, ("z",)).check()
    assert all(word in str(error.value) for word in ("'later'", "'x', which is there already", "output 'z'"))


def test_a_shape_that_does_not_fit_names_the_node():
    with pytest.raises(ValueError, match=r"layer1.conv: .*3 input channels.*input has 5"):
        graph = small()
        graph.nodes[0].name = "layer1.conv"
        graph.types({"x": Type((1, 5, 8, 8), f32)})


def test_operations_can_be_added():
    if not known("test.halve"):
        register("test.halve", OpDef(lambda attrs, x: x[::2], lambda attrs, x: ((None, x.dtype),)))
    nodes = [Node("test.halve", ("x",), ("h",)), Node("relu", ("h",), ("y",))]
    graph = Graph(nodes, {"x": ((4,), f32)}, ("y",)).check()
    assert graph.types()["h"].shape is None and graph.types()["y"].shape is None
    np.testing.assert_array_equal(graph.evaluate({"x": array(4)})["y"], np.maximum(array(4)[::2], 0))
    with pytest.raises(ValueError, match="already"):
        register("test.halve", OpDef(lambda attrs, x: x))


def test_text():
    assert str(small()).splitlines()[3] == "  r = relu(n)"
