"""Train a small network on a folder of IDX files: MNIST, Fashion-MNIST and their kin.

The folder holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
each plain or with the ending .gz.  The results go to a folder: weights, checkpoint.npz (after each epoch, every minute
and on Ctrl-C; --resume goes on from it to the same bits), log.json and, with matplotlib, the learning curve.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..data import load_idx_folder
from ..state import load_state
from ..training import small_network
from .classifier import named_network, resized, train_and_report
from .console import add_training_arguments, positive_number, whole_number

BLOCKS = ((16, True), (32, True), (64, False))
HIDDEN = 128


def add_arguments(parser):
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the four IDX files")
    add_training_arguments(parser, epochs=3, batch_size=64, lr=3e-3, out="fastconv-train")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder of the results")
    parser.add_argument(
        "--validation", type=positive_number, metavar="SHARE", help="hold out this share of the training images (0.1)"
    )
    parser.add_argument(
        "--patience", type=whole_number(1), metavar="EPOCHS", help="stop after so many epochs without a better accuracy"
        " on the held-out share, and keep the best"
    )  # fmt: skip


def run(args):
    data = load_idx_folder(args.data)
    classes = int(max(data.train_labels.max(), data.test_labels.max())) + 1
    size = args.size or (32 if args.model else None)
    train = resized(_scaled(data.train_images), size), data.train_labels
    test = resized(_scaled(data.test_images), size), data.test_labels
    shape = train[0].shape[2:]
    train, validation = _held_out(train, args)
    folder = Path(args.out)
    records = _logged(folder / "checkpoint.npz") if args.resume else []

    def build():
        return named_network(args.model, 1, classes) if args.model else small_network(shape, classes, BLOCKS, HIDDEN)

    def log(record):
        records.append(record)
        _write_log(folder / "log.json", args, records)

    recipe = {"validation": validation, "patience": args.patience, "checkpoint": folder / "checkpoint.npz"}
    try:
        result = train_and_report(build, train, test, args, recipe={**recipe, "resume": args.resume, "on_epoch": log})
    except KeyboardInterrupt:
        print(f"interrupted; --resume goes on from {folder / 'checkpoint.npz'}")
        raise
    _write_log(folder / "log.json", args, result.history.epochs)
    if result.history.stopped_early:
        print(f"stopped early: epoch {result.history.best} was the best")
    print(f"log          {folder / 'log.json'}")
    if find_spec("matplotlib"):
        from ..plot import learning_curve

        learning_curve(folder / "learning_curve.png", result.history.epochs)
        print(f"picture      {folder / 'learning_curve.png'}")


def _held_out(train, args):
    """(training images and labels, validation images and labels or None); which ones is drawn from the seed."""
    share = args.validation or (0.1 if args.patience else None)
    if share is None:
        return train, None
    if share >= 1:
        raise ValueError(f"--validation must be below 1, given {share}")
    images, labels = train
    order = np.random.default_rng((args.seed, 2)).permutation(len(images))
    held = max(1, round(share * len(images)))
    return tuple((images[rows], labels[rows]) for rows in (order[held:], order[:held]))


def _logged(checkpoint):
    """The epochs that a checkpoint has seen."""
    if not checkpoint.exists():
        raise FileNotFoundError(f"there is no checkpoint to go on from: {checkpoint}")
    about = load_state(checkpoint).get("about")
    return [] if about is None else json.loads(about.tobytes())["progress"]["records"]


def _write_log(path, args, records):
    """All epochs so far, written whole or not at all."""
    settings = {name: getattr(args, name) for name in ("model", "epochs", "batch_size", "lr", "seed", "patience")}
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps({"settings": settings, "epochs": records}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _scaled(images):
    """(N, H, W) uint8 -> (N, 1, H, W) float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)
