"""Compile the kernels of models now, so that later processes find them on disk.

For the time when a container image is built: the models (ONNX files, or names of `fastconv models`) run once, and what
they needed is in the cache.  Without a model, the kernels of two usual networks are made.
"""

import os
import time

import numpy as np

from .. import driver
from ..infer import compile as compile_network
from ..models import NETWORKS, get_model
from .console import whole_number
from .explain import _sizes
from .onnx_model import noise, session_of, wanted_shapes

USUAL = ("resnet18", "mobilenet_v2")


def add_arguments(parser):
    parser.add_argument("models", nargs="*", help=f"ONNX files, or names of networks (default {' '.join(USUAL)})")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1x3x224x224", help="shape of an input, as for run"
    )
    parser.add_argument("--threads", type=whole_number(1), help="number of threads (default: all cores)")


def run(args):
    if args.threads is not None:
        driver.set_num_threads(args.threads)
    for model in args.models or USUAL:
        started = time.perf_counter()
        if model in NETWORKS and not os.path.exists(model):
            shape = (1, *NETWORKS[model].input_shape) if not args.shape else _sizes("shape", args.shape[0])
            x = np.zeros(shape, np.float32)
            compile_network(get_model(model), x, check=False)(x)
        else:
            session = session_of(model)
            session.run(None, noise(session, wanted_shapes(session, args.shape), 0))
        print(f"{model}: {time.perf_counter() - started:.1f} s")
