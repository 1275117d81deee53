"""Convolution by regions of outputs under which the same taps see the image."""

import numpy as np
import pytest

from fastconv._registry import select
from fastconv.driver import launch
from fastconv.kernels.gathers import forward_gathers
from fastconv.kernels.regions import ConvBackwardData, ConvForward, regions_of
from fastconv.specs import Epilogue

from .kernel_checks import check, check_threads, conv_case, operands

ALL = pytest.mark.parametrize("impl", [ConvForward, ConvBackwardData], ids=lambda impl: impl.name)
CASES = [
    conv_case((16, 16), kernel=3, padding=12, dilation=12, icg=70, ocg=19),
    conv_case((9, 9), kernel=3, padding=6, dilation=6, groups=2, icg=3, ocg=5, n=2, bias=False),
    conv_case((2, 2), kernel=5, padding=2, icg=9, ocg=8),
    conv_case((3, 4, 5), kernel=3, padding=2, dilation=2, icg=3, ocg=4),
]


@ALL
@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes(impl, case):
    check(impl, case)


@ALL
def test_double_and_threads(impl):
    check(impl, CASES[0], "float64")
    check_threads(impl, conv_case((8, 8), kernel=3, padding=6, dilation=6, icg=96, ocg=160))


def test_packed_weights_and_strides():
    for case in (*CASES[:2], conv_case((12, 12), 3, stride=2, padding=4, dilation=4, icg=5, ocg=9)):
        check(ConvForward, case, packed=True)


def test_regions_of_a_dilated_kernel():
    """Corners of four taps, edges of two, one tap in the middle."""
    case = conv_case((16, 16), kernel=3, padding=12, dilation=12)
    found = [region for gather in forward_gathers(case.spec("float32")) for region in regions_of(gather)]
    seen = [(region.size, len(region.taps)) for region in found]
    assert seen == [
        *[((1, 4, 4), 4), ((1, 4, 8), 2), ((1, 4, 4), 4)],
        *[((1, 8, 4), 2), ((1, 8, 8), 1), ((1, 8, 4), 2)],
        *[((1, 4, 4), 4), ((1, 4, 8), 2), ((1, 4, 4), 4)],
    ]


def test_epilogue():
    case = CASES[0]
    spec, buffers = case.spec("float32"), operands("conv.fwd", case, "float32")
    before = np.random.default_rng(3).standard_normal(buffers["y"].shape).astype("float32")
    launch(*ConvForward.emit(spec, buffers))
    wanted = np.clip(buffers["y"] + before, -0.5, 2.0)
    buffers["y"][...] = before
    launch(*ConvForward.emit(spec, {**buffers, "epilogue": Epilogue(-0.5, 2.0, True)}))
    np.testing.assert_allclose(buffers["y"], wanted, rtol=1e-6, atol=1e-6)


def test_what_it_is_for():
    """Kernels that reach far beyond the image, and no others."""
    wide = conv_case((16, 16), kernel=3, padding=12, dilation=12, icg=960, ocg=256)
    assert select("conv.fwd", wide.spec("float32")) is ConvForward
    plain = conv_case((16, 16), kernel=3, padding=1, icg=64, ocg=64)
    assert select("conv.fwd", plain.spec("float32")) is not ConvForward
    beyond = conv_case((3, 3), kernel=2, padding=8, dilation=6)
    assert "under every output" in str(ConvForward.when(beyond.spec("float32")))
