"""The weight gradient of a convolution as an implicit matrix product over all images and positions.

For each group,  gw[m, (c, tap)] = sum over positions of gy[image, m, position] x[image, c, pixel seen by the tap].

The sum is long and its result small, so it is cut into parts, which blocks compute side by side and which are added in
a fixed order afterwards.  Neighbouring threads load neighbouring positions; rows in shared memory are a little longer
than needed, so that they are stored to different banks.
"""

from functools import cache

from .array import empty
from .conv_tile import LARGE, MIDDLE, NARROW, SMALL, THIN, WANTED_BLOCKS, divided, make_product
from .gpu import SIMULATED, THREADS, TYPES, blocks_for, cuda, helper, int32, kernel, uint32
from .launch import Row
from .reduce import make_reduce

PAD = 4  # elements between rows of shared memory
OUTSIDE = -(1 << 30)


@cache
def make_columns(tile):
    """Where the columns (c, tap) that one thread loads look, relative to a position: three axes, and their channel."""
    STEP = tile.threads // tile.bk
    LB = tile.bn // STEP

    @helper
    def columns_of(see_z, see_y, see_x, offset, column0, C, ker, add, dil, pixels):
        taps = uint32(ker[0] * ker[1] * ker[2])
        for i in range(LB):
            column = int32(column0 + i * STEP)
            c = int32(uint32(column) // taps)
            kz, ky, kx = divided(uint32(column) - uint32(c) * taps, ker)
            see_z[i] = int32(kz * dil[0] + add[0])
            see_y[i] = int32(ky * dil[1] + add[1])
            see_x[i] = int32(kx * dil[2] + add[2])
            offset[i] = int32(c * pixels)
            if c >= C:
                see_z[i] = int32(OUTSIDE)

    return columns_of


@cache
def make_load(dtype, tile):
    """What one thread loads for a step: position k of gy for its rows, and of x for its columns."""
    STEP, REAL = tile.threads // tile.bk, TYPES[dtype]
    LA, LB = tile.bm // STEP, tile.bn // STEP

    @helper
    def load(la, lb, x, gy, k, end, row0, see_z, see_y, see_x, offset, place, M, C, out, src, mul):
        alive = k < end
        positions = uint32(out[0] * out[1] * out[2])
        image = int32(uint32(k) // positions)
        q = int32(uint32(k) - uint32(image) * positions)
        z, v, u = divided(q, out)
        z, v, u = int32(z * mul[0]), int32(v * mul[1]), int32(u * mul[2])
        plane = int32(image * place[1] + place[0])
        from_gy = int32(plane * M * int32(positions) + q)
        base = int32(plane * C * int32(src[0] * src[1] * src[2]))
        for i in range(LA):
            m = int32(row0 + i * STEP)
            la[i] = REAL(0)
            if alive and m < M:
                la[i] = gy[uint32(from_gy + m * int32(positions))]
        for i in range(LB):
            lb[i] = REAL(0)
            pz, py, px = int32(z + see_z[i]), int32(v + see_y[i]), int32(u + see_x[i])
            inside = uint32(pz) < uint32(src[0]) and uint32(py) < uint32(src[1])
            if alive and inside and uint32(px) < uint32(src[2]):
                lb[i] = x[uint32(base + offset[i] + int32(int32(pz * src[1] + py) * src[2] + px))]

    return load


@cache
def make_store(tile):
    """The thread's tile into rows of gw."""
    TN = tile.tn
    VM, PARTS_M, JUMP_M, VN, PARTS_N, JUMP_N = tile.runs

    @helper
    def store(gw, acc, first, row0, column0, M, columns):
        for g in range(PARTS_M):
            for i in range(VM):
                o = int32(row0 + g * JUMP_M + i)
                if o < M:
                    to = int32(int32(first + o) * columns)
                    for h in range(PARTS_N):
                        for j in range(VN):
                            column = int32(column0 + h * JUMP_N + j)
                            if column < columns:
                                gw[uint32(to + column)] = acc[(g * VM + i) * TN + h * VN + j]

    return store


@cache
def make_weight_gemm(dtype, tile):
    """The product of the module's docstring: part `blockIdx.z % parts` of group `blockIdx.z // parts`, into
    gw (parts, groups, M, C taps).

    total: positions of all images, of which a part takes `span`; M, C: channels of a group of gy and x; out: size of
    gy (three), src: of x, ker: of the kernel; mul, add, dil: stride, minus padding, dilation.
    """
    BM, BN, TM, TN, BK = tile
    REAL, SIM, ACROSS, ACC, STEP = TYPES[dtype], SIMULATED, tile.across, TM * TN, tile.threads // BK
    LA, LB, ROW_A, ROW_B = BM // STEP, BN // STEP, BM + PAD, BN + PAD
    HALF_A, HALF_B, SIZE_A, SIZE_B = BK * ROW_A, BK * ROW_B, 2 * BK * ROW_A, 2 * BK * ROW_B
    VM, VN = tile.runs[0], tile.runs[3]
    columns_of, load, store = make_columns(tile), make_load(dtype, tile), make_store(tile)
    product = make_product(tile, ROW_A, ROW_B)

    @kernel(f"x:{dtype} gy:{dtype} gw:{dtype} total span parts M C out*3 src*3 ker*3 mul*3 add*3 dil*3")
    def weight_gemm(x, gy, gw, total, span, parts, M, C, out, src, ker, mul, add, dil):
        if SIM:
            sa = cuda.shared.array(SIZE_A, REAL)
            sb = cuda.shared.array(SIZE_B, REAL)
        else:  # aligned, so that four values are loaded at once
            sa = cuda.shared.array(SIZE_A, REAL, alignment=16)
            sb = cuda.shared.array(SIZE_B, REAL, alignment=16)
        acc, va, vb = cuda.local.array(ACC, REAL), cuda.local.array(TM, REAL), cuda.local.array(TN, REAL)
        la, lb, offset = cuda.local.array(LA, REAL), cuda.local.array(LB, REAL), cuda.local.array(LB, int32)
        see_z, see_y = cuda.local.array(LB, int32), cuda.local.array(LB, int32)
        see_x = cuda.local.array(LB, int32)
        t = uint32(cuda.threadIdx.x)
        group = int32(uint32(cuda.blockIdx.z) // uint32(parts))
        part, groups = int32(cuda.blockIdx.z - group * parts), int32(uint32(cuda.gridDim.z) // uint32(parts))
        row0, column0 = int32(cuda.blockIdx.y * BM), int32(cuda.blockIdx.x * BN)
        tx, ty = uint32(t % uint32(ACROSS)), uint32(t // uint32(ACROSS))
        deep, own = int32(t % uint32(BK)), int32(t // uint32(BK))  # the position and the first row that it loads
        pixels = int32(src[0] * src[1] * src[2])
        columns_of(see_z, see_y, see_x, offset, column0 + own, C, ker, add, dil, pixels)
        for i in range(ACC):
            acc[i] = REAL(0)
        start = int32(part * span)
        end, place = min(int32(start + span), total), (group, groups)
        steps = int32((end - start + BK - 1) // BK)
        for step in range(int32(steps + 1)):
            if step < steps:
                k = int32(start + step * BK + deep)
                load(la, lb, x, gy, k, end, row0 + own, see_z, see_y, see_x, offset, place, M, C, out, src, mul)
            if step > 0:
                half = uint32((step - 1) & 1)
                product(sa, sb, half * uint32(HALF_A), half * uint32(HALF_B), tx, ty, acc, va, vb)
            if step < steps:
                for i in range(LA):
                    sa[uint32((step & 1) * HALF_A + deep * ROW_A + own + i * STEP)] = la[i]
                for i in range(LB):
                    sb[uint32((step & 1) * HALF_B + deep * ROW_B + own + i * STEP)] = lb[i]
            cuda.syncthreads()
        columns = int32(C * int32(ker[0] * ker[1] * ker[2]))
        first = int32(int32(part * groups + group) * M)
        store(gw, acc, first, row0 + int32(ty) * VM, column0 + int32(tx) * VN, M, columns)

    return weight_gemm


def kernels(dtype):
    """For the test that compiles them."""
    for tile in (LARGE, MIDDLE, THIN):
        yield make_weight_gemm(dtype, tile)


def _tile(rows, columns):
    if SIMULATED:
        return SMALL
    if rows <= THIN.bm:
        return THIN if columns <= THIN.bn else NARROW
    return LARGE if rows > MIDDLE.bm and columns > MIDDLE.bn else MIDDLE


def split(total, blocks, deep):
    """(parts, positions of a part) of a sum of `total` that `blocks` blocks would compute without parts: enough of them
    for the whole device, none shorter than eight steps."""
    if not total:
        return 1, deep
    wanted = min(-(-2 * WANTED_BLOCKS // max(blocks, 1)), -(-total // (8 * deep)), 1024)
    span = -(-total // max(wanted, 1))
    span = -(-span // deep) * deep
    return -(-total // span), span


def weight_rows(spec, x, gy, gw):
    """gw = the weight gradient, in parts which a second row adds."""
    total, columns = spec.n * spec.out_pixels, spec.icg * spec.taps
    tile = _tile(spec.ocg, columns)
    grid = -(-columns // tile.bn), -(-spec.ocg // tile.bm)
    parts, span = split(total, grid[0] * grid[1] * spec.g, tile.bk)
    target = gw if parts == 1 else empty((parts, *gw.shape), spec.dtype)
    numbers = (total, span, parts, spec.ocg, spec.icg, (spec.od, spec.oh, spec.ow), (spec.id, spec.ih, spec.iw))
    geometry = ((spec.kd, spec.kh, spec.kw), (spec.sd, spec.sh, spec.sw), (-spec.pd, -spec.ph, -spec.pw))
    dilation = (spec.dd, spec.dh, spec.dw)
    arguments = (x, gy, target, *numbers, *geometry, dilation)
    row = Row(make_weight_gemm(spec.dtype, tile), (*grid, spec.g * parts), tile.threads, arguments)
    return [row, *added(target, gw, parts)]


def added(parts, gw, count):
    """The row that adds so many parts into gw, one after the other; none for one part, which is gw."""
    if count == 1:
        return []
    _, by_threads = make_reduce("sum", gw.dtype.name, gw.dtype.name)
    axes = (1, 1, gw.size), (0, 0, 1), (1, 1, count), (0, 0, gw.size)
    return [Row(by_threads, blocks_for(gw.size), THREADS, (parts, gw, gw.size, count, *axes))]
