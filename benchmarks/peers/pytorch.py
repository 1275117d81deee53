"""PyTorch, with its default layout and with channels_last."""

import functools
from math import comb

import numpy as np
import torch
import torch.nn.functional as F

from ..layers import Case, MissingError
from ..measure import Candidate, UnsupportedError

NAMES = ("pytorch", "pytorch_channels_last")
LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"torch": torch.__version__}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """The call of torch.nn.functional, or the library's own gradient function."""
    torch.set_num_threads(threads)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    if name == "pytorch_channels_last":
        if case.ndim not in LAYOUTS:
            raise UnsupportedError("no channels_last in one dimension")
        tensors = {key: tensor.contiguous(memory_format=LAYOUTS[case.ndim]) for key, tensor in tensors.items()}
    run = _forward(case, tensors) if which == "fwd" else _backward(case, which, tensors)
    return Candidate(run, lambda tensor: tensor.detach().contiguous().numpy())


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """torchvision's network of that name with the same weights."""
    from tests.torchvision_models import THEIRS, builder

    torch.set_num_threads(threads)
    build = builder(model[0])
    if build is None:
        raise UnsupportedError("torchvision has no such network")
    settings = {"weights": None, **THEIRS.get(model[0], {})} | ({"aux_loss": False} if "deeplab" in model[0] else {})
    network = build(**settings).eval()
    state = {key: torch.from_numpy(np.array(array)) for key, array in model[1].items()}
    missing = network.load_state_dict(state, strict=False).missing_keys  # auxiliary classifiers, for training alone
    if any(not key.startswith(("aux", "AuxLogits")) for key in missing):
        raise UnsupportedError(f"weights without {missing[0]}")
    tensor = torch.from_numpy(x)
    if name == "pytorch_channels_last":
        layout = LAYOUTS[x.ndim - 2]
        network, tensor = network.to(memory_format=layout), tensor.contiguous(memory_format=layout)

    def run():
        with torch.inference_mode():
            return network(tensor)

    return Candidate(run, lambda y: (y["out"] if isinstance(y, dict) else y).contiguous().numpy())


def _forward(case: Case, tensors: dict[str, torch.Tensor]):
    if case.kind == "adder":
        return functools.partial(_adder, case, tensors["x"], tensors["w"])
    if case.kind in ("soft_pool", "blur_pool") and case.ndim == 2:
        return functools.partial(_soft_pool if case.kind == "soft_pool" else _blur_pool, case, tensors["x"])
    functions = F
    if case.kind == "deform_conv":
        try:
            from torchvision import ops as functions
        except ImportError:
            raise UnsupportedError("needs torchvision") from None
    try:
        return case.bind(functions, **tensors)
    except MissingError as error:
        raise UnsupportedError(f"no {error}") from None


def _adder(case: Case, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """-sum |w - x| in the shortest form that PyTorch offers: the L1 distance of every patch to every filter."""
    patches = F.unfold(x, case.kernel, case.dilation, case.padding, case.stride).transpose(1, 2)  # (N, OH*OW, C*KH*KW)
    distances = torch.cdist(patches, w.flatten(1).expand(case.batch, -1, -1), p=1.0)  # (N, OH*OW, OC)
    return -distances.transpose(1, 2).reshape(case.shapes["gy"])


def _soft_pool(case: Case, x: torch.Tensor) -> torch.Tensor:
    """The weighted mean by PyTorch's own poolings; without care for large inputs."""
    weights = x.exp()
    total = F.avg_pool2d(weights, case.kernel, case.stride)
    return F.avg_pool2d(weights * x, case.kernel, case.stride) / total


def _blur_pool(case: Case, x: torch.Tensor) -> torch.Tensor:
    """Reflection and a depthwise convolution with the binomial filter."""
    rows, columns = ([comb(k - 1, i) / 2 ** (k - 1) for i in range(k)] for k in case.kernel)
    kernel = torch.outer(torch.tensor(rows), torch.tensor(columns)).expand(case.in_channels, 1, -1, -1)
    around = [side for k in reversed(case.kernel) for side in ((k - 1) // 2, k // 2)]
    return F.conv2d(F.pad(x, around, mode="reflect"), kernel, None, case.stride, groups=case.in_channels)


def _backward(case: Case, which: str, tensors: dict[str, torch.Tensor]):
    """Convolutions by the one function that computes their gradients; other ops through the recorded graph."""
    if case.kind in ("conv", "conv_transpose"):
        mask = [which == "bwd_data", which == "bwd_weights", False]
        transposed, no_padding = case.kind == "conv_transpose", (0,) * case.ndim
        settings = (case.stride, case.padding, case.dilation, transposed, no_padding, case.groups, mask)
        gradients = torch.ops.aten.convolution_backward
        return lambda: gradients(tensors["gy"], tensors["x"], tensors["w"], None, *settings)[mask.index(True)]
    if case.kind == "adder":
        raise UnsupportedError("another gradient (the sign)")
    wanted = tensors["x" if which == "bwd_data" else "w"].requires_grad_()
    output = _forward(case, tensors)()
    return lambda: torch.autograd.grad(output, wanted, tensors["gy"], retain_graph=True)[0]
