"""Memory of compiled networks: whatever shares it, results are those of the graph evaluated node by node."""

import numpy as np
import pytest

from fastconv.infer import Graph, Node
from fastconv.infer.network import CompiledNetwork
from fastconv.infer.passes import Derived
from fastconv.infer.plan import Plan
from fastconv.infer.rows import Packed
from fastconv.infer.storage import Storage, nbytes

f32 = np.dtype("float32")
SHAPE = (1, 4, 5, 6)


def random_graph(seed, count=14):
    """Elementwise operations, sums, concatenations, slices, reshapes and convolutions, read in all ways."""
    rng = np.random.default_rng(seed)
    batch = int(rng.choice([1, 1, 2]))
    shapes = {"x": (batch, *SHAPE[1:]), "z": (batch, *SHAPE[1:])}
    nodes, constants = [], {"w": rng.standard_normal((4, 4, 3, 3)).astype(f32) / 6, "s": np.ones((4, 1, 1), f32)}
    inputs = {name: (shape, f32) for name, shape in shapes.items()}
    for i in range(count):
        same = [n for n, shape in shapes.items() if shape == shapes["x"]]
        a, b = rng.choice(same, 2)
        wide = [n for n, shape in shapes.items() if len(shape) == 4 and shape[1] > 4]
        flat = [n for n, shape in shapes.items() if len(shape) == 2]
        name, kind = f"v{i}", rng.integers(0, 9)
        if kind == 0:
            node = Node("relu", (a,), (name,))
        elif kind == 1:
            node = Node(str(rng.choice(["add", "mul", "sub"])), (a, b), (name,))
        elif kind == 2:
            node = Node("conv", (a, "w", None, *([b] if rng.integers(2) else [])), (name,), {"padding": 1, "low": 0.0})
        elif kind == 3:
            node = Node("cat", tuple(rng.choice(same, int(rng.integers(2, 4)))), (name,), {"axis": 1})
        elif kind == 4 and wide:
            key = (slice(None), slice(2, 6)) if rng.integers(2) else (slice(None), slice(0, 8, 2))
            node = Node("index", (str(rng.choice(wide)),), (name,), {"key": key})
        elif kind == 5:
            node = Node("reshape", (a,), (name,), {"shape": (batch, -1)})
        elif kind == 6 and flat:
            node = Node("reshape", (str(rng.choice(flat)),), (name,), {"shape": shapes["x"]})
        elif kind == 7:
            node = Node("mul", (a, "s"), (name,))
        else:
            node = Node("permute", (a,), (name,), {"axes": (0, 1, 2, 3)})
        nodes.append(node)
        graph = Graph(nodes, inputs, (name,), constants)
        shapes[name] = graph.types()[name].shape
    made = [n for n in shapes if n not in inputs]
    outputs = tuple(dict.fromkeys([made[-1], *rng.choice(made, 2)]))
    return Graph(nodes, inputs, outputs, constants).check()


@pytest.mark.parametrize("seed", range(40))
def test_any_graph_gives_the_same(seed):
    graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    feeds = {name: rng.standard_normal(t.shape).astype(f32) for name, t in graph.inputs.items()}
    before = {name: array.copy() for name, array in feeds.items()}
    wanted = graph.evaluate(feeds)
    plain = Plan(graph.copy(), Packed(Derived())).run(feeds)
    optimised = CompiledNetwork(graph, feeds).run(None, feeds)
    for name, a, b in zip(graph.outputs, plain, optimised, strict=True):
        np.testing.assert_allclose(a, wanted[name], rtol=1e-4, atol=1e-4, err_msg=f"{name}\n{graph}")
        np.testing.assert_allclose(b, wanted[name], rtol=1e-4, atol=1e-4, err_msg=f"{name}\n{graph}")
    for name in feeds:
        np.testing.assert_array_equal(feeds[name], before[name])


def chain(*nodes, outputs=("y",)):
    graph = Graph(list(nodes), {"x": (SHAPE, f32)}, outputs)
    return Storage(graph, graph.types())


def test_an_activation_takes_over_its_input():
    storage = chain(
        Node("sigmoid", ("x",), ("a",)), Node("tanh", ("a",), ("b",)), Node("avg_pool", ("b",), ("y",), {"kernel": 2})
    )
    assert storage.places["a"] == storage.places["b"] and storage.shared == {"b": "in place of a"}
    assert storage.places["x"].region == "input" and storage.places["y"].region == "output"


def test_an_input_is_never_taken_over():
    storage = chain(Node("relu", ("x",), ("y",)))
    assert storage.places["y"].region == "output" and storage.arena_bytes == 0


def test_concatenations_inside_a_larger_one_cost_nothing():
    nodes = [Node("sigmoid", ("x",), ("a",))]
    for i, (inputs, output) in enumerate([("ab", "c"), ("abd", "e"), ("abdf", "g")]):
        nodes.append(Node("tanh", (["a", "c", "e"][i],) if i == 0 else ("a",), (inputs[-1],)))
        nodes.append(Node("cat", tuple(inputs), (output,), {"axis": 1}))
        nodes.append(Node("sum", (output,), (f"s{i}",), {"axes": (0, 1, 2, 3), "keepdim": False}))
    storage = chain(*nodes, outputs=("s0", "s1", "s2"))
    size = nbytes(storage._types["a"])
    base = storage.places["g"]
    places = {name: storage.places[name].offset - base.offset for name in "abdfce"}
    assert places == {"a": 0, "b": size, "d": 2 * size, "f": 3 * size, "c": 0, "e": 0}


def test_memory_is_used_again():
    nodes = [Node("avg_pool", ("x" if i == 0 else f"v{i - 1}",), (f"v{i}",), {"kernel": 1}) for i in range(10)]
    storage = chain(*nodes, Node("relu", ("v9",), ("y",)))
    size = nbytes(storage._types["v0"])
    assert storage.arena_bytes < 2.2 * size
