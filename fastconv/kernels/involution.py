"""Involution: a kernel for every output pixel, shared by the channels of a group.

    y[n, c, i, j] = sum over taps t = (u, v) of k[n, g(c), t, i, j] x[n, c, i*sh + u*dh - ph, j*sw + v*dw - pw]

and its two gradients, which with it are a closed set: each is linear in both its operands.
"""

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from .._jit import Block, helper, tile_body
from .._registry import Impl, implements
from ..driver import Row
from ..simd import array_at, fields, lanes, load_vector, load_window
from ..simd_vector import fma_vector, splat_vector, store_window
from ..specs import ConvSpec
from .gathers import column_step

# edges: for each tap along w, the first output column that sees the image and the one after the last
InvolutionBlock = Block(
    "InvolutionBlock",
    {"x": None, "k": None, "y": None, "edges": "i8"},
    "channels groups ih iw oh ow kh kw sh sw ph pw dh dw",
)


@cache
def make_load(LANES):
    """Loads that are masked at the edges of a row only."""

    @helper
    def load_inside(x, xi, step, low, high, STEP):
        """x[xi + lane*step] for low <= lane < high, else 0."""
        if STEP == 1 and low <= 0 and high >= LANES:
            return load_vector(x, xi)
        return load_window(x, xi, step, low, high, STEP)

    return load_inside


@cache
def make_gather(dtype, STEP, BACK):
    """The forward pass (writes y), or with BACK the input gradient for stride 1 (writes x): the same sum, turned
    round.
    """
    KIND, LANES, ZERO = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type(0)
    load_inside = make_load(LANES)

    @helper
    def row_sum(a, edges, source, k, kernel, p0, p1, p2, p3, i, j):
        """LANES results from pixel (i, j) on, of four channels that begin at source[p0], ... and share a kernel."""
        acc0 = splat_vector(source, ZERO)
        acc1, acc2, acc3, pixels = acc0, acc0, acc0, a.oh * a.ow
        for u in range(a.kh):
            row = i + a.ph - u * a.dh if BACK else i * a.sh + u * a.dh - a.ph
            if 0 <= row < (a.oh if BACK else a.ih):
                for v in range(a.kw):
                    at = kernel + (u * a.kw + v) * pixels
                    if BACK:
                        column = j + a.pw - v * a.dw
                        low, high, place = -column, a.ow - column, row * a.ow + column
                        weight = load_inside(k, at + place, 1, low, high, 1)
                    else:
                        low, high = edges[2 * v] - j, edges[2 * v + 1] - j
                        place = row * a.iw + j * a.sw + v * a.dw - a.pw
                        weight = load_inside(k, at + i * a.ow + j, 1, low, high, 1)
                    acc0 = fma_vector(load_inside(source, p0 + place, a.sw, low, high, STEP), weight, acc0)
                    acc1 = fma_vector(load_inside(source, p1 + place, a.sw, low, high, STEP), weight, acc1)
                    acc2 = fma_vector(load_inside(source, p2 + place, a.sw, low, high, STEP), weight, acc2)
                    acc3 = fma_vector(load_inside(source, p3 + place, a.sw, low, high, STEP), weight, acc3)
        return acc0, acc1, acc2, acc3

    @tile_body(InvolutionBlock, dtype)
    def involution_gather_rows(block, tile, worker):
        """Tile: (image, group, four of its channels); where fewer are left the last one is computed again."""
        a = fields(block)
        x, k, y = array_at(a.x, a.x_size, KIND), array_at(a.k, a.k_size, KIND), array_at(a.y, a.y_size, KIND)
        edges = array_at(a.edges, a.edges_size, "i8")
        members, pixels, inputs = a.channels // a.groups, a.oh * a.ow, a.ih * a.iw
        quads = (members + 3) // 4
        image_group, q = tile // quads, tile % quads * 4
        c0, last = image_group * members + q, image_group * members + members - 1
        c1, c2, c3 = min(c0 + 1, last), min(c0 + 2, last), min(c0 + 3, last)
        kernel = image_group * a.kh * a.kw * pixels
        if BACK:
            source, target, step, size, h, w = y, x, pixels, inputs, a.ih, a.iw
        else:
            source, target, step, size, h, w = x, y, inputs, pixels, a.oh, a.ow
        for i in range(h):
            for j in range(0, w, LANES):
                v0, v1, v2, v3 = row_sum(a, edges, source, k, kernel, c0 * step, c1 * step, c2 * step, c3 * step, i, j)
                out, left = i * w + j, w - j
                store_window(v0, target, c0 * size + out, left)
                store_window(v1, target, c1 * size + out, left)
                store_window(v2, target, c2 * size + out, left)
                store_window(v3, target, c3 * size + out, left)

    return involution_gather_rows


@cache
def make_kernel_gradient(dtype, STEP):
    KIND, LANES, ZERO = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type(0)
    load_inside = make_load(LANES)

    @helper
    def tap_sums(a, edges, x, y, first, end, row, i, j, t0, t1, t2, t3):
        """LANES gradients from pixel (i, j) on, of four taps of a row; sums over channels first <= c < end."""
        acc0 = splat_vector(x, ZERO)
        acc1, acc2, acc3 = acc0, acc0, acc0
        if 0 <= row < a.ih:
            for c in range(first, end):
                weight = load_inside(y, (c * a.oh + i) * a.ow + j, 1, 0, a.ow - j, 1)
                p = (c * a.ih + row) * a.iw + j * a.sw - a.pw
                low, high = edges[2 * t0] - j, edges[2 * t0 + 1] - j
                acc0 = fma_vector(load_inside(x, p + t0 * a.dw, a.sw, low, high, STEP), weight, acc0)
                low, high = edges[2 * t1] - j, edges[2 * t1 + 1] - j
                acc1 = fma_vector(load_inside(x, p + t1 * a.dw, a.sw, low, high, STEP), weight, acc1)
                low, high = edges[2 * t2] - j, edges[2 * t2 + 1] - j
                acc2 = fma_vector(load_inside(x, p + t2 * a.dw, a.sw, low, high, STEP), weight, acc2)
                low, high = edges[2 * t3] - j, edges[2 * t3 + 1] - j
                acc3 = fma_vector(load_inside(x, p + t3 * a.dw, a.sw, low, high, STEP), weight, acc3)
        return acc0, acc1, acc2, acc3

    @tile_body(InvolutionBlock, dtype)
    def involution_bwd_kernel_rows(block, tile, worker):
        """k[n, g, t, p] = sum over the channels of the group of y[c, p] x[c, source of p].

        Tile: (image, group, row of taps), four taps at a time; where fewer are left the last one is computed again.
        """
        a = fields(block)
        x, k, y = array_at(a.x, a.x_size, KIND), array_at(a.k, a.k_size, KIND), array_at(a.y, a.y_size, KIND)
        edges = array_at(a.edges, a.edges_size, "i8")
        u, image_group, members, pixels = tile % a.kh, tile // a.kh, a.channels // a.groups, a.oh * a.ow
        first = image_group * members
        for t0 in range(0, a.kw, 4):
            t1, t2, t3 = min(t0 + 1, a.kw - 1), min(t0 + 2, a.kw - 1), min(t0 + 3, a.kw - 1)
            for i in range(a.oh):
                row = i * a.sh + u * a.dh - a.ph
                for j in range(0, a.ow, LANES):
                    v0, v1, v2, v3 = tap_sums(a, edges, x, y, first, first + members, row, i, j, t0, t1, t2, t3)
                    out, left = tile * a.kw * pixels + i * a.ow + j, a.ow - j
                    store_window(v0, k, out + t0 * pixels, left)
                    store_window(v1, k, out + t1 * pixels, left)
                    store_window(v2, k, out + t2 * pixels, left)
                    store_window(v3, k, out + t3 * pixels, left)

    return involution_bwd_kernel_rows


@cache
def make_scatter(dtype):
    """The input gradient for any stride."""
    KIND, ZERO = np.dtype(dtype).str[1:], np.dtype(dtype).type(0)

    @tile_body(InvolutionBlock, dtype)
    def involution_scatter_rows(block, tile, worker):
        """x[source of p] = sum over taps and pixels p of k[t, p] y[p].  Tile: (image, channel)."""
        a = fields(block)
        x, k, y = array_at(a.x, a.x_size, KIND), array_at(a.k, a.k_size, KIND), array_at(a.y, a.y_size, KIND)
        edges = array_at(a.edges, a.edges_size, "i8")
        image, c = tile // a.channels, tile % a.channels
        pixels = a.oh * a.ow
        kernel = (image * a.groups + c * a.groups // a.channels) * a.kh * a.kw * pixels
        x[tile * a.ih * a.iw : (tile + 1) * a.ih * a.iw] = ZERO
        for u in range(a.kh):
            for i in range(a.oh):
                row = i * a.sh + u * a.dh - a.ph
                if 0 <= row < a.ih:
                    for v in range(a.kw):
                        target = (tile * a.ih + row) * a.iw + v * a.dw - a.pw
                        at, gradient = kernel + (u * a.kw + v) * pixels + i * a.ow, tile * pixels + i * a.ow
                        for j in range(edges[2 * v], edges[2 * v + 1]):
                            x[target + j * a.sw] += k[at + j] * y[gradient + j]

    return involution_scatter_rows


# ---- programs

_NUMBERS = ("ih", "iw", "oh", "ow", "kh", "kw", "sh", "sw", "ph", "pw", "dh", "dw")


@lru_cache(maxsize=256)
def _edges(spec):
    edges = []
    for v in range(spec.kw):
        offset = v * spec.dw - spec.pw
        end = min(max(-(-(spec.iw - offset) // spec.sw), 0), spec.ow)
        edges.append((min(max(-(offset // spec.sw), 0), end), end))
    return np.array(edges, np.int64).ravel()


@dataclass(frozen=True)
class InvolutionSpec:
    """A depthwise convolution's geometry, and the groups of channels that share a kernel."""

    conv: ConvSpec
    groups: int

    def for_one_image(self):
        return replace(self, conv=self.conv.for_one_image())


class _Involution(Impl):
    """Buffers x, k, y: the one that the operation computes is written."""

    @staticmethod
    def cost(spec):
        return spec.conv.flops() / 20

    @staticmethod
    def body(spec):
        """(body, tiles)."""
        raise NotImplementedError

    @classmethod
    def emit(cls, spec, buffers):
        body, tiles = cls.body(spec)
        numbers = {name: getattr(spec.conv, name) for name in _NUMBERS}
        numbers |= {"channels": spec.conv.ic, "groups": spec.groups}
        return (Row(body, tiles, {**buffers, "edges": _edges(spec.conv), **numbers}, cls.cost(spec)),)


def _quads(spec):
    """Tiles of four channels that share a kernel."""
    return spec.conv.n * spec.groups * -(-(spec.conv.ic // spec.groups) // 4)


@implements("involution.fwd", rank=90)
class InvolutionForward(_Involution):
    name = "involution_fwd_gather"

    @staticmethod
    def body(spec):
        return make_gather(spec.conv.dtype, column_step(spec.conv.sw), False), _quads(spec)


@implements("involution.bwd_kernel", rank=90)
class InvolutionBackwardKernel(_Involution):
    name = "involution_bwd_kernel_gather"

    @staticmethod
    def body(spec):
        conv = spec.conv
        return make_kernel_gradient(conv.dtype, column_step(conv.sw)), conv.n * spec.groups * conv.kh


@implements("involution.bwd_data", rank=50)
class InvolutionBackwardDataGather(_Involution):
    name = "involution_bwd_data_gather"

    @staticmethod
    def when(spec):
        return None if (spec.conv.sh, spec.conv.sw) == (1, 1) else "needs stride 1"

    @staticmethod
    def body(spec):
        return make_gather(spec.conv.dtype, 1, True), _quads(spec)


@implements("involution.bwd_data", rank=90)
class InvolutionBackwardDataScatter(_Involution):
    """Measured five times slower than the gather where both apply."""

    name = "involution_bwd_data_scatter"

    @staticmethod
    def cost(spec):
        return spec.conv.flops() / 4

    @staticmethod
    def body(spec):
        return make_scatter(spec.conv.dtype), spec.conv.n * spec.conv.ic
