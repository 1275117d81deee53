"""Depthwise kernels where tiles, images and kernels meet: widths, strides, padding, values that are no numbers."""

import numpy as np
import pytest

from fastconv import driver
from fastconv._registry import implementations, select
from fastconv.driver import launch
from fastconv.functional import conv2d, conv_transpose2d
from fastconv.specs import Epilogue

from . import oracle
from .cases import case
from .processes import output
from .test_conv import OPERATIONS, RESULT, check, operands, run_implementation

IMPLS = [impl for operation in OPERATIONS for impl in implementations(operation) if impl.name.partition("depthwise")[1]]


def each_pass(problem, dtype="float32"):
    """The depthwise implementations that take a case."""
    return [impl for impl in IMPLS if impl.when(problem.spec(dtype)) is None]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", range(1, 41))
def test_every_width(width, stride):
    """All three passes, on images whose rows fill no, one or three registers and a part."""
    problem = case((15, width), 3, stride, 1, 1, (2, 1, 1))
    impls = each_pass(problem)
    assert len(impls) == 3
    for impl in impls:
        check(impl, problem, "float32")


@pytest.mark.parametrize(
    "problem",
    [
        case((33, 17), 3, 1, 1, 1, (2, 1, 3), n=2),  # several output channels from one
        case((19, 21), 5, (3, 4), 2, 1, (3, 1, 1)),  # strides that are gathered
        case((20, 23), (2, 3), (5, 7), 0, 1, (2, 1, 1)),  # steps over pixels that nobody sees
        case((30, 18), 3, 1, ((0, 3), (2, 1)), 1, (2, 1, 1)),  # unequal padding
        case((9, 40), (4, 6), 1, "same", 1, (2, 1, 1)),
        case((21, 35), 3, 1, 6, 6, (2, 1, 1)),  # rows of one class are six apart
        case((21, 35), 3, 2, 2, 2, (2, 1, 1)),
        case((40, 30), (23, 13), 1, (11, 6), 1, (1, 1, 1)),  # more row taps than registers
        case((4, 100), 31, 1, (15, 15), 1, (1, 1, 1)),  # in one row, taps a register apart
        case(101, 9, 2, 4, 1, (3, 1, 1)),
        case((5, 9, 11), 3, (1, 2, 2), 1, 1, (2, 1, 2)),
        case((6, 7, 8), (3, 3, 2), (2, 1, 1), 1, (2, 1, 1), (2, 1, 1), n=2),
        case((3, 3), 3, 1, 1, 1, (2, 1, 1), n=0),
        case((50, 137), 16, (7, 5), 6, 1, (2, 1, 2), n=2),  # a vector of taps a row, in three ways along the rows
        case((20, 40), (6, 32), 3, (5, 30), 1, (2, 1, 1)),  # windows that lie in the padding
        case(100, 16, 4, 7, 1, (3, 1, 1), n=2),
    ],
    ids=str,
)
def test_odd_problems(problem):
    for impl in each_pass(problem):
        check(impl, problem, "float32")


def test_few_channels_add_chunks_of_images(monkeypatch):
    """With too few channels for the threads the weight gradient adds up chunks of images: the same bits for all."""
    problem = case((64, 65), 3, 1, 1, 1, (1, 1, 1), n=12)
    (impl,) = (impl for impl in each_pass(problem) if impl.operation == "conv.bwd_weights")
    monkeypatch.setattr("fastconv.kernels.depthwise_weights.CHUNK_WORK", 1000)
    spec = problem.spec("float32")
    assert len(impl.emit(spec, operands(impl.operation, problem, "float32"))) == 2
    check(impl, problem, "float32")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_odd_values_stay_where_they_are_seen(value, stride):
    """An input that is no number reaches those outputs whose windows see it, and no other."""
    problem = case((18, 37), 3, stride, 1, 1, (2, 1, 1))
    x, w, _, gy = problem.arrays("float32")
    for impl in each_pass(problem):
        name = {"conv.fwd": "x", "conv.bwd_data": "gy", "conv.bwd_weights": "gy"}[impl.operation]
        source = {"x": x, "gy": gy}[name]
        for place in ((0, 0, 0, 0), (0, 1, 8, 15), (0, 0, source.shape[2] - 1, source.shape[3] - 1)):
            marked, mark = source.copy(), np.zeros_like(source)
            marked[place], mark[place] = value, 1
            buffers = {**operands(impl.operation, problem, "float32"), name: marked}
            ones = {"x": np.ones_like(x), "w": np.ones_like(w), "gy": np.ones_like(gy), name: mark}
            seen = {
                "conv.fwd": lambda ones=ones: oracle.conv(ones["x"], ones["w"], None, **problem.settings),
                "conv.bwd_data": lambda ones=ones: oracle.conv_data(x.shape, ones["w"], ones["gy"], **problem.settings),
                "conv.bwd_weights": lambda ones=ones: oracle.conv_weights(
                    ones["x"], w.shape, ones["gy"], **problem.settings
                ),
            }[impl.operation]()
            launch(*impl.emit(problem.spec("float32"), buffers))
            finite = np.isfinite(buffers[RESULT[impl.operation]])
            if impl.operation != "conv.bwd_weights":
                np.testing.assert_array_equal(finite, seen == 0, err_msg=impl.name)
            else:  # a tap that meets only padding there sees 0 times the value
                assert not finite[seen != 0].any() and finite[1 - place[1]].all(), impl.name


def test_an_odd_pixel_reaches_the_weights_that_see_it():
    """A pixel in a corner is seen by some taps alone, whatever else lies in the register."""
    problem = case((10, 21), 3, 1, 1, 1, (1, 1, 1))
    (impl,) = (impl for impl in each_pass(problem) if impl.operation == "conv.bwd_weights")
    buffers = operands(impl.operation, problem, "float32")
    buffers["x"] = buffers["x"].copy()
    buffers["x"][0, 0, 9, 20] = np.inf
    launch(*impl.emit(problem.spec("float32"), buffers))
    np.testing.assert_array_equal(
        np.isfinite(buffers["gw"][0, 0]), [[True] * 3, [True, False, False], [True, False, False]]
    )


@pytest.mark.parametrize("accumulate", [False, True])
def test_epilogue_on_overlapping_tiles(accumulate):
    """Rows that two tiles compute are added to once; NaN passes the clamp."""
    for problem in (case((17, 18), 3, 1, 1, 1, (2, 1, 1)), case((33, 34), 3, 2, 1, 1, (2, 1, 1))):
        for impl in (impl for impl in each_pass(problem) if impl.epilogue):
            plain = run_implementation(impl, problem, "float32")
            buffers = operands(impl.operation, problem, "float32")
            out = buffers[RESULT[impl.operation]]
            out[...] = np.random.default_rng(5).standard_normal(out.shape, np.float32)
            out[0, 0, 0, 0] = np.nan
            wanted = np.clip(plain + out if accumulate else plain, -0.25, 0.5)
            launch(*impl.emit(problem.spec("float32"), {**buffers, "epilogue": Epilogue(-0.25, 0.5, accumulate)}))
            np.testing.assert_allclose(out, wanted, rtol=0, atol=2e-6, err_msg=impl.name)


def test_any_number_of_threads_gives_the_same_bits():
    problem = case((61, 63), 3, 2, 1, 1, (5, 1, 1), n=3)
    before = driver.get_num_threads()
    try:
        for impl in each_pass(problem):
            results = []
            for threads in (1, 2):
                driver.set_num_threads(min(threads, before))
                results.append(run_implementation(impl, problem, "float32"))
            np.testing.assert_array_equal(*results)
    finally:
        driver.set_num_threads(before)


def test_strided_views_and_selection():
    """What is not contiguous is made so; depthwise layers of ordinary size are computed here."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2, 30, 6, 28), np.float32).transpose(0, 2, 1, 3)[:, ::2]
    w = rng.standard_normal((3, 3, 3), np.float32).T[:, None]
    y = conv2d(x, w, padding=1, groups=3)
    np.testing.assert_allclose(y, oracle.conv(x, w, None, padding=1, groups=3), atol=1e-5)
    up = conv_transpose2d(x, w, stride=2, padding=1, output_padding=1, groups=3)
    wanted = oracle.conv_transpose(x, w, None, stride=2, padding=1, output_padding=1, groups=3)
    np.testing.assert_allclose(up, wanted, atol=1e-5)
    for stride in (1, 2):
        spec = case((112, 112), 3, stride, 1, 1, (64, 1, 1)).spec("float32")
        for operation in OPERATIONS:
            assert "depthwise" in select(operation, spec).name


CHECK = """
import numpy as np
from tests.cases import case
from tests.test_conv import check
from tests.test_depthwise import each_pass
for problem in (
    case((15, 21), 3, 1, 1, 1, (2, 1, 1)),
    case((15, 21), 3, 2, 1, 1, (2, 1, 1)),
    case((16, 19), 7, 1, 3, 1, (1, 1, 1)),
    case(70, 20, 1, 9, 1, (1, 1, 1)),
    case((9, 40), 3, 3, 2, 1, (1, 1, 1)),
):
    for impl in each_pass(problem):
        check(impl, problem, "float32")
print("well")
"""


@pytest.mark.parametrize("switches", [{"FASTCONV_DEBUG": "1"}, {"FASTCONV_ISA": "avx2"}], ids=["debug", "avx2"])
def test_other_builds(switches):
    """Bounds are kept, which debug mode checks; narrower registers give the same results."""
    from fastconv.simd_isa import isa

    if "FASTCONV_ISA" in switches and isa.name not in ("avx512", "avx2"):
        pytest.skip(f"this machine has {isa.name}")
    assert output(CHECK, **switches) == "well"
