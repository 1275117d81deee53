"""From attributes and shapes to the specs of convolutions and poolings."""

from dataclasses import replace

from ..pool_specs import adaptive_spec, pool_spec
from ..specs import conv_spec

_SIZES = (("id", "ih", "iw"), ("pd", "ph", "pw"))


def pairs(padding, ndim):
    """Padding as ((before, after), ...): a whole number, one for each dimension, or pairs."""
    if isinstance(padding, int):
        return ((padding, padding),) * ndim
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)


def conv_problem(op, attrs, x_shape, w_shape, b_shape, dtype):
    """The ConvSpec of a convolution whose padding may differ before and after the image."""
    ndim = len(w_shape) - 2
    x_shape = batched(x_shape, ndim)
    padding = attrs.get("padding", 0)
    settings = attrs.get("stride", 1), attrs.get("dilation", 1), attrs.get("groups", 1)
    if isinstance(padding, str) or all(before == after for before, after in pairs(padding, ndim)):
        even = padding if isinstance(padding, str) else tuple(before for before, _ in pairs(padding, ndim))
        return conv_spec(op, ndim, x_shape, w_shape, b_shape, settings[0], even, *settings[1:], dtype)
    padding = pairs(padding, ndim)
    padded = (
        *x_shape[:2],
        *(size + before + after for size, (before, after) in zip(x_shape[2:], padding, strict=True)),
    )
    spec = conv_spec(op, ndim, padded, w_shape, b_shape, settings[0], 0, *settings[1:], dtype)
    sizes, befores = (names[3 - ndim :] for names in _SIZES)
    changes = dict(zip(sizes, x_shape[2:], strict=True))
    changes |= dict(zip(befores, (before for before, _ in padding), strict=True))
    return replace(spec, **changes)


def conv_attrs(spec):
    """The attributes of a convolution, from its spec: the reverse of `conv_problem`."""
    first = 3 - spec.ndim
    stride, dilation = (spec.sd, spec.sh, spec.sw), (spec.dd, spec.dh, spec.dw)
    axes = zip(
        *((spec.id, spec.ih, spec.iw), (spec.od, spec.oh, spec.ow), (spec.kd, spec.kh, spec.kw)),
        *(stride, (spec.pd, spec.ph, spec.pw), dilation),
        strict=True,
    )
    padding = []
    for size, out, kernel, step, before, apart in axes:
        needed = (out - 1) * step + apart * (kernel - 1) + 1 - size - before
        padding.append((before, before if needed <= before < needed + step else max(needed, 0)))
    return {
        "stride": stride[first:],
        "padding": tuple(padding[first:]),
        "dilation": dilation[first:],
        "groups": spec.g,
    }


def pool_problem(op, attrs, x_shape, dtype):
    """The PoolSpec of max_pool or avg_pool."""
    ndim = attrs.get("ndim", len(x_shape) - 2)
    kernel, stride = attrs["kernel"], attrs.get("stride")
    settings = attrs.get("padding", 0), attrs.get("dilation", 1), attrs.get("ceil_mode", False), dtype
    average = (attrs.get("count_include_pad", True), attrs.get("divisor")) if op == "avg_pool" else None
    extra = {"indices": bool(attrs.get("indices", False)), "average": average}
    padding = pairs(settings[0], ndim)
    if all(before == after for before, after in padding):
        even = tuple(before for before, _ in padding)
        return pool_spec(op, ndim, x_shape, kernel, stride, even, *settings[1:], **extra)
    if average and average[0] and not average[1]:
        raise ValueError(f"{op}: padding that differs before and after needs count_include_pad=False, given {padding}")
    size = tuple(n + before + after for n, (before, after) in zip(x_shape[-ndim:], padding, strict=True))
    spec = pool_spec(op, ndim, (*x_shape[:-ndim], *size), kernel, stride, 0, *settings[1:], **extra)
    sizes, befores = (names[3 - ndim :] for names in _SIZES)
    changes = dict(zip(sizes, x_shape[-ndim:], strict=True))
    return replace(spec, **changes, **dict(zip(befores, (before for before, _ in padding), strict=True)))


def adaptive_problem(op, attrs, x_shape, dtype):
    """The AdaptiveSpec of adaptive_max_pool or adaptive_avg_pool."""
    ndim = attrs.get("ndim", len(x_shape) - 2)
    indices = bool(attrs.get("indices", False))
    return adaptive_spec(op, ndim, x_shape, attrs["output_size"], dtype, indices=indices)


def pool_attrs(spec, shape, indices):
    """The attributes of a pooling, from its spec; shape: of the input, batched or not."""
    first = 3 - spec.ndim
    attrs: dict = {}
    if spec.prefix:
        attrs["output_size"] = (spec.od, spec.oh, spec.ow)[first:]
    else:
        names = {"kernel": "k", "stride": "s", "padding": "p", "dilation": "d"}
        attrs |= {n: tuple(getattr(spec, letter + axis) for axis in "dhw")[first:] for n, letter in names.items()}
        attrs["ceil_mode"] = _ceil_mode(spec)
    if len(shape) != spec.ndim + 2:
        attrs["ndim"] = spec.ndim
    if indices:
        attrs["indices"] = True
    return attrs


def _ceil_mode(spec):
    for axis in "dhw":
        size, out, kernel, stride, pad, apart = (getattr(spec, letter + axis) for letter in "iokspd")
        if out != (size + 2 * pad - apart * (kernel - 1) - 1) // stride + 1:
            return True
    return False


def batched(shape, ndim):
    """A shape with a batch; one of any wrong length is left for the spec to refuse."""
    return (1, *shape) if len(shape) == ndim + 1 else tuple(shape)


def like(shape, x_shape, ndim):
    """An output's shape: without the batch where the input has none."""
    return tuple(shape) if len(x_shape) == ndim + 2 else tuple(shape[1:])
