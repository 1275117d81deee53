"""Memory of the device that is used again: asking the driver for each result would cost more than most kernels.

A buffer goes back to the pool when the last array that looks into it is gone.  Everything runs in one stream, in the
order of the launches, so the next owner's kernels start after the last owner's have ended.
"""

import threading

import numpy as np

from ... import _config
from .gpu import cuda

_lock = threading.Lock()
_free = {}  # (elements, dtype) -> buffers, the class used last at the end
_kept = 0  # bytes in _free


class Lease:
    """Owns one flat buffer on behalf of arrays; gives it back when the last of them dies."""

    __slots__ = ("__weakref__", "buffer")

    def __init__(self, buffer):
        self.buffer = buffer

    def __del__(self):
        _give_back(self.buffer)


def _size_class(count):
    """The smallest of the sizes 2^k * (8..15) / 8 that holds count: at most an eighth is wasted."""
    step = 1 << max(0, (count - 1).bit_length() - 4)
    return -(-count // step) * step


def lease(count, dtype):
    """At least `count` elements, uninitialised."""
    global _kept
    key = _size_class(max(count, 1)), np.dtype(dtype)
    with _lock:
        kept = _free.get(key)
        buffer = kept.pop() if kept else None
        if buffer is not None:
            _kept -= key[0] * key[1].itemsize
    return Lease(cuda.device_array(key[0], key[1]) if buffer is None else buffer)


def _give_back(buffer):
    global _kept
    # A garbage collection inside the lock may run this in the same thread: let the buffer go, never wait.
    if not _lock.acquire(blocking=False):
        return
    try:
        key = int(buffer.size), np.dtype(buffer.dtype)
        _free[key] = _free.pop(key, [])
        _free[key].append(buffer)
        _kept += key[0] * key[1].itemsize
        while _kept > _config.POOL_BYTES and _free:
            oldest = next(iter(_free))
            if _free[oldest]:
                _free[oldest].pop()
                _kept -= oldest[0] * oldest[1].itemsize
            if not _free[oldest]:
                del _free[oldest]
    finally:
        _lock.release()


def release():
    """Give every kept buffer back to the driver."""
    global _kept
    with _lock:
        _free.clear()
        _kept = 0


def kept_bytes():
    """Bytes of freed results that are kept for reuse."""
    return _kept
