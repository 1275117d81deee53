"""Modules: registration, state, modes, text; layers against their functions and against torch."""

import copy
import math

import numpy as np
import pytest

from fastconv import functional as F
from fastconv import nn, optim
from fastconv._random import manual_seed
from fastconv.autograd import Tensor, no_grad
from fastconv.nn import init

pytestmark = pytest.mark.smoke


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(width, 2, bias=False)
        self.scale = nn.Parameter(np.ones(2, np.float32))

    def forward(self, x):
        return self.head(self.body(x)) * self.scale


X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


# -- registration and state --------------------------------------------------------------------------------------------


def test_names():
    net = Net()
    names = ["scale", "body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight"]
    assert [name for name, _ in net.named_parameters()] == names
    buffers = ["body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"]
    assert [name for name, _ in net.named_buffers()] == buffers
    assert list(net.state_dict()) == names[:5] + buffers + names[5:]
    assert all(type(a) is np.ndarray for a in net.state_dict().values())
    modules = ["", "body", "body.0", "body.1", "body.2", "body.3", "head"]
    assert [name for name, _ in net.named_modules()] == modules
    assert [name for name, _ in net.named_children()] == ["body", "head"]
    assert net.get_submodule("body.1") is net.body[1]
    assert {"body", "scale"} <= set(dir(net))
    with pytest.raises(AttributeError, match="no submodule"):
        net.get_submodule("body.9")
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'tail'"):
        _ = net.tail


def test_shared_modules_and_parameters_count_once():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, layer)
    assert len(list(net.parameters())) == 2 and len(list(net.modules())) == 2
    assert len(net.state_dict()) == 4


def test_attributes():
    net = Net()
    with pytest.raises(TypeError, match="wants a Parameter or None, got ndarray"):
        net.scale = np.ones(2)
    net.scale = None
    assert "scale" not in net.state_dict()
    net.head = nn.Identity()
    assert list(net._modules) == ["body", "head"]
    net.head = nn.Parameter(np.ones(1))
    assert list(net._modules) == ["body"] and "head" in net._parameters
    del net.head
    assert not hasattr(net, "head")
    net.register_buffer("table", Tensor([1.0]))
    net.table = np.zeros(2)
    assert net.state_dict()["table"].shape == (2,)
    with pytest.raises(TypeError, match="dtype"):
        net.table = "text"

    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.Identity()

    with pytest.raises(AttributeError, match="super"):
        Early()


def test_load_state_dict():
    net, other = Net(), Net()
    state = {name: a + 1 for name, a in other.state_dict().items()}
    before = net.head.weight._version
    assert net.load_state_dict(state) == ([], [])
    assert net.head.weight._version > before
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, state[name])
        assert not np.shares_memory(a, state[name])
    partial = {"scale": Tensor([5.0, 6.0]), "extra": np.ones(1)}
    missing, unexpected = net.load_state_dict(partial, strict=False)
    assert len(missing) == 8 and unexpected == ["extra"] and net.scale.tolist() == [5, 6]


def test_load_state_dict_lists_every_problem_and_changes_nothing():
    net = Net()
    state = {name: a + 1 for name, a in net.state_dict().items()}
    state["head.weight"] = np.ones((9, 9))
    state["body.0.bias"] = np.ones(7)
    del state["scale"]
    state["extra"] = np.ones(1)
    before = {name: a.copy() for name, a in net.state_dict().items()}
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    for part in (
        "head.weight: given shape (9, 9), wanted (2, 4)",
        "body.0.bias",
        "missing: scale",
        "unexpected: extra",
    ):
        assert part in text
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_load_state_dict_not_strict_takes_what_fits():
    net = Net()
    before = {name: a.copy() for name, a in net.state_dict().items()}
    state = {name: a + 1 for name, a in before.items()}
    state |= {"head.weight": np.ones((9, 9)), "body.0.bias": np.array(["x"] * len(before["body.0.bias"]))}
    state["extra"] = state.pop("scale")
    result = net.load_state_dict(state, strict=False)
    assert result == (["scale"], ["extra"]) and result.unfit_keys == {
        "body.0.bias": f"given dtype {state['body.0.bias'].dtype}, wanted numbers",
        "head.weight": "given shape (9, 9), wanted (2, 4)",
    }
    assert "head.weight" in repr(result)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name] if name in ("scale", *result.unfit_keys) else state[name])


def test_freeze_keeps_everything_but_a_new_head():
    manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
    net = nn.Sequential(*body, nn.Linear(4 * 9, 3)).freeze()
    net[-1] = nn.Linear(4 * 9, 2)
    before = {name: a.copy() for name, a in net.state_dict().items()}
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    x = np.random.default_rng(0).standard_normal((6, 1, 5, 5)).astype(np.float32)
    for _ in range(2):
        loss = F.cross_entropy(net.train()(x), np.arange(6) % 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    changed = [name for name, a in net.state_dict().items() if not np.array_equal(a, before[name])]
    assert changed == ["5.weight", "5.bias"] and [m.training for m in net] == [False] * 5 + [True]
    assert net[0].weight.grad is None
    net.freeze(False)(x)
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())
    assert not np.array_equal(net[1].running_mean, before["1.running_mean"])


def test_modes_and_walks():
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    net(X).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "BatchNorm1d", "ReLU", "Dropout", "Sequential", "Linear", "Net"]


def test_to():
    net = Net().to(np.float64)
    assert {a.dtype.name for a in net.state_dict().values()} == {"float64", "int64"}
    assert net(X.astype(np.float64)).dtype == np.float64
    assert net.float()(X).dtype == np.float32
    with pytest.raises(TypeError, match="int32"):
        net.to(np.int32)


def test_arrays_and_tensors():
    net = Net().eval()
    recorded = net(X)
    assert isinstance(recorded, Tensor) and recorded.requires_grad
    with no_grad():
        assert type(net(X)) is np.ndarray
        assert isinstance(net(Tensor(X)), Tensor)
        np.testing.assert_array_equal(net(X), recorded.detach())

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, times=1):
            return {"list": [self.layer(x)], "tuple": (self.layer(x), times)}

    with no_grad():
        out = Many()(X, times=3)
        assert type(out["list"][0]) is np.ndarray and out["tuple"][1] == 3
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(X)


def test_copies_share_nothing():
    net = Net()
    other = copy.deepcopy(net)
    other.scale.data[:] = 7
    assert net.scale.tolist() == [1, 1] and other.scale.requires_grad


# -- containers --------------------------------------------------------------------------------------------------------


def test_containers():
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Identity(1, any="thing")
    net = nn.Sequential(a, b).append(c)
    assert len(net) == 3 and net[-1] is c and list(net[:2]) == [a, b] and isinstance(net[:2], nn.Sequential)
    net.insert(1, c)
    assert list(net) == [a, c, b, c]
    del net[0]
    assert list(net._modules) == ["0", "1", "2"] and net[0] is c
    net[0] = a
    assert net[0] is a
    named = nn.Sequential({"first": a, "second": nn.Linear(3, 2)})
    assert list(named.state_dict()) == ["second.weight", "second.bias"]
    layers = nn.ModuleList([a, b]).extend([c])
    assert len(layers) == 3 and list(layers[1:]) == [b, c]
    named = nn.ModuleDict({"a": a, "l": nn.Linear(3, 2)})
    named.update({"c": c})
    assert list(named) == ["a", "l", "c"] and named["c"] is c and "b" not in named and named.pop("c") is c
    assert list(named.state_dict()) == ["l.weight", "l.bias"] and len(named) == 2
    with pytest.raises(IndexError, match="index 3"):
        layers[3]
    with pytest.raises(TypeError, match="wants a Module, got int"):
        nn.Sequential(3)


# -- layers ------------------------------------------------------------------------------------------------------------

CASES = [
    ("Linear(3, 4)", (2, 3)),
    ("Linear(3, 4, bias=False)", (2, 5, 3)),
    ("Flatten()", (2, 3, 4)),
    ("Flatten(0, 1)", (2, 3, 4)),
    ("Identity()", (2,)),
    ("BatchNorm1d(3)", (4, 3)),
    ("BatchNorm1d(3, eps=0.001, momentum=None)", (4, 3, 2)),
    ("BatchNorm2d(3, affine=False)", (2, 3, 4, 5)),
    ("BatchNorm2d(3, bias=False)", (2, 3, 4, 5)),
    ("BatchNorm3d(3, track_running_stats=False)", (2, 3, 2, 2, 2)),
    ("PReLU(3)", (2, 3, 4)),
    ("Softmax(dim=1)", (2, 3)),
    ("LogSoftmax(dim=1)", (2, 3)),
    ("LeakyReLU(0.1, inplace=True)", (2, 3)),
    ("ELU(0.5)", (2, 3)),
    ("GELU('tanh')", (2, 3)),
    ("Dropout(0.0)", (2, 3)),
    ("Dropout2d(0.0, inplace=True)", (2, 3, 4, 4)),
    *(
        (f"{name}()", (2, 3))
        for name in ["ReLU", "ReLU6", "SiLU", "Hardswish", "Hardsigmoid", "Mish", "Sigmoid", "Tanh", "GELU", "PReLU"]
    ),
    ("Conv1d(4, 6, 3, padding=1, padding_mode='circular')", (2, 4, 7)),
    ("Conv2d(4, 6, 3, stride=2, padding=(1, 2), dilation=2, groups=2, bias=False)", (2, 4, 9, 8)),
    ("Conv2d(3, 5, (2, 3), padding='same')", (2, 3, 6, 7)),
    ("Conv2d(3, 5, (2, 4), padding='same', padding_mode='reflect')", (2, 3, 6, 7)),
    ("Conv2d(3, 5, 3, padding='valid', padding_mode='replicate')", (2, 3, 6, 7)),
    ("Conv3d(2, 4, 2, padding=1)", (1, 2, 3, 4, 5)),
    ("MaxPool1d(2)", (2, 3, 8)),
    ("MaxPool2d(3, stride=2, padding=1, ceil_mode=True)", (2, 3, 8, 9)),
    ("MaxPool3d(2, dilation=2)", (1, 2, 5, 6, 7)),
    ("AvgPool1d(2, padding=1)", (2, 3, 8)),
    ("AvgPool2d((2, 3), stride=2, count_include_pad=False, padding=1)", (2, 3, 8, 9)),
    ("AvgPool3d(2, divisor_override=3)", (1, 2, 4, 4, 4)),
    ("AdaptiveAvgPool1d(3)", (2, 3, 8)),
    ("AdaptiveAvgPool2d((2, 3))", (2, 3, 8, 9)),
    ("AdaptiveAvgPool3d(1)", (1, 2, 3, 4, 5)),
    ("AdaptiveMaxPool1d(3)", (2, 3, 8)),
    ("AdaptiveMaxPool2d((2, None))", (2, 3, 8, 9)),
    ("AdaptiveMaxPool3d(2)", (1, 2, 3, 4, 5)),
]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("text, shape", CASES, ids=[text for text, _ in CASES])
def test_layer_as_in_torch(text, shape):
    import torch

    ours = eval(f"nn.{text}", {"nn": nn})
    theirs = eval(f"nn.{text}", {"nn": torch.nn})
    assert repr(ours) == repr(theirs)
    state = theirs.state_dict()
    assert {k: (a.shape, a.dtype.name) for k, a in ours.state_dict().items()} == {
        k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in state.items()
    }
    ours.load_state_dict({k: t.numpy() for k, t in state.items()})
    rng = np.random.default_rng(0)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        array = rng.standard_normal(shape).astype(np.float32)
        x, t = Tensor(array, True), torch.tensor(array, requires_grad=True)
        got, want = ours(x), theirs(t * 1)
        np.testing.assert_allclose(got.detach(), want.detach(), rtol=1e-4, atol=1e-5)
        g = rng.standard_normal(got.shape).astype(np.float32)
        got.backward(g)
        want.backward(torch.tensor(g))
        np.testing.assert_allclose(x.grad, t.grad, rtol=1e-3, atol=1e-4)
    for (_, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-3, atol=1e-4)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    with no_grad():
        assert type(ours(array)) is np.ndarray


@pytest.mark.torch
def test_text_as_in_torch():
    import torch

    def build(nn):
        block = nn.Sequential(
            nn.Linear(2, 2), nn.ReLU(inplace=True), nn.ModuleList([nn.Linear(2, 2)] * 3 + [nn.Tanh()])
        )
        return nn.Sequential(block, nn.CrossEntropyLoss(), nn.Sequential(), nn.Softmax(dim=1))

    assert repr(build(nn)) == repr(build(torch.nn))
    assert "Parameter containing:" in repr(nn.Parameter(np.ones(2, np.float32)))


@pytest.mark.torch
def test_losses_as_in_torch():
    import torch

    rng = np.random.default_rng(0)
    x, y, t = rng.standard_normal((4, 3)), rng.random((4, 3)), np.array([0, 2, 1, -100])
    w = rng.random(3)
    for text in ("MSELoss()", "L1Loss(reduction='sum')", "SmoothL1Loss(beta=0.5)", "BCEWithLogitsLoss(pos_weight=w)"):
        want = eval(f"nn.{text}", {"nn": torch.nn, "w": torch.tensor(w)})(torch.tensor(x), torch.tensor(y))
        np.testing.assert_allclose(eval(f"nn.{text}", {"nn": nn, "w": w})(x, y), want)
    for text in ("CrossEntropyLoss(w, label_smoothing=0.1)", "NLLLoss(weight=w)", "NLLLoss(ignore_index=2)"):
        target = np.where(t < 0, 2, t) if "ignore" in text else t
        want = eval(f"nn.{text}", {"nn": torch.nn, "w": torch.tensor(w)})(torch.tensor(x), torch.tensor(target))
        loss = eval(f"nn.{text}", {"nn": nn, "w": w})
        np.testing.assert_allclose(loss(x, target), want)
        assert list(loss.state_dict()) == (["weight"] if "w" in text.split("(")[1][:8] else [])


def test_permute_and_stochastic_depth():
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    with no_grad():
        np.testing.assert_array_equal(nn.Permute([0, 2, 3, 1])(x), x.transpose(0, 2, 3, 1))
        layer = nn.StochasticDepth(1.0, "row")
        assert not layer(x).any() and layer.eval()(x) is x and repr(layer) == "StochasticDepth(p=1.0, mode=row)"
    with pytest.raises(ValueError, match="got 'rows'"):
        nn.StochasticDepth(0.1, "rows")


def test_batch_norm_states():
    layer = nn.BatchNorm2d(3)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    layer(x)
    assert layer.num_batches_tracked == 1 and layer.running_mean.any()
    layer.eval()(x)
    assert layer.num_batches_tracked == 1
    layer.reset_parameters()
    assert layer.num_batches_tracked == 0 and not layer.running_mean.any() and (layer.running_var == 1).all()
    with pytest.raises(ValueError, match=r"BatchNorm2d: wants 4-dimensional input, got shape \(2, 3\)"):
        layer(X[:2])
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(3)(X[:1])


def test_bad_arguments():
    for make, match in [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups 2, in_channels 3"),
        (lambda: nn.Conv2d(4, 6, 3, groups=4), "out_channels 6"),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), "kernel_size must be one number or 2"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), "'same' or 'valid', got 'full'"),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), r"needs stride 1, got \(2, 2\)"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="wrap"), "padding_mode.*'wrap'"),
        (lambda: nn.Dropout(2), "Dropout: p must be from 0 to 1, got 2"),
        (lambda: nn.Linear(3, 4)(np.ones((2, 5), np.float32)), "expects 3 input features"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()


# -- initialisation ----------------------------------------------------------------------------------------------------


def test_same_seed_same_weights():
    def build():
        manual_seed(3)
        return np.concatenate([a.ravel() for a in Net(7).state_dict().values()]).tobytes()

    assert build() == build()


@pytest.mark.parametrize("make", [lambda: nn.Linear(200, 300), lambda: nn.Conv2d(50, 300, 2)])
def test_default_initialisation_is_torchs(make):
    layer = make()
    bound = 1 / math.sqrt(200)
    w = layer.weight.detach().numpy()
    assert 0.99 * bound < np.abs(w).max() <= bound
    assert abs(w.mean()) < 0.01 * bound and w.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert np.abs(layer.bias.detach().numpy()).max() <= bound


def test_init():
    w = Tensor(np.zeros((100, 20, 3, 3), np.float32), True)
    fan_in, fan_out = 180, 900
    deviations = {
        "xavier_uniform_": math.sqrt(2 / (fan_in + fan_out)),
        "xavier_normal_": math.sqrt(2 / (fan_in + fan_out)),
        "kaiming_uniform_": math.sqrt(2 / fan_in),
        "kaiming_normal_": math.sqrt(2 / fan_in),
        "normal_": 1.0,
        "uniform_": 1 / math.sqrt(12),
    }
    for name, std in deviations.items():
        assert getattr(init, name)(w) is w
        assert w.detach().numpy().std() == pytest.approx(std, rel=0.02), name
    init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu")
    assert w.detach().numpy().std() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert not init.zeros_(np.ones(3)).any() and init.ones_(np.zeros(3)).all() and init.constant_(np.ones(2), 5)[0] == 5
    for shape in ((4, 7), (7, 4), (3, 2, 2)):
        m = init.orthogonal_(np.zeros(shape), gain=2.0).reshape(shape[0], -1)
        gram = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
        np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)
    for bad in (lambda: init.xavier_normal_(np.zeros(3)), lambda: init.orthogonal_(np.zeros(3))):
        with pytest.raises(ValueError, match=r"at least 2 dimensions, got shape \(3,\)"):
            bad()
    with pytest.raises(ValueError, match="fan_sum"):
        init.kaiming_normal_(w, mode="fan_sum")
    with pytest.raises(ValueError, match="'swish'"):
        init.calculate_gain("swish")
    with pytest.raises(TypeError, match="list"):
        init.zeros_([1])


def test_truncated_normal_and_skipped():
    w = init.trunc_normal_(np.zeros((300, 1000), np.float32), 0.5, 1.0, 0.0, 2.0)
    assert w.min() >= 0 and w.max() <= 2 and w.mean() == pytest.approx(0.8563, abs=0.005)
    with pytest.raises(ValueError, match="within two std"):
        init.trunc_normal_(w, 5.0)
    manual_seed(4)
    pieces = init.normal_(np.zeros((700, 1000)))
    np.testing.assert_array_equal(pieces, manual_seed(4).normal(size=(700, 1000)))
    manual_seed(4)
    np.testing.assert_array_equal(init.normal_(np.zeros((1000, 700)).T), pieces)
    with init.skipped():
        assert init.ones_(np.zeros(3)).sum() == init.normal_(np.zeros(3)).sum() == init.uniform_(np.zeros(3)).sum() == 0
        assert not init.orthogonal_(np.zeros((2, 2))).any()
    assert init.ones_(np.zeros(3)).all()


@pytest.mark.torch
def test_gains_as_in_torch():
    import torch

    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_dropout_follows_the_mode():
    x = np.ones((50, 50), np.float32)
    layer = nn.Dropout(0.5)
    assert (layer(x) == 0).any() and layer.eval()(x) is x
    assert (nn.Dropout2d(0.5)(np.ones((9, 9, 2, 2), np.float32)) == 0).any()
