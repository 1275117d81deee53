"""The direct weight gradient: sizes around those of vectors and tiles, batches in blocks, NaN where it belongs."""

import numpy as np
import pytest

from fastconv import simd
from fastconv._registry import select
from fastconv.kernels import direct_weights
from fastconv.kernels.direct_weights import ConvBackwardWeights

from .kernel_checks import check, check_threads, conv_case, run
from .processes import output

pytestmark = pytest.mark.skipif(simd.isa.name != "avx512", reason="needs registers for masks")

SHAPES = [
    conv_case((14, 14), 3, padding=1, groups=3, icg=4, ocg=4, n=2),
    conv_case((7, 9), 3, padding=1, groups=2, icg=5, ocg=11, n=3),
    conv_case((11, 21), (3, 5), padding=(1, 2), icg=3, ocg=7),
    conv_case((13, 10), 3, padding=2, dilation=2, icg=3, ocg=4),
    conv_case((5, 7), 1, icg=6, ocg=9, n=2),
    conv_case((14, 14), 5, icg=6, ocg=16, n=3),
    conv_case((6, 23), (2, 3), padding=(0, 1), icg=3, ocg=5, groups=2),
]


def test_every_length():
    for length in range(3, 51):
        check(ConvBackwardWeights, conv_case(length, 3, padding=1, icg=4, ocg=4, n=2))


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(case):
    check(ConvBackwardWeights, case)
    check_threads(ConvBackwardWeights, case)


def test_sums_kept_from_one_block_to_the_next(monkeypatch):
    """Blocks of images, and blocks of an image, give the bits of one block."""
    case = conv_case((9, 20), 3, padding=1, icg=4, ocg=8, n=5)
    whole = run(ConvBackwardWeights, case)
    for block_bytes in (12 * 180 * 4 * 2, 100):
        monkeypatch.setattr(direct_weights, "BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(direct_weights, "LEVEL1_VECTORS", 3)
        direct_weights._shape.cache_clear()
        direct_weights._plan.cache_clear()
        np.testing.assert_array_equal(run(ConvBackwardWeights, case), whole)
    direct_weights._shape.cache_clear()
    direct_weights._plan.cache_clear()


def test_values_that_are_no_numbers_reach_what_they_touch():
    case = conv_case((9, 13), 3, padding=1, icg=4, ocg=4)
    x, _, _, gy = case.arrays("float32")
    gy[0, 2, 0, 5] = np.nan  # the row above it is padding: its taps multiply zeros with NaN, which is NaN
    bad = np.isnan(run(ConvBackwardWeights, case, x=x, gy=gy))
    assert bad[2].all() and not bad[[0, 1, 3]].any()
    x[0, 1, 8, 12], gy[0, 2, 0, 5] = np.nan, 1
    bad = np.isnan(run(ConvBackwardWeights, case, x=x, gy=gy))
    wanted = np.zeros(bad.shape, bool)
    wanted[:, 1, 1:, 1:] = True  # a corner: no output sees it under the taps of the first row and column
    np.testing.assert_array_equal(bad, wanted)


def test_chosen_for_few_channels_and_refused_elsewhere():
    narrow = conv_case((56, 56), 3, padding=1, groups=32, icg=4, ocg=4).spec("float32")
    assert select("conv.bwd_weights", narrow) is ConvBackwardWeights
    assert ConvBackwardWeights.when(conv_case((9, 9), 3, stride=2).spec("float32")) == "needs stride 1"
    assert (
        ConvBackwardWeights.when(conv_case((9, 9), 3, padding=2).spec("float32"))
        == "needs an output no larger than the image"
    )
    wanted = "needs kernel rows of 1, 3, 5 taps, has 7"
    assert ConvBackwardWeights.when(conv_case((9, 9), 7, padding=3).spec("float32")) == wanted


SOME = """
from tests.kernel_checks import check, conv_case
from fastconv.kernels.direct_weights import ConvBackwardWeights
for length in (3, 15, 16, 17, 35):
    check(ConvBackwardWeights, conv_case((3, length), 3, padding=1, groups=2, icg=4, ocg=4, n=2))
print("done")
"""


def test_nothing_beyond_the_arrays_is_touched():
    assert output(SOME, FASTCONV_DEBUG="1") == "done"
