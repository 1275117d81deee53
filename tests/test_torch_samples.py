"""Functions against the samples of PyTorch's own tests, float64: values, gradients, refusals."""

import pytest

import fastconv.functional as F

from .against_torch import check_refusal, check_sample, most_different, samples

pytestmark = pytest.mark.torch

MOST = 8  # samples of one operation

NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "local_response_norm")
ACTIVATIONS = (
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "hardswish", "hardsigmoid", "mish"),
    *("sigmoid", "tanh", "softmax", "log_softmax"),
)
LOSSES = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "linear")
TOLERANCE = {"hardsigmoid": 1e-7, "hardswish": 1e-7}  # torch's slopes have a sixth in float32
# In torch these are no members of nn.functional.
TOP = {"sigmoid", "tanh", "softmax", "log_softmax"}
VARIANTS = {
    "pad": ("constant", "reflect", "replicate", "replicate_negative", "circular"),
    "softmax": ("", "with_dtype"),
    "log_softmax": ("", "with_dtype"),
}


@pytest.mark.parametrize("name", [*NORMS, *ACTIVATIONS, *LOSSES, *CONVOLUTIONS, "pad"])
def test_samples(name):
    full = name if name in TOP else f"nn.functional.{name}"
    for variant in VARIANTS.get(name, ("",)):
        op, inputs = samples(full, variant)
        for sample in most_different(inputs, MOST):
            check_sample(getattr(F, name), op.op, sample, TOLERANCE.get(name, 1e-10))
        for sample in samples(full, variant, errors=True)[1]:
            check_refusal(getattr(F, name), sample)
