"""MNN in its high (float32) precision; runs inside worker.py.

The converter is called through its C extension: the Python module around it installs packages and reports usage when imported.
"""

import tempfile
from pathlib import Path

import _tools
import MNN
import numpy as np

from ..layers import Case
from ..measure import Candidate, Unsupported
from .onnx_graph import model_bytes

NAMES = ("mnn",)


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"mnn": MNN.version()}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """A session of the converted layer; input and output stay in its own NCHW tensors."""
    if which != "fwd":
        raise Unsupported("no gradients")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "layer.onnx"), Path(folder, "layer.mnn")
        source.write_bytes(model_bytes(case, arrays))
        arguments = {"-f": "ONNX", "--modelFile": str(source), "--MNNModel": str(target), "--bizCode": "layer"}
        _tools.mnnconvert(["mnnconvert", *(word for pair in arguments.items() for word in pair)])
        if not target.exists():
            raise Unsupported("its converter refuses the layer")
        interpreter = MNN.Interpreter(str(target))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    for key, tensor in interpreter.getSessionInputAll(session).items():
        shape = arrays[key].shape
        tensor.copyFrom(MNN.Tensor(shape, MNN.Halide_Type_Float, arrays[key], MNN.Tensor_DimensionType_Caffe))
    output = interpreter.getSessionOutput(session)

    def to_numpy(_: object) -> np.ndarray:
        host = MNN.Tensor(case.shapes["gy"], MNN.Halide_Type_Float, np.zeros(case.shapes["gy"], np.float32), MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(case.shapes["gy"])

    return Candidate(lambda: interpreter.runSession(session), to_numpy)
