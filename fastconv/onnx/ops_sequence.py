"""ONNX sequences and optional values: lists and None."""

import numpy as np

from .ops_cast import dtype_of
from .ops_shape import ints
from .table import op


def _at(position, size):
    index = int(np.asarray(position).reshape(-1)[0])
    if not -size <= index < max(size, 1):
        raise ValueError(f"position {index} is out of range for a sequence of {size}")
    return index


op("SequenceConstruct")(lambda node, *arrays: (list(arrays),))
op("SequenceLength")(lambda node, sequence: np.array(len(sequence), np.int64))
op("SequenceAt")(lambda node, sequence, position: (sequence[_at(position, len(sequence))],))


@op("SequenceEmpty")
def sequence_empty(node):
    """A sequence of nothing."""
    if "dtype" in node.attrs:
        dtype_of(node.attrs["dtype"])
    return ([],)


@op("SequenceInsert")
def sequence_insert(node, sequence, array, position=None):
    """With one more element, at the end or before a position."""
    result = list(sequence)
    index = len(result) if position is None else int(np.asarray(position).reshape(-1)[0])
    if not -len(result) <= index <= len(result):
        raise ValueError(f"position {index} is out of range for a sequence of {len(result)}")
    result.insert(index if index >= 0 else index + len(result), array)
    return (result,)


@op("SequenceErase")
def sequence_erase(node, sequence, position=None):
    """Without one element, the last if none is named."""
    result = list(sequence)
    del result[-1 if position is None else _at(position, len(result))]
    return (result,)


@op("ConcatFromSequence")
def concat_from_sequence(node, sequence):
    """All elements joined along an axis, a new one where new_axis is set."""
    axis = node.attrs["axis"]
    return np.stack(sequence, axis) if node.get("new_axis", 0) else np.concatenate(sequence, axis)


@op("SplitToSequence")
def split_to_sequence(node, x, sizes=None):
    """Parts along an axis: of one size, of many, or slices."""
    axis = node.get("axis", 0)
    total = x.shape[axis]
    if sizes is None:
        parts = np.split(x, total, axis) if total else []
        return (parts if node.get("keepdims", 1) else [np.squeeze(p, axis) for p in parts],)
    if np.ndim(sizes) == 0:
        step = int(sizes)
        if step < 1:
            raise ValueError(f"the size of a part must be from 1 on, given {step}")
        ends = list(range(step, total, step))
    else:
        if sum(ints(sizes)) != total:
            raise ValueError(f"parts {ints(sizes)} do not make {total}")
        ends = np.cumsum(ints(sizes))[:-1]
    return (list(np.split(x, ends, axis)),)


@op("Optional")
def optional(node, value=None):
    """The value, or nothing."""
    return (value,)


@op("OptionalHasElement")
def optional_has_element(node, value=None):
    """Whether there is a value."""
    return np.array(value is not None)


@op("OptionalGetElement")
def optional_get_element(node, value):
    """The value; ValueError if there is none."""
    if value is None:
        raise ValueError("the optional value is not there")
    return (value,)
