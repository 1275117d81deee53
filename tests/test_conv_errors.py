"""What the convolutions refuse, in the words that they use, and PyTorch's opinion of the same calls."""

import numpy as np
import pytest

from fastconv import prepared
from fastconv.autograd import Tensor
from fastconv.ops import conv as ops

from . import tolerance
from .cases import FULL, SMOKE
from .test_conv_api import functions, passes


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


X, W = (1, 3, 7, 5), (4, 3, 3, 2)

# name: (x, w, b, settings), error, words of the message: what was given and what was wanted.  Refused by PyTorch too.
REFUSED = {
    "channels": (((1, 12, 7, 5), (8, 8, 3, 3), None, {"groups": 2}), ValueError, ["16", "8 per group x 2", "has 12"]),
    "channels of one group": (((1, 4, 7, 5), W, None, {}), ValueError, ["expects 3", "has 4", "(1, 4, 7, 5)"]),
    "oc by groups": (((1, 6, 7, 5), (4, 2, 3, 3), None, {"groups": 3}), ValueError, ["4 output channels", "3 groups"]),
    "no output channels": ((X, (0, 3, 3, 3), None, {}), ValueError, ["(0, 3, 3, 3)"]),
    "groups 0": ((X, W, None, {"groups": 0}), ValueError, ["groups", "at least 1", "given 0"]),
    "groups negative": ((X, W, None, {"groups": -1}), ValueError, ["groups", "at least 1", "given -1"]),
    "groups float": ((X, W, None, {"groups": 1.0}), TypeError, ["groups", "whole number", "1.0"]),
    "groups True": ((X, W, None, {"groups": True}), TypeError, ["groups", "whole number", "True"]),
    "input rank 2": (((7, 5), W, None, {}), ValueError, ["4 dimensions", "(7, 5)"]),
    "input rank 5": (((1, 1, 3, 7, 5), W, None, {}), ValueError, ["4 dimensions", "(1, 1, 3, 7, 5)"]),
    "weight rank 3": ((X, (4, 3, 3), None, {}), ValueError, ["4 dimensions", "(4, 3, 3)"]),
    "weight rank 5": ((X, (4, 3, 3, 3, 3), None, {}), ValueError, ["4 dimensions", "(4, 3, 3, 3, 3)"]),
    "bias length": ((X, W, (3,), {}), ValueError, ["bias", "(4,)", "(3,)"]),
    "bias rank": ((X, W, (4, 1), {}), ValueError, ["bias", "(4,)", "(4, 1)"]),
    "bias scalar": ((X, W, (), {}), ValueError, ["bias", "(4,)", "()"]),
    "kernel too high": (((1, 3, 2, 5), W, None, {}), ValueError, ["3 in height", "2"]),
    "kernel too wide": (((1, 3, 7, 5), (4, 3, 1, 6), None, {}), ValueError, ["6 in width", "5"]),
    "dilated kernel too wide": ((X, (4, 3, 3, 3), None, {"dilation": 3}), ValueError, ["7 in width", "5"]),
    "padded, still too small": ((X, (4, 3, 10, 2), None, {"padding": 1}), ValueError, ["10 in height", "9"]),
    "kernel without taps": ((X, (4, 3, 0, 3), None, {}), ValueError, ["at least one tap", "(4, 3, 0, 3)"]),
    "image without pixels": (((1, 3, 0, 5), W, None, {}), ValueError, ["3 in height", "0"]),
    "image of padding alone": (((1, 3, 0, 5), W, None, {"padding": 2}), ValueError, ["(1, 3, 0, 5)"]),
    "stride 0": ((X, W, None, {"stride": 0}), ValueError, ["stride", "at least 1", "given 0"]),
    "stride negative": ((X, W, None, {"stride": (1, -2)}), ValueError, ["stride", "at least 1", "(1, -2)"]),
    "stride too long": ((X, W, None, {"stride": (1, 1, 1)}), ValueError, ["stride", "2 values", "given 3"]),
    "stride empty": ((X, W, None, {"stride": ()}), ValueError, ["stride", "2 values", "given 0"]),
    "stride float": ((X, W, None, {"stride": 1.5}), TypeError, ["stride", "whole number", "1.5"]),
    "stride text": ((X, W, None, {"stride": "2"}), TypeError, ["stride", "whole number", "'2'"]),
    "stride None": ((X, W, None, {"stride": None}), TypeError, ["stride", "whole number", "None"]),
    "stride of floats": ((X, W, None, {"stride": (1.0, 2.0)}), TypeError, ["stride", "whole number", "(1.0, 2.0)"]),
    "dilation 0": ((X, W, None, {"dilation": 0}), ValueError, ["dilation", "at least 1", "given 0"]),
    "dilation too long": ((X, W, None, {"dilation": (1, 1, 1)}), ValueError, ["dilation", "2 values", "given 3"]),
    "dilation float": ((X, W, None, {"dilation": 2.0}), TypeError, ["dilation", "whole number", "2.0"]),
    "padding negative": ((X, W, None, {"padding": (0, -1)}), ValueError, ["padding", "at least 0", "(0, -1)"]),
    "padding too long": ((X, W, None, {"padding": (1, 1, 1)}), ValueError, ["padding", "2 values", "given 3"]),
    "padding float": ((X, W, None, {"padding": 0.5}), TypeError, ["padding", "whole number", "0.5"]),
    "padding word": ((X, W, None, {"padding": "full"}), ValueError, ['"same"', '"valid"', "'full'"]),
    "stride as array": ((X, W, None, {"stride": np.array([1, 2])}), TypeError, ["stride", "whole number", "array"]),
    "padding as dict": ((X, W, None, {"padding": {}}), TypeError, ["padding", "whole number", "{}"]),
    "same with stride": ((X, W, None, {"padding": "same", "stride": 2}), ValueError, ["same", "stride 1", "(2, 2)"]),
}

# name: arrays, words.
REFUSED_ARRAYS = {
    "integers": ((zeros(*X, dtype="int64"), zeros(*W, dtype="int64"), None), ["input", "float32 or float64", "int64"]),
    "half": ((zeros(*X, dtype="float16"), zeros(*W, dtype="float16"), None), ["input", "float32", "float16"]),
    "complex": ((zeros(*X, dtype="complex64"), zeros(*W), None), ["input", "float32", "complex64"]),
    "bool": ((zeros(*X, dtype="bool"), zeros(*W), None), ["input", "float32 or float64", "bool"]),
    "objects": ((zeros(*X, dtype="O"), zeros(*W), None), ["input", "float32 or float64", "object"]),
    "foreign bytes": ((zeros(*X, dtype=">f4"), zeros(*W), None), ["input", "float32 or float64", ">f4"]),
    "weight of another dtype": ((zeros(*X), zeros(*W, dtype="float64"), None), ["input float32", "weight float64"]),
    "bias of another dtype": ((zeros(*X), zeros(*W), zeros(4, dtype="float64")), ["input float32", "bias float64"]),
    "weight of integers": ((zeros(*X), zeros(*W, dtype="int32"), None), ["weight", "float32 or float64", "int32"]),
    "list": ((zeros(*X).tolist(), zeros(*W), None), ["input", "array or a Tensor", "list"]),
    "None": ((None, zeros(*W), None), ["input", "array or a Tensor", "NoneType"]),
    "no weight": ((zeros(*X), None, None), ["weight", "array or a Tensor", "NoneType"]),
    "number as bias": ((zeros(*X), zeros(*W), 1.0), ["bias", "array or a Tensor", "float"]),
}


def says(error, words):
    """The message names the function, and every word is in it."""
    text = str(error.value)
    assert text.startswith("conv2d"), text
    assert all(word in text for word in words), (text, words)


@pytest.fixture
def no_kernel_runs(monkeypatch):
    def run(*arguments):
        raise AssertionError("a kernel was about to run")

    monkeypatch.setattr(prepared, "run", run)


def rows(table):
    return [pytest.param(*row, id=name) for name, row in table.items()]


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize(("call", "kind", "words"), rows(REFUSED))
def test_refused(call, kind, words):
    x, w, b, settings = call
    bias = None if b is None else zeros(*b)
    with pytest.raises(kind) as error:
        ops.conv2d(zeros(*x), zeros(*w), bias, **settings)
    says(error, words)
    if b is None:
        with pytest.raises(kind) as error:
            ops.conv2d_input(x, zeros(*w), zeros(1, 4, 5, 4), **settings)
        says(error, words)
        with pytest.raises(kind) as error:
            ops.conv2d_weight(zeros(*x), w, zeros(1, 4, 5, 4), **settings)
        says(error, words)


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize(("arrays", "words"), REFUSED_ARRAYS.values(), ids=REFUSED_ARRAYS)
def test_refused_arrays(arrays, words):
    with pytest.raises(TypeError) as error:
        ops.conv2d(*arrays)
    says(error, words)


GY = (1, 4, 5, 4)

# name: (shape of the input, of the weight, of the gradient), error, words.
REFUSED_GRADIENTS = {
    "width": ((X, W, (1, 4, 5, 5)), ValueError, ["(1, 4, 5, 4)", "(1, 4, 5, 5)"]),
    "batch": ((X, W, (2, 4, 5, 4)), ValueError, ["(1, 4, 5, 4)", "(2, 4, 5, 4)"]),
    "batch missing": ((X, W, (4, 5, 4)), ValueError, ["batch", "(4, 5, 4)"]),
    "batch too many": ((X[1:], W, GY), ValueError, ["batch", "(3, 7, 5)"]),
    "rank of the input": ((X[2:], W, GY), ValueError, ["4 dimensions", "(7, 5)"]),
    "rank of the weight": ((X, W[1:], GY), ValueError, ["4 dimensions", "(3, 3, 2)"]),
    "rank of the gradient": ((X, W, (5, 4)), ValueError, ["grad_output", "(5, 4)"]),
    "channels of the gradient": ((X, W, (1, 3, 5, 4)), ValueError, ["(1, 4, 5, 4)", "(1, 3, 5, 4)"]),
}


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize(("shapes", "kind", "words"), rows(REFUSED_GRADIENTS))
def test_refused_gradients(shapes, kind, words):
    x, w, gy = shapes
    for function, arguments in [
        ("conv2d_input", (x, zeros(*w), zeros(*gy))),
        ("conv2d_weight", (zeros(*x), w, zeros(*gy))),
    ]:
        with pytest.raises(kind) as error:
            getattr(ops, function)(*arguments)
        says(error, [function, *words])


REFUSED_SIZES = {
    "size is a number": ("conv2d_input", 7, TypeError, ["input_size", "7"]),
    "size of floats": ("conv2d_input", (1, 3, 7.5, 5), TypeError, ["input_size", "7.5"]),
    "negative size": ("conv2d_input", (1, 3, -7, 5), ValueError, ["-7"]),
    "negative batch": ("conv2d_input", (-1, 3, 7, 5), ValueError, ["-1"]),
    "no size": ("conv2d_weight", None, TypeError, ["weight_size", "None"]),
    "negative kernel": ("conv2d_weight", (4, 3, -3, 2), ValueError, ["(4, 3, -3, 2)"]),
}


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize(("function", "size", "kind", "words"), rows(REFUSED_SIZES))
def test_refused_sizes(function, size, kind, words):
    arguments = (size, zeros(*W), zeros(*GY)) if function == "conv2d_input" else (zeros(*X), size, zeros(*GY))
    with pytest.raises(kind) as error:
        getattr(ops, function)(*arguments)
    says(error, [function, *words])


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_refused_dtype_of_the_gradient(dtype):
    for function, first, second in [("conv2d_input", X, zeros(*W)), ("conv2d_weight", zeros(*X), W)]:
        with pytest.raises(TypeError) as error:
            getattr(ops, function)(first, second, zeros(*GY, dtype=dtype))
        says(error, [function, "grad_output", dtype])


REMEMBERED = {
    "numbers after equal whole numbers": ({"stride": (1, 2)}, {"stride": (1.0, 2.0)}, "(1.0, 2.0)"),
    "number after an equal whole number": ({"stride": 1}, {"stride": 1.0}, "1.0"),
    "True after 1": ({"padding": (1, 0)}, {"padding": (True, 0)}, "(True, 0)"),
}


@pytest.mark.smoke
@pytest.mark.parametrize(("right", "wrong", "word"), rows(REMEMBERED))
def test_refused_after_an_equal_call(right, wrong, word):
    """What has been accepted before says nothing about what merely compares equal."""
    ops.conv2d(zeros(*X), zeros(*W), **right)
    with pytest.raises(TypeError) as error:
        ops.conv2d(zeros(*X), zeros(*W), **wrong)
    says(error, ["whole number", word])


@pytest.mark.smoke
@pytest.mark.usefixtures("no_kernel_runs")
def test_refused_tensors():
    """The same words for Tensors, and for other ranks."""
    with pytest.raises(ValueError, match=r"conv2d: weight expects 3 input channels, input has 4"):
        ops.conv2d(Tensor(zeros(1, 4, 7, 5)), Tensor(zeros(*W), requires_grad=True))
    with pytest.raises(ValueError, match=r"conv1d: the kernel covers 5 in length, more than the padded input's 4"):
        ops.conv1d(zeros(1, 1, 4), zeros(1, 1, 5))
    with pytest.raises(ValueError, match=r"conv3d: the kernel covers 3 in depth, more than the padded input's 2"):
        ops.conv3d(zeros(1, 1, 2, 9, 9), zeros(1, 1, 3, 3, 3))


# ---- PyTorch


@pytest.mark.torch
@pytest.mark.parametrize(("call", "kind", "words"), REFUSED.values(), ids=REFUSED)
def test_torch_refuses_too(call, kind, words):
    torch = pytest.importorskip("torch")
    x, w, b, settings = call
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.nn.functional.conv2d(torch.zeros(x), torch.zeros(w), None if b is None else torch.zeros(b), **settings)


ACCEPTED = {
    "batch 0": ((0, 3, 7, 5), W, {}),
    "batch 0 and an image of padding alone": ((0, 3, 0, 5), W, {"padding": 2}),
    "no batch": ((3, 7, 5), W, {"padding": 1}),
    "one number in a tuple": (X, W, {"stride": (2,), "padding": (1,), "dilation": (1,)}),
    "kernel as large as the image": (X, (4, 3, 7, 5), {}),
    "kernel larger than the image": (X, (4, 3, 9, 9), {"padding": 2}),
    "stride beyond the image": (X, W, {"stride": 100}),
    "padding beyond the image": (X, W, {"padding": 20}),
    "same, odd and even span": (X, (4, 3, 3, 2), {"padding": "same", "dilation": (1, 2)}),
    "same, dilated": (X, (4, 3, 3, 3), {"padding": "same", "dilation": (3, 2)}),
}


@pytest.mark.torch
@pytest.mark.parametrize(("x", "w", "settings"), ACCEPTED.values(), ids=ACCEPTED)
def test_torch_accepts_too(x, w, settings):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(shape, np.float32) for shape in (x, w, w[:1])]
    wanted = torch.nn.functional.conv2d(*map(torch.from_numpy, arrays), **settings).numpy()
    np.testing.assert_allclose(ops.conv2d(*arrays, **settings), wanted, rtol=1e-5, atol=1e-5, strict=True)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("c", [pytest.param(c, id=str(c)) for c in SMOKE + FULL[::4] if c.is_public and c.n])
def test_same_numbers_as_torch(c):
    torch = pytest.importorskip("torch")
    arrays = c.arrays("float32")
    x, w, b, gy = (None if a is None else torch.from_numpy(a) for a in arrays)
    x.requires_grad, w.requires_grad = True, True
    y = getattr(torch.nn.functional, functions(c.ndim).conv.__name__)(x, w, b, **c.settings)
    wanted = (y, *torch.autograd.grad(y, (x, w), gy))
    for actual, other, terms in zip(passes(c, *arrays), wanted, c.terms.values(), strict=True):
        scale = np.sqrt(terms) * 4  # both round; unit operands have squared sums of about `terms`
        tolerance.assert_close(actual, other.detach().double().numpy(), "float32", terms, 2 * scale)
