"""The adder layer as tiles in shared memory: y[o, p] = b[o] - sum over k of |w[o, k] - patch[k, p]|, and its gradient.

As an implicit product: a block has BM rows times BN columns of the output, its threads TM x TN each; slices of BK terms
of both operands lie in shared memory.  A table gives for every term (k) where in the image it lies: its offset, row and
column from the first tap.  Pixels of all images are one row of columns.
"""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from ..._registry import Impl, implements
from .array import empty, upload
from .gpu import SIMULATED, cuda, helper, kernel
from .launch import Row, counterpart, run

U, S = np.uint32, np.int32
TILE = (4, 4, 2, 2, 2) if SIMULATED else (64, 64, 16, 4, 4)  # BM, BN, BK, TM, TN


@helper
def spot_of(column, channel, channels, pixels):
    """The place in an array (images, channels, pixels) of a channel and a column, a pixel of any image."""
    image = S(U(column) // U(pixels))
    return U((image * channels + channel) * pixels + column - image * pixels)


@helper
def patch_value(x, base, table, entry, p, ih, iw, ow, sh, sw, ph, pw, zero):
    """What output pixel p sees at the term whose row of the table begins at `entry`; 0 in the padding."""
    v = S(U(p) // U(ow))
    top, left = S(v * sh - ph), S((p - v * ow) * sw - pw)
    down, right = S(top + table[U(entry + U(1))]), S(left + table[U(entry + U(2))])
    return x[U(base + top * iw + left + table[entry])] if 0 <= down < ih and 0 <= right < iw else zero


@helper
def term_weight(w, term, c, group, icg, ocg, taps, zero):
    """The weight of input channel c of a group at a term (output channel, tap); 0 beyond the channels."""
    o, tap = S(U(term) // U(taps)), S(U(term) % U(taps))
    return w[U(((group * ocg + o) * icg + c) * taps + tap)] if c < icg and o < ocg else zero


@helper
def seen_gradient(gy, base, tap, p, kw, iw, oh, ow, sh, sw, ph, pw, dh, dw, zero):
    """The gradient of the output that sees input pixel p by a tap, 0 if there is none."""
    v, ky = S(U(p) // U(iw)), S(U(tap) // U(kw))
    down, right = S(v + ph - ky * dh), S(p - v * iw + pw - (tap - ky * kw) * dw)
    oy, ox = S(U(max(down, 0)) // U(sh)), S(U(max(right, 0)) // U(sw))
    here = oy * sh == down and ox * sw == right and oy < oh and ox < ow
    return gy[U((base + oy) * ow + ox)] if here else zero


@lru_cache
def make_adder(dtype, tile=TILE):
    """Forward."""
    BM, BN, BK, TM, TN = tile
    WIDE, REAL, patch, spot = BN // TN, np.dtype(dtype).type, patch_value, spot_of
    THREADS, COUNT, W_SIZE, X_SIZE = BM // TM * WIDE, TM * TN, BK * BM, BK * BN

    @kernel(
        f"x:{dtype} w:{dtype} b:{dtype} y:{dtype} table:int32",
        "images channels outputs groups terms ih iw oh ow sh sw ph pw has_b",
    )
    def adder(x, w, b, y, table, images, channels, outputs, groups, terms, ih, iw, oh, ow, sh, sw, ph, pw, has_b):
        """Grid: (columns, rows of a group, groups)."""
        sw_tile = cuda.shared.array(W_SIZE, REAL)
        sx_tile = cuda.shared.array(X_SIZE, REAL)
        acc = cuda.local.array(COUNT, REAL)
        for i in range(COUNT):
            acc[i] = REAL(0)
        t, group, pixels = S(cuda.threadIdx.x), S(cuda.blockIdx.z), S(oh * ow)
        per, c0 = S(outputs // groups), S(group * (channels // groups))
        row0, column0 = S(cuda.blockIdx.y * BM), S(cuda.blockIdx.x * BN)
        ty, tx = S(t // WIDE), S(t % WIDE)
        k0 = S(0)
        while k0 < terms:
            i = t
            while i < BM * BK:
                m, k = S(i // BK), S(i % BK)
                inside = row0 + m < per and k0 + k < terms
                sw_tile[U(k * BM + m)] = w[U((group * per + row0 + m) * terms + k0 + k)] if inside else REAL(0)
                i = S(i + THREADS)
            i = t
            while i < BN * BK:
                k, j = S(i // BN), S(i % BN)
                column, value = S(column0 + j), REAL(0)
                if column < images * pixels and k0 + k < terms:
                    image = S(U(column) // U(pixels))
                    base, p = S((image * channels + c0) * ih * iw), S(column - image * pixels)
                    value = patch(x, base, table, U(3 * (k0 + k)), p, ih, iw, ow, sh, sw, ph, pw, REAL(0))
                sx_tile[U(i)] = value
                i = S(i + THREADS)
            cuda.syncthreads()
            for k in range(BK):
                for m in range(TM):
                    a = sw_tile[U(k * BM + ty * TM + m)]
                    for j in range(TN):
                        acc[U(m * TN + j)] -= abs(a - sx_tile[U(k * BN + tx + j * WIDE)])
            cuda.syncthreads()
            k0 = S(k0 + BK)
        for i in range(COUNT):
            row, column = S(row0 + ty * TM + i // TN), S(column0 + tx + i % TN * WIDE)
            if row < per and column < images * pixels:
                o = S(group * per + row)
                y[spot(column, o, outputs, pixels)] = acc[i] + (b[U(o)] if has_b else REAL(0))

    return adder


@lru_cache
def make_adder_gradient(dtype, tile=TILE):
    """gx[c, p] = sum over outputs o and taps k that see p of clip(w[o, c, k] - x[c, p], -1, 1) gy[o, k]."""
    BM, BN, BK, TM, TN = tile
    WIDE, REAL, seen, spot, weight = BN // TN, np.dtype(dtype).type, seen_gradient, spot_of, term_weight
    THREADS, COUNT, W_SIZE, X_SIZE = BM // TM * WIDE, TM * TN, BK * BM, BK * BN

    @kernel(
        f"x:{dtype} w:{dtype} gy:{dtype} gx:{dtype}",
        "images z*15",
    )
    def adder_gradient(x, w, gy, gx, images, z):
        """Grid: (columns, channels of a group, groups)."""
        channels, outputs, groups, kh, kw, ih, iw, oh, ow, sh, sw, ph, pw, dh, dw = z
        sw_tile = cuda.shared.array(W_SIZE, REAL)
        sg_tile = cuda.shared.array(X_SIZE, REAL)
        acc = cuda.local.array(COUNT, REAL)
        own = cuda.local.array(COUNT, REAL)
        t, group, pixels, taps = S(cuda.threadIdx.x), S(cuda.blockIdx.z), S(ih * iw), S(kh * kw)
        icg, ocg = S(channels // groups), S(outputs // groups)
        row0, column0, ty, tx = S(cuda.blockIdx.y * BM), S(cuda.blockIdx.x * BN), S(t // WIDE), S(t % WIDE)
        for i in range(COUNT):
            c, column = S(row0 + ty * TM + i // TN), S(column0 + tx + i % TN * WIDE)
            inside = c < icg and column < images * pixels
            own[i] = x[spot(column, group * icg + c, channels, pixels)] if inside else REAL(0)
            acc[i] = REAL(0)
        k0 = S(0)
        while k0 < ocg * taps:
            i = t
            while i < BM * BK:
                k, m = S(i // BM), S(i % BM)
                sw_tile[U(k * BM + m)] = weight(w, k0 + k, row0 + m, group, icg, ocg, taps, REAL(0))
                i = S(i + THREADS)
            i = t
            while i < BN * BK:
                k, j = S(i // BN), S(i % BN)
                column, value = S(column0 + j), REAL(0)
                if column < images * pixels and k0 + k < ocg * taps:
                    o, tap, image = S(U(k0 + k) // U(taps)), S(U(k0 + k) % U(taps)), S(U(column) // U(pixels))
                    base, p = S((image * outputs + group * ocg + o) * oh), S(column - image * pixels)
                    value = seen(gy, base, tap, p, kw, iw, oh, ow, sh, sw, ph, pw, dh, dw, REAL(0))
                sg_tile[U(i)] = value
                i = S(i + THREADS)
            cuda.syncthreads()
            for k in range(BK):
                for m in range(TM):
                    a = sw_tile[U(k * BM + ty * TM + m)]
                    for j in range(TN):
                        d = min(max(a - own[U(m * TN + j)], REAL(-1)), REAL(1))
                        acc[U(m * TN + j)] += d * sg_tile[U(k * BN + tx + j * WIDE)]
            cuda.syncthreads()
            k0 = S(k0 + BK)
        for i in range(COUNT):
            c, column = S(row0 + ty * TM + i // TN), S(column0 + tx + i % TN * WIDE)
            if c < icg and column < images * pixels:
                gx[spot(column, group * icg + c, channels, pixels)] = acc[i]

    return adder_gradient


def kernels(dtype):
    """For the test that compiles them."""
    yield make_adder(dtype)
    yield make_adder_gradient(dtype)


# ---- implementations and the op


@lru_cache(maxsize=256)
def _table(spec):
    """(offset, row, column) of every term (input channel, tap) of a group, from the first tap in channel 0."""
    taps = [(i * spec.dh, j * spec.dw) for i in range(spec.kh) for j in range(spec.kw)]
    terms = [(c * spec.ih * spec.iw + i * spec.iw + j, i, j) for c in range(spec.icg) for i, j in taps]
    return upload(np.array(terms, np.int32).reshape(-1))


class Tiles(Impl):
    """In tiles of shared memory."""

    @staticmethod
    def when(spec):
        return None if spec.g <= 65535 else "needs at most 65535 groups"

    @staticmethod
    def cost(spec):
        return 0.0


def _row(made, columns, rows, groups, *arguments):
    BM, BN, _, TM, TN = TILE
    return (Row(made, (-(-columns // BN), -(-rows // BM), groups), BM // TM * (BN // TN), arguments),)


@implements("adder.fwd", rank=10, device="cuda")
class AdderForward(Tiles):
    name = "cuda_adder_fwd_tiles"

    @staticmethod
    def emit(spec, buffers):
        x, w, b, y = (buffers[name] for name in ("x", "w", "b", "y"))
        numbers = spec.n, spec.ic, spec.oc, spec.g, spec.icg * spec.taps, spec.ih, spec.iw, spec.oh, spec.ow
        numbers += spec.sh, spec.sw, spec.ph, spec.pw, int(b is not None)
        arguments = x, w, w if b is None else b, y, _table(spec), *numbers
        return _row(make_adder(spec.dtype), spec.n * spec.out_pixels, spec.ocg, spec.g, *arguments)


@implements("adder.bwd_data", rank=10, device="cuda")
class AdderBackwardData(Tiles):
    name = "cuda_adder_bwd_data_tiles"

    @staticmethod
    def emit(spec, buffers):
        arrays = tuple(buffers[name] for name in ("x", "w", "gy", "gx"))
        z = spec.ic, spec.oc, spec.g, spec.kh, spec.kw, spec.ih, spec.iw, spec.oh, spec.ow
        z += spec.sh, spec.sw, spec.ph, spec.pw, spec.dh, spec.dw
        columns = spec.n * spec.in_pixels
        return _row(make_adder_gradient(spec.dtype), columns, spec.icg, spec.g, *arrays, spec.n, z)


@counterpart("adder.Adder")
class Adder(Rule):
    twice = False

    @staticmethod
    def forward(ctx, x, w, b, spec):
        ctx.save(x, w)
        ctx.spec = spec
        y = empty(spec.y_shape, spec.dtype)
        run("adder.fwd", spec, {"y": y}, x=x, w=w, b=b)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, w = ctx.saved
        spec, gx, gw = ctx.spec, None, None
        per_channel = gy.reshape(spec.n, spec.oc, spec.out_pixels).sum(2).sum(0)
        if ctx.needs[0]:
            gx = empty(spec.x_shape, spec.dtype)
            run("adder.bwd_data", spec, {"gx": gx}, x=x, w=w, gy=gy)
        if ctx.needs[1]:
            gw = empty(w.shape, spec.dtype)
            run("conv.bwd_weights", spec, {"gw": gw}, x=x, gy=gy)
            gw -= w * per_channel[:, None, None, None]
        return gx, gw, per_channel if ctx.needs[2] else None, None
