"""Packed weights: the same numbers as weights as they lie, kept by layers in evaluation and dropped when they
change."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import packing
from fastconv._registry import candidates
from fastconv.ops.conv import PackedWeights
from fastconv.ops.conv_transpose import PackedTransposed
from fastconv.specs import conv_spec


def test_dense_copies_only_what_is_not():
    array = np.arange(12.0).reshape(3, 4)
    assert packing.dense(array) is array and packing.dense(None) is None
    turned = packing.dense(array.T)
    assert turned.flags.c_contiguous and (turned == array.T).all()
    misaligned = np.frombuffer(b"x" + array.tobytes(), np.float64, offset=1)
    assert packing.dense(misaligned).flags.aligned


@pytest.mark.parametrize(("rows", "groups", "height"), [(16, 1, 8), (11, 1, 8), (22, 2, 8), (3, 1, 3), (5, 1, 4)])
def test_strips_hold_every_row_in_order(rows, groups, height):
    weight = np.arange(rows * 6.0).reshape(rows, 3, 2)
    packed = packing.strips(weight, groups, height)
    per_group = rows // groups
    assert packed.shape == (groups, -(-per_group // height), 6, height)
    for group in range(groups):
        for strip in range(packed.shape[1]):
            first = min(strip * height, per_group - height) + group * per_group
            want = weight.reshape(rows, 6)[first : first + height].T
            np.testing.assert_array_equal(packed[group, strip], want)


SHAPES = [
    ((1, 5, 13, 17), (11, 5, 3, 3), 1, 1, 1, 1),
    ((2, 8, 13, 17), (20, 4, 3, 2), 2, (0, 1), 1, 2),
    ((1, 3, 40, 50), (3, 3, 5, 5), 1, 2, 1, 1),
    ((1, 140, 9, 9), (24, 140, 1, 1), 1, 0, 1, 1),
    ((2, 6, 9, 9), (6, 1, 3, 3), 1, 1, 2, 6),
]


@pytest.mark.smoke
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_implementation_gives_the_same_bits_packed(shape, monkeypatch):
    x_shape, w_shape, *rest = shape
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype("f4"), rng.standard_normal(w_shape).astype("f4")
    spec = conv_spec("conv2d", 2, x_shape, w_shape, None, *rest, "float32")
    for answer in candidates("conv.fwd", spec):
        if answer.refusal is not None:
            continue
        monkeypatch.setattr("fastconv._config.IMPL", (answer.impl.name,))
        plain = F.conv2d(x, w, None, *rest)
        kept, weight = PackedWeights(), fc.Tensor(w)
        for _ in range(2):  # the second time it is known
            packed = kept.conv("conv2d", 2, x, weight, None, *rest)
            np.testing.assert_array_equal(packed, plain, err_msg=answer.impl.name)


def test_a_layer_in_evaluation_notices_new_weights():
    fc.manual_seed(0)
    layer = fc.nn.Conv2d(3, 8, 3).eval()
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 9)).astype("f4")
    with fc.no_grad():
        first = layer(x)
        np.testing.assert_array_equal(layer(x), first)
        state = {name: value * 2 for name, value in layer.state_dict().items()}
        layer.load_state_dict(state)
        np.testing.assert_allclose(layer(x), 2 * first, rtol=1e-5, atol=1e-6)
        layer.weight.data[...] = 0
        np.testing.assert_allclose(layer(x), np.broadcast_to(state["bias"][:, None, None], first.shape[1:])[None])


def test_training_and_gradients_do_not_use_kept_weights():
    layer = fc.nn.Conv2d(3, 8, 3).eval()
    x = np.ones((1, 3, 5, 5), "f4")
    layer(x).sum().backward()
    assert layer.weight.grad is not None


TRANSPOSED = [
    ((2, 6, 9, 7), (6, 4, 4, 4), 2, 1, 0, 1, 1),  # stride divides the rows of a register tile: woven
    ((1, 6, 5, 5), (6, 3, 9, 9), 3, 4, 1, 2, 1),
]


@pytest.mark.parametrize("shape", TRANSPOSED, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_transposed_layer_gives_the_same_bits_packed(shape, biased, monkeypatch):
    x_shape, w_shape, stride, padding, extra, groups, dilation = shape
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype("f4"), rng.standard_normal(w_shape).astype("f4")
    b = rng.standard_normal(w_shape[1] * groups).astype("f4") if biased else None
    monkeypatch.setattr("fastconv._config.IMPL", ("conv_bwd_data_residues",))
    settings = stride, padding, extra, groups, dilation
    plain = F.conv_transpose2d(x, w, b, *settings)
    kept, weight, bias = PackedTransposed(), fc.Tensor(w), None if b is None else fc.Tensor(b)
    for _ in range(3):
        np.testing.assert_array_equal(kept.conv("conv_transpose2d", 2, x, weight, bias, *settings), plain)
    unbiased = F.conv_transpose2d(x, w, None, *settings)
    if b is not None:
        np.testing.assert_allclose(plain - unbiased, np.broadcast_to(b[:, None, None], plain.shape), atol=1e-5)
