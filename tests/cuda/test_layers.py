"""Linear, adder, deformable and non-local layers on the device: the CPU's tables of cases against their oracles."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from tests import test_adder as adder
from tests import test_deform_conv as deform
from tests.tolerance import assert_close

from .compare import check
from .small import shrunk_layer

MOST = 1500  # multiply-adds of a case on the simulator

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(lead, bias):
    x, w, b, gy = normal(*lead, 5), normal(4, 5), normal(4), normal(*lead, 4)
    leaves = [fc.Tensor(a).to("cuda").requires_grad_() for a in (x, w, b)[: 2 + bias]]
    y = F.linear(*leaves)
    np.testing.assert_allclose(y.detach().numpy(), x @ w.T + (b if bias else 0), rtol=1e-4, atol=1e-5)
    y.backward(fc.Tensor(gy).to("cuda"))
    rows, columns = gy.reshape(-1, 4), x.reshape(-1, 5)
    for leaf, wanted in zip(leaves, (gy @ w, rows.T @ columns, rows.sum(0)), strict=False):
        np.testing.assert_allclose(leaf.grad.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_one_output_without_axis():
    check(F.linear, normal(2, 1, 3), normal(3), np.float32(2).reshape(()))


def adder_out(case):
    return deform.Case.out.fget(case)


@pytest.mark.parametrize(
    "name, dtype",
    [(name, "float32") for name in adder.CASES] + [(name, "float64") for name in adder.DOUBLE],
)
def test_adder(name, dtype):
    case = adder.CASES[name]
    case = shrunk_layer(case, adder_out, case.groups, 1, MOST)
    x, w, b = case.arrays(dtype)
    wanted = adder.oracle_forward(x, w, b, case)
    gy = rng.standard_normal(wanted.shape).astype(dtype)
    leaves = [fc.Tensor(a).to("cuda").requires_grad_() for a in (x, w, b)]
    y = F.adder2d(*leaves, **case.settings)
    y.backward(fc.Tensor(gy).to("cuda"))
    found = y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)
    for got, expected in zip(found, (wanted, *adder.oracle_backward(x, w, gy, case)), strict=True):
        assert_close(got, expected, dtype, w[0].size * case.oc * gy[:, 0].size, np.abs(expected).max() + 1)


@pytest.mark.parametrize("name", deform.CASES)
def test_deformable(name):
    case = deform.CASES[name]
    case = shrunk_layer(case, lambda case: case.out, case.g, case.og, MOST)
    arrays = case.arrays("float32")
    gy = rng.standard_normal((case.n, case.oc, *case.out)).astype(np.float32)
    leaves = [None if a is None else fc.Tensor(a).to("cuda").requires_grad_() for a in arrays]
    y = F.deform_conv2d(*leaves[:4], **case.settings, mask=leaves[4])
    y.backward(fc.Tensor(gy).to("cuda"))
    found = y.detach().numpy(), *(None if leaf is None else leaf.grad.numpy() for leaf in leaves)
    for got, expected in zip(found, deform.oracle_all(*arrays, gy, case), strict=True):
        assert (got is None) == (expected is None)
        if got is not None:  # positions are float32: 16 pixels cost 4 bits of a fraction
            assert_close(got, expected, "float32", 16 * arrays[2][0].size * case.oc, np.abs(expected).max())


def test_aggregation_and_active_convolution():
    x, offset, mask = normal(1, 4, 3, 3), normal(1, 16, 2, 2), normal(1, 8, 2, 2)
    check(lambda x, o, m: F.deform_aggregate2d(x, o, m, 2), x, offset, mask, tol=1e-4)
    check(F.active_conv2d, normal(1, 2, 3, 3), normal(2, 2, 2, 2), normal(4, 2), normal(2), tol=1e-4)


@pytest.mark.parametrize("function", ["softmax", "dot", "relu"])
def test_non_local(function):
    check(lambda t, p, g: F.non_local(t, p, g, function), normal(2, 2, 3), normal(2, 2, 4), normal(2, 3, 4), tol=1e-4)


def test_an_op_without_counterpart_is_named():
    x = fc.Tensor(normal(1, 2, 4, 4)).to("cuda")
    with pytest.raises(NotImplementedError, match=r'no implementation on cuda; move its arguments with .to\("cpu"\)'):
        F.lp_pool2d(x, 2.0, 2)
