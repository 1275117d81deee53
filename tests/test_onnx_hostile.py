"""ONNX files that mean harm: whatever they ask for is refused with node and reason, in little time and memory."""

import time
import tracemalloc
from contextlib import contextmanager
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

import onnx
from onnx import TensorProto, helper

import fastconv as fc
from fastconv.onnx import ModelError, load

from .test_onnx import FLOAT, array, body, model, node, small

SECONDS, MEGABYTES = 20, 100  # for any one of these; most take milliseconds


@contextmanager
def bounded():
    """Fails where the block takes long or takes much memory at its peak."""
    tracemalloc.start()
    started = time.process_time()
    try:
        yield
        taken, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < SECONDS and peak < MEGABYTES << 20, f"{taken:.1f} s, {peak >> 20} MB"


def refused(proto, message, feeds=None):
    """Loading or, with feeds, running the model raises a ModelError, compiled and node by node."""
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    for compiled in (False, True):
        with bounded(), pytest.raises(ModelError, match=message):
            session = fc.InferenceSession(data, compiled=compiled)
            if feeds is not None:
                session.run(None, feeds)


# ---- sizes

HUGE = {  # a node that makes something of astronomic or negative size -> what it reads
    "constant": (node("ConstantOfShape", "k"), [1 << 40, 1 << 20]),
    "negative constant": (node("ConstantOfShape", "k"), [-3]),
    "expanded": (node("Expand", "x k"), [1 << 40, 1, 1, 1]),
    "tiled": (node("Tile", "x k"), [1 << 40, 1 << 20, 1, 1]),
    "padded": (node("Pad", "x k"), [0, 0, 0, 0, 0, 0, 0, 1 << 50]),
    "cut away": (node("Pad", "x k"), [0, 0, 0, 0, 0, 0, 0, -(1 << 50)]),
    "reshaped": (node("Reshape", "x k"), [1 << 62, 1 << 62]),
    "resized": (node("Resize", "x none none k"), [1, 1, 1 << 40, 1 << 40]),
    "range": (node("Range", "zero k one"), 1 << 60),
    "one-hot": (node("OneHot", "where k pair"), 1 << 50),
    "most": (node("TopK", "x k", "y z"), [1 << 60]),
    "window": (node("HannWindow", "k"), 1 << 50),
    "dilated": (node("Conv", "x w", dilations=[1 << 40, 1]), 0),
    "padded kernel": (node("Conv", "x w", pads=[1 << 40, 0, 1 << 40, 0]), 0),
    "transposed": (node("ConvTranspose", "x w", strides=[1 << 40, 1 << 30]), 0),
    "negative strides": (node("MaxPool", "x", kernel_shape=[2, 2], strides=[-1, 1]), 0),
    "large pool": (node("AveragePool", "x", kernel_shape=[1 << 40, 1]), 0),
    "random": (node("RandomNormal", "", shape=[1 << 40, 1 << 20]), 0),
}


@pytest.mark.parametrize("made, size", HUGE.values(), ids=HUGE)
def test_sizes_of_results(made, size):
    constants = {
        "k": np.array(size),
        "w": array(4, 4, 3, 3),
        "zero": np.array(0),
        "one": np.array(1),
        "where": np.array([1]),
        "pair": np.array([0, 1]),
        "none": np.zeros(0, np.float32),
    }
    if made.op_type == "RandomNormal":
        del made.input[:]
    used = {name: a for name, a in constants.items() if name in made.input}
    refused(model([made], {"x": [1, 4, 6, 6]}, ["y"], used), made.op_type, {"x": array(1, 4, 6, 6)})


@pytest.mark.parametrize("dims", [[-1], [1 << 62, 4], [1 << 40], [0, -1]])
@pytest.mark.parametrize("place", ["weight", "attribute", "sparse"])
def test_sizes_of_weights(place, dims):
    tensor = TensorProto(name="k", dims=dims, data_type=FLOAT, raw_data=b"1234")
    proto = model([node("Identity", "x")], {"x": [1]}, ["y"])
    if place == "weight":
        proto.graph.initializer.append(tensor)
    elif place == "attribute":
        proto.graph.node.append(helper.make_node("Constant", [], ["z"], value=tensor))
    else:
        values = TensorProto(name="k", dims=[1], data_type=FLOAT, raw_data=b"1234")
        indices = TensorProto(dims=[1], data_type=TensorProto.INT64, int64_data=[0])
        proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=dims))
    refused(proto, "shape|has data")


def test_sizes_of_inputs():
    for dims in ([1 << 62, 1 << 62], [-5]):
        proto = model([node("Add", "x x")], {"x": dims}, ["y"])
        with bounded(), pytest.raises(ValueError, match=r"'x' must have .* given"):
            fc.InferenceSession(proto.SerializeToString()).run(None, {"x": array(2, 2, 2)})


# ---- graphs


def test_a_branch_inside_out():
    """Cycles, missing values and unknown operators are found in the bodies of nodes, too."""
    given = {"x": [2], "c": (TensorProto.BOOL, [])}

    def choice(*nodes):
        both = {word: body("b", nodes, ["t"]) for word in ("then_branch", "else_branch")}
        return model([node("If", "c", **both)], given, ["y"])

    refused(choice(node("Add", "x u", "t"), node("Neg", "t", "u")), "cycle")
    refused(choice(node("Add", "x gone", "t")), "'gone'")
    refused(choice(node("Nobody", "x", "s"), node("Knows", "s", "t")), "2 unsupported operators: Knows.*; Nobody")


def test_all_unknown_operators_at_once():
    nodes = [node(f"Strange{i}", "x", f"y{i}") for i in range(30)]
    with pytest.raises(ModelError, match="30 unsupported operators") as found:
        load(model(nodes, {"x": [1]}, ["y0"]))
    assert all(f"Strange{i} " in str(found.value) for i in range(30))


def varint(number):
    """Seven bits a byte, the lowest first."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


@pytest.mark.parametrize("depth", [21, 60, 2000])
def test_deep_nesting(depth):
    """Beyond what is allowed, and beyond what the parser of the file takes."""
    inside = body("b", [node("Identity", "x", "t")], ["t"]).SerializeToString()

    def field(number, data):  # protobuf's: a tag, a length, the data
        return varint(number << 3 | 2) + varint(len(data)) + data

    for _ in range(depth):
        then = field(1, b"then_branch") + field(6, inside) + b"\xa0\x01\x05"
        other = field(1, b"else_branch") + field(6, b"") + b"\xa0\x01\x05"
        choice = field(1, b"c") + field(2, b"t") + field(4, b"If") + field(5, then) + field(5, other)
        inside = field(1, choice) + field(2, b"b") + field(12, field(1, b"t"))
    proto = model([], {"c": (TensorProto.BOOL, []), "x": [1]}, [])
    data = proto.SerializeToString() + field(7, inside)
    refused(data, "nested deeper|not an ONNX model")


def test_functions_that_call_each_other_twice():
    """2^18 nodes from 19 functions of two; and one that calls itself."""

    def function(name, *nodes):
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
        return helper.make_function("mine", name, ["a"], ["c"], nodes, opsets)

    def call(name, given, made):
        return helper.make_node(name, [given], [made], domain="mine")

    functions = [function("f0", node("Neg", "a", "b"), node("Neg", "b", "c"))]
    functions += [function(f"f{i}", call(f"f{i - 1}", "a", "b"), call(f"f{i - 1}", "b", "c")) for i in range(1, 18)]
    for name, more, message in (("f17", [], "more than 32768"), ("g", [function("g", call("g", "a", "c"))], "nested")):
        proto = model([call(name, "x", "y")], {"x": [1]}, ["y"], functions=[*functions, *more])
        proto.opset_import.append(helper.make_opsetid("mine", 1))
        refused(proto, message)


# ---- types and external data


def test_types():
    proto = small()
    proto.graph.input[0].type.tensor_type.elem_type = 99
    refused(proto, "'x' has the unknown type number 99")
    proto = model([node("Conv", "x w")], {"x": [1, 4, 6, 6]}, ["y"], {"w": array(4, 4, 3, 3).astype(np.float16)})
    refused(proto, "Conv.*one dtype.*float16", {"x": array(1, 4, 6, 6)})
    proto = model([node("Gather", "x k")], {"x": [4]}, ["y"], {"k": array(1)})
    refused(proto, "Gather.*int32.*given float32", {"x": array(4)})


@pytest.mark.parametrize("place", ["../outside.bin", "{folder}/outside.bin", "link.bin", "up/outside.bin", "", "inner"])
@pytest.mark.parametrize("attribute", [False, True])
def test_external_data_elsewhere(place, attribute, tmp_path):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(b"12345678")
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    (folder / "up").symlink_to(tmp_path)
    tensor = TensorProto(name="k", dims=[2], data_type=FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place.format(folder=tmp_path))
    proto = model([node("Mul", "x k")], {"x": [2]}, ["y"])
    if attribute:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=tensor))
    else:
        proto.graph.initializer.append(tensor)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="no file in the folder of the model"):
        fc.InferenceSession(folder / "model.onnx")


# ---- files


def test_every_prefix_of_a_file():
    data = small().SerializeToString()
    with bounded():
        for length in range(0, len(data) - 1, 5):
            with pytest.raises(ModelError):
                load(data[:length])


def many(count, kind="Neg"):
    """The bytes of a chain of so many nodes."""
    proto = model([], {"v0": [2]}, [f"v{count}"])
    for i in range(count):
        proto.graph.node.add(op_type=kind, input=[f"v{i}"], output=[f"v{i + 1}"])
    return proto.SerializeToString()


def test_many_nodes(request):
    """Memory and time grow with the number of nodes; a million with --large (half a minute, 2 GB)."""
    count = 1_000_000 if request.config.getoption("--large") else 50_000
    data, started, x = many(count), time.process_time(), array(2)
    session = fc.InferenceSession(data)
    assert session.network is None  # too many to plan
    np.testing.assert_array_equal(session.run(None, {"v0": x})[0], x)
    with pytest.raises(ModelError, match="cycle"):
        load(data.replace(b"\x02v0\x12\x02v1", b"\x02v9\x12\x02v1"))
    assert time.process_time() - started < 60 + count * 120e-6


@pytest.mark.parametrize("kind", ["Neg", "Cos"])
def test_many_nodes_in_one_plan(kind):
    session, x = fc.InferenceSession(many(10_000, kind)), array(2)
    started = time.process_time()
    assert session.network is not None and session.run(None, {"v0": x})[0].shape == (2,)
    assert time.process_time() - started < 30
