"""Depthwise convolution of small maps, channels in the lanes."""

import numpy as np
import pytest

from fastconv._registry import select
from fastconv.kernels.depthwise_small import ConvBackwardData, ConvBackwardWeights, ConvForward
from fastconv.specs import Epilogue

from .kernel_checks import check, check_threads, conv_case, run

ALL = pytest.mark.parametrize("impl", [ConvForward, ConvBackwardData, ConvBackwardWeights], ids=lambda impl: impl.name)
CASES = [
    conv_case((6, 6), kernel=3, padding=1, groups=16, n=2),
    conv_case((6, 6), kernel=3, stride=2, padding=1, groups=37, n=3),
    conv_case((5, 7), kernel=(3, 2), stride=(1, 3), padding=1, groups=21, n=2, bias=False),
    conv_case((7, 7), kernel=5, padding=2, groups=9),
    conv_case((3, 3), kernel=3, padding=1, groups=33, n=4),
    conv_case((9, 8), kernel=3, dilation=2, padding=2, groups=16),
    conv_case((4, 4, 3), kernel=3, stride=(2, 1, 1), padding=1, groups=18),
    conv_case(11, kernel=4, padding=1, groups=16),
    conv_case((4, 5), kernel=1, groups=17),
]


@ALL
@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes(impl, case):
    check(impl, case)


@ALL
def test_threads(impl):
    check_threads(impl, conv_case((12, 12), kernel=3, stride=2, padding=1, groups=200, n=8))


def test_epilogue():
    case = conv_case((6, 6), kernel=3, stride=2, padding=1, groups=20, n=2)
    plain = run(ConvForward, case)
    held = np.random.default_rng(0).standard_normal(plain.shape).astype(np.float32)
    got = run(ConvForward, case, y=held.copy(), epilogue=Epilogue(0.0, 1.0, True))
    np.testing.assert_array_equal(got, np.clip(plain + held, 0, 1))


def test_values_that_are_no_numbers_stay_in_their_channel():
    case = conv_case((5, 5), kernel=3, padding=1, groups=20, n=2)
    x = case.arrays("float32").x
    x[0, 3, 2, 2], x[1, 19, 0, 0] = np.nan, np.inf
    y = run(ConvForward, case, x=x)
    assert np.isnan(y[0, 3, 1:4, 1:4]).all() and np.isfinite(y[0, :3]).all() and np.isfinite(y[0, 4:]).all()
    assert np.isfinite(y[1, :19]).all() and not np.isfinite(y[1, 19, :2, :2]).any()


@ALL
def test_what_it_is_for(impl):
    spec = conv_case((6, 6), kernel=3, stride=2, padding=1, groups=576, n=8).spec("float32")
    assert select(impl.operation, spec) is impl
    refused = [
        (conv_case((6, 6), kernel=3, groups=4), "channels, has 4"),
        (conv_case((6, 6), kernel=3, groups=16, ocg=2), "one output channel"),
        (conv_case((60, 60), kernel=3, groups=16), "512 pixels"),
    ]
    for case, reason in refused:
        assert reason in impl.when(case.spec("float32"))
    assert "reach" in ConvBackwardData.when(conv_case((6, 6), padding=1, groups=16).spec("float32"))
    assert "float32" in impl.when(conv_case((6, 6), kernel=3, groups=16).spec("float64"))
