"""Training runs: checkpoints and going on from them to the same bits, interrupts, early stopping, other channels."""

import os
import signal
import threading

import numpy as np
import pytest

import fastconv as fc
from fastconv.checkpoint import load_checkpoint
from fastconv.data import digits
from fastconv.state import load_state, save_state
from fastconv.training import fit, predict, small_network, weights_digest, with_channels

IMAGES, LABELS = (array[:40] for array in digits("test"))
SETTINGS = {"epochs": 3, "batch_size": 8, "lr": 0.01, "shift": 0.5, "seed": 4}


def network():
    fc.manual_seed(1)
    base = small_network((8, 8), 10, ((4, True),), 8)
    return fc.nn.Sequential(*base[:-1], fc.nn.Dropout(0.3), base[-1])  # draws numbers, too


def digest(model):
    return weights_digest(model.state_dict())


def straight():
    model = network()
    history = fit(model, IMAGES, LABELS, **SETTINGS)
    return digest(model), history.epochs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 5, 8, 14])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, step, number):
    path, steps = tmp_path / "checkpoint.npz", []

    def interrupt(epoch, loss):
        steps.append(loss)
        if len(steps) == step:
            os.kill(os.getpid(), number)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path, on_step=interrupt)
    assert len(steps) == step  # the current step was finished, and no other one begun
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    fc.manual_seed(99)
    model = network()
    history = fit(model, IMAGES, LABELS, **SETTINGS, checkpoint=path, resume=True)
    assert (digest(model), history.epochs) == straight()


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    path = tmp_path / "checkpoint.npz"
    fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path)
    model, steps = network(), []
    fit(model, IMAGES, LABELS, **SETTINGS, checkpoint=path, resume=True, on_step=lambda *step: steps.append(step))
    assert not steps and digest(model) == straight()[0]


def test_training_in_another_thread_leaves_signals_alone():
    before, results = signal.getsignal(signal.SIGINT), []

    def work():
        model = network()
        fit(model, IMAGES, LABELS, **SETTINGS, on_step=lambda *_: results.append(signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(results) == {before}


def test_patience_keeps_the_best_epoch(tmp_path):
    noise = np.random.default_rng(0).permutation(LABELS)  # labels that can't be learned: accuracy wanders
    model, path = network(), tmp_path / "checkpoint.npz"
    history = fit(
        model, IMAGES, noise, epochs=30, batch_size=8, lr=0.01, validation=(IMAGES, LABELS), patience=2, checkpoint=path
    )
    accuracies = [record["validation_accuracy"] for record in history.epochs]
    assert history.best == 1 + int(np.argmax(accuracies))
    assert history.stopped_early == (len(accuracies) < 30) and len(accuracies) <= history.best + 2
    assert (predict(model, IMAGES).argmax(1) == LABELS).mean() == max(accuracies)
    again = network()
    resumed = fit(
        again, IMAGES, noise, epochs=30, batch_size=8, lr=0.01, validation=(IMAGES, LABELS), patience=2,
        checkpoint=path, resume=True,
    )  # fmt: skip
    assert digest(again) == digest(model) and resumed.best == history.best


def test_refusals(tmp_path):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path, resume=True)
    with pytest.raises(ValueError, match="resume needs the checkpoint"):
        fit(network(), IMAGES, LABELS, **SETTINGS, resume=True)
    with pytest.raises(ValueError, match="patience must be at least 1 and needs a validation set, given 3"):
        fit(network(), IMAGES, LABELS, **SETTINGS, patience=3)
    fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path)
    with pytest.raises(ValueError, match=r"another run: given lr 0\.5, the checkpoint has 0\.01"):
        fit(network(), IMAGES, LABELS, **{**SETTINGS, "lr": 0.5}, checkpoint=path, resume=True)
    other = small_network((8, 8), 10, ((5, True),), 8)
    with pytest.raises(ValueError, match="shape"):
        fit(other, IMAGES, LABELS, **SETTINGS, checkpoint=path, resume=True)
    save_state(network().state_dict(), path)
    with pytest.raises(ValueError, match="holds weights, not a checkpoint"):
        load_checkpoint(path, network(), None)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fit(network(), IMAGES, LABELS, **SETTINGS, checkpoint=path)
    assert path.read_bytes() == before and "about" in load_state(path)


def test_with_channels_makes_only_the_first_convolution_anew():
    model = fc.models.squeezenet1_1(num_classes=10)
    before = {name: array.shape for name, array in model.state_dict().items()}
    after = {name: array.shape for name, array in with_channels(model, 1).state_dict().items()}
    assert {name for name in before if before[name] != after[name]} == {"features.0.weight"}
    assert after["features.0.weight"] == (64, 1, 3, 3) and with_channels(model, 1) is model
    with pytest.raises(ValueError, match="no 2-d convolution"):
        with_channels(fc.nn.Sequential(fc.nn.Linear(2, 2)), 1)
