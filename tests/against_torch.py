"""Comparison with PyTorch on its own sample inputs and error inputs: values, gradients and refusals."""

import warnings

import numpy as np
import pytest

from fastconv.autograd import Tensor


def convert(x, requires_grad=True):
    """torch's tensors, also inside tuples and dicts, as fastconv's; everything else as it is."""
    import torch

    if isinstance(x, torch.Tensor):
        array = x.detach().numpy().copy()
        return Tensor(array, requires_grad=requires_grad and x.requires_grad) if array.dtype.kind == "f" else array
    if isinstance(x, torch.dtype):
        return np.dtype(str(x).removeprefix("torch."))
    if isinstance(x, (tuple, list)):
        return type(x)(convert(y, requires_grad) for y in x)
    if isinstance(x, dict):
        return {key: convert(y, requires_grad) for key, y in x.items()}
    return x


def tensors(x):
    import torch

    if isinstance(x, (tuple, list)):
        return [t for y in x for t in tensors(y)]
    if isinstance(x, dict):
        return tensors(list(x.values()))
    return [x] if isinstance(x, (torch.Tensor, Tensor)) else []


def samples(name, variant="", errors=False, dtype="float64"):
    """The samples (or error inputs) of one operation of torch's own tests."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db

        (op,) = [op for op in op_db if op.name == name and op.variant_test_name == variant]
        if errors:
            return op, [] if op.error_inputs_func is None else [e.sample_input for e in op.error_inputs("cpu")]
        return op, list(op.sample_inputs("cpu", getattr(torch, dtype), requires_grad=True))


def most_different(inputs, count):
    """At most `count` samples, each the one that shows most shapes and options that those before it did not."""
    seen, chosen, left = set(), [], list(inputs)
    while left and len(chosen) < count:
        best = max(left, key=lambda sample: len(_features(sample) - seen))  # the first of equals
        chosen.append(best)
        left.remove(best)
        seen |= _features(best)
    return chosen


def _features(sample):
    parts = [("input", sample.input), *enumerate(sample.args), *sample.kwargs.items()]
    return {f"{name} {tuple(getattr(part, 'shape', ())) or part}" for name, part in parts}


def check_sample(function, reference, sample, tolerance=1e-10):
    """Same values and same gradients for a fixed gradient of the output; or both refuse."""
    import torch

    args, kwargs = (sample.input, *sample.args), sample.kwargs
    ours, theirs = convert((args, kwargs)), (args, kwargs)
    text = f"{[tuple(t.shape) for t in tensors(theirs)]} {sample.args} {sample.kwargs}"[:300]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            want = reference(*args, **kwargs)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        with pytest.raises((ValueError, TypeError)):
            function(*ours[0], **ours[1])
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = function(*ours[0], **ours[1])
    assert isinstance(got, Tensor) and got.shape == tuple(want.shape), (
        f"{got.shape}, wanted {tuple(want.shape)}: {text}"
    )
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), tolerance, tolerance, err_msg=text)
    if not want.requires_grad:
        return
    g = np.random.default_rng(5).standard_normal(want.shape)
    inputs = [t for t in tensors(theirs) if t.requires_grad]
    gradients = torch.autograd.grad(want, inputs, torch.from_numpy(g), allow_unused=True)
    if got.requires_grad:
        got.backward(g)
    for t, expected in zip([t for t in tensors(ours) if t.requires_grad], gradients, strict=True):
        if expected is not None:
            given = np.zeros(t.shape) if t.grad is None else t.grad.data
            np.testing.assert_allclose(given, expected.numpy(), tolerance, tolerance, err_msg=f"gradient: {text}")


def check_refusal(function, sample):
    """What torch refuses, we refuse."""
    ours = convert((sample.input, *sample.args)), convert(sample.kwargs)
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError)):
        warnings.simplefilter("ignore")
        function(*ours[0], **ours[1])
