"""Training to a target: the seconds until a small network is right about 91 % of Fashion-MNIST's test images.

    python benchmarks/training_target.py [--data FOLDER] [--threads 1 2] [--target 0.91] [--seeds 1]

The network of `fastconv train` in fastconv and in PyTorch, from the same first weights, on the same batches in the same
order, with the same steps (SGD with Nesterov momentum, the rate falling along half a cosine).  After every epoch the
test images are judged, which counts.  The libraries take their epochs in turns, so that a busy machine slows both.
FOLDER holds the four IDX files (Debian: dataset-fashion-mnist).  Writes results/training_target.json and .md.
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

BATCH, RATE, MOMENTUM, EPOCHS = 64, 0.05, 0.9, 3
BLOCKS, HIDDEN = ((16, True), (32, True), (64, False)), 128
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
LIBRARIES = ("fastconv", "pytorch", "pytorch_channels_last")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DEBIAN, metavar="FOLDER")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="thread counts; default: 1 and all")
    parser.add_argument("--target", type=float, default=0.91, help="share of test images (default %(default)s)")
    parser.add_argument("--seeds", dest="repeat", type=int, default=1, metavar="N", help="runs from other weights")
    parser.add_argument("--out", type=Path, default=compare.RESULTS, metavar="FOLDER")
    return parser.parse_args()


def rate(step: int, steps: int) -> float:
    """The learning rate of a step."""
    return RATE / 2 * (1 + math.cos(math.pi * step / steps))


class Ours:
    """The network in fastconv."""

    def __init__(self, seed: int):
        import fastconv as fc
        from fastconv.training import small_network

        fc.manual_seed(seed)
        self.fc, self.model = fc, small_network((28, 28), 10, BLOCKS, HIDDEN)
        self.optimizer = fc.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True)

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
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True)

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

    def __init__(self, make, target: float):
        self.network, self.target, self.seconds, self.accuracies = make, target, 0.0, []

    @property
    def arrived(self) -> bool:
        """Whether it is there."""
        return bool(self.accuracies) and self.accuracies[-1] >= self.target

    def epoch(self, data, order, number: int) -> None:
        """All batches, then the test images."""
        start, steps = time.perf_counter(), EPOCHS * (len(order) // BATCH)
        for i in range(len(order) // BATCH):
            some = order[i * BATCH : (i + 1) * BATCH]
            lr = rate(number * (len(order) // BATCH) + i, steps)
            self.network.step(data["images"][some], data["labels"][some], lr)
        tests = data["test_images"], data["test_labels"]
        right = sum(
            self.network.right(*(part[i : i + 500] for part in tests)) for i in range(0, len(data["test_labels"]), 500)
        )
        self.seconds += time.perf_counter() - start
        self.accuracies.append(right / len(data["test_labels"]))


def load(folder: Path) -> dict:
    """Images (N, 1, 28, 28) of mean 0 and deviation 1, and labels."""
    import numpy as np

    from fastconv.data import load_idx_folder

    data = load_idx_folder(folder)
    scaled = [(images[:, None] / np.float32(255) - 0.286) / 0.353 for images in (data.train_images, data.test_images)]
    train, test = (np.ascontiguousarray(images, np.float32) for images in scaled)
    labels = (data.train_labels.astype(np.int64), data.test_labels.astype(np.int64))
    return {"images": train, "labels": labels[0], "test_images": test, "test_labels": labels[1]}


def measure(data, threads: int, seed: int, target: float) -> dict:
    """One run of every library."""
    import numpy as np

    from benchmarks.training import set_threads

    set_threads(threads)
    makers = (lambda: Ours(seed), lambda: Theirs(seed, False), lambda: Theirs(seed, True))
    runs = {name: Run(make(), target) for name, make in zip(LIBRARIES, makers, strict=True)}
    random = np.random.default_rng(seed)
    for number in range(EPOCHS):
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
    lines += [head, "", "| threads | seed | fastconv | PyTorch | channels_last | ratio | accuracies |"]
    lines.append("|" + "---|" * 7)
    for row in results["rows"]:
        runs = [row["results"][name] for name in LIBRARIES]
        times = [f"{run['seconds']:.1f}" if run["arrived"] else f"not in {run['seconds']:.1f}" for run in runs]
        best = min((run["seconds"] for run in runs[1:] if run["arrived"]), default=math.inf)
        shares = "; ".join(", ".join(f"{100 * a:.1f}" for a in run["accuracies"]) for run in runs)
        ratio = f"{best / runs[0]['seconds']:.2f}" if runs[0]["arrived"] else "-"
        lines.append(f"| {row['threads']} | {row['seed']} | {' | '.join(times)} | {ratio} | {shares} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, save after every run, and write the report."""
    options = arguments()
    import fastconv as fc

    data = load(options.data)
    results = compare.environment(options) | {"target": options.target, "rows": []}
    for threads in options.threads or sorted({1, fc.get_num_threads()}):
        for seed in range(options.repeat):
            results["rows"].append(measure(data, threads, seed, options.target))
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "training_target.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            (options.out / "training_target.md").write_text(markdown(results), encoding="utf-8")
    print(options.out / "training_target.md")


if __name__ == "__main__":
    if any(name not in os.environ for name in compare.MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**compare.MALLOC, **os.environ})
    main()
