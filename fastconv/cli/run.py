"""Run an ONNX model once and show what comes out.

The input is a picture (with Pillow; resized to the input, normalised as for ImageNet), a .npy file, a .npz file with an
array for each input, or else random numbers.  --top shows the largest scores, --out keeps all outputs in a .npz file.
"""

from typing import Any

import numpy as np

from .console import pairs, whole_number
from .onnx_model import add_model_arguments, from_file, noise, open_model, wanted_shapes


def add_arguments(parser):
    add_model_arguments(parser)
    parser.add_argument("--input", metavar="FILE", help="a picture, .npy or .npz file")
    parser.add_argument("--top", type=whole_number(1), help="show so many of the largest scores of the first output")
    parser.add_argument("--out", metavar="FILE.npz", help="write the outputs to this file")


def run(args):
    session = open_model(args)
    if args.input:
        feeds = from_file(session, args.input, args.shape)
    else:
        feeds = noise(session, wanted_shapes(session, args.shape), args.seed)
    names = [node.name for node in session.get_outputs()]
    results = session.run(None, feeds)
    print(pairs([(name, _described(array)) for name, array in zip(names, results, strict=True)], indent=""))
    if args.top:
        scores = np.asarray(results[0]).reshape(-1)
        for index in np.argsort(-scores, kind="stable")[: args.top]:
            print(f"{index:6d}  {scores[index]:.6g}")
    if args.out:
        arrays: dict[str, Any] = dict(zip(names, results, strict=True))
        np.savez(args.out, **arrays)
        print(f"written to {args.out}")


def _described(value):
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {len(value)}"
    text = f"{value.dtype} {'x'.join(map(str, value.shape)) or 'number'}"
    if value.size and value.dtype.kind in "fiu":
        text += f", {value.min():.6g} to {value.max():.6g}, mean {value.mean(dtype=np.float64):.6g}"
    return text
