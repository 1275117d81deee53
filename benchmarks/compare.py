"""fastconv against other libraries on the layers of shapes/layers.csv: interleaved in one process, medians of ratios.

    python benchmarks/compare.py [--rows REGEX] [--threads 1 2] [--passes fwd bwd_data bwd_weights] [--repeat 15]
    python benchmarks/compare.py --batch 16 --passes bwd_data bwd_weights    the image networks: results/batch_16.md
    python benchmarks/compare.py --isa avx2     a narrower instruction set, for PyTorch too: results/avx2.md

Writes compare.json, compare.md, a plot per pass and, in a full run, the README's table.  benchmarks/README.md says how
times are taken, and why so.
"""

import argparse
import importlib
import json
import os
import platform
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)

# Freed memory stays with the process.  Otherwise a library that allocates its output is timed on page faults: up to
# nine tenths of its time.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "2000000000"}
LIMIT = 3e-2  # of the output's RMS; the loosest peer's Winograd transforms stay below 1.3e-2
RESULTS = ROOT / "benchmarks" / "results"
HERE = ("pytorch", "onnxruntime", "openvino")  # timed in this process
# What limits fastconv and PyTorch to an instruction set; the other libraries have no such switch.
ISAS = {"avx2": {"FASTCONV_ISA": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
ISA_ROWS = "vgg_conv[123]_[12]|resnet_(conv1|1x1|3x3)|mobilenet_dw|convnext|g32_128|lenet|audio|max3s2|avg3_|adaptive7"
IMAGE_ROWS = "vgg|resnet|mobilenet|convnext|resnext|shufflenet|deeplab|inception|squeeze|alexnet"  # of --batch
ELSEWHERE = ("ncnn", "mnn")  # timed in a worker under --peer-python


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", metavar="REGEX", help="only layers whose name matches")
    parser.add_argument("--isa", choices=sorted(ISAS), help="instruction set of fastconv and PyTorch, on some layers")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--passes", nargs="+", default=["fwd"], choices=("fwd", "bwd_data", "bwd_weights"))
    parser.add_argument("--batch", type=int, help="batch size instead of the table's")
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="interleaved rounds (default %(default)s)")
    parser.add_argument("--peers", nargs="+", default=[*HERE, *ELSEWHERE], choices=(*HERE, *ELSEWHERE), metavar="NAME")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has ncnn and MNN"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: benchmarks/results, /partial with --rows")
    options = parser.parse_args()
    options.name = options.isa or (f"batch_{options.batch}" if options.batch else "compare")
    if options.isa:
        options.peers = ["pytorch"]
        options.rows = options.rows or ISA_ROWS
        options.out = options.out or RESULTS
    if options.out is None:
        options.out = RESULTS / "partial" if options.rows else RESULTS
    if options.batch:
        options.rows = options.rows or IMAGE_ROWS
    return options


def load_libraries(options: argparse.Namespace):
    """(libraries that answered, versions, absent name -> reason); fastconv comes first."""
    from benchmarks.peers import ours
    from benchmarks.peers.remote import Remote

    libraries, versions, absent = [ours], ours.versions(), {}
    for name in options.peers:
        try:
            library = (
                importlib.import_module(f"benchmarks.peers.{name}")
                if name in HERE
                else Remote(name, options.peer_python)
            )
            versions |= library.versions()
            libraries.append(library)
        except ImportError as error:
            absent[name] = str(error)
    return libraries, versions, absent


def prepare(libraries, case, which: str, threads: int):
    """(candidates whose output agrees with fastconv's, their errors, name -> why not)."""
    from benchmarks.measure import UnsupportedError, WrongResultError, check

    arrays = case.arrays()
    candidates, errors, left_out, want = {}, {}, {}, None
    for library in libraries:
        for name in library.NAMES:
            try:
                candidate = library.candidate(name, case, which, arrays, threads)
                output = candidate.output()
                want = output if want is None else want
                errors[name] = check(output, want, LIMIT)
            except (UnsupportedError, WrongResultError, RuntimeError) as reason:
                left_out[name] = str(reason)
            else:
                candidates[name] = candidate
        if want is None:  # the first library is fastconv: without it there is nothing to compare
            break
    return candidates, errors, left_out


def measure_row(libraries, case, which: str, threads: int, repeat: int) -> dict:
    """One line of the results; without the key 'measured' if fastconv lacks the op."""
    import fastconv
    from benchmarks.measure import interleave, ratio
    from benchmarks.report import OURS

    with fastconv.no_grad() if which == "fwd" else nullcontext():
        candidates, errors, left_out = prepare(libraries, case, which, threads)
        row = {
            "case": case.name,
            "op": case.op,
            "batch": case.batch,
            "pass": which,
            "threads": threads,
            "left_out": left_out,
        }
        if not candidates:
            return row
        samples = interleave(candidates, repeat)
    measured = {}
    for name, times in samples.items():
        seconds = median(times)
        measured[name] = {"seconds": seconds, "fastest": min(times), "rate": case.rate(seconds), "error": errors[name]}
    ours, peers = [n for n in OURS if n in samples], [n for n in samples if n not in OURS]
    ratios = {name: {peer: ratio(samples[peer], samples[name]) for peer in peers} for name in ours}
    return {**row, "unit": case.unit, "flops": case.flops, "bytes": case.bytes, "measured": measured, "ratios": ratios}


def environment(options: argparse.Namespace) -> dict:
    """Where and when: what a reader needs to judge the numbers."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip()

    changed = " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + changed,
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "malloc": {name: os.environ.get(name) for name in MALLOC},
        "repeat": options.repeat,
    }


def cpu_model() -> str:
    """The processor's name as its maker writes it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Measure, save after every row, and write the report."""
    options = arguments()
    from benchmarks import layers, peak, readme_table, report
    from fastconv import driver

    thread_counts = options.threads or sorted({1, driver.get_num_threads()})
    peaks = [peak.measure(threads) for threads in thread_counts]  # first, so that fastconv chooses its threads freely
    cases = [case.with_batch(options.batch) for case in layers.read() if re.search(options.rows, case.name)]
    libraries, versions, absent = load_libraries(options)
    results = environment(options) | {"threading layer": driver.threading_layer(), "versions": versions}
    results |= {"absent": absent, "peak": [], "not_there_yet": [], "rows": []}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"{options.name}.json"
    work = [(case, which, n) for which in options.passes for n in thread_counts for case in cases]
    work = [(case, which, n) for case, which, n in work if which in case.passes]
    for case, which, threads in progress(work):
        row = measure_row(libraries, case, which, threads, options.repeat)
        if "measured" in row:
            results["rows"].append(row)
        elif threads == thread_counts[0]:
            results["not_there_yet"].append({"case": case.name, "pass": which, "reason": row["left_out"]["fastconv"]})
        save(results, target)
    relate_to_peak(results, [peak.best(before, peak.measure(before.threads)) for before in peaks])
    save(results, target)
    if options.out == RESULTS and options.name == "compare" and results["rows"]:
        readme_table.update(results)
    for path in [target, *(report.write(results, options.out, options.name) if results["rows"] else [])]:
        print(path)


def save(results: dict, target: Path) -> None:
    """After every row: a run that is broken off is not lost."""
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def relate_to_peak(results: dict, peaks: list) -> None:
    """Add the measured peaks and every time's share of them."""
    results["peak"] = [asdict(peak) for peak in peaks]
    limits = {peak.threads: peak for peak in peaks}
    for row in results["rows"]:
        for entry in row["measured"].values():
            entry["share_of_peak"] = limits[row["threads"]].share(entry["rate"], row["unit"])


def progress(work: list):
    """The work with a progress bar on a terminal, without one elsewhere."""
    try:
        from tqdm import tqdm
    except ImportError:
        return work
    return tqdm(work, disable=None, unit="row")


if __name__ == "__main__":
    limits = ISAS.get(arguments().isa, {})
    if any(name not in os.environ for name in MALLOC) or any(os.environ.get(n) != v for n, v in limits.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ, **limits})
    main()
