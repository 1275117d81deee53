"""Products of matrices as rows: panels and tiles that do not fit, every way that the second matrix can lie."""

import numpy as np
import pytest

from fastconv._registry import select
from fastconv.driver import launch
from fastconv.infer import Graph, Node
from fastconv.infer.network import CompiledNetwork
from fastconv.kernels.products import PACKED, ROWS, TRANSPOSED, ConvForward, Sizes, packed, product_row
from fastconv.simd import isa, lanes
from fastconv.specs import Epilogue, conv_spec

RNG = np.random.default_rng(0)


def arrays(*shapes, dtype="float32"):
    return [RNG.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("how", [PACKED, ROWS, TRANSPOSED])
@pytest.mark.parametrize("rows, columns, depth", [(11, 70, 300), (8, 5, 1), (13, 48, 31)])
def test_products_of_any_size(how, rows, columns, depth):
    a, b, bias, c = arrays((rows, depth), (depth, columns), (columns,), (rows, columns))
    wanted = np.clip(a.astype("float64") @ b + bias + c, -3, 5)
    sizes = Sizes(1, rows, columns, depth, "float32")
    given = {ROWS: b, TRANSPOSED: b.T.copy()}.get(how)
    if given is None:
        given = packed(b.T.copy(), isa.tile(rows)[1] * lanes("float32"))
    launch(product_row(sizes, {"a": a, "b": given, "bias": bias, "c": c}, how, None, -3.0, 5.0, True))
    np.testing.assert_allclose(c, wanted, rtol=1e-5, atol=1e-4)


def test_fully_connected_layers_for_several_images():
    x, w, b, y = arrays((9, 6, 3, 5), (20, 6, 3, 5), (20,), (9, 20, 1, 1))
    spec = conv_spec("conv2d", 2, x.shape, w.shape, b.shape, 1, 0, 1, 1, "float32")
    assert select("conv.fwd", spec, packed=True) is ConvForward
    wanted = np.clip(x.reshape(9, -1).astype("float64") @ w.reshape(20, -1).T + b + y[..., 0, 0], -1, 2)
    start = y.copy()
    for kept in (ConvForward.pack(spec, w), None):
        y[:] = start
        buffers = {"x": x, "w": w, "b": b, "y": y, "packed": kept, "epilogue": Epilogue(-1.0, 2.0, True)}
        launch(*ConvForward.emit(spec, buffers))
        np.testing.assert_allclose(y[..., 0, 0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change, why",
    [({"groups": 2}, "one group"), ({"n": 1}, "several images"), ({"kernel": 2}, "whole image")],
)
def test_other_layers_are_refused(change, why):
    groups, n, kernel = change.get("groups", 1), change.get("n", 3), change.get("kernel", 3)
    spec = conv_spec("conv2d", 2, (n, 4, 3, 3), (2, 4 // groups, kernel, kernel), None, 1, 0, 1, groups, "float32")
    assert why in str(ConvForward.when(spec))


@pytest.mark.parametrize(
    "a, b", [((2, 3, 10, 7), (2, 3, 7, 20)), ((2, 3, 10, 7), (7, 20)), ((3, 10, 7), (2, 1, 7, 20)), ((4, 7), (2, 7, 3))]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_matmul_in_a_plan(a, b, dtype):
    a, b = arrays(a, b, dtype=dtype)
    types = {"a": (a.shape, a.dtype), "b": (b.shape, b.dtype)}
    graph = Graph([Node("matmul", ("a", "b"), ("y",))], types, ["y"])
    net = CompiledNetwork(graph, {"a": a, "b": b})
    (y,) = net.run(None, {"a": a, "b": b})
    np.testing.assert_allclose(y, a @ b, rtol=1e-4, atol=1e-5)
    assert "matrix_products" in net.explain()
    assert graph.types()["y"].shape == (a @ b).shape


def test_matmul_that_does_not_fit():
    graph = Graph([Node("matmul", ("a", "a"), ("y",))], {"a": ((2, 3), np.dtype("float32"))}, ["y"])
    with pytest.raises(ValueError, match="3 columns times 2 rows"):
        graph.types()


def test_layer_norm_in_a_plan():
    x, w, b = arrays((5, 33), (33,), (33,))
    nodes = [Node("layer_norm", ("x", "w", None), ("a",), {"eps": 1e-5})]
    nodes.append(Node("layer_norm", ("a", None, "b"), ("y",), {"eps": 1e-3}))
    net = CompiledNetwork(Graph(nodes, {"x": (x.shape, x.dtype)}, ["y"], {"w": w, "b": b}), {"x": x})
    (y,) = net.run(None, {"x": x})
    first = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w
    second = (first - first.mean(1, keepdims=True)) / np.sqrt(first.var(1, keepdims=True) + 1e-3) + b
    np.testing.assert_allclose(y, second, rtol=1e-4, atol=1e-5)
    assert "Python" not in net.explain()
