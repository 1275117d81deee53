"""ONNX models: read, checked, run and written.  The `onnx` package is imported only when that is done."""

from .export import export
from .importer import Model, load
from .session import InferenceSession
from .table import ModelError

__all__ = ["InferenceSession", "Model", "ModelError", "export", "load"]
