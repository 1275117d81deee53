"""Pointwise convolution of small maps: the images of a batch are laid side by side, as one image of n * pixels pixels.

A 3x3 map leaves 7 of 16 lanes idle, and every image brings all weights to the registers again.  In a batch the copies
there and back cost a tenth of the product, which then runs as on a large image: 25 to 55 -> 80 to 100 GFLOP/s at 3x3
pixels, 40 to 70 -> 85 to 105 at 6x6.
"""

from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from .._jit import Block, tile_body
from .._registry import Impl, implements
from ..driver import Row, Temporary
from ..simd import array_at, fields, lanes, load_vector, load_window, store_vector
from ..simd_vector import store_window
from . import direct_weights, implicit_gemm, pointwise
from .gathers import split

MergeBlock = Block("MergeBlock", "x y", "n channels pixels x_image x_channel y_image y_channel part")


@cache
def make_merge(dtype):
    KIND, LANES = np.dtype(dtype).str[1:], lanes(dtype)

    @tile_body(MergeBlock, dtype)
    def conv_merge(block, tile, worker):
        """The rows of `pixels` values at image * x_image + channel * x_channel, copied to where y_* say.  Tile: `part`
        channels."""
        a = fields(block)
        x, y = array_at(a.x, a.x_size, KIND), array_at(a.y, a.y_size, KIND)
        whole, rest = a.pixels // LANES * LANES, a.pixels % LANES
        for channel in range(tile * a.part, min((tile + 1) * a.part, a.channels)):
            xi, yi = channel * a.x_channel, channel * a.y_channel
            for _ in range(a.n):
                for i in range(0, whole, LANES):
                    store_vector(load_vector(x, xi + i), y, yi + i)
                if rest:
                    store_window(load_window(x, xi + whole, 1, 0, rest, 1), y, yi + whole, rest)
                xi, yi = xi + a.x_image, yi + a.y_image

    return conv_merge


# ---- programs

MOST_PIXELS = 128  # of a map; the product does well on larger ones as they lie
RUN_NANOSECONDS = 1.4  # to copy a row of one vector
TILE_NANOSECONDS = 5000


@lru_cache(maxsize=1024)
def merged_spec(spec):
    """The same convolution of one wide image."""
    pixels = spec.n * spec.out_pixels
    return replace(spec, n=1, id=1, ih=1, iw=pixels, od=1, oh=1, ow=pixels)


def _copy_work(spec, channels):
    return channels * spec.n * RUN_NANOSECONDS * split(spec.out_pixels, lanes(spec.dtype))


def _copy(spec, channels, x, y, back):
    """The row that merges the images of x in y, or, `back`, parts them again."""
    pixels, work = spec.out_pixels, _copy_work(spec, channels)
    apart, together = (channels * pixels, pixels), (pixels, spec.n * pixels)
    (x_image, x_channel), (y_image, y_channel) = (together, apart) if back else (apart, together)
    part = max(1, min(channels, int(TILE_NANOSECONDS * channels / work)))
    numbers = {
        **{"n": spec.n, "channels": channels, "pixels": pixels, "part": part},
        **{"x_image": x_image, "x_channel": x_channel, "y_image": y_image, "y_channel": y_channel},
    }
    names = tuple(name for name, array in (("x", x), ("y", y)) if isinstance(array, Temporary))
    return Row(make_merge(spec.dtype), split(channels, part), {"x": x, "y": y, **numbers}, work, 0, names)


def _merged(spec, channels):
    return Temporary(channels * spec.n * spec.out_pixels, spec.dtype)


def _through(impl, spec, buffers):
    """The rows of an implementation on merged images, some of its buffers being temporaries."""
    for row in impl.emit(merged_spec(spec), buffers):
        yield row._replace(temporaries=tuple(n for n, v in row.values.items() if isinstance(v, Temporary)))


def _refusal(spec):
    if max(spec.sd, spec.sh, spec.sw) > 1:
        return "needs stride 1"
    refusal = pointwise.ConvForward.when(spec)
    if refusal:
        return refusal
    if spec.g > 1:
        return f"needs one group, has {spec.g}"
    if spec.n < 2:
        return f"needs several images, has {spec.n}"
    if not 0 < spec.out_pixels <= MOST_PIXELS:
        return f"needs maps of at most {MOST_PIXELS} pixels, has {spec.out_pixels}"
    return None


def _cost(impl, spec):
    return impl.cost(merged_spec(spec)) + _copy_work(spec, spec.ic + spec.oc)


@implements("conv.fwd", rank=34)
class ConvForward(Impl):
    name = "conv_fwd_merged"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(pointwise.ConvForward, spec)

    @staticmethod
    def pack(spec, weight):
        return pointwise.ConvForward.pack(merged_spec(spec), weight)

    @staticmethod
    def emit(spec, buffers):
        x, y = _merged(spec, spec.ic), _merged(spec, spec.oc)
        product = _through(pointwise.ConvForward, spec, {**buffers, "x": x, "y": y})
        return _copy(spec, spec.ic, buffers["x"], x, False), *product, _copy(spec, spec.oc, y, buffers["y"], True)


@implements("conv.bwd_data", rank=34)
class ConvBackwardData(Impl):
    name = "conv_bwd_data_merged"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(pointwise.ConvBackwardData, spec)

    @staticmethod
    def emit(spec, buffers):
        gy, gx = _merged(spec, spec.oc), _merged(spec, spec.ic)
        product = _through(pointwise.ConvBackwardData, spec, {**buffers, "gy": gy, "gx": gx})
        return _copy(spec, spec.oc, buffers["gy"], gy, False), *product, _copy(spec, spec.ic, gx, buffers["gx"], True)


def _weights_product(spec):
    """The implementation of least cost on merged images."""
    known = direct_weights.ConvBackwardWeights, implicit_gemm.ConvBackwardWeights
    merged = merged_spec(spec)
    return min((impl for impl in known if impl.when(merged) is None), key=lambda impl: impl.cost(merged))


@implements("conv.bwd_weights", rank=34)
class ConvBackwardWeights(Impl):
    name = "conv_bwd_weights_merged"

    @staticmethod
    def when(spec):
        return _refusal(spec)

    @staticmethod
    def cost(spec):
        return _cost(_weights_product(spec), spec)

    @staticmethod
    def emit(spec, buffers):
        x, gy = _merged(spec, spec.ic), _merged(spec, spec.oc)
        product = _through(_weights_product(spec), spec, {**buffers, "x": x, "gy": gy})
        copies = _copy(spec, spec.ic, buffers["x"], x, False), _copy(spec, spec.oc, buffers["gy"], gy, False)
        return *copies, *product
