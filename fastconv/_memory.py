"""Output buffers that are used again.

A fresh large array costs a page fault for every 4 KB that a kernel writes: more than the kernel itself for a cheap
layer.  `empty` hands out memory of outputs that nobody holds any more.  A buffer returns to the pool when the last
array that looks into it is gone; a full pool lets go of the sizes that have not been used for longest.
"""

import ctypes
import math
import os
import threading

import numpy as np

from . import _config

_SMALL = 1 << 15  # bytes; smaller arrays come from numpy, whose allocator keeps them warm by itself
_ALIGN, _BYTES = 64, np.dtype(np.uint8)

_lock = threading.Lock()
_free = {}  # size class -> list of buffers of ctypes, the class used last at the end
_kept = 0  # bytes in _free
_working = []  # working memory that nobody uses: as many pieces as calls have run at once
_MOST_WORKING = 1 << 26  # bytes of a piece that is kept


_bytes, _address_of = (ctypes.c_char * 0).from_buffer, ctypes.addressof


def address(array):
    """Where the memory of a contiguous array begins.  NumPy's own ways of asking take five times as long, but take
    read-only arrays too.
    """
    try:
        return _address_of(_bytes(array))
    except (TypeError, ValueError, BufferError):  # read-only, or empty
        return array.__array_interface__["data"][0]


def _size_class(nbytes):
    """The smallest of the sizes 2^k * (8..15) / 8 that holds nbytes: at most an eighth is wasted."""
    step = 1 << max(0, (nbytes - 1).bit_length() - 4)
    return -(-nbytes // step) * step


class _Lease(np.ndarray):
    """A view of one raw buffer, and the base of the array that is handed out; gives the buffer back when that dies.

    Of arrays on arrays NumPy keeps the last one alone, whose type is another: hence buffers are no arrays.
    """

    def __del__(self):
        _give_back(self.base)


def is_pooled(array):
    """Whether an array, and not merely one that it is a view of, came from `empty`."""
    return type(array.base) is _Lease


def _give_back(raw):
    global _kept
    # A garbage collection inside the lock may run this in the same thread: let the buffer go, never wait.
    size = len(raw)
    if size > _config.POOL_BYTES or not _lock.acquire(blocking=False):
        return
    try:
        _free[size] = _free.pop(size, [])
        _free[size].append(raw)
        _kept += size
        while _kept > _config.POOL_BYTES:
            _take(next(iter(_free)))
    finally:
        _lock.release()


def _take(size):
    """A kept buffer of this size class."""
    global _kept
    raw = _free[size].pop()
    if not _free[size]:
        del _free[size]
    _kept -= size
    return raw


def _after_fork_in_child():
    """Another thread may have held the lock at the moment of the fork; in the child nobody would release it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def empty(shape, dtype):
    """An uninitialised C-contiguous array; large ones are 64-byte aligned and come from the pool."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALL:
        return np.empty(shape, dtype)
    size = _size_class(nbytes)
    with _lock:
        raw = _take(size) if size in _free else None
    if raw is None:
        raw = (ctypes.c_char * size).from_buffer(_aligned(size))  # pyright: ignore[reportArgumentType]
    return np.ndarray(shape, dtype, _Lease(size, _BYTES, raw))  # pyright: ignore[reportArgumentType]


def zeros(shape, dtype):
    """Like `empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def borrow(nbytes):
    """Aligned working memory of at least this size, until `give_back`: the piece given back last, which is still in the
    caches, made larger where it is too small."""
    try:
        piece = _working.pop()
    except IndexError:
        piece = None
    return _aligned(nbytes) if piece is None or piece.nbytes < nbytes else piece


def _aligned(nbytes):
    """Fresh memory at a whole number of cache lines."""
    raw = np.empty(nbytes + _ALIGN, np.uint8)
    skip = -address(raw) % _ALIGN
    return raw[skip : skip + nbytes]


def give_back(piece):
    """Let the next `borrow` have this working memory.  Very large ones go, as does all where nothing is to be kept."""
    if piece.nbytes <= min(_MOST_WORKING, _config.POOL_BYTES):
        _working.append(piece)


def release():
    """Give every kept buffer back to the operating system."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0
    _working.clear()
    trim()


def trim():
    """Give memory that was freed back to the operating system: the allocator of glibc keeps what lies between arrays
    that live."""
    if _malloc_trim is not None:
        _malloc_trim(0)


def _find_trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None  # another C library


_malloc_trim = _find_trim()


def kept_bytes():
    """Bytes of freed outputs that are kept for reuse."""
    return _kept
