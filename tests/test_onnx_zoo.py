"""The published classifiers that come with the onnx package, in full size, against ONNX Runtime.

Their files have no weights: every one is a constant of one value, and with those nearly every mistake gives the right
answer too.  So all weights are drawn anew, with a fixed seed and so that activations neither vanish nor explode.
Two of the models run by default; `pytest tests/test_onnx_zoo.py --large` runs all nine.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

import onnx
import onnx.backend.test
from onnx import numpy_helper

import fastconv as fc

FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("*.onnx"))
DEFAULT = "shufflenet", "squeezenet"
BATCH_NORM = {1: (1, 0.1), 2: (0, 0.1), 3: (0, 0.1)}  # input -> mean and deviation; the variance is apart


def drawn(rng, shape, op, place):
    """Weights for one input of an operation: He's deviation for products, near 1 for factors and variances."""
    if op == "BatchNormalization" and place == 4:
        return rng.uniform(0.5, 1.5, shape)
    mean, deviation = BATCH_NORM.get(place, (0, 0.1)) if op == "BatchNormalization" else (0, 0.1)
    if op in ("Conv", "Gemm") and place == 1:
        deviation = (2 / np.prod(shape[1:])) ** 0.5
    elif op == "Mul":
        mean = 1
    return rng.normal(mean, deviation, shape)


def filled(proto, seed=0):
    """The model with random weights instead of constants, and with the logits before its softmax as an output."""
    graph, rng = proto.graph, np.random.default_rng(seed)
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    shapes = {name: a.shape for name, a in known.items() if a.dtype == np.float32}
    fillers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes |= {node.output[0]: tuple(known[node.input[0]]) for node in fillers}
    uses = {name: (node.op_type, place) for node in graph.node for place, name in enumerate(node.input)}
    for node in graph.node:  # a weight that gets axes on its way is used where the result is
        if node.op_type == "Unsqueeze" and node.input[0] in shapes:
            uses[node.input[0]] = uses[node.output[0]]
    kept = [t for t in graph.initializer if t.name not in shapes]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for name, shape in shapes.items():
        array = drawn(rng, shape, *uses.get(name, ("", 0))).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, name))
    for node in fillers:
        graph.node.remove(node)
    for node in graph.node:
        if node.op_type == "Softmax":
            graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    return proto


def test_the_nine_are_there():
    assert len(NAMES) == 9 and set(DEFAULT) < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_zoo(name, request):
    if name not in DEFAULT and not request.config.getoption("--large"):
        pytest.skip("only with --large: the large ones take seconds each")
    if find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    runtime = import_module("onnxruntime")
    data = filled(onnx.load(FOLDER / f"light_{name}.onnx")).SerializeToString()
    session = fc.InferenceSession(data)
    feeds = {
        info.name: np.random.default_rng(1).standard_normal(info.shape).astype(np.float32)
        for info in session.get_inputs()
    }
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    other = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs = zip(session.run(None, feeds), other.run(None, feeds), strict=True)
    for got, wanted in outputs:
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        largest = np.abs(wanted).max()
        assert np.isfinite(wanted).all() and np.ptp(wanted) > 0.1 * largest, "such weights tell nothing"
        assert np.abs(got - wanted).max() < 1e-4 * largest
