"""Problems as frozen dataclasses of whole numbers, checked when they are made.  Pure Python.

A convolution or pooling has three spatial dimensions here; 1-d and 2-d ones have leading dimensions of size 1.
Names: n batch, g groups, ic and oc channels in all, id ih iw input size, od oh ow output size, kd kh kw kernel, sd sh
sw stride, pd ph pw padding before the image (what lies beyond its end follows from the output size), dd dh dw dilation,
1 = dense.
"""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf, prod
from numbers import Integral
from typing import NamedTuple

_AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


class Epilogue(NamedTuple):
    """What an implementation that honours it does to its result: result = clamp(result + what the output buffer holds
    if `accumulate`, low, high).  NaN stays NaN."""

    low: float = -inf
    high: float = inf
    accumulate: bool = False


NO_EPILOGUE = Epilogue()


def whole_numbers(op, name, value, count, minimum):
    """`value` as a tuple of `count` whole numbers of at least `minimum`; a single number stands for all."""
    if type(value) is int and value >= minimum:
        return (value,) * count
    if type(value) is tuple and len(value) == count and all(type(v) is int and v >= minimum for v in value):
        return value  # the usual cases: the questions below take four times as long
    if isinstance(value, Integral) and not isinstance(value, bool):
        values = (int(value),) * count
    elif isinstance(value, (tuple, list)) and all(isinstance(v, Integral) and not isinstance(v, bool) for v in value):
        values = tuple(int(v) for v in value)
        if len(values) == 1:
            values *= count
    else:
        raise TypeError(f"{op}: {name} must be a whole number or a tuple of {count}, given {value!r}")
    if len(values) != count:
        raise ValueError(f"{op}: {name} must have {count} values, given {len(values)}: {value!r}")
    if min(values, default=minimum) < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, given {value!r}")
    return values


def _three(values, fill):
    return (fill,) * (3 - len(values)) + tuple(values)


@dataclass(frozen=True)
class ConvSpec:
    """One convolution, with the dtype of its arrays.  See the module's docstring for the names."""

    n: int
    g: int
    ic: int
    oc: int
    id: int
    ih: int
    iw: int
    od: int
    oh: int
    ow: int
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
    dtype: str
    ndim: int

    def __hash__(self):  # every cache of plans asks for it, several times a call
        return self._hash

    @cached_property
    def _hash(self):
        return hash(tuple(getattr(self, field) for field in self.__dataclass_fields__))

    @cached_property
    def taps(self):
        return self.kd * self.kh * self.kw

    @cached_property
    def icg(self):
        """Input channels of one group."""
        return self.ic // self.g

    @cached_property
    def ocg(self):
        """Output channels of one group."""
        return self.oc // self.g

    @cached_property
    def in_pixels(self):
        return self.id * self.ih * self.iw

    @cached_property
    def out_pixels(self):
        return self.od * self.oh * self.ow

    @property
    def x_shape(self):
        return (self.n, self.ic, *(self.id, self.ih, self.iw)[3 - self.ndim :])

    @property
    def w_shape(self):
        return (self.oc, self.icg, *(self.kd, self.kh, self.kw)[3 - self.ndim :])

    @property
    def y_shape(self):
        return (self.n, self.oc, *(self.od, self.oh, self.ow)[3 - self.ndim :])

    def flops(self):
        """Floating-point operations of a direct computation: two per multiply-add, taps in the padding included."""
        return 2 * self.n * self.oc * self.out_pixels * self.icg * self.taps

    def bytes(self):
        """Bytes of the input, the weights and the output, each once."""
        itemsize = 4 if self.dtype == "float32" else 8
        return itemsize * (prod(self.x_shape) + prod(self.w_shape) + prod(self.y_shape))

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))


def _same_padding(size, kernel, stride, dilation):
    """(before, after) so that a stride-1 convolution keeps the size; the odd pixel goes after, as in torch."""
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def _conv_padding(op, padding, count, kernel, stride, dilation):
    """(before, after) for each spatial dimension."""
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * count
        if padding != "same":
            raise ValueError(
                f'{op}: padding must be "same", "valid", a whole number or a tuple of {count}, given {padding!r}'
            )
        if any(s != 1 for s in stride):
            raise ValueError(f'{op}: padding="same" needs stride 1, given stride {stride}')
        return tuple(_same_padding(1, k, 1, d) for k, d in zip(kernel, dilation, strict=True))
    return tuple((p, p) for p in padding)


def _check_channels(op, x_shape, w_shape, bias_shape, groups):
    oc, icg = w_shape[:2]
    if oc < 1:
        raise ValueError(f"{op}: weight must have at least one output channel, given shape {tuple(w_shape)}")
    if groups < 1:
        raise ValueError(f"{op}: groups must be at least 1, given {groups}")
    if oc % groups:
        raise ValueError(
            f"{op}: {oc} output channels can't be split into {groups} groups; weight shape {tuple(w_shape)}"
        )
    if x_shape[1] != icg * groups:
        per_group = f" ({icg} per group x {groups} groups)" if icg * groups != icg else ""
        raise ValueError(
            f"{op}: weight expects {icg * groups} input channels{per_group}, input has {x_shape[1]}; "
            f"input shape {tuple(x_shape)}, weight shape {tuple(w_shape)}"
        )
    if bias_shape is not None and tuple(bias_shape) != (oc,):
        raise ValueError(f"{op}: bias must have shape ({oc},), one value per output channel, given {tuple(bias_shape)}")


def conv_spec(op, ndim, x_shape, w_shape, bias_shape, stride, padding, dilation, groups, dtype):
    """The spec of a convolution of batched input; every mistake is a ValueError or TypeError with given and wanted
    numbers."""
    stride = whole_numbers(op, "stride", stride, ndim, 1)
    dilation = whole_numbers(op, "dilation", dilation, ndim, 1)
    if not isinstance(padding, str):
        padding = whole_numbers(op, "padding", padding, ndim, 0)
    if isinstance(groups, bool) or not isinstance(groups, Integral):
        raise TypeError(f"{op}: groups must be a whole number, given {groups!r}")
    return _conv_spec(op, ndim, x_shape, w_shape, bias_shape, stride, padding, dilation, int(groups), dtype)


@lru_cache(maxsize=4096)
def _conv_spec(op, ndim, x_shape, w_shape, bias_shape, stride, padding, dilation, groups, dtype):
    if len(w_shape) != ndim + 2:
        raise ValueError(f"{op}: weight must have {ndim + 2} dimensions, given {len(w_shape)}: shape {tuple(w_shape)}")
    if len(x_shape) != ndim + 2:
        raise ValueError(
            f"{op}: input must have {ndim + 2} dimensions, or {ndim + 1} without a batch, given shape {tuple(x_shape)}"
        )
    _check_channels(op, x_shape, w_shape, bias_shape, groups)
    kernel, size = tuple(w_shape[2:]), tuple(x_shape[2:])
    if min(kernel) < 1:
        raise ValueError(
            f"{op}: the kernel must have at least one tap in every dimension, given weight shape {tuple(w_shape)}"
        )
    pads = _conv_padding(op, padding, ndim, kernel, stride, dilation)
    out = []
    for axis, i, k, s, (before, after), d in zip(_AXES[ndim], size, kernel, stride, pads, dilation, strict=True):
        room = i + before + after - d * (k - 1) - 1
        if room < 0:
            raise ValueError(
                f"{op}: the kernel covers {d * (k - 1) + 1} in {axis}, more than the padded input's "
                f"{i + before + after}; "
                f"input shape {tuple(x_shape)}, weight shape {tuple(w_shape)}, padding {padding!r}, dilation {dilation}"
            )
        out.append(room // s + 1)
    if 0 in size and x_shape[0] != 0:
        raise ValueError(f"{op}: the image must have at least one pixel, given input shape {tuple(x_shape)}")
    return ConvSpec(
        *(int(x_shape[0]), int(groups), int(x_shape[1]), int(w_shape[0])),
        *(_three(size, 1) + _three(out, 1) + _three(kernel, 1)),
        *(_three(stride, 1) + _three([before for before, _ in pads], 0) + _three(dilation, 1)),
        dtype=str(dtype),
        ndim=ndim,
    )
