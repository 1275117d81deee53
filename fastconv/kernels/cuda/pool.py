"""Maximum and average pooling on the device, plain and adaptive: implementations in the registry, and the ops."""

import numpy as np

from ..._device import Rule
from ..._registry import Impl, implements
from . import pool_kernels as made
from .array import empty
from .gpu import SIMULATED, THREADS, blocks_for
from .launch import Row, counterpart, output, run

FEW, MANY = (2, 4) if SIMULATED else (32, 256)  # threads of a block with a plane
LARGE = 8 if SIMULATED else 256  # pixels from which a plane has MANY


# ---- implementations


def _axes(spec):
    """The numbers of the three axes; adaptive windows have only sizes."""
    sizes = (spec.id, spec.od), (spec.ih, spec.oh), (spec.iw, spec.ow)
    if spec.prefix:
        return tuple((size, out, 0, 1, 0, 1) for size, out in sizes)
    windows = (
        (spec.kd, spec.sd, spec.pd, spec.dd),
        (spec.kh, spec.sh, spec.ph, spec.dh),
        (spec.kw, spec.sw, spec.pw, spec.dw),
    )
    return tuple((*size, *window) for size, window in zip(sizes, windows, strict=True))


def _average(spec):
    """(padded, divisor) of an average."""
    return (0, 0) if spec.prefix else (int(spec.count_include_pad), spec.divisor)


def _over_all(spec):
    """None if each plane has one window that covers exactly the image."""
    covers = spec.out_pixels == 1 if spec.prefix else spec.covers_all
    return None if covers else "needs one window over the whole image"


def _plane_threads(spec):
    return MANY if spec.in_pixels >= LARGE else FEW


class Pool(Impl):
    """Implementations of the device cost nothing: the first in rank that accepts is taken."""

    @staticmethod
    def cost(spec):
        return 0.0

    @staticmethod
    def row(kernel, n, *arguments):
        return (Row(kernel, blocks_for(n), THREADS, arguments),)


class MaxForward(Pool):
    name = "max_pool_fwd_outputs"

    @staticmethod
    def emit(spec, buffers):
        x, y = buffers["x"], buffers["y"]
        kernel = made.make_max_pool(bool(spec.prefix), spec.indices, spec.dtype)
        return Pool.row(kernel, y.size, x, y, buffers["at"] if spec.indices else y, y.size, *_axes(spec))


class MaxForwardOverAll(Pool):
    name = "max_pool_fwd_planes"

    @staticmethod
    def when(spec):
        return _over_all(spec)

    @staticmethod
    def emit(spec, buffers):
        x, y, threads = buffers["x"], buffers["y"], _plane_threads(spec)
        kernel = made.make_global_max(threads, spec.indices, spec.dtype)
        return (Row(kernel, spec.planes, threads, (x, y, buffers["at"] if spec.indices else y, spec.in_pixels)),)


class MaxBackward(Pool):
    name = "max_pool_bwd_pixels"

    @staticmethod
    def emit(spec, buffers):
        gx = buffers["gx"]
        kernel = made.make_max_pool_gradient(bool(spec.prefix), spec.dtype)
        return Pool.row(kernel, gx.size, buffers["gy"], buffers["at"], gx, gx.size, *_axes(spec))


class MaxGather(Pool):
    name = "max_pool_gather_outputs"

    @staticmethod
    def emit(spec, buffers):
        y = buffers["y"]
        arguments = buffers["x"], buffers["at"], y, y.size, spec.in_pixels, spec.out_pixels
        return Pool.row(made.make_max_pool_gather(spec.dtype), y.size, *arguments)


class AverageForward(Pool):
    name = "avg_pool_fwd_outputs"

    @staticmethod
    def emit(spec, buffers):
        y = buffers["y"]
        kernel = made.make_average_pool(bool(spec.prefix), spec.dtype)
        return Pool.row(kernel, y.size, buffers["x"], y, y.size, *_average(spec), *_axes(spec))


class AverageForwardOverAll(Pool):
    name = "avg_pool_fwd_planes"

    @staticmethod
    def when(spec):
        return _over_all(spec)

    @staticmethod
    def emit(spec, buffers):
        threads, (_, divisor) = _plane_threads(spec), _average(spec)
        kernel = made.make_global_average(threads, spec.dtype)
        arguments = buffers["x"], buffers["y"], spec.in_pixels, float(divisor or spec.in_pixels)
        return (Row(kernel, spec.planes, threads, arguments),)


class AverageBackward(Pool):
    name = "avg_pool_bwd_pixels"

    @staticmethod
    def emit(spec, buffers):
        gx = buffers["gx"]
        kernel = made.make_average_pool_gradient(bool(spec.prefix), spec.dtype)
        return Pool.row(kernel, gx.size, buffers["gy"], gx, gx.size, *_average(spec), *_axes(spec))


_TABLE = {
    "max_pool.fwd": (MaxForwardOverAll, MaxForward),
    "max_pool.bwd": (MaxBackward,),
    "max_pool.gather": (MaxGather,),
    "avg_pool.fwd": (AverageForwardOverAll, AverageForward),
    "avg_pool.bwd": (AverageBackward,),
}
for _operation, _impls in _TABLE.items():
    for _rank, _impl in enumerate(_impls):
        for _prefix in ("", "adaptive_"):
            _own = type(_impl.__name__, (_impl,), {"name": f"cuda_{_prefix}{_impl.name}", "__doc__": _impl.__doc__})
            implements(_prefix + _operation, rank=10 * _rank + 10, device="cuda")(_own)


# ---- the ops


def _run(operation, spec, out, **inputs):
    run(spec.prefix + operation, spec, out, **inputs)


@counterpart("pool.MaxPool")
class MaxPool(Rule):
    @staticmethod
    def forward(ctx, x, spec, return_indices):
        y = output(spec.y_shape, spec, x)
        if not (return_indices or ctx.needs[0]):
            _run("max_pool.fwd", spec, {"y": y}, x=x)
            return y
        ctx.spec = spec = spec.with_indices
        at = empty(y.shape, np.int64)
        _run("max_pool.fwd", spec, {"y": y, "at": at}, x=x)
        ctx.save(at)
        return (y, at) if return_indices else y


@counterpart("pool.MaxPoolBackward")
class MaxPoolBackward(Rule):
    @staticmethod
    def forward(ctx, gy, at, spec):
        ctx.spec = spec
        ctx.save(at)
        gx = output(spec.x_shape, spec, gy)
        _run("max_pool.bwd", spec, {"gx": gx}, gy=gy, at=at)
        return gx


@counterpart("pool.MaxPoolGather")
class MaxPoolGather(Rule):
    @staticmethod
    def forward(ctx, x, at, spec):
        ctx.spec = spec
        ctx.save(at)
        y = output(spec.y_shape, spec, x)
        _run("max_pool.gather", spec, {"y": y}, x=x, at=at)
        return y


@counterpart("pool.AvgPool")
class AvgPool(Rule):
    @staticmethod
    def forward(ctx, x, spec):
        ctx.spec = spec
        y = output(spec.y_shape, spec, x)
        _run("avg_pool.fwd", spec, {"y": y}, x=x)
        return y


@counterpart("pool.AvgPoolBackward")
class AvgPoolBackward(Rule):
    @staticmethod
    def forward(ctx, gy, spec):
        ctx.spec = spec
        gx = output(spec.x_shape, spec, gy)
        _run("avg_pool.bwd", spec, {"gx": gx}, gy=gy)
        return gx
