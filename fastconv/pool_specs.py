"""Pooling problems as frozen dataclasses of whole numbers, checked when they are made.  Pure Python.

Three spatial dimensions, as in `specs.py`: 1-d and 2-d poolings have leading dimensions of size 1, and the same names
(n batch, c channels, id ih iw input, od oh ow output, kd kh kw window, sd sh sw stride, pd ph pw padding, dd dh dw
dilation).  Output sizes and refusals follow torch.nn.functional.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from math import prod
from numbers import Integral

from .specs import _AXES, _three, whole_numbers

_ITEMSIZE = {"float32": 4, "float64": 8}
_POSITION = {"int32": 4, "int64": 8}


@dataclass(frozen=True)
class _Window:
    """What the specs of all poolings share.  `indices`: the position of the maximum is computed too, in dtype `at`."""

    n: int
    c: int
    id: int
    ih: int
    iw: int
    od: int
    oh: int
    ow: int
    indices: bool = field(kw_only=True)
    at: str = field(kw_only=True, default="int64")
    dtype: str = field(kw_only=True)
    ndim: int = field(kw_only=True)

    @cached_property
    def _hash(self):
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    @cached_property
    def planes(self):
        """Images times channels: the planes that are pooled one by one."""
        return self.n * self.c

    @cached_property
    def in_pixels(self):
        return self.id * self.ih * self.iw

    @cached_property
    def out_pixels(self):
        return self.od * self.oh * self.ow

    @cached_property
    def x_shape(self):
        return (self.n, self.c, *(self.id, self.ih, self.iw)[3 - self.ndim :])

    @cached_property
    def y_shape(self):
        return (self.n, self.c, *(self.od, self.oh, self.ow)[3 - self.ndim :])

    @cached_property
    def with_indices(self):
        """The same pooling, the position of each maximum computed too."""
        return replace(self, indices=True)

    @cached_property
    def with_short_indices(self):
        """The same, for ourselves: positions in 32 bits where there are so few pixels."""
        return replace(self, indices=True, at="int32" if self.in_pixels < 1 << 31 else "int64")

    def bytes(self):
        """Bytes of the input and the output (and the indices), each once."""
        values, outputs = prod(self.x_shape) + prod(self.y_shape), prod(self.y_shape)
        return _ITEMSIZE[self.dtype] * values + _POSITION[self.at] * self.indices * outputs

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))


@dataclass(frozen=True)
class PoolSpec(_Window):
    """One maximum or average pooling, with the dtype of its arrays.  See the module's docstring for the names.

    count_include_pad and divisor concern averages: whether the padding counts, and what to divide by instead (0: the
    count).
    """

    kd: int
    kh: int
    kw: int
    sd: int
    sh: int
    sw: int
    pd: int
    ph: int
    pw: int
    dd: int
    dh: int
    dw: int
    count_include_pad: bool
    divisor: int

    prefix = ""  # of the operation's name: plain, or adaptive

    def __hash__(self):  # specs are keys of every call's caches
        return self._hash

    @cached_property
    def taps(self):
        return self.kd * self.kh * self.kw

    def flops(self):
        """Comparisons or additions of a direct computation, taps in the padding included."""
        return self.planes * self.out_pixels * self.taps

    @property
    def covers_all(self):
        """Whether one window covers exactly the image."""
        kernel, dilation = (self.kd, self.kh, self.kw), (self.dd, self.dh, self.dw)
        padding, image = (self.pd, self.ph, self.pw), (self.id, self.ih, self.iw)
        return self.out_pixels == 1 and kernel == image and not any(padding) and max(dilation) == 1

    def counts(self):
        """Counted taps of the windows along each dimension: three tuples; an average divides by their products."""
        if self.divisor:
            return (self.divisor,) * self.od, (1,) * self.oh, (1,) * self.ow
        return tuple(
            _counts(*sizes, self.count_include_pad)
            for sizes in (
                (self.id, self.od, self.kd, self.sd, self.pd),
                (self.ih, self.oh, self.kh, self.sh, self.ph),
                (self.iw, self.ow, self.kw, self.sw, self.pw),
            )
        )


@lru_cache(maxsize=1024)
def _counts(size, out, kernel, stride, pad, include_pad):
    """Taps of each window in the image, or in the padded image: what lies beyond (ceil_mode) is never counted."""
    low, high = (-pad, size + pad) if include_pad else (0, size)
    return tuple(min(i * stride - pad + kernel, high) - max(i * stride - pad, low) for i in range(out))


@dataclass(frozen=True)
class AdaptiveSpec(_Window):
    """One adaptive pooling: window i of O over a size I covers [floor(i I / O), ceil((i + 1) I / O))."""

    prefix = "adaptive_"

    def __hash__(self):
        return self._hash

    @cached_property
    def even(self):
        """The plain pooling that does the same, where the output's size divides the input's; else None."""
        image, out = (self.id, self.ih, self.iw), (self.od, self.oh, self.ow)
        if not all(out) or any(i % o for i, o in zip(image, out, strict=True)):
            return None
        window = tuple(i // o for i, o in zip(image, out, strict=True))
        return PoolSpec(
            *(self.n, self.c, *image, *out, *window, *window, 0, 0, 0, 1, 1, 1),
            count_include_pad=True,
            divisor=0,
            indices=self.indices,
            at=self.at,
            dtype=self.dtype,
            ndim=self.ndim,
        )

    def flops(self):
        """Comparisons or additions: windows may overlap by one."""
        sizes = ((self.id, self.od), (self.ih, self.oh), (self.iw, self.ow))
        return self.planes * prod(
            sum(-(-(i + 1) * size // out) - i * size // out for i in range(out)) for size, out in sizes
        )


@dataclass(frozen=True)
class UnpoolSpec(_Window):
    """One maximum unpooling: i is the large plane that it fills, o the small one that it reads, as in the pooling."""

    prefix = "unpool_"

    def __hash__(self):
        return self._hash


@dataclass(frozen=True)
class FractionalSpec(_Window):
    """One fractional maximum pooling: windows of kd x kh x kw whose places are drawn at random, plane by plane."""

    kd: int
    kh: int
    kw: int

    prefix = "fractional_"

    def __hash__(self):
        return self._hash

    @cached_property
    def taps(self):
        return self.kd * self.kh * self.kw

    def flops(self):
        """Comparisons."""
        return self.planes * self.out_pixels * self.taps


def _shape_text(shape):
    return f"({', '.join(map(str, shape))})"


def check_input(op, ndim, shape, dtype, empty_channels=False):
    """Refuse what no pooling takes: another number of dimensions, an empty image, another dtype than the two."""
    if len(shape) not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"{op}: input must have {ndim + 2} dimensions, or {ndim + 1} without a batch, "
            f"given shape {_shape_text(shape)}"
        )
    if str(dtype) not in _ITEMSIZE:
        raise TypeError(f"{op}: input must be float32 or float64, given {dtype}")
    needed = shape[len(shape) - ndim - (not empty_channels) :]
    if min(needed) < 1:
        raise ValueError(f"{op}: only the batch may be empty, given input shape {_shape_text(shape)}")


def _out_size(op, axis, shape, size, kernel, stride, pad, dilation, ceil_mode):
    """torch's rule: with ceil_mode a last window may hang over the end if it begins before it, padding aside."""
    reach = dilation * (kernel - 1) + 1
    out = (size + 2 * pad - reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + pad:
        out -= 1
    if out < 1:
        raise ValueError(
            f"{op}: the window covers {reach} in {axis}, more than the padded input's {size + 2 * pad}; "
            f"input shape {_shape_text(shape)}, kernel_size {kernel}, padding {pad}, dilation {dilation}"
        )
    return out


def _flag(op, name, value):
    if not isinstance(value, bool):
        raise TypeError(f"{op}: {name} must be True or False, given {value!r}")
    return value


def _divisor(op, value):
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{op}: divisor_override must be a whole number, given {value!r}")
    if value == 0:
        raise ValueError(f"{op}: divisor_override must not be 0")
    return int(value)


@lru_cache(maxsize=4096, typed=True)
def _pool_spec(op, ndim, shape, kernel, stride, padding, dilation, ceil_mode, include_pad, divisor, indices, dtype):
    check_input(op, ndim, shape, dtype)
    kernel = whole_numbers(op, "kernel_size", kernel, ndim, 1)
    stride = kernel if stride is None or stride == () else whole_numbers(op, "stride", stride, ndim, 1)
    padding = whole_numbers(op, "padding", padding, ndim, 0)
    dilation = whole_numbers(op, "dilation", dilation, ndim, 1)
    ceil_mode, include_pad = _flag(op, "ceil_mode", ceil_mode), _flag(op, "count_include_pad", include_pad)
    for k, p in zip(kernel, padding, strict=True):
        if 2 * p > k:
            raise ValueError(
                f"{op}: padding must be at most half of kernel_size, given padding {padding}, kernel_size {kernel}"
            )
    size = shape[-ndim:]
    out = [
        _out_size(op, axis, shape, *sizes, ceil_mode)
        for axis, *sizes in zip(_AXES[ndim], size, kernel, stride, padding, dilation, strict=True)
    ]
    return PoolSpec(
        *(shape[0] if len(shape) == ndim + 2 else 1, shape[-ndim - 1]),
        *(_three(size, 1) + _three(out, 1) + _three(kernel, 1)),
        *(_three(stride, 1) + _three(padding, 0) + _three(dilation, 1)),
        count_include_pad=include_pad,
        divisor=_divisor(op, divisor),
        indices=indices,
        dtype=str(dtype),
        ndim=ndim,
    )


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value


def pool_spec(op, ndim, shape, kernel_size, stride, padding, dilation, ceil_mode, dtype, indices=False, average=None):
    """The spec of a pooling of input of this shape, batched or not; a mistake is a ValueError or TypeError.

    average: (count_include_pad, divisor_override) of an average pooling.
    """
    include_pad, divisor = average or (True, None)
    values = (_hashable(v) for v in (kernel_size, stride, padding, dilation))
    return _pool_spec(op, ndim, tuple(shape), *values, ceil_mode, include_pad, divisor, indices, dtype)


@lru_cache(maxsize=4096, typed=True)
def _adaptive_spec(op, ndim, shape, output_size, dtype, indices):
    check_input(op, ndim, shape, dtype, empty_channels=not op.startswith("adaptive_max"))
    size = shape[-ndim:]
    wanted = output_size if isinstance(output_size, tuple) else (output_size,) * ndim
    if len(wanted) != ndim:
        raise ValueError(f"{op}: output_size must have {ndim} values, given {len(wanted)}: {output_size!r}")
    if ndim == 1 and wanted[0] is None:
        raise TypeError(f"{op}: output_size must be a whole number, given None")
    wanted = tuple(s if o is None else o for s, o in zip(size, wanted, strict=True))
    out = whole_numbers(op, "output_size", wanted, ndim, 0)
    return AdaptiveSpec(
        *(shape[0] if len(shape) == ndim + 2 else 1, shape[-ndim - 1]),
        *(_three(size, 1) + _three(out, 1)),
        indices=indices,
        dtype=str(dtype),
        ndim=ndim,
    )


def adaptive_spec(op, ndim, shape, output_size, dtype, indices=False):
    """The spec of an adaptive pooling; in output_size None stands for the input's size."""
    return _adaptive_spec(op, ndim, tuple(shape), _hashable(output_size), dtype, indices)


def _unpool_size(op, ndim, shape, size, kernel, stride, pad, output_size):
    default = [(i - 1) * s + k - 2 * p for i, k, s, p in zip(size, kernel, stride, pad, strict=True)]
    if output_size is None:
        wanted = default
    else:
        wanted = whole_numbers(op, "output_size", output_size, len(output_size), 0)
        wanted = wanted[2:] if len(wanted) == ndim + 2 else wanted
        if len(wanted) != ndim:
            raise ValueError(
                f"{op}: output_size must have {ndim} or {ndim + 2} values, given {len(output_size)}: {output_size!r}"
            )
        for axis, w, d, s in zip(_AXES[ndim], wanted, default, stride, strict=True):
            if not d - s < w < d + s:
                raise ValueError(
                    f"{op}: output_size must be between {d - s} and {d + s} in {axis}, both excluded, given {w}"
                )
    if min(wanted) < 1:
        raise ValueError(
            f"{op}: the output must have at least one pixel, it would be {_shape_text(wanted)}; "
            f"input shape {_shape_text(shape)}, kernel_size {kernel}, stride {stride}, padding {pad}"
        )
    return wanted


@lru_cache(maxsize=4096, typed=True)
def _unpool_spec(op, ndim, shape, kernel, stride, padding, output_size, dtype):
    check_input(op, ndim, shape, dtype)
    kernel = whole_numbers(op, "kernel_size", kernel, ndim, 1)
    stride = kernel if stride is None else whole_numbers(op, "stride", stride, ndim, 1)
    padding = whole_numbers(op, "padding", padding, ndim, 0)
    if output_size is not None and not isinstance(output_size, tuple):
        raise TypeError(f"{op}: output_size must be a tuple of {ndim} or {ndim + 2} sizes, given {output_size!r}")
    size = shape[-ndim:]
    out = _unpool_size(op, ndim, shape, size, kernel, stride, padding, output_size)
    return UnpoolSpec(
        *(shape[0] if len(shape) == ndim + 2 else 1, shape[-ndim - 1]),
        *(_three(out, 1) + _three(size, 1)),
        indices=True,
        dtype=str(dtype),
        ndim=ndim,
    )


def unpool_spec(op, ndim, shape, kernel_size, stride, padding, output_size, dtype):
    """The spec of the unpooling of input of this shape, batched or not."""
    values = (_hashable(v) for v in (kernel_size, stride, padding, output_size))
    return _unpool_spec(op, ndim, tuple(shape), *values, dtype)


@lru_cache(maxsize=4096, typed=True)
def _fractional_spec(op, ndim, shape, kernel, output_size, dtype):
    check_input(op, ndim, shape, dtype)
    for name, given in (("kernel_size", kernel), ("output_size", output_size)):
        if isinstance(given, tuple) and len(given) != ndim:
            raise ValueError(f"{op}: {name} must be a whole number or {ndim} of them, given {given!r}")
    kernel = whole_numbers(op, "kernel_size", kernel, ndim, 1)
    out = whole_numbers(op, "output_size", output_size, ndim, 0)
    size = shape[-ndim:]
    for axis, i, k, o in zip(_AXES[ndim], size, kernel, out, strict=True):
        if o + k - 1 > i - (ndim == 3):  # in three dimensions torch wants one pixel more
            raise ValueError(
                f"{op}: {o} windows of {k} need at least {o + k - 1 + (ndim == 3)} pixels in {axis}, input has {i}; "
                f"input shape {_shape_text(shape)}, kernel_size {kernel}, output size {out}"
            )
    return FractionalSpec(
        *(shape[0] if len(shape) == ndim + 2 else 1, shape[-ndim - 1]),
        *(_three(size, 1) + _three(out, 1) + _three(kernel, 1)),
        indices=False,
        dtype=str(dtype),
        ndim=ndim,
    )


def fractional_spec(op, ndim, shape, kernel_size, output_size, dtype):
    """The spec of a fractional maximum pooling."""
    return _fractional_spec(op, ndim, tuple(shape), _hashable(kernel_size), _hashable(output_size), dtype)
