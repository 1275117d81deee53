"""Networks on the device: every operation they record has a counterpart there, and training gives the CPU's losses."""

import sys

import numpy as np

import fastconv as fc
from fastconv import _device, driver, models, nn, prepared
from fastconv.autograd import capture

rng = np.random.default_rng(0)


def shapes_only(monkeypatch):
    """No kernel of the CPU runs, nor is compiled: outputs hold whatever was in memory."""
    monkeypatch.setattr(prepared, "can_prepare", lambda impl: False)
    launch = driver.launch
    for module in [m for name, m in list(sys.modules.items()) if name.startswith("fastconv")]:
        if getattr(module, "launch", None) is launch:
            monkeypatch.setattr(module, "launch", lambda *rows: None)


def has_counterpart(op):
    """Whether the op runs on the device, by a rule of its own or as it is."""
    known = _device.rules["cuda"]
    return op.anywhere or any(f"{c.__module__.rpartition('.')[2]}.{c.__qualname__}" in known for c in op.__mro__)


def test_every_operation_of_every_network_has_a_counterpart(monkeypatch):
    shapes_only(monkeypatch)
    missing = {}
    for name in models.list_models():
        with nn.init.skipped():
            net = models.get_model(name).train()
        found = set()
        x = fc.Tensor(np.zeros((2, *models.NETWORKS[name].input_shape), np.float32))
        with capture(lambda op, args, outputs, found=found: found.add(op)), np.errstate(all="ignore"), fc.no_grad():
            net(x)
        assert found
        for op in found:
            if not has_counterpart(op):
                missing.setdefault(op.name, []).append(name)
    assert not missing


def small_network():
    """One of each kind of layer, in few channels."""
    fc.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def losses(device, steps=2):
    """Losses of a few steps of Adam on one batch, and the running mean that batch norm ends with."""
    net = small_network().to(device)
    optimizer = fc.optim.Adam(net.parameters(), lr=0.05)
    draw = np.random.default_rng(1)
    x = fc.Tensor(draw.standard_normal((3, 1, 4, 4)).astype(np.float32)).to(device)
    t = fc.Tensor(np.array([0, 2, 1])).to(device)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), t)
        loss.backward()
        optimizer.step()
        found.append(float(loss.item()))
    assert all(p.device == device for p in net.parameters())
    return found, net.to("cpu").state_dict()["1.running_mean"]


def test_training_gives_the_losses_of_the_cpu():
    (expected, mean), (given, mean_there) = losses("cpu"), losses("cuda")
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(given, expected, rtol=1e-4)
    np.testing.assert_allclose(mean_there, mean, rtol=1e-4, atol=1e-6)
