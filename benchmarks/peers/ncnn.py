"""ncnn in float32; runs inside worker.py.

Nets are written directly, as a text of one layer and the bytes of its weights.  Parameter numbers are those of ncnn's
operator list (docs/developer-guide/operators.md).
"""

import tempfile
from pathlib import Path

import ncnn
import numpy as np

from ..layers import Case
from ..measure import Candidate, UnsupportedError

NAMES = ("ncnn",)
LAYERS = {
    "conv": "Convolution",
    "conv_transpose": "Deconvolution",
    "deform_conv": "DeformableConv",
    "max_pool": "Pooling",
    "avg_pool": "Pooling",
    "adaptive_avg_pool": "Pooling",
}
# first number of a group of sizes in the order width, height, depth
KERNEL, DILATION, STRIDE = (1, 11, 21), (2, 12, 22), (3, 13, 23)
PAD_BEFORE, PAD_AFTER = (4, 14, 24), (15, 16, 17)
POOL_STRIDE, POOL_BEFORE, POOL_AFTER = (2, 12, 22), (3, 13, 23), (14, 15, 16)


def versions() -> dict[str, str]:
    """Versions for the report."""
    return {"ncnn": ncnn.__version__}


def candidate(name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
    """A net of one layer; it has no batches, so images are run one after the other, as its users do."""
    if which != "fwd":
        raise UnsupportedError("no gradients")
    net = _load(case, arrays, threads)
    names = [key for key in ("x", "offset") if key in arrays]
    images = [{key: ncnn.Mat(arrays[key][n]).clone() for key in names} for n in range(case.batch)]  # a Mat only borrows

    def run() -> list[ncnn.Mat]:
        outputs = []
        for image in images:
            extractor = net.create_extractor()
            for key, mat in image.items():
                extractor.input(key, mat)
            outputs.append(extractor.extract("y")[1])
        return outputs

    return Candidate(run, lambda outputs: np.stack([np.array(mat) for mat in outputs]).reshape(case.shapes["gy"]))


def network(name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
    """Its Python package has no converter, and ncnn reads no other format than its own."""
    raise UnsupportedError("no converter in its Python package")


def _load(case: Case, arrays: dict[str, np.ndarray], threads: int) -> ncnn.Net:
    if case.kind not in LAYERS:
        raise UnsupportedError(f"no layer for {case.op}")
    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    with tempfile.TemporaryDirectory() as folder:
        text, weights = Path(folder, "layer.param"), Path(folder, "layer.bin")
        text.write_text(_text(case), encoding="ascii")
        weights.write_bytes(_weights(case, arrays["w"]) if "w" in arrays else b"")
        if net.load_param(str(text)) or net.load_model(str(weights)):
            raise UnsupportedError("it refuses the layer")
    return net


def _text(case: Case) -> str:
    """The param file: magic number, numbers of layers and blobs, an Input per operand, and the layer."""
    suffix = {1: "1D", 2: "2D" if case.kind == "deform_conv" else "", 3: "3D"}[case.ndim]
    separate = "DepthWise" if case.groups > 1 and case.kind in ("conv", "conv_transpose") else ""
    operands = ["x", "offset"] if case.kind == "deform_conv" else ["x"]
    numbers = _pool_numbers(case) if LAYERS[case.kind] == "Pooling" else _conv_numbers(case)
    lines = [f"Input {name} 0 1 {name}" for name in operands]
    settings = " ".join(f"{key}={value}" for key, value in numbers.items())
    lines.append(f"{LAYERS[case.kind]}{separate}{suffix} layer {len(operands)} 1 {' '.join(operands)} y {settings}")
    return "\n".join(["7767517", f"{len(lines)} {len(operands) + 1}", *lines, ""])


def _spread(keys: tuple[int, ...], values: tuple[int, ...]) -> dict[int, int]:
    """Numbered sizes: ncnn counts dimensions from the last."""
    return dict(zip(keys, reversed(values), strict=False))


def _conv_numbers(case: Case) -> dict[int, int]:
    numbers = {0: case.out_channels, **_spread(KERNEL, case.kernel), **_spread(DILATION, case.dilation)}
    numbers |= _spread(STRIDE, case.stride) | _spread(PAD_BEFORE, case.padding) | _spread(PAD_AFTER, case.padding)
    numbers[6] = int(np.prod(case.shapes["w"]))
    return numbers | ({7: case.groups} if case.groups > 1 else {})


def _pool_numbers(case: Case) -> dict[int, int]:
    if case.kind == "adaptive_avg_pool":
        return {0: 1, 7: 1, **_spread((8, 18, 28), case.kernel)}
    numbers = {0: int(case.kind == "avg_pool"), 5: 1, 6: 1, **_spread(KERNEL, case.kernel)}
    numbers |= _spread(POOL_STRIDE, case.stride)
    return numbers | _spread(POOL_BEFORE, case.padding) | _spread(POOL_AFTER, case.padding)


def _weights(case: Case, w: np.ndarray) -> bytes:
    """A zero that says float32, then the weights; a transposed convolution wants (g, OC/g, IC/g, ...)."""
    if case.kind == "conv_transpose":
        w = w.reshape(case.groups, case.in_channels // case.groups, -1, *case.kernel).swapaxes(1, 2)
    return bytes(4) + np.ascontiguousarray(w, np.float32).tobytes()
