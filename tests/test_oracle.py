"""The oracle itself: against loops that anyone can read, and against PyTorch."""

import numpy as np
import pytest

from . import oracle
from .cases import EDGES, SMOKE

FEW = [case for case in SMOKE + EDGES if case.macs < 4000 and case.n]


def _terms(case):
    """The places in x, w and y of all products, in the order of plain loops."""
    before = [pair[0] for pair in oracle.pads(case.padding, case.kernel, case.dilation)]
    for n, g in np.ndindex(case.n, case.groups):
        for i, o in np.ndindex(case.icg, case.ocg):
            ic, oc = g * case.icg + i, g * case.ocg + o
            for position in np.ndindex(*case.out):
                for tap in np.ndindex(*case.kernel):
                    rows = zip(position, case.stride, tap, case.dilation, before, strict=True)
                    pixel = tuple(p * s + t * d - b for p, s, t, d, b in rows)
                    if all(0 <= q < size for q, size in zip(pixel, case.size, strict=True)):
                        yield (n, ic, *pixel), (oc, i, *tap), (n, oc, *position)


@pytest.mark.smoke
@pytest.mark.parametrize("case", FEW, ids=str)
def test_against_loops(case):
    x, w, b, gy = case.arrays(np.float64)
    y, gx, gw = np.zeros(case.y_shape), np.zeros(case.x_shape), np.zeros(case.w_shape)
    if b is not None:
        y += b.reshape(-1, *(1,) * case.ndim)
    for at_x, at_w, at_y in _terms(case):
        y[at_y] += x[at_x] * w[at_w]
        gx[at_x] += gy[at_y] * w[at_w]
        gw[at_w] += gy[at_y] * x[at_x]
    np.testing.assert_allclose(oracle.conv(x, w, b, **case.settings), y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(oracle.conv_data(case.x_shape, w, gy, **case.settings), gx, rtol=0, atol=1e-12)
    np.testing.assert_allclose(oracle.conv_weights(x, case.w_shape, gy, **case.settings), gw, rtol=0, atol=1e-12)


def test_cases_are_many_and_distinct():
    names = [str(case) for case in SMOKE + EDGES]
    assert len(set(names)) == len(names)
    assert len(FEW) >= 15


@pytest.mark.torch
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_against_torch(ndim):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(ndim)
    size, kernel = (11, 9, 7)[:ndim], (3, 4, 2)[:ndim]
    x, w, b = rng.standard_normal((2, 6, *size)), rng.standard_normal((4, 3, *kernel)), rng.standard_normal(4)
    settings = {"stride": (2, 1, 2)[:ndim], "padding": (1, 2, 0)[:ndim], "dilation": (1, 2, 3)[:ndim], "groups": 2}
    conv = getattr(torch.nn.functional, f"conv{ndim}d")
    y = conv(*map(torch.from_numpy, (x, w, b)), **settings).numpy()
    np.testing.assert_allclose(oracle.conv(x, w, b, **settings), y, rtol=0, atol=1e-12)
    gy = rng.standard_normal(y.shape)
    gx = getattr(torch.nn.grad, f"conv{ndim}d_input")(x.shape, torch.from_numpy(w), torch.from_numpy(gy), **settings)
    gw = getattr(torch.nn.grad, f"conv{ndim}d_weight")(torch.from_numpy(x), w.shape, torch.from_numpy(gy), **settings)
    np.testing.assert_allclose(oracle.conv_data(x.shape, w, gy, **settings), gx.numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(oracle.conv_weights(x, w.shape, gy, **settings), gw.numpy(), rtol=0, atol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_transposed_against_torch(ndim):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(ndim)
    size, kernel = (5, 4, 3)[:ndim], (3, 4, 2)[:ndim]
    x, w, b = rng.standard_normal((2, 6, *size)), rng.standard_normal((6, 2, *kernel)), rng.standard_normal(4)
    settings = {"stride": (2, 3, 2)[:ndim], "padding": 1, "output_padding": (1, 2, 0)[:ndim]}
    settings |= {"groups": 2, "dilation": (1, 2, 3)[:ndim]}
    y = getattr(torch.nn.functional, f"conv_transpose{ndim}d")(*map(torch.from_numpy, (x, w, b)), **settings)
    np.testing.assert_allclose(oracle.conv_transpose(x, w, b, **settings), y.numpy(), rtol=0, atol=1e-12)
