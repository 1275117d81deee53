"""The layers on a GPU, in turns with PyTorch (cuDNN), float32 without TF32, timed by CUDA events.

    python benchmarks/cuda.py --only resnet --passes fwd bwd_data bwd_weights --out gpu.json

Prints one line a layer and pass: microseconds and rate of both, and how many times the speed of PyTorch ours is (the
median of the ratios of samples that follow one another).  Needs a CUDA device, numba-cuda and PyTorch with CUDA; where
one of them is missing it says so and ends with exit code 2.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import median

import numpy as np

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layers import PASSES, MissingError, read
from benchmarks.measure import UnsupportedError, WrongResultError

BATCH, SAMPLES, WARM, CALLS = 32, 15, 3, 10
TOLERANCE = 1e-3  # of the largest value: both add in orders of their own


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=BATCH, help=f"batch size (default {BATCH})")
    parser.add_argument("--only", default="", help="measure layers whose name matches this regular expression")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=["fwd"])
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    return parser.parse_args(given)


def device():
    """(PyTorch, fastconv's leaf); RuntimeError with the reason where one of them has no GPU."""
    from fastconv import _device

    leaf = _device.leaf("cuda")
    if "simulator" in leaf.name():
        raise RuntimeError("the simulator has no speed worth measuring: unset NUMBA_ENABLE_CUDASIM")
    try:
        import torch
    except ImportError:
        raise RuntimeError("PyTorch is not installed, so there is nothing to compare with") from None
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch finds no CUDA device")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # cuDNN at its best: it tries its algorithms first
    return torch, leaf


def ours(case, which, arrays, leaf):
    """A call without arguments that leaves its result on the device."""
    import fastconv as fc

    arrays = {name: leaf.upload(array) for name, array in arrays.items()}
    if which == "fwd" or case.kind == "conv":
        return case.functional(which, arrays)
    wanted = "x" if which == "bwd_data" else "w"
    tensor = fc.Tensor(arrays[wanted], requires_grad=True)
    output = case.bind(fc.functional, **{**arrays, wanted: tensor})()
    return lambda: fc.grad(output, tensor, fc.Tensor(arrays["gy"]), retain_graph=True)[0].data


def theirs(case, which, arrays, torch):
    """PyTorch's call on the same arrays."""
    from benchmarks.peers import pytorch

    tensors = {name: torch.from_numpy(array).cuda() for name, array in arrays.items()}
    return pytorch._forward(case, tensors) if which == "fwd" else pytorch._backward(case, which, tensors)


def microseconds(torch, call):
    """Mean of some calls in a row, by events in the default stream, in which both libraries run."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / CALLS


def measure(torch, leaf, case, which):
    """One layer and pass; WrongResultError if the results differ."""
    arrays = case.arrays()
    calls = ours(case, which, arrays, leaf), theirs(case, which, arrays, torch)
    mine, other = calls[0]().numpy(), calls[1]().detach().cpu().numpy()
    error = float(np.max(np.abs(mine - other)) / np.max(np.abs(other)))
    if not error < TOLERANCE:
        raise WrongResultError(f"differs from PyTorch by {error:.2g} of the largest value")
    for call in calls * WARM:
        microseconds(torch, call)
    pairs = [tuple(microseconds(torch, call) for call in calls) for _ in range(SAMPLES)]
    times = [median(column) for column in zip(*pairs, strict=True)]
    return {
        **{"layer": case.name, "pass": which, "fastconv_us": times[0], "torch_us": times[1]},
        **{"rate": case.rate(times[0] / 1e6), "unit": case.unit, "ratio": median(b / a for a, b in pairs)},
    }


def main(given=None):
    options = arguments(given)
    try:
        torch, leaf = device()
    except RuntimeError as problem:
        print(f"benchmarks/cuda.py: nothing was measured: {problem}", file=sys.stderr)
        return 2
    results = {"device": leaf.name(), "torch": torch.__version__, "batch": options.batch, "layers": []}
    print(results["device"])
    for case in (case.with_batch(options.batch) for case in read() if re.search(options.only, case.name)):
        for which in (which for which in options.passes if which in case.passes):
            try:
                row = measure(torch, leaf, case, which)
            except (MissingError, UnsupportedError, WrongResultError, NotImplementedError) as problem:
                print(f"{case.name:32} {which:12} {problem}")
                continue
            results["layers"].append(row)
            print(
                f"{case.name:32} {which:12} {row['fastconv_us']:10.1f} us {row['rate']:9.0f} {row['unit']}"
                f" {row['torch_us']:10.1f} us  {row['ratio']:.2f}x"
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
