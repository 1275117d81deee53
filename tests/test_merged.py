"""Pointwise convolution of small maps, the images of a batch side by side."""

import pytest

from fastconv._registry import select
from fastconv.kernels.merged import ConvBackwardData, ConvBackwardWeights, ConvForward

from .kernel_checks import check, check_threads, conv_case

ALL = pytest.mark.parametrize("impl", [ConvForward, ConvBackwardData, ConvBackwardWeights], ids=lambda impl: impl.name)
CASES = [
    conv_case((3, 3), icg=21, ocg=35, n=8),
    conv_case((6, 6), icg=17, ocg=9, n=3),
    conv_case((1, 1), icg=5, ocg=8, n=33, bias=False),
    conv_case(16, icg=3, ocg=4, n=2),
    conv_case((2, 3, 5), icg=6, ocg=7, n=2),
]


@ALL
@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes(impl, case):
    check(impl, case)


@ALL
def test_double(impl):
    check(impl, CASES[0], "float64")


@ALL
def test_threads(impl):
    check_threads(impl, conv_case((6, 6), icg=192, ocg=160, n=8))


def test_packed_weights():
    for case in CASES[:3]:
        check(ConvForward, case, packed=True)


@ALL
def test_what_it_is_for(impl):
    """Small maps of a batch, not single images, and none where an image must not depend on its batch."""
    for size in ((3, 3), (6, 6)):
        assert select(impl.operation, conv_case(size, icg=96, ocg=576, n=8).spec("float32")) is impl
    refused = [
        (conv_case((6, 6), icg=96, ocg=96), "several images"),
        (conv_case((6, 6), stride=2, icg=96, ocg=96, n=2), "stride 1"),
        (conv_case((6, 6), kernel=3, padding=1, icg=96, ocg=96, n=2), "1x1"),
        (conv_case((6, 6), groups=2, icg=96, ocg=96, n=2), "one group"),
        (conv_case((40, 40), icg=96, ocg=96, n=2), "128 pixels"),
    ]
    for case, reason in refused:
        assert reason in impl.when(case.spec("float32"))
