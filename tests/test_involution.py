"""Involution, CondConv and dynamic convolution against their papers' equations."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn

from .check_op import check_op
from .tolerance import assert_close

CASES = {  # n, channels, size, groups, kernel, stride, padding, dilation
    "oblong": (2, 6, (7, 11), 2, (3, 2), (1, 1), (1, 1), (1, 1)),
    "strided": (2, 4, (9, 13), 4, (3, 5), (2, 2), (1, 2), (1, 1)),
    "any stride": (1, 4, (8, 20), 1, (2, 3), (3, 3), (0, 1), (1, 1)),
    "dilated": (1, 6, (9, 40), 3, (3, 3), (1, 1), (2, 4), (2, 4)),
    "taps only in the padding": (1, 2, (2, 3), 1, (5, 7), (1, 1), (4, 6), (1, 1)),
    "seven": (1, 32, (10, 18), 2, (7, 7), (1, 1), (3, 3), (1, 1)),
}


def views(x, kernel, stride, padding, dilation):
    """x under every tap of every output pixel: (n, c, kh * kw, oh, ow), zeros in the padding."""
    (ph, pw), (kh, kw) = padding, kernel
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    oh, ow = (
        (p - d * (k - 1) - 1) // s + 1 for p, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    )
    found = [
        padded[
            :,
            :,
            u * dilation[0] : u * dilation[0] + (oh - 1) * stride[0] + 1 : stride[0],
            v * dilation[1] : v * dilation[1] + (ow - 1) * stride[1] + 1 : stride[1],
        ]
        for u in range(kh)
        for v in range(kw)
    ]
    return np.stack(found, 2)


def arrays(case, dtype="float64"):
    n, c, size, groups, kernel, stride, padding, dilation = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, c, *size)).astype(dtype)
    out = views(x, kernel, stride, padding, dilation).shape[3:]
    return x, rng.standard_normal((n, groups, kernel[0] * kernel[1], *out)).astype(dtype)


def oracle(x, k, case):
    """2103.06255, equation (4)."""
    found = views(x, *case[4:])
    return (found * np.repeat(k, x.shape[1] // k.shape[1], axis=1)).sum(2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients(case, dtype):
    x, k = arrays(case, dtype)
    want = oracle(x, k, case)
    gy = np.random.default_rng(1).standard_normal(want.shape).astype(dtype)
    tensors = fc.Tensor(x, requires_grad=True), fc.Tensor(k, requires_grad=True)
    y = F.involution2d(*tensors, *case[4:])
    y.backward(gy)
    assert_close(y.data, want, dtype, k.shape[2], 4, "y")
    gk = (views(x, *case[4:]) * gy[:, :, None]).reshape(*k.shape[:2], -1, *k.shape[2:]).sum(2)
    assert_close(tensors[1].grad.data, gk, dtype, case[1], 8, "gk")
    # the input gradient is the transpose: <y, gy> = <x, gx>
    other = np.random.default_rng(2).standard_normal(x.shape).astype(dtype)
    left, right = (oracle(other, k, case) * gy).sum(), (tensors[0].grad.data.astype(np.float64) * other).sum()
    np.testing.assert_allclose(left, right, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-3)
    flat = k.reshape(k.shape[0], -1, *k.shape[3:])
    np.testing.assert_array_equal(F.involution2d(x, flat, *case[4:]), y.data)
    np.testing.assert_array_equal(F.involution2d(x[0], k[0], *case[4:]), y.data[0])


@pytest.mark.smoke
def test_small_values_and_gradients():
    for stride in ((1, 1), (2, 1)):
        test_values_and_gradients((1, 5, (3, 4), 1, (2, 2), stride, (1, 1), (1, 1)), "float32")


def test_derivatives_of_both_orders():
    case = (1, 2, (3, 4), 2, (2, 2), (2, 1), (1, 1), (1, 1))
    check_op(lambda x, k: F.involution2d(x, k, *case[4:]), *arrays(case))


def test_bits_do_not_depend_on_threads():
    case = (2, 32, (19, 37), 2, (7, 7), (1, 1), (3, 3), (1, 1))
    x, k = arrays(case, "float32")
    before, results = fc.get_num_threads(), []
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            tensors = fc.Tensor(x, requires_grad=True), fc.Tensor(k, requires_grad=True)
            y = F.involution2d(*tensors, *case[4:])
            y.backward(x)
            results.append([y.data, *(t.grad.data for t in tensors)])
    finally:
        fc.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_awkward_arrays():
    case = CASES["oblong"]
    x, k = arrays(case)
    want = F.involution2d(x, k, *case[4:])
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(F.involution2d(last, k[:, :, ::-1][:, :, ::-1], *case[4:]), want)
    empty = fc.Tensor(x[:0], requires_grad=True)
    y = F.involution2d(empty, k[:0], *case[4:])
    y.backward(want[:0])
    assert y.shape == (0, *want.shape[1:]) and empty.grad.shape == (0, *x.shape[1:])
    x[0, 0, 3, 5] = np.nan
    assert np.isnan(F.involution2d(x, k, *case[4:])).sum() == 6


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((np.zeros((1, 4, 5, 5)), np.zeros((1, 2, 8, 5, 5)), 3, 1, 1), ValueError, "groups x 9 taps"),
        ((np.zeros((1, 4, 5, 5)), np.zeros((1, 3, 9, 5, 5)), 3, 1, 1), ValueError, "dividing 4 channels"),
        ((np.zeros((1, 4, 5, 5)), np.zeros((1, 17, 5, 5)), 3, 1, 1), ValueError, "groups x 9 taps"),
        ((np.zeros((1, 4, 5, 5)), np.zeros((1, 18, 5, 4)), 3, 1, 1), ValueError, r"1 images of \(5, 5\)"),
        ((np.zeros((1, 4, 5, 5)), np.zeros((1, 18, 5, 5), np.float32), 3, 1, 1), TypeError, "float32"),
        ((np.zeros((4, 5)), np.zeros((1, 18, 5, 5)), 3), ValueError, r"\(4, 5\)"),
        ((np.zeros((1, 4, 2, 5)), np.zeros((1, 18, 5, 5)), 3), ValueError, "kernel covers 3 in height"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        F.involution2d(*arguments)


# ---- layers


def count(layer):
    return sum(p.data.size for p in layer.parameters())


def test_involution_layer():
    x = np.random.default_rng(0).standard_normal((2, 32, 9, 12)).astype(np.float32)
    for stride in (1, 2):
        layer = nn.Involution2d(32, 5, stride)
        y = layer(x)
        y.sum().backward()
        assert y.shape == (2, 32, -(-9 // stride), 12 // stride)
        assert count(layer) == 32 * 8 + 3 * 8 + 9 * 25 * 2
        assert all(p.grad is not None for p in layer.parameters())
    for arguments, message in (((30,), "must divide the 30"), ((32, 4), "odd")):
        with pytest.raises(ValueError, match=message):
            nn.Involution2d(*arguments)


def per_image(layer, x, shares):
    """Each image with its own mixed kernel: W = sum of shares_e W_e (1904.04971, equation 1)."""
    found = []
    for image, share in zip(x, shares, strict=True):
        weight = np.tensordot(share, layer.weight.data, 1)
        bias = share @ layer.bias.data
        found.append(F.conv2d(image, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups))
    return np.stack(found)


def test_conditional_convolution():
    x = np.random.default_rng(0).standard_normal((3, 6, 9, 12)).astype(np.float32)
    layer = nn.CondConv2d(6, 8, (3, 2), stride=2, padding=1, groups=2, num_experts=3)
    means = x.mean((2, 3)) @ layer.route.weight.data.T + layer.route.bias.data
    want = per_image(layer, x, 1 / (1 + np.exp(-means)))
    y = layer(x)
    np.testing.assert_allclose(y.data, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(x[1]).data, want[1], rtol=1e-4, atol=1e-5)
    assert layer(x[:0]).shape == (0, *want.shape[1:])
    y.sum().backward()
    assert all(p.grad is not None and p.grad.data.any() for p in layer.parameters())
    assert count(layer) == 3 * (8 * 3 * 6 + 8) + 3 * 7


def test_dynamic_convolution():
    x = np.random.default_rng(0).standard_normal((3, 8, 9, 12)).astype(np.float32)
    layer = nn.DynamicConv2d(8, 5, 3, padding=1)
    for progress, temperature in ((0, 30), (0.5, 15.5), (2, 1)):
        layer.anneal(progress)
        assert layer.temperature == temperature
        hidden = np.maximum(x.mean((2, 3)) @ layer.fc1.weight.data.T + layer.fc1.bias.data, 0)
        scores = np.exp((hidden @ layer.fc2.weight.data.T + layer.fc2.bias.data) / temperature)
        want = per_image(layer, x, scores / scores.sum(1, keepdims=True))
        np.testing.assert_allclose(layer(x).data, want, rtol=1e-4, atol=1e-5)
    assert count(layer) == 4 * (5 * 8 * 9 + 5) + 2 * 9 + 4 * 3
    with pytest.raises(ValueError, match="temperature"):
        nn.DynamicConv2d(8, 5, 3, temperature=0.5)
