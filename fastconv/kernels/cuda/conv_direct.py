"""Depthwise and narrow convolutions, which have no product worth a tile: one thread for each output.

Kernel size, stride and dilation are part of the code, so loops over taps are unrolled and divisions by the stride are
shifts.  Neighbouring threads have neighbouring pixels; what they share comes from the cache.
"""

from functools import cache

from .array import empty
from .conv_weights import added, split
from .gpu import SIMULATED, THREADS, TYPES, blocks_for, cuda, int32, kernel, uint32
from .launch import Row

BLOCK = 2 if SIMULATED else 256  # threads that share one sum of the weight gradient; a power of two


@cache
def make_direct(dtype, ker, stride, dilation, bias):
    """y = convolution of x with w, plus b.  n outputs; C, M: channels of a group of x and of y; oc: channels of y in
    all; src, out: sizes; pad: before the image.  Tile: outputs that a thread steps over."""
    KD, KH, KW = ker
    SD, SH, SW = stride
    DD, DH, DW = dilation
    TAPS, REAL = KD * KH * KW, TYPES[dtype]

    @kernel(f"x:{dtype} w:{dtype} b:{dtype} y:{dtype} n C M oc src*3 out*3 pad*3")
    def direct(x, w, b, y, n, C, M, oc, src, out, pad):
        pixels = int32(src[0] * src[1] * src[2])
        for at in range(cuda.grid(1), n, cuda.gridsize(1)):
            r = int32(uint32(at) // uint32(out[2]))
            px = int32(int32(at - r * out[2]) * SW - pad[2])
            q = int32(uint32(r) // uint32(out[1]))
            py = int32(int32(r - q * out[1]) * SH - pad[1])
            r = int32(uint32(q) // uint32(out[0]))
            pz = int32(int32(q - r * out[0]) * SD - pad[0])
            image = int32(uint32(r) // uint32(oc))
            o = int32(r - image * oc)
            group = int32(uint32(o) // uint32(M))
            groups = int32(uint32(oc) // uint32(M))
            first = int32(int32(image * groups + group) * C * pixels)
            value = REAL(0)
            if bias:
                value = b[uint32(o)]
            for c in range(C):
                plane = int32(first + c * pixels)
                weights = int32(int32(o * C + c) * TAPS)
                for kz in range(KD):
                    z = int32(pz + kz * DD)
                    for ky in range(KH):
                        v = int32(py + ky * DH)
                        if uint32(z) < uint32(src[0]) and uint32(v) < uint32(src[1]):
                            line = int32(plane + int32(z * src[1] + v) * src[2])
                            for kx in range(KW):
                                u = int32(px + kx * DW)
                                if uint32(u) < uint32(src[2]):
                                    value += w[uint32(weights + (kz * KH + ky) * KW + kx)] * x[uint32(line + u)]
            y[uint32(at)] = value

    return direct


@cache
def make_direct_data(dtype, ker, stride, dilation, bias):
    """gx = the data gradient of gy, plus b.  n pixels; C, M: channels of a group of gx and gy; ic: channels of gx in
    all; src: size of gx, out: of gy.  Tile: pixels that a thread steps over."""
    KD, KH, KW = ker
    SD, SH, SW = stride
    DD, DH, DW = dilation
    TAPS, REAL = KD * KH * KW, TYPES[dtype]

    @kernel(f"gy:{dtype} w:{dtype} b:{dtype} gx:{dtype} n C M ic src*3 out*3 pad*3")
    def direct_data(gy, w, b, gx, n, C, M, ic, src, out, pad):
        positions = int32(out[0] * out[1] * out[2])
        for at in range(cuda.grid(1), n, cuda.gridsize(1)):
            r = int32(uint32(at) // uint32(src[2]))
            px = int32(at - r * src[2] + pad[2])
            q = int32(uint32(r) // uint32(src[1]))
            py = int32(r - q * src[1] + pad[1])
            r = int32(uint32(q) // uint32(src[0]))
            pz = int32(q - r * src[0] + pad[0])
            image = int32(uint32(r) // uint32(ic))
            i = int32(r - image * ic)
            group = int32(uint32(i) // uint32(C))
            c = int32(i - group * C)
            groups = int32(uint32(ic) // uint32(C))
            value = REAL(0)
            if bias:
                value = b[uint32(i)]
            for m in range(M):
                plane = int32(int32(int32(image * groups + group) * M + m) * positions)
                weights = int32(int32(int32(group * M + m) * C + c) * TAPS)
                for kz in range(KD):
                    z = int32(pz - kz * DD)
                    for ky in range(KH):
                        v = int32(py - ky * DH)
                        # Negative ones are out of range whatever the stride.
                        whole = z >= 0 and v >= 0 and z % SD == 0 and v % SH == 0
                        z1, v1 = int32(z // SD), int32(v // SH)
                        if whole and z1 < out[0] and v1 < out[1]:
                            line = int32(plane + int32(z1 * out[1] + v1) * out[2])
                            for kx in range(KW):
                                u = int32(px - kx * DW)
                                if u >= 0 and u % SW == 0 and u // SW < out[2]:
                                    weight = w[uint32(weights + (kz * KH + ky) * KW + kx)]
                                    value += weight * gy[uint32(line + u // SW)]
            gx[uint32(at)] = value

    return direct_data


@cache
def make_direct_weights(dtype, kw, stride, dilation):
    """gw (parts, oc, C, kd, kh, kw) = parts of the weight gradient.  A block owns a row of taps of one pair of channels
    and one part: its threads step over positions, each value of gy meeting the row's taps, and add in shared memory.

    total: positions of all images, of which a part takes `span`; C, M: channels of a group; oc: of gy in all.
    """
    KW, REAL, SHARED = kw, TYPES[dtype], kw * BLOCK
    SD, SH, SW = stride
    DD, DH, DW = dilation
    LEVELS = BLOCK.bit_length() - 1

    @kernel(f"x:{dtype} gy:{dtype} gw:{dtype} total span C M oc kd kh src*3 out*3 pad*3")
    def direct_weights(x, gy, gw, total, span, C, M, oc, kd, kh, src, out, pad):
        shared = cuda.shared.array(SHARED, REAL)
        acc = cuda.local.array(KW, REAL)
        thread = int32(cuda.threadIdx.x)
        pair = int32(uint32(cuda.blockIdx.x) // uint32(kd * kh))
        row = int32(int32(cuda.blockIdx.x) - pair * int32(kd * kh))
        kz, o = int32(uint32(row) // uint32(kh)), int32(uint32(pair) // uint32(C))
        ky, c = int32(row - kz * kh), int32(pair - o * C)
        group, groups = int32(uint32(o) // uint32(M)), int32(uint32(oc) // uint32(M))
        pixels = int32(src[0] * src[1] * src[2])
        positions = int32(out[0] * out[1] * out[2])
        for i in range(KW):
            acc[i] = REAL(0)
        start = int32(int32(cuda.blockIdx.y) * span)
        end = min(int32(start + span), total)
        for k in range(int32(start + thread), end, BLOCK):
            image = int32(uint32(k) // uint32(positions))
            q = int32(k - image * positions)
            value = gy[uint32(int32(image * oc + o) * positions + q)]
            z = int32(uint32(q) // uint32(out[1] * out[2]))
            q = int32(q - z * int32(out[1] * out[2]))
            v = int32(uint32(q) // uint32(out[2]))
            px = int32(int32(q - v * out[2]) * SW - pad[2])
            z, v = int32(z * SD - pad[0] + kz * DD), int32(v * SH - pad[1] + ky * DH)
            if uint32(z) < uint32(src[0]) and uint32(v) < uint32(src[1]):
                plane = int32(int32(int32(image * groups + group) * C + c) * pixels)
                line = int32(plane + int32(z * src[1] + v) * src[2])
                for kx in range(KW):
                    u = int32(px + kx * DW)
                    if uint32(u) < uint32(src[2]):
                        acc[kx] += value * x[uint32(line + u)]
        to = int32(int32(int32(cuda.blockIdx.y) * int32(cuda.gridDim.x) + int32(cuda.blockIdx.x)) * KW)
        for kx in range(KW):
            shared[uint32(kx * BLOCK + thread)] = acc[kx]
        cuda.syncthreads()
        for level in range(LEVELS):
            half = BLOCK >> (level + 1)
            if thread < half:
                for kx in range(KW):
                    shared[uint32(kx * BLOCK + thread)] += shared[uint32(kx * BLOCK + thread + half)]
            cuda.syncthreads()
        if thread == 0:
            for kx in range(KW):
                gw[uint32(to + kx)] = shared[uint32(kx * BLOCK)]

    return direct_weights


def kernels(dtype):
    """For the test that compiles them."""
    for stride in (1, 2):
        code = dtype, (1, 3, 3), (1, stride, stride), (1, 1, 1)
        yield make_direct(*code, True)
        yield make_direct_data(*code, False)
        yield make_direct_weights(dtype, 3, *code[2:])


def _code(spec):
    return (spec.kd, spec.kh, spec.kw), (spec.sd, spec.sh, spec.sw), (spec.dd, spec.dh, spec.dw)


def _geometry(spec):
    return (spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow), (spec.pd, spec.ph, spec.pw)


def forward_rows(spec, x, w, b, y):
    compiled = make_direct(spec.dtype, *_code(spec), b is not None)
    arguments = (x, w, w if b is None else b, y, y.size, spec.icg, spec.ocg, spec.oc, *_geometry(spec))
    return [Row(compiled, blocks_for(y.size), THREADS, arguments)]


def data_rows(spec, gy, w, gx, b=None):
    compiled = make_direct_data(spec.dtype, *_code(spec), b is not None)
    arguments = (gy, w, w if b is None else b, gx, gx.size, spec.icg, spec.ocg, spec.ic, *_geometry(spec))
    return [Row(compiled, blocks_for(gx.size), THREADS, arguments)]


def weight_rows(spec, x, gy, gw):
    total, blocks = spec.n * spec.out_pixels, spec.oc * spec.icg * spec.kd * spec.kh
    parts, span = split(total, blocks, BLOCK)
    target = gw if parts == 1 else empty((parts, *gw.shape), spec.dtype)
    _, stride, dilation = _code(spec)
    numbers = (total, span, spec.icg, spec.ocg, spec.oc, spec.kd, spec.kh)
    compiled = make_direct_weights(spec.dtype, spec.kw, stride, dilation)
    row = Row(compiled, (blocks, parts), BLOCK, (x, gy, target, *numbers, *_geometry(spec)))
    return [row, *added(target, gw, parts)]
