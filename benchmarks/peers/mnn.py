"""MNN in its high (float32) precision; runs inside worker.py.

The converter is called through its C extension: the Python module around it installs packages into the user's Python
when it is imported, and reports usage to its makers.
"""

import tempfile
from pathlib import Path

import _tools
import MNN
import numpy as np

from ..layers import Case
from ..measure import Candidate, UnsupportedError
from .onnx_graph import model_bytes

NAMES = ("mnn",)


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"mnn": MNN.version()}


def on_host(array: np.ndarray) -> MNN.Tensor:
    """A copy of an array in NCHW order."""
    return MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """A session of the converted layer; input and output stay in its own NCHW tensors."""
    if which != "fwd":
        raise UnsupportedError("no gradients")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "layer.onnx")
        source.write_bytes(model_bytes(case, arrays))
        return _session(source, arrays, case.shapes["gy"], threads)


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """A session of the converted file; input and output as for a layer."""
    return _session(Path(path), {None: x}, None, threads)


def _session(source: Path, arrays: dict, shape: tuple[int, ...] | None, threads: int) -> Candidate:
    """shape: of the output; None: as the session says."""
    target = source.with_suffix(".mnn")
    if not target.exists():
        arguments = {"-f": "ONNX", "--modelFile": str(source), "--MNNModel": str(target), "--bizCode": "layer"}
        _tools.mnnconvert(["mnnconvert", *(word for pair in arguments.items() for word in pair)])
    if not target.exists():
        raise UnsupportedError("its converter refuses the model")
    interpreter = MNN.Interpreter(str(target))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    for key, tensor in interpreter.getSessionInputAll(session).items():
        tensor.copyFrom(on_host(arrays.get(key, arrays.get(None))))
    output = interpreter.getSessionOutput(session)
    sizes = tuple(shape or output.getShape())

    def to_numpy(_: object) -> np.ndarray:
        host = on_host(np.zeros(sizes, np.float32))
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(sizes)

    return Candidate(lambda: interpreter.runSession(session), to_numpy)
