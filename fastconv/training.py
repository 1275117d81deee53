"""Training and judging a small classifier: what `fastconv demo` and `fastconv train` share, an example to copy from."""

import hashlib
import math
import time
from functools import reduce
from itertools import islice
from typing import NamedTuple

import numpy as np

from . import functional as F
from . import nn, optim
from ._random import manual_seed
from .autograd import no_grad
from .checkpoint import interrupts_wait, load_checkpoint, save_checkpoint
from .data import DataLoader, random_shift


def small_network(size, classes, blocks, hidden):
    """A LeNet-like classifier of one-channel images: convolution blocks, then two linear layers.

    size: (height, width); blocks: (channels, pool) for each block: 3x3 convolution, batch norm, ReLU, and a 2x2 maximum
    if `pool`;
    hidden: width of the first linear layer.
    """
    layers, channels = [], 1
    height, width = size
    for wide, pool in blocks:
        layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.BatchNorm2d(wide), nn.ReLU()]
        channels = wide
        if pool:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
    if min(height, width) < 1:
        raise ValueError(f"images of {size[0]}x{size[1]} are too small for {sum(pool for _, pool in blocks)} poolings")
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


class History(NamedTuple):
    """What a training run did: seconds (of this call), a record for each epoch, the best epoch where a validation set
    was given, and whether it stopped early."""

    seconds: float
    epochs: list
    best: int | None
    stopped_early: bool


def fit(
    model, images, labels, *, epochs, batch_size=32, lr=3e-3, seed=0, shift=0.0, validation=None, patience=None,
    checkpoint=None, resume=False, on_step=None, on_epoch=None,
):  # fmt: skip
    """Train `model` with Adam on cross entropy; the learning rate falls to zero along half a cosine.

    images (N, C, H, W) float32; labels (N,) int64; shift: images are moved by up to this many pixels, anew in every
    epoch.  validation: (images, labels), judged after each epoch; patience: after so many epochs without a better
    validation accuracy training stops, and the best epoch's weights return.
    checkpoint: an .npz file, written after each epoch, every minute, and when Ctrl-C or SIGTERM ends the run after the
    current step (KeyboardInterrupt); with `resume` the run goes on from there and ends with the same bits as one that
    was never interrupted.
    on_step(epoch, loss) is called after each batch, on_epoch(record) after each epoch.

    The same model, data and seed give the same weights, bit for bit.  Returns a History.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, given {epochs}")
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"the learning rate must be positive, given {lr}")
    if patience is not None and (patience < 1 or validation is None):
        raise ValueError(f"patience must be at least 1 and needs a validation set, given {patience}")
    if resume and checkpoint is None:
        raise ValueError("resume needs the checkpoint to go on from, given none")
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed, "shift": shift}
    settings |= {"samples": len(images), "patience": patience}
    manual_seed(seed)  # for layers that draw numbers, such as dropout
    run = _Run(model, DataLoader(images, labels, batch_size=batch_size, shuffle=True, seed=seed), settings, checkpoint)
    if resume:
        run.load()
    start = time.perf_counter()
    with interrupts_wait() as asked:
        while run.epoch < epochs and not run.out_of_patience():
            run.one_epoch(asked, on_step)
            run.judge(validation)
            run.save()
            if on_epoch:
                on_epoch(run.records[-1])
    if patience is not None and run.best_weights is not None:
        model.load_state_dict(run.best_weights)
    return History(time.perf_counter() - start, run.records, run.best_epoch, run.epoch < epochs)


SAVE_SECONDS = 60


class _Run:
    """Where a training run stands: `epoch` epochs and `batch` batches of the next one are done."""

    def __init__(self, model, loader, settings, checkpoint):
        self.model, self.loader, self.settings, self.checkpoint = model, loader, settings, checkpoint
        self.optimizer = optim.Adam(model.parameters(), lr=settings["lr"])
        self.random = np.random.default_rng((settings["seed"], 1))
        self.epoch, self.batch, self.loss, self.records = 0, 0, 0.0, []
        self.best_epoch, self.best_weights, self.saved = None, None, time.monotonic()

    def one_epoch(self, asked, on_step):
        """The rest of the current epoch; KeyboardInterrupt after a step, if asked for."""
        self.model.train()
        self.loader.epoch = self.epoch
        for batch, wanted in islice(self.loader, self.batch, None):
            loss = self.step(batch, wanted)
            if on_step:
                on_step(self.epoch, loss)
            if asked.signal is not None:
                self.save()
                raise KeyboardInterrupt
            if time.monotonic() - self.saved > SAVE_SECONDS:
                self.save()
        self.epoch, self.batch = self.epoch + 1, 0

    def step(self, batch, wanted):
        done, steps = self.epoch * len(self.loader) + self.batch, self.settings["epochs"] * len(self.loader)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings["lr"] * 0.5 * (1 + math.cos(math.pi * done / steps))
        if self.settings["shift"]:
            batch = random_shift(batch, self.settings["shift"], self.random)
        loss = F.cross_entropy(self.model(batch), wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.batch += 1
        self.loss += float(loss.data) * len(wanted)
        return float(loss.data)

    def judge(self, validation):
        """The record of the epoch that has ended."""
        record = {"epoch": self.epoch, "loss": self.loss / self.settings["samples"]}
        self.loss = 0.0
        if validation is not None:
            right = predict(self.model, validation[0]).argmax(1) == validation[1]
            record["validation_accuracy"] = float(right.mean())
            accuracies = [one["validation_accuracy"] for one in self.records]
            if record["validation_accuracy"] > max(accuracies, default=-1.0):
                self.best_epoch = self.epoch
                if self.settings["patience"] is not None:
                    self.best_weights = {name: array.copy() for name, array in self.model.state_dict().items()}
        self.records.append(record)

    def out_of_patience(self):
        patience = self.settings["patience"]
        return patience is not None and self.best_epoch is not None and self.epoch - self.best_epoch >= patience

    def save(self):
        if self.checkpoint is None:
            return
        progress = {
            name: getattr(self, name) for name in ("settings", "epoch", "batch", "loss", "records", "best_epoch")
        }
        progress["random"] = self.random.bit_generator.state
        save_checkpoint(self.checkpoint, self.model, self.optimizer, progress, self.best_weights)
        self.saved = time.monotonic()

    def load(self):
        progress, self.best_weights = load_checkpoint(self.checkpoint, self.model, self.optimizer)
        given, wanted = self.settings, progress.pop("settings")
        if given != wanted:
            other = [f"{name} {given.get(name)}, the checkpoint has {wanted[name]}" for name in wanted]
            other = [text for text, name in zip(other, wanted, strict=True) if given.get(name) != wanted[name]]
            raise ValueError(f"{self.checkpoint} belongs to another run: given {'; '.join(other)}")
        self.random.bit_generator.state = progress.pop("random")
        for name, value in progress.items():
            setattr(self, name, value)


def predict(model, images, batch_size=256):
    """The scores (N, classes) that the model in evaluation mode gives to images (N, C, H, W)."""
    model.eval()
    with no_grad():
        return np.concatenate([model(batch) for batch in DataLoader(images, batch_size=batch_size)])


def confusion_matrix(labels, predicted, classes):
    """(classes, classes) int64: how often each label (row) was predicted as each class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def weights_digest(state):
    """The sha256 of a state dict (name -> array): names, dtypes, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def with_channels(model, channels):
    """`model`, its first 2-d convolution made anew for images of so many channels, if it has another number."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                settings = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "padding_mode")}
                new = nn.Conv2d(
                    channels, module.out_channels, module.kernel_size, bias=module.bias is not None, **settings
                )
                *parents, name = path.split(".")
                setattr(reduce(getattr, parents, model), name, new)
            return model
    raise ValueError("with_channels: the network has no 2-d convolution")
