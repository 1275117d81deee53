"""Train a small network on a folder of IDX files: MNIST, Fashion-MNIST and their kin.

The folder holds train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte,
each plain or with the ending .gz.
"""

import numpy as np

from ..data import load_idx_folder
from ..training import small_network
from .classifier import train_and_report
from .console import add_training_arguments

BLOCKS = ((16, True), (32, True), (64, False))
HIDDEN = 128


def add_arguments(parser):
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the four IDX files")
    add_training_arguments(parser, epochs=3, batch_size=64, lr=3e-3, out="fastconv-train")


def run(args):
    data = load_idx_folder(args.data)
    classes = int(max(data.train_labels.max(), data.test_labels.max())) + 1
    size = data.train_images.shape[1:]
    train = _scaled(data.train_images), data.train_labels
    test = _scaled(data.test_images), data.test_labels
    train_and_report(lambda: small_network(size, classes, BLOCKS, HIDDEN), train, test, args)


def _scaled(images):
    """(N, H, W) uint8 -> (N, 1, H, W) float32 in [0, 1]."""
    return images[:, None].astype(np.float32) / np.float32(255)
