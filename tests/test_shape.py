"""Padding in every mode, joining and cutting."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn
from fastconv.autograd import Tensor

from .check_op import check_op

pytestmark = pytest.mark.smoke
NUMPY_MODE = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
PADS = [(1, 2), (2, 0, 1, 3), (0, 3, 1, 1)]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 4, 5))


@pytest.mark.parametrize("mode", NUMPY_MODE)
@pytest.mark.parametrize("pads", PADS)
def test_pad(mode, pads, x):
    pairs = [(0, 0)] * (3 - len(pads) // 2) + [pads[i : i + 2] for i in range(0, len(pads), 2)][::-1]
    np.testing.assert_array_equal(F.pad(x, pads, mode), np.pad(x, pairs, NUMPY_MODE[mode]))
    check_op(lambda x: F.pad(x, pads, mode), x)


def test_crop_and_fill(x):
    np.testing.assert_array_equal(F.pad(x, (-1, -2, 1, -1)), np.pad(x, [(0, 0), (1, 0), (0, 0)])[:, :-1, 1:-2])
    check_op(lambda x: F.pad(x, (-1, 2, -2, -1)), x)
    assert F.pad(x, (1, 1), value=7.0)[0, 0, 0] == 7
    assert F.pad(np.arange(3), (1, 0)).tolist() == [0, 0, 1, 2]
    assert F.pad(np.ones((0, 2, 3)), (1, 1), "replicate").shape == (0, 2, 5)


@pytest.mark.torch
@pytest.mark.parametrize("mode", NUMPY_MODE)
def test_what_torch_refuses(mode, x):
    import torch

    for shape in [(4,), (2, 4), (2, 4, 5), (1, 2, 4, 5), (1, 1, 2, 4, 5)]:
        for pads in [(1, 1), (3, 0), (4, 0), (5, 0), (6, 6), (-1, 0), (1, 0, 1, 0), (1, 1, 0, 0, 1, 1), (1,) * 8, (1,)]:
            array = np.ones(shape)
            try:
                want = torch.nn.functional.pad(torch.tensor(array), pads, mode)
            except (RuntimeError, NotImplementedError):
                with pytest.raises(ValueError, match="pad: "):
                    F.pad(array, pads, mode)
            else:
                assert F.pad(array, pads, mode).shape == tuple(want.shape)


@pytest.mark.torch
@pytest.mark.parametrize("mode", NUMPY_MODE)
@pytest.mark.parametrize("pads", [(-1, 0), (2, -3), (-2, 2, -1, -1), (-3, 1, 2, -2)])
def test_pads_that_crop(mode, pads, x):
    import torch

    want = torch.nn.functional.pad(torch.tensor(x), pads, mode)
    np.testing.assert_array_equal(F.pad(x, pads, mode), want)
    check_op(lambda x: F.pad(x, pads, mode), x)


def test_bad_input(x):
    with pytest.raises(ValueError, match="at most 4 along an axis of size 5"):
        F.pad(x, (5, 0), "reflect")
    with pytest.raises(ValueError, match="at most 5 along"):
        F.pad(x, (6, 0), "circular")
    with pytest.raises(ValueError, match="mode must be"):
        F.pad(x, (1, 1), "edge")
    with pytest.raises(ValueError, match="takes no value"):
        F.pad(x, (1, 1), "reflect", 3.0)
    with pytest.raises(ValueError, match="crops more"):
        F.pad(x, (-3, -3))
    with pytest.raises(TypeError, match="list"):
        F.pad([1, 2], (1, 1))


def test_join_and_cut(x):
    check_op(lambda a, b: F.cat([a, b], 1), x, x[:, :2])
    check_op(lambda a, b: F.stack([a, b], -1), x, x * 2)
    check_op(lambda a: F.split(a, 2, 2)[1], x)
    check_op(lambda a: F.flatten(a, 1), x)
    assert [p.shape for p in F.split(x, 2, dim=2)] == [(2, 4, 2), (2, 4, 2), (2, 4, 1)]
    assert [p.shape for p in F.split(x, [1, 3], dim=1)] == [(2, 1, 5), (2, 3, 5)]
    assert F.flatten(x).shape == (40,) and F.flatten(x, 0, 1).shape == (8, 5) and F.flatten(np.array(1.0)).shape == (1,)
    assert isinstance(F.cat([Tensor(x), x]), Tensor)
    with pytest.raises(ValueError, match="comes after"):
        F.flatten(x, 2, 1)
    with pytest.raises(IndexError, match="-3 to 2"):
        F.flatten(x, 3)
    with pytest.raises(ValueError, match="size must be at least 1"):
        F.split(x, 0)


@pytest.mark.smoke
def test_padding_layers():
    x = np.arange(24.0).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(nn.ReflectionPad2d((1, 2, 0, 1))(x), F.pad(x, (1, 2, 0, 1), "reflect"))
    np.testing.assert_array_equal(nn.ConstantPad2d(1, 2.5)(x), F.pad(x, (1, 1, 1, 1), value=2.5))
    assert repr(nn.ZeroPad2d(1)) == "ZeroPad2d((1, 1, 1, 1))"
    assert repr(nn.ConstantPad1d((1, 2), 0.5)) == "ConstantPad1d(padding=(1, 2), value=0.5)"
    with pytest.raises(ValueError, match=r"CircularPad3d: padding must be one number or 6, got \(1, 2\)"):
        nn.CircularPad3d((1, 2))
