"""OpenVINO's CPU plugin in float32."""

import numpy as np
import openvino as ov
from openvino import opset8

from ..layers import Case
from ..measure import Candidate, UnsupportedError
from .onnx_graph import model_bytes

NAMES = ("openvino",)


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"openvino": ov.__version__}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """A compiled model of one node; its input is the caller's memory, its output memory is its own and is reused."""
    if which != "fwd":
        raise UnsupportedError("no gradients")
    core = ov.Core()
    model = _deformable(case, arrays) if case.kind == "deform_conv" else core.read_model(model_bytes(case, arrays))
    request = _request(core, model, threads)
    for value in request.model_inputs:
        request.set_tensor(value, ov.Tensor(arrays[value.any_name], shared_memory=True))
    return Candidate(request.infer, lambda _: request.get_output_tensor().data.copy())


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """The compiled file; input and output as for a layer."""
    core = ov.Core()
    request = _request(core, core.read_model(path), threads)
    request.set_tensor(request.model_inputs[0], ov.Tensor(x, shared_memory=True))
    return Candidate(request.infer, lambda _: request.get_output_tensor(0).data.copy())


def _request(core: ov.Core, model: ov.Model, threads: int) -> ov.InferRequest:
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    try:
        return core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise UnsupportedError(str(error).strip().splitlines()[-1]) from None


def _deformable(case: Case, arrays: dict[str, np.ndarray]) -> ov.Model:
    """Built by hand: the reader of ONNX models does not know DeformConv."""
    x, offset = (opset8.parameter(case.shapes[key], np.float32, name=key) for key in ("x", "offset"))
    sizes = {"strides": case.stride, "pads_begin": case.padding, "pads_end": case.padding, "dilations": case.dilation}
    sizes = {key: list(value) for key, value in sizes.items()}
    weights = opset8.constant(arrays["w"])
    y = opset8.deformable_convolution(x, offset, weights, **sizes, group=case.groups, bilinear_interpolation_pad=True)
    for parameter in (x, offset):
        parameter.output(0).set_names({parameter.get_friendly_name()})
    return ov.Model([y], [x, offset], "layer")
