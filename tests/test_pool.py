"""Maximum, average and adaptive pooling: every implementation against the oracle, gradients, refusals, torch."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

import fastconv.autograd as ag
from fastconv import _config, _memory, _registry, driver
from fastconv.ops import pool
from fastconv.pool_specs import AdaptiveSpec, PoolSpec, adaptive_spec, pool_spec

from . import oracle_pool as oracle
from .tolerance import assert_close


@dataclass(frozen=True)
class Case:
    """One pooling; kernel None: adaptive, to `out`.  content: how the input is filled."""

    size: tuple
    kernel: object = None
    stride: object = None
    padding: object = 0
    dilation: object = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None
    out: tuple | None = None
    n: int = 2
    c: int = 3
    content: str = "normal"

    def __str__(self):
        text = "x".join(map(str, self.size)) + f"-n{self.n}c{self.c}"
        if self.out is not None:
            return f"{text}-to{self.out}-{self.content}".replace(" ", "")
        flags = (
            "ceil" * self.ceil_mode
            + "nopad" * (not self.count_include_pad)
            + (f"/{self.divisor}" if self.divisor else "")
        )
        window = f"k{self.kernel}s{self.stride}p{self.padding}d{self.dilation}"
        return f"{text}-{window}{flags}-{self.content}".replace(" ", "")

    @property
    def ndim(self):
        return len(self.size)

    @property
    def dense(self):
        return self.kernel is None or self.dilation in (1, (1,) * self.ndim)

    @property
    def axes(self):
        if self.kernel is None:
            return oracle.adaptive_windows(self.size, self.out)
        window = (self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode, self.count_include_pad)
        return oracle.windows(self.size, *window)

    def spec(self, dtype, indices=False):
        shape = (self.n, self.c, *self.size)
        if self.kernel is None:
            return adaptive_spec("test", self.ndim, shape, self.out, dtype, indices)
        window = (self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)
        average = (self.count_include_pad, self.divisor)
        return pool_spec("test", self.ndim, shape, *window, dtype, indices, average)

    def input(self, dtype="float32"):
        rng = np.random.default_rng(len(str(self)))
        x = rng.standard_normal((self.n, self.c, *self.size))
        if self.content == "ties":
            x = np.round(x)
        if self.content == "lowest":
            x[rng.random(x.shape) < 0.8] = -np.inf
        if self.content == "nan":
            x[rng.random(x.shape) < 0.1] = np.nan
            x[rng.random(x.shape) < 0.2] = np.inf
        return x.astype(dtype)


WINDOWS = [
    Case((13, 9), 2, 2),
    Case((12, 67), 2, 2, c=1),
    Case((8, 64), 2, 2, c=2),
    Case((13, 9), 3, 2, 1),
    Case((35, 67), 3, 2, 1, n=1),
    Case((11, 70), 3, 2, 0, ceil_mode=True, n=1),
    Case((7, 7), 3, 1, 1, n=1, c=5),
    Case((9, 33), 3, 1, 1),
    Case((20, 100), 3, 1, 1, n=1, c=1),
    Case((14, 17), 3, 1, 0),
    Case((13, 13), 13, 1, 6, n=1),
    Case((6, 40), 5, 1, 2, n=1),
    Case((11, 14), (3, 2), (1, 3), (1, 0)),
    Case((5, 23), (1, 7), (1, 1), (0, 3)),
    Case((23, 5), (7, 1), (2, 1), (3, 0)),
    Case((17, 19), 2, 5),
    Case((16, 11), 3, 4, 1),
    Case((12, 15), 3, 1, 1, dilation=2),
    Case((12, 15), (2, 3), 2, (1, 0), dilation=(3, 2), ceil_mode=True),
    Case((2, 2), 2, 1, 1, dilation=3),
    Case((6, 7), 3, 2, 1, ceil_mode=True),
    Case((5, 8), 2, 2, 1, ceil_mode=True),
    Case((4, 5), 2, 3, 1, ceil_mode=True),
    Case((2, 2), 3, 2, 0, ceil_mode=True),
    Case((2, 3), (2, 3), 3, 0, ceil_mode=True),
    Case((1, 1), 1, 1),
    Case((1, 1), 2, 1, 1),
    Case((7, 5), (7, 5)),
    Case((7, 5), 2, n=0),
    Case((19,), 3, 2, 1),
    Case((50,), 4, 1, 2),
    Case((40,), 2),
    Case((33,), 5, 3, 2, dilation=2, ceil_mode=True),
    Case((5, 6, 7), 2),
    Case((5, 6, 7), 3, 2, 1),
    Case((4, 7, 18), (2, 3, 3), (1, 2, 1), (1, 1, 1), ceil_mode=True),
    Case((4, 5, 6), (3, 1, 2), 1, (1, 0, 1), dilation=(1, 2, 2)),
    Case((12, 37), 3, 2, 1, content="nan"),
    Case((12, 36), 2, 2, content="nan"),
    Case((9, 21), 3, 1, 1, content="nan"),
    Case((5, 6, 7), 3, 1, 1, content="nan"),
    Case((12, 37), 3, 2, 1, content="ties"),
    Case((12, 36), 2, 2, content="ties"),
    Case((9, 21), 3, 1, 1, content="ties"),
    Case((12, 15), 3, 2, 1, dilation=2, content="ties"),
    Case((9, 21), 3, 1, 1, content="lowest"),
    Case((12, 36), 2, 2, content="lowest"),
    Case((11, 35), 3, 2, 1, content="lowest"),
]
ADAPTIVE = [
    Case((7, 7), out=(1, 1)),
    Case((7, 5), out=(1, 1), c=33, n=1),
    Case((8, 12), out=(4, 3)),
    Case((5, 6), out=(8, 13)),
    Case((7, 11), out=(3, 4)),
    Case((5, 6), out=(5, 6)),
    Case((5, 6), out=(0, 2)),
    Case((9, 40), out=(7, 1), content="nan"),
    Case((9, 10), out=(1, 1), content="nan"),
    Case((9, 10), out=(4, 4), content="ties"),
    Case((9, 10), out=(1, 1), content="ties"),
    Case((9, 10), out=(2, 3), content="lowest"),
    Case((13,), out=(5,)),
    Case((5, 6, 7), out=(2, 3, 4)),
    Case((5, 6, 7), out=(1, 1, 1)),
    Case((5, 6), out=(2, 2), n=0),
]
AVERAGES = [
    variant
    for case in WINDOWS
    if case.dense and case.content == "normal"
    for variant in (case, replace(case, count_include_pad=False), replace(case, divisor=-7))
] + [Case((9, 21), 3, 1, 1, content="nan")]
DTYPES = ("float32", "float64")
SMOKE = {WINDOWS[0], WINDOWS[3], WINDOWS[6], WINDOWS[12], WINDOWS[38], ADAPTIVE[0], ADAPTIVE[2], ADAPTIVE[3]}


def typed(cases):
    """(case, dtype): all in float32, every third in float64 too, since each window and dtype is a kernel to compile."""
    params = []
    for i, case in enumerate(cases):
        for dtype in DTYPES if i % 3 == 0 else DTYPES[:1]:
            marks = [pytest.mark.smoke] if case in SMOKE and dtype == "float32" else []
            params.append(pytest.param(case, dtype, marks=marks, id=f"{case}-{dtype}"))
    return params


def _gradient(case, dtype="float32"):
    shape = (case.n, case.c, *map(len, case.axes))
    return np.random.default_rng(7).standard_normal(shape).astype(dtype)


def _accepting(operation, spec):
    """Every implementation that takes the spec; there is always one."""
    found = [impl for impl in _registry.implementations(spec.prefix + operation) if impl.when(spec) is None]
    assert found, f"no implementation of {operation} takes {spec}"
    return found


def _launch(impl, spec, **buffers):
    driver.launch(*impl.emit(spec, buffers))


def _empty(shape, dtype):
    """An output that shows what was not written."""
    array = _memory.empty(shape, dtype)
    array.fill(77)
    return array


# ---- every implementation against the oracle


@pytest.mark.parametrize("case, dtype", typed(WINDOWS + ADAPTIVE))
def test_max_forward(case, dtype):
    x = case.input(dtype)
    expected, positions = oracle.max_pool(x, case.axes)
    for indices in (False, True):
        spec = case.spec(dtype, indices)
        for impl in _accepting("max_pool.fwd", spec):
            y, at = _empty(spec.y_shape, dtype), _empty(spec.y_shape, "int64")
            _launch(impl, spec, x=x, y=y, **({"at": at} if indices else {}))
            np.testing.assert_array_equal(y, expected, err_msg=impl.name)
            if indices:
                np.testing.assert_array_equal(at, positions, err_msg=impl.name)


@pytest.mark.parametrize("case, dtype", typed(WINDOWS + ADAPTIVE))
def test_max_backward(case, dtype):
    spec, gy = case.spec(dtype, True), _gradient(case, dtype)
    at = oracle.max_pool(case.input(dtype), case.axes)[1]
    expected = oracle.scatter(gy, at, case.size)
    for impl in _accepting("max_pool.bwd", spec):
        gx = _empty(spec.x_shape, dtype)
        _launch(impl, spec, gx=gx, gy=gy, at=at)
        assert_close(gx, expected, dtype, getattr(spec, "taps", 4), 4.0)
    for impl in _accepting("max_pool.gather", spec):
        y = _empty(spec.y_shape, dtype)
        _launch(impl, spec, x=expected.astype(dtype), y=y, at=at)
        flat = expected.astype(dtype).reshape(*expected.shape[:2], spec.in_pixels)
        picked = np.take_along_axis(flat, np.maximum(at, 0).reshape(*at.shape[:2], spec.out_pixels), 2).reshape(
            at.shape
        )
        np.testing.assert_array_equal(y, np.where(at < 0, 0, picked))


@pytest.mark.parametrize("case, dtype", typed(AVERAGES + ADAPTIVE))
def test_average(case, dtype):
    spec, x, gy = case.spec(dtype), case.input(dtype), _gradient(case, dtype)
    terms = getattr(spec, "taps", spec.in_pixels)
    expected = oracle.avg_pool(x, case.axes, case.divisor)
    for impl in _accepting("avg_pool.fwd", spec):
        y = _empty(spec.y_shape, dtype)
        _launch(impl, spec, x=x, y=y)
        if case.content == "normal":
            assert_close(y, expected, dtype, terms, 2.0)
        else:
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    expected = oracle.avg_pool_backward(gy, case.axes, case.size, case.divisor)
    for impl in _accepting("avg_pool.bwd", spec):
        gx = _empty(spec.x_shape, dtype)
        _launch(impl, spec, gx=gx, gy=gy)
        assert_close(gx, expected, dtype, terms, 2.0)


@pytest.mark.parametrize("operation", ["max_pool.fwd", "max_pool.bwd", "avg_pool.fwd", "avg_pool.bwd"])
@pytest.mark.parametrize("prefix", ["", "adaptive_"])
def test_every_implementation_is_tested(prefix, operation):
    cases = ADAPTIVE if prefix else WINDOWS if operation.startswith("max") else AVERAGES
    specs = [case.spec(dtype, indices) for case in cases[::3] for dtype in DTYPES for indices in (False, True)]
    for impl in _registry.implementations(prefix + operation):
        assert any(impl.when(spec) is None for spec in specs), impl.name


@pytest.mark.parametrize("case", [WINDOWS[0], WINDOWS[4], WINDOWS[6], ADAPTIVE[0], ADAPTIVE[3]], ids=str)
def test_same_bits_for_any_thread_count(case, monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    case = replace(case, n=5, c=11)
    x = ag.Tensor(case.input(), requires_grad=True)
    before, results = driver.get_num_threads(), []
    try:
        for threads in (1, min(2, before)):
            driver.set_num_threads(threads)
            y = pool.MaxPool.apply(x, case.spec("float32"), False) + pool.AvgPool.apply(x, case.spec("float32"))
            (gx,) = ag.grad(y, x, _gradient(case))
            results.append((ag.value(y).tobytes(), gx.numpy().tobytes()))
    finally:
        driver.set_num_threads(before)
    assert results[0] == results[1]


# ---- the functions


FUNCTIONS = (
    *(pool.max_pool1d, pool.max_pool2d, pool.max_pool3d, pool.avg_pool1d, pool.avg_pool2d, pool.avg_pool3d),
    *(pool.adaptive_max_pool1d, pool.adaptive_max_pool2d, pool.adaptive_max_pool3d),
    *(pool.adaptive_avg_pool1d, pool.adaptive_avg_pool2d, pool.adaptive_avg_pool3d),
)


def _function(case, kind):
    name = f"{'adaptive_' * (case.kernel is None)}{kind}_pool{case.ndim}d"
    return next(function for function in FUNCTIONS if function.__name__ == name)


def _arguments(case, kind):
    """What follows the input in a call, as torch takes it too."""
    if case.kernel is None:
        return (case.out,)
    window = (case.kernel, case.stride, case.padding)
    return (
        (*window, case.dilation, case.ceil_mode) if kind == "max" else (*window, case.ceil_mode, case.count_include_pad)
    )


def _call(case, x, kind, **more):
    return _function(case, kind)(x, *_arguments(case, kind), **more)


def _readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        _readonly,
        lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        lambda x: np.repeat(x, 2, axis=3)[:, :, :, ::2],
        lambda x: x[:, ::-1],
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    ],
    ids=["fortran", "read-only", "channels-last", "strided", "reversed", "unaligned"],
)
def test_any_strides(change):
    x = WINDOWS[3].input()
    given, kept = change(x), change(x).copy()
    dense = np.array(given, order="C")
    for f in (
        lambda a: pool.max_pool2d(a, 3, 2, 1),
        lambda a: pool.max_pool2d(a, 3, 2, 1, return_indices=True)[1],
        lambda a: pool.avg_pool2d(a, 3, 2, 1),
        lambda a: pool.adaptive_avg_pool2d(a, 4),
        lambda a: pool.adaptive_max_pool2d(a, 4),
    ):
        np.testing.assert_array_equal(f(given), f(dense))
    np.testing.assert_array_equal(given, kept)


@pytest.mark.parametrize("case", [WINDOWS[3], WINDOWS[29], WINDOWS[33], ADAPTIVE[3]], ids=str)
def test_without_batch(case):
    x = ag.Tensor(case.input()[0], requires_grad=True)
    batched = ag.Tensor(case.input()[:1], requires_grad=True)
    for kind in ("max", "avg"):
        y, expected = _call(case, x, kind), _call(case, batched, kind)
        assert y.shape == expected.shape[1:]
        np.testing.assert_array_equal(ag.value(y), ag.value(expected)[0])
        (gx,), (gbatched,) = (ag.grad(out.sum(), a) for out, a in ((y, x), (expected, batched)))
        np.testing.assert_array_equal(gx.numpy(), gbatched.numpy()[0])


def test_array_in_array_out():
    x = np.ones((1, 1, 4, 4), np.float32)
    y, at = pool.max_pool2d(x, 2, return_indices=True)
    assert type(y) is np.ndarray and y.dtype == np.float32
    assert type(at) is np.ndarray and at.dtype == np.int64
    y, at = pool.max_pool2d(ag.Tensor(x, requires_grad=True), 2, return_indices=True)
    assert isinstance(y, ag.Tensor) and isinstance(at, ag.Tensor)
    assert y.requires_grad and not at.requires_grad


GRADIENTS = [
    WINDOWS[0],
    WINDOWS[3],
    WINDOWS[12],
    WINDOWS[17],
    WINDOWS[20],
    WINDOWS[29],
    WINDOWS[34],
    ADAPTIVE[0],
    ADAPTIVE[3],
]


@pytest.mark.parametrize("case", GRADIENTS, ids=str)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_gradients(case, kind):
    if kind == "avg" and not case.dense:
        case = replace(case, dilation=1)
    case = replace(case, n=1, c=1)
    x = np.random.default_rng(3).permutation(np.prod(case.size)).astype(float).reshape(1, 1, *case.size)  # no ties
    assert ag.gradcheck(lambda t: _call(case, t, kind), [x])
    assert ag.gradgradcheck(lambda t: _call(case, t, kind) * _call(case, t, kind), [x / 10])


# ---- refusals


X = np.zeros((2, 3, 5, 7), np.float32)
REFUSALS = [
    (ValueError, "kernel_size must be at least 1, given 0", lambda: pool.max_pool2d(X, 0)),
    (ValueError, "stride must be at least 1, given 0", lambda: pool.max_pool2d(X, 2, 0)),
    (ValueError, "stride must be at least 1, given -1", lambda: pool.avg_pool2d(X, 2, -1)),
    (ValueError, "padding must be at least 0, given -1", lambda: pool.max_pool2d(X, 2, 2, -1)),
    (
        ValueError,
        r"half of kernel_size, given padding \(2, 2\), kernel_size \(3, 3\)",
        lambda: pool.max_pool2d(X, 3, 2, 2),
    ),
    (ValueError, "padding must be at most half of kernel_size", lambda: pool.avg_pool2d(X, (4, 2), 1, (2, 2))),
    (ValueError, "padding must be at most half of kernel_size", lambda: pool.max_pool1d(X[0], 2, 1, 2)),
    (ValueError, "dilation must be at least 1", lambda: pool.max_pool2d(X, 2, dilation=0)),
    (ValueError, "the window covers 9 in height, more than the padded input's 5", lambda: pool.max_pool2d(X, 9)),
    (ValueError, "the window covers 8 in width, more than the padded input's 7", lambda: pool.avg_pool2d(X, (1, 8))),
    (ValueError, "kernel_size must have 2 values, given 3", lambda: pool.max_pool2d(X, (2, 2, 2))),
    (TypeError, "kernel_size must be a whole number", lambda: pool.max_pool2d(X, 2.0)),
    (TypeError, "kernel_size must be a whole number", lambda: pool.max_pool2d(X, True)),
    (TypeError, "ceil_mode must be True or False, given 1", lambda: pool.max_pool2d(X, 2, ceil_mode=1)),
    (TypeError, "return_indices must be True or False", lambda: pool.max_pool2d(X, 2, return_indices=1)),
    (ValueError, "divisor_override must not be 0", lambda: pool.avg_pool2d(X, 2, divisor_override=0)),
    (TypeError, "divisor_override must be a whole number", lambda: pool.avg_pool2d(X, 2, divisor_override=2.5)),
    (ValueError, r"4 dimensions, or 3 without a batch, given shape \(5, 7\)", lambda: pool.max_pool2d(X[0, 0], 2)),
    (ValueError, r"given shape \(1, 2, 3, 5, 7\)", lambda: pool.avg_pool2d(X[None], 2)),
    (ValueError, "only the batch may be empty", lambda: pool.max_pool2d(X[:, :0], 2)),
    (ValueError, "only the batch may be empty", lambda: pool.avg_pool2d(X[:, :, :0], 2)),
    (ValueError, "only the batch may be empty", lambda: pool.max_pool2d(X[:0, 0], 2)),
    (ValueError, "only the batch may be empty", lambda: pool.adaptive_avg_pool2d(X[:, :, :0], 2)),
    (ValueError, "only the batch may be empty", lambda: pool.adaptive_max_pool2d(X[:, :0], 2)),
    (TypeError, "must be float32 or float64, given int64", lambda: pool.max_pool2d(X.astype(int), 2)),
    (TypeError, "must be float32 or float64, given float16", lambda: pool.adaptive_avg_pool2d(X.astype("f2"), 2)),
    (TypeError, "must be a NumPy array or a Tensor, given list", lambda: pool.avg_pool2d([[1.0]], 2)),
    (ValueError, "output_size must be at least 0", lambda: pool.adaptive_avg_pool2d(X, (-1, 2))),
    (ValueError, "output_size must have 2 values, given 3", lambda: pool.adaptive_avg_pool2d(X, (1, 2, 3))),
    (ValueError, "output_size must have 2 values, given 1", lambda: pool.adaptive_max_pool2d(X, (2,))),
    (TypeError, "output_size must be a whole number, given None", lambda: pool.adaptive_avg_pool1d(X[0], None)),
]


@pytest.mark.smoke
@pytest.mark.parametrize("error, text, call", REFUSALS, ids=range(len(REFUSALS)))
def test_refusals(error, text, call):
    with pytest.raises(error, match=text):
        call()


def test_specs_are_plain_numbers():
    for case in (*WINDOWS, *ADAPTIVE):
        spec = case.spec("float32")
        assert isinstance(spec, AdaptiveSpec if case.kernel is None else PoolSpec)
        assert spec.flops() >= spec.planes * spec.out_pixels and spec.bytes() >= 4 * case.input().size
        assert spec.for_one_image().n <= 1 and spec.with_indices.indices and hash(spec) is not None


# ---- agreement with torch


@pytest.mark.parametrize("case", WINDOWS + ADAPTIVE, ids=str)
def test_torch_agrees(case):
    torch = pytest.importorskip("torch")
    for kind in ("max", "avg") if case.dense else ("max",):
        function = getattr(torch.nn.functional, _function(case, kind).__name__)
        args = _arguments(case, kind)
        theirs = torch.tensor(case.input(), requires_grad=True)
        ours = ag.Tensor(case.input(), requires_grad=True)
        expected, y = function(theirs, *args), _call(case, ours, kind)
        np.testing.assert_allclose(ag.value(y), expected.detach().numpy(), rtol=1e-5, atol=1e-6)
        empty_window = (ag.value(y) == -np.inf).any() and case.content == "normal"  # torch's positions lie outside
        if kind == "max" and not empty_window:
            positions = function(theirs, *args, return_indices=True)[1].numpy()
            np.testing.assert_array_equal(_call(case, ours, kind, return_indices=True)[1].numpy(), positions)
        if not empty_window and expected.numel():
            gy = _gradient(case)
            expected.backward(torch.tensor(gy))
            y.backward(gy)
            np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-5, atol=1e-5)
