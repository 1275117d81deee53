"""Random numbers on the device: Philox4x32-10, a function of (counter, key) with no state (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3").  The key comes from the library's one generator, so a seed fixes the
masks; they are other masks than the CPU draws from the same seed.
"""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from ..._random import generator
from .array import empty
from .gpu import THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch

U, LONG = np.uint32, np.uint64
ROUNDS = 10


@helper
def philox(c0, c1, c2, c3, k0, k1):
    """Four random 32-bit numbers from a counter of four and a key of two, all uint32."""
    for _ in range(ROUNDS):
        a = LONG(LONG(c0) * LONG(0xD2511F53))
        b = LONG(LONG(c2) * LONG(0xCD9E8D57))
        c0 = U(U(b >> LONG(32)) ^ c1 ^ k0)
        c2 = U(U(a >> LONG(32)) ^ c3 ^ k1)
        c1 = U(b & LONG(0xFFFFFFFF))
        c3 = U(a & LONG(0xFFFFFFFF))
        k0 = U((LONG(k0) + LONG(0x9E3779B9)) & LONG(0xFFFFFFFF))
        k1 = U((LONG(k1) + LONG(0xBB67AE85)) & LONG(0xFFFFFFFF))
    return c0, c1, c2, c3


@lru_cache
def make_dropout_mask(dtype):
    """A mask of 0, with probability p, and 1 / (1 - p)."""
    draw, REAL = philox, np.dtype(dtype).type

    @kernel(f"mask:{dtype} n key0=int64 key1=int64 p=float64 kept={dtype}")
    def dropout_mask(mask, n, key0, key1, p, kept):
        """Thread: four neighbouring values at a time."""
        n, limit, quad, step = U(n), LONG(p * 4294967296.0), U(cuda.grid(1)), U(cuda.gridsize(1))
        while quad < U((n + U(3)) // U(4)):
            r0, r1, r2, r3 = draw(quad, U(0), U(0), U(0), U(key0), U(key1))
            i = U(quad * U(4))
            mask[i] = kept if LONG(r0) >= limit else REAL(0)
            if U(i + U(1)) < n:
                mask[U(i + U(1))] = kept if LONG(r1) >= limit else REAL(0)
            if U(i + U(2)) < n:
                mask[U(i + U(2))] = kept if LONG(r2) >= limit else REAL(0)
            if U(i + U(3)) < n:
                mask[U(i + U(3))] = kept if LONG(r3) >= limit else REAL(0)
            quad = U(quad + step)

    return dropout_mask


def kernels(dtype):
    """For the test that compiles them."""
    yield make_dropout_mask(dtype)


@counterpart("dropout.Dropout")
class Dropout(Rule):
    """The mask is an array of the device, so backward is the op's own."""

    @staticmethod
    def forward(ctx, x, p, shape):
        keys = generator().integers(0, 2**32, 2)
        ctx.mask = mask = empty(shape, x.dtype)
        numbers = mask.size, int(keys[0]), int(keys[1]), float(p), 0.0 if p == 1 else 1 / (1 - p)
        launch(Row(make_dropout_mask(x.dtype.name), blocks_for(-(-mask.size // 4)), THREADS, (mask, *numbers)))
        return x * mask
