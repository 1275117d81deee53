"""Fair timing: candidates take turns, each is warmed just before it is timed, and only medians are reported."""

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np

SHORTEST = 5e-4  # seconds: quicker calls are repeated within one sample, so that the clock and its reading do not count
MOST_LOOPS = 50


class UnsupportedError(Exception):
    """A library cannot run a case; the message says what it lacks."""


class WrongResultError(Exception):
    """A library computes something else than the layer that was asked for."""


class Candidate:
    """Something to time: a call without arguments, and how its result becomes a NumPy array."""

    def __init__(self, run: Callable[[], object], to_numpy: Callable[[object], np.ndarray] = np.asarray):
        self.run = run
        self.to_numpy = to_numpy

    def output(self) -> np.ndarray:
        """The result of one call."""
        return self.to_numpy(self.run())

    def seconds(self, loops: int = 1) -> float:
        """Mean duration of `loops` calls in a row."""
        run = self.run
        start = time.perf_counter()
        for _ in range(loops):
            run()
        return (time.perf_counter() - start) / loops

    def busy_seconds(self) -> float:
        """Processor time that all threads which work for this candidate have taken so far."""
        return time.process_time()


PAUSE, IDLE, LONGEST_WAIT = 0.004, 0.02, 1.0


def wait_until_idle(candidate: Candidate) -> None:
    """Threads of many libraries keep a core busy for 10 to 200 ms after a call, in case another follows: wait until
    they take less than 2 % of a core."""
    end, before = time.perf_counter() + LONGEST_WAIT, candidate.busy_seconds()
    while time.perf_counter() < end:
        time.sleep(PAUSE)
        now = candidate.busy_seconds()
        if now - before < IDLE * PAUSE + 5e-5:  # looking takes a moment, too
            return
        before = now


def interleave(candidates: Mapping[str, Candidate], repeat: int) -> dict[str, list[float]]:
    """Seconds per call of every candidate in each of `repeat` rounds.

    In a round every candidate has one turn: an untimed call that brings its data to the caches and wakes its threads,
    the timed calls, and a pause until its threads have stopped spinning.  The order rotates from round to round.
    """
    loops = {name: _loops(candidate) for name, candidate in candidates.items()}
    samples = {name: [] for name in candidates}
    order = list(candidates)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeat):
            first = turn % len(order)
            for name in order[first:] + order[:first]:
                candidate = candidates[name]
                candidate.seconds()
                samples[name].append(candidate.seconds(loops[name]))
                wait_until_idle(candidate)
    finally:
        if collecting:
            gc.enable()
    return samples


def _loops(candidate: Candidate) -> int:
    once = min(candidate.seconds() for _ in range(3))
    wait_until_idle(candidate)
    return max(1, min(MOST_LOOPS, round(SHORTEST / once)))


def ratio(samples: list[float], base: list[float]) -> float:
    """Median over the rounds of samples/base: noise that slows a whole round does not move it."""
    return median(a / b for a, b in zip(samples, base, strict=True))


def check(output: np.ndarray, want: np.ndarray, limit: float) -> float:
    """Largest error relative to the RMS of `want`; raises WrongResultError beyond `limit` or where shapes differ."""
    if output.shape != want.shape:
        raise WrongResultError(f"output has shape {output.shape}, expected {want.shape}")
    error = float(np.abs(output - want).max() / np.sqrt(np.mean(np.square(want, dtype=np.float64))))
    if not error <= limit:
        raise WrongResultError(f"output differs by {error:.1e} of its RMS")
    return error
