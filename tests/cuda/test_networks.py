"""Networks on the device: a step of training of every network that there is, and losses as the CPU's of each family."""

import functools
from functools import partial

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import models, nn
from fastconv.autograd import capture
from fastconv.kernels import cuda
from fastconv.kernels.cuda import array, gpu
from fastconv.models import (
    addernet,
    convnext,
    deeplab,
    densenet,
    efficientnet,
    lenet,
    mobilenetv2,
    mobilenetv3,
    resnet,
    se_resnet,
    shiftnet,
    shufflenetv1,
    shufflenetv2,
    squeezenet,
    video,
)
from fastconv.models.googlenet import Inception
from fastconv.models.xception import Block

# ---- all networks, without their arithmetic


@pytest.fixture
def launches(monkeypatch):
    """Kernels are counted instead of run, and large arrays not copied: results hold whatever was in memory.  A value
    that something of the CPU wants to see is an error."""
    counted = []

    def read(x):
        raise AssertionError(f"an array of shape {x.shape} is copied to the CPU")

    def upload(x):
        x = np.asarray(x)
        return array.empty(x.shape, x.dtype) if x.size > 5000 else small(x)

    small = array.upload
    monkeypatch.setattr(gpu.Kernel, "__call__", lambda kernel, *arguments: counted.append(kernel.__name__))
    monkeypatch.setattr(array.CudaArray, "numpy", read)
    monkeypatch.setattr(cuda, "upload", upload)
    return counted


def outputs_of(result):
    """All Tensors of a network's output: one, a named tuple with auxiliary ones, or a dict."""
    found = result.values() if isinstance(result, dict) else result if isinstance(result, tuple) else [result]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("name", models.list_models())
def test_every_network_trains_on_the_device_alone(name, launches):
    """Forward, backward and a step of both optimizers, at the network's own image size: no operation lacks a kernel,
    none falls back to the CPU, and every parameter has its gradient on the device."""
    with nn.init.skipped():
        net = models.get_model(name).train().to("cuda")
    x = fc.Tensor(array.empty((2, *models.NETWORKS[name].input_shape), np.float32), requires_grad=True)
    ops = []

    def watch(op, args, outputs):
        ops.append(op)
        assert all(fc.autograd.value(y).device == "cuda" for y in outputs if y is not None), op.name

    with capture(watch):
        outputs = outputs_of(net(x))
        forward = len(launches)
        loss = functools.reduce(lambda a, b: a + b, [(y * y).mean() for y in outputs])
        loss.backward()
    assert len(ops) > 10 and 0 < forward < len(launches)
    for parameter in (x, *net.parameters()):
        assert parameter.grad is not None and parameter.grad.device == "cuda"
        assert parameter.grad.shape == parameter.shape
    for optimizer in (fc.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), fc.optim.Adam(net.parameters())):
        before = len(launches)
        optimizer.step()
        assert len(launches) - before >= len(list(net.parameters()))


# ---- small networks of the families, trained


def in_two_axes(*blocks):
    """Images (n, 2, 4, 4) through some blocks of four channels to scores of three classes."""
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *blocks, *pool, nn.Linear(4, 3))


def in_three_axes(*blocks):
    """The same for clips (n, 2, 2, 3, 3)."""
    pool = nn.AdaptiveAvgPool3d(1), nn.Flatten()
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), *blocks, *pool, nn.Linear(4, 3))


def small_lenet():
    sees = (0,), (0, 1), (1, 2, 3), (0, 3)
    layers = nn.Conv2d(2, 4, 3, padding=1), lenet.Subsampling(4), nn.Tanh(), lenet.PartialConv2d(sees, 2)
    return nn.Sequential(*layers, nn.Flatten(), lenet.EuclideanRBF(3, 4))


NORM = nn.BatchNorm2d
FAMILIES = {
    "lenet": small_lenet,
    "resnet": lambda: in_two_axes(nn.MaxPool2d(3, 1, 1), resnet.BasicBlock(4, 4), resnet.Bottleneck(4, 1)),
    "se_resnet": lambda: in_two_axes(se_resnet.SEBottleneck(4, 1, reduction=2)),
    "mobilenet_v2": lambda: in_two_axes(mobilenetv2.InvertedResidual(4, 4, 1, 2)),
    "mobilenet_v3": lambda: in_two_axes(
        mobilenetv3.InvertedResidual(4, 3, 8, 4, True, nn.Hardswish, 1, 1, NORM),
    ),
    "efficientnet": lambda: in_two_axes(efficientnet.MBConv(4, 4, 2, 3, 1, 0.0, NORM)),
    "shufflenet": lambda: in_two_axes(shufflenetv1.Unit(4, 4, 1, 1, 1), shufflenetv2.InvertedResidual(4, 4, 1)),
    "convnext": lambda: in_two_axes(convnext.CNBlock(4, 0.5, 0.0, partial(nn.LayerNorm, eps=1e-6))),
    "densenet": lambda: in_two_axes(densenet.DenseBlock(2, 4, 2, 2, 0.0), nn.AvgPool2d(2), nn.Conv2d(8, 4, 1)),
    "squeezenet": lambda: in_two_axes(squeezenet.Fire(4, 2, 2, 2)),
    "googlenet": lambda: in_two_axes(Inception(4, 1, 1, 1, 1, 1, 1)),
    "xception": lambda: in_two_axes(Block(4, (4, 4))),
    "deeplab": lambda: in_two_axes(deeplab.ASPP(4, (1, 2, 3), 4)),
    "adder": lambda: in_two_axes(addernet.BasicBlock(4, 4, 1)),
    "shift": lambda: in_two_axes(shiftnet.ConvShiftConv(4, 4, 3, 2, 1)),
    "deform": lambda: in_two_axes(nn.DeformConv2dPack(4, 4, 3, padding=1)),
    "non_local": lambda: in_two_axes(nn.NonLocal2d(4, mode="concatenation"), nn.NonLocal2d(4)),
    "video": lambda: in_three_axes(video.BasicBlock(4, 4, video.Conv2Plus1D, 1, None)),
}
OPTIMIZERS = (
    lambda p: fc.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    lambda p: fc.optim.Adam(p, lr=0.01),
    lambda p: fc.optim.AdamW(p, lr=0.01),
)


def trained(name, device):
    """Losses of two steps, and the weights and buffers after them."""
    fc.manual_seed(0)
    net = FAMILIES[name]()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # each device draws its own numbers
    net.to(device)
    optimizer = OPTIMIZERS[list(FAMILIES).index(name) % len(OPTIMIZERS)](net.parameters())
    shape = (2, 2, 2, 3, 3) if name == "video" else (3, 2, 4, 4)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    there, target = fc.Tensor(x).to(device), fc.Tensor(np.arange(len(x)) % 3).to(device)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(there), target)
        loss.backward()
        for module in net.modules():
            if isinstance(module, nn.Adder2d):
                module.scale_gradient()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.device == device for p in net.parameters())
    return losses, net.to("cpu").state_dict()


@pytest.mark.parametrize("name", FAMILIES)
def test_training_gives_the_losses_of_the_cpu(name):
    (expected, kept), (given, there) = (trained(name, device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(given, expected, rtol=1e-3)
    assert kept.keys() == there.keys()
    for key, value in kept.items():
        # Adam makes a whole step of a gradient that is only rounding, such as that of a bias before batch norm.
        np.testing.assert_allclose(there[key], value, rtol=1e-2, atol=0.021, err_msg=key)
