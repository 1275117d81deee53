"""Cross entropy and its kin on the device: logits x (n, classes, length), targets (n, length) of int64.

With q = (1 - s) w_t onehot(t) + s/C w the loss of one position is -sum(q log softmax(x)), and its gradient
softmax(x) sum(q) - q; see `ops/loss.py`.  Positions whose target is `ignored` have q = 0.
"""

from functools import lru_cache

import numpy as np

from ..._device import Rule
from .array import empty
from .elementwise import exp
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch
from .norm_rows import softmax_into
from .shaping import dense

U = np.uint32
BLOCK = 4 if SIMULATED else 256
PARTS = 2 if SIMULATED else 256  # blocks that add losses at most


@lru_cache
def make_losses(dtype):
    """The loss of each position, and the weight with which it counts in a mean."""
    REAL = np.dtype(dtype).type

    @kernel(
        f"logs:{dtype} target:int64 weight:{dtype} loss:{dtype} counted:{dtype}",
        f"positions classes length ignored=int64 has_weight smoothing={dtype}",
    )
    def class_losses(logs, target, weight, loss, counted, positions, classes, length, ignored, has_weight, smoothing):
        """logs: logarithms of probabilities.  Thread: a position; neighbours lie side by side for any class."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(positions):
            t, value, w = target[i], REAL(0), REAL(0)
            if t != ignored:
                top = U(U(i // length) * U(classes * length) + U(i % length))
                w = weight[t] if has_weight else REAL(1)
                value = -(REAL(1) - smoothing) * w * logs[U(top + U(t) * length)]
                if smoothing > 0:
                    smooth = REAL(0)
                    for c in range(classes):
                        smooth += (weight[c] if has_weight else REAL(1)) * logs[U(top + U(c) * length)]
                    value -= smoothing / REAL(classes) * smooth
            loss[i] = value
            counted[i] = w
            i = U(i + step)

    return class_losses


@lru_cache
def make_total(dtype, threads=BLOCK):
    """Sums of two arrays side by side, in parts that a second launch adds."""
    THREADS = threads

    @kernel(f"a:{dtype} b:{dtype} parts:float64 n")
    def total_of_two(a, b, parts, n):
        """parts (blocks, 2) in float64.  Block: every so many values."""
        s = cuda.shared.array(THREADS, np.float64)
        q = cuda.shared.array(THREADS, np.float64)
        t, i, step = U(cuda.threadIdx.x), U(cuda.grid(1)), U(cuda.gridsize(1))
        first, second = 0.0, 0.0
        while i < U(n):
            first += a[i]
            second += b[i]
            i = U(i + step)
        s[t] = first
        q[t] = second
        half = U(THREADS >> 1)
        while half:
            cuda.syncthreads()
            if t < half:
                s[t] += s[U(t + half)]
                q[t] += q[U(t + half)]
            half = U(half >> U(1))
        if t == 0:
            parts[U(U(cuda.blockIdx.x) * U(2))] = s[0]
            parts[U(U(cuda.blockIdx.x) * U(2) + U(1))] = q[0]

    return total_of_two


@lru_cache
def make_reduced(dtype):
    """The loss of all positions from the parts of both sums, and the factor of its gradient."""
    REAL = np.dtype(dtype).type

    @kernel(f"parts:float64 out:{dtype} factor:{dtype} count mean")
    def reduced_loss(parts, out, factor, count, mean):
        """One thread.  A mean of nothing is NaN, its gradient 0."""
        total, weights = 0.0, 0.0
        for i in range(count):
            total += parts[2 * i]
            weights += parts[2 * i + 1]
        if cuda.grid(1) == 0:
            if not mean:
                weights = 1.0
            if weights == 0.0:
                out[0] = REAL(np.nan)
                factor[0] = REAL(0)
            else:
                out[0] = total / weights
                factor[0] = 1.0 / weights

    return reduced_loss


@helper
def class_weight(weight, c, has_weight, one):
    """What class c counts."""
    return weight[c] if has_weight else one


@lru_cache
def make_cross_entropy_gradient(dtype):
    """The gradient of logits."""
    REAL, of = np.dtype(dtype).type, class_weight

    @kernel(
        f"logs:{dtype} target:int64 weight:{dtype} counted:{dtype} g:{dtype} factor:{dtype} weights:{dtype}",
        f"gx:{dtype} n classes length ignored=int64 has_weight each smoothing={dtype}",
    )
    def cross_entropy_gradient(
        logs, target, weight, counted, g, factor, weights, gx, n, classes, length, ignored, has_weight, each, smoothing
    ):
        """gx[i] of n logits; g: a value for each position if `each`, else one; weights[0]: their sum over classes."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(n):
            image = U(i // U(classes * length))
            inside = U(i - image * U(classes * length))
            c = U(inside // length)
            position = U(image * length + U(inside - c * length))
            t, value = target[position], REAL(0)
            if t != ignored:
                share = smoothing / REAL(classes)
                own = (REAL(1) - smoothing) * counted[position]
                q = share * of(weight, c, has_weight, REAL(1)) + (own if t == c else REAL(0))
                value = REAL(exp(logs[i])) * (own + share * (weights[0] if has_weight else REAL(classes))) - q
            gx[i] = value * (g[position] if each else g[0] * factor[0])
            i = U(i + step)

    return cross_entropy_gradient


@lru_cache
def make_nll_gradient(dtype):
    """The gradient of log-probabilities, which is 0 but at the targets."""
    REAL = np.dtype(dtype).type

    @kernel(f"target:int64 counted:{dtype} g:{dtype} factor:{dtype} gx:{dtype} n classes length ignored=int64 each")
    def nll_gradient(target, counted, g, factor, gx, n, classes, length, ignored, each):
        """gx[i] of n log-probabilities; g as in `cross_entropy_gradient`."""
        i, step, length = U(cuda.grid(1)), U(cuda.gridsize(1)), U(length)
        while i < U(n):
            image = U(i // U(classes * length))
            inside = U(i - image * U(classes * length))
            c = U(inside // length)
            position = U(image * length + U(inside - c * length))
            t, value = target[position], REAL(0)
            if t == c and t != ignored:
                value = -counted[position]
            gx[i] = value * (g[position] if each else g[0] * factor[0])
            i = U(i + step)

    return nll_gradient


@lru_cache
def make_huber(dtype):
    """d^2 / (2 beta) within beta of 0, |d| - beta/2 beyond."""
    REAL = np.dtype(dtype).type

    @kernel(f"d:{dtype} y:{dtype} n beta={dtype}")
    def huber(d, y, n, beta):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            v = abs(d[i])
            y[i] = v * v * (REAL(0.5) / beta) if v < beta else v - REAL(0.5) * beta
            i = U(i + step)

    return huber


@lru_cache
def make_huber_gradient(dtype):
    """d / beta within beta of 0, the sign beyond."""
    REAL = np.dtype(dtype).type

    @kernel(f"g:{dtype} d:{dtype} gx:{dtype} n beta={dtype}")
    def huber_gradient(g, d, gx, n, beta):
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            v = d[i]
            slope = v / beta if abs(v) < beta else (REAL(1) if v > 0 else (REAL(-1) if v < 0 else v))
            gx[i] = g[i] * slope
            i = U(i + step)

    return huber_gradient


def kernels(dtype):
    """For the test that compiles them."""
    for make in (make_losses, make_total, make_reduced, make_cross_entropy_gradient, make_nll_gradient):
        yield make(dtype)
    yield make_huber(dtype)
    yield make_huber_gradient(dtype)


# ---- the ops


def _losses(ctx, logs, target, weight, ignored, reduction, smoothing):
    """The loss, reduced, from logarithms of probabilities (n, classes, length); leaves in ctx what backward needs."""
    (n, classes, length), dtype = logs.shape, logs.dtype.name
    target = dense(target.astype(np.int64, copy=False))
    weight = None if weight is None else dense(weight)
    loss, counted = empty((n, length), dtype), empty((n, length), dtype)
    own = logs if weight is None else weight
    numbers = n * length, classes, length, int(ignored), int(weight is not None), float(smoothing)
    arguments = logs, target, own, loss, counted, *numbers
    launch(Row(make_losses(dtype), blocks_for(n * length), THREADS, arguments))
    ctx.target, ctx.weight, ctx.counted, ctx.factor = target, weight, counted, counted
    ctx.ignored, ctx.smoothing, ctx.each, ctx.shape = int(ignored), float(smoothing), reduction == "none", logs.shape
    if reduction == "none":
        return loss
    count = max(1, min(PARTS, -(-n * length // BLOCK)))
    parts, out, ctx.factor = empty((count, 2), np.float64), empty((), dtype), empty((), dtype)
    launch(
        Row(make_total(dtype), count, BLOCK, (loss, counted, parts, n * length)),
        Row(make_reduced(dtype), 1, 1, (parts, out, ctx.factor, count, int(reduction == "mean"))),
    )
    return out


@counterpart("loss.CrossEntropy")
class CrossEntropy(Rule):
    """Keeps the logarithm of softmax."""

    twice = False

    @staticmethod
    def forward(ctx, x, target, weight, ignore_index, reduction, smoothing):
        ctx.logs = softmax_into((dense(x),), empty(x.shape, x.dtype), 1, True)
        return _losses(ctx, ctx.logs, target, weight, ignore_index, reduction, smoothing)

    @staticmethod
    def backward(ctx, g):
        logs, (_, classes, length) = ctx.logs, ctx.shape
        gx, weight = empty(logs.shape, logs.dtype), ctx.weight
        total = logs if weight is None else weight.sum()
        numbers = gx.size, classes, length, ctx.ignored, int(weight is not None), int(ctx.each), ctx.smoothing
        own = logs if weight is None else weight
        arguments = logs, ctx.target, own, ctx.counted, dense(g), ctx.factor, total, gx, *numbers
        launch(Row(make_cross_entropy_gradient(gx.dtype.name), blocks_for(gx.size), THREADS, arguments))
        return gx, None, None, None, None, None


@counterpart("loss.NLL")
class NLL(Rule):
    twice = False

    @staticmethod
    def forward(ctx, x, target, weight, ignore_index, reduction):
        return _losses(ctx, dense(x), target, weight, ignore_index, reduction, 0.0)

    @staticmethod
    def backward(ctx, g):
        _, classes, length = ctx.shape
        gx = empty(ctx.shape, ctx.counted.dtype)
        arguments = ctx.target, ctx.counted, dense(g), ctx.factor, gx, gx.size, classes, length, ctx.ignored
        made = make_nll_gradient(gx.dtype.name)
        launch(Row(made, blocks_for(gx.size), THREADS, (*arguments, int(ctx.each))))
        return gx, None, None, None, None


@counterpart("loss.Huber")
class Huber(Rule):
    twice = False

    @staticmethod
    def forward(ctx, d, beta):
        ctx.save(d)
        ctx.beta, y = beta, empty(d.shape, d.dtype)
        launch(Row(make_huber(d.dtype.name), blocks_for(d.size), THREADS, (dense(d), y, d.size, float(beta))))
        return y

    @staticmethod
    def backward(ctx, g):
        (d,) = ctx.saved
        gx, made = empty(d.shape, d.dtype), make_huber_gradient(d.dtype.name)
        launch(Row(made, blocks_for(d.size), THREADS, (dense(g), dense(d), gx, d.size, float(ctx.beta))))
        return gx, None
