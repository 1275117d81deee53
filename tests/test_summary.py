"""What summary counts, against published numbers and by hand; what advice and comparisons say."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn
from fastconv.summary import guidelines
from fastconv.summary.costs import multiply_adds

F32 = 4


@pytest.fixture(autouse=True)
def one_algorithm(monkeypatch):
    """Fewer kernels to compile."""
    monkeypatch.setattr("fastconv._config.IMPL", ("conv_fwd_implicit_gemm",))


class Net(nn.Module):
    """A function as a network; modules given are registered."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


# ---- published numbers


def vgg16():
    """Configuration D of Simonyan and Zisserman 2015, arXiv 1409.1556, table 1."""
    layers, channels = [], 3
    for count, width in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential({"features": nn.Sequential(*layers), "classifier": nn.Sequential(*head)})


@pytest.mark.slow
def test_vgg16():
    """138 M parameters (table 2 of the paper), 15.5 G multiply-adds, receptive field 212 before the classifier."""
    with nn.init.skipped():
        model = vgg16()
    found = fc.summary(model, (1, 3, 224, 224))
    assert found.parameters == found.trainable == sum(layer.parameters for layer in found.layers) == 138_357_544
    assert found.multiply_adds == 15_470_264_320 and "15.47 G multiply-adds" in str(found)
    last = found.layer("features.30")
    assert last.output_shape == (1, 512, 7, 7) and last.field == ((212, 32, 16),) * 2
    assert found.layers[-1].field == ((404, 32, 112),) * 2  # all 7x7 windows together: 212 + 6 * 32


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, parameters, multiply_adds, field",
    [
        ("resnet50", 25_557_032, 4_089_184_256, 427),  # 4.09 G and 25.6 M; stride in the 3x3 convolution
        ("mobilenet_v1", 4_231_976, 568_740_352, 315),  # arXiv 1704.04861, table 8: 569 M and 4.2 M
        ("inception_v3", 27_161_264, 5_713_216_096, 1311),  # 5.71 G and 27.2 M
    ],
)
def test_published_networks(name, parameters, multiply_adds, field):
    """Field before the global pooling; 315 and 1311: Araujo et al. 2019, Distill, table 1, where ResNet-50, with its
    strides in the first 1x1 convolutions, has 483: 8 + 16 + 32 more, from three 3x3 convolutions that see twice as far.
    """
    found = fc.summary(fc.models.get_model(name), (1, *fc.models.NETWORKS[name].input_shape))
    assert (found.parameters, found.multiply_adds) == (parameters, multiply_adds)
    last = [layer for layer in found.layers if layer.output_shape[2:] > (1, 1)][-1]
    assert last.field[0].size == field and last.field[0].jump == 32


def test_alexnet_receptive_fields():
    """Size, jump and start of each layer: D. H. The, "A guide to receptive field arithmetic for CNNs", 2017, table."""
    layers = [nn.Conv2d(1, 1, 11, 4), nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, 5, padding=2), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)] + [nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, 6)]
    found = fc.summary(nn.Sequential(*layers), (1, 1, 227, 227))
    wanted = [(11, 4, 5.5), (19, 8, 9.5), (51, 8, 9.5), (67, 16, 17.5), (99, 16, 17.5), (131, 16, 17.5)]
    wanted += [(163, 16, 17.5), (195, 32, 33.5), (355, 32, 113.5)]
    assert [layer.field[0] for layer in found.layers] == wanted
    assert [layer.output_shape[2] for layer in found.layers] == [55, 27, 27, 13, 13, 13, 13, 6, 1]


# ---- by hand


def test_each_layer_by_hand():
    body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6), nn.Dropout(0.5))
    model = Net(lambda m, x: m.head(F.flatten(F.relu(m.body(x)), 1)), body=body, head=nn.Linear(6 * 4 * 3, 5))
    found = fc.summary(model, (2, 4, 8, 6))
    assert [(layer.name, layer.kind, layer.output_shape) for layer in found.layers] == [
        ("body.0", "Conv2d", (2, 6, 4, 3)),
        ("body.1", "BatchNorm2d", (2, 6, 4, 3)),
        ("relu", "relu", (2, 6, 4, 3)),
        ("head", "Linear", (2, 5)),
    ]
    conv, norm, relu, head = found.layers
    assert conv.detail == "3x3 s2 g2" and conv.parameters == 6 * 2 * 9 + 6
    assert conv.multiply_adds == 2 * 6 * 4 * 3 * 2 * 9
    pixels = 2 * 6 * 4 * 3 * F32
    assert (conv.read, conv.written, conv.constants) == (2 * 4 * 8 * 6 * F32, pixels, (6 * 2 * 9 + 6) * F32)
    assert (norm.parameters, norm.read, norm.constants, norm.multiply_adds) == (12, pixels, 4 * 6 * F32, 0)
    assert relu.bytes == 2 * pixels and relu.field == ((3, 2, 0.5),) * 2
    assert head.parameters == 72 * 5 + 5 and head.multiply_adds == 2 * 72 * 5
    assert head.read == pixels and found.bytes == sum(layer.bytes for layer in found.layers)
    assert head.field == ((9, 2, 3.5), (7, 2, 2.5))
    assert found.seconds is None and found.advice == () and found.unused == ()


def test_every_kind_of_product():
    def array(*shape):
        return np.empty(shape, np.float32)

    x, pixels = array(1, 4, 6, 5), 30
    nine = SimpleNamespace(taps=((0, 0),) * 9)
    cases = [
        ("conv_transpose", (x, array(4, 6, 3, 3), None), array(1, 6, 13, 11), 4 * pixels * 6 * 9),
        ("adder", (x, array(6, 2, 3, 3), None), array(1, 6, 6, 5), 6 * pixels * 2 * 9),
        ("deform_conv", (x, array(1, 18, 6, 5), array(6, 4, 3, 3)), array(1, 6, 6, 5), 6 * pixels * 4 * 9),
        ("deform_aggregate", (x, array(1, 18, 6, 5), array(1, 9, 6, 5), nine), x, 4 * pixels * 9),
        ("involution", (x, array(1, 2, 9, 6, 5)), x, 4 * pixels * 9),
        ("matmul", (array(2, 3, 4), array(4, 5)), array(2, 3, 5), 2 * 3 * 5 * 4),
        ("linear", (array(7, 4), array(5, 4), None), array(7, 5), 7 * 5 * 4),
        ("non_local", (array(2, 3, 7), array(2, 3, 5), array(2, 4, 5), 0), array(2, 4, 7), 2 * 7 * 5 * (3 + 4)),
        ("relu", (x,), x, 0),
    ]
    for name, args, out, wanted in cases:
        assert multiply_adds(name, args, out) == wanted, name


def test_shared_and_unused_parameters():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = Net(lambda m, x: m.again(m.first(x)), first=shared, again=shared, spare=nn.Linear(2, 2))
    shared.weight.requires_grad_(False)
    found = fc.summary(model, (1, 3, 5, 5))
    assert [layer.parameters for layer in found.layers] == [84, 0] and found.layers[1].multiply_adds
    assert found.parameters == 84 + 6 and found.trainable == 3 + 6
    assert found.unused == ("spare.weight", "spare.bias")
    assert "not used in this pass: spare.weight, spare.bias" in str(found)


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)).freeze()).double()
    before = {name: a.copy() for name, a in model.state_dict().items()}
    found = fc.summary(model, (2, 1, 5, 5), timed=2)
    assert found.layers[0].written == 2 * 2 * 9 * 8
    assert [m.training for m in model.modules()] == [True, True, True, False, False]
    assert not any("forward" in m.__dict__ for m in model.modules())
    assert all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())

    def broken(m, x):
        raise RuntimeError("no")

    bad = Net(broken, inside=model)
    with pytest.raises(RuntimeError, match="no"):
        fc.summary(bad, (2, 1, 5, 5))
    assert "forward" not in bad.__dict__ and bad.training and fc.is_grad_enabled()


def test_several_inputs_and_outputs():
    model = Net(lambda m, a, b: {"sum": m.conv(a) + b, "both": (a, b)}, conv=nn.Conv2d(2, 3, 1))
    found = fc.summary(model, [(1, 2, 4, 4), (1, 3, 4, 4)])
    assert [layer.kind for layer in found.layers] == ["Conv2d", "add"] and found.input_shapes[1] == (1, 3, 4, 4)


def test_text():
    text = str(fc.summary(nn.Sequential(nn.Conv2d(1, 2, (3, 1), padding=(1, 0)), nn.ReLU()), (1, 1, 5, 4)))
    lines = text.splitlines()
    head = "layer kind output parameters multiply-adds MB field jump start"
    assert " ".join(lines[0].split()) == head
    assert lines[2].split() == ["0", "Conv2d", "3x1", "1x2x5x4", "8", "120", "0.000272", "3x1", "1", "0.5"]
    assert lines[-1].startswith("Sequential on 1x1x5x4: 8 parameters (8 trained), 120 multiply-adds")
    assert fc.summary(nn.Linear(3, 2), (4, 3)).layers[0].field == ()
    with pytest.raises(KeyError, match="no layer 'x'; there are 0, 1"):
        fc.summary(nn.Sequential(nn.ReLU(), nn.ReLU()), (1, 3)).layer("x")


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((abs, (1, 3)), TypeError, "must be a Module, given builtin_function_or_method"),
        ((nn.ReLU(), (1, 0)), ValueError, r"sizes of at least 1, .* given \(1, 0\)"),
        ((nn.ReLU(), ()), ValueError, "sizes of at least 1"),
        ((nn.ReLU(), (1, 2.5)), ValueError, r"given \(1, 2.5\)"),
        ((nn.ReLU(), (1, 3), -1), ValueError, "whole number of passes, at least 0, given -1"),
        ((nn.Conv2d(3, 4, 3), (1, 4, 8, 8)), ValueError, "weight expects 3 input channels, input has 4"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        fc.summary(*arguments)


# ---- time and advice


def advice(monkeypatch, model, shape):
    monkeypatch.setattr(guidelines, "SHARE", 0.0)
    found = fc.summary(model, shape, timed=2)
    assert all(a.share >= 0 for a in found.advice)
    assert [a.share for a in found.advice] == sorted((a.share for a in found.advice), reverse=True)
    return {(a.guideline, a.layer): a.text for a in found.advice}


def test_times_add_up():
    found = fc.summary(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()), (1, 3, 12, 12), timed=3)
    assert all(layer.seconds >= 0 for layer in found.layers) and len(found.layers) == 3
    assert found.seconds == pytest.approx(sum(layer.seconds for layer in found.layers)) and found.seconds > 0
    lines = str(found).splitlines()
    assert lines[0].endswith("ms  % of time") and re_sum(lines[2:5]) == pytest.approx(100, abs=0.2)


def re_sum(lines):
    return sum(float(line.split()[-1]) for line in lines)


def test_guideline_1_unequal_widths(monkeypatch):
    model = nn.Sequential(nn.Conv2d(8, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 48, 1), nn.Conv2d(48, 6, 3))
    found = {layer: text for (n, layer), text in advice(monkeypatch, model, (1, 8, 20, 20)).items() if n == 1}
    # 72 hw + 512 numbers against 2 sqrt(512) hw + 512 with hw = 400
    assert found == {"0": "8 channels to 64 move 1.57 times what 23 to 23 would"}


def test_guideline_2_groups(monkeypatch):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, groups=8), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 3))
    found = {layer: text for (n, layer), text in advice(monkeypatch, model, (1, 16, 20, 20)).items() if n == 2}
    assert found == {"0": "8 groups move 1.62 times what a dense layer of as many multiply-adds would"}


def test_guideline_3_fragments(monkeypatch):
    block = nn.InceptionBlock(8, 4, 4, 4, 4, 4, 4)
    dense = Net(lambda m, x: F.cat([x, a := m.a(x), b := m.b(a), m.c(b)], 1), **{n: nn.ReLU() for n in "abc"})
    found = advice(monkeypatch, nn.Sequential(block, dense), (1, 8, 12, 12))
    ((layer, text),) = [(layer, text) for (n, layer), text in found.items() if n == 3]
    assert layer == "0" and text.startswith("4 branches of 7 convolutions, poolings do ")


def test_guideline_4_elementwise(monkeypatch):
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1))
    model = Net(lambda m, x: m.layers(x) + x, layers=layers)
    found = {layer: text for (n, layer), text in advice(monkeypatch, model, (1, 8, 12, 12)).items() if n == 4}
    assert found.keys() == {"the network", "layers.0", "layers.1", "add"}
    # 8 * 144 * 9 of 8 * 144 * (9 + 72) multiply-adds
    assert "3 element-wise operations" in found["the network"] and "do 11.1 % of" in found["the network"]
    assert found["add"].startswith("add moves 0.0138 MB at ")


# ---- designs side by side


@pytest.mark.parametrize("c, o, k", [(8, 8, 7), (4, 6, 3)])
def test_forms_of_a_convolution(c, o, k):
    """The formulas of the papers that the docstring names."""
    found = fc.compare_convolutions(c, o, k, size=(9, 8), groups=(2, 3))
    wanted = {
        f"full {k}x{k}": c * o * k * k,
        "asymmetric": c * o * k + o * o * k,
        "flattened": c * o + 2 * o * k,
        "2 groups": c * o * k * k // 2,
        "depthwise separable": c * k * k + c * o,
    }
    if k > 3:
        wanted[f"{k // 2} stacked 3x3"] = 9 * (c * o + (k // 2 - 1) * o * o)
    assert {row.name: row.parameters for row in found.rows} == wanted
    for row in found.rows:
        assert row.multiply_adds == row.parameters * 72 and row.output_shape == (1, o, 9, 8)
        assert row.field[0] == row.field[1] == (k, 1, 0.5)


def test_three_3x3_against_one_7x7():
    """27 C^2 against 49 C^2: 81 % more (Simonyan and Zisserman 2015, section 2.3)."""
    found = fc.compare_convolutions(16, 16, 7, size=9)
    full, stacked = found.row("full 7x7"), found.row("3 stacked 3x3")
    assert full.parameters / stacked.parameters == pytest.approx(1.81, abs=0.01)
    assert full.field == stacked.field and (full.depth, stacked.depth) == (1, 3)
    first = str(found).splitlines()[1].split()
    assert first[:5] == ["full", "7x7", "12,544", "1.000", "1.016"]


def test_comparisons_refuse():
    with pytest.raises(ValueError, match="at least one design is wanted, given none"):
        fc.compare({}, (1, 3, 4, 4))
    with pytest.raises(ValueError, match="kernel_size must be odd, given 4"):
        fc.compare_convolutions(3, 3, 4)
    with pytest.raises(ValueError, match="in_channels must be at least 1, given 0"):
        fc.compare_convolutions(0, 3, 3)
    with pytest.raises(KeyError, match="no design 'x'; there are a"):
        fc.compare({"a": nn.ReLU()}, (1, 3)).row("x")
    timed = fc.compare({"a": nn.ReLU(), "b": nn.Tanh()}, (1, 3), timed=1)
    assert timed.rows[1].seconds > 0 and "of first" in str(timed) and "ms" in str(timed)


# ---- pictures


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from fastconv.plot import cost_picture, field_picture, summary_picture

    layers = [nn.Conv2d(4, 4, 3, stride=2 - i % 2, padding=1) for i in range(3)] + [nn.ReLU() for _ in range(50)]
    found = fc.summary(nn.Sequential(*layers), (1, 4, 20, 24), timed=1)
    for draw in (cost_picture, field_picture, summary_picture):
        draw(tmp_path / draw.__name__, found)
        picture = (tmp_path / draw.__name__).read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    with pytest.raises(ValueError, match="no layer with a receptive field of two axes"):
        field_picture(tmp_path / "none.png", fc.summary(nn.ReLU(), (1, 3)))
