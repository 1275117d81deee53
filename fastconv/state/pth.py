"""PyTorch's state files (.pth, .pt), read without PyTorch and without running anything in them.

Two formats.  The zip format (since PyTorch 1.6): an uncompressed zip archive with `<name>/data.pkl`, a pickle in which
tensors refer to storages, and the bytes of each storage in `<name>/data/<key>`.  The legacy format: five pickles in a
row (a magic number, a version, sizes of the machine, the object, the keys of the storages), then for each key the
number of elements as int64 and the elements.  The pickles are read by `pickled.py`, which knows tensors, OrderedDict
and plain data and refuses everything else.  Source: torch/serialization.py and torch/_utils.py, whose names the tables
repeat.
"""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from .narrow import WIDEN
from .pickled import read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_PLAIN = ("float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
_STORAGES = {
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
    "Bool": "bool",
}
_UNTYPED = "bytes"  # the dtype of a storage whose tensors say what is in it


def itemsize(dtype):
    """Bytes of one element in a file, by torch's name of the dtype."""
    if dtype == _UNTYPED:
        return 1
    return WIDEN[dtype][0] if dtype in WIDEN else np.dtype(dtype).itemsize


def decode(raw, dtype, big_endian=False):
    """1-d bytes as an array of `dtype`, torch's name; what is narrower than float32 becomes float32."""
    if big_endian:
        raw = np.ascontiguousarray(raw.reshape(-1, itemsize(dtype))[:, ::-1]).reshape(-1)
    if dtype in WIDEN:
        return WIDEN[dtype][1](raw)
    return raw.view(np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False)


@dataclass(frozen=True)
class _Dtype:
    name: str


@dataclass(frozen=True)
class _Storage:
    """`size` elements of `dtype`; in old files a part of the storage `key` that begins at element `start`."""

    key: str
    dtype: str
    size: int
    whole: int
    start: int = 0


@dataclass(frozen=True)
class TorchTensor:
    """A tensor as the pickle describes it: sizes and strides, in elements, of a storage."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(_is_count(n) for n in numbers):
            raise ValueError("a tensor whose shape, strides and offset are not whole numbers")
        if self.dtype == _UNTYPED:
            raise ValueError("a tensor without a dtype")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        room = self.storage.size * itemsize(self.storage.dtype) // itemsize(self.dtype)
        if 0 not in self.shape and last >= room:
            raise ValueError(f"a tensor of shape {self.shape} reaches element {last} of a storage of {room}")


def _is_count(n):
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


# ---- what the pickles may import


def _tensor(storage, offset, shape, strides, *_):
    return TorchTensor(_check(storage), storage.dtype, offset, tuple(shape), tuple(strides))


def _tensor_of_dtype(storage, offset, shape, strides, requires_grad, hooks, dtype, *_):
    if not isinstance(dtype, _Dtype):
        raise TypeError(f"a tensor whose dtype is a {type(dtype).__name__}")
    return TorchTensor(_check(storage), dtype.name, offset, tuple(shape), tuple(strides))


def _check(storage):
    if not isinstance(storage, _Storage):
        raise TypeError(f"a tensor without a storage, with a {type(storage).__name__}")
    return storage


def _parameter(data, *_):
    if not isinstance(data, TorchTensor):
        raise TypeError(f"a parameter that holds a {type(data).__name__}")
    return data


def _ordered_dict(items=()):
    pairs = [(name, value) for name, value in items]
    if not all(isinstance(name, str) for name, _ in pairs):
        raise TypeError("an OrderedDict with other names than text")
    return dict(pairs)


# Error messages name types, never values: the text of a value that refers to itself often enough would fill the memory.
_IMPORTS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": tuple,
    "torch.device": lambda *_: None,
    "torch.storage.UntypedStorage": _Dtype(_UNTYPED),
    **{f"torch.{name}Storage": _Dtype(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.{dtype}": _Dtype(dtype) for dtype in (*_PLAIN, *WIDEN)},
}


def _storage(identity):
    """The storage that a persistent id means: ("storage", type, key, device, elements), and in old files a view."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError("a reference to something that is not a storage")
    kind, key, size = identity[1], identity[2], identity[4]
    if not isinstance(kind, _Dtype) or not isinstance(key, str) or not _is_count(size):
        raise ValueError("a storage without a type, a name or a size")
    if len(identity) == 5 or identity[5] is None:
        return _Storage(key, kind.name, size, size)
    _, start, part = identity[5]
    if not _is_count(start) or not _is_count(part) or start + part > size:
        raise ValueError(f"a view that its storage of {size} elements does not have")
    return _Storage(key, kind.name, part, size, start)


# ---- the two formats


def read_pth(path, choose: Callable[[Any], dict[str, Any]]):
    """Read the file; `choose(value)` picks from its value, in which TorchTensors stand for tensors, what is wanted: a
    dict.

    Returns the dict with arrays in place of its TorchTensors.  They are views of their storages, as in torch: tensors
    that share memory there share it here.  Raises ValueError for what is not such a file, is damaged, or wants to run
    something.
    """
    with open(path, "rb") as file:
        head = file.read(2)
        file.seek(0)
        if head == b"PK":
            return _read_zip(file, choose)
        if head[:1] == b"\x80":
            return _read_legacy(file, choose)
    raise ValueError(f"it begins with {head.hex(' ') or 'nothing'}, neither a zip archive nor a pickle")


def _read_zip(file, choose):
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries.values()):
            raise ValueError("a compressed or encrypted zip archive; PyTorch writes neither")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("data.pkl")]
        if len(roots) != 1:
            raise ValueError(f"a zip archive with {len(roots)} data.pkl, 1 wanted")
        (root,) = roots
        if any(name.startswith(f"{root}code/") for name in entries):
            raise ValueError("a TorchScript program, not a state; save the state_dict of the model instead")
        order = archive.read(entries[f"{root}byteorder"]) if f"{root}byteorder" in entries else b"little"
        value = choose(read_pickle(archive.read(f"{root}data.pkl"), _IMPORTS, _storage))
        storages = {}
        for storage in (item.storage for item in value.values() if isinstance(item, TorchTensor)):
            if storage.key not in storages:
                entry = entries.get(f"{root}data/{storage.key}")
                wanted = storage.whole * itemsize(storage.dtype)
                if entry is None or entry.file_size != wanted:
                    found = "none" if entry is None else entry.file_size
                    raise ValueError(f"storage {storage.key} has {found} of its {wanted} bytes")
                storages[storage.key] = np.frombuffer(bytearray(archive.read(entry)), np.uint8)
        return _with_arrays(value, storages, order == b"big")


def _read_legacy(file, choose):
    length = os.fstat(file.fileno()).st_size
    if read_pickle(file, {}) != _MAGIC:
        raise ValueError("a pickle, but not one that torch.save wrote")
    if read_pickle(file, {}) != _VERSION:
        raise ValueError(f"not version {_VERSION} of torch's format")
    machine = read_pickle(file, {})
    described = {}

    def remember(identity):
        storage = _storage(identity)
        described[storage.key] = storage
        return storage

    value = choose(read_pickle(file, _IMPORTS, remember))
    keys = read_pickle(file, {})
    if not isinstance(keys, list) or not isinstance(machine, dict) or not all(isinstance(k, str) for k in keys):
        raise ValueError("no list of storages")
    storages = {}
    for key in keys:
        if key not in described:
            raise ValueError(f"storage {key} belongs to no tensor")
        count, whole = int.from_bytes(file.read(8), "little"), described[key].whole
        size = whole * itemsize(described[key].dtype)
        if count != whole or size > length - file.tell():
            raise ValueError(f"storage {key} has fewer than its {whole} elements")
        storages[key] = np.frombuffer(bytearray(file.read(size)), np.uint8)
    return _with_arrays(value, storages, machine.get("little_endian") is False)


def _with_arrays(state, storages, big_endian):
    """The dict with arrays for its TorchTensors."""
    decoded = {}

    def array(tensor):
        storage, dtype = tensor.storage, tensor.dtype
        if storage.key not in storages:
            raise ValueError(f"storage {storage.key} is missing")
        if (storage.key, dtype) not in decoded:
            raw = storages[storage.key]
            raw = raw[: len(raw) // itemsize(dtype) * itemsize(dtype)]
            decoded[storage.key, dtype] = decode(raw, dtype, big_endian)
        flat = decoded[storage.key, dtype][storage.start + tensor.offset :]
        if not prod(tensor.shape):
            return np.empty(tensor.shape, flat.dtype)
        strides = [s * flat.itemsize for s in tensor.strides]
        repeats = any(n > 1 and not s for n, s in zip(tensor.shape, strides, strict=True))
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=not repeats)

    return {name: array(item) if isinstance(item, TorchTensor) else item for name, item in state.items()}
