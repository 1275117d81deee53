"""Compiled networks against other libraries: interleaved in one process, medians of ratios.

    python benchmarks/networks.py [--networks REGEX] [--threads 1 2] [--batch 1 8] [--repeat 9] [--quick]
                                  [--peer-python PATH]

Writes networks.json, networks.md and networks.png into benchmarks/results.  What a run does not measure is kept from
runs before it, so that a part can be measured anew.  benchmarks/README.md says how times are taken, and why so.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)

RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 3e-2  # of the output's RMS, as for layers
# name -> input of one image, where it is not the network's own
NETWORKS = {
    **dict.fromkeys(("alexnet", "vgg16", "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2")),
    **dict.fromkeys(("mobilenet_v3_small", "shufflenet_v1_g3", "shufflenet_v2_x1_0", "squeezenet1_0", "densenet121")),
    **dict.fromkeys(("googlenet", "inception_v3", "efficientnet_b0", "convnext_tiny")),
    "deeplabv3_mobilenet_v3_large": (3, 256, 256),
    "r3d_18": (3, 8, 112, 112),
}
QUICK = ("mobilenet_v2", "resnet18")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", default="", metavar="REGEX", help="only networks whose name matches")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="default %(default)s")
    parser.add_argument("--repeat", type=int, default=9, metavar="N", help="interleaved rounds (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, one image, three rounds")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="default: all that are installed")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has MNN")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    options = parser.parse_args()
    if options.quick:
        options.batch, options.repeat = [1], 3
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """The names to measure; ValueError if none matches."""
    names = [name for name in (QUICK if options.quick else NETWORKS) if re.search(options.networks, name)]
    if not names:
        raise ValueError(f"--networks {options.networks!r} matches none of {', '.join(NETWORKS)}")
    return names


def prepare(libraries, model: tuple, path: Path, x, threads: int):
    """(candidates whose output agrees with fastconv's, their errors, name -> why not)."""
    from benchmarks.measure import UnsupportedError, WrongResultError, check

    candidates, errors, left_out, want = {}, {}, {}, None
    for library in libraries:
        for name in library.NAMES:
            try:
                candidate = library.network(name, model, str(path), x, threads)
                output = candidate.output()
                want = output.copy() if want is None else want
                errors[name] = check(output, want, LIMIT)
            except (UnsupportedError, WrongResultError, RuntimeError, ImportError) as reason:
                left_out[name] = str(reason)
            else:
                candidates[name] = candidate
    left_out.pop("fastconv_layer", None)
    return candidates, errors, left_out


def measure(libraries, model: tuple, path: Path, x, threads: int, repeat: int) -> dict:
    """One line of the results."""
    from benchmarks.measure import interleave, ratio

    candidates, errors, left_out = prepare(libraries, model, path, x, threads)
    samples = interleave(candidates, repeat)
    measured = {
        key: {"seconds": median(times), "fastest": min(times), "error": errors[key]} for key, times in samples.items()
    }
    ratios = {key: ratio(samples[key], samples["fastconv"]) for key in samples if key != "fastconv"}
    row = {"network": model[0], "batch": len(x), "threads": threads, "shape": list(x.shape[1:])}
    return {**row, "measured": measured, "ratios": ratios, "left_out": left_out}


def example(name: str, batch: int):
    """((name, weights, module), input): the same weights for all libraries."""
    import numpy as np

    import fastconv as fc

    model = fc.models.get_model(name)
    model.eval()
    settle(model)
    shape = NETWORKS[name] or fc.models.NETWORKS[name].input_shape
    x = np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)
    return (name, model.state_dict(), model), x


def settle(model) -> None:
    """Statistics of batch norm that are not those of a fresh layer; seeded, so that every run has the same."""
    import numpy as np

    rng = np.random.default_rng(1)
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer[...] = rng.uniform(0.8, 1.2, buffer.shape)
        elif key.endswith("running_mean"):
            buffer[...] = rng.normal(0, 0.1, buffer.shape)


def merged(before: dict, results: dict) -> dict:
    """The results with the rows of a run before that this one did not measure anew."""
    keys = {row_key(row) for row in results["rows"]}
    rows = [row for row in before.get("rows", []) if row_key(row) not in keys] + results["rows"]
    order = {name: i for i, name in enumerate(NETWORKS)}
    rows.sort(key=lambda row: (row["batch"], row["threads"], order.get(row["network"], len(order))))
    return {**results, "rows": rows}


def row_key(row: dict) -> tuple:
    """What two rows of one thing have in common."""
    return row["network"], row["batch"], row["threads"]


def main() -> None:
    """Measure, save after every row, and write the report."""
    options = arguments()
    options.rows, options.passes = options.networks, ["fwd"]
    options.peers = options.peers or ["pytorch", "onnxruntime", "openvino", "mnn", "ncnn"]
    names = chosen(options)
    import fastconv.onnx
    from benchmarks import compare, networks_report, peak
    from fastconv import driver

    threads = options.threads or sorted({1, driver.get_num_threads()})
    for count in threads:  # first, so that fastconv chooses its threads freely
        peak.measure(count)
    libraries, versions, absent = compare.load_libraries(options)
    results = compare.environment(options) | {"threading layer": driver.threading_layer(), "versions": versions}
    results |= {"absent": absent, "rows": []}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "networks.json"
    before = json.loads(target.read_text()) if target.exists() else {}
    for name, batch in compare.progress([(name, batch) for batch in options.batch for name in names]):
        model, x = example(name, batch)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "network.onnx")
            fastconv.onnx.export(model[2], path, x)
            for count in threads:
                row = measure(libraries, model, path, x, count, options.repeat)
                results["rows"].append({**row, "date": results["date"], "commit": results["commit"]})
                compare.save(merged(before, results), target)
    for path in (target, *networks_report.write(merged(before, results), options.out)):
        print(path)


if __name__ == "__main__":
    from benchmarks.compare import MALLOC

    if any(name not in os.environ for name in MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    main()
