"""Training and judging a small classifier: what `fastconv demo` and `fastconv train` share, an example to copy from."""

import hashlib
import math
import time

import numpy as np

from . import functional as F
from . import nn, optim
from ._random import manual_seed
from .autograd import no_grad
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


def fit(model, images, labels, *, epochs, batch_size=32, lr=3e-3, seed=0, shift=0.0, on_step=None):
    """Train `model` with Adam on cross entropy; the learning rate falls to zero along half a cosine.

    images (N, C, H, W) float32; labels (N,) int64; shift: images are moved by up to this many pixels, anew in every
    epoch; on_step(epoch, loss) is called after each batch.  The same model, data and seed give the same weights, bit
    for bit.
    Returns the seconds it took.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, given {epochs}")
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"the learning rate must be positive, given {lr}")
    loader = DataLoader(images, labels, batch_size=batch_size, shuffle=True, seed=seed)
    optimizer = optim.Adam(model.parameters(), lr=lr)
    random = np.random.default_rng((seed, 1))
    manual_seed(seed)  # for layers that draw numbers, such as dropout
    steps, step = epochs * len(loader), 0
    model.train()
    start = time.perf_counter()
    for epoch in range(epochs):
        for batch, wanted in loader:
            for group in optimizer.param_groups:
                group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            if shift:
                batch = random_shift(batch, shift, random)
            loss = F.cross_entropy(model(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if on_step:
                on_step(epoch, float(loss.data))
    return time.perf_counter() - start


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
