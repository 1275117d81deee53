"""Every operation but convolutions against PyTorch: its own function, or the usual composition where it has none.

    python benchmarks/operations.py [--rows REGEX] [--threads 1 2] [--passes fwd bwd] [--repeat 15]

Interleaved in one process, medians of ratios; every output and gradient is compared before it is timed.  Writes
operations.json, operations.md and operations.png, in some five minutes on two cores.
"""

import argparse
import os
import re
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import compare, operation_report
from benchmarks.measure import Candidate, check, interleave, ratio
from benchmarks.operation_cases import Operation, read

PASSES = ("fwd", "bwd")
LIMIT = 1e-3  # of a result's RMS, in float32
SECONDS = 1.5  # for the rounds of one row; slow peers get fewer rounds


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", metavar="REGEX", help="only operations whose group or name matches")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--passes", nargs="+", default=PASSES, choices=PASSES)
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="interleaved rounds (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results, /partial with --rows")
    options = parser.parse_args()
    if options.out is None:
        options.out = compare.RESULTS / "partial" if options.rows else compare.RESULTS
    return options


def ours(case: Operation, which: str):
    """fastconv's call of one pass, which gives a tuple of arrays."""
    import fastconv
    from fastconv import functional as F

    arrays = case.arrays()
    if which == "fwd":
        return lambda: (case.call(F, **arrays),)
    tensors = {name: fastconv.Tensor(arrays[name], requires_grad=True) for name in case.wanted}
    output, wanted = case.call(F, **{**arrays, **tensors}), tuple(tensors.values())
    gradient = _gradient(output.shape)
    return lambda: fastconv.autograd.grad(output, wanted, gradient, retain_graph=True)


def theirs(case: Operation, which: str):
    """PyTorch's call of one pass, which gives a tuple of tensors."""
    import torch

    from benchmarks import compositions

    tensors = {name: torch.from_numpy(array) for name, array in case.arrays().items()}
    call = partial(case.peer, compositions) if case.peer else partial(case.call, torch.nn.functional)
    if which == "fwd":
        return lambda: (call(**tensors),)
    wanted = tuple(tensors[name].requires_grad_() for name in case.wanted)
    with torch.enable_grad():
        output = call(**tensors)
    gradient = torch.from_numpy(_gradient(tuple(output.shape)))
    return lambda: torch.autograd.grad(output, wanted, gradient, retain_graph=True)


def _gradient(shape: tuple[int, ...]):
    import numpy as np

    return np.random.default_rng(1).standard_normal(shape, np.float32)


def compared(case: Operation, which: str, own, other) -> float:
    """The largest error of any result, relative to its RMS; raises WrongResultError beyond LIMIT."""
    if which == "bwd" and not case.comparable:
        return 0.0
    pairs = zip(own(), other(), strict=True)
    return max(check(_numpy(a), _numpy(b), LIMIT) for a, b in pairs)


def _numpy(result):
    return result.numpy() if hasattr(result, "numpy") else result


def measure(case: Operation, which: str, threads: int, repeat: int) -> dict:
    """One line of the results."""
    import torch

    import fastconv

    fastconv.set_num_threads(threads)
    torch.set_num_threads(threads)
    with ExitStack() as stack:
        if which == "fwd":
            stack.enter_context(torch.no_grad())
        own, other = ours(case, which), theirs(case, which)
        error = compared(case, which, own, other)
        candidates = {"ours": Candidate(own), "torch": Candidate(other)}
        once = sum(candidate.seconds() for candidate in candidates.values())
        samples = interleave(candidates, max(5, min(repeat, round(SECONDS / 2 / once))))
    about = {"group": case.group, "name": case.name, "goal": case.goal, "pass": which, "threads": threads}
    times = {name: median(seconds) for name, seconds in samples.items()}
    return {**about, **times, "ratio": ratio(samples["torch"], samples["ours"]), "error": error}


def main() -> None:
    """Measure, save after every row, and write the report."""
    options = arguments()
    from fastconv import driver

    thread_counts = options.threads or sorted({1, driver.get_num_threads()})
    from benchmarks import peak

    for threads in thread_counts:  # fastconv chooses its threads before PyTorch is imported
        peak.measure(threads)
    import torch

    cases = [case for case in read() if re.search(options.rows, f"{case.group}: {case.name}")]
    versions = {"torch": torch.__version__, "threading layer": driver.threading_layer()}
    results = {**compare.environment(options), "versions": versions, "rows": []}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "operations.json"
    work = [(case, which, threads) for case in cases for which in options.passes for threads in thread_counts]
    for case, which, threads in compare.progress(work):
        results["rows"].append(measure(case, which, threads, options.repeat))
        compare.save(results, target)
    for path in [target, *(operation_report.write(results, options.out) if results["rows"] else [])]:
        print(path)


if __name__ == "__main__":
    if any(name not in os.environ for name in compare.MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**compare.MALLOC, **os.environ})
    main()
