"""Maps of images that are one small matrix per axis, as in `kernels/separable.py`: resizing, and its gradient.  One
thread an output: a gather in both directions.
"""

from functools import lru_cache

import numpy as np

from .array import empty, upload
from .gpu import THREADS, blocks_for, cuda, kernel
from .launch import Row, launch
from .shaping import dense

U = np.uint32


@lru_cache
def make_separable(dtype):
    """y[plane, z, v, u] = sum over taps of the three axes of weights times x; see `kernels/separable.py`."""
    REAL = np.dtype(dtype).type

    @kernel(
        f"x:{dtype} y:{dtype} d_at:int32 d_n:int32 d_w:{dtype} h_at:int32 h_n:int32 h_w:{dtype}",
        f"w_at:int32 w_n:int32 w_w:{dtype} n size*3 out*3 taps*2",
    )
    def separable_map(x, y, d_at, d_n, d_w, h_at, h_n, h_w, w_at, w_n, w_w, n, size, out, taps):
        """Tables: for output o of an axis the positions at[o, k] and weights w[o, k] of its taps k < n[o]; those of the
        last axis [k, o].  n outputs in all, each a thread's."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        ih, iw, oh, ow = U(size[1]), U(size[2]), U(out[1]), U(out[2])
        kd, kh = U(taps[0]), U(taps[1])
        while i < U(n):
            row = U(i // ow)
            u, slab = U(i - row * ow), U(row // oh)
            v, plane = U(row - slab * oh), U(slab // U(out[0]))
            z, total = U(slab - plane * U(out[0])), REAL(0)
            for a in range(d_n[z]):
                base = U(U(plane * U(size[0]) + U(d_at[U(z * kd + U(a))])) * ih)
                for b in range(h_n[v]):
                    line = U(U(base + U(h_at[U(v * kh + U(b))])) * iw)
                    part = REAL(0)
                    for c in range(w_n[u]):
                        k = U(U(c) * ow + u)
                        part += w_w[k] * x[U(line + U(w_at[k]))]
                    total += d_w[U(z * kd + U(a))] * h_w[U(v * kh + U(b))] * part
            y[i] = total
            i = U(i + step)

    return separable_map


def kernels(dtype):
    """For the test that compiles them."""
    yield make_separable(dtype)


@lru_cache(maxsize=256)
def _tables(axes, dtype):
    """Positions, counts and weights of three axes, uploaded; those of the last one tap by tap."""
    arrays = []
    for axis, order in zip(axes, "CCF", strict=True):
        arrays.append(upload(axis.at.astype(np.int32).ravel(order)))
        arrays.append(upload(axis.counts.astype(np.int32)))
        arrays.append(upload(axis.weights.astype(dtype).ravel(order)))
    return arrays


def resample(x, size, axes):
    """The map of three `separable.Axis` of an array (n, c, *) to (n, c, *size)."""
    y, dtype = empty((*x.shape[:2], *size), x.dtype), x.dtype.name
    sizes, outs, taps = (tuple(int(getattr(axis, name)) for axis in axes) for name in ("size", "out", "taps"))
    arguments = dense(x), y, *_tables(axes, dtype), y.size, sizes, outs, taps[:2]
    launch(Row(make_separable(dtype), blocks_for(y.size), THREADS, arguments))
    return y
