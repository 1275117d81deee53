"""Operators that are made of others: a model's own functions, and those that the standard defines that way."""

import numpy as np


def with_attributes(onnx, function, node):
    """A function's nodes as a graph, its attribute parameters replaced by those of the node that calls it."""
    given = {a.name: a for a in function.attribute_proto}
    given |= {a.name: a for a in node.attribute}
    graph = onnx.GraphProto(name=function.name)
    graph.node.extend(function.node)
    _replace(graph, given)
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
    wanted = [*node.output, *[""] * len(function.output)]
    made = zip(function.output, wanted, strict=False)
    graph.output.extend(onnx.ValueInfoProto(name=name if asked else "") for name, asked in made)
    return graph


def _replace(graph, given):
    for node in graph.node:
        kept = []
        for a in node.attribute:
            if a.ref_attr_name:
                if a.ref_attr_name in given:
                    new = type(a)()
                    new.CopyFrom(given[a.ref_attr_name])
                    new.name = a.name
                    kept.append(new)
                continue
            if a.HasField("g"):
                _replace(a.g, given)
            kept.append(a)
        kept = [type(a).FromString(a.SerializeToString()) for a in kept]
        del node.attribute[:]
        node.attribute.extend(kept)


def standard_function(onnx, node, proto):
    """The FunctionProto by which the standard defines an operator, "typed" if it depends on types, or None."""
    schema = onnx.defs.get_schema(node.op, node.opset, node.domain)
    if schema.has_function:
        return _defaults(schema, schema.function_body)
    return "typed" if schema.has_context_dependent_function else None


def _defaults(schema, function):
    """The function with the schema's defaults for attributes."""
    known = {a.name for a in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name not in known:
            function.attribute_proto.append(attribute.default_value)
    return function


def typed_function(onnx, node, proto, values):
    """The FunctionProto of an operator whose definition depends on the types of its inputs, given as arrays."""
    schema = onnx.defs.get_schema(node.op, node.opset, node.domain)
    types = [_type(onnx, value).SerializeToString() for value in values]
    data = schema.get_context_dependent_function(proto.SerializeToString(), types)
    return _defaults(schema, onnx.FunctionProto.FromString(data)) if data else None


def _type(onnx, value):
    if value is None:
        return onnx.TypeProto()
    if isinstance(value, list):
        inside = _type(onnx, value[0]) if value else onnx.helper.make_tensor_type_proto(1, None)
        return onnx.helper.make_sequence_type_proto(inside)
    number = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype)
    return onnx.helper.make_tensor_type_proto(number, np.shape(value))
