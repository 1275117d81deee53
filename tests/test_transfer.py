"""Transfer learning: a frozen network with a new head beats the same network trained from nothing on few samples."""

import numpy as np

import fastconv as fc
from fastconv import nn
from fastconv.data import digits
from fastconv.training import fit, predict, small_network

BLOCKS, HIDDEN = ((16, False), (32, True), (32, True)), 64


def one_of_each(labels, seed):
    random = np.random.default_rng(seed)
    return np.array([random.permutation(np.flatnonzero(labels == c))[0] for c in range(10)])


def test_mirrored_digits_from_digits(tmp_path):
    """Source: digits.  Target: other digits, seen in a mirror, one of each; both networks train for as many steps."""
    fc.manual_seed(0)
    source = small_network((8, 8), 10, BLOCKS, HIDDEN)
    fit(source, *digits("train"), epochs=2)
    fc.save_state(source.state_dict(), tmp_path / "source.npz")

    images, labels = digits("test")
    images = np.ascontiguousarray(images[..., ::-1])

    def right(model, seed):
        few = one_of_each(labels, seed)
        rest = np.setdiff1d(np.arange(len(labels)), few)
        fit(model, images[few], labels[few], epochs=60, batch_size=10, lr=1e-2, seed=seed)
        return (predict(model, images[rest]).argmax(1) == labels[rest]).mean()

    transferred = scratch = 0.0
    for seed in range(3):
        model = small_network((8, 8), 10, BLOCKS, HIDDEN)
        model.load_state_dict(fc.load_state(tmp_path / "source.npz"))
        model = nn.Sequential(*model[:-3].freeze(), nn.Linear(32 * 2 * 2, 10))
        kept = {name: a.copy() for name, a in model[:-1].state_dict().items()}
        transferred += right(model, seed) / 3
        scratch += right(small_network((8, 8), 10, BLOCKS, HIDDEN), seed) / 3
        assert all(np.array_equal(a, kept[name]) for name, a in model[:-1].state_dict().items())
    assert transferred > 0.6 and transferred > scratch + 0.04, (transferred, scratch)
