"""How long the kernels of one layer take to compile, and to load from the cache in a later process.

    python benchmarks/compile_time.py [--rows REGEX] [--out FOLDER]

Each layer of shapes/layers.csv is called for the first time in a process whose cache lacks its kernels, and in later
ones that find them; what every first call needs was compiled or loaded by another layer before.  The time of a second
layer with the same weights is taken off.  Writes compile_time.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.compare import RESULTS, cpu_model, progress
from benchmarks.layers import Case, MissingError, read

COMMON = "lp2_128_56"  # a layer whose kernel nothing else uses: what every first call compiles once


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", metavar="REGEX", help="only layers whose name matches")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    parser.add_argument("--one", metavar="LAYER", help=argparse.SUPPRESS)  # what the processes are called with
    return parser.parse_args()


def first_call(case: Case) -> float:
    """Milliseconds that the first evaluation of a layer takes beyond the second, of which both pack the weights."""
    import fastconv as fc

    arrays, times = case.arrays(), []
    try:
        layers = [case.layer(arrays), case.layer(arrays)]
    except MissingError:
        call = case.functional("fwd", arrays)
        layers = [lambda _: call()] * 2
    with fc.no_grad():
        for layer in layers:
            start = perf_counter()
            layer(arrays["x"])
            times.append(1e3 * (perf_counter() - start))
    return times[0] - times[1]


def in_process(name: str, cache: Path) -> float:
    command = [sys.executable, str(Path(__file__)), "--one", name]
    environment = {**os.environ, "FASTCONV_CACHE_DIR": str(cache)}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def measured(name: str, common: Path) -> tuple[float, float]:
    """(milliseconds to compile, milliseconds to load)."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "kernels"
        shutil.copytree(common, cache)
        cold = in_process(name, cache)
        return cold, median(in_process(name, cache) for _ in range(3))


def table(rows: list[tuple[str, float, float]], chosen: str) -> str:
    command = "python benchmarks/compile_time.py" + (f" --rows '{chosen}'" if chosen else "")
    cold, warm = [row[1] for row in rows], [row[2] for row in rows]
    lines = [
        "# Compiling and loading the kernels of one layer",
        "",
        f"{cpu_model()}, Python {sys.version.split()[0]}. `{command}`",
        "",
        f"Compiling: median {median(cold) / 1e3:.1f} s, at most {max(cold) / 1e3:.1f} s; "
        f"loading: median {median(warm):.0f} ms, at most {max(warm):.0f} ms.",
        "",
        "| layer | compile, s | load, ms |",
        "|---|---:|---:|",
        *(f"| {name} | {cold / 1e3:.2f} | {warm:.1f} |" for name, cold, warm in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = arguments()
    cases = {case.name: case for case in read()}
    if options.one:
        first_call(cases[COMMON])
        print(json.dumps(first_call(cases[options.one])))
        return
    names = [name for name in cases if re.search(options.rows, name)]
    with tempfile.TemporaryDirectory() as folder:
        common = Path(folder)
        in_process(COMMON, common)
        rows = [(name, *measured(name, common)) for name in progress(names) if name != COMMON]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "compile_time.md").write_text(table(rows, options.rows))


if __name__ == "__main__":
    main()
