"""Networks: sizes as their papers give them, keys as written down, weights in, and a step of training for each kind."""

import sys

import numpy as np
import pytest

import fastconv as fc
from fastconv import driver, models, nn, prepared
from fastconv.cli import main
from tests import torchvision_models as truth

NAMES = models.list_models()


@pytest.fixture
def no_kernels(monkeypatch):
    """Shapes only: kernels are not run, nor compiled, and their outputs hold whatever was in memory."""
    monkeypatch.setattr(prepared, "can_prepare", lambda impl: False)
    launch = driver.launch
    for module in [m for name, m in sys.modules.items() if name.startswith("fastconv")]:
        if getattr(module, "launch", None) is launch:
            monkeypatch.setattr(module, "launch", lambda *rows: None)


def multiply_adds(net, shape, kind=None):
    """Of one input, in all layers or in those of one class."""
    with np.errstate(all="ignore"):
        layers = fc.summary(net, (1, *shape)).layers
    return sum(layer.multiply_adds for layer in layers if kind is None or layer.kind == kind)


def parameters(net):
    return sum(p.data.size for p in net.parameters())


def make(name, **settings):
    """A network whose weights are not drawn."""
    with nn.init.skipped():
        return models.get_model(name, **settings)


# -- all networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_as_written_down(name):
    assert truth.describe(truth.make_ours(name).state_dict()) == truth.expected(name)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_as_the_table_says(name, no_kernels):
    entry, net = models.NETWORKS[name], make(name)
    assert parameters(net) == entry.parameters
    assert multiply_adds(net, entry.input_shape) == entry.multiply_adds


def test_list_and_table(capsys):
    assert set(truth.expected()) == set(NAMES) == {n for n in models.__all__ if n in NAMES}
    assert all(getattr(models, name) is models.NETWORKS[name].build for name in NAMES)
    assert len(models.table().splitlines()) == len(NAMES) + 1
    assert main(["models", "vgg", "lenet5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["network", "input", "params/M", "madds/M", "paper"] and len(lines) == 10
    assert lines[1].split()[:4] == ["lenet5", "1x32x32", "0.06", "0.4"]
    assert main(["models", "transformer"]) == 2
    assert "no network's name contains transformer; there are adder_resnet20, " in capsys.readouterr().err


# -- papers ------------------------------------------------------------------------------------------------------------

M, G = 1e6, 1e9
# Network, settings, "parameters" or the size of the image whose multiply-adds are meant, the paper's number, by how
# much we may differ (half a unit of its last digit unless said otherwise), where it stands.
PAPERS = [
    ("lenet5", {}, "parameters", 60_000, 0, "LeCun et al. 1998, page 8"),
    ("nin_cifar10", {}, "parameters", 1 * M, 0.05 * M, "Springenberg et al. 2015, arXiv 1412.6806, table 3"),
    ("nin_imagenet", {}, "parameters", 7.6 * M, 0.05 * M, "the authors' model card"),
    ("xception", {}, "parameters", 22_855_952, 0, "Chollet 2017, arXiv 1610.02357, table 3"),
    ("xception", {}, 299, 8.4 * G, 0.05 * G, "Tan and Le 2019, arXiv 1905.11946, table 2"),
    ("mobilenet_v1", {}, "parameters", 4.2 * M, 0.05 * M, "Howard et al. 2017, arXiv 1704.04861, table 6"),
    ("mobilenet_v1", {}, 224, 569 * M, 0.5 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.75}, "parameters", 2.6 * M, 0.05 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.75}, 224, 325 * M, 0.5 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.5}, "parameters", 1.3 * M, 0.05 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.5}, 224, 149 * M, 0.5 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.25}, "parameters", 0.5 * M, 0.05 * M, "table 6"),
    ("mobilenet_v1", {"width_mult": 0.25}, 224, 41 * M, 0.5 * M, "table 6"),
    ("mobilenet_v1", {}, 192, 418 * M, 0.5 * M, "table 7"),
    ("mobilenet_v1", {}, 160, 290 * M, 1 * M, "table 7, rounded down"),
    ("mobilenet_v1", {}, 128, 186 * M, 0.5 * M, "table 7"),
    ("shufflenet_v1_g3", {}, "parameters", 1.9 * M, 0.05 * M, "the authors' table of their published weights"),
    ("shufflenet_v1_g8", {}, "parameters", 2.4 * M, 0.05 * M, "the authors' table of their published weights"),
    ("shufflenet_v1_g3", {"width_mult": 2.0}, 224, 524 * M, 0.5 * M, "Zhang et al. 2018, arXiv 1707.01083, table 5"),
    ("shufflenet_v1_g3", {"width_mult": 0.5}, "parameters", 0.7 * M, 0.05 * M, "the authors' table"),
    ("shufflenet_v1_g8", {"width_mult": 0.5}, "parameters", 1.0 * M, 0.05 * M, "the authors' table"),
    ("shufflenet_v1_g3", {"width_mult": 0.5}, 224, 38 * M, 0.5 * M, "the authors' table"),
    ("shufflenet_v1_g8", {"width_mult": 0.5}, 224, 40 * M, 0.5 * M, "the authors' table"),
    (
        "se_resnet50",
        {},
        "parameters",
        28.1 * M,
        0.05 * M,
        "Hu et al. 2018, arXiv 1709.01507, table of reduction ratios",
    ),
    # The paper writes down the first digits: 4.16 M and 1.17 M without batch norm.
    ("shiftnet_a", {}, "parameters", 4.15 * M, 0.05 * M, "Wu et al. 2018, arXiv 1711.08141, section 4.2: 4.1 M"),
    ("shiftnet_a", {}, 224, 1.4 * G, 0.05 * G, "section 4.2"),
    ("shiftnet_b", {}, "parameters", 1.15 * M, 0.05 * M, "section 4.2: 1.1 M"),
    ("shiftnet_b", {}, 224, 371 * M, 0.5 * M, "section 4.2"),
    # Networks that torchvision has too, as their papers count them.
    ("vgg16", {}, "parameters", 138 * M, 0.5 * M, "Simonyan and Zisserman 2015, arXiv 1409.1556, table 2"),
    ("vgg19", {}, "parameters", 144 * M, 0.5 * M, "table 2"),
    ("squeezenet1_0", {}, "parameters", 1_248_424, 0, "Iandola et al. 2016, arXiv 1602.07360, table 1"),
    ("resnet18", {}, 224, 1.8 * G, 0.05 * G, "He et al. 2016, arXiv 1512.03385, table 1"),
    ("resnext50_32x4d", {}, "parameters", 25.0 * M, 0.05 * M, "Xie et al. 2017, arXiv 1611.05431, table 1"),
    ("resnext50_32x4d", {}, 224, 4.2 * G, 0.05 * G, "table 1"),
    ("mobilenet_v2", {}, 224, 300 * M, 1 * M, "Sandler et al. 2018, arXiv 1801.04381, table 4"),
    ("efficientnet_b0", {}, "parameters", 5.3 * M, 0.05 * M, "Tan and Le 2019, arXiv 1905.11946, table 2"),
    ("efficientnet_b0", {}, 224, 0.39 * G, 0.005 * G, "table 2"),
    ("convnext_tiny", {}, "parameters", 29 * M, 0.5 * M, "Liu et al. 2022, arXiv 2201.03545, table 1"),
    ("convnext_tiny", {}, 224, 4.5 * G, 0.05 * G, "table 1"),
]


@pytest.mark.parametrize(
    "name, settings, what, paper, within, where",
    PAPERS,
    ids=[
        f"{name}-{what}{'-' * bool(settings)}{'-'.join(map(str, settings.values()))}"
        for name, settings, what, *_ in PAPERS
    ],
)
def test_sizes_are_as_the_paper_says(name, settings, what, paper, within, where, no_kernels):
    net = make(name, **settings)
    if what == "parameters":
        ours = parameters(net)
    else:
        ours = multiply_adds(net, (3, what, what))
    assert abs(ours - paper) <= within, where


def test_connections_of_lenet(no_kernels):
    """Page 8: layer by layer, each unit's inputs and its bias; 340,908 with the 84 inputs of the 10 outputs."""
    net = make("lenet5")
    maps = {"c1": 28**2, "c3": 10**2, "c5": 1, "f6": 1}
    connections = {name: count * parameters(getattr(net, name)) for name, count in maps.items()}
    connections.update(s2=14**2 * 6 * 5, s4=5**2 * 16 * 5, output=net.output.codes.size)
    assert connections == {
        **{"c1": 122_304, "s2": 5_880, "c3": 151_600, "s4": 2_000, "c5": 48_120, "f6": 10_164},
        "output": 840,
    }
    assert sum(connections.values()) == 340_908
    assert [parameters(getattr(net, name)) for name in ("c1", "s2", "c3", "s4", "c5", "f6")] == [
        *(156, 12, 1_516, 32, 48_120, 10_164)
    ]


@pytest.mark.parametrize("groups, paper", {1: 143, 2: 140, 3: 137, 4: 133, 8: 137}.items())
def test_convolutions_of_shufflenet(groups, paper, no_kernels):
    """Zhang et al. 2018, arXiv 1707.01083, table 1, last row, in millions: the convolutions alone."""
    count = multiply_adds(make(f"shufflenet_v1_g{groups}"), (3, 224, 224), "Conv2d")
    assert round(count / 1e6) == paper


def test_additions_of_addernet(no_kernels):
    """Chen et al. 2020, arXiv 1912.13200, table 1: 80.74 M additions, two for each term |w - x|."""
    net = make("adder_resnet20")
    terms, first, last = (multiply_adds(net, (3, 32, 32), kind) for kind in ("Adder2d", "Conv2d", "Linear"))
    assert 2 * terms == pytest.approx(80.74e6, abs=0.005e6)
    assert first == 32 * 32 * 16 * 27 and last == 640


def test_work_of_squeeze_and_excitation(no_kernels):
    """Hu et al. 2018, arXiv 1709.01507, section 4: 3.86 G multiply-adds without, 3.87 G with squeeze and excitation.

    They count the means and the products with the channels' weights too: two for each value of the residuals.
    """
    count = multiply_adds(make("se_resnet50"), (3, 224, 224))
    squeeze = 2 * sum(blocks * c * c // 16 for blocks, c in ((3, 256), (4, 512), (6, 1024), (3, 2048)))
    values = sum(n * c * s * s for n, c, s in ((3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)))
    assert (count - squeeze) / 1e9 == pytest.approx(3.86, abs=0.005)
    assert (count + 2 * values) / 1e9 == pytest.approx(3.87, abs=0.005)


def test_relative_work_of_non_local_networks(no_kernels):
    """Wang et al. 2018, arXiv 1711.07971, table 2e: C2D on ResNet-101 has 43.2 M parameters and 34.2 G multiply-adds,
    with five blocks 1.2 times as many of both; section 5.1: with ResNet-50, about 70 % and 80 % of ResNet-101's.
    """
    clip = 3, 32, 224, 224
    plain, five = make("non_local_c2d_101", blocks=(0, 0)), make("non_local_c2d_101")
    norms = sum(parameters(m) for m in plain.modules() if isinstance(m, nn.BatchNorm3d))
    assert (parameters(plain) - norms) / 1e6 == pytest.approx(43.2, abs=0.05)
    work = multiply_adds(plain, clip)
    assert work == pytest.approx(34.2e9, rel=0.01)
    assert round(parameters(five) / parameters(plain), 1) == 1.2
    assert round(multiply_adds(five, clip) / work, 1) == 1.2
    small = models.NETWORKS["non_local_c2d_50"]
    assert round(small.parameters / parameters(plain), 1) == 0.7 and round(small.multiply_adds / work, 1) == 0.8


def test_parameters_of_deformable_networks():
    """Zhu et al. 2019, arXiv 1811.11168, table 1: 51.3 M regular; 51.5, 51.7, 51.8 M with deformable conv5, conv4 to
    conv5, conv3 to conv5 (a detector's, whose other parameters do not change).
    """
    plain = models.NETWORKS["resnet50"].parameters
    for stages, paper in (((5,), 51.5), ((4, 5), 51.7), ((3, 4, 5), 51.8)):
        net = make("deform_resnet50", stages=stages, modulated=False)
        assert (parameters(net) - plain) / 1e6 == pytest.approx(paper - 51.3, abs=0.1)
        # An offset for each of the 9 taps: 18 outputs of a 3x3 convolution with bias.
        counted = sum(18 * (9 * 64 * 2 ** (s - 2) + 1) * {3: 4, 4: 6, 5: 3}[s] for s in stages)
        assert parameters(net) - plain == counted


# -- weights and settings ----------------------------------------------------------------------------------------------


def test_weights_are_loaded():
    nn_ = models.squeezenet1_1(num_classes=3)
    state = nn_.state_dict()
    copy = models.squeezenet1_1(weights=state, num_classes=3)
    assert all(np.array_equal(a, state[name]) for name, a in copy.state_dict().items())
    assert copy.classifier[1].weight.data is not nn_.classifier[1].weight.data
    with pytest.raises(ValueError, match=r"classifier.1.bias: given shape \(3,\), wanted \(1000,\)"):
        models.squeezenet1_1(weights=state)
    with pytest.raises(TypeError, match=r"squeezenet1_1: weights wants a dict of names to arrays.*'DEFAULT'"):
        models.squeezenet1_1(weights="DEFAULT")


def test_weights_of_a_plain_network_fit_its_relatives():
    plain = make("resnet50").state_dict()
    for name in ("deform_resnet50", "non_local_resnet50", "se_resnet50"):
        result = make(name).load_state_dict(plain, strict=False)
        assert not result.unexpected_keys and result.missing_keys
        assert all(key.split(".")[2] in ("conv2", "non_local", "se_module") for key in result.missing_keys)


def test_same_seed_same_network():
    states = []
    for seed in (1, 1, 2):
        fc.manual_seed(seed)
        states.append(models.shufflenet_v2_x0_5(num_classes=2).state_dict())
    assert all(np.array_equal(a, states[1][name]) for name, a in states[0].items())
    assert any(not np.array_equal(a, states[2][name]) for name, a in states[0].items())


REFUSALS = [
    (lambda: models.get_model("resnet19"), "no network is called 'resnet19'; there are adder_resnet20, "),
    (lambda: models.ShuffleNetV1(5), "groups must be one of 1, 2, 3, 4, 8, got 5"),
    (lambda: models.SqueezeNet("2"), "version must be one of 1_0, 1_1, got '2'"),
    (lambda: models.ResNet(models.BasicBlock, (1, 1, 1, 1), groups=2), "BasicBlock: wants groups 1.*got groups 2"),
    (lambda: models.ResNet(models.BasicBlock, (1, 1, 1)), r"in each of 4 stages, got \(1, 1, 1\)"),
    (lambda: models.resnet18(replace_stride_with_dilation=(True,)), r"wants 3 values or None, got \[True\]"),
    (lambda: models.ShuffleNetV2((1, 1), (1, 1)), "3 stages_repeats and 5 stages_out_channels"),
    (lambda: models.MobileNetV2(inverted_residual_setting=((1, 2, 3),)), "expansion, width, repeats, stride"),
    (lambda: models.MobileNetV1(width_mult=0), "width_mult must be positive, got 0"),
    (lambda: models.ShiftNet(width_mult=0.01), "at least 1/32, got 0.01"),
    (lambda: models.deform_resnet50(stages=(6,)), "stages must be one of 2, 3, 4, 5, got 6"),
    (lambda: models.non_local_resnet50(blocks=(5, 0)), "between 0 and 4 fit behind 4 residual blocks, got 5"),
    (lambda: models.se_resnet50(reduction=0), "reduction must be at least 1, got 0"),
    (lambda: models.lenet5()(np.zeros((1, 3, 32, 32), np.float32)), r"got shape \(1, 3, 32, 32\)"),
]


@pytest.mark.parametrize("call, message", REFUSALS, ids=[message[:30] for _, message in REFUSALS])
def test_refusals(call, message):
    with nn.init.skipped(), pytest.raises(ValueError, match=message):
        call()


def test_lenet_pads_small_images():
    net = models.lenet5().eval()
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    wide = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-0.1)
    with fc.no_grad():
        np.testing.assert_array_equal(net(x), net(wide))


# -- training ----------------------------------------------------------------------------------------------------------

TRAINED = {
    "lenet5": (models.lenet5, {}, (1, 28, 28)),
    "shufflenet": (models.ShuffleNetV1, {"groups": 3, "width_mult": 0.5}, (3, 64, 64)),
    "shiftnet": (models.ShiftNet, {"width_mult": 0.25}, (3, 64, 64)),
    "addernet": (models.AdderResNet, {"n": 1}, (3, 16, 16)),
    "non-local": (models.NonLocalResNet, {"layers": (1, 2, 1, 1), "blocks": (1, 0)}, (3, 64, 64)),
    "deformable": (models.DeformResNet, {"layers": (1, 1, 1, 1), "stages": (5,)}, (3, 64, 64)),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_of_training(name):
    """The loss is finite before and after, every parameter gets a gradient, and the loss falls along it."""
    build, settings, shape = TRAINED[name]
    fc.manual_seed(0)
    net = build(**settings)
    for module in net.modules():
        if isinstance(module, nn.NonLocal2d):  # a block that begins as the identity hides what is inside from gradients
            nn.init.ones_(module.W[1].weight)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((4, *shape)).astype(np.float32)

    def loss():
        return fc.functional.cross_entropy(net(x), np.array([0, 1, 2, 3]))

    first = loss()
    first.backward()
    gradients = {key: p.grad for key, p in net.named_parameters()}
    assert all(g is not None and np.isfinite(g.data).all() for g in gradients.values())
    assert not [key for key, g in gradients.items() if not g.data.any()]
    fc.optim.SGD(net.parameters(), lr=1e-3).step()
    second = loss()
    assert np.isfinite(second.data) and second.data < first.data
