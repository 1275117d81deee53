"""One training step against PyTorch: forward, loss, backward and SGD with momentum, interleaved in one process.

    python benchmarks/training.py [--networks REGEX] [--threads 1 2] [--repeat 7]

PyTorch runs in both memory layouts, and the better one counts.  Memory is the most that a process of its own holds
while it trains, less what it holds before.  Writes results/training.json and training.md.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)

from benchmarks import compare  # noqa: E402
from benchmarks.training_networks import NETWORKS, fastconv_library, torch_library  # noqa: E402

LIBRARIES = ("fastconv", "pytorch", "pytorch_channels_last")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default="", metavar="REGEX", help="only networks whose name matches")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="interleaved rounds (default %(default)s)")
    parser.add_argument("--out", type=Path, default=compare.RESULTS, metavar="FOLDER")
    parser.add_argument("--memory-of", nargs=2, metavar=("LIBRARY", "NETWORK"), help=argparse.SUPPRESS)
    return parser.parse_args()


def fastconv_step(name: str):
    """A function that makes one step of the network, and returns the loss."""
    import numpy as np

    import fastconv as fc

    make, batch, shape, classes = NETWORKS[name]
    r = np.random.default_rng(0)
    model = make(fastconv_library()).train()
    x = fc.Tensor(r.standard_normal((batch, *shape), np.float32))
    target = r.integers(0, classes, batch)
    optimizer = fc.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad()
        loss = fc.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def torch_step(name: str, channels_last: bool):
    """The same in PyTorch."""
    import numpy as np
    import torch

    make, batch, shape, classes = NETWORKS[name]
    r = np.random.default_rng(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = make(torch_library()).train().to(memory_format=layout)
    x = torch.from_numpy(r.standard_normal((batch, *shape), np.float32)).contiguous(memory_format=layout)
    target = torch.from_numpy(r.integers(0, classes, batch))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def make_step(library: str, name: str):
    """A training step of one of LIBRARIES."""
    return fastconv_step(name) if library == "fastconv" else torch_step(name, library == "pytorch_channels_last")


def set_threads(threads: int) -> None:
    """In both libraries."""
    import torch

    import fastconv as fc

    fc.set_num_threads(threads)
    torch.set_num_threads(threads)


def measure_row(name: str, threads: int, repeat: int) -> dict:
    """One line of the results."""
    from statistics import median

    from benchmarks.measure import Candidate, interleave, ratio

    set_threads(threads)
    candidates = {library: Candidate(make_step(library, name)) for library in LIBRARIES}
    samples = interleave(candidates, repeat)
    measured = {library: {"seconds": median(times), "fastest": min(times)} for library, times in samples.items()}
    ratios = {library: ratio(samples[library], samples["fastconv"]) for library in LIBRARIES[1:]}
    return {"network": name, "batch": NETWORKS[name][1], "threads": threads, "measured": measured, "ratios": ratios}


def memory(library: str, name: str) -> float:
    """MB that a process of its own takes for three steps."""
    words = [sys.executable, __file__, "--memory-of", library, name]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(library: str, name: str) -> None:
    """In the process of `memory`: what a step adds to the library itself, its compiled kernels included."""
    if library == "fastconv":
        import fastconv  # noqa: F401
    else:
        import torch  # noqa: F401
    before = peak_kilobytes()
    step = make_step(library, name)
    for _ in range(3):
        step()
    print((peak_kilobytes() - before) / 1024)


def peak_kilobytes() -> int:
    """The most memory that this process has held; unlike getrusage, without what its parent held before."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no line VmHWM")


def markdown(results: dict) -> str:
    """The report."""
    from math import exp, log

    head = f"{results['cpu']}, {results['date'][:10]}, commit {results['commit']}; {results['versions']}"
    lines = ["# One training step, milliseconds", "", head, ""]
    lines += ["Ratio: PyTorch's time in its better layout to fastconv's, the median over the rounds."]
    for threads in sorted({row["threads"] for row in results["rows"]}):
        rows = [row for row in results["rows"] if row["threads"] == threads]
        lines += ["", f"## {threads} thread{'s' * (threads > 1)}", ""]
        lines += ["| network | batch | fastconv | PyTorch | channels_last | ratio | MB | MB PyTorch |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for row in rows:
            times = [f"{1e3 * row['measured'][library]['seconds']:.1f}" for library in LIBRARIES]
            used = [f"{row['memory'][library]:.0f}" for library in LIBRARIES[:2]]
            best = min(row["ratios"].values())
            lines += [f"| {row['network']} | {row['batch']} | {' | '.join(times)} | {best:.2f} | {' | '.join(used)} |"]
        mean = exp(sum(log(min(row["ratios"].values())) for row in rows) / len(rows))
        lines += ["", f"Geometric mean of the ratios: {mean:.2f}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, save after every row, and write the report."""
    options = arguments()
    if options.memory_of:
        print_memory(*options.memory_of)
        return
    import fastconv as fc
    from benchmarks.peers import ours, pytorch

    counts = options.threads or sorted({1, fc.get_num_threads()})
    versions = ", ".join(f"{name} {version}" for name, version in (ours.versions() | pytorch.versions()).items())
    results = compare.environment(options) | {"versions": versions, "rows": []}
    names = [name for name in NETWORKS if re.search(options.networks, name)]
    used = {}
    for name, threads in compare.progress([(name, threads) for name in names for threads in counts]):
        if name not in used:
            used[name] = {library: memory(library, name) for library in LIBRARIES}
        results["rows"].append(measure_row(name, threads, options.repeat) | {"memory": used[name]})
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "training.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (options.out / "training.md").write_text(markdown(results), encoding="utf-8")
    print(options.out / "training.md")


if __name__ == "__main__":
    if any(name not in os.environ for name in compare.MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**compare.MALLOC, **os.environ})
    main()
