"""Convolution, its two gradients and transposed convolution: implementations, and counterparts of the ops."""

from ..._device import Rule
from ..._registry import Impl, implements
from . import conv_direct, conv_gemm, conv_weights
from .array import empty
from .launch import counterpart, output, run

LAUNCH = 5000.0  # nanoseconds
NARROW = 8  # at most so many products a tap and output in direct loops
UNROLLED = 81  # at most so many taps are unrolled


def _time(operations, rate):
    """Nanoseconds of a device of middling size at so many operations each."""
    return LAUNCH + operations / rate


class _Gemm(Impl):
    """The implicit matrix product: any convolution that has outputs."""

    @staticmethod
    def when(spec):
        return None

    @staticmethod
    def cost(spec):
        """Products of whole tiles of 32 rows and 8 channels, half of the peak."""
        rows, channels = -(-spec.ocg // 32) * 32, -(-spec.icg * spec.taps // 8) * 8
        return LAUNCH + _time(2 * spec.n * spec.g * spec.out_pixels * rows * channels, 5000.0)


class _Direct(Impl):
    """A thread for each result."""

    @staticmethod
    def when(spec):
        if spec.taps > UNROLLED:
            return f"needs at most {UNROLLED} taps"
        return None if max(spec.icg, spec.ocg) <= NARROW else f"needs at most {NARROW} channels in a group"

    @staticmethod
    def cost(spec):
        """Products without tiles: two loads each, most from the cache."""
        return _time(2 * spec.n * spec.oc * spec.out_pixels * spec.icg * spec.taps, 500.0)


@implements("conv.fwd", rank=1, device="cuda")
class ForwardDirect(_Direct):
    name = "cuda_conv_fwd_direct"

    @staticmethod
    def emit(spec, buffers):
        return conv_direct.forward_rows(spec, *(buffers.get(name) for name in "xwby"))


@implements("conv.fwd", rank=2, device="cuda")
class ForwardGemm(_Gemm):
    name = "cuda_conv_fwd_implicit_gemm"

    @staticmethod
    def emit(spec, buffers):
        return conv_gemm.forward_rows(spec, *(buffers.get(name) for name in "xwby"))


@implements("conv.bwd_data", rank=1, device="cuda")
class DataDirect(_Direct):
    name = "cuda_conv_bwd_data_direct"

    @staticmethod
    def emit(spec, buffers):
        return conv_direct.data_rows(spec, buffers["gy"], buffers["w"], buffers["gx"], buffers.get("b"))


@implements("conv.bwd_data", rank=2, device="cuda")
class DataGemm(_Gemm):
    name = "cuda_conv_bwd_data_implicit_gemm"

    @staticmethod
    def emit(spec, buffers):
        return conv_gemm.data_rows(spec, buffers["gy"], buffers["w"], buffers["gx"], buffers.get("b"))


@implements("conv.bwd_weights", rank=1, device="cuda")
class WeightsDirect(_Direct):
    name = "cuda_conv_bwd_weights_direct"

    @staticmethod
    def emit(spec, buffers):
        return conv_direct.weight_rows(spec, *(buffers[name] for name in ("x", "gy", "gw")))


@implements("conv.bwd_weights", rank=2, device="cuda")
class WeightsGemm(_Gemm):
    name = "cuda_conv_bwd_weights_implicit_gemm"

    @staticmethod
    def emit(spec, buffers):
        return conv_weights.weight_rows(spec, *(buffers[name] for name in ("x", "gy", "gw")))


@counterpart("conv.Conv")
class Conv(Rule):
    """y from (x, w, b or None)."""

    @staticmethod
    def forward(ctx, x, w, b, spec, packed=None):
        ctx.save(x, w)
        ctx.spec = spec
        y = output(spec.y_shape, spec, x)
        run("conv.fwd", spec, {"y": y}, x=x, w=w, b=b)
        return y


@counterpart("conv.ConvBackwardData")
class ConvBackwardData(Rule):
    """gx from (gy, w)."""

    @staticmethod
    def forward(ctx, gy, w, spec):
        ctx.save(gy, w)
        ctx.spec = spec
        gx = output(spec.x_shape, spec, gy)
        run("conv.bwd_data", spec, {"gx": gx}, gy=gy, w=w)
        return gx


@counterpart("conv.ConvBackwardWeights")
class ConvBackwardWeights(Rule):
    """gw from (x, gy)."""

    @staticmethod
    def forward(ctx, x, gy, spec):
        ctx.save(x, gy)
        ctx.spec = spec
        gw = empty(spec.w_shape, spec.dtype)
        run("conv.bwd_weights", spec, {"gw": gw}, x=x, gy=gy)
        return gw


@counterpart("conv_transpose.ConvTranspose")
class ConvTranspose(Rule):
    """y from (x, w, b or None); spec: the mirrored convolution, whose output has the shape of x."""

    @staticmethod
    def forward(ctx, x, w, b, spec, packed=None):
        ctx.save(x, w)
        ctx.spec = spec
        y = output(spec.x_shape, spec, x)
        run("conv.bwd_data", spec, {"gx": y}, gy=x, w=w, b=b)
        return y
