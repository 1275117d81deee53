"""Grouped convolution on masked taps: sizes around those of vectors and rows, values that are no numbers."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import simd
from fastconv._registry import select
from fastconv.kernels.grouped import ConvBackwardData, ConvForward

from .kernel_checks import check, check_threads, conv_case, run
from .processes import output

pytestmark = pytest.mark.skipif(simd.isa.name != "avx512", reason="needs registers for masks")

BOTH = pytest.mark.parametrize("impl", [ConvForward, ConvBackwardData], ids=lambda impl: impl.name)
SHAPES = [
    conv_case((14, 14), 3, padding=1, groups=3, icg=4, ocg=4, n=2),
    conv_case((7, 9), 3, padding=1, groups=2, icg=16, ocg=11),
    conv_case((11, 21), (5, 3), padding=(2, 1), icg=3, ocg=8),
    conv_case((13, 10), 3, padding=2, dilation=2, groups=2, icg=5, ocg=4),
    conv_case((6, 6), 3, padding=1, icg=70, ocg=2),
]


@BOTH
def test_every_length(impl):
    for length in range(3, 51):
        check(impl, conv_case(length, 3, padding=1, icg=4, ocg=4, n=2))


@BOTH
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(impl, case):
    check(impl, case)
    check_threads(impl, case)


def test_rows_of_the_output_shorter_than_those_of_the_image():
    for length in (5, 16, 17, 20, 33, 40):
        case = conv_case((4, length), (2, 4), icg=3, ocg=9, n=2)
        check(ConvForward, case)
        check(ConvBackwardData, case)
        check_threads(ConvBackwardData, case)


def test_values_that_are_no_numbers_stay_in_their_windows():
    """Lanes beyond the ends of a row see neighbouring rows in memory: none of that may leak."""
    case = conv_case((9, 13), 3, padding=1, icg=4, ocg=4)
    x, w, _, _ = case.arrays("float32")
    x[0, 1, 4, 12], x[0, 2, 0, 0] = np.nan, np.inf
    bad = np.isnan(run(ConvForward, case, x=x, w=np.abs(w), b=None)[0])
    wanted = np.zeros((9, 13), bool)
    wanted[3:6, 11:] = True
    np.testing.assert_array_equal(bad, np.broadcast_to(wanted, bad.shape))
    endless = np.isinf(run(ConvForward, case, x=x, w=np.abs(w), b=None)[0])
    wanted[...] = False
    wanted[:2, :2] = True
    np.testing.assert_array_equal(endless, np.broadcast_to(wanted, bad.shape))


def test_public_function_on_awkward_input():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((2, 12, 20, 60), "f4")[:, ::-1, ::2, 5:45], rng.standard_normal((12, 4, 3, 3), "f4")
    wanted = F.conv2d(x.astype("f8"), w.astype("f8"), padding=1, groups=3)
    np.testing.assert_allclose(F.conv2d(x, w, padding=1, groups=3), wanted, atol=2e-5)
    assert F.conv2d(x[:0], w, padding=1, groups=3).shape == (0, 12, 10, 40)


def test_chosen_for_narrow_groups_and_refused_elsewhere():
    narrow = conv_case((56, 56), 3, padding=1, groups=32, icg=4, ocg=4).spec("float32")
    assert select("conv.fwd", narrow) is ConvForward and select("conv.bwd_data", narrow) is ConvBackwardData
    assert ConvForward.when(conv_case((9, 9), 3, stride=2).spec("float32")) == "needs stride 1"
    wide = conv_case((9, 9), 3, icg=40, ocg=50).spec("float32")
    assert ConvForward.when(wide) == "needs at most 16 channels in or out in a group, has 40 and 50"
    assert "no longer than the image's" in ConvForward.when(conv_case((9, 9), 3, padding=2).spec("float32"))


SOME = """
from tests.kernel_checks import check, conv_case
from fastconv.kernels.grouped import ConvBackwardData, ConvForward
for length in (3, 15, 16, 17, 35):
    check(ConvForward, conv_case((3, length), 3, padding=1, groups=2, icg=4, ocg=4, n=2))
    check(ConvBackwardData, conv_case((3, length), 3, padding=1, groups=2, icg=4, ocg=4, n=2))
    check(ConvForward, conv_case((3, length), (2, 3), groups=2, icg=4, ocg=4))
print("done")
"""


def test_nothing_beyond_the_arrays_is_touched():
    assert output(SOME, FASTCONV_DEBUG="1") == "done"
