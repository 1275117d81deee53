"""A long training run in float32 beside the same network in float64: 20 epochs of the embedded digits.

    python benchmarks/training_digits.py [--epochs 20] [--seeds 3]

Same first weights, batches and steps; what rounding, Winograd's transforms included, does to the accuracy is less than
what another seed does.  Prints the test images that each gets right.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)


def cast(model, dtype) -> None:
    """All parameters and statistics of the model in another dtype."""
    import fastconv as fc

    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                setattr(module, name, fc.nn.Parameter(p.data.astype(dtype)))
        for name, b in module._buffers.items():
            if b is not None and b.dtype.kind == "f":
                setattr(module, name, b.astype(dtype))


def right(dtype: str, seed: int, epochs: int) -> int:
    """How many test images a network gets right after training."""
    import fastconv as fc
    from fastconv.data import digits
    from fastconv.training import fit, predict, small_network

    fc.manual_seed(seed)
    model = small_network((8, 8), 10, ((8, True), (16, False)), 24)
    cast(model, dtype)
    (images, labels), (tests, wanted) = digits("train"), digits("test")
    fit(model, images.astype(dtype), labels, epochs=epochs, batch_size=32, lr=3e-3, seed=seed)
    return int((predict(model, tests.astype(dtype)).argmax(1) == wanted).sum())


def main() -> None:
    """Train in both dtypes for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, metavar="N")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    from fastconv.data import digits

    count = len(digits("test")[1])
    for seed in range(options.seeds):
        single, double = (right(dtype, seed, options.epochs) for dtype in ("float32", "float64"))
        print(f"seed {seed}: float32 {single}, float64 {double} of {count}")


if __name__ == "__main__":
    main()
