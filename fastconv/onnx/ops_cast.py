"""ONNX operators that change dtypes, and constants."""

from importlib import import_module

import numpy as np

from .importer import onnx_package
from .table import bounded, op


def dtype_of(number):
    """The NumPy dtype of an ONNX type number; ValueError where NumPy has none."""
    onnx = onnx_package()
    try:
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(number)))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the type number {number} is unknown") from error


def _text(value):
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) or np.asarray(value).dtype.kind == "f":
        return "NaN" if np.isnan(value) else "INF" if value == np.inf else "-INF" if value == -np.inf else f"{value}"
    return str(value)


def cast_to(x, dtype, saturate=True):
    """x in another dtype."""
    if dtype.kind == "O":
        made = np.empty(x.shape, object)
        made.reshape(-1)[:] = [_text(v) for v in x.reshape(-1)] if x.dtype != object else x.reshape(-1)
        return made
    if x.dtype == object:
        kind = np.float64 if dtype.kind not in "iub" else np.int64 if dtype.kind != "b" else np.bool_
        return (
            np.array([float(v) if kind is np.float64 else int(v) for v in x.reshape(-1)], kind)
            .astype(dtype)
            .reshape(x.shape)
        )
    if dtype.kind == "b":
        return x != 0
    if dtype.name.startswith(("float8", "float4", "float6", "int4", "uint4", "int2", "uint2")):
        return _narrow(x, dtype, saturate)
    if x.dtype.kind == "f" and dtype.kind in "iu" and dtype.itemsize < 8:
        whole = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0, posinf=2**62, neginf=-(2**62))
        return whole.astype(np.int64).astype(dtype)
    return x.astype(dtype)


def _narrow(x, dtype, saturate):
    """To the small floats and whole numbers of the ml_dtypes package."""
    if "int" in dtype.name:
        wide = x.astype(np.float32) if x.dtype.kind not in "iub" else x.astype(np.int64)
        bits, signed = int(dtype.name.strip("uint")), not dtype.name.startswith("u")
        whole = np.trunc(wide).astype(np.int64) & (2**bits - 1)
        return np.where((whole >= 2 ** (bits - 1)) & signed, whole - 2**bits, whole).astype(dtype)
    wide = x.astype(np.float32)
    if not saturate:
        return wide.astype(dtype)
    largest = float(import_module("ml_dtypes").finfo(dtype).max)
    return np.where(np.isnan(wide), wide, np.clip(wide, -largest, largest)).astype(dtype)


@op("Cast")
def cast(node, x):
    """x in the dtype `to`."""
    return cast_to(x, dtype_of(node.attrs["to"]), bool(node.get("saturate", 1)))


@op("CastLike")
def cast_like(node, x, like):
    """x in the dtype of `like`."""
    return cast_to(x, like.dtype, bool(node.get("saturate", 1)))


@op("BitCast")
def bit_cast(node, x):
    """The bits of x as another dtype of the same size."""
    dtype = dtype_of(node.attrs["to"])
    if dtype.itemsize != x.dtype.itemsize:
        raise ValueError(f"BitCast needs dtypes of one size, given {x.dtype} and {dtype}")
    return np.ascontiguousarray(x).view(dtype).reshape(x.shape)


@op("Constant")
def constant(node):
    """A value that is written in the node."""
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, value in node.attrs.items():
        if name in ("value", "sparse_value"):
            return value
        if name in kinds:
            return np.array(value, kinds[name])
        if name in ("value_string", "value_strings"):
            return np.array(value, object)
    raise ValueError("the node holds no value")


@op("ConstantOfShape")
def constant_of_shape(node, shape):
    """One value everywhere."""
    value = node.get("value")
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    sizes = tuple(int(n) for n in shape)
    if any(n < 0 for n in sizes):
        raise ValueError(f"wants a shape, given {sizes}")
    return np.full(bounded(sizes, value.dtype), value.reshape(-1)[0], value.dtype)


@op("Range")
def range_(node, start, limit, delta):
    """start, start + delta, ... before limit."""
    count = max(0, int(np.ceil((limit.item() - start.item()) / delta.item())))
    bounded((count,), start.dtype)
    return (start + np.arange(count, dtype=start.dtype) * delta).astype(start.dtype).reshape(count)


@op("EyeLike")
def eye_like(node, x):
    """Ones on a diagonal."""
    dtype = dtype_of(node.attrs["dtype"]) if "dtype" in node.attrs else x.dtype
    return np.eye(*x.shape, k=node.get("k", 0), dtype=dtype)


def _random(draw, like):
    def evaluate(node, *given):
        sizes = given[0].shape if like else node.attrs["shape"]
        number = node.get("dtype")
        dtype = dtype_of(number) if number else given[0].dtype if like else np.dtype("float32")
        seed = node.get("seed")
        return draw(node, np.random.default_rng(None if seed is None else int(abs(seed) * 1e6)), sizes).astype(dtype)

    return evaluate


def _normal(node, rng, sizes):
    return rng.normal(node.get("mean", 0.0), node.get("scale", 1.0), sizes)


def _uniform(node, rng, sizes):
    return rng.uniform(node.get("low", 0.0), node.get("high", 1.0), sizes)


for _name, _draw in {"RandomNormal": _normal, "RandomUniform": _uniform}.items():
    op(_name)(_random(_draw, False))
    op(f"{_name}Like")(_random(_draw, True))


@op("Bernoulli")
def bernoulli(node, x):
    """1 with the probability x, else 0."""
    dtype = dtype_of(node.attrs["dtype"]) if "dtype" in node.attrs else x.dtype
    seed = node.get("seed")
    rng = np.random.default_rng(None if seed is None else int(abs(seed) * 1e6))
    return (rng.random(x.shape) < x).astype(dtype)
