"""DLPack, for libraries that share device memory by it: capsules around a `DLManagedTensor`.

The layout is that of dlpack.h (https://github.com/dmlc/dlpack), version 0: the one every consumer takes.
"""

import ctypes
from ctypes import POINTER, Structure, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any

import numpy as np

from .array import CudaArray, empty, from_interface
from .gpu import synchronize

CUDA, MANAGED = 2, 13
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # kDLInt, kDLUInt, kDLFloat, kDLBool
_KINDS = {code: kind for kind, code in _CODES.items()}


class _Tensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Managed(Structure):
    _fields_ = [("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p)]


_DELETER = ctypes.CFUNCTYPE(None, c_void_p)
_DESTRUCTOR = ctypes.CFUNCTYPE(None, c_void_p)
_api = ctypes.pythonapi
_new, _get, _is_valid, _rename = (
    getattr(_api, f"PyCapsule_{name}") for name in ("New", "GetPointer", "IsValid", "SetName")
)
_new.restype, _new.argtypes = ctypes.py_object, [c_void_p, ctypes.c_char_p, c_void_p]
_get.restype, _get.argtypes = c_void_p, [c_void_p, ctypes.c_char_p]
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [c_void_p, ctypes.c_char_p]
_rename.restype, _rename.argtypes = ctypes.c_int, [c_void_p, ctypes.c_char_p]
_NAME, _USED = b"dltensor", b"used_dltensor"
_lent: dict[int, Any] = {}  # address of a managed tensor -> it and what it needs, while somebody holds it


@_DELETER
def _delete(address):
    _lent.pop(address, None)


@_DESTRUCTOR
def _destroy(capsule_address):
    """A capsule dies: what nobody has taken out of it is given up."""
    if _is_valid(capsule_address, _NAME):
        _lent.pop(_get(capsule_address, _NAME), None)


def capsule(x, stream=None, max_version=None, dl_device=None, copy=None):
    """The array as a capsule; the consumer's stream waits for everything launched here."""
    if dl_device not in (None, (CUDA, 0)) or copy:
        raise BufferError(f"DLPack: lends device memory as it is, asked for device {dl_device}, copy {copy}")
    if not x.writeable:
        raise BufferError("DLPack: a read-only array can't be lent")
    if stream not in (None, -1, 1):
        synchronize()
    managed = _Managed()
    n = len(x.shape)
    shape, strides = (c_int64 * n)(*x.shape), (c_int64 * n)(*x.steps)
    address = x.buffer.__cuda_array_interface__["data"][0] + x.offset * x.itemsize
    managed.tensor = _Tensor(address, CUDA, 0, n, _CODES[x.dtype.kind], x.itemsize * 8, 1, shape, strides, 0)
    managed.deleter = ctypes.cast(_delete, c_void_p)
    at = ctypes.addressof(managed)
    _lent[at] = managed, shape, strides, x
    return _new(at, _NAME, ctypes.cast(_destroy, c_void_p))


class _Loan:
    """Keeps what a capsule gave until the last array that looks into it is gone."""

    def __init__(self, address):
        self._address = address

    def __del__(self):
        deleter = _Managed.from_address(self._address).deleter
        if deleter:
            _DELETER(deleter)(self._address)


def imported(x) -> CudaArray:
    """The memory of a producer of capsules, shared."""
    given = x.__dlpack__(stream=1)
    address = _get(id(given), _NAME)
    tensor = _Managed.from_address(address).tensor
    _rename(id(given), _USED)
    loan = _Loan(address)
    kind, lanes = _KINDS.get(tensor.code), tensor.lanes
    if kind is None or lanes != 1 or tensor.device_type not in (CUDA, MANAGED) or tensor.device_id:
        raise BufferError(f"DLPack: code {tensor.code}, {lanes} lanes on device {tensor.device_id} can't be taken over")
    dtype = np.dtype(f"{kind}{tensor.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if 0 in shape:
        return empty(shape, dtype)
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    data = (tensor.data or 0) + tensor.byte_offset, False
    described = {"shape": shape, "typestr": dtype.str, "data": data, "strides": strides, "version": 3}
    return from_interface(described, loan)
