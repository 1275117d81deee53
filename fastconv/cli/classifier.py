"""Train a classifier, judge it on held-out images, save it, load it back: the common part of `demo` and `train`."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import driver
from .. import functional as F
from .._random import manual_seed
from ..models import get_model
from ..state import load_state, save_state
from ..training import History, confusion_matrix, fit, predict, weights_digest, with_channels
from .console import matrix, pairs, progress


class Result(NamedTuple):
    """What a run leaves: the model as loaded back from its file, the predicted classes, the confusion matrix, the
    folder, and what happened epoch by epoch."""

    model: object
    predicted: np.ndarray
    confusion: np.ndarray
    folder: Path
    history: History


def named_network(name, channels, classes):
    """A network of `fc.models` for images of so many channels."""
    settings = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        settings["aux_logits"] = False
    return with_channels(get_model(name, **settings), channels)


def resized(images, size):
    """Images (N, C, H, W) made size x size, in pieces; as they are where size is None."""
    if size is None or images.shape[2:] == (size, size):
        return images
    pieces = [F.interpolate(images[i : i + 1024], (size, size), mode="bilinear") for i in range(0, len(images), 1024)]
    return np.concatenate(pieces)


def train_and_report(build, train, test, args, shift=0.0, recipe=None):
    """Train the network that `build()` makes on train = (images, labels), report on test, save its weights.

    args has epochs, batch_size, lr, seed, threads (None: as it is) and out (a folder); recipe: further arguments of
    `fit`.
    """
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)  # a folder that can't be written should be known before the training
    if args.threads is not None:
        driver.set_num_threads(args.threads)
    manual_seed(args.seed)
    model = build()
    history = _train(model, train, args, shift, recipe or {})
    images, labels = test
    scores = predict(model, images)
    predicted = scores.argmax(1)
    confusion = confusion_matrix(labels, predicted, scores.shape[1])
    right = int(np.trace(confusion))
    print(f"held-out accuracy {100 * right / len(labels):.2f} % ({right:,} of {len(labels):,})")
    print(matrix(confusion, "true\\as"))
    print(f"speed: {_speed(model, images)}")
    loaded = _save_and_load(model, build, scores, images, folder)
    return Result(loaded, predicted, confusion, folder, history)


def _train(model, train, args, shift, recipe):
    images, labels = train
    numbers = sum(parameter.data.size for parameter in model.parameters())
    print(
        f"training {numbers:,} weights on {len(images):,} images, {args.epochs} epochs, batches of {args.batch_size}, "
        f"{driver.get_num_threads()} threads, seed {args.seed}"
    )
    steps = args.epochs * -(-len(images) // args.batch_size)
    with progress(steps, "batch") as advance:
        history = fit(
            model,
            images,
            labels,
            epochs=args.epochs,
            batch_size=args.batch_size,
            lr=args.lr,
            seed=args.seed,
            shift=shift,
            on_step=lambda epoch, loss: advance(f"epoch {epoch + 1} loss {loss:.3f}"),
            **recipe,
        )
    seconds = history.seconds
    print(f"trained in {seconds:.1f} s ({args.epochs * len(images) / seconds:,.0f} images per second)")
    return history


def _speed(model, images, seconds=0.5):
    """Images per second in batches and one by one, each measured for about `seconds`."""
    rates = []
    for batch_size in (256, 1):
        some = images[: 64 * batch_size]
        predict(model, images[:batch_size], batch_size)  # kernels for this batch size are compiled
        times = []
        while sum(times) < seconds:
            start = time.perf_counter()
            predict(model, some, batch_size)
            times.append(time.perf_counter() - start)
        rates.append(len(some) / np.median(times))
    return f"{rates[0]:,.0f} images per second in batches of 256, {rates[1]:,.0f} one by one"


def _save_and_load(model, build, scores, images, folder):
    """Write the weights, read them into a new model and check that it gives the same scores."""
    path = folder / ("weights.safetensors" if find_spec("safetensors") else "weights.npz")
    save_state(model.state_dict(), path)
    loaded = build()
    loaded.load_state_dict(load_state(path))
    if not np.array_equal(predict(loaded, images), scores):
        raise RuntimeError(f"the weights read back from {path} give other predictions")
    digest = weights_digest(loaded.state_dict())
    print(pairs([("weights", path), ("sha256", digest), ("loaded back", "same predictions, bit for bit")], indent=""))
    return loaded
