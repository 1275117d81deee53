"""The adder layer against AdderNet's equations (Chen et al. 2020, arXiv 1912.13200)."""

from dataclasses import dataclass

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn
from fastconv.ops.adder import adder_learning_rate

from .tolerance import assert_close


@dataclass(frozen=True)
class Case:
    """One problem: n images of ic channels and size h x w, oc outputs, kernel, settings."""

    n: int
    ic: int
    size: tuple
    oc: int
    kernel: tuple
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)
    groups: int = 1

    def arrays(self, dtype):
        rng = np.random.default_rng(0)
        w = rng.standard_normal((self.oc, self.ic // self.groups, *self.kernel))
        x, b = rng.standard_normal((self.n, self.ic, *self.size)), rng.standard_normal(self.oc)
        return x.astype(dtype), w.astype(dtype), b.astype(dtype)

    @property
    def settings(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


CASES = {
    "oblong": Case(2, 3, (7, 11), 5, (3, 2)),
    "strided": Case(2, 4, (9, 13), 6, (3, 3), stride=(2, 3), padding=(1, 2)),
    "stride beyond kernel": Case(1, 2, (11, 9), 3, (2, 1), stride=(3, 2)),
    "grouped and dilated": Case(2, 6, (10, 12), 9, (3, 2), padding=(2, 1), dilation=(2, 3), groups=3),
    "depthwise": Case(1, 5, (6, 19), 5, (3, 3), padding=(1, 1), groups=5),
    "taps only in the padding": Case(1, 2, (2, 3), 3, (5, 7), padding=(4, 6)),
    "many channels": Case(1, 150, (5, 17), 33, (1, 1)),
    "pointwise strided": Case(2, 8, (9, 9), 7, (1, 1), stride=(2, 2)),
    "large": Case(2, 17, (20, 23), 21, (3, 3), padding=(1, 1)),
    "one pixel": Case(1, 1, (1, 1), 1, (1, 1)),
}
SMALL = Case(1, 2, (4, 5), 3, (2, 2), stride=(1, 2), padding=(1, 1))


def views(x, case):
    """(index of h and w, inside) of the source of every output and tap, arrays (oh, ow, kh, kw)."""
    steps = []
    for axis in range(2):
        k, s, p, d = (v[axis] for v in (case.kernel, case.stride, case.padding, case.dilation))
        out = (x.shape[2 + axis] + 2 * p - d * (k - 1) - 1) // s + 1
        steps.append(np.arange(out)[:, None] * s + np.arange(k) * d - p)
    h, w = steps[0][:, None, :, None], steps[1][None, :, None, :]
    inside = (h >= 0) & (h < x.shape[2]) & (w >= 0) & (w < x.shape[3])
    return np.clip(h, 0, x.shape[2] - 1), np.clip(w, 0, x.shape[3] - 1), inside


def patches(x, case):
    """(n, groups, c, oh, ow, kh, kw) with zeros in the padding."""
    h, w, inside = views(x, case)
    found = np.where(inside, x[:, :, h, w], 0.0)
    return found.reshape(x.shape[0], case.groups, -1, *found.shape[2:])


def differences(x, w, case):
    """w - patch: (n, groups, o, c, oh, ow, kh, kw)."""
    w = w.reshape(case.groups, -1, *w.shape[1:]).astype(np.float64)
    return w[None, :, :, :, None, None] - patches(x.astype(np.float64), case)[:, :, None]


def oracle_forward(x, w, b, case):
    """Equation (2)."""
    y = -np.abs(differences(x, w, case)).sum((3, 6, 7))
    return y.reshape(y.shape[0], -1, *y.shape[3:]) + b[:, None, None]


def oracle_backward(x, w, gy, case):
    """Equations (6) and (7): the gradients of input, weight and bias."""
    diff = differences(x, w, case)
    g = gy.reshape(*diff.shape[:3], 1, *gy.shape[2:], 1, 1).astype(np.float64)
    gw = (-diff * g).sum((0, 4, 5)).reshape(w.shape)
    terms = (np.clip(diff, -1, 1) * g).sum(2)
    terms = terms.reshape(x.shape[0], x.shape[1], *terms.shape[3:])
    h, v, inside = views(x, case)
    gx = np.zeros(x.shape)
    index = np.broadcast_arrays(h, v, inside)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            np.add.at(gx[n, c], (index[0][index[2]], index[1][index[2]]), terms[n, c][index[2]])
    return gx, gw, gy.sum((0, 2, 3), dtype=np.float64)


def run(x, w, b, gy, case):
    """Output and gradients of the layer."""
    tensors = [fc.Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = F.adder2d(*tensors, **case.settings)
    y.backward(gy)
    return [y.data, *(t.grad.data for t in tensors)]


DOUBLE = ("strided", "grouped and dilated", "large")  # every further dtype compiles every kernel again


@pytest.mark.parametrize(
    "case, dtype",
    [(CASES[name], "float64") for name in DOUBLE] + [(case, "float32") for case in CASES.values()],
    ids=[f"{name} float64" for name in DOUBLE] + list(CASES),
)
def test_values_and_gradients(case, dtype):
    x, w, b = case.arrays(dtype)
    before = x.copy(), w.copy()
    want = oracle_forward(x, w, b, case)
    gy = np.random.default_rng(1).standard_normal(want.shape).astype(dtype)
    found = run(x, w, b, gy, case)
    for array, kept in zip((x, w), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    for name, got, expected in zip(
        ["y", "gx", "gw", "gb"], found, (want, *oracle_backward(x, w, gy, case)), strict=True
    ):
        terms = w[0].size * case.oc * gy[:, 0].size
        assert_close(got, expected, dtype, terms, np.abs(expected).max() + 1, name)
    np.testing.assert_array_equal(F.adder2d(x, w, b, **case.settings), found[0])


@pytest.mark.smoke
def test_small_values_and_gradients():
    test_values_and_gradients(SMALL, "float32")


def test_bits_do_not_depend_on_threads():
    case = Case(3, 20, (30, 41), 37, (3, 3), padding=(1, 1), stride=(2, 1))
    x, w, b = case.arrays("float32")
    gy = np.ones((3, 37, 15, 41), np.float32)
    before = fc.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            results.append(run(x, w, b, gy, case))
    finally:
        fc.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_awkward_arrays():
    case = CASES["strided"]
    x, w, b = case.arrays("float64")
    want = F.adder2d(x, w, b, **case.settings)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.repeat(w, 2, axis=3)[..., ::2]
    last.flags.writeable = False
    np.testing.assert_array_equal(F.adder2d(last, wide, b, **case.settings), want)
    np.testing.assert_array_equal(F.adder2d(x[1], w, b, **case.settings), want[1])
    empty = fc.Tensor(x[:0], requires_grad=True)
    weight = fc.Tensor(w, requires_grad=True)
    out = F.adder2d(empty, weight, **case.settings)
    out.backward(np.zeros(out.shape))
    assert out.shape == (0, *want.shape[1:]) and not weight.grad.data.any()


def test_nan_stays_where_it_is():
    x = np.zeros((1, 2, 8, 40), np.float32)
    x[0, 1, 3, 20] = np.nan
    y = F.adder2d(x, np.ones((3, 2, 3, 3), np.float32))
    assert np.array_equal(np.argwhere(np.isnan(y[0, 0]))[[0, -1]], [[1, 18], [3, 20]])
    assert np.isnan(y).sum() == 3 * 9


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((np.zeros((1, 3, 5, 5)), np.zeros((4, 2, 3, 3))), ValueError, "weight expects 2 input channels, input has 3"),
        ((np.zeros((1, 2, 2, 5)), np.zeros((4, 2, 3, 3))), ValueError, "kernel covers 3 in height"),
        ((np.zeros((1, 2, 5, 5)), np.zeros((4, 2, 3, 3)), np.zeros(3)), ValueError, r"bias must have shape \(4,\)"),
        ((np.zeros((1, 2, 5, 5)), np.zeros((4, 2, 3, 3), np.float32)), TypeError, "dtype float32"),
        ((np.zeros((1, 2, 5, 5), int), np.zeros((4, 2, 3, 3), int)), TypeError, "floating point"),
        ((np.zeros((5, 5)), np.zeros((4, 2, 3, 3))), ValueError, "4 dimensions"),
        (([1.0], np.zeros((4, 2, 3, 3))), TypeError, "array or a Tensor"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        F.adder2d(*arguments)


def test_second_derivative_is_refused():
    x = fc.Tensor(np.ones((1, 1, 3, 3)), requires_grad=True)
    y = F.adder2d(x, np.ones((1, 1, 2, 2)))
    with pytest.raises(RuntimeError, match="adder"):
        y.backward(np.ones(y.shape), create_graph=True)


def test_learning_rate():
    """Equations (11) and (12)."""
    g = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    assert np.isclose(adder_learning_rate(g), 0.2 * np.sqrt(48) / np.linalg.norm(g))
    assert np.isclose(np.linalg.norm(adder_learning_rate(fc.Tensor(g), 0.5) * g), 0.5 * np.sqrt(48))
    assert adder_learning_rate(np.zeros(3)) == 0
    with pytest.raises(ValueError, match="eta"):
        adder_learning_rate(g, 0)
    with pytest.raises(TypeError, match="floating-point"):
        adder_learning_rate(np.zeros(3, int))


def test_layer():
    layer = nn.Adder2d(3, 5, (3, 2), stride=2, padding=1, bias=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    out = layer(x)
    assert list(layer.state_dict()) == ["weight", "bias"]
    np.testing.assert_array_equal(out.data, F.adder2d(x, layer.weight.data, layer.bias.data, 2, 1))
    out.sum().backward()
    before = np.linalg.norm(layer.weight.grad.data)
    layer.scale_gradient(eta=0.1)
    assert before and np.isclose(np.linalg.norm(layer.weight.grad.data), 0.1 * np.sqrt(layer.weight.data.size))
    assert repr(nn.Adder2d(3, 5, 3)) == "Adder2d(3, 5, kernel_size=(3, 3), stride=(1, 1), bias=False)"
