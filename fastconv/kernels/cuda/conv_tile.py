"""What the implicit matrix products share: tiles, and the inner product of two strips in shared memory."""

from functools import cache
from typing import NamedTuple

from .gpu import SIMULATED, helper, int32, uint32


class Tile(NamedTuple):
    """Rows and columns of a block's product and of a thread's part of it, and how deep a step of the sum is."""

    bm: int
    bn: int
    tm: int
    tn: int
    bk: int

    @property
    def threads(self):
        return (self.bm // self.tm) * (self.bn // self.tn)

    @property
    def across(self):
        """Threads side by side."""
        return self.bn // self.tn

    @property
    def runs(self):
        """A thread's rows and columns lie in runs of up to four, which are loaded at once; the runs of all threads lie
        side by side.  (rows of a run, runs, rows from run to run), the same of columns."""
        vm, vn = min(self.tm, 4), min(self.tn, 4)
        return vm, self.tm // vm, self.bm * vm // self.tm, vn, self.tn // vn, self.bn * vn // self.tn


LARGE, MIDDLE, FLAT = Tile(128, 128, 8, 8, 8), Tile(64, 64, 4, 4, 8), Tile(32, 128, 4, 4, 8)
NARROW, THIN = Tile(32, 64, 4, 4, 8), Tile(32, 32, 2, 4, 8)
SMALL = Tile(8, 8, 2, 4, 4)  # of the simulator
WANTED_BLOCKS = 2 if SIMULATED else 160  # a device with fewer blocks than this stands idle


@cache
def make_product(tile, row_a, row_b):
    """acc += strip of `sa` from first_a times strip of `sb` from first_b; rows of the strips are so long.  va, vb: a
    column and a row of the thread's tile."""
    TM, TN, BK = tile.tm, tile.tn, tile.bk
    VM, PARTS_M, JUMP_M, VN, PARTS_N, JUMP_N = tile.runs

    @helper
    def product(sa, sb, first_a, first_b, tx, ty, acc, va, vb):
        for k in range(BK):
            for h in range(PARTS_M):
                for i in range(VM):
                    va[h * VM + i] = sa[uint32(first_a + uint32(k * row_a + h * JUMP_M + i) + ty * uint32(VM))]
            for h in range(PARTS_N):
                for j in range(VN):
                    vb[h * VN + j] = sb[uint32(first_b + uint32(k * row_b + h * JUMP_N + j) + tx * uint32(VN))]
            for i in range(TM):
                for j in range(TN):
                    acc[i * TN + j] += va[i] * vb[j]

    return product


@helper
def divided(q, size):
    """Position q of three axes of this size, as (first, second, third)."""
    plane = uint32(size[1] * size[2])
    z = int32(uint32(q) // plane)
    rest = uint32(uint32(q) - uint32(z) * plane)
    y = int32(rest // uint32(size[2]))
    return z, y, int32(rest - uint32(y) * uint32(size[2]))
