"""Batch, group and layer normalisation on the device: the formulas of `kernels/norm.py` and `norm_layer.py`.

x (n, channels, length) lies in rows of `length` values.  A group is `count` rows, row k of group i being row
i * first + k * step, as there: channels over the batch, or neighbouring channels of one image.  Sums are cut into
`splits` parts by shape alone, each part is added by a block in a tree of fixed shape, and the parts in float64 in
order: always the same bits.  Deviations are taken from the first value of the group, so that a large mean costs no
precision.

stats, for each group: what the mean lacks in the precision of the data, the mean, the variance, and rstd.
"""

from functools import lru_cache
from math import prod

import numpy as np

from ..._device import Rule
from .array import empty
from .elementwise import sqrt
from .gpu import SIMULATED, THREADS, blocks_for, cuda, helper, kernel
from .launch import Row, counterpart, launch
from .shaping import dense

U = np.uint32
BLOCK = 4 if SIMULATED else 256  # threads of a block that adds
COLUMNS = 4  # of stats
BLOCKS = 4 if SIMULATED else 2048  # blocks among which the sums of one array are split at most
PART = 2 if SIMULATED else 8  # values of a thread for which it is worth another block


@helper
def tree_sums(a, b, t, threads):
    """a[0] and b[0] = the sums of two shared arrays of `threads` values, a power of two; t: this thread."""
    half = U(threads >> 1)
    while half:
        cuda.syncthreads()
        if t < half:
            a[t] += a[U(t + half)]
            b[t] += b[U(t + half)]
        half = U(half >> U(1))
    cuda.syncthreads()


@lru_cache
def make_moments(dtype, threads=BLOCK):
    """Sums of x - x0 and of its square, x0 the group's first value."""
    THREADS, REAL, add = threads, np.dtype(dtype).type, tree_sums

    @kernel(f"x:{dtype} sums:{dtype} first step count length splits")
    def norm_moments(x, sums, first, step, count, length, splits):
        """sums (groups, splits, 2).  Block: (group, split)."""
        a = cuda.shared.array(THREADS, REAL)
        b = cuda.shared.array(THREADS, REAL)
        t, block = U(cuda.threadIdx.x), U(cuda.blockIdx.x)
        length, splits, step = U(length), U(splits), U(step)
        group = U(block // splits)
        top = U(group * U(first))
        shift = x[U(top * length)]
        at = U(U(block - group * splits) * U(THREADS) + t)
        row, i = U(at // length), U(at % length)
        stride = U(splits * U(THREADS))
        down, right = U(stride // length), U(stride % length)
        total, squares = REAL(0), REAL(0)
        while row < U(count):
            d = x[U(U(top + row * step) * length + i)] - shift
            total += d
            squares += d * d
            row, i = U(row + down), U(i + right)
            if i >= length:
                row, i = U(row + U(1)), U(i - length)
        a[t] = total
        b[t] = squares
        add(a, b, t, THREADS)
        if t == 0:
            sums[U(block * U(2))] = a[0]
            sums[U(block * U(2) + U(1))] = b[0]

    return norm_moments


@lru_cache
def make_statistics(dtype):
    """The groups' statistics from their sums, and running ones."""
    REAL = np.dtype(dtype).type

    @kernel(
        f"x:{dtype} sums:{dtype} stats:{dtype} running_mean:{dtype} running_var:{dtype}",
        "groups first size length splits keep_mean keep_var momentum=float64 eps=float64",
    )
    def norm_statistics(
        x,
        sums,
        stats,
        running_mean,
        running_var,
        groups,
        first,
        size,
        length,
        splits,
        keep_mean,
        keep_var,
        momentum,
        eps,
    ):
        """Thread: a group.  keep_mean, keep_var: whether there are running statistics, which are updated in place."""
        g, step = cuda.grid(1), cuda.gridsize(1)
        while g < groups:
            total, squares = 0.0, 0.0
            for i in range(splits):
                total += sums[2 * (g * splits + i)]
                squares += sums[2 * (g * splits + i) + 1]
            off = total / size
            variance = squares / size - off * off
            if variance < 0.0:
                variance = 0.0
            mean = off + x[g * first * length]
            stats[4 * g] = mean - REAL(mean)
            stats[4 * g + 1] = mean
            stats[4 * g + 2] = variance
            stats[4 * g + 3] = 1.0 / sqrt(variance + eps)
            if keep_mean:
                running_mean[g] = REAL(1.0 - momentum) * running_mean[g] + REAL(momentum * mean)
            if keep_var:
                unbiased = variance * (size / max(size - 1, 1))
                running_var[g] = REAL(1.0 - momentum) * running_var[g] + REAL(momentum * unbiased)
            g += step

    return norm_statistics


@lru_cache
def make_given(dtype):
    """Statistics that do not depend on x."""
    REAL = np.dtype(dtype).type

    @kernel(f"mean:{dtype} var:{dtype} stats:{dtype} groups eps=float64")
    def norm_given(mean, var, stats, groups, eps):
        """Thread: a group."""
        g, step = cuda.grid(1), cuda.gridsize(1)
        while g < groups:
            stats[4 * g] = REAL(0)
            stats[4 * g + 1] = mean[g]
            stats[4 * g + 2] = var[g]
            stats[4 * g + 3] = 1.0 / sqrt(var[g] + eps)
            g += step

    return norm_given


@helper
def whereabouts(row, channels, period, per):
    """(channel, group) of a row."""
    channel = U(row % U(channels))
    return channel, channel if period == channels and per == 1 else U(U(row % U(period)) // U(per))


@lru_cache
def make_apply(dtype):
    """y = (x - mean) rstd w + b."""
    where, REAL = whereabouts, np.dtype(dtype).type

    @kernel(f"x:{dtype} y:{dtype} stats:{dtype} w:{dtype} b:{dtype} n length channels period per has_w has_b")
    def norm_apply(x, y, stats, w, b, n, length, channels, period, per, has_w, has_b):
        """Thread: values of x, n in all."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            channel, group = where(U(i // U(length)), channels, period, per)
            s = U(group * U(4))
            scale = stats[U(s + U(3))] * (w[channel] if has_w else REAL(1))
            d = x[i] - stats[U(s + U(1))] - stats[s]
            y[i] = d * scale + (b[channel] if has_b else REAL(0))
            i = U(i + step)

    return norm_apply


@lru_cache
def make_products(dtype, threads=BLOCK):
    """Sums of g and of g (x - mean) over collections of rows."""
    THREADS, REAL, add = threads, np.dtype(dtype).type, tree_sums

    @kernel(f"x:{dtype} g:{dtype} stats:{dtype} sums:{dtype} first step count length splits per")
    def norm_products(x, g, stats, sums, first, step, count, length, splits, per):
        """sums (collections, splits, 2); `per` collections share a mean.  Block: (collection, split)."""
        a = cuda.shared.array(THREADS, REAL)
        b = cuda.shared.array(THREADS, REAL)
        t, block = U(cuda.threadIdx.x), U(cuda.blockIdx.x)
        length, splits, step = U(length), U(splits), U(step)
        which = U(block // splits)
        top, s = U(which * U(first)), U(U(which // U(per)) * U(4))
        low, high = stats[s], stats[U(s + U(1))]
        at = U(U(block - which * splits) * U(THREADS) + t)
        row, i = U(at // length), U(at % length)
        stride = U(splits * U(THREADS))
        down, right = U(stride // length), U(stride % length)
        total, products = REAL(0), REAL(0)
        while row < U(count):
            j = U(U(top + row * step) * length + i)
            total += g[j]
            products += g[j] * (x[j] - high - low)
            row, i = U(row + down), U(i + right)
            if i >= length:
                row, i = U(row + U(1)), U(i - length)
        a[t] = total
        b[t] = products
        add(a, b, t, THREADS)
        if t == 0:
            sums[U(block * U(2))] = a[0]
            sums[U(block * U(2) + U(1))] = b[0]

    return norm_products


@lru_cache
def make_slopes(dtype):
    """What gx needs of each group: factors of x - mean and of 1."""
    REAL = np.dtype(dtype).type

    @kernel(f"sums:{dtype} stats:{dtype} w:{dtype} slopes:{dtype} groups first step count splits channels size has_w")
    def norm_slopes(sums, stats, w, slopes, groups, first, step, count, splits, channels, size, has_w):
        """slopes (groups, 2) from sums (collections, splits, 2); group i has the collections i * first + k * step, k <
        count.  Thread: a group."""
        group, stride = cuda.grid(1), cuda.gridsize(1)
        while group < groups:
            total, products = 0.0, 0.0
            for k in range(count):
                which = group * first + k * step
                weight = w[which % channels] if has_w else REAL(1)
                for i in range(splits):
                    total += weight * sums[2 * (which * splits + i)]
                    products += weight * sums[2 * (which * splits + i) + 1]
            rstd = np.float64(stats[4 * group + 3])
            slopes[2 * group] = -products / size * rstd * rstd * rstd
            slopes[2 * group + 1] = -total / size * rstd
            group += stride

    return norm_slopes


@lru_cache
def make_weight_gradients(dtype):
    """gw = sum of g (x - mean) rstd, gb = sum of g, for each channel."""

    @kernel(f"sums:{dtype} stats:{dtype} gw:{dtype} gb:{dtype} channels images splits per")
    def norm_weight_gradients(sums, stats, gw, gb, channels, images, splits, per):
        """sums (images, channels, splits, 2); `per` neighbours share a mean.  Thread: a channel."""
        channel, stride = cuda.grid(1), cuda.gridsize(1)
        while channel < channels:
            total, products = 0.0, 0.0
            for image in range(images):
                which = image * channels + channel
                rstd = np.float64(stats[4 * (which // per) + 3])
                for i in range(splits):
                    total += sums[2 * (which * splits + i)]
                    products += rstd * sums[2 * (which * splits + i) + 1]
            gw[channel] = products
            gb[channel] = total
            channel += stride

    return norm_weight_gradients


@lru_cache
def make_apply_slopes(dtype):
    """gx = g rstd w + (x - mean) along + constant."""
    where, REAL = whereabouts, np.dtype(dtype).type

    @kernel(f"x:{dtype} g:{dtype} gx:{dtype} stats:{dtype} slopes:{dtype} w:{dtype} n length channels period per has_w")
    def norm_apply_slopes(x, g, gx, stats, slopes, w, n, length, channels, period, per, has_w):
        """Thread: values of x, n in all."""
        i, step = U(cuda.grid(1)), U(cuda.gridsize(1))
        while i < U(n):
            channel, group = where(U(i // U(length)), channels, period, per)
            s, p = U(group * U(4)), U(group * U(2))
            factor = stats[U(s + U(3))] * (w[channel] if has_w else REAL(1))
            d = x[i] - stats[U(s + U(1))] - stats[s]
            gx[i] = g[i] * factor + d * slopes[p] + slopes[U(p + U(1))]
            i = U(i + step)

    return norm_apply_slopes


def kernels(dtype):
    """For the test that compiles them."""
    for make in (make_moments, make_statistics, make_given, make_apply, make_products):
        yield make(dtype)
    for make in (make_slopes, make_weight_gradients, make_apply_slopes):
        yield make(dtype)


# ---- sums, statistics and results of one array


def _splits(groups, size):
    """In how many parts the sums of each group are added: a matter of the shape alone."""
    return max(1, min(-(-size // (BLOCK * PART)), -(-BLOCKS // max(groups, 1))))


def _operands(*arrays, like):
    """Each array dense, or `like` in place of one that is missing, followed by whether it is there."""
    return [dense(like if a is None else a) for a in arrays], [int(a is not None) for a in arrays]


class Groups:
    """Which rows of x (n, channels, length) share a mean: see the module's docstring."""

    def __init__(self, x, groups=None):
        self.images, self.channels = x.shape[:2]
        self.length = prod(x.shape[2:])
        self.batch = groups is None
        if groups is None:
            self.count, self.first, self.step, self.rows = self.channels, 1, self.channels, self.images
            self.period, self.per = self.channels, 1
        else:
            self.per = self.channels // groups
            self.count, self.first, self.step, self.rows = self.images * groups, self.per, 1, self.per
            self.period = self.images * self.channels
        self.size = self.rows * self.length


def _statistics(x, groups, eps, running=(None, None), momentum=0.0):
    """stats (groups, 4); running mean and variance are updated in place."""
    splits = _splits(groups.count, groups.size)
    sums, stats = empty((groups.count, splits, 2), x.dtype), empty((groups.count, COLUMNS), x.dtype)
    own = [r if r is None or (r.is_dense and r.dtype == x.dtype) else dense(r.astype(x.dtype)) for r in running]
    (mean, var), has = _operands(*own, like=stats)
    dtype, layout = x.dtype.name, (groups.first, groups.step, groups.rows, groups.length, splits)
    numbers = groups.count, groups.first, groups.size, groups.length, splits, *has, float(momentum), float(eps)
    launch(
        Row(make_moments(dtype), groups.count * splits, BLOCK, (x, sums, *layout)),
        Row(make_statistics(dtype), blocks_for(groups.count), THREADS, (x, sums, stats, mean, var, *numbers)),
    )
    for r, new in zip(running, own, strict=True):
        if r is not new:
            r[...] = new
    return stats


def _given(mean, var, eps, dtype):
    """stats of an evaluation."""
    mean, var = (dense(a.astype(dtype, copy=False)) for a in (mean, var))
    stats = empty((mean.size, COLUMNS), dtype)
    arguments = mean, var, stats, mean.size, float(eps)
    launch(Row(make_given(stats.dtype.name), blocks_for(mean.size), THREADS, arguments))
    return stats


def _applied(x, groups, stats, weight, bias):
    y = empty(x.shape, x.dtype)
    (w, b), has = _operands(weight, bias, like=stats)
    numbers = x.size, groups.length, groups.channels, groups.period, groups.per, *has
    launch(Row(make_apply(x.dtype.name), blocks_for(x.size), THREADS, (x, y, stats, w, b, *numbers)))
    return y


def _gradients(x, g, groups, stats, weight, through, needs_x):
    """(gx or None, gw, gb); through: whether the statistics depend on x."""
    dtype, channels = x.dtype, groups.channels
    if groups.batch:  # a collection is a channel of all images, else a row
        count, first, step, rows, images = channels, 1, channels, groups.images, 1
    else:
        count, first, step, rows, images = groups.images * channels, 1, 0, 1, groups.images
    splits = _splits(count, rows * groups.length)
    sums, slopes = empty((count, splits, 2), dtype), empty((groups.count, 2), dtype)
    gx, gw, gb = empty(x.shape, dtype), empty((channels,), dtype), empty((channels,), dtype)
    (w,), (has,) = _operands(weight, like=stats)
    members = (1, 0, 1) if groups.batch else (groups.per, 1, groups.per)
    layout = first, step, rows, groups.length, splits, groups.per
    products = Row(make_products(dtype.name), count * splits, BLOCK, (x, g, stats, sums, *layout))
    own = sums, stats, gw, gb, channels, images, splits, groups.per
    launch(products, Row(make_weight_gradients(dtype.name), blocks_for(channels), THREADS, own))
    if not needs_x:
        return None, gw, gb
    if through:
        numbers = groups.count, *members, splits, channels, groups.size, has
        launch(Row(make_slopes(dtype.name), blocks_for(groups.count), THREADS, (sums, stats, w, slopes, *numbers)))
    else:
        slopes.fill(0)
    numbers = x.size, groups.length, channels, groups.period, groups.per, has
    arguments = x, g, gx, stats, slopes, w, *numbers
    launch(Row(make_apply_slopes(dtype.name), blocks_for(x.size), THREADS, arguments))
    return gx, gw, gb


# ---- the ops


@counterpart("norm.BatchNorm")
class BatchNorm(Rule):
    @staticmethod
    def forward(ctx, x, running_mean, running_var, weight, bias, training, momentum, eps):
        flat, groups = dense(x), Groups(x)
        if training:
            running = (None, None) if x.size == 0 else (running_mean, running_var)
            stats = _statistics(flat, groups, eps, running, momentum)
        else:
            stats = _given(running_mean, running_var, eps, x.dtype)
        ctx.save(x, weight, bias)
        ctx.stats, ctx.training, ctx.eps, ctx.clamp = stats, training, eps, None
        return _applied(flat, groups, stats, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight, _ = ctx.saved
        gx, gw, gb = _gradients(dense(x), dense(g), Groups(x), ctx.stats, weight, ctx.training, ctx.needs[0])
        return gx, None, None, gw, gb, None, None, None


@counterpart("norm.GroupNorm")
class GroupNorm(Rule):
    @staticmethod
    def forward(ctx, x, weight, bias, groups, eps):
        flat, layout = dense(x), Groups(x, groups)
        ctx.stats = _statistics(flat, layout, eps)
        ctx.save(x, weight)
        ctx.groups, ctx.eps = groups, eps
        return _applied(flat, layout, ctx.stats, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved
        layout = Groups(x, ctx.groups)
        return *_gradients(dense(x), dense(g), layout, ctx.stats, weight, True, ctx.needs[0]), None, None
