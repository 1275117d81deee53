"""Pointwise convolution: sizes around those of vectors and tiles, strides, packed weights, NaN and infinity."""

import platform

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import simd
from fastconv._registry import select
from fastconv.kernels.pointwise import BLOCK_K, ConvBackwardData, ConvForward

from .kernel_checks import check, check_threads, conv_case, run
from .processes import output

BOTH = pytest.mark.parametrize("impl", [ConvForward, ConvBackwardData], ids=lambda impl: impl.name)
SHAPES = [
    conv_case((7, 7), icg=9, ocg=17, n=2),
    conv_case((5, 13), icg=33, ocg=20, groups=3),
    conv_case((4, 4), icg=2 * BLOCK_K + 5, ocg=8),
    conv_case((3, 4, 9), icg=5, ocg=3, bias=False),
    conv_case((1, 2), icg=1, ocg=1, groups=5),
]


@BOTH
def test_every_number_of_pixels(impl):
    for pixels in range(1, 51):
        check(impl, conv_case(pixels, icg=8, ocg=8, n=2))


@BOTH
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(impl, case):
    check(impl, case)
    check_threads(impl, case)


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_packed_weights(case):
    check(ConvForward, case, packed=True)
    check_threads(ConvForward, case, packed=True)


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_strides(stride):
    for size in ((9, 11), (1, 40)):
        check(ConvForward, conv_case(size, stride=stride, icg=6, ocg=11, n=2))


def test_large_work_in_parallel():
    case = conv_case((28, 28), icg=96, ocg=50)
    check_threads(ConvForward, case)
    check_threads(ConvBackwardData, case)


def test_values_that_are_no_numbers_stay_where_they_are():
    case = conv_case((5, 7), icg=6, ocg=9)
    x, w, _, _ = case.arrays("float32")
    x[0, 2, 4, 6], x[0, 3, 1, 1], w[4, 0] = np.nan, np.inf, 0
    with np.errstate(invalid="ignore"):
        wanted = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype(np.float64), x.astype(np.float64))
    actual = run(ConvForward, case, x=x, b=None)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(wanted))
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(wanted))
    assert np.isnan(actual).sum() >= 9 and np.isinf(actual).sum() >= 8


def test_public_function_on_awkward_input():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((3, 9, 8, 64), "f4")[:, ::2, ::-1, 3:60:2], rng.standard_normal((7, 5, 1, 1), "f4")
    wanted = np.einsum("oi,nihw->nohw", w[:, :, 0, 0].astype("f8"), x.astype("f8"))
    np.testing.assert_allclose(F.conv2d(x, w), wanted, atol=1e-5)
    assert F.conv2d(x[:0], w).shape == (0, 7, 8, 29)


def test_chosen_for_wide_layers_and_refused_elsewhere():
    assert select("conv.fwd", conv_case((56, 56), icg=64, ocg=256).spec("float32")) is ConvForward
    assert select("conv.bwd_data", conv_case((56, 56), icg=64, ocg=256).spec("float32")) is ConvBackwardData
    assert ConvForward.when(conv_case((5, 5), 3).spec("float32")) == "needs a 1x1 kernel, has 1x3x3"
    assert ConvForward.when(conv_case((5, 5), padding=1).spec("float32")) == "needs no padding"
    assert ConvBackwardData.when(conv_case((5, 5), stride=2).spec("float32")) == "needs stride 1"


SOME = """
from tests.kernel_checks import check, conv_case
from fastconv.kernels.pointwise import ConvBackwardData, ConvForward
for pixels in (1, 15, 16, 17, 50):
    case = conv_case(pixels, icg=8, ocg=8, groups=2, n=2)
    check(ConvForward, case)
    check(ConvForward, case, packed=True)
    check(ConvBackwardData, case)
check(ConvForward, conv_case((9, 7), stride=2, icg=4, ocg=8))
print("done")
"""


def test_nothing_beyond_the_arrays_is_touched():
    assert output(SOME, FASTCONV_DEBUG="1") == "done"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an instruction set of x86")
@pytest.mark.skipif(simd.isa.name not in ("avx512", "avx2"), reason="this machine has no AVX2")
def test_avx2():
    assert output(SOME, FASTCONV_ISA="avx2") == "done"
