"""A training run in one file, from which it goes on as if it had never stopped: weights, optimizer, random numbers.

Interrupts (Ctrl-C, SIGTERM) wait for the end of the current step, so that what is written is never half a step.
"""

import json
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ._device import ARRAYS
from ._random import generator
from .state import load_state, save_state


def save_checkpoint(path, model, optimizer, progress, best=None):
    """Write a checkpoint, whole or not at all.

    path: an .npz file; progress: what else the run needs to know, as JSON can write it; best: the weights (name ->
    array) of the best epoch, if they are kept.
    """
    state = optimizer.state_dict()
    arrays, numbers = {}, {}
    for n, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, ARRAYS):
                arrays[f"optimizer/{n}/{key}"] = value
            else:
                numbers.setdefault(str(n), {})[key] = value
    about = {
        "progress": progress,
        "optimizer": {"state": numbers, "param_groups": state["param_groups"]},
        "random": generator().bit_generator.state,
    }
    arrays |= {f"model/{name}": value for name, value in model.state_dict().items()}
    arrays |= {f"best/{name}": value for name, value in (best or {}).items()}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    save_state(arrays, path)


def load_checkpoint(path, model, optimizer):
    """Put model, optimizer and random numbers where `save_checkpoint` found them.  Returns (progress, best weights or
    None).  Raises FileNotFoundError, or ValueError for a file that is no checkpoint or belongs to another network."""
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no checkpoint to go on from: {path}")
    arrays = load_state(path)
    if "about" not in arrays:
        raise ValueError(f"{path} holds weights, not a checkpoint: it has no entry 'about'")
    about = json.loads(arrays["about"].tobytes())
    parts = {"model": {}, "best": {}, "optimizer": {}}
    for name, value in arrays.items():
        part, _, rest = name.partition("/")
        if part in parts:
            parts[part][rest] = value
    model.load_state_dict(parts["model"])
    state = {int(n): dict(values) for n, values in about["optimizer"]["state"].items()}
    for name, value in parts["optimizer"].items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": about["optimizer"]["param_groups"]})
    generator().bit_generator.state = about["random"]
    return about["progress"], parts["best"] or None


class Interrupted:
    """Whether somebody asked for an end."""

    def __init__(self):
        self.signal = None


@contextmanager
def interrupts_wait():
    """Inside, Ctrl-C and SIGTERM only set `Interrupted.signal`, the first time; a second one acts at once.  In threads
    other than the main one nothing changes."""
    asked = Interrupted()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {}

    def note(number, frame):
        asked.signal = number
        for one, handler in before.items():
            signal.signal(one, handler)

    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, note)
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
