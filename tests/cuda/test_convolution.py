"""Convolution on the device against the oracle: every implementation that accepts a case, and the public functions.

The cases are those of the CPU, all of them; on the simulator each is shrunk (`small.py`).
"""

from math import prod

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import _registry
from fastconv.kernels import cuda
from fastconv.kernels.cuda import gpu
from fastconv.kernels.cuda.launch import launch
from tests import oracle
from tests import test_conv_transpose as transposed
from tests.cases import FULL, NETWORK, SMOKE, case
from tests.test_conv import RESULT, expected, operands
from tests.tolerance import assert_close

from .small import table

MOST = 2000  # multiply-adds of a case on the simulator
BEYOND_TILES = [
    case((3, 3), 3, 1, 1, 1, (2, 9, 9)),  # rows, columns and channels beyond one tile of the simulator
    case((5, 4), 3, 1, 1, 1, (1, 2, 3), n=3),  # a tile with columns of several images
    case((1, 1), 1, 1, 0, 1, (1, 131, 9)),  # many steps of the sum
]
CASES = [*table([*SMOKE, *FULL, *NETWORK], MOST), *BEYOND_TILES]
OPERATIONS = ("conv.fwd", "conv.bwd_data", "conv.bwd_weights")


def check(operation, problem, dtype):
    """Every implementation that accepts the case; there is at least one."""
    spec, (wanted, scale) = problem.spec(dtype), expected(operation, problem, dtype)
    accepting = [impl for impl in _registry.implementations(operation, "cuda") if impl.when(spec) is None]
    assert accepting
    given = {name: a if a is None else cuda.upload(a) for name, a in operands(operation, problem, dtype).items()}
    for impl in accepting:
        given[RESULT[operation]].fill(np.nan)
        launch(*impl.emit(spec, given))
        result = given[RESULT[operation]].numpy()
        assert_close(result, wanted, dtype, problem.terms[operation], scale, impl.name)


@pytest.mark.parametrize("problem", CASES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_implementation_agrees_with_the_oracle(operation, problem):
    check(operation, problem, "float32")


@pytest.mark.parametrize("problem", table(FULL[::5], MOST // 2), ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_double_precision(operation, problem):
    check(operation, problem, "float64")


def shrunk_transposed(problem):
    """A case of `test_conv_transpose.py` with at most five pixels a side, and nine channels if there are no groups."""
    (n, ic, *size), (_, oc, *kernel), *settings, groups, dilation = problem
    if gpu.SIMULATED:
        size = [min(i, 5) for i in size]
        ic, oc = (min(ic, 9), min(oc, 9)) if groups == 1 else (ic, oc)
        if prod(kernel) > 16:
            ic, size = min(ic, 5), [min(i, 3) for i in size]
    return (n, ic, *size), (ic, oc, *kernel), *settings, groups, dilation


@pytest.mark.parametrize("problem", [*map(shrunk_transposed, transposed.CASES)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transposed(problem, dtype):
    """Its gradients are a convolution of the output's gradient, and the weight gradient of that."""
    x, w, b, settings = transposed.arrays(problem, dtype)
    leaves = [fc.Tensor(a).to("cuda").requires_grad_() for a in (x, w, b)]
    y = getattr(F, f"conv_transpose{x.ndim - 2}d")(*leaves, **settings)
    gy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    y.backward(fc.Tensor(gy).to("cuda"))

    def results(x, w, b, gy):
        own = {name: value for name, value in settings.items() if name != "output_padding"}
        return (
            oracle.conv_transpose(x, w, b, **settings),
            oracle.conv(gy, w, **own),
            oracle.conv_weights(gy, w.shape, x, **own),
            gy.sum((0, *range(2, x.ndim)), dtype=np.float64),
        )

    scales = [np.sqrt(a) for a in results(*(a.astype(np.float64) ** 2 for a in (x, w, b, gy)))]
    found = y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)
    for got, wanted, scale in zip(found, results(x, w, b, gy), scales, strict=True):
        assert_close(got, wanted, dtype, w.size + gy.size, scale)


RNG = np.random.default_rng(3)
SHAPES = {
    "conv1d": ((2, 7), (3, 2, 3), (3,)),
    "conv2d": ((1, 2, 5, 4), (3, 2, 3, 3), (3,)),
    "conv3d": ((1, 2, 3, 3, 4), (2, 2, 2, 2, 2), (2,)),
    "conv_transpose1d": ((1, 2, 4), (2, 3, 3), (3,)),
    "conv_transpose2d": ((1, 2, 3, 3), (2, 1, 3, 2), (1,)),
    "conv_transpose3d": ((2, 2, 2, 3), (2, 1, 2, 2, 2), (1,)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_public_functions_and_their_gradients(name):
    """The result is the oracle's; gradients lie on the device and keep the sums of products that define them."""
    x, w, b = (RNG.standard_normal(shape).astype(np.float32) for shape in SHAPES[name])
    leaves = [fc.Tensor(a).to("cuda").requires_grad_() for a in (x, w, b)]
    y = getattr(F, name)(*leaves, stride=2, padding=1)
    wanted = oracle.conv_transpose if "transpose" in name else oracle.conv
    ndim, batched = w.ndim - 2, x.ndim == w.ndim
    y_wanted = wanted(x if batched else x[None], w, b, stride=2, padding=1)
    np.testing.assert_allclose(y.detach().numpy(), y_wanted if batched else y_wanted[0], rtol=1e-4, atol=1e-5)
    gy = RNG.standard_normal(y.shape).astype(np.float32)
    y.backward(fc.Tensor(gy).to("cuda"))
    assert all(leaf.grad.device == "cuda" for leaf in leaves)
    gx, gw, gb = (leaf.grad.numpy() for leaf in leaves)
    axes = tuple(range(-ndim, 0))
    np.testing.assert_allclose(gb, gy.sum(axes).reshape(-1, len(b)).sum(0), rtol=1e-4, atol=1e-5)
    bilinear = np.sum(gy * (y.detach().numpy() - b.reshape(-1, *[1] * ndim)))
    np.testing.assert_allclose([np.sum(gx * x), np.sum(gw * w)], bilinear, rtol=1e-3, atol=1e-4)


def test_gradients_as_functions():
    x, w = (RNG.standard_normal(s).astype(np.float32) for s in ((1, 2, 4, 5), (3, 2, 3, 3)))
    gy = RNG.standard_normal((1, 3, 2, 3)).astype(np.float32)
    gx = F.conv2d_input(x.shape, cuda.upload(w), cuda.upload(gy))
    np.testing.assert_allclose(gx.numpy(), oracle.conv_data(x.shape, w, gy), rtol=1e-4, atol=1e-5)
    gw = F.conv2d_weight(cuda.upload(x), w.shape, cuda.upload(gy))
    np.testing.assert_allclose(gw.numpy(), oracle.conv_weights(x, w.shape, gy), rtol=1e-4, atol=1e-5)


def test_second_derivative():
    """|conv(x, w)|^2 is of degree 2 in w, so is its gradient by x, and the square of that is of degree 4 (Euler)."""
    x, w = (RNG.standard_normal(s).astype(np.float32) for s in ((1, 1, 3, 3), (2, 1, 2, 2)))
    a, b = (fc.Tensor(v).to("cuda").requires_grad_() for v in (x, w))
    y = F.conv2d(a, b)
    (ga,) = fc.grad((y * y).sum(), (a,), create_graph=True)
    square = (ga * ga).sum()
    square.backward()
    np.testing.assert_allclose(np.sum(b.grad.numpy() * w), 4 * square.item(), rtol=1e-4)


def test_refusals_are_those_of_the_cpu():
    x, w = cuda.upload(np.zeros((1, 3, 5, 5), np.float32)), cuda.upload(np.zeros((2, 4, 3, 3), np.float32))
    with pytest.raises(ValueError, match="weight expects 4 input channels, input has 3"):
        F.conv2d(x, w)
    with pytest.raises(TypeError, match="different devices"):
        F.conv2d(x, np.zeros((2, 3, 3, 3), np.float32))
    with pytest.raises(NotImplementedError, match=r"involution.*cuda"):
        F.involution2d(x, cuda.upload(np.zeros((1, 9, 5, 5), np.float32)), 3, padding=1)
