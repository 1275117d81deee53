"""`InferenceSession`: load a model, compile it for the shapes that come, run it."""

import os
from typing import NamedTuple

import numpy as np

from .evaluate import run_body
from .importer import load
from .table import ModelError, Value


class NodeArg:
    """An input or output: `name`, `shape` (numbers, names of sizes, or None), `type` such as "tensor(float)"."""

    def __init__(self, value: Value):
        self.name, self.type = value.name, _type_name(value)
        self.shape = None if value.shape is None else list(value.shape)

    def __repr__(self):
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


class ModelMetadata(NamedTuple):
    """What a model says of itself: custom_metadata_map, its own {key: text}."""

    producer_name: str
    custom_metadata_map: dict


_NAMES = {"float32": "float", "float64": "double", "object": "string"}


def _type_name(value):
    if value.kind != "tensor":
        return value.kind
    name = str(value.dtype) if value.dtype is not None else "?"
    return f"tensor({_NAMES.get(name, name)})"


class InferenceSession:
    """An ONNX model, ready to run; the method names are those of onnxruntime's class.

    path_or_bytes: a path, or the bytes of a model.  Without `compiled`, every run is node by node.  Further arguments
    of onnxruntime's class (providers, options) have no meaning here and are refused.

    Raises ModelError (a ValueError) for a model that can't be read or run, with node and reason, FileNotFoundError, and
    ImportError where the `onnx` package is missing (`pip install 'fastconv[onnx]'`).
    """

    def __init__(self, path_or_bytes, compiled=True):
        self._model = load(path_or_bytes)
        self._source = os.fspath(path_or_bytes) if isinstance(path_or_bytes, (str, os.PathLike)) else None
        self._inputs = {value.name: value for value in self._model.inputs}
        self._defaults = {value.name: value for value in self._model.body.inputs if value.name not in self._inputs}
        self._network = self._compiled() if compiled else None

    def _compiled(self):
        from .lower import network

        return network(self._model)

    def __repr__(self):
        inputs = ", ".join(
            f"{v.name}: {_type_name(v)}{'' if v.shape is None else list(v.shape)}" for v in self._inputs.values()
        )
        return (
            f"InferenceSession({self._source or 'bytes'}: {inputs} -> {', '.join(v.name for v in self._model.outputs)})"
        )

    # ---- what it is

    def get_inputs(self):
        """[NodeArg] of what the caller gives."""
        return [NodeArg(value) for value in self._inputs.values()]

    def get_outputs(self):
        """[NodeArg] of the results."""
        return [NodeArg(value) for value in self._model.outputs]

    def get_overridable_initializers(self):
        """[NodeArg] of inputs that have a default."""
        return [NodeArg(value) for value in self._defaults.values()]

    def get_modelmeta(self):
        """ModelMetadata."""
        return ModelMetadata(self._model.producer, dict(self._model.metadata))

    def get_providers(self):
        """Where it runs."""
        return ["CPUExecutionProvider"]

    @property
    def network(self):
        """The compiled network behind it (`profile`, `explain`), or None: the model is run node by node."""
        return self._network

    # ---- running

    def run(self, output_names, input_feed, run_options=None):
        """[value] of the outputs named (None: of all) for {input name: array}.

        Raises ValueError for names, ranks and sizes that do not fit, TypeError for dtypes; ModelError where a node
        refuses its inputs.
        """
        feeds = self._checked(input_feed)
        known = [value.name for value in self._model.outputs]
        names = known if output_names is None else list(output_names)
        strange = [name for name in names if name not in known]
        if strange:
            raise ValueError(f"run: wants outputs of {', '.join(known)}; given {', '.join(map(str, strange))}")
        if self._network is None or any(name in self._defaults for name in feeds):
            return run_body(self._model.body, feeds, wanted=names)
        return self._network.run(names, feeds)

    def _checked(self, feeds):
        if not isinstance(feeds, dict):
            raise TypeError(f"run: wants a dict of arrays, given {type(feeds).__name__}")
        unknown = feeds.keys() - self._inputs.keys() - self._defaults.keys()
        missing = [n for n in self._inputs if n not in feeds and self._inputs[n].kind != "optional"]
        if unknown or missing:
            wanted, given = ", ".join(self._inputs) or "none", ", ".join(map(str, feeds)) or "none"
            raise ValueError(f"run: wants inputs {wanted}; given {given}")
        checked = {}
        for name, given in feeds.items():
            value = self._inputs.get(name) or self._defaults[name]
            checked[name] = _fitting(value, given) if value.kind == "tensor" else given
        return checked


def _fitting(value, given):
    """The array, if it fits what the model says."""
    if not isinstance(given, np.ndarray):
        if hasattr(given, "__array__") or isinstance(given, (int, float, bool, list, tuple, np.generic)):
            given = np.asarray(given)
        else:
            raise TypeError(f"input {value.name!r} must be an array, given {type(given).__name__}")
    if given.dtype.kind in "US" and value.dtype == object:
        given = given.astype(object)
    if value.dtype is not None and given.dtype != value.dtype:
        raise TypeError(f"input {value.name!r} must have dtype {value.dtype}, given {given.dtype}")
    if value.shape is None:
        return given
    wanted = [n if n is not None else "?" for n in value.shape]
    if given.ndim != len(wanted):
        raise ValueError(f"input {value.name!r} must have {len(wanted)} axes {wanted}, given shape {given.shape}")
    for size, number in zip(value.shape, given.shape, strict=True):
        if isinstance(size, int) and size != number:
            raise ValueError(f"input {value.name!r} must have shape {wanted}, given {given.shape}")
    return given


__all__ = ["InferenceSession", "ModelError", "NodeArg"]
