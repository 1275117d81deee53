"""Optimizers and schedules: the same numbers as torch's, state, bad input."""

import copy

import numpy as np
import pytest

from fastconv import driver, nn, optim
from fastconv.autograd import Tensor

pytestmark = pytest.mark.smoke

OPTIMIZERS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "maximize": True, "dampening": 0.2}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
]
SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5, 5, 9], "gamma": 0.3}),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.01}),
    ("LambdaLR", {"lr_lambda": lambda epoch: 0.9**epoch}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 15}),
    ("OneCycleLR", {"max_lr": [0.5, 0.7], "epochs": 3, "steps_per_epoch": 5, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 15, "three_phase": True, "pct_start": 0.4}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 15, "cycle_momentum": False, "div_factor": 3, "pct_start": 0.1}),
]


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in [(3, 4), (5,), ()]]


@pytest.mark.torch
@pytest.mark.parametrize("name, options", OPTIMIZERS)
def test_as_in_torch(name, options):
    import torch

    ours, theirs = [nn.Parameter(a.copy()) for a in arrays()], [torch.nn.Parameter(torch.tensor(a)) for a in arrays()]
    mine, other = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    before = [p.data for p in ours]
    for step in range(6):
        for p, q, g in zip(ours, theirs, arrays(step + 1), strict=True):
            p.grad, q.grad = Tensor(g.copy()), torch.tensor(g)
        mine.step()
        other.step()
        for p, g in zip(ours, arrays(step + 1), strict=True):
            np.testing.assert_array_equal(p.grad, g)
    for p, q, a in zip(ours, theirs, before, strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)
        assert p.data is a


@pytest.mark.torch
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name, options", SCHEDULES)
def test_schedules_as_in_torch(name, options, optimizer):
    import torch

    def build(module, tensors):
        extra = {"momentum": 0.9} if optimizer == "SGD" else {}
        groups = [{"params": tensors[:1]}, {"params": tensors[1:], "lr": 0.3}]
        return getattr(module, optimizer)(groups, lr=0.1, **extra)

    mine = build(optim, [nn.Parameter(a) for a in arrays()])
    other = build(torch.optim, [torch.nn.Parameter(torch.tensor(a)) for a in arrays()])
    ours, theirs = getattr(optim, name)(mine, **options), getattr(torch.optim.lr_scheduler, name)(other, **options)
    for _ in range(14):
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
        for a, b in zip(mine.param_groups, other.param_groups, strict=True):
            assert a.get("momentum", a.get("betas")) == pytest.approx(b.get("momentum", b.get("betas")), rel=1e-12)
        mine.step()
        other.step()
        ours.step()
        theirs.step()


def quadratic(make, steps=100):
    p = nn.Parameter(np.array([3.0, -2.0], np.float32))
    optimizer = make([p])
    for _ in range(steps):
        optimizer.zero_grad()
        (p * p).sum().backward()
        optimizer.step()
    return p, optimizer


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.5}), ("Adam", {}), ("AdamW", {})])
def test_finds_a_minimum_and_goes_on_from_its_state(name, options):
    def make(params):
        return getattr(optim, name)(params, lr=0.1, **options)

    p, optimizer = quadratic(make)
    assert np.abs(p.detach().numpy()).max() < 0.05
    p, optimizer = quadratic(make, 5)
    twin = nn.Parameter(p.detach().numpy().copy())
    other = getattr(optim, name)([twin], lr=9.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert other.param_groups[0]["lr"] == 0.1
    for tensor, its in ((p, optimizer), (twin, other)):
        tensor.grad = np.ones(2, np.float32)
        its.step()
    np.testing.assert_array_equal(p.detach(), twin.detach())


def test_groups_closure_and_missing_gradients():
    a, b = nn.Parameter(np.ones(1, np.float32)), nn.Parameter(np.ones(1, np.float32))
    optimizer = optim.SGD([{"params": a, "lr": 1.0}, {"params": [b]}], lr=0.1)
    a.grad = np.ones(1, np.float32)
    assert optimizer.step(lambda: 5) == 5
    assert a.item() == 0 and b.item() == 1
    optimizer.zero_grad()
    assert a.grad is None
    assert optimizer.param_groups[1]["lr"] == 0.1


def test_schedule_state():
    def build():
        return optim.CosineAnnealingLR(optim.SGD([nn.Parameter(np.ones(1))], lr=1.0), 10)

    ours = build()
    for _ in range(4):
        ours.step()
    other = build()
    other.load_state_dict(ours.state_dict())
    assert other.last_epoch == 4 and "optimizer" not in ours.state_dict()
    optimizer = ours.optimizer
    resumed = optim.CosineAnnealingLR(optimizer, 10, last_epoch=6)
    assert resumed.last_epoch == 7
    assert resumed.get_last_lr()[0] == pytest.approx((1 + np.cos(0.7 * np.pi)) / 2)
    with pytest.raises(KeyError, match="initial_lr"):
        optim.StepLR(optim.SGD([nn.Parameter(np.ones(1))]), 3, last_epoch=2)


def test_bad_input():
    p = nn.Parameter(np.ones(1))
    for make, match in [
        (lambda: optim.SGD([]), "SGD: got no parameters"),
        (lambda: optim.SGD([p], lr=-1), "lr must not be negative, got -1"),
        (lambda: optim.SGD([p], momentum=-1), "momentum"),
        (lambda: optim.SGD([p], nesterov=True), "nesterov needs momentum"),
        (lambda: optim.Adam([p], betas=(0.9, 1.0)), r"betas.*\(0.9, 1.0\)"),
        (lambda: optim.AdamW([p], eps=-1), "AdamW: eps"),
        (lambda: optim.SGD([p, p]), "given twice"),
        (lambda: optim.SGD([p * 2]), "not a leaf"),
        (lambda: optim.OneCycleLR(optim.SGD([p]), 0.1), "total_steps"),
        (lambda: optim.OneCycleLR(optim.SGD([p]), 0.1, 5, pct_start=2), "pct_start"),
        (lambda: optim.OneCycleLR(optim.SGD([p]), 0.1, 5, anneal_strategy="exp"), "'exp'"),
        (lambda: optim.OneCycleLR(optim.SGD([p]), 0.1, -5), "positive whole number, got -5"),
        (lambda: optim.LambdaLR(optim.SGD([p]), [abs, abs]), "2 functions for 1"),
        (lambda: optim.SGD([p]).load_state_dict({"state": {}, "param_groups": [{"params": [0, 1]}]}), r"\[2\].*\[1\]"),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
    for make in (lambda: optim.SGD([np.ones(1)]), lambda: optim.StepLR(p, 3)):
        with pytest.raises(TypeError, match=r"ndarray|Parameter"):
            make()
    schedule = optim.OneCycleLR(optim.SGD([p], momentum=0.9), 0.1, 2)
    schedule.step()
    schedule.step()
    with pytest.raises(ValueError, match="step 3 is beyond the 2"):
        schedule.step()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_sgd_of_awkward_parameters(options):
    """Parameters of other dtypes, orders and sizes among them take the same steps; so does any number of threads."""
    r = np.random.default_rng(0)
    wide = r.standard_normal((40, 30))
    values = [wide.astype(np.float32), wide, np.asfortranarray(wide), wide[:, ::3], np.zeros((0, 2)), r.random(20000)]
    results, threads = [], driver.get_num_threads()
    for count in {1, threads}:
        driver.set_num_threads(count)
        params = [nn.Parameter(np.array(v, order="K", copy=True)) for v in values]
        optimizer = optim.SGD(params, 0.1, **options)
        for step in range(3):
            for p, v in zip(params, values, strict=True):
                p.grad = Tensor((v * (step + 1)).astype(v.dtype))
            optimizer.step()
        results.append([p.data.copy() for p in params])
        for p, v in zip(params, values, strict=True):
            alone = nn.Parameter(v.astype(np.float64))
            one = optim.SGD([alone], 0.1, **options)
            for step in range(3):
                alone.grad = Tensor(v.astype(np.float64) * (step + 1))
                one._update(alone.data, alone.grad._data, one.state.setdefault(alone, {}), one.param_groups[0])
            np.testing.assert_allclose(p.data, alone.data, rtol=1e-6 if v.dtype == np.float32 else 1e-14, atol=1e-6)
    driver.set_num_threads(threads)
    for a, b in zip(results[0], results[-1], strict=True):
        np.testing.assert_array_equal(a, b)
