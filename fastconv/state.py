"""Named arrays in files: safetensors or npz, chosen by the file's ending. Writing is atomic."""

import contextlib
import os
import threading
import zipfile
from pathlib import Path

import numpy as np

from .autograd import Tensor

_ENDINGS = (".safetensors", ".npz")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the oldest a zip file knows: the same state gives the same bytes


def save_state(state, path):
    """Write `state`, a dict of name to array (or Tensor), to `path`: .safetensors or .npz.

    The file is written beside and then renamed, so that `path` holds the old state or the new one, never half of one.
    Raises ValueError for another ending, TypeError for what is not an array of numbers, ImportError where the
    safetensors package is needed and missing.
    """
    path = Path(path)
    _check_ending(path)
    arrays = {name: _array(name, a) for name, a in state.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        if path.suffix == ".npz":
            _write_npz(arrays, part)
        else:
            _safetensors().save_file(arrays, part)
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def load_state(path) -> dict[str, np.ndarray]:
    """The dict of name to array in the file `path`: .safetensors or .npz.

    Raises ValueError for another ending and for a file that is damaged or not of its kind, FileNotFoundError, and
    ImportError where the safetensors package is needed and missing. Nothing in the file is executed.
    """
    path = Path(path)
    _check_ending(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_state: no file {path}")
    if path.suffix == ".npz":
        try:
            return _read_npz(path)
        except (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile) as error:
            raise ValueError(f"load_state: {path} is not a readable npz file: {error}") from error
    library = _safetensors()
    try:
        return library.load_file(path)
    except Exception as error:
        raise ValueError(f"load_state: {path} is not a readable safetensors file: {error}") from error


def _check_ending(path):
    if path.suffix not in _ENDINGS:
        raise ValueError(f"a state file must end in {' or '.join(_ENDINGS)}, got {path.name!r}")


def _safetensors():
    try:
        import safetensors.numpy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "files ending in .safetensors need the package safetensors: pip install fastconv[data]; or use .npz"
        ) from error
    return safetensors.numpy


def _array(name, a):
    """`a` as a C-contiguous array of numbers; contiguity matters, safetensors writes memory as it lies."""
    if not isinstance(name, str):
        raise TypeError(f"save_state: names must be text, got {name!r}")
    a = a.detach().numpy() if isinstance(a, Tensor) else a
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
        state = {}
        for name in archive.namelist():
            with archive.open(name) as entry:
                state[name.removesuffix(".npy")] = np.lib.format.read_array(entry, allow_pickle=False)
        return state
