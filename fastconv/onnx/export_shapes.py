"""How operations that move values are written in operators of ONNX; see `export_ops.py`."""

import numpy as np

from .export_ops import TABLE, UnsupportedError, scalar, writes

# ---- arrangement


@writes("reshape")
def _reshape(w, attrs, inputs, outputs):
    w.add("Reshape", [inputs[0], w.numbers(w.shape(outputs[0]))], outputs, allowzero=int(0 in w.shape(outputs[0])))


@writes("permute")
def _permute(w, attrs, inputs, outputs):
    ndim = len(w.shape(inputs[0]))
    w.add("Transpose", inputs, outputs, perm=[axis % ndim for axis in attrs["axes"]])


@writes("expand")
def _expand(w, attrs, inputs, outputs):
    w.add("Expand", [inputs[0], w.numbers(w.shape(outputs[0]))], outputs)


@writes("cat")
def _cat(w, attrs, inputs, outputs):
    w.add("Concat", inputs, outputs, axis=attrs["axis"])


@writes("index")
def _index(w, attrs, inputs, outputs):
    """Slices and numbers; an array of positions along one axis."""
    key = attrs["key"] if isinstance(attrs["key"], tuple) else (attrs["key"],)
    shape = w.shape(inputs[0])
    if Ellipsis in [k for k in key if not isinstance(k, np.ndarray)]:
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        full = len(shape) - sum(k is not None for k in key) + 1
        key = (*key[:at], *[slice(None)] * full, *key[at + 1 :])
    parts, value = [], inputs[0]
    for axis, k in enumerate(k for k in key if k is not None):
        if isinstance(k, slice):
            start, stop, step = k.indices(shape[axis])
            if (start, stop, step) != (0, shape[axis], 1):
                parts.append((start, stop if stop >= 0 else -shape[axis] - 1, axis, step))
        elif isinstance(k, (int, np.integer)) and not isinstance(k, bool):
            parts.append((int(k), int(k) + 1 or shape[axis], axis, 1))
        elif isinstance(k, np.ndarray) and k.dtype.kind in "iu" and sum(isinstance(o, np.ndarray) for o in key) == 1:
            value = w.add("Gather", [value, w.numbers(k.reshape(-1))], axis=axis)
        else:
            raise UnsupportedError(f"ONNX has no such index: {key}")
    if parts:
        value = w.add("Slice", [value, *(w.numbers(numbers) for numbers in zip(*parts, strict=True))])
    w.add("Reshape", [value, w.numbers(w.shape(outputs[0]))], outputs)


@writes("cast")
def _cast(w, attrs, inputs, outputs):
    w.add("Cast", inputs, outputs, to=w.type_number(attrs["dtype"]))


@writes("pad")
def _pad(w, attrs, inputs, outputs):
    x, mode = inputs[0], attrs.get("mode", "constant")
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}.get(mode)
    if mode is None or (mode == "wrap" and w.opset < 19):
        raise UnsupportedError(f"opset {w.opset} has no padding {attrs['mode']!r}")
    pads = w.numbers([before for before, _ in attrs["pads"]] + [after for _, after in attrs["pads"]])
    fill = scalar(w, attrs.get("fill", 0), x) if mode == "constant" else None
    w.add("Pad", [x, pads, fill], outputs, mode=mode)


def _reduce(op):
    def write(w, attrs, inputs, outputs):
        axes = attrs.get("axes")
        given = [inputs[0]] if axes is None else [inputs[0], w.numbers(axes)]
        name = op or ("ReduceMax" if attrs["sign"] > 0 else "ReduceMin")
        w.add(name, given, outputs, keepdims=int(bool(attrs.get("keepdim"))))

    return write


TABLE.update({"sum": _reduce("ReduceSum"), "mean": _reduce("ReduceMean"), "extreme": _reduce(None)})


def _shuffled(w, x, split, order, outputs):
    parts = w.add("Reshape", [x, w.numbers(split)])
    w.add("Reshape", [w.add("Transpose", [parts], perm=order), w.numbers(w.shape(outputs[0]))], outputs)


@writes("channel_shuffle")
def _channel_shuffle(w, attrs, inputs, outputs):
    shape, axis, groups = w.shape(inputs[0]), attrs["axis"], attrs["groups"]
    split = [*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :]]
    order = [*range(len(split))]
    order[axis], order[axis + 1] = axis + 1, axis
    _shuffled(w, inputs[0], split, order, outputs)


@writes("pixel_shuffle")
def _pixel_shuffle(w, attrs, inputs, outputs):
    *lead, c, high, wide = w.shape(inputs[0])
    b, n = attrs["factor"], len(lead)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    _shuffled(w, inputs[0], [*lead, c // (b * b), b, b, high, wide], order, outputs)


@writes("pixel_unshuffle")
def _pixel_unshuffle(w, attrs, inputs, outputs):
    *lead, c, high, wide = w.shape(inputs[0])
    b, n = attrs["factor"], len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    _shuffled(w, inputs[0], [*lead, c, high // b, b, wide // b, b], order, outputs)


# ---- other sizes


@writes("interpolate")
def _interpolate(w, attrs, inputs, outputs):
    x = inputs[0]
    mode, _, wanted, aligned, factors, smooth = attrs["settings"]
    if attrs.get("transposed"):
        raise UnsupportedError("ONNX has no gradient of a resizing")
    kinds = {"nearest": "nearest", "nearest-exact": "nearest", "bicubic": "cubic"}
    settings: dict = {"mode": kinds.get(mode, "linear")} | ({"antialias": 1, "exclude_outside": 1} if smooth else {})
    settings["coordinate_transformation_mode"] = "align_corners" if aligned else "half_pixel"
    if mode == "nearest":
        settings |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    elif mode == "nearest-exact":
        settings["nearest_mode"] = "round_prefer_ceil"
    elif mode == "bicubic":
        settings["cubic_coeff_a"] = -0.5 if smooth else -0.75
    if None in factors:
        given = [None, None, w.numbers([*w.shape(x)[:2], *wanted])]
    else:
        given = [None, w.numbers([1, 1, *factors], "float32")]
    w.add("Resize", [x, *given], outputs, **settings)


@writes("grid_sample")
def _grid_sample(w, attrs, inputs, outputs):
    mode, padding, align = attrs["settings"]
    modes = ("linear", "linear", "cubic") if w.opset >= 20 else ("bilinear", "bilinear", "bicubic")
    settings = {"mode": ("nearest", *modes[1:])[mode], "padding_mode": ("zeros", "border", "reflection")[padding]}
    if len(w.shape(inputs[0])) != 4 and w.opset < 20:
        raise UnsupportedError("volumes are sampled from opset 20 on")
    w.add("GridSample", inputs, outputs, align_corners=int(align), **settings)
