"""Reading and writing named arrays; the file's ending says of which kind it is.  Writing is atomic."""

import contextlib
import os
import struct
import threading
import zipfile
import zlib
from math import prod
from pathlib import Path

import numpy as np

from .._device import move
from ..autograd import Tensor
from .pth import TorchTensor, decode, read_pth

_WRITTEN = (".safetensors", ".npz")
_READ = (*_WRITTEN, ".pth", ".pt")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest a zip file knows: the same state gives the same bytes
_DAMAGE = (ValueError, LookupError, OSError, EOFError, NotImplementedError, RuntimeError, MemoryError)
_LIBRARIES = (zipfile.BadZipFile, zlib.error, struct.error)
_SAFETENSORS = {
    **{f"{sign}{bits}": f"{name}{bits}" for sign, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    **{"F32": "float32", "F64": "float64", "BOOL": "bool", "F16": "float16", "BF16": "bfloat16"},
    **{"F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn"},
}


def save_state(state, path):
    """Write `state`, a dict of name to array (or Tensor), to `path`: .safetensors or .npz.

    The file is written beside and then renamed, so that `path` holds the old state or the new one, never half of one.
    Raises ValueError for another ending, TypeError for what is not an array of numbers, ImportError where the
    safetensors package is needed and missing.
    """
    path = Path(path)
    if path.suffix not in _WRITTEN:
        raise ValueError(f"a state file must end in {' or '.join(_WRITTEN)} to be written, got {path.name!r}")
    arrays = {name: _array(name, a) for name, a in state.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        if path.suffix == ".npz":
            _write_npz(arrays, part)
        else:
            _safetensors().numpy.save_file(arrays, part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # a rename may reach the disk before the data does
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def load_state(path, key=None) -> dict[str, np.ndarray]:
    """The dict of name to array in the file `path`: .safetensors, .npz, or PyTorch's .pth and .pt (old and new format).

    key: in a .pth file that holds more than a state, the name under which the state is, such as "model".
    Floating-point numbers narrower than float32 (float16, bfloat16, float8) become float32, which holds them exactly;
    every other dtype stays.  Arrays of a .pth file that share memory there, share it here.
    Raises ValueError for another ending, for a file that is damaged or not of its kind, and for a .pth file that wants
    to import anything else than tensors, by its name; FileNotFoundError; ImportError where the safetensors package is
    needed and missing.  Nothing in a file is ever executed.
    """
    path = Path(path)
    if path.suffix not in _READ:
        raise ValueError(f"a state file must end in {', '.join(_READ[:-1])} or {_READ[-1]}, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"load_state: no file {path}")
    if key is not None and path.suffix in _WRITTEN:
        raise ValueError(f"load_state: only .pth files have parts; key={key!r} given for {path.name!r}")
    kind = path.suffix.removeprefix(".")
    library = _safetensors() if kind == "safetensors" else None
    try:
        if library is not None:
            return _read_safetensors(path, library)
        return _read_npz(path) if kind == "npz" else read_pth(path, lambda value: _state_in(value, key))
    except (*_DAMAGE, *_LIBRARIES) as error:
        raise ValueError(f"load_state: {path} is not a readable {kind} file: {error}") from error
    except Exception as error:
        if library is None or not isinstance(error, library.SafetensorError):
            raise
        raise ValueError(f"load_state: {path} is not a readable {kind} file: {error}") from error


def _safetensors():
    try:
        import safetensors.numpy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "files ending in .safetensors need the package safetensors: pip install fastconv[data]; or use .npz"
        ) from error
    return safetensors


def _state_in(value, key):
    """The dict of name to tensor or number that `value`, what a .pth file holds, is or has under `key`."""
    if key is not None:
        if not isinstance(value, dict) or key not in value:
            names = ", ".join(map(repr, value)) if isinstance(value, dict) else f"a {type(value).__name__}"
            raise ValueError(f"it has no part {key!r}; it holds {names}")
        value = value[key]
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, a dict of tensors is wanted")
    strange = [name for name, item in value.items() if not _is_entry(name, item)]
    if strange:
        parts = [name for name in strange if isinstance(value[name], dict) and _is_state(value[name])]
        hint = "; parts that are states: " + ", ".join(f"key={name!r}" for name in parts) if parts else ""
        what = ", ".join(f"{name!r} ({type(value[name]).__name__})" for name in strange)
        raise ValueError(f"these entries are not tensors: {what}{hint}")
    return {name: item if isinstance(item, TorchTensor) else np.array(item) for name, item in value.items()}


def _is_entry(name, item):
    return isinstance(name, str) and isinstance(item, (TorchTensor, bool, int, float))


def _is_state(value):
    return any(isinstance(item, TorchTensor) for item in value.values()) and all(
        _is_entry(name, item) for name, item in value.items()
    )


def _array(name, a):
    """`a` as a C-contiguous array of numbers; contiguity matters, safetensors writes memory as it lies."""
    if not isinstance(name, str):
        raise TypeError(f"save_state: names must be text, got {name!r}")
    a = a.detach().numpy() if isinstance(a, Tensor) else move(a, "cpu")
    if not isinstance(a, (np.ndarray, np.generic)) or np.asarray(a).dtype.kind not in "fiub":
        kind = f"dtype {a.dtype}" if isinstance(a, np.ndarray) else type(a).__name__
        raise TypeError(f"save_state: {name} must be an array of numbers, got {kind}")
    return np.asarray(a, order="C")


def _write_npz(arrays, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, a in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _FIRST_DATE), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, a, allow_pickle=False)


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("two entries of one name")
        return {name.removesuffix(".npy"): _read_npy(archive, name) for name in names}


def _read_npy(archive, name):
    with archive.open(name) as entry:
        version = np.lib.format.read_magic(entry)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has version {version} of the npy format")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(entry)
        wanted, found = prod(shape) * dtype.itemsize, archive.getinfo(name).file_size - entry.tell()
        if not dtype.hasobject and wanted != found:
            raise ValueError(f"{name} has {found} bytes, {wanted} wanted for shape {shape} of {dtype}")
        entry.seek(0)
        array = np.lib.format.read_array(entry, allow_pickle=False)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _read_safetensors(path, library):
    state = {}
    for name, entry in library.deserialize(path.read_bytes()):
        if entry["dtype"] not in _SAFETENSORS:
            raise ValueError(f"{name} has dtype {entry['dtype']}, one of {', '.join(_SAFETENSORS)} wanted")
        flat = decode(np.frombuffer(entry["data"], np.uint8), _SAFETENSORS[entry["dtype"]])
        state[name] = flat.reshape(entry["shape"])
    return state
