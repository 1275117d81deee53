"""The non-local operation against equation (1) of Wang et al. 2018 (arXiv 1711.07971), with the whole matrix of
pairs.
"""

import tracemalloc

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn

from .check_op import check_op
from .tolerance import assert_close

FUNCTIONS = ("softmax", "dot", "relu")
SHAPES = {  # n, d, e, rows, columns
    "small": (2, 3, 5, 7, 4),
    "one": (1, 1, 1, 1, 1),
    "tails": (1, 17, 18, 129, 131),
    "blocks": (2, 20, 33, 200, 300),
    "few rows": (1, 5, 40, 2, 257),
}


def arrays(shape, dtype="float64"):
    n, d, e, rows, columns = shape
    rng = np.random.default_rng(0)
    sizes = (n, d, rows), (n, d, columns), (n, e, columns), (n, e, rows)
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def weights(theta, phi, function):
    """f / C, and the derivative of its numerator, (n, rows, columns)."""
    scores = np.einsum("ndi,ndj->nij", theta.astype(np.float64), phi.astype(np.float64))
    if function == "softmax":
        e = np.exp(scores - scores.max(2, keepdims=True))
        return e / e.sum(2, keepdims=True)
    return (np.maximum(scores, 0) if function == "relu" else scores) / scores.shape[2]


def oracle(theta, phi, g, gy, function):
    """y and the three gradients."""
    p = weights(theta, phi, function)
    gp = np.einsum("nci,ncj->nij", gy.astype(np.float64), g.astype(np.float64))
    if function == "softmax":
        gs = p * (gp - (gp * p).sum(2, keepdims=True))
    else:
        gs = gp / p.shape[2] * (1 if function == "dot" else p > 0)
    y = np.einsum("nij,ncj->nci", p, g)
    gtheta, gphi = np.einsum("nij,ndj->ndi", gs, phi), np.einsum("nij,ndi->ndj", gs, theta)
    return y, gtheta, gphi, np.einsum("nij,nci->ncj", p, gy)


def run(theta, phi, g, gy, function):
    tensors = [fc.Tensor(a, requires_grad=True) for a in (theta, phi, g)]
    y = F.non_local(*tensors, function)
    y.backward(gy)
    return [y.data, *(t.grad.data for t in tensors)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients(shape, function, dtype):
    given = arrays(shape, dtype)
    for name, got, want in zip(
        ("y", "gtheta", "gphi", "gg"), run(*given, function), oracle(*given, function), strict=True
    ):
        assert_close(got, want, dtype, 64 * sum(shape), np.abs(want).max() + 1e-3, name)


@pytest.mark.smoke
def test_small_values_and_gradients():
    test_values_and_gradients(SHAPES["small"], "softmax", "float32")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_by_differences(function):
    theta, phi, g, _ = arrays((1, 2, 3, 3, 4))
    check_op(lambda *a: F.non_local(*a, function), theta, phi, g, second=function == "dot")


def test_large_scores():
    theta, phi, g, gy = arrays((1, 8, 4, 70, 200), "float32")
    for scale in (30, 1000):  # e^score is beyond float32: the maximum must be taken out
        want = oracle(scale * theta, phi, g, gy, "softmax")[0]
        np.testing.assert_allclose(F.non_local(scale * theta, phi, g), want, rtol=1e-2, atol=1e-2)
    # all scores far below zero, and a block that is not full
    phi = -np.abs(phi) * 100
    found = run(np.abs(theta), phi, g, gy, "softmax")
    assert all(np.isfinite(a).all() for a in found)


def test_bits_do_not_depend_on_threads():
    given = arrays((2, 24, 40, 300, 280), "float32")
    before, results = fc.get_num_threads(), []
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            results.append(run(*given, "softmax"))
    finally:
        fc.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_memory_grows_with_positions():
    """A 56x56 map of 256 channels, 128 between, forward and backward: under 20 MB beyond input and output."""
    given = arrays((1, 128, 128, 3136, 3136), "float32")
    run(*arrays((1, 128, 128, 64, 128), "float32"), "softmax")  # compiles
    tracemalloc.start()
    found = run(*given, "softmax")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - sum(a.nbytes for a in found) < 20e6
    np.testing.assert_allclose(
        found[0][:, :, :50], oracle(given[0][:, :, :50], *given[1:3], given[3][:, :, :50], "softmax")[0], atol=1e-4
    )


def test_awkward_arrays():
    theta, phi, g, gy = arrays(SHAPES["small"])
    want = run(theta, phi, g, gy, "softmax")
    turned = [np.ascontiguousarray(a.transpose(2, 1, 0)).transpose(2, 1, 0) for a in (theta, phi, g, gy)]
    for one, two in zip(want, run(*turned, "softmax"), strict=True):
        np.testing.assert_array_equal(one, two)
    assert F.non_local(theta[:0], phi[:0], g[:0]).shape == (0, 5, 7)
    phi[0, 0, 2] = np.nan
    y = F.non_local(theta, phi, g)
    assert np.isnan(y[0]).all() and not np.isnan(y[1]).any()


@pytest.mark.parametrize(
    "shapes, message",
    [
        (((1, 2, 3), (1, 3, 3), (1, 2, 3)), "same batch and channels"),
        (((1, 2, 3), (1, 2, 4), (1, 2, 3)), "same batch and positions"),
        (((2, 3), (2, 3), (2, 3)), "3 dimensions"),
        (((1, 2, 3), (1, 2, 0), (1, 2, 0)), "at least one position"),
    ],
)
def test_refusals(shapes, message):
    with pytest.raises(ValueError, match=message):
        F.non_local(*map(np.zeros, shapes))
    with pytest.raises(TypeError, match="float32"):
        F.non_local(np.zeros((1, 2, 3)), np.zeros((1, 2, 3), np.float32), np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="'cosine'"):
        F.non_local(*[np.zeros((1, 2, 3))] * 3, "cosine")


# ---- layers


def block(layer, x, mode):
    """Equation (6) by the whole matrix of pairs, for a layer without pooling and norm, W not zero."""

    def conv(c):
        return np.einsum("oc,ncp->nop", c.weight.data.reshape(c.weight.shape[:2]), flat) + c.bias.data[:, None]

    flat = x.reshape(*x.shape[:2], -1).astype(np.float64)
    theta, phi = (flat, flat) if mode == "gaussian" else (conv(layer.theta), conv(layer.phi))
    if mode == "concatenation":
        left, right = layer.pair.data[:1] @ theta, layer.pair.data[1:] @ phi
        p = np.maximum(left.transpose(0, 2, 1) + right, 0) / flat.shape[2]
    else:
        p = weights(theta, phi, "dot" if mode == "dot" else "softmax")
    y = np.einsum("nij,ncj->nci", p, conv(layer.g))
    flat = y
    return (conv(layer.W)).reshape(x.shape) + x


@pytest.mark.parametrize("mode", ["gaussian", "embedded", "dot", "concatenation"])
@pytest.mark.parametrize("layer, size", [(nn.NonLocal1d, (9,)), (nn.NonLocal2d, (4, 7)), (nn.NonLocal3d, (2, 3, 4))])
def test_layers(layer, size, mode):
    x = np.random.default_rng(0).standard_normal((2, 6, *size)).astype(np.float32)
    made = layer(6, mode=mode, norm=False)
    np.testing.assert_array_equal(made(x).data, x)  # begins as the identity
    nn.init.normal_(made.W.weight)
    y = made(x)
    np.testing.assert_allclose(y.data, block(made, x, mode), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(made(x[1]).data, y.data[1], rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert all(p.grad is not None for p in made.parameters())
    embedded = mode != "gaussian"
    count = 2 * 6 * 3 + 3 + 6 + embedded * (2 * 6 * 3 + 2 * 3) + (mode == "concatenation") * 2 * 3
    assert sum(p.data.size for p in made.parameters()) == count


def test_layer_with_pooling_and_norm():
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 10)).astype(np.float32)
    layer = nn.NonLocal2d(8, sub_sample=True)
    np.testing.assert_array_equal(layer(x).data, x)
    nn.init.ones_(layer.W[1].weight)
    assert not np.array_equal(layer(x).data, x)
    with pytest.raises(ValueError, match="cosine"):
        nn.NonLocal2d(8, mode="cosine")
