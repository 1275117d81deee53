"""Receptive fields: which pixels of the input an output can see, followed through the operations of a forward pass.

Along one axis the outputs' windows are `size` pixels wide, `jump` pixels apart, and the first one's centre is at
`start`, where the first pixel reaches from 0 to 1.  A window of k taps with stride s, padding p and dilation d gives

    size + d (k - 1) jump,   jump s,   start + (d (k - 1) / 2 - p) jump

(Araujo, Norris and Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill, equations 2 and
4).  Where branches meet, the windows' union counts.  What looks at the whole image (global pooling, squeeze and
excitation, non-local layers) has all windows as one; where it meets what looks at a part, sizes are upper bounds from
there on, since the windows are no longer equal.  Offsets of deformable convolutions count as zero, and statistics of
normalisations as constants.
"""

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..autograd import value
from ..pool_specs import AdaptiveSpec, PoolSpec
from ..specs import ConvSpec


class Field(NamedTuple):
    """The windows along one axis, in pixels of the input; see the module's docstring."""

    size: float
    jump: float
    start: float

    @property
    def low(self):
        """Where the first window begins."""
        return self.start - self.size / 2

    @property
    def high(self):
        """Where the first window ends."""
        return self.start + self.size / 2


@dataclass(frozen=True)
class Seen:
    """What a tensor sees.  places: for each axis of the input image the axis of the tensor along which the windows
    follow each other, counted from the back (it may be merged with others); None where one window stands for all.
    """

    fields: tuple[Field, ...]
    places: tuple[int | None, ...]
    sizes: tuple[int, ...]


def first_seen(shape):
    """What the pixels of an input (n, c, *size) see: themselves."""
    size = tuple(shape[2:])
    return Seen((Field(1, 1, 0.5),) * len(size), tuple(range(-len(size), 0)), size)


def window(field, kernel, stride=1.0, before=0.0, dilation=1.0):
    """The field after a window of `kernel` taps with padding `before`."""
    reach = dilation * (kernel - 1)
    return Field(field.size + reach * field.jump, field.jump * stride, field.start + (reach / 2 - before) * field.jump)


def _union(fields, jump):
    low, high = min(f.low for f in fields), max(f.high for f in fields)
    return Field(high - low, jump, (low + high) / 2)


def _whole(seen, axis):
    """All windows along one axis as one."""
    return window(seen.fields[axis], seen.sizes[axis]) if seen.places[axis] is not None else seen.fields[axis]


def _all_of(seen, axes=None):
    """`seen` with one window for all along the given axes of the image."""
    axes = range(len(seen.fields)) if axes is None else axes
    fields = tuple(_whole(seen, i) if i in axes else f for i, f in enumerate(seen.fields))
    return Seen(fields, tuple(None if i in axes else p for i, p in enumerate(seen.places)), seen.sizes)


# ---- branches that meet


def _meet(inputs, out_shape, joined=False):
    """Element by element, broadcast: `inputs` are (Seen, shape).  joined: along another axis, all sizes count."""
    fields, places, sizes = [], [], []
    for axis in range(len(inputs[0][0].fields)):
        carriers = [
            seen
            for seen, shape in inputs
            if (place := seen.places[axis]) is not None
            and (joined or (len(out_shape) >= -place and shape[place] == out_shape[place]))
        ]
        chosen = carriers or [seen for seen, _ in inputs]
        jump = max(seen.fields[axis].jump for seen in chosen)
        fields.append(_union([s.fields[axis] if s in carriers else _whole(s, axis) for s, _ in inputs], jump))
        places.append(chosen[0].places[axis] if carriers else None)
        sizes.append(chosen[0].sizes[axis])
    return Seen(tuple(fields), tuple(places), tuple(sizes))


# ---- windows


def _moved(seen, fields, out):
    """New fields along the last axes, where a window operation has them."""
    rank = len(fields)
    return Seen(tuple(fields), tuple(range(-rank, 0)), out.shape[-rank:])


def _in_place(seen, rank):
    return seen.places == tuple(range(-rank, 0))


def _last(spec, names):
    names = names.split()
    return [getattr(spec, name) for name in names[3 - getattr(spec, "ndim", 2) :]]


def _conv(seen, spec, out):
    numbers = zip(
        seen.fields,
        _last(spec, "kd kh kw"),
        _last(spec, "sd sh sw"),
        _last(spec, "pd ph pw"),
        _last(spec, "dd dh dw"),
        strict=True,
    )
    return _moved(seen, [window(*n) for n in numbers], out)


def _adaptive(seen, spec, out):
    fields = []
    for field, size, count in zip(seen.fields, _last(spec, "id ih iw"), _last(spec, "od oh ow"), strict=True):
        widths = [-(-(i + 1) * size // count) - i * size // count for i in range(max(count, 1))]
        first = window(field, widths[0], size / max(count, 1))
        fields.append(Field(window(field, max(widths)).size, first.jump, first.start))
    return _moved(seen, fields, out)


def _conv_transpose(seen, spec, out):
    fields = []
    rows = zip(
        seen.fields,
        _last(spec, "kd kh kw"),
        _last(spec, "sd sh sw"),
        _last(spec, "pd ph pw"),
        _last(spec, "dd dh dw"),
        strict=True,
    )
    for field, kernel, stride, before, dilation in rows:
        reach = dilation * (kernel - 1)
        start = field.start + (before - reach / 2) / stride * field.jump
        fields.append(Field(field.size + reach // stride * field.jump, field.jump / stride, start))
    return _moved(seen, fields, out)


def _deform(seen, spec, out):
    fields = []
    for field, taps, stride in zip(seen.fields, zip(*spec.taps, strict=True), (spec.sh, spec.sw), strict=True):
        low, high = min(taps), max(taps)
        fields.append(window(field, high - low + 1, stride, -low))
    return _moved(seen, fields, out)


_TAPS = {"nearest": 1, "nearest-exact": 1, "bicubic": 4}


def _interpolate(seen, settings, out):
    mode, size, count, align_corners, _, antialias = settings
    fields = []
    for field, i, o in zip(seen.fields, size, count, strict=True):
        ratio = (i - 1) / max(o - 1, 1) if align_corners else i / o
        taps = _TAPS.get(mode, 2) * (max(1.0, ratio) if antialias else 1)
        centre = 0 if align_corners else ratio / 2 - 0.5
        start = field.start + centre * field.jump
        fields.append(Field(field.size + (taps - 1) * field.jump, field.jump * ratio, start))
    return _moved(seen, fields, out)


def _pixel_shuffle(seen, factor, out):
    return _moved(seen, [Field(f.size, f.jump / factor, f.start) for f in seen.fields], out)


def _pixel_unshuffle(seen, factor, out):
    return _moved(seen, [window(f, factor, factor) for f in seen.fields], out)


def _shift(seen, displacement, out):
    steps = np.asarray(value(displacement), np.float64).reshape(-1, 2)
    steps = steps if len(steps) else np.zeros((1, 2))
    ranges = zip(seen.fields, np.ceil(steps.max(0)), np.floor(steps.min(0)), strict=True)
    return _moved(seen, [window(f, float(high - low) + 1, 1, float(-low)) for f, high, low in ranges], out)


_SPECS = {ConvSpec: _conv, PoolSpec: _conv, AdaptiveSpec: _adaptive}
_WINDOWS = {
    "interpolate": _interpolate,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "shift": _shift,
    "active_shift": _shift,
}


def _window_rule(name, args):
    """(rule, its second argument) of an operation that has windows along the last axes; None of another one."""
    spec: Any = next((a for a in args if isinstance(a, tuple(_SPECS))), None)
    if name in ("conv_transpose", "max_unpool"):
        return _conv_transpose, spec
    if name in ("deform_conv", "deform_aggregate"):
        return _deform, args[-1]
    if spec is not None and name != "fold":
        return _SPECS[type(spec)], spec
    return (_WINDOWS[name], args[1]) if name in _WINDOWS else None


# ---- moves


def _inner(shape):
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def _reshape(seen, shape, out_shape):
    """An axis is found again by its size and by what lies behind it; one that is merged with others is kept with the
    merged axis; one that is cut loses its order.
    """
    inner, out_inner = _inner(shape), _inner(out_shape)
    places, taken = list(seen.places), set()
    for axis in reversed(range(len(places))):
        place = places[axis]
        if place is None:
            continue
        low, high = inner[place], inner[place] * shape[place]
        spans = [
            (i - len(out_shape), n, n * size) for i, (n, size) in enumerate(zip(out_inner, out_shape, strict=True))
        ]
        exact = [i for i, a, b in spans if low <= a and b == a * seen.sizes[axis] <= high and i not in taken]
        merged = [i for i, a, b in spans if a <= low and b >= high]
        places[axis] = exact[-1] if exact else merged[-1] if merged else None
        taken.update(exact[-1:])
    lost = [i for i, place in enumerate(places) if place is None]
    return Seen(_all_of(seen, lost).fields, tuple(places), seen.sizes)


def _permute(seen, axes):
    n = len(axes)
    order = [a % n for a in axes]
    places = tuple(None if p is None else order.index(n + p) - n for p in seen.places)
    return Seen(seen.fields, places, seen.sizes)


def _pad(seen, pads):
    fields, sizes = list(seen.fields), list(seen.sizes)
    for axis, place in enumerate(seen.places):
        if place is not None:
            before, after = pads[place]
            fields[axis] = window(fields[axis], 1, before=before)
            sizes[axis] += before + after
    return Seen(tuple(fields), seen.places, tuple(sizes))


def _index(seen, key, shape):
    """Slices and numbers; anything else is not followed."""
    key = list(key) if isinstance(key, tuple) else [key]
    if not all(isinstance(k, (int, np.integer, slice, type(None), type(Ellipsis))) for k in key):
        return None
    if Ellipsis in key:
        at = key.index(Ellipsis)
        key[at : at + 1] = [slice(None)] * (len(shape) - sum(k is not None for k in key) + 1)
    key += [slice(None)] * (len(shape) - sum(k is not None for k in key))
    fields, places, sizes = list(seen.fields), list(seen.places), list(seen.sizes)
    source, kept = 0, []
    for k in key:
        axis = places.index(source - len(shape)) if k is not None and source - len(shape) in seen.places else None
        if axis is not None and seen.sizes[axis] == shape[source]:
            steps = (
                range(*k.indices(shape[source])) if isinstance(k, slice) else range(k % shape[source], shape[source])
            )
            fields[axis] = window(fields[axis], 1, abs(steps.step), -min(steps[0], steps[-1]) if len(steps) else 0)
            sizes[axis] = len(steps) if isinstance(k, slice) else 1
        kept.append(source if isinstance(k, slice) else None)
        source += k is not None
    kept = [k for k, given in zip(kept, key, strict=True) if given is None or isinstance(given, slice)]
    moved = {source - len(shape): i - len(kept) for i, source in enumerate(kept) if source is not None}
    return Seen(tuple(fields), tuple(None if p is None else moved.get(p) for p in seen.places), tuple(sizes))


def _reduce(seen, axes, keepdim, shape):
    axes = {a % len(shape) - len(shape) for a in (range(len(shape)) if axes is None else axes)}
    gone = [i for i, p in enumerate(seen.places) if p in axes]
    seen = _all_of(seen, gone)
    if keepdim:
        return seen
    places = tuple(None if p is None else p + sum(a > p for a in axes) for p in seen.places)
    return Seen(seen.fields, places, seen.sizes)


def _contract(inputs, out_shape):
    """A product of matrices: the last axis of the first and the last but one of the second are summed."""
    parts = []
    for (seen, shape), summed in zip(inputs, (-1, -2), strict=False):
        parts.append((_all_of(seen, [i for i, p in enumerate(seen.places) if p == summed]), shape))
    return _meet(parts, out_shape, joined=True)


# ---- the table


def follow(name, args, inputs, out):
    """What the first output of one operation sees.

    name: the op's; args: its arguments; inputs: (Seen, array) of those that see something, in order; out: the output.
    """
    shaped = [(seen, a.shape) for seen, a in inputs]
    seen, x = inputs[0]
    shape, rank = x.shape, len(seen.fields)
    rule = _window_rule(name, args)
    if rule is not None and _in_place(seen, rank) and out.ndim >= rank:
        moved = rule[0](seen, rule[1], out)
        others = [pair for pair in shaped[1:] if pair[0].sizes == moved.sizes]
        return _meet([(moved, out.shape), *others], out.shape)
    if name == "reshape":
        return _reshape(seen, shape, out.shape)
    if name == "permute":
        return _permute(seen, args[1])
    if name == "pad":
        return _pad(seen, args[1])
    if name == "index" and (found := _index(seen, args[1], shape)) is not None:
        return found
    if name in ("sum", "mean", "extreme"):
        return _reduce(seen, args[1], args[2], shape)
    if name in ("linear", "matmul"):
        return _contract(shaped, out.shape)
    if name == "cat":
        return _meet(shaped, out.shape, joined=True)
    if name == "non_local":
        mixed = _meet([(_all_of(s), shape) for s, shape in shaped], out.shape)
        return Seen(mixed.fields, seen.places, seen.sizes)
    if rule is None and name not in ("grid_sample", "fold", "unfold") and _broadcast(shaped, out.shape):
        return _meet(shaped, out.shape)
    return _unknown(shaped, out.shape)


def _broadcast(shaped, out_shape):
    """Whether the output has the shape to which the inputs broadcast: then each element is taken to see its own."""
    try:
        return np.broadcast_shapes(*(shape for _, shape in shaped), out_shape) == out_shape
    except ValueError:
        return False


def _unknown(shaped, out_shape):
    """An operation that mixes pixels in a way not known here: each output may see everything."""
    seen = _meet([(_all_of(s), shape) for s, shape in shaped], out_shape)
    source = shaped[0][0]
    rank = len(seen.fields)
    if len(out_shape) <= rank:
        return seen
    jumps = [f.jump * n / max(o, 1) for f, n, o in zip(source.fields, source.sizes, out_shape[-rank:], strict=True)]
    fields = tuple(Field(f.size, jump, f.start) for f, jump in zip(seen.fields, jumps, strict=True))
    return Seen(fields, tuple(range(-rank, 0)), tuple(out_shape[-rank:]))
