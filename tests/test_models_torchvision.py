"""Networks against torchvision's own definitions: names and shapes of all, outputs of one of each family and shape."""

from importlib.util import find_spec

import numpy as np
import pytest

from fastconv import Tensor, models, no_grad
from fastconv.models import vgg
from tests import torchvision_models as truth

if find_spec("torch") is None or find_spec("torchvision") is None:
    pytest.skip("torch or torchvision is not installed", allow_module_level=True)

import torch

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

SHARED = [name for name in models.list_models() if truth.builder(name) is not None]


def test_what_torchvision_has_of_the_list():
    assert len(SHARED) == 51
    lacking = set(models.list_models()) - set(SHARED)
    assert all(truth.expected()[name]["source"] == "fastconv" for name in lacking)


@pytest.mark.parametrize("name", SHARED)
def test_same_names_and_shapes_in_the_same_order(name):
    theirs = truth.make_theirs(name)
    assert truth.listing(truth.make_ours(name).state_dict()) == truth.listing(theirs.state_dict())
    assert truth.describe(theirs.state_dict()) == truth.expected(name)


@pytest.mark.parametrize("name", SHARED)
def test_parameters_and_multiply_adds_as_torchvision_publishes_them(name):
    published = next(iter(truth.torchvision().models.get_model_weights(name))).meta
    entry = models.NETWORKS[name]
    if name.startswith("deeplabv3"):  # theirs are counted with the auxiliary classifier
        assert published["num_params"] == sum(p.data.size for p in truth.make_ours(name).parameters())
        return
    heads = entry.parameters - published["num_params"]
    assert heads == (6_379_984 if name == "googlenet" else 0)  # theirs without the auxiliary classifiers
    assert entry.multiply_adds / 1e9 == pytest.approx(published["_ops"], abs=0.0006)


# -- outputs -----------------------------------------------------------------------------------------------------------

# Settings of both sides and the size of the images.  Small images, narrow networks where their width can be chosen.
SMALL = {
    "alexnet": ({}, (63, 63)),
    "squeezenet1_0": ({"num_classes": 7}, (33, 34)),
    "googlenet": ({"init_weights": False, "transform_input": True, "aux_logits": True}, (64, 64)),
    "mobilenet_v2": ({"width_mult": 0.5}, (64, 64)),
    "mobilenet_v3_large": ({"reduced_tail": True, "dilated": True, "width_mult": 0.75}, (64, 64)),
    "shufflenet_v2_x0_5": ({}, (64, 64)),
    "efficientnet_b0": ({"stochastic_depth_prob": 0.0}, (64, 64)),
    "deeplabv3_mobilenet_v3_large": ({"aux_loss": True, "num_classes": 3}, (65, 97)),
    "r3d_18": ({}, (4, 32, 32)),
    "r2plus1d_18": ({}, (4, 32, 32)),
}
# Fewer blocks than any network that has a name: module and class of torchvision, arguments.
SHORT = {
    "ResNet basic": ("resnet", "ResNet", ("BasicBlock", (1, 1, 2, 1)), {}),
    "ResNet dilated": (
        *("resnet", "ResNet", ("Bottleneck", (1, 1, 2, 1))),
        {"replace_stride_with_dilation": (False, True, True)},
    ),
    "ResNet groups": (
        *("resnet", "ResNet", ("Bottleneck", (1, 1, 1, 1))),
        {"groups": 8, "width_per_group": 4, "zero_init_residual": True},
    ),
    "DenseNet": ("densenet", "DenseNet", (12, (2, 3, 2, 2), 24), {"bn_size": 2}),
}


def without_dropout(net):
    """Dropout draws other numbers than theirs: none is dropped."""
    for module in net.modules():
        if "dropout" in type(module).__name__.lower() or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
        if hasattr(module, "drop_rate"):
            module.drop_rate = 0.0
    return net


def leaves(result):
    """The arrays of a result: a tensor, a tuple or a dict of them."""
    if isinstance(result, dict):
        return [result[key] for key in sorted(result)]
    return list(result) if isinstance(result, tuple) else [result]


def check_equal(ours, theirs, shape, training=(False, True), channels=3):
    """Outputs with the same weights, in evaluation and in training, and running statistics after it."""
    theirs, ours = without_dropout(theirs), without_dropout(ours)
    with torch.no_grad():
        for name, buffer in theirs.named_buffers():  # statistics that matter
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    ours.load_state_dict({k: t.numpy() for k, t in theirs.state_dict().items()})
    x = np.random.default_rng(1).standard_normal((2, channels, *shape)).astype(np.float32)
    for train in training:
        ours.train(train)
        theirs.train(train)
        with torch.no_grad(), no_grad():
            got, want = leaves(ours(x)), leaves(theirs(torch.from_numpy(x)))
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            assert type(a) is np.ndarray and a.shape == tuple(b.shape)
            b = b.numpy()
            assert np.isfinite(b).all() and np.abs(a - b).max() <= 2e-3 * np.abs(b - b.mean()).max()
    state = theirs.state_dict()
    for name, a in ours.named_buffers():
        np.testing.assert_allclose(
            a, state[name].numpy(), 1e-3, 1e-4 * (1 + float(state[name].abs().max())), err_msg=name
        )


@pytest.mark.parametrize("name", SMALL)
def test_same_outputs(name):
    settings, shape = SMALL[name]
    torch.manual_seed(0)
    more = {"weights_backbone": None} if name.startswith("deeplabv3") else {}
    theirs = truth.builder(name)(weights=None, **settings, **more)
    check_equal(truth.make_ours(name, **settings), theirs, shape)


@pytest.mark.parametrize("name", SHORT)
def test_same_outputs_of_short_networks(name):
    module, cls, args, settings = SHORT[name]
    module = getattr(truth.torchvision().models, module)
    torch.manual_seed(0)
    ours, theirs = (
        getattr(side, cls)(*(getattr(side, a) if isinstance(a, str) else a for a in args), **settings)
        for side in (models, module)
    )
    check_equal(ours, theirs, (48, 64))


def test_same_outputs_of_convnext():
    convnext = truth.torchvision().models.convnext
    torch.manual_seed(0)
    widths, depths = (16, 24, 32, 48), (1, 1, 2, 1)
    rows = [convnext.CNBlockConfig(*row) for row in zip(widths, (*widths[1:], None), depths, strict=True)]
    theirs = convnext.ConvNeXt(rows, layer_scale=0.5, num_classes=6)
    check_equal(models.ConvNeXt(widths, depths, layer_scale=0.5, num_classes=6), theirs, (64, 64))


def test_same_outputs_of_vgg():
    torch.manual_seed(0)
    their = truth.torchvision().models.vgg
    theirs = their.make_layers(their.cfgs["A"], batch_norm=True)
    check_equal(vgg.convolutions(vgg.DEPTHS[11], True), theirs, (64, 64))


def test_same_outputs_of_inception():
    """The auxiliary classifier by itself: in the network it needs images of 299x299."""
    torch.manual_seed(0)
    settings = {"init_weights": False, "num_classes": 5}
    theirs = truth.builder("inception_v3")(weights=None, aux_logits=True, **settings)
    ours = truth.make_ours("inception_v3", **settings)
    check_equal(ours, theirs, (107, 91), training=(False,))
    check_equal(ours.AuxLogits, theirs.AuxLogits, (17, 17), channels=768)
    ours.aux_logits = theirs.aux_logits = False
    theirs.AuxLogits = None
    check_equal(models.inception_v3(aux_logits=False, **settings), theirs, (107, 91), training=(True,))


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_same_gradients():
    resnet = truth.torchvision().models.resnet
    torch.manual_seed(0)
    theirs = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    ours = models.ResNet(models.BasicBlock, (1, 1, 1, 1), num_classes=10)
    ours.load_state_dict({k: t.numpy() for k, t in theirs.state_dict().items()})
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 64, 64), (2, 10)))
    ours(Tensor(x)).backward(g)
    theirs(torch.from_numpy(x)).backward(torch.from_numpy(g))
    largest = max(float(q.grad.abs().max()) for q in theirs.parameters())
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        want = q.grad.numpy()
        assert np.abs(p.grad.data - want).max() <= 0.01 * np.abs(want).max() + 1e-5 * largest, key
