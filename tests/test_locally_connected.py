"""The locally connected layer against plain loops, gradients of first and second order, a convolution, bad input."""

import numpy as np
import pytest

import fastconv.functional as F
from fastconv import nn

from .check_op import check_op

CASES = {  # n, ic, oc, image, kernel, stride, padding, dilation
    "plain": (2, 3, 2, (5, 6), (3, 2), 1, 0, 1),
    "padded": (2, 2, 3, (4, 5), (3, 3), 1, 1, 1),
    "strided": (1, 2, 2, (7, 6), (2, 3), 2, 1, 1),
    "all": (2, 1, 2, (8, 9), (2, 3), (2, 3), (1, 2), (3, 2)),
    "pointwise": (1, 2, 1, (1, 3), (1, 1), 1, 0, 1),
}


def arrays(case):
    n, ic, oc, image, kernel, stride, padding, dilation = CASES[case]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, ic, *image))
    out = F.conv2d(x, np.zeros((oc, ic, *kernel)), None, stride, padding, dilation).shape[2:]
    return (x, rng.standard_normal((oc, ic, *kernel, *out)), rng.standard_normal((oc, *out))), (
        stride,
        padding,
        dilation,
    )


def oracle(x, w, b, stride, padding, dilation):
    (sh, sw), (ph, pw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    padded = np.pad(x, [(0, 0), (0, 0), (ph, ph), (pw, pw)])
    y = np.empty((len(x), *b.shape))
    kh, kw, oh, ow = w.shape[2:]
    for i in range(oh):
        for j in range(ow):
            patch = padded[:, :, i * sh : i * sh + kh * dh : dh, j * sw : j * sw + kw * dw : dw][:, :, :kh, :kw]
            y[:, :, i, j] = np.einsum("ncpq,ocpq->no", patch, w[..., i, j]) + b[:, i, j]
    return y


@pytest.mark.smoke
@pytest.mark.parametrize("case", CASES)
def test_against_the_oracle(case):
    (x, w, b), options = arrays(case)
    np.testing.assert_allclose(F.locally_connected2d(x, w, b, *options), oracle(x, w, b, *options), atol=1e-12)
    np.testing.assert_allclose(
        F.locally_connected2d(x[0], w, None, *options), oracle(x[:1], w, b * 0, *options)[0], atol=1e-12
    )


@pytest.mark.parametrize("case", CASES)
def test_gradients(case):
    operands, options = arrays(case)
    check_op(lambda x, w, b: F.locally_connected2d(x, w, b, *options), *operands)


def test_equal_weights_are_a_convolution():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 9, 40), (4, 3, 3, 3)))
    own = np.repeat(np.repeat(w[..., None, None], 9, 4), 40, 5)
    want = F.conv2d(x, w, padding=1)
    np.testing.assert_allclose(F.locally_connected2d(x, own, padding=1), want, rtol=1e-5, atol=1e-5)


def test_layer():
    layer = nn.LocallyConnected2d(3, 4, (7, 9), 3, stride=2, padding=1)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {"weight": (4, 3, 3, 3, 4, 5), "bias": (4, 4, 5)}
    assert layer(np.ones((2, 3, 7, 9), np.float32)).shape == (2, 4, 4, 5)
    assert nn.LocallyConnected2d(3, 4, 7, 3, bias=False).bias is None and "input_size=(7, 9)" in repr(layer)
    with pytest.raises(ValueError, match=r"a reach of \[9, 9\] in 7 with padding \(0, 0\)"):
        nn.LocallyConnected2d(3, 4, 7, 3, dilation=4)


def test_bad_input():
    x, w = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 3, 3, 3, 5, 5\), given \(4, 3, 3, 3, 3, 3\)"):
        F.locally_connected2d(x, w, padding=1)
    with pytest.raises(ValueError, match=r"bias must have shape \(4, 3, 3\), given \(4,\)"):
        F.locally_connected2d(x, w, np.ones(4))
    with pytest.raises(ValueError, match=r"\(oc, ic, kh, kw, oh, ow\), given \(4, 3, 3, 3\)"):
        F.locally_connected2d(x, w[..., 0, 0])
    with pytest.raises(ValueError, match="channels"):
        F.locally_connected2d(x[:, :2], w)
    with pytest.raises(TypeError, match="float32"):
        F.locally_connected2d(x, w.astype(np.float32))
    assert F.locally_connected2d(x[:0], w).shape == (0, 4, 3, 3)
