"""Receptive fields against experiments: with positive weights an output answers to a white pixel just if it sees it."""

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn

pytestmark = pytest.mark.smoke


class Net(nn.Module):
    """A function as a network; modules given are registered."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


SIZE = 32, 30


def conv(*args, **settings):
    return nn.Conv2d(*args, **settings, bias=False)


def positive(model):
    random = np.random.default_rng(0)
    for p in model.parameters():
        p.data[...] = random.uniform(0.1, 1, p.shape)
    return model.eval()


@pytest.fixture(autouse=True)
def one_algorithm(monkeypatch):
    """Fewer kernels to compile, and no rounding of transforms where an output sees nothing."""
    monkeypatch.setattr("fastconv._config.IMPL", ("conv_fwd_implicit_gemm", "conv_bwd_data_implicit_gemm"))


def boxes(model, places):
    """[(low, high)] along both axes of the pixels that the output at each of the places sees."""
    with fc.no_grad():
        found = [model(fc.Tensor(x)).numpy() for x in lines()]
    return [[_reach(y[(slice(None), slice(None), *place)].sum(1)) for y in found] for place in places]


def lines():
    """Black images with one white row, for every row, and the same with columns."""
    height, width = SIZE
    for axis, n in enumerate(SIZE):
        x = np.zeros((n, 2, height, width), np.float32)
        for i in range(n):
            x[(i, slice(None), *([slice(None)] * axis), i)] = 1
        yield x


def _reach(answers):
    """The first image that gives an answer, and the one after the last."""
    answering = np.flatnonzero(answers > 0)
    return answering[0], answering[-1] + 1


def predicted(model):
    layers = fc.summary(model, (1, 2, *SIZE)).layers
    return layers[-1].output_shape, layers[-1].field


def residual(m, x):
    return m.b(m.a(x)) + m.short(x)


def inception(m, x):
    return F.cat([m.a(x), m.b(x), F.avg_pool2d(x, 3, 1, 1)], 1)


def shuffled(m, x):
    n, c, h, w = x.shape
    return m.b(m.a(x).reshape(n, 2, c // 2, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w))


def channels_last(m, x):
    return m.b(F.linear(m.a(x).permute(0, 2, 3, 1), m.line.weight).permute(0, 3, 1, 2))


EXACT = {
    "3x3": nn.Sequential(conv(2, 2, 3, padding=1)),
    "strides": nn.Sequential(conv(2, 2, 5, stride=2), conv(2, 2, 3, stride=(1, 2), padding=1), conv(2, 2, (2, 3))),
    "dilation": nn.Sequential(conv(2, 2, 3, dilation=(3, 2), padding=2), conv(2, 2, (1, 4), stride=2)),
    "same": nn.Sequential(conv(2, 2, 4, padding="same"), conv(2, 2, 3, stride=2)),
    "pool": nn.Sequential(conv(2, 2, 3), nn.AvgPool2d(3, 2, 1), nn.ReLU(), conv(2, 2, 3)),
    "reflect": nn.Sequential(conv(2, 2, 3, stride=2), conv(2, 2, 3, padding=1, padding_mode="circular"))[:1],
    "residual": Net(
        residual, a=conv(2, 2, 3, stride=2, padding=1), b=conv(2, 2, 3, padding=1), short=conv(2, 2, 1, stride=2)
    ),
    "uneven branches": Net(residual, a=conv(2, 2, 3, padding=(2, 1)), b=conv(2, 2, (3, 1)), short=conv(2, 2, 1)),
    "inception": Net(inception, a=conv(2, 2, 1), b=conv(2, 2, 5, padding=2)),
    "channel shuffle": Net(shuffled, a=conv(2, 2, 3, padding=1), b=conv(2, 2, 3, stride=2)),
    "channels last": Net(channels_last, a=conv(2, 3, 3), line=nn.Linear(3, 2, bias=False), b=conv(2, 1, 3, stride=2)),
    "crop": Net(lambda m, x: m.b(m.a(x)[:, :1, 2:-1, 1::2]), a=conv(2, 2, 3), b=conv(1, 1, 3)),
    "pad": Net(lambda m, x: m.a(F.pad(x, (3, 1, 2, 0))), a=conv(2, 2, 3, stride=2)),
    "unshuffle": Net(lambda m, x: m.a(F.pixel_unshuffle(x, 2)), a=conv(8, 2, 3)),
    "transposed": nn.Sequential(nn.ConvTranspose2d(2, 2, 3, padding=1, bias=False), conv(2, 2, 3, stride=2)),
    "asymmetric": nn.SpatialSeparableConv2d(2, 2, (3, 5), bias=False),
    "adaptive": nn.Sequential(nn.AdaptiveAvgPool2d((8, 6)), conv(2, 2, 3)),
    "global": nn.Sequential(conv(2, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1)),
}


@pytest.mark.parametrize("model", EXACT.values(), ids=EXACT)
def test_field_is_what_an_output_answers_to(model):
    shape, field = predicted(positive(model))
    places = [[n // 2 for n in shape[2:]], [n // 3 for n in shape[2:]]]
    for place, found in zip(places, boxes(model, places), strict=True):
        wanted = [
            (max(0, f.low + i * f.jump), min(n, f.high + i * f.jump))
            for f, i, n in zip(field, place, SIZE, strict=True)
        ]
        assert found == wanted, (place, field)


BOUNDS = {
    "transposed, stride 2": nn.Sequential(nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False), conv(2, 2, 3, padding=1)),
    "pixel shuffle": Net(lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), a=conv(2, 8, 3, padding=1), b=conv(2, 1, 3)),
    "nearest": Net(lambda m, x: m.a(F.interpolate(x, scale_factor=2)), a=conv(2, 2, 3, padding=1)),
    "bilinear": Net(lambda m, x: m.a(F.interpolate(x, (48, 40), mode="bilinear")), a=conv(2, 2, 3, padding=1)),
    "squeeze and excite": nn.Sequential(conv(2, 4, 3, padding=1), nn.SqueezeExcite(4, 2), conv(4, 2, 3)),
    "shift": nn.Sequential(conv(2, 9, 1), nn.Shift2d(9), conv(9, 2, 3, padding=1)),
    "flatten": Net(
        lambda m, x: F.linear(F.flatten(m.a(x), 1), m.line.weight).reshape(-1, 2, 1, 1),
        a=conv(2, 1, 3, stride=2),
        line=nn.Linear(15 * 14, 2, bias=False),
    ),
}


@pytest.mark.parametrize("model", BOUNDS.values(), ids=BOUNDS)
def test_field_holds_what_an_output_answers_to(model):
    """Outputs of these don't all see equally much: the field is as large as the largest, up to one input pixel."""
    shape, field = predicted(positive(model))
    last = (*shape[2:], 1, 1)[:2]
    places = [[n // 2 + i - 1 if n > 3 else 0 for n, i in zip(last, place, strict=True)] for place in np.ndindex(3, 3)]
    for place, found in zip(places, boxes(model, places), strict=True):
        for (low, high), f, i in zip(found, field, place, strict=True):
            assert f.low + i * f.jump - f.jump <= low and high <= f.high + i * f.jump + f.jump, (place, field)
