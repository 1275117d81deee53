"""ONNX models: sessions, compiled networks against node by node, errors, the command line."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

from onnx import TensorProto, helper, numpy_helper

import fastconv as fc
from fastconv.cli import main
from fastconv.onnx import ModelError, backend, load
from fastconv.onnx.lower import Lowering

from .test_cli import refuse

FLOAT = TensorProto.FLOAT


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(nodes, inputs, outputs, constants=(), opset=18, **options):
    """A ModelProto; inputs: {name: shape or (type, shape)}; outputs: names; constants: {name: array}."""
    infos = []
    for name, given in inputs.items():
        kind, shape = given if isinstance(given, tuple) and isinstance(given[1], list) else (FLOAT, given)
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    weights = [numpy_helper.from_array(a, name) for name, a in dict(constants).items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "test", infos, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def node(op, inputs, outputs="y", **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def small():
    """conv, batch norm, relu, max pool, mean, Gemm after shape arithmetic; the batch and the size are open."""
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c s s m v", "n"),
        node("Relu", "n", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", "p", "g"),
        node("Shape", "g", "shape"),
        node("Gather", "shape zero", "n0"),
        node("Concat", "n0 rest", "wanted", axis=0),
        node("Reshape", "g wanted", "flat"),
        node("Gemm", "flat fc fb", "y", transB=1),
    ]
    constants = {
        "w": array(8, 3, 3, 3),
        "b": array(8),
        "s": array(8) ** 2 + 0.5,
        "m": array(8),
        "v": array(8) ** 2 + 0.5,
        "zero": np.array([0]),
        "rest": np.array([-1]),
        "fc": array(5, 8),
        "fb": array(5),
    }
    return model(nodes, {"x": ["batch", 3, "height", None]}, ["y"], constants)


def both(proto, feeds):
    """The outputs compiled, after they were found equal to those node by node."""
    session = fc.InferenceSession(proto.SerializeToString())
    assert session.network is not None
    got = session.run(None, feeds)
    wanted = fc.InferenceSession(proto.SerializeToString(), compiled=False).run(None, feeds)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    return got


def steps(proto, shapes):
    """The operations of the graph for these shapes."""
    read = load(proto.SerializeToString())
    types = {v.name: (shapes[v.name], v.dtype) for v in read.inputs}
    return [step.op for step in Lowering(read, types, {}).graph().check().nodes]


# ---- sessions


def test_session_says_what_it_is_and_runs(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(small().SerializeToString())
    session = fc.InferenceSession(path)
    (x,), (y,) = session.get_inputs(), session.get_outputs()
    assert (x.name, x.shape, x.type, y.name) == ("x", ["batch", 3, "height", None], "tensor(float)", "y")
    assert "x: tensor(float)" in repr(session) and "'x'" in repr(x) and session.get_overridable_initializers() == []
    assert session.get_modelmeta().custom_metadata_map == {}
    assert session.get_providers() == ["CPUExecutionProvider"]
    for shape in ((1, 3, 8, 8), (2, 3, 10, 6)):
        feeds = {"x": array(*shape)}
        wanted = fc.InferenceSession(str(path), compiled=False).run(["y"], feeds)[0]
        np.testing.assert_allclose(session.run(None, feeds)[0], wanted, rtol=1e-4, atol=1e-5)


def test_shape_arithmetic_is_gone():
    found = steps(small(), {"x": (2, 3, 8, 8)})
    assert found == ["conv", "batch_norm", "relu", "max_pool", "adaptive_avg_pool", "reshape", "linear"]


@pytest.mark.parametrize(
    "names, feeds, error, message",
    [
        (None, {"z": array(1, 3, 8, 8)}, ValueError, "wants inputs x; given z"),
        (None, {}, ValueError, "wants inputs x; given none"),
        (["q"], {"x": array(1, 3, 8, 8)}, ValueError, "wants outputs of y; given q"),
        (None, {"x": array(1, 3, 8, 8).astype(float)}, TypeError, "dtype float32, given float64"),
        (None, {"x": array(3, 8, 8)}, ValueError, r"4 axes \['batch', 3, 'height', '\?'\], given shape \(3, 8, 8\)"),
        (None, {"x": array(1, 4, 8, 8)}, ValueError, r"must have shape .*given \(1, 4, 8, 8\)"),
        (None, {"x": None}, TypeError, "given NoneType"),
        (None, [1], TypeError, "dict"),
    ],
)
def test_wrong_feeds_are_refused(names, feeds, error, message):
    session = fc.InferenceSession(small().SerializeToString())
    with pytest.raises(error, match=message):
        session.run(names, feeds)


def test_a_default_can_be_replaced():
    proto = model([node("Mul", "x k")], {"x": [2], "k": [1]}, ["y"], {"k": np.full(1, 3, np.float32)})
    session = fc.InferenceSession(proto.SerializeToString())
    assert [n.name for n in session.get_inputs()] == ["x"]
    assert [n.name for n in session.get_overridable_initializers()] == ["k"]
    x = array(2)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], 3 * x)
    np.testing.assert_allclose(session.run(None, {"x": x, "k": np.ones(1, np.float32)})[0], x)


# ---- compiled and node by node

X = (1, 4, 6, 6)
CASES = {
    "conv same": ([node("Conv", "x w", auto_pad="SAME_UPPER", strides=[2, 2])], ["conv"]),
    "conv groups": ([node("Conv", "x wg", group=2, pads=[0, 1, 2, 1])], ["conv"]),
    "transposed": ([node("ConvTranspose", "x w", strides=[2, 2], pads=[1, 1, 0, 0])], ["conv_transpose"]),
    "transposed, cut": ([node("ConvTranspose", "x w", strides=[2, 2], pads=[0, 0, 1, 1])], ["onnx"]),
    "max pool": ([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], ["max_pool"]),
    "max pool, positions": ([node("MaxPool", "x", "y z", kernel_shape=[2, 2])], ["onnx"]),
    "mean pool": ([node("AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 0, 0])], ["avg_pool"]),
    "mean": ([node("ReduceMean", "x spatial", keepdims=0)], ["adaptive_avg_pool", "reshape"]),
    "product": ([node("MatMul", "x matrix")], ["reshape", "linear", "reshape"]),
    "clip": ([node("Clip", "x low high")], ["clip"]),
    "hard sigmoid": ([node("HardSigmoid", "x")], ["mul", "add", "clip"]),
    "leaky": ([node("LeakyRelu", "x", alpha=0.2)], ["leaky_relu"]),
    "scalar": ([node("Mul", "x low")], ["mul"]),
    "channels": ([node("Add", "x column")], ["add"]),
    "softmax": ([node("Softmax", "x", axis=-1)], ["softmax"]),
    "joined": ([node("Concat", "x x", axis=-3)], ["cat"]),
    "parts": ([node("Split", "x", "a b", axis=1, num_outputs=2), node("Sub", "a b")], ["index", "index", "sub"]),
    "slice": ([node("Slice", "x one three one")], ["index"]),
    "backwards": ([node("Slice", "x minus far one minus")], ["onnx"]),
    "padding": ([node("Pad", "x pads low")], ["pad"]),
    "blocks": ([node("DepthToSpace", "x", blocksize=2)], ["reshape", "permute", "reshape"]),
    "twice": ([node("Resize", "x - scales".replace("-", "none"), mode="nearest")], ["interpolate"]),
    "linear": ([node("Resize", "x none scales", mode="linear")], ["interpolate"]),
    "cubic": ([node("Resize", "x none scales", mode="cubic")], ["onnx"]),
    "no kernel": ([node("Cos", "x")], ["onnx"]),
    "found by running": ([node("NonZero", "x", "n"), node("Shape", "n")], ["onnx", "onnx"]),
}
CONSTANTS = {
    "w": array(4, 4, 3, 3),
    "wg": array(6, 2, 3, 3),
    "matrix": array(6, 5),
    "spatial": np.array([2, 3]),
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.75, np.float32),
    "column": array(4, 1, 1),
    "one": np.array([1]),
    "three": np.array([3]),
    "minus": np.array([-1]),
    "far": np.array([-100]),
    "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "none": np.zeros(0, np.float32),
}


@pytest.mark.parametrize("nodes, wanted", CASES.values(), ids=CASES)
def test_compiled_is_node_by_node(nodes, wanted):
    used = {name for n in nodes for name in n.input}
    proto = model(nodes, {"x": list(X)}, ["y"], {n: a for n, a in CONSTANTS.items() if n in used})
    assert steps(proto, {"x": X}) == wanted
    both(proto, {"x": array(*X)})


BELL = [node("Div", "x root", "a"), node("Erf", "a", "b"), node("Add", "b one", "c")]
SPELLED = {
    "hardswish": [
        [node("Add", "x three", "a"), node("Clip", "a zero six", "b"), node("Mul", "x b", "c"), node("Div", "c six")],
        [node("Add", "three x", "a"), node("Clip", "a zero six", "b"), node("Div", "b six", "c"), node("Mul", "c x")],
        [node("Add", "x three", "a"), node("Clip", "a zero six", "b"), node("Mul", "b sixth", "c"), node("Mul", "x c")],
        [node("HardSigmoid", "x", "a", alpha=1 / 6), node("Mul", "a x")],
    ],
    "hardsigmoid": [[node("Add", "x three", "a"), node("Clip", "a zero six", "b"), node("Div", "b six")]],
    "silu": [[node("Sigmoid", "x", "a"), node("Mul", "x a")]],
    "gelu": [
        [*BELL, node("Mul", "x c", "d"), node("Mul", "d half")],
        [*BELL, node("Mul", "x half", "d"), node("Mul", "d c")],
        [*BELL, node("Mul", "c half", "d"), node("Mul", "x d")],
    ],
}


@pytest.mark.parametrize("op, nodes", [(op, nodes) for op, each in SPELLED.items() for nodes in each])
def test_activations_that_are_spelled_out(op, nodes):
    used = {name for n in nodes for name in n.input}
    numbers = {"three": 3, "zero": 0, "six": 6, "sixth": 1 / 6, "half": 0.5, "one": 1, "root": 2**0.5}
    constants = {name: np.array(value, np.float32) for name, value in numbers.items() if name in used}
    proto = model(nodes, {"x": list(X)}, ["y"], constants)
    assert steps(proto, {"x": X})[-1] == op
    both(proto, {"x": 4 * array(*X)})
    constants |= {name: constants[name] * 2 for name in constants.keys() & {"three", "half", "root"}}
    other = model(nodes, {"x": list(X)}, ["y"], constants)
    assert len(nodes) == 2 or steps(other, {"x": X})[-1] != op  # other numbers, another function


def body(name, nodes, outputs, inputs=()):
    infos = [helper.make_empty_tensor_value_info(n) for n in inputs]
    return helper.make_graph(nodes, name, infos, [helper.make_empty_tensor_value_info(n) for n in outputs])


def test_if_and_loop_see_what_is_around_them():
    then, other = body("then", [node("Relu", "x", "t")], ["t"]), body("else", [node("Neg", "x", "e")], ["e"])
    turn = body(
        "turn", [node("Identity", "go", "on"), node("Add", "sum x", "more")], ["on", "more"], ["i", "go", "sum"]
    )
    nodes = [node("If", "c", "a", then_branch=then, else_branch=other), node("Loop", "three go a", body=turn)]
    constants = {"three": np.array(3), "go": np.array(True)}
    proto = model(nodes, {"x": [2, 2], "c": (TensorProto.BOOL, [])}, ["y"], constants)
    x = array(2, 2)
    np.testing.assert_allclose(both(proto, {"x": x, "c": np.array(False)})[0], 2 * x, atol=1e-6)
    proto = model(nodes, {"x": [2, 2]}, ["y"], {**constants, "c": np.array(True)})
    assert steps(proto, {"x": (2, 2)}) == ["relu", "onnx"]  # the condition is known: the branch is part of the graph


def test_outputs_that_are_inputs_or_constants():
    proto = model([node("Identity", "x"), node("Identity", "k", "z")], {"x": [2]}, ["y", "z"], {"k": array(3)})
    x = array(2)
    y, z = both(proto, {"x": x})
    assert y is not x and np.array_equal(y, x) and np.array_equal(z, array(3))


def test_functions_of_the_model():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 18)]
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    proto = model([call], {"x": [3]}, ["y"], functions=[function])
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    np.testing.assert_allclose(both(proto, {"x": array(3)})[0], 2 * array(3))


def test_opset_6_broadcasts_from_an_axis():
    proto = model([node("Add", "x k", axis=1, broadcast=1)], {"x": [2, 3, 4]}, ["y"], {"k": array(3)}, opset=6)
    np.testing.assert_allclose(both(proto, {"x": array(2, 3, 4)})[0], array(2, 3, 4) + array(3)[:, None])


# ---- models that can't be


def _cycle(proto):
    proto.graph.node[0].input[0] = "n"


def _unknown(proto):
    proto.graph.node[2].op_type, proto.graph.node[3].op_type = "Nonsense", "Other"


def _deep(proto):
    graph = body("inner", [node("Identity", "x", "t")], ["t"])
    for i in range(25):
        graph = body(f"b{i}", [node("If", "zero", "t", then_branch=graph, else_branch=graph.__class__())], ["t"])
    proto.graph.node.append(node("If", "zero", "deep", then_branch=graph, else_branch=graph.__class__()))


def _external(proto):
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")


BROKEN = {
    "cycle": (_cycle, r"node 0 \(Conv .*waits for itself"),
    "missing": (lambda p: p.graph.node[0].input.__setitem__(1, "gone"), r"node 0 \(Conv .*'gone'"),
    "twice": (lambda p: p.graph.node[1].output.__setitem__(0, "c"), r"node 1 .*'c', which is there already"),
    "no output": (
        lambda p: p.graph.output.append(helper.make_empty_tensor_value_info("q")),
        "no node makes output 'q'",
    ),
    "unknown": (_unknown, r"2 unsupported operators: .*Nonsense.*Other"),
    "negative": (lambda p: p.graph.initializer[0].dims.__setitem__(0, -8), r"weight 'w' has the shape \[-8"),
    "astronomic": (lambda p: p.graph.initializer[0].dims.__setitem__(0, 1 << 60), "weight 'w' has the shape"),
    "too little data": (lambda p: p.graph.initializer[0].dims.__setitem__(0, 9), "weight 'w' of shape"),
    "type": (lambda p: setattr(p.graph.initializer[0], "data_type", 99), "weight 'w'"),
    "newer": (lambda p: setattr(p.opset_import[0], "version", 999), "opset 999; wanted 7 to"),
    "deep": (_deep, "nested deeper"),
    "external": (_external, "'../secret'"),
}


@pytest.mark.parametrize("change, message", BROKEN.values(), ids=BROKEN)
def test_broken_models_are_refused(change, message):
    proto = small()
    change(proto)
    with pytest.raises(ModelError, match=message):
        load(proto)


def test_files_that_are_no_models(tmp_path):
    data = small().SerializeToString()
    for bad in (b"", b"no model", data[: len(data) // 2], data[:40], data[7:]):
        with pytest.raises(ModelError):
            fc.InferenceSession(bad)
    with pytest.raises(FileNotFoundError):
        fc.InferenceSession(tmp_path / "none.onnx")
    with pytest.raises(TypeError, match="given int"):
        fc.InferenceSession(3)


def test_changed_bytes_never_do_more_than_raise():
    data, rng = bytearray(small().SerializeToString()), np.random.default_rng(0)
    feeds, ran = {"x": array(1, 3, 4, 4)}, 0
    for _ in range(300):
        mutant = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutant[place] = rng.integers(0, 256)
        try:
            fc.InferenceSession(bytes(mutant), compiled=False).run(None, feeds)
            ran += 1
        except (ValueError, TypeError):
            pass
    assert 0 < ran < 300


def test_external_data_beside_the_model(tmp_path):
    proto = model([node("Mul", "x k")], {"x": [2]}, ["y"], {"k": array(2)})
    weight = proto.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(b"1234" + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "4", "length": "8"}.items():
        weight.external_data.add(key=key, value=value)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    x = array(2, seed=1)
    np.testing.assert_allclose(fc.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})[0], x * array(2))
    weight.external_data[1].value = "8"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="8 bytes of float32 from 8 on, in a file of 12"):
        fc.InferenceSession(tmp_path / "model.onnx")


def test_a_node_that_refuses_is_named():
    proto = model([node("Reshape", "x k")], {"x": [2, 3]}, ["y"], {"k": np.array([4])})
    for compiled in (False, True):
        with pytest.raises(ModelError, match=r"Reshape.*can't reshape \(2, 3\) to \(4,\); inputs float32\[2, 3\]"):
            fc.InferenceSession(proto.SerializeToString(), compiled=compiled).run(None, {"x": array(2, 3)})


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'fastconv\[onnx\]'"):
        fc.InferenceSession(b"")


# ---- backend and command line


def test_backend_interface():
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA:1")
    x = array(3)
    (y,) = backend.run_node(node("Neg", "x"), [x])
    np.testing.assert_array_equal(y, -x)
    proto = model([node("Neg", "x")], {"x": [3]}, ["y"])
    np.testing.assert_array_equal(backend.run_model(proto, [x])[0], -x)
    assert backend.is_compatible(proto) and not backend.is_compatible(model([node("None", "x")], {"x": [3]}, ["y"]))
    with pytest.raises(ValueError, match="given 'CUDA'"):
        backend.prepare(proto, "CUDA")
    with pytest.raises(ValueError, match="at most 1 inputs"):
        backend.prepare(proto).run([x, x])


def test_command_line(capsys, tmp_path):
    path, out = tmp_path / "small.onnx", tmp_path / "out.npz"
    path.write_bytes(small().SerializeToString())
    shape = ["--shape", "x=1x3x8x8"]
    assert main(["run", str(path), *shape, "--top", "3", "--out", str(out)]) == 0
    assert "float32 1x5" in capsys.readouterr().out and np.load(out)["y"].shape == (1, 5)
    np.save(tmp_path / "x.npy", array(2, 3, 8, 8))
    assert main(["run", str(path), "--input", str(tmp_path / "x.npy")]) == 0
    assert "float32 2x5" in capsys.readouterr().out
    assert main(["bench", str(path), *shape, "--repeats", "2", "--profile"]) == 0
    assert "fastconv" in capsys.readouterr().out
    assert main(["summary", str(path), "--input", "1x3x8x8"]) == 0
    assert "7 nodes, 301 weights" in capsys.readouterr().out
    assert main(["warmup", str(path), *shape]) == 0
    assert "small.onnx:" in capsys.readouterr().out
    assert "--shape x=" in refuse(capsys, "run", str(path))
    assert "NAME of x" in refuse(capsys, "run", str(path), "--shape", "q=1")
    assert "none.onnx" in refuse(capsys, "run", str(tmp_path / "none.onnx"))


def test_command_line_runs_a_picture(capsys, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "red.png")
    (tmp_path / "small.onnx").write_bytes(small().SerializeToString())
    command = ["run", str(tmp_path / "small.onnx"), "--input", str(tmp_path / "red.png"), "--shape", "1x3x8x8"]
    assert main([*command, "--top", "1"]) == 0 and "float32 1x5" in capsys.readouterr().out
