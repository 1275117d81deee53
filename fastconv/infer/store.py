"""Memory for the constants of a compiled network.

Weights of a run are read once each, and with pages of 4 KB a good part of the time goes into finding out where they
lie: 2 to 5 % of a network.  So they are kept side by side in pieces for which the operating system is asked for pages
of 2 MB.
"""

import mmap

import numpy as np

_ALIGN = 64
_PAGE = 1 << 21
_PIECE = 1 << 26  # bytes of address space; only what is written takes memory
LARGE = 1 << 22  # bytes from which NumPy asks for large pages itself


class Store:
    """Copies of arrays, side by side."""

    def __init__(self):
        self._piece, self._at = np.empty(0, np.uint8), 0

    def keep(self, array):
        """A dense copy of an array that lives as long as anybody holds it."""
        size = -(-array.nbytes // _ALIGN) * _ALIGN
        if size > self._piece.size - self._at:
            self._piece, self._at = _piece(max(size, _PIECE)), 0
        copy = self._piece[self._at : self._at + array.nbytes].view(array.dtype).reshape(array.shape)
        self._at += size
        copy[...] = array
        return copy


def _piece(nbytes):
    if not hasattr(mmap, "MADV_HUGEPAGE"):  # not Linux
        return np.empty(nbytes, np.uint8)
    raw = mmap.mmap(-1, nbytes + _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(raw, np.uint8)
    skip = -whole.__array_interface__["data"][0] % _PAGE
    return whole[skip : skip + nbytes]
