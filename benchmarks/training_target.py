"""Training to a target: the seconds until a small network is right about 91 % of Fashion-MNIST's test images.

    python benchmarks/training_target.py [--data FOLDER] [--threads 1 2] [--target 0.91] [--seeds 1] [--epochs 4]

The network of `fastconv train` in fastconv and in PyTorch, from the same first weights, on the same batches in the same
order, with the same steps (SGD with Nesterov momentum; in one cycle the rate rises for a quarter of all epochs and
falls along half a cosine).  After every epoch the test images are judged, which counts.  The libraries take their
epochs in turns, so that a busy machine slows all of them.  FOLDER holds the four IDX files (Debian:
dataset-fashion-mnist).  Writes results/training_target.json, .md and .png.
"""

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(ROOT)

from benchmarks import compare  # noqa: E402

BATCH, RATE, MOMENTUM, DECAY, RISE = 128, 0.1, 0.9, 5e-4, 0.25
OPTIONS = {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, "nesterov": True}
BLOCKS, HIDDEN = ((16, True), (32, True), (64, False)), 128
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LIBRARIES = ("fastconv", "pytorch", "pytorch_channels_last")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DEBIAN, metavar="FOLDER")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--target", type=float, default=0.91, help="share of test images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of the cycle (default %(default)s)")
    parser.add_argument("--images", type=int, metavar="N", help="train on the first N only, to try the program")
    parser.add_argument("--seeds", dest="repeat", type=int, default=1, metavar="N", help="runs from other weights")
    parser.add_argument("--out", type=Path, default=compare.RESULTS, metavar="FOLDER")
    return parser.parse_args()


def rate(step: int, steps: int) -> float:
    """The learning rate of a step: one cycle (Smith and Topin 2017, arXiv:1708.07120), up from a tenth."""
    done = step / steps
    if done < RISE:
        return RATE * (0.1 + 0.9 * done / RISE)
    return RATE / 2 * (1 + math.cos(math.pi * (done - RISE) / (1 - RISE)))


class Ours:
    """The network in fastconv."""

    def __init__(self, seed: int):
        import fastconv as fc
        from fastconv.training import small_network

        fc.manual_seed(seed)
        self.fc, self.model = fc, small_network((28, 28), 10, BLOCKS, HIDDEN)
        self.optimizer = fc.optim.SGD(self.model.parameters(), **OPTIONS)

    def step(self, images, labels, lr: float) -> None:
        """One batch."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        self.fc.functional.cross_entropy(self.model(self.fc.Tensor(images)), labels).backward()
        self.optimizer.step()

    def right(self, images, labels) -> int:
        """How many it gets right."""
        self.model.eval()
        with self.fc.no_grad():
            answers = self.model(images).argmax(1)
        self.model.train()
        return int((answers == labels).sum())


class Theirs:
    """The same in PyTorch, from the weights of `Ours`."""

    def __init__(self, seed: int, channels_last: bool):
        import torch

        nn, layers, channels, side = torch.nn, [], 1, 28
        for wide, pool in BLOCKS:
            layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * pool
            channels, side = wide, side // 2 if pool else side
        layers += [nn.Flatten(), nn.Linear(channels * side * side, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)]
        self.torch, self.model = torch, nn.Sequential(*layers)
        self.model.load_state_dict({k: torch.tensor(v) for k, v in Ours(seed).model.state_dict().items()})
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = self.model.to(memory_format=self.layout)
        self.optimizer = torch.optim.SGD(self.model.parameters(), **OPTIONS)

    def step(self, images, labels, lr: float) -> None:
        """One batch."""
        torch = self.torch
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad()
        x = torch.from_numpy(images).contiguous(memory_format=self.layout)
        torch.nn.functional.cross_entropy(self.model(x), torch.from_numpy(labels)).backward()
        self.optimizer.step()

    def right(self, images, labels) -> int:
        """How many it gets right."""
        self.model.eval()
        with self.torch.no_grad():
            answers = self.model(self.torch.from_numpy(images)).argmax(1).numpy()
        self.model.train()
        return int((answers == labels).sum())


class Run:
    """One library on its way: seconds and accuracy after each epoch."""

    def __init__(self, make, target: float, epochs: int):
        self.network, self.target, self.epochs = make, target, epochs
        self.seconds: list[float] = []
        self.accuracies: list[float] = []

    @property
    def arrived(self) -> bool:
        """Whether it is there."""
        return bool(self.accuracies) and self.accuracies[-1] >= self.target

    def epoch(self, data, order, number: int) -> None:
        """All batches, then the test images."""
        start, steps = time.perf_counter(), self.epochs * (len(order) // BATCH)
        for i in range(len(order) // BATCH):
            some = order[i * BATCH : (i + 1) * BATCH]
            lr = rate(number * (len(order) // BATCH) + i, steps)
            self.network.step(data["images"][some], data["labels"][some], lr)
        tests = data["test_images"], data["test_labels"]
        right = sum(
            self.network.right(*(part[i : i + 500] for part in tests)) for i in range(0, len(data["test_labels"]), 500)
        )
        self.seconds.append(time.perf_counter() - start)
        self.accuracies.append(right / len(data["test_labels"]))


def load(folder: Path, most: int | None = None) -> dict:
    """Images (N, 1, 28, 28) of mean 0 and deviation 1, and labels; most: of those to train on."""
    import numpy as np

    from fastconv.data import load_idx_folder

    data = load_idx_folder(folder)
    scaled = [(images[:, None] / np.float32(255) - 0.286) / 0.353 for images in (data.train_images, data.test_images)]
    train, test = (np.ascontiguousarray(images, np.float32) for images in scaled)
    labels = (data.train_labels.astype(np.int64), data.test_labels.astype(np.int64))
    return {"images": train[:most], "labels": labels[0][:most], "test_images": test, "test_labels": labels[1]}


def measure(data, threads: int, seed: int, target: float, epochs: int) -> dict:
    """One run of every library."""
    import numpy as np

    from benchmarks.training import set_threads

    set_threads(threads)
    makers = (lambda: Ours(seed), lambda: Theirs(seed, False), lambda: Theirs(seed, True))
    runs = {name: Run(make(), target, epochs) for name, make in zip(LIBRARIES, makers, strict=True)}
    random = np.random.default_rng(seed)
    for number in range(epochs):
        order = random.permutation(len(data["labels"]))
        for run in runs.values():
            if not run.arrived:
                run.epoch(data, order, number)
    results = {
        name: {"seconds": run.seconds, "accuracies": run.accuracies, "arrived": run.arrived}
        for name, run in runs.items()
    }
    return {"threads": threads, "seed": seed, "results": results}


def markdown(results: dict) -> str:
    """The report."""
    head = f"{results['cpu']}, {results['date'][:10]}, commit {results['commit']}"
    lines = [f"# Fashion-MNIST to {100 * results['target']:.0f} %: seconds, test images after each epoch included", ""]
    lines += [head, "", f"{results['images']} images in batches of {BATCH}, a cycle of {results['epochs']} epochs.", ""]
    lines += ["| threads | seed | fastconv | PyTorch | channels_last | ratio | accuracies |", "|" + "---|" * 7]
    for row in results["rows"]:
        runs = [row["results"][name] for name in LIBRARIES]
        totals = [sum(run["seconds"]) for run in runs]
        times = [f"{t:.1f}" if run["arrived"] else f"not in {t:.1f}" for run, t in zip(runs, totals, strict=True)]
        best = min((t for run, t in zip(runs[1:], totals[1:], strict=True) if run["arrived"]), default=math.inf)
        shares = "; ".join(", ".join(f"{100 * a:.1f}" for a in run["accuracies"]) for run in runs)
        ratio = f"{best / totals[0]:.2f}" if runs[0]["arrived"] else "-"
        lines.append(f"| {row['threads']} | {row['seed']} | {' | '.join(times)} | {ratio} | {shares} |")
    return "\n".join(lines) + "\n"


def plot(results: dict, path: Path) -> None:
    """Accuracy against seconds, a panel for each thread count."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = sorted({row["threads"] for row in results["rows"]})
    figure, axes = plt.subplots(1, len(counts), figsize=(4.4 * len(counts), 3.4), squeeze=False, layout="constrained")
    for axis, threads in zip(axes[0], counts, strict=True):
        for row in (row for row in results["rows"] if row["threads"] == threads):
            for name, marker, shade in zip(LIBRARIES, "osD", ("0.0", "0.45", "0.7"), strict=True):
                run, label = row["results"][name], name.replace("_", " ") if row["seed"] == 0 else None
                seconds = [sum(run["seconds"][: i + 1]) for i in range(len(run["seconds"]))]
                shares = [100 * share for share in run["accuracies"]]
                axis.plot(seconds, shares, marker=marker, color=shade, label=label)
        axis.axhline(100 * results["target"], color="0.0", linewidth=0.8, linestyle=":")
        axis.set_title(f"{threads} thread{'s' * (threads > 1)}")
        axis.set_xlim(left=0)
        axis.grid(True, color="0.87", linewidth=0.6)
    axes[0, 0].legend(frameon=False, loc="lower right")
    figure.supxlabel("seconds, training and judging")
    figure.supylabel("test images right, %")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, save after every run, and write the report."""
    options = arguments()
    import fastconv as fc

    data = load(options.data, options.images)
    results = compare.environment(options) | {"target": options.target, "epochs": options.epochs}
    results |= {"images": len(data["labels"]), "rows": []}
    for threads in options.threads or sorted({1, fc.get_num_threads()}):
        for seed in range(options.repeat):
            results["rows"].append(measure(data, threads, seed, options.target, options.epochs))
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "training_target.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            (options.out / "training_target.md").write_text(markdown(results), encoding="utf-8")
            plot(results, options.out / "training_target.png")
    print(options.out / "training_target.md")


if __name__ == "__main__":
    if any(name not in os.environ for name in compare.MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**compare.MALLOC, **os.environ})
    main()
