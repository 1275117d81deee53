"""Deformable convolution and its kin against a naive float64 oracle, and ONNX's DeformConv where it is installed."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn

from .check_op import check_op
from .tolerance import assert_close


@dataclass(frozen=True)
class Case:
    """One problem; g: weight groups, og: offset groups."""

    n: int
    ic: int
    size: tuple
    oc: int
    kernel: tuple
    g: int = 1
    og: int = 1
    stride: tuple = (1, 1)
    padding: tuple = (0, 0)
    dilation: tuple = (1, 1)
    modulated: bool = True

    @property
    def out(self):
        return tuple(
            (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    @property
    def settings(self):
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    def arrays(self, dtype="float64"):
        """x, offset, w, b, mask."""
        rng, taps = np.random.default_rng(0), self.kernel[0] * self.kernel[1]
        shapes = (
            (self.n, self.ic, *self.size),
            (self.n, 2 * self.og * taps, *self.out),
            (self.oc, self.ic // self.g, *self.kernel),
            (self.oc,),
            (self.n, self.og * taps, *self.out),
        )
        x, offset, w, b, mask = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        return x, (2 * offset).astype(dtype), w, b, mask if self.modulated else None


CASES = {
    "oblong": Case(2, 3, (7, 11), 5, (3, 2), padding=(1, 1)),
    "version 1": Case(2, 4, (6, 9), 7, (3, 3), padding=(1, 1), modulated=False),
    "strided": Case(2, 5, (9, 13), 6, (3, 3), stride=(2, 3), padding=(1, 2)),
    "dilated": Case(1, 4, (10, 12), 5, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "weight groups": Case(2, 6, (7, 8), 9, (3, 3), g=3, padding=(1, 1)),
    "offset groups": Case(2, 8, (7, 8), 5, (3, 3), og=4, padding=(1, 1)),
    "more weight groups": Case(1, 8, (7, 8), 8, (3, 3), g=4, og=2, padding=(1, 1)),
    "more offset groups": Case(1, 8, (7, 8), 4, (3, 3), g=2, og=4, padding=(1, 1)),
    "groups that cross": Case(1, 12, (7, 8), 6, (2, 3), g=3, og=2),
    "depthwise": Case(1, 5, (6, 19), 10, (3, 3), g=5, padding=(1, 1)),
    "many channels": Case(1, 150, (5, 17), 33, (3, 3), og=2, padding=(1, 1)),
    "one tap": Case(2, 70, (13, 11), 40, (1, 1)),
    "one pixel": Case(1, 1, (1, 1), 1, (1, 1)),
}


def bilinear(plane, h, w):
    """(value, slope along h, slope along w) of a plane at a real position; 0 outside (1703.06211, equation 3)."""
    height, width = plane.shape
    if not (-1 < h < height and -1 < w < width):
        return 0.0, 0.0, 0.0
    value = down = right = 0.0
    for i, j in product((int(np.floor(h)), int(np.floor(h)) + 1), (int(np.floor(w)), int(np.floor(w)) + 1)):
        if 0 <= i < height and 0 <= j < width:
            v, wh, ww = plane[i, j], 1 - abs(h - i), 1 - abs(w - j)
            value += wh * ww * v
            down += (1 if i != np.floor(h) else -1) * ww * v
            right += (1 if j != np.floor(w) else -1) * wh * v
    return value, down, right


def samples_of(x, offset, case):
    """Samples (n, ic, taps, oh, ow) with their two slopes, before the mask."""
    taps, (oh, ow) = list(product(*map(range, case.kernel))), case.out
    samples = np.zeros((3, case.n, case.ic, len(taps), oh, ow))
    for n, c, (t, (ki, kj)), i, j in product(range(case.n), range(case.ic), enumerate(taps), range(oh), range(ow)):
        q = c * case.og // case.ic * len(taps) + t
        h = i * case.stride[0] - case.padding[0] + ki * case.dilation[0] + float(offset[n, 2 * q, i, j])
        v = j * case.stride[1] - case.padding[1] + kj * case.dilation[1] + float(offset[n, 2 * q + 1, i, j])
        samples[:, n, c, t, i, j] = bilinear(x[n, c].astype(np.float64), h, v)
    return samples


def spread_groups(maps, case):
    """Maps of offset groups (n, og * taps, ...) for each channel: (n, ic, taps, ...)."""
    return np.repeat(maps.reshape(case.n, case.og, -1, *maps.shape[2:]), case.ic // case.og, axis=1)


def oracle_all(x, offset, w, b, mask, gy, case):
    """y and the gradients of x, offset, w, b and mask (None without one)."""
    taps = case.kernel[0] * case.kernel[1]
    value, down, right = samples_of(x, offset, case)
    m = spread_groups(np.ones((case.n, case.og * taps, *case.out)) if mask is None else mask, case)
    grouped = (case.n, case.g, case.ic // case.g, taps, *case.out)
    weights = w.astype(np.float64).reshape(case.g, case.oc // case.g, case.ic // case.g, taps)
    y = np.einsum("goct,ngctij->ngoij", weights, (value * m).reshape(grouped)).reshape(gy.shape) + b[:, None, None]
    g = gy.astype(np.float64).reshape(case.n, case.g, -1, *case.out)
    gw = np.einsum("ngoij,ngctij->goct", g, (value * m).reshape(grouped)).reshape(w.shape)
    col = np.einsum("goct,ngoij->ngctij", weights, g).reshape(value.shape)
    by_group = (case.n, case.og, -1, taps, *case.out)
    gmask = (col * value).reshape(by_group).sum(2).reshape(case.n, -1, *case.out)
    slopes = [(col * m * slope).reshape(by_group).sum(2) for slope in (down, right)]
    goffset = np.stack(slopes, 3).reshape(offset.shape)
    gx = np.zeros(x.shape)
    for n, c in product(range(case.n), range(case.ic)):  # the samples are linear in x
        gx[n, c] = image_gradient(offset, col[n, c] * m[n, c], n, c, case)
    return y, gx, goffset, gw, gy.sum((0, 2, 3), dtype=np.float64), None if mask is None else gmask


def image_gradient(offset, weight, n, c, case):
    gx = np.zeros(case.size)
    for t, i, j in np.ndindex(weight.shape):
        ki, kj = divmod(t, case.kernel[1])
        q = c * case.og // case.ic * weight.shape[0] + t
        h = i * case.stride[0] - case.padding[0] + ki * case.dilation[0] + float(offset[n, 2 * q, i, j])
        v = j * case.stride[1] - case.padding[1] + kj * case.dilation[1] + float(offset[n, 2 * q + 1, i, j])
        for a, b in product((int(np.floor(h)), int(np.floor(h)) + 1), (int(np.floor(v)), int(np.floor(v)) + 1)):
            if 0 <= a < case.size[0] and 0 <= b < case.size[1]:
                gx[a, b] += (1 - abs(h - a)) * (1 - abs(v - b)) * weight[t, i, j]
    return gx


def run(x, offset, w, b, mask, gy, settings):
    tensors = [None if a is None else fc.Tensor(a, requires_grad=True) for a in (x, offset, w, b, mask)]
    y = F.deform_conv2d(*tensors[:4], **settings, mask=tensors[4])
    y.backward(gy)
    return [y.data, *(None if t is None else t.grad.data for t in tensors)]


DOUBLE = ("oblong", "groups that cross", "many channels")


@pytest.mark.parametrize(
    "case, dtype",
    [(CASES[name], "float64") for name in DOUBLE] + [(case, "float32") for case in CASES.values()],
    ids=[f"{name} float64" for name in DOUBLE] + list(CASES),
)
def test_values_and_gradients(case, dtype):
    x, offset, w, b, mask = case.arrays(dtype)
    gy = np.random.default_rng(1).standard_normal((case.n, case.oc, *case.out)).astype(dtype)
    want = oracle_all(x, offset, w, b, mask, gy, case)
    found = run(x, offset, w, b, mask, gy, case.settings)
    for name, got, expected in zip(("y", "gx", "goffset", "gw", "gb", "gmask"), found, want, strict=True):
        if expected is None:
            assert got is None
        else:
            # positions are real numbers of the arrays' dtype: 16 pixels cost 4 bits of a fraction
            assert_close(got, expected, dtype, 16 * w[0].size * case.oc, np.abs(expected).max(), name)
    if case.modulated:
        np.testing.assert_array_equal(F.deform_conv2d(x, offset, w, b, **case.settings, mask=mask), found[0])


@pytest.mark.smoke
def test_small_values_and_gradients():
    test_values_and_gradients(Case(1, 2, (3, 4), 3, (2, 2), og=2, padding=(1, 0)), "float32")


def test_gradients_by_differences():
    case = Case(1, 2, (4, 5), 3, (2, 2), og=2, padding=(1, 0))
    x, offset, w, b, mask = case.arrays()
    check_op(
        lambda x, o, w, b, m: F.deform_conv2d(x, o, w, b, padding=(1, 0), mask=m), x, offset, w, b, mask, second=False
    )


def test_without_offsets_it_is_a_convolution():
    case = CASES["strided"]
    x, offset, w, b, _ = case.arrays("float32")
    want = F.conv2d(x, w, b, **case.settings)
    np.testing.assert_allclose(F.deform_conv2d(x, 0 * offset, w, b, **case.settings), want, rtol=1e-4, atol=1e-4)


def test_bits_do_not_depend_on_threads():
    case = Case(2, 40, (17, 23), 37, (3, 3), og=2, padding=(1, 1))
    arrays = case.arrays("float32")
    gy, before, results = np.ones((2, 37, 17, 23), np.float32), fc.get_num_threads(), []
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            results.append(run(*arrays, gy, case.settings))
    finally:
        fc.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_awkward_arrays():
    case = CASES["offset groups"]
    x, offset, w, b, mask = case.arrays("float32")
    want = F.deform_conv2d(x, offset, w, b, **case.settings, mask=mask)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.repeat(offset, 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(F.deform_conv2d(last, wide, w, b, **case.settings, mask=mask), want)
    one = F.deform_conv2d(x[1], offset[1], w, b, **case.settings, mask=mask[1])
    np.testing.assert_array_equal(one, want[1])
    found = run(x[:0], offset[:0], w, b, mask[:0], want[:0], case.settings)
    assert found[0].shape == (0, *want.shape[1:]) and not found[3].any() and not found[4].any()


def test_far_and_undefined_offsets():
    case = Case(1, 2, (5, 6), 3, (1, 1))
    x, offset, w, _, mask = case.arrays("float32")
    for far in (1e9, -1e9, np.inf, -np.inf, 6.0, -6.0):
        assert not F.deform_conv2d(x, np.full_like(offset, far), w, mask=mask).any()
    offset[0, 0, 2, 3] = np.nan
    nan = np.isnan(F.deform_conv2d(x, offset, w, mask=mask))
    assert nan.sum() == 3 and nan[0, :, 2, 3].all()
    x[0, 1, 0, 0] = np.nan
    outside = np.full_like(offset, 100)
    assert not F.deform_conv2d(x, outside, w, mask=mask).any()


def test_onnx_cases():
    pytest.importorskip("onnx", reason="ONNX is not installed")
    from onnx.reference.ops.op_deform_conv import _deform_conv_implementation

    for case in (CASES["offset groups"], CASES["weight groups"], CASES["strided"]):
        x, offset, w, b, mask = case.arrays("float32")
        pads = [*case.padding, *case.padding]
        settings = list(case.dilation), case.g, list(case.kernel), case.og, pads, list(case.stride)
        want = _deform_conv_implementation(x, w, offset, b, mask, *settings)
        got = F.deform_conv2d(x, offset, w, b, **case.settings, mask=mask)
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"offset": np.zeros((1, 17, 5, 5))}, ValueError, "2 x 9 taps x offset groups channels, given 17"),
        ({"offset": np.zeros((1, 18, 5, 4))}, ValueError, r"offset must have shape \(1, 18, 5, 5\)"),
        ({"mask": np.zeros((1, 18, 5, 5))}, ValueError, r"mask must have shape \(1, 9, 5, 5\)"),
        ({"offset": np.zeros((1, 54, 5, 5)), "mask": None}, ValueError, "4 input channels.*3 offset groups"),
        ({"weight": np.zeros((5, 3, 3, 3))}, ValueError, "for 4 input channels"),
        ({"weight": np.zeros((5, 2, 3, 3))}, ValueError, "5 output channels can't be split into 2 groups"),
        ({"bias": np.zeros(4)}, ValueError, r"bias must have shape \(5,\)"),
        ({"mask": np.zeros((9, 5, 5))}, ValueError, "mask must have 4 dimensions"),
        ({"weight": np.zeros((5, 4, 3, 3), np.float32)}, TypeError, "float32"),
        ({"padding": "same"}, TypeError, "padding"),
        ({"stride": 0}, ValueError, "stride"),
    ],
)
def test_refusals(change, error, message):
    given = {"input": np.zeros((1, 4, 5, 5)), "offset": np.zeros((1, 18, 5, 5)), "weight": np.zeros((5, 4, 3, 3))}
    given |= {"mask": np.zeros((1, 9, 5, 5)), "padding": 1}
    with pytest.raises(error, match=message):
        F.deform_conv2d(**{**given, **change})


# ---- aggregation and active convolution


def aggregate_as_convolution(x, offset, mask, kernel, og, **settings):
    """Depthwise deformable convolution with weights of one (DCNv4, 2401.06197, equation 2)."""
    return F.deform_conv2d(x, offset, np.ones((x.shape[1], 1, *kernel), x.dtype), mask=mask, **settings)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_aggregate(dtype):
    case = Case(2, 20, (9, 11), 20, (3, 2), g=20, og=2, stride=(2, 1), padding=(1, 1), dilation=(1, 2))
    x, offset, _, _, mask = case.arrays(dtype)
    gy, results = np.random.default_rng(1).standard_normal((2, 20, *case.out)).astype(dtype), []
    for function in (
        lambda *a: F.deform_aggregate2d(*a, (3, 2), **case.settings),
        lambda *a: aggregate_as_convolution(*a, (3, 2), 2, **case.settings),
    ):
        tensors = [fc.Tensor(a, requires_grad=True) for a in (x, offset, mask)]
        y = function(*tensors)
        y.backward(gy)
        results.append([y.data, *(t.grad.data for t in tensors)])
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4 if dtype == "float32" else 1e-12)
    np.testing.assert_array_equal(
        F.deform_aggregate2d(x[0], offset[0], mask[0], (3, 2), **case.settings), results[0][0][0]
    )


def test_aggregate_options():
    case = Case(1, 6, (5, 7), 6, (3, 3), og=2, padding=(1, 1))
    x, offset, _, _, mask = case.arrays()
    want = F.deform_aggregate2d(x, 0.5 * offset, mask, 3, padding=1)
    np.testing.assert_allclose(F.deform_aggregate2d(x, offset, mask, 3, padding=1, offset_scale=0.5), want)
    keep = np.array([t for t in range(9) if t != 4])
    offset8 = offset.reshape(1, 2, 9, 2, 5, 7)[:, :, keep].reshape(1, 32, 5, 7)
    mask8 = mask.reshape(1, 2, 9, 5, 7).copy()
    mask8[:, :, 4] = 0
    want = F.deform_aggregate2d(x, offset, mask8.reshape(mask.shape), 3, padding=1)
    found = F.deform_aggregate2d(x, offset8, mask8[:, :, keep].reshape(1, 16, 5, 7), 3, padding=1, remove_center=True)
    np.testing.assert_allclose(found, want)
    with pytest.raises(ValueError, match="odd kernel"):
        F.deform_aggregate2d(x, offset, mask, (2, 3), remove_center=True)
    with pytest.raises(TypeError, match="mask"):
        F.deform_aggregate2d(x, offset, None, 3, padding=1)
    empty = F.deform_aggregate2d(x[:0], offset[:0], mask[:0], 3, padding=1)
    assert empty.shape == (0, 6, 5, 7)


def test_active_convolution():
    case = Case(2, 4, (6, 7), 6, (3, 2), g=2, padding=(1, 1))
    x, _, w, b, _ = case.arrays()
    position = np.random.default_rng(2).uniform(-1.5, 1.5, (6, 2))
    offset = np.broadcast_to(position.reshape(1, 12, 1, 1), (2, 12, *case.out)).copy()
    np.testing.assert_array_equal(
        F.active_conv2d(x, w, position, b, padding=1), F.deform_conv2d(x, offset, w, b, padding=1)
    )
    check_op(
        lambda x, w, p: F.active_conv2d(x, w, p, padding=1), x[:1, :2, :3, :3], w[:2, :, :, :], position, second=False
    )
    with pytest.raises(ValueError, match=r"\(kh \* kw, 2\)"):
        F.active_conv2d(x, w, position[:5])


# ---- layers


def test_layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 7, 9)).astype(np.float32)
    layer = nn.DeformConv2d(6, 8, (3, 2), stride=2, padding=1, groups=2)
    offset, mask = rng.standard_normal((2, 12, 4, 5)), rng.standard_normal((2, 6, 4, 5))
    offset, mask = offset.astype(np.float32), mask.astype(np.float32)
    out = layer(x, offset, mask)
    assert list(layer.state_dict()) == ["weight", "bias"] and out.shape == (2, 8, 4, 5)
    want = F.deform_conv2d(x, offset, layer.weight.data, layer.bias.data, 2, 1, 1, mask)
    np.testing.assert_array_equal(out.data, want)


@pytest.mark.parametrize("modulated", [False, True])
def test_layer_that_predicts_its_offsets(modulated):
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 9)).astype(np.float32)
    layer = nn.DeformConv2dPack(6, 8, 3, padding=1, offset_groups=2, modulated=modulated)
    plain = F.conv2d(x, layer.weight.data, None, padding=1) * (0.5 if modulated else 1)  # begins as a convolution
    plain += layer.bias.data[:, None, None]
    np.testing.assert_allclose(layer(x).data, plain, rtol=1e-4, atol=1e-4)
    layer(x).sum().backward()
    assert all(p.grad is not None and p.grad.data.any() for p in layer.parameters())


def test_active_and_aggregating_layers():
    x = np.random.default_rng(0).standard_normal((2, 32, 7, 9)).astype(np.float32)
    layer = nn.ActiveConv2d(32, 5, 3, padding=1)
    np.testing.assert_allclose(
        layer(x).data, F.conv2d(x, layer.weight.data, layer.bias.data, padding=1), rtol=1e-3, atol=1e-4
    )
    layer(x).sum().backward()
    assert layer.position.grad.data.any()
    for center in (False, True):
        layer = nn.DeformAggregate2d(32, 3, padding=1, group_channels=16, remove_center=center)
        y = layer(x)
        y.sum().backward()
        assert y.shape == x.shape and layer.offset_mask.bias.grad.data.any()
