"""Convolution and its data gradient as one implicit matrix product: nothing but the weights is rearranged.

For each group, with the taps of a table,

    y[image, m, position] = sum over taps t, channels c of p[t, c, m] x[image, c, base(position) + shift(t)]

A block owns BM output channels of BN positions.  It loads BK channels of weights and of shifted pixels into shared
memory, while each thread multiplies what was loaded before in a register tile of TM x TN.  Positions of one block
follow one another in the output, so loads and stores of neighbouring threads meet in memory; a thread keeps its
position, so the limits of the image are asked once for each tap.  Where there are few channels (`flat`), taps and
channels are one sum.

The forward pass has one table; the data gradient has one for each residue of a pixel's position by the stride, in which
only the taps that reach such pixels are: no product with zero is made.
"""

from functools import cache, lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from .array import CudaArray, empty, upload
from .conv_tile import FLAT, LARGE, MIDDLE, SMALL, WANTED_BLOCKS, divided, make_product
from .gpu import SIMULATED, TYPES, cuda, helper, int32, kernel, uint32
from .launch import Row

FEW_CHANNELS = 8  # below: taps and channels are one sum
OUTSIDE = -(1 << 30)


def tile_for(rows, columns, groups):
    """The tile of a product: large where that leaves work for the whole device, flat where there are few rows."""
    if SIMULATED:
        return SMALL
    if rows <= FLAT.bm:
        return FLAT
    blocks = -(-rows // LARGE.bm) * -(-columns // LARGE.bn) * groups
    wasted = -(-rows // LARGE.bm) * LARGE.bm / rows
    return LARGE if blocks >= WANTED_BLOCKS and wasted <= 1.34 else MIDDLE


@cache
def make_load(dtype, tile):
    """What one thread loads for a step: weights `la` of its row m, pixels `lb` of its position, for one tap."""
    LA, LB = tile.bm * tile.bk // tile.threads, tile.bn * tile.bk // tile.threads
    STEP_A, STEP_B, REAL = tile.threads // tile.bm, tile.threads // tile.bn, TYPES[dtype]

    @helper
    def load(la, lb, x, p, tab, tap, c0, deep_a, deep_b, weights, m, base, at, size, src, pixels):
        row = uint32(5 * tap)
        inside = uint32(at[0] + tab[row]) < uint32(src[0]) and uint32(at[1] + tab[row + uint32(1)]) < uint32(src[1])
        inside = inside and uint32(at[2] + tab[row + uint32(2)]) < uint32(src[2])
        from_x = int32(base + tab[row + uint32(3)])
        from_p = int32(weights + tab[row + uint32(4)])
        for i in range(LA):
            c = int32(c0 + deep_a + i * STEP_A)
            la[i] = REAL(0)
            if m < size[0] and c < size[1]:
                la[i] = p[uint32(from_p + c * size[0])]
        for i in range(LB):
            c = int32(c0 + deep_b + i * STEP_B)
            lb[i] = REAL(0)
            if inside and c < size[1]:
                lb[i] = x[uint32(from_x + c * pixels)]

    return load


@cache
def make_load_flat(dtype, tile):
    """The same where step k0 of the sum over taps and channels, taps outermost, is loaded."""
    LA, LB = tile.bm * tile.bk // tile.threads, tile.bn * tile.bk // tile.threads
    STEP_A, STEP_B, REAL = tile.threads // tile.bm, tile.threads // tile.bn, TYPES[dtype]

    @helper
    def load_flat(la, lb, x, p, tab, k0, deep_a, deep_b, weights, m, base, at, size, src, pixels):
        for i in range(LA):
            k = int32(k0 + deep_a + i * STEP_A)
            tap = int32(uint32(k) // uint32(size[1]))
            la[i] = REAL(0)
            if m < size[0] and tap < size[2]:
                la[i] = p[uint32(weights + tab[uint32(5 * tap + 4)] + int32(k - tap * size[1]) * size[0])]
        for i in range(LB):
            k = int32(k0 + deep_b + i * STEP_B)
            tap = int32(uint32(k) // uint32(size[1]))
            lb[i] = REAL(0)
            if tap < size[2]:
                row = uint32(5 * tap)
                inside = uint32(at[0] + tab[row]) < uint32(src[0])
                inside = inside and uint32(at[1] + tab[row + uint32(1)]) < uint32(src[1])
                if inside and uint32(at[2] + tab[row + uint32(2)]) < uint32(src[2]):
                    lb[i] = x[uint32(base + tab[row + uint32(3)] + int32(k - tap * size[1]) * pixels)]

    return load_flat


@cache
def make_store(dtype, tile, bias):
    """The thread's tile into y, plus b.  `first` has the place of each column's first row, negative ones are none."""
    TN, REAL = tile.tn, TYPES[dtype]
    VM, PARTS_M, JUMP_M, VN, PARTS_N, JUMP_N = tile.runs

    @helper
    def store(y, b, acc, first, row0, column0, group, cols, M, grid, put):
        per = uint32(grid[0] * grid[1] * grid[2])
        out_pixels = int32(put[1] * put[2] * put[3])
        for h in range(PARTS_N):
            for j in range(VN):
                column = int32(column0 + h * JUMP_N + j)
                image = int32(uint32(column) // per)
                z, v, u = divided(uint32(column) - uint32(image) * per, grid)
                z, v, u = int32(z * put[4] + put[7]), int32(v * put[5] + put[8]), int32(u * put[6] + put[9])
                line = int32(int32(z * put[2]) + v)
                place = int32(int32(line * put[3]) + u)
                plane = int32(int32(image * put[0]) + int32(group * M))
                first[h * VN + j] = int32(place + int32(plane * out_pixels))
                if column >= cols:
                    first[h * VN + j] = int32(-1)
        for g in range(PARTS_M):
            for i in range(VM):
                o = int32(row0 + g * JUMP_M + i)
                if o < M:
                    extra = REAL(0)
                    if bias:
                        extra = b[uint32(group * M + o)]
                    for j in range(TN):
                        if first[j] >= 0:
                            y[uint32(first[j] + o * out_pixels)] = acc[(g * VM + i) * TN + j] + extra

    return store


@cache
def make_gather_gemm(dtype, tile, flat, bias):
    """y from the source x, packed weights p (groups, all taps, C, M) and bias b.

    tab: for each tap shifts in three axes, the offset they make, the first of its weights.  cols positions of a grid.
    size: M and C channels of a group, taps here, taps in all.  mul, add: base(position) = position * mul + add; src:
    size of the source.  put: channels of the result, its size, then steps and starts of the positions in it.
    """
    BM, BN, TM, TN, BK = tile
    REAL, SIM, ACROSS, ACC = TYPES[dtype], SIMULATED, tile.across, TM * TN
    LA, LB, STEP_A, STEP_B = BM * BK // tile.threads, BN * BK // tile.threads, tile.threads // BM, tile.threads // BN
    HALF_A, HALF_B, SIZE_A, SIZE_B = BK * BM, BK * BN, 2 * BK * BM, 2 * BK * BN
    VM, VN, product = tile.runs[0], tile.runs[3], make_product(tile, BM, BN)
    load, load_flat, store = make_load(dtype, tile), make_load_flat(dtype, tile), make_store(dtype, tile, bias)

    @kernel(f"x:{dtype} p:{dtype} b:{dtype} y:{dtype} tab:int32 cols size*4 grid*3 mul*3 add*3 src*3 put*10")
    def gather_gemm(x, p, b, y, tab, cols, size, grid, mul, add, src, put):
        if SIM:
            sa = cuda.shared.array(SIZE_A, REAL)
            sb = cuda.shared.array(SIZE_B, REAL)
        else:  # aligned: four values are loaded at once
            sa = cuda.shared.array(SIZE_A, REAL, alignment=16)
            sb = cuda.shared.array(SIZE_B, REAL, alignment=16)
        acc, va, vb = cuda.local.array(ACC, REAL), cuda.local.array(TM, REAL), cuda.local.array(TN, REAL)
        la, lb, first = cuda.local.array(LA, REAL), cuda.local.array(LB, REAL), cuda.local.array(TN, int32)
        t, group = uint32(cuda.threadIdx.x), int32(cuda.blockIdx.z)
        row0, column0 = int32(cuda.blockIdx.y * BM), int32(cuda.blockIdx.x * BN)
        tx, ty, tap, c0 = uint32(t % uint32(ACROSS)), uint32(t // uint32(ACROSS)), int32(0), int32(0)
        row, deep_a = int32(t % uint32(BM)), int32(t // uint32(BM))  # the weights and the position that it loads
        lane, deep_b = int32(t % uint32(BN)), int32(t // uint32(BN))
        m, column, per = int32(row0 + row), int32(column0 + lane), int32(grid[0] * grid[1] * grid[2])
        image = int32(uint32(column) // uint32(per))
        z, v, u = divided(column - image * per, grid)
        z, v, u = int32(z * mul[0] + add[0]), int32(v * mul[1] + add[1]), int32(u * mul[2] + add[2])
        pixels = int32(src[0] * src[1] * src[2])
        base = int32(int32(image * int32(cuda.gridDim.z) + group) * size[1] * pixels + (z * src[1] + v) * src[2] + u)
        at = (z if column < cols else int32(OUTSIDE), v, u)
        weights = int32(group * size[3] * size[1] * size[0] + m)
        for i in range(ACC):
            acc[i] = REAL(0)
        steps = int32((size[2] * size[1] + BK - 1) // BK) if flat else int32(size[2] * ((size[1] + BK - 1) // BK))
        for step in range(int32(steps + 1)):
            if step < steps and flat:
                load_flat(la, lb, x, p, tab, step * BK, deep_a, deep_b, weights, m, base, at, size, src, pixels)
            elif step < steps:
                load(la, lb, x, p, tab, tap, c0, deep_a, deep_b, weights, m, base, at, size, src, pixels)
                last = c0 + BK >= size[1]
                tap, c0 = int32(tap + last), int32(0 if last else c0 + BK)
            if step > 0:
                half = uint32((step - 1) & 1)
                product(sa, sb, half * uint32(HALF_A), half * uint32(HALF_B), tx, ty, acc, va, vb)
            if step < steps:
                for i in range(LA):
                    sa[uint32((step & 1) * HALF_A + int32(deep_a + i * STEP_A) * BM + row)] = la[i]
                for i in range(LB):
                    sb[uint32((step & 1) * HALF_B + int32(deep_b + i * STEP_B) * BN + lane)] = lb[i]
            cuda.syncthreads()
        store(y, b, acc, first, row0 + int32(ty) * VM, column0 + int32(tx) * VN, group, cols, size[0], grid, put)

    return gather_gemm


def kernels(dtype):
    """For the test that compiles them."""
    yield make_gather_gemm(dtype, LARGE, False, True)
    yield make_gather_gemm(dtype, MIDDLE, False, False)
    yield make_gather_gemm(dtype, FLAT, True, True)


# ---- forward


@lru_cache(maxsize=1024)
def _forward_table(spec) -> CudaArray:
    rows = []
    for tap, (a, b, c) in enumerate(np.ndindex(spec.kd, spec.kh, spec.kw)):
        z, y, x = a * spec.dd, b * spec.dh, c * spec.dw
        rows.append((z, y, x, (z * spec.ih + y) * spec.iw + x, tap * spec.icg * spec.ocg))
    return upload(np.array(rows, np.int32).reshape(-1))


def forward_rows(spec, x, w, b, y):
    """y = convolution of x with w, plus b."""
    packed = w.reshape(spec.g, spec.ocg, spec.icg, spec.taps).transpose(0, 3, 2, 1).copy()
    columns, rows = spec.n * spec.out_pixels, spec.ocg
    tile = tile_for(rows, columns, spec.g)
    compiled = make_gather_gemm(spec.dtype, tile, spec.icg < FEW_CHANNELS, b is not None)
    grid = (spec.od, spec.oh, spec.ow)
    put = (spec.oc, *grid, 1, 1, 1, 0, 0, 0)
    numbers = (columns, (rows, spec.icg, spec.taps, spec.taps), grid, (spec.sd, spec.sh, spec.sw))
    geometry = ((-spec.pd, -spec.ph, -spec.pw), (spec.id, spec.ih, spec.iw), put)
    blocks = (-(-columns // tile.bn), -(-rows // tile.bm), spec.g)
    arguments = (x, packed, packed if b is None else b, y, _forward_table(spec), *numbers, *geometry)
    return [Row(compiled, blocks, tile.threads, arguments)]


# ---- data gradient


class Phase(NamedTuple):
    """The pixels of one residue: their first ones and how many in each axis, and the table of taps that reach them."""

    first: tuple
    counts: tuple
    taps: int
    table: CudaArray | None


def _axis_taps(residue, kernel, stride, padding, dilation):
    """(tap, shift) of the taps that reach pixels residue + stride q: they see the output q + shift."""
    reaching = ((k, residue + padding - k * dilation) for k in range(kernel))
    return [(k, distance // stride) for k, distance in reaching if distance % stride == 0]


@lru_cache(maxsize=1024)
def _phases(spec):
    axes = (
        (spec.id, spec.kd, spec.sd, spec.pd, spec.dd),
        (spec.ih, spec.kh, spec.sh, spec.ph, spec.dh),
        (spec.iw, spec.kw, spec.sw, spec.pw, spec.dw),
    )
    found = []
    for residues in np.ndindex(spec.sd, spec.sh, spec.sw):
        counts = tuple(max(0, -(-(n - r) // s)) for r, (n, _, s, _, _) in zip(residues, axes, strict=True))
        if 0 in counts:
            continue
        z_taps, y_taps, x_taps = (_axis_taps(r, *a[1:]) for r, a in zip(residues, axes, strict=True))
        rows = [
            (z, y, x, (z * spec.oh + y) * spec.ow + x, ((a * spec.kh + b) * spec.kw + c) * spec.ocg * spec.icg)
            for a, z in z_taps
            for b, y in y_taps
            for c, x in x_taps
        ]
        table = upload(np.array(rows, np.int32).reshape(-1)) if rows else None
        found.append(Phase(residues, counts, len(rows), table))
    return tuple(found)


def data_rows(spec, gy, w, gx, b=None):
    """gx = the data gradient of gy, plus b, one value for each channel of gx (for transposed convolution)."""
    packed = w.reshape(spec.g, spec.ocg, spec.icg, spec.taps).transpose(0, 3, 1, 2).copy()
    steps, rows = (spec.sd, spec.sh, spec.sw), []
    for phase in _phases(spec):
        columns = spec.n * prod(phase.counts)
        tile = tile_for(spec.icg, columns, spec.g)
        compiled = make_gather_gemm(spec.dtype, tile, spec.ocg < FEW_CHANNELS, b is not None)
        table = phase.table if phase.table is not None else _no_taps()
        put = (spec.ic, spec.id, spec.ih, spec.iw, *steps, *phase.first)
        sizes = spec.icg, spec.ocg, phase.taps, spec.taps
        numbers = (columns, sizes, phase.counts, (1, 1, 1), (0, 0, 0))
        blocks = (-(-columns // tile.bn), -(-spec.icg // tile.bm), spec.g)
        arguments = (gy, packed, packed if b is None else b, gx, table, *numbers, (spec.od, spec.oh, spec.ow), put)
        rows.append(Row(compiled, blocks, tile.threads, arguments))
    return rows


@cache
def _no_taps():
    """The table of pixels that no tap reaches: they get zero, or the bias."""
    return empty((5,), np.int32)
