"""Linear, adder, deformable and non-local layers on the device: what stands on its convolutions and products."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F

from .compare import check

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_linear():
    check(F.linear, normal(3, 4), normal(2, 4), normal(2))
    check(F.linear, normal(2, 1, 3), normal(3), np.float32(2).reshape(()))


@pytest.mark.parametrize("groups, stride, dilation", [(1, 1, 1), (2, (2, 1), (1, 2))])
def test_adder(groups, stride, dilation):
    x, w, b = normal(2, 4, 5, 4), normal(6, 4 // groups, 3, 2), normal(6)
    check(lambda x, w, b: F.adder2d(x, w, b, stride, 1, dilation, groups), x, w, b, tol=1e-4)


@pytest.mark.parametrize("groups, offset_groups, modulated", [(1, 1, True), (2, 2, False)])
def test_deformable(groups, offset_groups, modulated):
    x, w, b = normal(2, 4, 4, 3), normal(2, 4 // groups, 2, 2), normal(2)
    offset = normal(2, offset_groups * 8, 3, 2) * 2
    offset[0, 0, 0, 0] = -9
    mask = np.abs(normal(2, offset_groups * 4, 3, 2)) if modulated else None

    def layer(x, offset, w, b, *mask):
        return F.deform_conv2d(x, offset, w, b, mask=mask[0] if mask else None)

    check(layer, x, offset, w, b, *([mask] if modulated else []), tol=1e-4)


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
