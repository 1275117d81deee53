"""ONNX models: read, checked and run.  The `onnx` package is needed, and imported, only when a model is read."""

from .importer import Model, load
from .session import InferenceSession
from .table import ModelError

__all__ = ["InferenceSession", "Model", "ModelError", "load"]
