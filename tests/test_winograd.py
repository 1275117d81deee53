"""Winograd convolution beyond the common cases: its error, blocks and register tiles of every size, packed weights."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import driver
from fastconv._registry import implementations
from fastconv.kernels import winograd, winograd_weights
from fastconv.simd_python_winograd import winograd_matrices
from fastconv.specs import conv_spec

from . import oracle

FORWARD = [winograd.ForwardF4, winograd.ForwardF2]
BACKWARD = [winograd.BackwardDataF4, winograd.BackwardDataF2]


def problem(x_shape, oc, groups=1, depth=0, **settings):
    """(spec, x, w, b, settings) with seeded values; depth: of the kernel in three dimensions."""
    r, ndim = np.random.default_rng(sum(x_shape) + oc), len(x_shape) - 2
    settings = {"stride": 1, "padding": 1, "dilation": 1, "groups": groups, **settings}
    kernel = settings.pop("kernel", (3, 3))
    kernel = (depth, *kernel) if ndim == 3 else kernel
    x = r.standard_normal(x_shape, np.float32)
    w = r.standard_normal((oc, x_shape[1] // groups, *kernel), np.float32) / np.float32(
        np.sqrt(np.prod(kernel[-2:]) * x_shape[1] // groups)
    )
    b = r.standard_normal(oc, np.float32)
    return conv_spec("conv", ndim, x.shape, w.shape, b.shape, **settings, dtype=x.dtype), x, w, b, settings


def forward(impl, spec, x, w, b, **more):
    y = np.full(spec.y_shape, np.nan, np.float32)
    driver.launch(*impl.emit(spec, {"x": x, "w": w, "b": b, "y": y, **more}))
    return y


@pytest.mark.parametrize("size", [2, 4])
def test_matrices_compute_a_correlation(size):
    inputs, weights, outputs = winograd_matrices(size)
    r = np.random.default_rng(0)
    d, g = r.standard_normal(size + 2), r.standard_normal(3)
    np.testing.assert_allclose(outputs @ (inputs @ d * (weights @ g)), np.correlate(d, g, "valid"), atol=1e-12)


@pytest.mark.parametrize(("impl", "bound"), [(winograd.ForwardF4, 1e-5), (winograd.ForwardF2, 4e-6)])
def test_error_at_256_channels(impl, bound):
    """The contract: 1e-5 of the output's root mean square, the error of a plain sequential sum."""
    spec, x, w, b, settings = problem((1, 256, 12, 13), 32)
    want = oracle.conv(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), **settings)
    assert np.abs(forward(impl, spec, x, w, b) - want).max() < bound * want.std()


@pytest.mark.parametrize("impl", FORWARD)
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 16, 35, 37, 67, 99, 130, 260])
def test_any_number_of_tiles(impl, columns):
    """Whole register tiles of three, two and one vector, and what is left over."""
    spec, x, w, b, settings = problem((1, 3, 5, columns), 17)
    np.testing.assert_allclose(forward(impl, spec, x, w, b), oracle.conv(x, w, b, **settings), atol=2e-5)


CASES = {
    "many channels": problem((1, 70, 6, 5), 35),
    "groups": problem((2, 9, 7, 8), 21, groups=3),
    "dilation": problem((2, 4, 13, 17), 5, padding=(2, 3), dilation=(2, 3)),
    "dilated columns": problem((1, 4, 6, 70), 5, padding=(0, 2), dilation=(1, 2)),
    "dilation larger than the image": problem((1, 3, 5, 5), 2, padding=9, dilation=9),
    "padding larger than the kernel": problem((1, 3, 4, 6), 2, padding=(5, 4)),
    "no padding": problem((3, 2, 3, 9), 4, padding=0),
    "depth": problem((1, 3, 5, 6, 7), 4, depth=3, stride=(2, 1, 1), padding=(1, 1, 1)),
    "short rows": problem((3, 4, 12, 13), 5),
    "short rows, a vector and a rest": problem((2, 3, 21, 10), 5, padding=(2, 0)),
    "very short rows": problem((5, 3, 7, 8), 5),
    "short rows in depth": problem((2, 3, 5, 8, 9), 4, depth=3, padding=1),
    "5 x 5": problem((2, 4, 14, 15), 5, padding=2, kernel=(5, 5)),
    "4 x 7": problem((1, 3, 9, 70), 4, padding=(2, 1), kernel=(4, 7)),
    "dilated 5 x 5": problem((1, 3, 19, 14), 4, padding=4, kernel=(5, 5), dilation=2),
    "2 x 3 x 5": problem((1, 3, 4, 7, 9), 4, depth=2, padding=(1, 1, 2), kernel=(3, 5)),
    "dilated depth": problem((2, 2, 6, 5, 5), 3, depth=2, padding=(1, 1, 1), dilation=(3, 1, 1)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("impl", FORWARD)
def test_forward(impl, name):
    spec, x, w, b, settings = CASES[name]
    assert impl.when(spec) is None
    want = oracle.conv(x, w, b, **settings)
    np.testing.assert_allclose(forward(impl, spec, x, w, b), want, atol=2e-5)
    packed = impl.pack(spec, w)
    np.testing.assert_array_equal(forward(impl, spec, x, w, b, packed=packed), forward(impl, spec, x, w, b))


@pytest.mark.parametrize("name", [name for name in CASES if name != "depth"])
@pytest.mark.parametrize("impl", BACKWARD)
def test_data_gradient(impl, name):
    spec, x, w, _, settings = CASES[name]
    assert impl.when(spec) is None
    gy = np.random.default_rng(1).standard_normal(spec.y_shape, np.float32)
    gx = np.full(x.shape, np.nan, np.float32)
    driver.launch(*impl.emit(spec, {"gy": gy, "w": w, "gx": gx}))
    np.testing.assert_allclose(gx, oracle.conv_data(x.shape, w, gy, **settings), atol=3e-5)


@pytest.mark.parametrize(
    "name", [name for name in CASES if " x " not in name and ("dilat" not in name or "depth" in name)]
)
def test_weight_gradient(name):
    spec, x, w, _, settings = CASES[name]
    assert winograd_weights.BackwardWeights.when(spec) is None
    check_weight_gradient(spec, x, w, settings)


@pytest.mark.parametrize("columns", [1, 3, 5, 16, 37, 67, 130, 600])
def test_weight_gradient_of_any_number_of_tiles(columns):
    """One tile, blocks with lanes left over, several blocks and chunks."""
    spec, x, w, _, settings = problem((3, 3, 5, columns), 7)
    check_weight_gradient(spec, x, w, settings)


def check_weight_gradient(spec, x, w, settings):
    gy = np.random.default_rng(1).standard_normal(spec.y_shape, np.float32)
    results, before = [], driver.get_num_threads()
    try:
        for count in {1, before}:
            driver.set_num_threads(count)
            gw = np.full(w.shape, np.nan, np.float32)
            driver.launch(*winograd_weights.BackwardWeights.emit(spec, {"x": x, "gy": gy, "gw": gw}))
            results.append(gw)
    finally:
        driver.set_num_threads(before)
    want = oracle.conv_weights(x, w.shape, gy, **settings)
    scale = np.sqrt(oracle.conv_weights(x.astype(np.float64) ** 2, w.shape, gy.astype(np.float64) ** 2, **settings))
    assert np.abs(results[0] - want).max() <= 1e-5 * max(1.0, scale.max())
    np.testing.assert_array_equal(results[0], results[-1])


def test_refusals():
    def refusals(*x_shape, kernel=(3, 3), dtype="float32", **settings):
        w_shape = (4, x_shape[1], *kernel)
        settings = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, **settings}
        spec = conv_spec("conv", 2, x_shape, w_shape, None, **settings, dtype=np.dtype(dtype))
        names = [impl for impl in implementations("conv.fwd") if "winograd" in impl.name]
        assert len(names) == 2
        return {impl.when(spec) for impl in names}

    assert refusals(1, 3, 8, 8) == {None}
    assert refusals(1, 3, 8, 8, kernel=(5, 2)) == {"needs a kernel of 3 x 3 to 9 x 9, has 5 x 2"}
    assert refusals(1, 3, 8, 8, stride=2) == {"needs stride 1, has 2 x 2"}
    assert refusals(1, 3, 8, 8, dtype="float64") == {"is tuned for float32, has float64"}
    assert refusals(0, 3, 8, 8) == {"needs an image"}


def test_bits_depend_on_neither_threads_nor_batch():
    spec, x, w, b, _ = problem((5, 20, 9, 30), 40)
    before, results = driver.get_num_threads(), []
    try:
        for count in {1, before}:
            driver.set_num_threads(count)
            results.append(forward(winograd.ForwardF4, spec, x, w, b))
    finally:
        driver.set_num_threads(before)
    one, x_one = problem((1, 20, 9, 30), 40)[0], np.ascontiguousarray(x[3:4])
    results.append(np.broadcast_to(forward(winograd.ForwardF4, one, x_one, w, b), (5, *spec.y_shape[1:])))
    for result in results[1:]:
        np.testing.assert_array_equal(result[3], results[0][3])


def test_a_layer_packs_once_and_again_when_weights_change(monkeypatch):
    packs = []
    pack = winograd.ForwardF4.pack.__func__
    monkeypatch.setattr(
        winograd.ForwardF4, "pack", classmethod(lambda cls, spec, w: packs.append(spec) or pack(cls, spec, w))
    )
    layer = fc.nn.Conv2d(64, 64, 3, padding=1).eval()
    x = np.random.default_rng(0).standard_normal((1, 64, 20, 20), np.float32)
    with fc.no_grad():
        first = layer(x)
        np.testing.assert_array_equal(layer(x), first)
        assert len(packs) == 1
        layer.weight.data = layer.weight.data * 2
        layer.bias.data = layer.bias.data * 2
        np.testing.assert_allclose(layer(x), 2 * first, atol=1e-4)
        assert len(packs) == 2
