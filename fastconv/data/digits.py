"""The 1,797 handwritten digits of the UCI repository, embedded here; see README.md for source and licence."""

from pathlib import Path

import numpy as np

TEST_SIZE = 360
INK = 16  # the largest pixel value in the file

_SPLITS = ("train", "test", "all")


def digits(split="train", seed=0):
    """The embedded 8x8 digits.

    split: "train" (1,437 images), "test" (360) or "all".  Test images are drawn class by class, in proportion, from
    `seed`; train and test of one seed never overlap, and each keeps the order of the file.
    Returns images (N, 1, 8, 8) float32 in [0, 1] and labels (N,) int64 in 0..9.
    """
    if split not in _SPLITS:
        raise ValueError(f"digits: split must be one of {', '.join(_SPLITS)}, given {split!r}")
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    images = images[:, None].astype(np.float32) / np.float32(INK)
    if split == "all":
        return images, labels
    held_out = _held_out(labels, seed)
    rows = held_out if split == "test" else ~held_out
    return images[rows], labels[rows]


def _held_out(labels, seed):
    """A mask of TEST_SIZE rows in which every class has its share: whole parts first, then the largest remainders."""
    counts = np.bincount(labels)
    shares = counts * TEST_SIZE / len(labels)
    take = shares.astype(np.int64)
    take[np.argsort(take - shares, kind="stable")[: TEST_SIZE - take.sum()]] += 1
    random = np.random.default_rng(seed)
    mask = np.zeros(len(labels), bool)
    for digit, count in enumerate(take):
        mask[random.permutation(np.flatnonzero(labels == digit))[:count]] = True
    return mask
