"""The weight gradient with output channels in the lanes: strides, padding, channels around a vector's, blocks."""

import numpy as np
import pytest

from fastconv import simd
from fastconv._registry import select
from fastconv.kernels import spread_weights
from fastconv.kernels.spread_weights import ConvBackwardWeights

from .kernel_checks import check, check_threads, conv_case, run
from .processes import output

pytestmark = pytest.mark.skipif(simd.isa.name != "avx512", reason="needs 32 vector registers")

SHAPES = [
    conv_case((14, 14), 5, icg=6, ocg=16, n=3),
    conv_case((9, 11), 3, stride=2, padding=1, icg=3, ocg=24, n=2),
    conv_case((8, 9), 3, stride=(1, 3), padding=(2, 1), dilation=(1, 2), icg=2, ocg=5),
    conv_case((7, 7), 1, stride=2, icg=5, ocg=40, n=2),
    conv_case((6, 6), 3, padding=1, groups=3, icg=4, ocg=17, n=2),
    conv_case((17, 1), (7, 1), padding=(3, 0), icg=2, ocg=33),
    conv_case((3, 3), 3, padding=2, icg=1, ocg=16, n=2),
]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(case):
    check(ConvBackwardWeights, case)
    check_threads(ConvBackwardWeights, case)


def test_sums_kept_from_one_block_to_the_next(monkeypatch):
    """Blocks of images, and blocks of an image, give the bits of one block."""
    case = conv_case((9, 20), 3, padding=1, icg=4, ocg=16, n=5)
    whole = run(ConvBackwardWeights, case)
    for block_bytes in (1 << 16, 1 << 13):
        monkeypatch.setattr(spread_weights, "BLOCK_BYTES", block_bytes)
        spread_weights._shape.cache_clear()
        spread_weights._plan.cache_clear()
        np.testing.assert_array_equal(run(ConvBackwardWeights, case), whole)
    spread_weights._shape.cache_clear()
    spread_weights._plan.cache_clear()


def test_values_that_are_no_numbers_stay_with_their_channel():
    """Lanes beyond the channels may read the next image's; they go nowhere."""
    case = conv_case((9, 13), 3, padding=1, icg=2, ocg=20, n=2)
    x, _, _, gy = case.arrays("float32")
    gy[1, 1] = np.nan
    bad = np.isnan(run(ConvBackwardWeights, case, x=x, gy=gy))
    assert bad[1].all() and bad.sum() == bad[1].size


def test_chosen_for_strides_and_few_pixels_in_a_row():
    for case in (conv_case((14, 14), 5, icg=6, ocg=16, n=64), conv_case((56, 56), 3, 2, 1, icg=128, ocg=128)):
        assert select("conv.bwd_weights", case.spec("float32")) is ConvBackwardWeights
    assert ConvBackwardWeights.when(conv_case((9, 9), 3).spec("float64")) == "is tuned for float32, has float64"
    assert ConvBackwardWeights.when(conv_case((3, 9, 9), 3).spec("float32")) == "needs one plane"


SOME = """
from tests.test_spread_weights import SHAPES
from tests.kernel_checks import check
from fastconv.kernels.spread_weights import ConvBackwardWeights
for case in (SHAPES[2], SHAPES[3]):
    check(ConvBackwardWeights, case)
print("good")
"""


def test_nothing_beyond_the_arrays_is_touched():
    assert output(SOME, FASTCONV_DEBUG="1") == "good"
