"""Winograd convolution beyond the common cases: its error, blocks and register tiles of every size, packed weights."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import driver
from fastconv._registry import implementations
from fastconv.kernels import winograd, winograd_problem, winograd_weights
from fastconv.simd_python_winograd import WINOGRAD_POINTS, winograd_matrices, winograd_sizes, winograd_stride
from fastconv.specs import conv_spec

from . import oracle

FORWARD = [winograd.ForwardF4, winograd.ForwardF2]
BACKWARD = [winograd.BackwardDataF4, winograd.BackwardDataF2]
EVERY = [impl for impl in implementations("conv.fwd") if "winograd" in impl.name]


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


@pytest.mark.parametrize("form", [*WINOGRAD_POINTS, 11, 432, 472])
def test_matrices_compute_a_correlation(form):
    inputs, weights, outputs = winograd_matrices(form)
    r, (alpha, _, taps) = np.random.default_rng(0), winograd_sizes(form)
    d, g = r.standard_normal(alpha), r.standard_normal(taps)
    want = np.correlate(d, g, "valid")[:: winograd_stride(form)]
    np.testing.assert_allclose(outputs @ (inputs @ d * (weights @ g)), want, atol=1e-12)


@pytest.mark.parametrize(("impl", "bound"), [(winograd.ForwardF4, 1e-5), (winograd.ForwardF2, 4e-6)])
def test_error_at_256_channels(impl, bound):
    """The contract: 1e-5 of the output's root mean square, the error of a plain sequential sum."""
    spec, x, w, b, settings = problem((1, 256, 12, 13), 32)
    want = oracle.conv(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), **settings)
    assert np.abs(forward(impl, spec, x, w, b) - want).max() < bound * want.std()


@pytest.mark.parametrize(
    ("impl", "settings"),
    [
        (winograd.ForwardF3, {"dilation": 6, "padding": 6}),
        (winograd.ForwardLine, {"kernel": (1, 9), "padding": (0, 4)}),
        (winograd.ForwardLongLine, {"kernel": (7, 1), "padding": (3, 0)}),
        (winograd.ForwardLongLine, {"kernel": (1, 31), "padding": (0, 15)}),
        (winograd.ForwardStrided, {"stride": 2}),
        (winograd.ForwardStridedRows, {"kernel": (7, 7), "padding": 3, "stride": 2}),
        (winograd.ForwardRows, {"kernel": (5, 5), "padding": 2}),
    ],
)
def test_error_of_other_forms_at_256_channels(impl, settings):
    spec, x, w, b, settings = problem((1, 256, 12, 40), 32, **settings)
    want = oracle.conv(x.astype(np.float64), w.astype(np.float64), b.astype(np.float64), **settings)
    assert np.abs(forward(impl, spec, x, w, b) - want).max() < 1e-5 * want.std()


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
    "6 kernels side by side": problem((1, 16, 8, 9), 17, kernel=(3, 6), padding=(1, 3)),
    "far apart": problem((2, 3, 14, 33), 5, padding=(2, 12), dilation=(2, 12)),
    "apart, a run and a rest": problem((2, 3, 6, 23), 5, padding=(1, 3), dilation=(1, 3)),
    "dilated depth": problem((2, 2, 6, 5, 5), 3, depth=2, padding=(1, 1, 1), dilation=(3, 1, 1)),
}


@pytest.mark.parametrize("name", [name for name in CASES if "apart" in name or "dilated" in name])
def test_order_of_tiles(name, monkeypatch):
    """Whatever the order in which tiles lie in vectors, the numbers are the same."""
    spec, x, w, b, settings = CASES[name]
    tile, found = (43, 43), winograd_problem.forward_problem(spec)
    orders = winograd_problem.orders(found, tile)
    assert len(orders) > 1 or spec.dw == 1
    for order in orders:
        monkeypatch.setattr(winograd, "best_order", lambda *_, order=order: (order, 1.0))
        winograd._plan.cache_clear()
        np.testing.assert_allclose(
            forward(winograd.ForwardF4, spec, x, w, b), oracle.conv(x, w, b, **settings), atol=2e-5
        )
    winograd._plan.cache_clear()


LINES = {
    "3": problem((2, 3, 1, 70), 5, kernel=(1, 3), padding=(0, 1)),
    "rows of 7": problem((2, 3, 6, 9), 17, kernel=(1, 7), padding=(0, 3)),
    "columns of 7": problem((2, 3, 9, 6), 17, kernel=(7, 1), padding=(3, 0)),
    "columns, padded": problem((2, 3, 9, 6), 4, kernel=(4, 1), padding=(1, 2), dilation=(2, 1)),
    "many kernels side by side": problem((1, 17, 1, 50), 18, kernel=(1, 9), padding=(0, 4)),
    "dilated": problem((2, 4, 1, 90), 6, kernel=(1, 5), padding=(0, 7), dilation=(1, 20), groups=2),
    "a little dilated": problem((1, 4, 1, 90), 6, kernel=(1, 5), padding=(0, 7), dilation=(1, 2)),
    "depth": problem((2, 3, 7, 3, 5), 4, depth=3, kernel=(1, 1), padding=(1, 0, 0)),
    "dilated depth": problem((1, 3, 9, 3, 2), 4, depth=3, kernel=(1, 1), padding=(2, 0, 0), dilation=(2, 1, 1)),
    "long": problem((1, 2, 1, 99), 3, kernel=(1, 31), padding=(0, 40)),
}


STRIDED = {
    "3 x 3": problem((2, 3, 13, 70), 17, stride=2),
    "short rows": problem((3, 5, 9, 12), 4, stride=2, padding=(0, 2)),
    "larger than the image": problem((1, 3, 2, 3), 4, stride=2, padding=2, kernel=(5, 4)),
    "3 x 5": problem((2, 4, 11, 37), 6, stride=2, kernel=(3, 5), groups=2),
    "7 x 7": problem((1, 3, 16, 75), 18, stride=2, padding=3, kernel=(7, 7)),
    "9 x 8": problem((2, 2, 17, 40), 3, stride=2, padding=(4, 3), kernel=(9, 8)),
    "depth": problem((1, 3, 5, 6, 9), 4, depth=3, stride=2, padding=1),
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("impl", [winograd.ForwardStrided, winograd.ForwardStridedRows])
def test_strides(impl, name):
    spec, x, w, b, settings = STRIDED[name]
    if impl is winograd.ForwardStridedRows and spec.kw < 5:
        assert "5 to 9 columns wide" in impl.when(spec)
        return
    assert impl.when(spec) is None
    want = oracle.conv(x, w, b, **settings)
    np.testing.assert_allclose(forward(impl, spec, x, w, b), want, atol=2e-5)
    np.testing.assert_array_equal(forward(impl, spec, x, w, b, packed=impl.pack(spec, w)), forward(impl, spec, x, w, b))


@pytest.mark.parametrize("name", ["5 x 5", "dilated depth", "2 x 3 x 5", "6 kernels side by side"])
def test_rows_as_terms(name):
    spec, x, w, b, settings = CASES[name]
    if spec.kw < 5:
        assert "columns wide" in winograd.ForwardRows.when(spec)
        return
    want = oracle.conv(x, w, b, **settings)
    np.testing.assert_allclose(forward(winograd.ForwardRows, spec, x, w, b), want, atol=2e-5)


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("impl", [winograd.ForwardLine, winograd.ForwardLongLine])
def test_lines(impl, name):
    spec, x, w, b, settings = LINES[name]
    assert impl.when(spec) is None
    want = oracle.conv(x, w, b, **settings)
    np.testing.assert_allclose(forward(impl, spec, x, w, b), want, atol=2e-5)
    np.testing.assert_array_equal(forward(impl, spec, x, w, b, packed=impl.pack(spec, w)), forward(impl, spec, x, w, b))


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("impl", [winograd.BackwardDataLine, winograd.BackwardDataLongLine])
def test_data_gradient_of_lines(impl, name):
    spec, x, w, _, settings = LINES[name]
    check_data_gradient(impl, spec, x, w, settings)


@pytest.mark.parametrize("impl", [winograd.ForwardF3, winograd.BackwardDataF3])
@pytest.mark.parametrize("name", [name for name in CASES if "apart" in name or name == "dilated 5 x 5"])
def test_tiles_of_three(impl, name):
    spec, x, w, b, settings = CASES[name]
    assert impl.when(spec) is None
    if impl is winograd.BackwardDataF3:
        return check_data_gradient(impl, spec, x, w, settings)
    np.testing.assert_allclose(forward(impl, spec, x, w, b), oracle.conv(x, w, b, **settings), atol=2e-5)


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
    check_data_gradient(impl, spec, x, w, settings)


def check_data_gradient(impl, spec, x, w, settings):
    assert impl.when(spec) is None
    gy = np.random.default_rng(1).standard_normal(spec.y_shape, np.float32)
    gx = np.full(x.shape, np.nan, np.float32)
    driver.launch(*impl.emit(spec, {"gy": gy, "w": w, "gx": gx}))
    np.testing.assert_allclose(gx, oracle.conv_data(x.shape, w, gy, **settings), atol=3e-5)


@pytest.mark.parametrize(
    "name", [name for name in CASES if winograd_weights.BackwardWeights.when(CASES[name][0]) is None]
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
    def refusals(*x_shape, kernel=(3, 3), dtype="float32", stride2=False, **settings):
        w_shape = (4, x_shape[1], *kernel)
        settings = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1, **settings}
        spec = conv_spec("conv", 2, x_shape, w_shape, None, **settings, dtype=np.dtype(dtype))
        found = {impl.name.removeprefix("conv_fwd_winograd_"): impl.when(spec) for impl in EVERY}
        others = {name: found.pop(name) for name in ("f4x3_stride2", "rows_f4x7_stride2", "rows_f4x5")}
        return others if stride2 else found

    line, plane = "needs a kernel of 3 to 33 pixels in one direction", "needs a kernel of 3 x 3 to 9 x 9, has "
    squares, lines = dict.fromkeys(("f4x3", "f2x3")), dict.fromkeys(("line_f4x3", "line_f4x4"), line)
    assert refusals(1, 3, 8, 8) == {**squares, "f3x3": "needs dilated columns", **lines}
    assert refusals(1, 3, 8, 8, dilation=2) == {**squares, "f3x3": None, **lines}
    assert set(refusals(1, 3, 8, 8, kernel=(5, 2)).values()) == {plane + "5 x 2", line}
    assert refusals(1, 3, 8, 8, kernel=(5, 1)) == {**dict.fromkeys(("f4x3", "f2x3", "f3x3"), plane + "5 x 1")} | {
        "line_f4x3": None,
        "line_f4x4": None,
    }
    assert set(refusals(1, 3, 40, 40, kernel=(34, 1)).values()) == {plane + "34 x 1", line}
    for kernel in ((3, 3), (1, 3)):
        wanted = {(3, 3): line, (1, 3): plane + "1 x 3"}[kernel]
        assert set(refusals(1, 3, 8, 8, kernel=kernel, stride=2).values()) == {"needs stride 1, has 2 x 2", wanted}
        found = refusals(1, 3, 8, 8, kernel=kernel, dtype="float64")
        assert set(found.values()) == {"is tuned for float32, has float64", wanted}
        assert set(refusals(0, 3, 8, 8, kernel=kernel).values()) == {"needs an image", wanted}
    stride, rows = "needs stride 2, has 1 x 1", "needs a kernel of several rows, 5 to 9 columns wide, has "
    assert list(refusals(1, 3, 8, 8, stride2=True).values()) == [stride, stride, rows + "3 x 3"]
    found = refusals(1, 3, 8, 8, kernel=(5, 5), stride=2, dilation=2, padding=4, stride2=True)
    assert list(found.values()) == ["needs dilation 1", "needs dilation 1", "needs stride 1, has 2 x 2"]
    found = refusals(1, 3, 8, 8, kernel=(1, 7), stride=2, padding=3, stride2=True)
    assert list(found.values())[:2] == [plane + "1 x 7", rows + "1 x 7"]


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
