"""The public convolutions: results, gradients of any order, every form of input, and what they refuse."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fastconv import _config, driver
from fastconv.autograd import Tensor, capture, grad, gradcheck, gradgradcheck, no_grad
from fastconv.ops import conv as ops

from . import oracle, tolerance
from .cases import FULL, SMOKE, case
from .test_conv import OPERATIONS, expected
from .tolerance import assert_close


def functions(ndim):
    """The three public functions of a rank."""
    names = {"conv": f"conv{ndim}d", "input": f"conv{ndim}d_input", "weight": f"conv{ndim}d_weight"}
    return SimpleNamespace(**{short: getattr(ops, name) for short, name in names.items()})


def passes(case, x, w, b, gy):
    """The results of the three public functions."""
    f, s = functions(case.ndim), case.settings
    return f.conv(x, w, b, **s), f.input(x.shape, w, gy, **s), f.weight(x, w.shape, gy, **s)


# ---- results


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [pytest.param(c, id=str(c)) for c in SMOKE if c.is_public])
def test_smoke(case, dtype):
    check(case, dtype)


@pytest.mark.parametrize("case", [pytest.param(c, id=str(c)) for c in FULL[::3] if c.is_public])
def test_full(case):
    check(case, "float32")


def check(case, dtype):
    for operation, actual in zip(OPERATIONS, passes(case, *case.arrays(dtype)), strict=True):
        result, scale = expected(operation, case, dtype)
        assert_close(actual, result, dtype, case.terms[operation], scale)


@pytest.mark.smoke
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_signatures_are_torchs(ndim):
    f = functions(ndim)
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    signatures = {
        f.conv: {"input": None, "weight": None, "bias": None, **settings},
        f.input: {"input_size": None, "weight": None, "grad_output": None, **settings},
        f.weight: {"input": None, "weight_size": None, "grad_output": None, **settings},
    }
    for function, wanted in signatures.items():
        parameters = inspect.signature(function).parameters
        assert list(parameters) == list(wanted)
        assert all(parameters[name].default == value for name, value in settings.items())


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_without_a_batch(ndim):
    c = case((7, 6, 5)[:ndim], (3, 2, 3)[:ndim], 1, 1, 1, (2, 3, 4))
    x, w, b, gy = c.arrays("float32")
    for one, many in zip(passes(c, x[0], w, b, gy[0]), passes(c, x, w, b, gy), strict=True):
        np.testing.assert_array_equal(one, many if one.ndim == many.ndim else many[0])
        assert one.shape in ((many.shape), many.shape[1:])
    assert passes(c, x[0], w, b, gy[0])[1].shape == c.x_shape[1:]


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_forms_of_settings(ndim):
    """Numbers, tuples, lists, NumPy integers and tuples of one value say the same."""
    c = case((9, 8, 7)[:ndim], 3, 2, 1, 2, (1, 3, 4))
    x, w, b, _ = c.arrays("float32")
    conv, wanted = functions(ndim).conv, functions(ndim).conv(x, w, b, 2, 1, 2)
    for s, p, d in [((2,) * ndim, [1] * ndim, (2,)), (np.int64(2), (np.int32(1),) * ndim, [2])]:
        np.testing.assert_array_equal(conv(x, w, b, stride=s, padding=p, dilation=d, groups=np.int64(1)), wanted)
    np.testing.assert_array_equal(conv(x, w, b, padding="valid"), conv(x, w, b))
    assert conv(x, w, b, padding="same", dilation=2).shape == (1, 4, *c.size)


# ---- forms of input

FORM = case((9, 11), 3, 1, 1, 1, (1, 6, 10), n=3)


def _strided(a):
    """Every second element of a larger array."""
    big = np.full([2 * n for n in a.shape], 1e30, a.dtype)
    view = big[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape) if a.size else a
    view[...] = a
    return view


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _channels_last(a):
    order = (0, *range(2, a.ndim), 1)[: a.ndim]
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


class _Subclass(np.ndarray):
    pass


FORMS = {
    "strided": _strided,
    "fortran": np.asfortranarray,
    "channels last": _channels_last,
    "backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
    "read-only": _read_only,
    "unaligned": _unaligned,
    "subclass": lambda a: a.view(_Subclass),
    "memory map": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_form_of_input_does_not_matter(form, dtype):
    arrays = FORM.arrays(dtype)
    given = [form(a) for a in arrays]
    before = [a.tobytes() for a in given]
    for actual, wanted in zip(passes(FORM, *given), passes(FORM, *arrays), strict=True):
        np.testing.assert_array_equal(actual, wanted)
        assert actual.flags.c_contiguous and actual.flags.writeable and type(actual) is np.ndarray
    assert [a.tobytes() for a in given] == before


def test_broadcast_input():
    """An array whose strides are 0 is not written to and not misread."""
    x, w, b, _ = FORM.arrays("float32")
    wide = np.broadcast_to(x[:1], x.shape)
    np.testing.assert_array_equal(ops.conv2d(wide, w, b, padding=1), ops.conv2d(wide.copy(), w, b, padding=1))


def test_results_are_new_memory():
    x, w, b, gy = FORM.arrays("float32")
    first = passes(FORM, x, w, b, gy)
    copies = [a.copy() for a in first]
    second = passes(FORM, 2 * x, w, b, 3 * gy)
    for a, copy, other in zip(first, copies, second, strict=True):
        np.testing.assert_array_equal(a, copy)
        assert not np.shares_memory(a, other)


# ---- values that are not numbers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "c",
    [
        case((7, 37), 3, 1, 1, 1, (1, 3, 9), n=2),
        case((9, 20), (2, 3), (2, 3), (1, 2), (1, 2), (2, 2, 4), n=2),
        case((11, 13), 1, 1, 0, 1, (1, 4, 8), n=2),
        case((6, 40), 3, 2, 1, 1, (5, 1, 1), n=2),
        case((3, 4, 19), 2, 1, 1, 1, (1, 2, 3), n=2),
    ],
    ids=str,
)
def test_bad_values_stay_where_they_belong(c, bad):
    """One bad value spoils exactly the results that depend on it: no neighbour in a tile, no other image or group.  It
    may spoil those where it meets padding: an algorithm multiplies that zero or skips it."""
    x, w, b, gy = c.arrays("float32")
    f, s, rng = functions(c.ndim), c.settings, np.random.default_rng(7)
    for array, compute, reference in [
        (x, lambda: f.conv(x, w, b, **s), lambda x, gy: oracle.conv(x, w, **s)),
        (x, lambda: f.weight(x, w.shape, gy, **s), lambda x, gy: oracle.conv_weights(x, w.shape, gy, **s)),
        (gy, lambda: f.input(x.shape, w, gy, **s), lambda x, gy: oracle.conv_data(x.shape, w, gy, **s)),
        (gy, lambda: f.weight(x, w.shape, gy, **s), lambda x, gy: oracle.conv_weights(x, w.shape, gy, **s)),
    ]:
        for _ in range(3):
            at = tuple(int(rng.integers(n)) for n in array.shape)
            mark = np.zeros_like(array)
            mark[at] = 1
            meets = reference(*((mark, gy) if array is x else (x, mark))) != 0
            kept, array[at] = array[at], bad
            with np.errstate(invalid="ignore"):
                spoilt, may = ~np.isfinite(compute()), ~np.isfinite(reference(x, gy))
            array[at] = kept
            assert not (meets & ~spoilt).any() and not (spoilt & ~may).any()


def test_bad_weights_spoil_their_channel_alone():
    x, w, b, gy = FORM.arrays("float32")
    w[4, 2, 1, 1], b[7] = np.nan, np.inf
    finite = np.isfinite(ops.conv2d(x, w, b, padding=1))
    assert [bool(finite[:, o].any()) for o in range(10)] == [o not in (4, 7) for o in range(10)]
    finite = np.isfinite(ops.conv2d_input(x.shape, w, gy, padding=1))
    assert [bool(finite[:, i].any()) for i in range(6)] == [i != 2 for i in range(6)]
    assert finite[:, [0, 1, 3, 4, 5]].all()


# ---- the same bits

REPEATED = [
    case((29, 31), 3, 1, 1, 1, (1, 20, 33), n=3),
    case((23, 40), 5, 2, 2, 1, (1, 17, 24), n=3),
    case((30, 30), 3, 1, 1, 1, (40, 1, 1), n=3),
    case((28, 28), 1, 1, 0, 1, (1, 64, 96), n=3),
    case((19, 23), 3, 1, 1, 1, (4, 9, 13), n=3),
    case((4, 11, 13), 3, 1, 1, 1, (1, 9, 17), n=3),
    case(999, 9, 1, 4, 1, (1, 33, 40), n=3),
    case((9, 9), 3, 1, 1, 1, (1, 150, 70), n=3),
]


@pytest.mark.skipif(driver.numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("c", REPEATED, ids=str)
def test_same_bits_for_any_number_of_threads(c, dtype, monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    arrays, before = c.arrays(dtype), driver.get_num_threads()
    results = []
    try:
        for threads in (1, 2, min(4, driver.numba.config.NUMBA_NUM_THREADS)):
            driver.set_num_threads(threads)
            results.append([a.tobytes() for a in passes(c, *arrays)])
    finally:
        driver.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("c", REPEATED, ids=str)
def test_same_bits_alone_and_in_any_batch(c):
    x, w, b, gy = c.arrays("float32")
    before = _config.batch_invariant()
    _config.batch_invariant(True)
    try:
        y, gx, _ = passes(c, x, w, b, gy)
        for n in (slice(0, 1), slice(2, 3), slice(1, 3)):
            alone = passes(c, x[n], w, b, gy[n])
            np.testing.assert_array_equal(alone[0], y[n])
            np.testing.assert_array_equal(alone[1], gx[n])
    finally:
        _config.batch_invariant(before)


# ---- gradients

DIFFERENTIATED = [
    case(7, 3, 2, 1, 1, (1, 2, 3), n=2),
    case((4, 5), (3, 2), 1, 1, 1, (1, 2, 2), n=2),
    case((5, 4), 3, 2, 1, 1, (2, 1, 2)),
    case((5, 6), 2, 1, "same", 2, (3, 1, 1), bias=False),
    case((3, 3), 1, 2, 0, 1, (1, 2, 2)),
    case((2, 3, 3), 2, 1, 1, 1, (1, 1, 2)),
]


@pytest.mark.parametrize("c", DIFFERENTIATED, ids=str)
def test_gradients(c):
    x, w, b, gy = c.arrays("float64")
    f, s = functions(c.ndim), c.settings
    if b is None:
        assert gradcheck(lambda x, w: f.conv(x, w, **s), [x, w])
    else:
        assert gradcheck(lambda x, w, b: f.conv(x, w, b, **s), [x, w, b])
    assert gradcheck(lambda gy, w: f.input(x.shape, w, gy, **s), [gy, w])
    assert gradcheck(lambda x, gy: f.weight(x, w.shape, gy, **s), [x, gy])


@pytest.mark.parametrize("c", DIFFERENTIATED, ids=str)
def test_second_derivatives(c):
    x, w, b, gy = replace(c, n=1).arrays("float64")
    f, s = functions(c.ndim), c.settings
    bias = [] if b is None else [b]
    assert gradgradcheck(lambda x, w, *b: f.conv(x, w, *b, **s), [x, w, *bias])
    assert gradgradcheck(lambda gy, w: f.input(x.shape, w, gy, **s), [gy, w])
    assert gradgradcheck(lambda x, gy: f.weight(x, w.shape, gy, **s), [x, gy])


def test_third_derivative():
    """f(x) = sum conv(x, w)^3: its gradients of first to third order along x itself are 3, 6 and 6 times f."""
    x, w, _, _ = DIFFERENTIATED[0].arrays("float64")
    x = Tensor(x, requires_grad=True)
    value = (ops.conv1d(x, w, stride=2) ** 3).sum()
    total = value
    for order in (3, 2, 1):
        (gx,) = grad(total, x, create_graph=True)
        total = (gx * x.detach()).sum()
        value = order * value.detach()
        np.testing.assert_allclose(total.detach().numpy(), value.numpy(), rtol=1e-10)


def test_only_wanted_gradients_are_computed():
    c = DIFFERENTIATED[1]
    x, w, b, gy = c.arrays("float32")
    ran = []
    for wanted, computed in [("x", ["conv", "conv_bwd_data"]), ("w", ["conv", "conv_bwd_weights"])]:
        tx, tw = Tensor(x, requires_grad=wanted == "x"), Tensor(w, requires_grad=wanted == "w")
        with capture(lambda op, args, outputs: ran.append(op.name)):
            ops.conv2d(tx, tw, b, **c.settings).backward(gy)
        assert [name for name in ran if name.startswith("conv")] == computed
        ran.clear()
        wanted_tensor, other = (tx, tw) if wanted == "x" else (tw, tx)
        assert wanted_tensor.grad.shape == wanted_tensor.shape and other.grad is None


def test_tensors_in_tensors_out():
    x, w, b, _ = DIFFERENTIATED[1].arrays("float32")
    plain = ops.conv2d(x, w, b)
    assert type(plain) is np.ndarray
    recorded = ops.conv2d(Tensor(x), Tensor(w, requires_grad=True), b)
    assert isinstance(recorded, Tensor) and recorded.requires_grad
    with no_grad():
        quiet = ops.conv2d(x, Tensor(w, requires_grad=True), b)
    assert isinstance(quiet, Tensor) and not quiet.requires_grad
    np.testing.assert_array_equal(recorded.detach().numpy(), plain)
    np.testing.assert_array_equal(quiet.numpy(), plain)


LARGE = [
    case((56, 57), 3, 1, 1, 1, (1, 64, 40), n=2),
    case((61, 45), 7, 2, 3, 1, (1, 3, 64), n=2),
    case((41, 43), 3, 1, 4, 4, (1, 24, 50)),
    case((57, 30), 5, 3, 2, 1, (2, 20, 20), n=2),
    case((112, 50), 3, 1, 1, 1, (32, 1, 1), n=2),
    case((9, 30, 31), 3, (1, 2, 2), 1, 1, (1, 16, 24)),
    case(4001, 16, 8, 4, 1, (1, 64, 32), n=3),
    case((28, 28), 1, 1, 0, 1, (1, 300, 200), n=2),
]


@pytest.mark.parametrize("c", LARGE, ids=str)
def test_adjoint_identities(c):
    """<conv(x, w), gy> = <x, bwd_data(gy, w)> = <w, bwd_weights(x, gy)>."""
    x, w, _, gy = c.arrays("float32")
    y, gx, gw = passes(c, x, w, None, gy)
    products = [float(np.vdot(a.astype(np.float64), b)) for a, b in ((y, gy), (x, gx), (w, gw))]
    scale = float(np.linalg.norm(y) * np.linalg.norm(gy) / np.sqrt(y.size))
    allowed = max(tolerance.relative("float32", terms) for terms in c.terms.values()) * scale
    assert max(products) - min(products) <= allowed, (products, allowed)
