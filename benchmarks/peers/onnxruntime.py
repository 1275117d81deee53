"""ONNX Runtime's CPU provider."""

import numpy as np
import onnxruntime as ort

from ..layers import Case
from ..measure import Candidate, UnsupportedError
from .onnx_graph import model_bytes

NAMES = ("onnxruntime",)


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"onnxruntime": ort.__version__}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """A session of one node, called as users call it."""
    if which != "fwd":
        raise UnsupportedError("no gradients")
    session = _session(model_bytes(case, arrays), threads)
    feeds = {value.name: arrays[value.name] for value in session.get_inputs()}
    return Candidate(lambda: session.run(None, feeds), lambda outputs: outputs[0])


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """A session of the file, called as users call it."""
    session = _session(path, threads)
    feeds = {session.get_inputs()[0].name: x}
    return Candidate(lambda: session.run(None, feeds), lambda outputs: outputs[0])


def _session(model: bytes | str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception classes are not public
        raise UnsupportedError(str(error).splitlines()[0]) from None
