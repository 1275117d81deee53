"""Involution: a kernel for every output pixel, shared by the channels of a group.

    y[n, c, i, j] = sum over taps t = (u, v) of k[n, g(c), t, i, j] x[n, c, i*sh + u*dh - ph, j*sw + v*dw - pw]

and its two gradients, which with it are a closed set: each is linear in both its operands.
"""

from functools import cache, lru_cache

import numpy as np

from .._jit import Block, tile_body
from ..driver import Row
from ..simd import array_at, fields, lanes, load_window
from ..simd_vector import fma_vector, splat_vector, store_window
from .gathers import column_step

# edges: for each tap along w, the first output column that sees the image and the one after the last
InvolutionBlock = Block(
    "InvolutionBlock",
    {"x": None, "k": None, "y": None, "edges": "i8"},
    "channels groups ih iw oh ow kh kw sh sw ph pw dh dw",
)


@cache
def make_forward(dtype, STEP):
    KIND, LANES, ZERO = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type(0)

    @tile_body(InvolutionBlock, dtype)
    def involution_fwd_rows(block, tile, worker):
        """Tile: (image, channel)."""
        a = fields(block)
        x, k, y = array_at(a.x, a.x_size, KIND), array_at(a.k, a.k_size, KIND), array_at(a.y, a.y_size, KIND)
        edges = array_at(a.edges, a.edges_size, "i8")
        image, c = tile // a.channels, tile % a.channels
        pixels = a.oh * a.ow
        kernel = (image * a.groups + c * a.groups // a.channels) * a.kh * a.kw * pixels
        for i in range(a.oh):
            for j in range(0, a.ow, LANES):
                acc = splat_vector(x, ZERO)
                for u in range(a.kh):
                    row = i * a.sh + u * a.dh - a.ph
                    if 0 <= row < a.ih:
                        source = (tile * a.ih + row) * a.iw + j * a.sw - a.pw
                        at = kernel + u * a.kw * pixels + i * a.ow + j
                        for v in range(a.kw):
                            low, high = edges[2 * v] - j, edges[2 * v + 1] - j
                            value = load_window(x, source + v * a.dw, a.sw, low, high, STEP)
                            acc = fma_vector(load_window(k, at + v * pixels, 1, low, high, 1), value, acc)
                store_window(acc, y, tile * pixels + i * a.ow + j, a.ow - j)

    return involution_fwd_rows


@cache
def make_kernel_gradient(dtype, STEP):
    KIND, LANES, ZERO = np.dtype(dtype).str[1:], lanes(dtype), np.dtype(dtype).type(0)

    @tile_body(InvolutionBlock, dtype)
    def involution_bwd_kernel_rows(block, tile, worker):
        """k[n, g, t, p] = sum over the channels of the group of y[c, p] x[c, source of p].  Tile: (image, group,
        tap).
        """
        a = fields(block)
        x, k, y = array_at(a.x, a.x_size, KIND), array_at(a.k, a.k_size, KIND), array_at(a.y, a.y_size, KIND)
        edges = array_at(a.edges, a.edges_size, "i8")
        tap, image_group = tile % (a.kh * a.kw), tile // (a.kh * a.kw)
        u, v, members, pixels = tap // a.kw, tap % a.kw, a.channels // a.groups, a.oh * a.ow
        for i in range(a.oh):
            row = i * a.sh + u * a.dh - a.ph
            for j in range(0, a.ow, LANES):
                acc = splat_vector(x, ZERO)
                if 0 <= row < a.ih:
                    low, high = edges[2 * v] - j, edges[2 * v + 1] - j
                    for c in range(image_group * members, (image_group + 1) * members):
                        source = (c * a.ih + row) * a.iw + j * a.sw - a.pw + v * a.dw
                        value = load_window(x, source, a.sw, low, high, STEP)
                        acc = fma_vector(load_window(y, c * pixels + i * a.ow + j, 1, low, high, 1), value, acc)
                store_window(acc, k, tile * pixels + i * a.ow + j, a.ow - j)

    return involution_bwd_kernel_rows


@cache
def make_data_gradient(dtype):
    KIND, ZERO = np.dtype(dtype).str[1:], np.dtype(dtype).type(0)

    @tile_body(InvolutionBlock, dtype)
    def involution_bwd_data_rows(block, tile, worker):
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

    return involution_bwd_data_rows


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


def involution_row(which, spec, groups, x, k, y):
    """The row of one pass: `which` of "fwd", "bwd_kernel", "bwd_data" writes y, k or x; spec is a depthwise
    ConvSpec.
    """
    dtype, step = spec.dtype, column_step(spec.sw)
    body, tiles = {
        "fwd": lambda: (make_forward(dtype, step), spec.n * spec.ic),
        "bwd_kernel": lambda: (make_kernel_gradient(dtype, step), spec.n * groups * spec.taps),
        "bwd_data": lambda: (make_data_gradient(dtype), spec.n * spec.ic),
    }[which]()
    numbers = {name: getattr(spec, name) for name in _NUMBERS} | {"channels": spec.ic, "groups": groups}
    return Row(body, tiles, {"x": x, "k": k, "y": y, "edges": _edges(spec), **numbers}, spec.flops() / 20)
