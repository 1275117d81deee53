"""IDX files, the format of MNIST and Fashion-MNIST (http://yann.lecun.com/exdb/mnist), plain or gzip-compressed.

A file is two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the values
in C order, big-endian.  Nothing in a header is believed before the file has the bytes to back it: a false size costs an
error message, never memory.
"""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
MAX_BYTES = 1 << 32
"""The largest array that is read: a compressed file may unpack to a thousand times its size."""


def read_idx(path):
    """The array in an IDX file, in native byte order, writable.

    path: the file, plain or gzip-compressed (told by its first bytes, not by its name).
    Raises ValueError if the file is not IDX, is damaged, too short, too long, or larger than MAX_BYTES once unpacked.
    """
    path = Path(path)
    with open(path, "rb") as plain:
        zipped = plain.read(2) == _GZIP_MAGIC
        plain.seek(0)
        try:
            if not zipped:
                return _read(plain, path)
            with gzip.GzipFile(fileobj=plain) as unpacked:
                return _read(unpacked, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from error


def _read(file, path):
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or head[3] == 0:
        raise ValueError(f"{path}: not an IDX file: it begins with {head.hex(' ') or 'nothing'}")
    ndim = head[3]
    if ndim > 32:
        raise ValueError(f"{path}: {ndim} dimensions; at most 32 are read")
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise ValueError(f"{path}: the header announces {ndim} dimensions but ends after {len(sizes) // 4}")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    dtype = np.dtype(_DTYPES[head[2]])
    wanted = prod(shape) * dtype.itemsize
    if prod(size for size in shape if size) * dtype.itemsize > MAX_BYTES:
        raise ValueError(
            f"{path}: the header announces shape {shape} of {dtype.name}; at most {MAX_BYTES} bytes are read"
        )
    values = _read_at_most(file, wanted + 1)
    if len(values) != wanted:
        found = f"only {len(values)} bytes" if len(values) < wanted else "more bytes"
        raise ValueError(f"{path}: the header announces shape {shape}, {wanted} bytes, but {found} follow")
    return np.frombuffer(values, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_at_most(file, count):
    """Up to `count` bytes, in pieces, so that memory grows with the data and not with the promise."""
    values = bytearray()
    while len(values) < count:
        piece = file.read(min(_CHUNK, count - len(values)))
        if not piece:
            break
        values += piece
    return values


class IdxFolder(NamedTuple):
    """Images (N, H, W) uint8 and labels (N,) int64, for training and for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_idx_folder(directory):
    """The four files of MNIST, Fashion-MNIST and their kin: {train,t10k or test}-{images,labels}, plain or .gz, with
    their usual names.

    Raises FileNotFoundError naming what was looked for, and ValueError if the four do not fit together.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a folder")
    parts = []
    for prefixes in (("train",), ("t10k", "test")):
        images_path = _find(directory, prefixes, "images-idx3-ubyte")
        labels_path = _find(directory, prefixes, "labels-idx1-ubyte")
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape:
            raise ValueError(f"{images_path}: images must be uint8 (N, H, W), given {images.dtype} {images.shape}")
        if labels.dtype != np.uint8 or labels.ndim != 1:
            raise ValueError(f"{labels_path}: labels must be uint8 (N,), given {labels.dtype} {labels.shape}")
        if len(images) != len(labels):
            raise ValueError(f"{directory}: {len(images)} {prefixes[0]} images but {len(labels)} labels")
        parts += [images, labels.astype(np.int64)]
    data = IdxFolder(*parts)
    if data.train_images.shape[1:] != data.test_images.shape[1:]:
        train, test = data.train_images.shape[1:], data.test_images.shape[1:]
        raise ValueError(f"{directory}: training images are {train[0]}x{train[1]}, test images {test[0]}x{test[1]}")
    return data


def _find(directory, prefixes, kind):
    dotted = kind.replace("-idx", ".idx", 1)
    names = [f"{prefix}-{stem}{ending}" for prefix in prefixes for stem in (kind, dotted) for ending in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise FileNotFoundError(f"{directory}: none of {', '.join(names)} is there")
