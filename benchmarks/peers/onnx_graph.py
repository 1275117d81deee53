"""A layer as an ONNX model of one node, for the libraries that read ONNX."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ..layers import Case
from ..measure import UnsupportedError

OPERATORS = {
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "deform_conv": "DeformConv",
    "max_pool": "MaxPool",
    "avg_pool": "AveragePool",
    "adaptive_avg_pool": "GlobalAveragePool",
}
OPSET = {"deform_conv": 19}  # the others: 17, which every reader knows
IR_VERSION = 9


def model_bytes(case: Case, arrays: dict[str, np.ndarray]) -> bytes:
    """A serialised model from input x (and offset) to output y, with the case's weights inside."""
    if case.kind not in OPERATORS or (case.kind == "adaptive_avg_pool" and set(case.kernel) != {1}):
        raise UnsupportedError(f"no ONNX operator for {case.op}")
    weights = [numpy_helper.from_array(arrays["w"], "w")] if "w" in arrays else []
    operands = ["x", *(["w"] if weights else []), *(["offset"] if "offset" in arrays else [])]
    node = helper.make_node(OPERATORS[case.kind], operands, ["y"], **_attributes(case))
    inputs = [_value(name, case.shapes[name]) for name in operands if name != "w"]
    graph = helper.make_graph([node], "layer", inputs, [_value("y", case.shapes["gy"])], weights)
    opset = [helper.make_opsetid("", OPSET.get(case.kind, 17))]
    return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION).SerializeToString()


def _value(name: str, shape: tuple[int, ...]):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _attributes(case: Case) -> dict[str, object]:
    if case.kind == "adaptive_avg_pool":
        return {}
    attributes = {"kernel_shape": case.kernel, "strides": case.stride, "pads": case.padding * 2}
    if case.kind == "avg_pool":
        return attributes | {"count_include_pad": 1}
    attributes["dilations"] = case.dilation
    return attributes if case.kind == "max_pool" else attributes | {"group": case.groups}
