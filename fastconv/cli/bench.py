"""Time an ONNX model, here and in whatever other runtimes are installed.

Runs alternate between the runtimes, so that a busy machine troubles all of them alike; the median counts.  --profile
shows where the time goes, node by node.
"""

import time
from importlib import import_module
from importlib.util import find_spec
from statistics import median

import numpy as np

from .. import driver
from .console import whole_number
from .onnx_model import add_model_arguments, noise, open_model, wanted_shapes


def add_arguments(parser):
    add_model_arguments(parser)
    parser.add_argument("--repeats", type=whole_number(1), default=20, help="timed runs of each (default 20)")
    parser.add_argument("--profile", action="store_true", help="show the time of every node too")


def run(args):
    started = time.perf_counter()
    session = open_model(args)
    feeds = noise(session, wanted_shapes(session, args.shape), args.seed)
    wanted = session.run(None, feeds)
    print(f"first result after {time.perf_counter() - started:.2f} s, {driver.get_num_threads()} threads")
    runners = {"fastconv": lambda: session.run(None, feeds), **_peers(args.model, feeds)}
    times = {name: [] for name in runners}
    for runner in runners.values():
        runner()
    for _ in range(args.repeats):
        for name, runner in runners.items():
            before = time.perf_counter()
            runner()
            times[name].append((time.perf_counter() - before) * 1e3)
    print(f"{'runtime':14} {'median ms':>10} {'least ms':>10} {'difference':>11}")
    for name, values in times.items():
        print(f"{name:14} {median(values):10.3f} {min(values):10.3f} {_difference(runners[name](), wanted):11.1e}")
    if args.profile and session.network is not None:
        print(session.network.profile(*(feeds[name] for name in session.network.input_names)))


def _difference(got, wanted):
    """The largest difference of any output, relative to its largest element."""
    found = 0.0
    for a, b in zip(got, wanted, strict=True):
        if isinstance(b, np.ndarray) and b.dtype.kind == "f" and b.size and a.shape == b.shape:
            found = max(found, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return found


def _peers(path, feeds):
    """{name: function that runs the model} of the other runtimes."""
    found = {}
    for name, make in {"onnxruntime": _onnxruntime, "openvino": _openvino}.items():
        if find_spec(name):
            try:
                found[name] = make(path, feeds)
                found[name]()
            except Exception as error:  # theirs, of whatever kind: the others are timed all the same
                found.pop(name, None)
                print(f"{name} does not run it: {str(error).strip().splitlines()[0]}")
    return found


def _onnxruntime(path, feeds):
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = driver.get_num_threads()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def _openvino(path, feeds):
    settings = {"INFERENCE_NUM_THREADS": driver.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = import_module("openvino").Core().compile_model(path, "CPU", settings)
    return lambda: [np.asarray(a) for a in compiled(feeds).values()]
