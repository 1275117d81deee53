"""Deformable sampling on the device: samples as columns, whose product with the weights is a pointwise convolution.

columns (images, channels, taps, pixels): the value of channel c at the place where tap t of an output pixel looks,
times the mask.  Places inside (-1, ih) x (-1, iw) are bilinear means of four corners, corners outside count as 0, any
other place is 0; see `kernels/deform.py`.  Offsets (images, groups, taps, 2, pixels), masks (images, groups, taps,
pixels); channels fall into `groups` equal groups.

The gradients of offsets and masks are sums in a fixed order.  The gradient of the image is scattered to wherever the
offsets point, by atomic additions: its last bits may differ from run to run.
"""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from ...specs import conv_spec
from .array import empty, upload, zeros
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch, run
from .shaping import dense

U, S = np.uint32, np.int32
CHANNELS = 2 if SIMULATED else 16  # of a thread's run when columns are made
MOST = 1 << (10 if SIMULATED else 25)  # values of columns at a time: 128 MB of float32
PIXELS, LANES = (4, 2) if SIMULATED else (32, 8)  # pixels and channel lanes of a block of the adjoint


@lru_cache
def make_locate(dtype):
    """f(...): where a sample lies: (row, column) of its first corner and the fractions along h and w.

    Outside the image both fractions are 0 and the corner is far away; a NaN in an offset stays in the fractions.
    """
    REAL, FAR = np.dtype(dtype).type, -3

    def locate(offset, row, p, pixels, down, right, ih, iw):
        h = offset[U(U(row * U(2)) * pixels + p)] + REAL(down)
        w = offset[U(U(row * U(2) + U(1)) * pixels + p)] + REAL(right)
        if h > -1 and h < ih and w > -1 and w < iw:
            top, left = S(h) if h >= 0 else S(-1), S(w) if w >= 0 else S(-1)
            return top, left, h - REAL(top), w - REAL(left)
        if h != h or w != w:
            return S(FAR), S(FAR), h + w, h + w
        return S(FAR), S(FAR), REAL(0), REAL(0)

    return helper(locate)


@helper
def reach(taps, t, p, ow, sh, sw):
    """(row, column) where tap t of output pixel p looks at offset 0."""
    v = U(p // U(ow))
    return S(S(v) * sh + taps[U(t * U(2))]), S(S(p - v * U(ow)) * sw + taps[U(t * U(2) + U(1))])


@helper
def corner(x, plane, i, j, ih, iw, zero):
    """The pixel (i, j) of a plane, 0 outside."""
    return x[U(U(plane * U(ih) + U(i)) * U(iw) + U(j))] if 0 <= i < ih and 0 <= j < iw else zero


@lru_cache
def make_columns(dtype, run=CHANNELS):
    """Samples of `count` images from image `first` on."""
    locate, pixel, REAL, RUN = make_locate(dtype), corner, np.dtype(dtype).type, run

    @kernel(
        f"x:{dtype} offset:{dtype} mask:{dtype} taps:int32 columns:{dtype}",
        "n first z*9 modulated",
    )
    def deform_columns(x, offset, mask, taps, columns, n, first, z, modulated):
        """Thread: a (image, group, run of channels, tap, pixel), n in all."""
        channels, groups, count_taps, ih, iw, oh, ow, sh, sw = z
        i, step, pixels = U(cuda.grid(1)), U(cuda.gridsize(1)), U(oh * ow)
        per = U(U(channels) // U(groups))
        runs = U((per + U(RUN - 1)) // U(RUN))
        while i < U(n):
            rest = U(i // pixels)
            p, t, rest = U(i - rest * pixels), U(rest % U(count_taps)), U(rest // U(count_taps))
            run, rest = U(rest % runs), U(rest // runs)
            image, q = U(rest // U(groups)), U(rest % U(groups))
            row = U(U(U(first) + image) * U(groups) + q) * U(count_taps) + t
            down, right = reach(taps, t, p, ow, sh, sw)
            top, left, fh, fw = locate(offset, U(row), p, pixels, down, right, ih, iw)
            m = mask[U(row * pixels + p)] if modulated else REAL(1)
            w0, w1 = (REAL(1) - fh) * (REAL(1) - fw) * m, (REAL(1) - fh) * fw * m
            w2, w3 = fh * (REAL(1) - fw) * m, fh * fw * m
            c = U(q * per + run * U(RUN))
            last = U(min(S(c + U(RUN)), S(q * per + per)))
            while c < last:
                plane = U(U(U(first) + image) * U(channels) + c)
                value = w0 * pixel(x, plane, top, left, ih, iw, REAL(0))
                value += w1 * pixel(x, plane, top, left + 1, ih, iw, REAL(0))
                value += w2 * pixel(x, plane, top + 1, left, ih, iw, REAL(0))
                value += w3 * pixel(x, plane, top + 1, left + 1, ih, iw, REAL(0))
                columns[U(U(U(image * U(channels) + c) * U(count_taps) + t) * pixels + p)] = value
                c = U(c + U(1))
            i = U(i + step)

    return deform_columns


@helper
def scatter(gx, plane, i, j, ih, iw, value):
    """Add to the pixel (i, j) of a plane, if it is inside."""
    if 0 <= i < ih and 0 <= j < iw:
        cuda.atomic.add(gx, U(U(plane * U(ih) + U(i)) * U(iw) + U(j)), value)


@helper
def scatter_four(gx, plane, i, j, ih, iw, value, fh, fw, one):
    """A sample's gradient, added to its corners by atomic additions."""
    scatter(gx, plane, i, j, ih, iw, value * (one - fh) * (one - fw))
    scatter(gx, plane, i, j + 1, ih, iw, value * (one - fh) * fw)
    scatter(gx, plane, i + 1, j, ih, iw, value * fh * (one - fw))
    scatter(gx, plane, i + 1, j + 1, ih, iw, value * fh * fw)


@helper
def slopes(x, plane, i, j, ih, iw, fh, fw, zero, one):
    """The slopes of a sample along h and w, and the sample."""
    v0, v1 = corner(x, plane, i, j, ih, iw, zero), corner(x, plane, i, j + 1, ih, iw, zero)
    v2, v3 = corner(x, plane, i + 1, j, ih, iw, zero), corner(x, plane, i + 1, j + 1, ih, iw, zero)
    top, low = (one - fw) * v0 + fw * v1, (one - fw) * v2 + fw * v3
    along_h = (one - fw) * (v2 - v0) + fw * (v3 - v1)
    return along_h, (one - fh) * (v1 - v0) + fh * (v3 - v2), (one - fh) * top + fh * low


@helper
def add_lanes(s, lane, tx, zero):
    """The sum over lanes of a shared array (LANES, PIXELS) at pixel tx, in order."""
    total = zero
    for k in range(lane):
        total += s[k, tx]
    return total


@lru_cache
def make_adjoint(dtype, shape=(PIXELS, LANES)):
    """From the gradient of the columns those of image (added to gx by atomics), offsets and masks."""
    locate, slope, spread, add = make_locate(dtype), slopes, scatter_four, add_lanes
    PX, LN, REAL = *shape, np.dtype(dtype).type

    @kernel(
        f"x:{dtype} offset:{dtype} mask:{dtype} taps:int32 g:{dtype} gx:{dtype} goffset:{dtype} gmask:{dtype}",
        "first z*9 modulated",
        "want_x want_offset want_mask channel_step tap_step",
    )
    def deform_adjoint(
        x, offset, mask, taps, g, gx, goffset, gmask, first, z, modulated,
        want_x, want_offset, want_mask, channel_step, tap_step,
    ):  # fmt: skip
        """g[image, c, t]: plane c * channel_step + t * tap_step of images * channels * channel_step planes.

        Block: (image, group, tap, PX pixels), LN threads a pixel, each with every LN-th channel of the group.
        """
        channels, groups, count_taps, ih, iw, oh, ow, sh, sw = z
        s = cuda.shared.array((LN, PX), REAL)
        r = cuda.shared.array((LN, PX), REAL)
        k = cuda.shared.array((LN, PX), REAL)
        tx, ty, pixels = U(cuda.threadIdx.x), U(cuda.threadIdx.y), U(oh * ow)
        tiles, per = U((pixels + U(PX - 1)) // U(PX)), U(U(channels) // U(groups))
        rest = U(U(cuda.blockIdx.x) // tiles)
        p, t = U(U(U(cuda.blockIdx.x) - rest * tiles) * U(PX) + tx), U(rest % U(count_taps))
        rest = U(rest // U(count_taps))
        image, q = U(rest // U(groups)), U(rest % U(groups))
        row = U(U(U(U(first) + image) * U(groups) + q) * U(count_taps) + t)
        along_h, along_w, plain, m = REAL(0), REAL(0), REAL(0), REAL(1)
        if p < pixels:
            down, right = reach(taps, t, p, ow, sh, sw)
            top, left, fh, fw = locate(offset, row, p, pixels, down, right, ih, iw)
            m, c = mask[U(row * pixels + p)] if modulated else REAL(1), U(ty)
            while c < per:
                own = U(q * per + c)
                plane = U(U(U(first) + image) * U(channels) + own)
                at = U(U(image * U(channels) + own) * U(channel_step) + t * U(tap_step))
                gv = g[U(at * pixels + p)]
                if want_offset or want_mask:
                    dh, dw, value = slope(x, plane, top, left, ih, iw, fh, fw, REAL(0), REAL(1))
                    along_h += gv * dh
                    along_w += gv * dw
                    plain += gv * value
                if want_x:
                    spread(gx, plane, top, left, ih, iw, gv * m, fh, fw, REAL(1))
                c = U(c + U(LN))
        s[ty, tx] = along_h
        r[ty, tx] = along_w
        k[ty, tx] = plain
        cuda.syncthreads()
        if ty == 0 and p < pixels:
            if want_offset:
                goffset[U(U(row * U(2)) * pixels + p)] = m * add(s, LN, tx, REAL(0))
                goffset[U(U(row * U(2) + U(1)) * pixels + p)] = m * add(r, LN, tx, REAL(0))
            if want_mask:
                gmask[U(row * pixels + p)] = add(k, LN, tx, REAL(0))

    return deform_adjoint


@lru_cache
def make_aggregate(dtype):
    """y = the sum of the samples of each channel, weighted by the mask."""
    locate, pixel, REAL = make_locate(dtype), corner, np.dtype(dtype).type

    @kernel(
        f"x:{dtype} offset:{dtype} mask:{dtype} taps:int32 y:{dtype}",
        "n z*9",
    )
    def deform_aggregate(x, offset, mask, taps, y, n, z):
        """Thread: an output (image, channel, pixel), n in all."""
        channels, groups, count_taps, ih, iw, oh, ow, sh, sw = z
        i, step, pixels = U(cuda.grid(1)), U(cuda.gridsize(1)), U(oh * ow)
        per = U(U(channels) // U(groups))
        while i < U(n):
            plane = U(i // pixels)
            p, image = U(i - plane * pixels), U(plane // U(channels))
            q = U(U(plane - image * U(channels)) // per)
            total, t = REAL(0), U(0)
            while t < U(count_taps):
                row = U(U(image * U(groups) + q) * U(count_taps) + t)
                down, right = reach(taps, t, p, ow, sh, sw)
                top, left, fh, fw = locate(offset, row, p, pixels, down, right, ih, iw)
                a = (REAL(1) - fw) * pixel(x, plane, top, left, ih, iw, REAL(0))
                a += fw * pixel(x, plane, top, left + 1, ih, iw, REAL(0))
                b = (REAL(1) - fw) * pixel(x, plane, top + 1, left, ih, iw, REAL(0))
                b += fw * pixel(x, plane, top + 1, left + 1, ih, iw, REAL(0))
                total += mask[U(row * pixels + p)] * ((REAL(1) - fh) * a + fh * b)
                t = U(t + U(1))
            y[i] = total
            i = U(i + step)

    return deform_aggregate


def kernels(dtype):
    """For the test that compiles them."""
    yield make_columns(dtype)
    yield make_adjoint(dtype)
    yield make_aggregate(dtype)


# ---- the ops


@lru_cache(maxsize=256)
def _tap_table(taps):
    return upload(np.array(taps, np.int32).reshape(-1))


def _geometry(spec):
    return spec.ic, spec.og, len(spec.taps), spec.ih, spec.iw, spec.oh, spec.ow, spec.sh, spec.sw


def _is_empty(spec):
    return 0 in (spec.n, spec.ic, spec.pixels, spec.ih * spec.iw)


def _chunks(spec):
    """(first image, images) of as many as fit into MOST values of columns."""
    step = max(1, MOST // (spec.ic * len(spec.taps) * spec.pixels))
    return [(first, min(step, spec.n - first)) for first in range(0, spec.n, step)]


def _columns(spec, x, offset, mask, first, count):
    """(count, ic * taps, pixels)."""
    columns = empty((count, spec.ic * len(spec.taps), spec.pixels), spec.dtype)
    n = count * spec.og * -(-(spec.ic // spec.og) // CHANNELS) * len(spec.taps) * spec.pixels
    modulated, geometry = int(spec.modulated), _geometry(spec)
    arguments = x, offset, offset if mask is None else mask, _tap_table(spec.taps), columns, n, first, geometry
    launch(Row(make_columns(spec.dtype), blocks_for(n), THREADS, (*arguments, modulated)))
    return columns


def _product(spec, count):
    """The convolution of kernel size 1 that takes the columns of `count` images to outputs."""
    taps = len(spec.taps)
    shapes = (count, spec.ic * taps, spec.pixels), (spec.oc, spec.ic // spec.g * taps, 1)
    return conv_spec("deform_conv2d", 1, *shapes, None, 1, 0, 1, spec.g, spec.dtype)


def _adjoint(spec, x, offset, mask, g, steps, first, count, out):
    """Fill (goffset, gmask) and add to gx, the arrays in `out` or None, from the gradient of the columns."""
    gx, goffset, gmask = out
    wanted = [int(a is not None) for a in out]
    blocks = count * spec.og * len(spec.taps) * -(-spec.pixels // PIXELS)
    spare = offset
    arrays = [spare if a is None else a for a in (gx, goffset, gmask)]
    numbers = first, _geometry(spec), int(spec.modulated), *wanted, *steps
    arguments = x, offset, spare if mask is None else mask, _tap_table(spec.taps), g, *arrays, *numbers
    launch(Row(make_adjoint(spec.dtype), blocks, (PIXELS, LANES), arguments))


@counterpart("deform_conv.DeformConv")
class DeformConv(Rule):
    """A few images at a time: their columns, then the product with the weights."""

    twice = False

    @staticmethod
    def forward(ctx, x, offset, w, b, mask, spec):
        ctx.save(x, offset, w, mask)
        ctx.spec = spec
        y = empty((spec.n, spec.oc, spec.oh, spec.ow), spec.dtype)
        if _is_empty(spec) or not spec.oc:
            y[...] = 0 if b is None else b[:, None, None]
            return y
        x, offset, mask = (None if a is None else dense(a) for a in (x, offset, mask))
        for first, count in _chunks(spec):
            product, columns = _product(spec, count), _columns(spec, x, offset, mask, first, count)
            out = y[first : first + count].reshape(count, spec.oc, spec.pixels)
            run("conv.fwd", product, {"y": out}, x=columns, w=w.reshape(spec.oc, -1, 1), b=b)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, offset, w, mask = ctx.saved
        spec, needs, gw = ctx.spec, (ctx.needs[0], ctx.needs[1], ctx.needs[4]), None
        gb = gy.reshape(spec.n, spec.oc, spec.pixels).sum(2).sum(0) if ctx.needs[3] else None
        if _is_empty(spec) or not spec.oc:
            gx, goffset, gw, gmask = (None if a is None else np.zeros_like(a) for a in (x, offset, w, mask))
            return gx, goffset, gw, gb, gmask, None
        out = tuple(zeros(a.shape, a.dtype) if n else None for a, n in zip((x, offset, mask), needs, strict=True))
        x, offset, gy, mask = dense(x), dense(offset), dense(gy), None if mask is None else dense(mask)
        for first, count in _chunks(spec):
            product = _product(spec, count)
            part = gy[first : first + count].reshape(count, spec.oc, spec.pixels)
            if any(needs):
                g = empty((count, spec.ic * len(spec.taps), spec.pixels), spec.dtype)
                run("conv.bwd_data", product, {"gx": g}, w=w.reshape(spec.oc, -1, 1), gy=part)
                _adjoint(spec, x, offset, mask, g, (len(spec.taps), 1), first, count, out)
            if ctx.needs[2]:
                columns, g = _columns(spec, x, offset, mask, first, count), empty(product.w_shape, spec.dtype)
                run("conv.bwd_weights", product, {"gw": g}, x=columns, gy=part)
                gw = g if gw is None else gw + g
        gw = None if gw is None else gw.reshape(w.shape)
        return out[0], out[1], gw, gb, out[2], None


@counterpart("deform_conv.DeformAggregate")
class DeformAggregate(Rule):
    twice = False

    @staticmethod
    def forward(ctx, x, offset, mask, spec):
        ctx.save(x, offset, mask)
        ctx.spec = spec
        y = empty((spec.n, spec.ic, spec.oh, spec.ow), spec.dtype)
        if _is_empty(spec):
            y.fill(0)
            return y
        arguments = dense(x), dense(offset), dense(mask), _tap_table(spec.taps), y, y.size, _geometry(spec)
        launch(Row(make_aggregate(spec.dtype), blocks_for(y.size), THREADS, arguments))
        return y

    @staticmethod
    def backward(ctx, gy):
        spec, arrays = ctx.spec, ctx.saved
        out = tuple(zeros(a.shape, a.dtype) if n else None for a, n in zip(arrays, ctx.needs, strict=False))
        if not _is_empty(spec):
            x, offset, mask, g = map(dense, (*arrays, gy))
            _adjoint(spec, x, offset, mask, g, (1, 0), 0, spec.n, out)
        return *out, None
