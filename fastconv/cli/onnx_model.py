"""What the commands on ONNX models share: the session, and what goes into it."""

from importlib import import_module
from typing import Any

import numpy as np

from .. import driver
from ..onnx import InferenceSession
from .console import whole_number
from .explain import _sizes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as nearly every classifier wants it


def add_model_arguments(parser):
    parser.add_argument("model", help="an ONNX file")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1x3x224x224",
        help="shape of an input, where the model leaves it open; without NAME= of the only input",
    )
    parser.add_argument("--seed", type=whole_number(0), default=0, help="seed of random inputs (default 0)")
    parser.add_argument("--threads", type=whole_number(1), help="number of threads (default: all cores)")


def open_model(args):
    """The session of the arguments."""
    if args.threads is not None:
        driver.set_num_threads(args.threads)
    return session_of(args.model)


def session_of(path):
    """The session of a file; ValueError where the onnx package is missing."""
    try:
        return InferenceSession(path)
    except ImportError as error:
        raise ValueError(str(error)) from error


def wanted_shapes(session, words):
    """{input: shape}: as the words say, else as the model says, 1 for a batch that is left open."""
    inputs, given = {i.name: i for i in session.get_inputs()}, {}
    for word in words:
        name, _, text = word.rpartition("=")
        name = name or (next(iter(inputs)) if len(inputs) == 1 else "")
        if name not in inputs:
            raise ValueError(f"--shape {word}: wants NAME=SIZES with a NAME of {', '.join(inputs)}")
        given[name] = _sizes("shape", text)
    for name, node in inputs.items():
        if name in given:
            continue
        if node.shape is None or any(not isinstance(n, int) for n in node.shape[1:]):
            raise ValueError(f"input {name} has the shape {node.shape}: say which, --shape {name}=1x3x224x224")
        given[name] = tuple(n if isinstance(n, int) else 1 for n in node.shape)
    return given


def noise(session, shapes, seed):
    """{input: array} of seeded random numbers; whole numbers are zeros."""
    rng, feeds = np.random.default_rng(seed), {}
    for node in session.get_inputs():
        dtype: Any = {"float": "float32", "double": "float64"}.get(node.type[7:-1], node.type[7:-1])
        real = dtype.startswith("float")
        values = rng.standard_normal(shapes[node.name]) if real else np.zeros(shapes[node.name])
        feeds[node.name] = values.astype(dtype)
    return feeds


def from_file(session, path, words):
    """{input: array} of a .npy or .npz file, or of a picture: (pixels / 255 - mean) / std in RGB, as for ImageNet."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as data:
            return dict(data)
    name = session.get_inputs()[0].name
    if path.endswith(".npy"):
        return {name: np.load(path, allow_pickle=False)}
    try:
        picture_of: Any = import_module("PIL.Image").open
    except ImportError as error:
        raise ValueError("reading pictures needs Pillow: pip install pillow") from error
    shape = wanted_shapes(session, words)[name]
    if len(shape) != 4 or shape[1] != 3:
        raise ValueError(f"a picture goes into an input of shape (N, 3, H, W); {name} has {shape}")
    with picture_of(path) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((shape[3], shape[2])), np.float32)
    values = (pixels / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return {name: np.repeat(values.transpose(2, 0, 1)[None], shape[0], 0)}
