"""torchvision's networks as a source of truth: names and shapes of their states, written down in networks.json.

python -m tests.torchvision_models writes that file anew; it needs torch and torchvision.  Networks that torchvision
lacks are described as fastconv makes them, so that a change of their keys is seen.
"""

import functools
import hashlib
import json
from pathlib import Path

import fastconv as fc
from fastconv import nn

FILE = Path(__file__).with_name("networks.json")
# Settings of torchvision's builders: no initial weights where they take long, auxiliary classifiers.
THEIRS = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    **{f"vgg{d}{end}": {"init_weights": False} for d in (11, 13, 16, 19) for end in ("", "_bn")},
    **{
        f"deeplabv3_{name}": {"weights_backbone": None, "aux_loss": True}
        for name in ("resnet50", "resnet101", "mobilenet_v3_large")
    },
}
OURS = {name: {"aux_loss": True} for name in THEIRS if name.startswith("deeplabv3")}


@functools.cache
def _stubs():
    """Two operators that torchvision asks for while it is imported, for where its compiled ones do not load.

    They exist as long as what this returns; cached, that is for good.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def torchvision():
    """The package."""
    _stubs()
    import torchvision as package

    return package


def builder(name):
    """torchvision's function of that name, or None."""
    models = torchvision().models
    for folder in (models, models.segmentation, models.video):
        if callable(getattr(folder, name, None)):
            return getattr(folder, name)
    return None


def make_theirs(name):
    """torchvision's network without memory for its weights: names and shapes only.  None where it has none."""
    import torch

    build = builder(name)
    if build is None:
        return None
    with torch.device("meta"):
        return build(weights=None, **THEIRS.get(name, {}))


def make_ours(name, **settings):
    """Our network, its weights not drawn."""
    with nn.init.skipped():
        return fc.models.get_model(name, **{**OURS.get(name, {}), **settings})


def listing(state):
    """ "name dtype shape" of every array or tensor of a state, in its order."""
    return [f"{k} {str(a.dtype).removeprefix('torch.')} {tuple(a.shape)}" for k, a in state.items()]


def describe(state):
    """The number of arrays of a state, and a hash of their names, dtypes and shapes."""
    lines = listing(state)
    return {"arrays": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]}


@functools.cache
def _expected():
    return json.loads(FILE.read_text())


def expected(name=None):
    """What networks.json says of all networks, or of one, without its source."""
    if name is None:
        return _expected()
    return {key: value for key, value in _expected()[name].items() if key != "source"}


def write():
    truth = {}
    for name in fc.models.list_models():
        theirs = make_theirs(name)
        source = "fastconv" if theirs is None else f"torchvision {torchvision().__version__.partition('+')[0]}"
        net = make_ours(name) if theirs is None else theirs
        truth[name] = {"source": source, **describe(net.state_dict())}
    lines = [f'  "{name}": {json.dumps(entry)}' for name, entry in truth.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
