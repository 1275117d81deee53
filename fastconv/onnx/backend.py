"""The interface of `onnx.backend.base.Backend`, so that the public conformance suite runs against this package:

import onnx.backend.test, fastconv.onnx.backend
onnx.backend.test.BackendTest(fastconv.onnx.backend, __name__)
"""

import numpy as np

from .importer import load, onnx_package
from .session import InferenceSession
from .table import ModelError, Node, lookup


class Prepared:
    """A model that is ready: `run(inputs)` gives a tuple of outputs."""

    def __init__(self, session):
        self._session = session

    def run(self, inputs, **options):
        """The outputs for inputs by position (a list, or one array) or by name (a dict)."""
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, dict):
            names = [value.name for value in self._session.get_inputs()]
            if len(inputs) > len(names):
                raise ValueError(f"wants at most {len(names)} inputs ({', '.join(names)}), given {len(inputs)}")
            inputs = dict(zip(names, inputs, strict=False))
        return tuple(self._session.run(None, inputs))


def supports_device(device):
    """Whether models can run there: on the CPU."""
    return device.partition(":")[0] == "CPU"


def is_compatible(model, device="CPU", **options):
    """Whether `prepare` would take the model."""
    try:
        load(model)
    except ModelError:
        return False
    return supports_device(device)


def prepare(model, device="CPU", **options):
    """A `Prepared` model; ModelError naming what is unsupported, ValueError for another device than the CPU."""
    if not supports_device(device):
        raise ValueError(f"device must be CPU, given {device!r}")
    return Prepared(InferenceSession(model, compiled=options.get("compiled", True)))


def run_model(model, inputs, device="CPU", **options):
    """The outputs of a model for these inputs, a tuple."""
    return prepare(model, device, **options).run(inputs)


def run_node(node, inputs, device="CPU", outputs_info=None, **options):
    """The outputs of one node, a NodeProto, for these inputs, a tuple; opset_version: else the newest."""
    onnx = onnx_package()
    inputs = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    infos, named, position = [], {}, 0
    for name in node.input:
        if name and name not in named:
            if position == len(inputs):
                raise ValueError(f"{node.op_type} wants inputs {', '.join(filter(None, node.input))}, given {position}")
            named[name] = inputs[position]
            infos.append(onnx.ValueInfoProto(name=name))
            position += 1
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    version = options.get("opset_version", onnx.defs.onnx_opset_version())
    graph = onnx.helper.make_graph([node], node.op_type, infos, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
    return run_model(model, named, device, compiled=False)


def supported(op, domain=""):
    """Whether there is an operator of this name."""
    return lookup(op, domain) is not None


__all__ = ["Node", "Prepared", "is_compatible", "prepare", "run_model", "run_node", "supported", "supports_device"]
