"""Networks written as ONNX files: accepted by the checker, the same numbers here and in ONNX Runtime."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

import onnx

import fastconv as fc
import fastconv.functional as F
from fastconv.models import get_model
from fastconv.onnx import ModelError
from fastconv.onnx.export import to_proto


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sessions(proto):
    """Functions {name: array} -> [array] of those that can run a model."""
    data = proto.SerializeToString()
    yield lambda feeds: fc.InferenceSession(data).run(None, feeds)
    if find_spec("onnxruntime"):
        ort = import_module("onnxruntime")
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        yield lambda feeds: session.run(None, feeds)


def agrees(model, *inputs, opset=20):
    """The proto of a model, after every runtime gave what the model gives."""
    proto = to_proto(model, inputs, opset)
    with fc.no_grad():
        wanted = model(*(fc.Tensor(x) for x in inputs))
    wanted = tuple(wanted.values()) if isinstance(wanted, dict) else wanted
    wanted = [w.numpy() for w in (wanted if isinstance(wanted, tuple) else (wanted,))]
    feeds = {info.name: x for info, x in zip(proto.graph.input, inputs, strict=True)}
    for run in sessions(proto):
        for got, want in zip(run(feeds), wanted, strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1, np.abs(want).max(initial=0)))
    return proto


W, B, IMAGE = array(6, 4, 3, 3), array(6), array(2, 4, 9, 8)
COLUMNS = array(6, 2, 3, 3, seed=2)
BOX = np.linspace(-1.2, 1.2, 2 * 5 * 7 * 2, dtype=np.float32).reshape(2, 5, 7, 2)
MOVES = np.array([[0, 1], [-1, 0], [2, -1], [0, 0]])
OPERATIONS = {
    "conv": lambda x: F.conv2d(x, W, B, stride=2, padding=1),
    "conv wide": lambda x: F.conv2d(x, W, None, padding=2, dilation=2),
    "conv groups": lambda x: F.conv2d(x, COLUMNS, B, groups=2),
    "transposed": lambda x: F.conv_transpose2d(x, array(4, 3, 3, 3), array(3), 2, 1, 1),
    "linear": lambda x: F.linear(x.reshape(2, -1), array(5, 288), array(5)),
    "max pool": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max pool, positions": lambda x: F.max_pool2d(x, 3, 2, return_indices=True),
    "mean pool": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "mean pool, inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "mean pool, even": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "mean pool, divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=1),
    "global": lambda x: F.adaptive_max_pool2d(x, 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "batch norm": lambda x: F.batch_norm(x, array(4), array(4) ** 2 + 1, array(4, seed=1), array(4, seed=2)),
    "batch norm, bare": lambda x: F.batch_norm(x, array(4), array(4) ** 2 + 1),
    "layer norm": lambda x: F.layer_norm(x, (9, 8), array(9, 8), array(9, 8)),
    "group norm": lambda x: F.group_norm(x, 2, array(4), array(4, seed=1)),
    "group norm, bare": lambda x: F.group_norm(x, 2),
    "response": lambda x: F.local_response_norm(x, 3),
    "prelu": lambda x: F.prelu(x, array(4)),
    "activations": lambda x: F.silu(x) + F.relu6(x) + F.hardswish(x) + F.hardsigmoid(x) + F.mish(x) + F.leaky_relu(x),
    "more": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh") + F.elu(x) + F.softmax(x, 1),
    "arithmetic": lambda x: (x * 2 - 1) / (x * x + 1) + abs(x) ** 0.5 + x.exp().sum((2, 3), keepdim=True),
    "reductions": lambda x: (x.mean((1,)), x.sum((2, 3))),
    "index": lambda x: x[:, 1::2, ..., -3] + x[1, ::2, :, 0],
    "positions": lambda x: x[:, np.array([3, 0, 0])],
    "axes": lambda x: x.permute(0, 2, 3, 1)[:, None, 1:-1],
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "mirrored": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "shuffles": lambda x: F.pixel_unshuffle(F.pixel_shuffle(F.channel_shuffle(x, 2), 2), 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=(1.7, 2.3)),
    "nearest, exact": lambda x: F.interpolate(x, (13, 5), mode="nearest-exact"),
    "linear map": lambda x: F.interpolate(x, scale_factor=1.6, mode="bilinear"),
    "linear map, aligned": lambda x: F.interpolate(x, (13, 5), mode="bilinear", align_corners=True),
    "smooth map": lambda x: F.interpolate(x, (4, 5), mode="bilinear", antialias=True),
    "cubic map": lambda x: F.interpolate(x, (13, 5), mode="bicubic"),
    "grid": lambda x: F.grid_sample(x, BOX, align_corners=False),
    "shift": lambda x: F.shift2d(x, MOVES),
    "pairs": lambda x: F.non_local(x.reshape(2, 4, 72), x.reshape(2, 4, 72)[:, :, :30], array(2, 3, 30)),
    "deform": lambda x: F.deform_conv2d(x, array(2, 18, 4, 3), W, B, stride=2, mask=array(2, 9, 4, 3)),
}


@pytest.mark.parametrize("model", OPERATIONS.values(), ids=OPERATIONS)
def test_operations(model):
    agrees(model, IMAGE)


def test_older_opset_and_other_ranks():
    proto = agrees(lambda x: F.gelu(F.max_pool1d(F.conv1d(x, array(3, 2, 3), padding=1), 2)), array(1, 2, 10), opset=18)
    assert proto.opset_import[0].version == 18
    agrees(lambda x: F.avg_pool3d(F.conv3d(x, array(3, 2, 2, 2, 2)), 2), array(1, 2, 5, 6, 7))


def calibrated(model, shape):
    """The network in evaluation, with the statistics of a batch: else images vanish on their way, and biases remain."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.momentum = 1.0
    with fc.no_grad():
        model.train()(fc.Tensor(array(2, *shape, seed=1)))
    return model.eval()


@pytest.mark.parametrize("name, shape", [("lenet5", (1, 32, 32)), ("shufflenet_v2_x0_5", (3, 64, 64))])
def test_networks(name, shape):
    model = calibrated(get_model(name), shape)
    proto = agrees(model, array(1, *shape))
    onnx.checker.check_model(proto)
    assert "output" in proto.graph.output[0].name and any("weight" in w.name for w in proto.graph.initializer)
    first, second = (model(fc.Tensor(array(1, *shape, seed=seed))) for seed in (0, 3))
    first, second = first.detach().numpy(), second.detach().numpy()
    assert np.abs(first - second).max() > 2e-3 * np.abs(first).max(), "the image says nothing"


def test_compiled_networks_and_files(tmp_path):
    path, x = tmp_path / "net.onnx", IMAGE
    net = fc.compile(lambda x: F.relu(F.conv2d(x, W, B)), {"picture": x})
    fc.onnx.export(net, path)
    session = fc.InferenceSession(path)
    assert [i.name for i in session.get_inputs()] == ["picture"]
    np.testing.assert_allclose(np.asarray(session.run(None, {"picture": x})[0]), net(x), rtol=1e-5, atol=1e-5)
    fc.onnx.export(net, path, x[:1])
    assert fc.InferenceSession(path).get_inputs()[0].shape == [1, 4, 9, 8]
    graph = net.graph()
    assert to_proto(graph).graph.input[0].name == "picture"


@pytest.mark.parametrize(
    "model, inputs, options, error, message",
    [
        (
            lambda x: F.adder2d(F.adder2d(x, W), array(2, 6, 3, 3)),
            IMAGE,
            {},
            ModelError,
            "2 operations .*adder_1.*adder_2",
        ),
        (lambda x: F.conv2d(x, W), IMAGE[0], {}, ModelError, r"wants a batch: 4 axes, given shape \(4, 9, 8\)"),
        (lambda x: F.adaptive_max_pool2d(x, 5), IMAGE, {}, ModelError, r"\(9, 8\) to \(5, 5\)"),
        (lambda x: F.local_response_norm(x, 2), IMAGE, {}, ModelError, "given size 2"),
        (lambda x: F.relu(x), IMAGE, {"opset": 7}, ValueError, "18 to .*given 7"),
        (lambda x: F.relu(x), 3, {}, TypeError, "given int"),
        (lambda x: F.relu(x), None, {}, TypeError, "needs example_inputs"),
    ],
)
def test_refusals(model, inputs, options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        fc.onnx.export(model, tmp_path / "none.onnx", inputs, **options)
    assert not (tmp_path / "none.onnx").exists()
