"""Libraries that live in another Python environment, each behind a worker process that sleeps until it is asked.

The worker (worker.py) blocks on its standard input while others are timed, and measures its calls itself, so that the
messages between the processes are not counted.
"""

import os
import pickle
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..layers import Case
from ..measure import Candidate, UnsupportedError

ROOT = Path(__file__).resolve().parents[2]


class Remote:
    """Has the names that a module of this folder has; a worker under another interpreter answers."""

    def __init__(self, module: str, python: str):
        self.NAMES = (module,)
        self._command = [python, "-m", "benchmarks.peers.worker", module]
        self._worker = None

    def versions(self) -> dict[str, str]:
        """Start a worker; ImportError where the interpreter or the library is missing."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            self._worker = subprocess.Popen(self._command, cwd=ROOT, env=environment, **pipes)
            return self.ask("versions")
        except (OSError, UnsupportedError) as error:
            self.close()
            raise ImportError(str(error)) from None

    def candidate(self, name: str, case: Case, which: str, arrays: dict[str, np.ndarray], threads: int) -> Candidate:
        """A candidate whose calls happen in the worker; the worker holds one at a time."""
        if self._worker is None:  # the layer before may have crashed it
            self.versions()
        flat = {key: (array.shape, array.tobytes()) for key, array in arrays.items()}
        self.ask("prepare", name, asdict(case), which, flat, threads)
        return _RemoteCandidate(self)

    def network(self, name: str, model: tuple, path: str, x: np.ndarray, threads: int) -> Candidate:
        """The same for a network; only the path of its file and the input go to the worker."""
        if self._worker is None:
            self.versions()
        self.ask("prepare_network", name, str(path), (x.shape, x.tobytes()), threads)
        return _RemoteCandidate(self)

    def ask(self, request: str, *arguments):
        """Send one request and wait for its answer; UnsupportedError carries what the worker objects to."""
        if self._worker is None:
            raise UnsupportedError("its worker process has ended")
        try:
            pickle.dump((request, arguments), self._worker.stdin)
            self._worker.stdin.flush()
            accepted, answer = pickle.load(self._worker.stdout)
        except (EOFError, BrokenPipeError):
            code = self._worker.wait()
            self.close()
            raise UnsupportedError(f"its worker process ended with exit code {code}") from None
        if not accepted:
            raise UnsupportedError(answer)
        return answer

    def busy_seconds(self) -> float:
        """Processor time that the worker has taken."""
        return 0.0 if self._worker is None else time.clock_gettime(~self._worker.pid << 3 | 2)  # as CPU clocks of Linux

    def close(self) -> None:
        """End the worker: its input is closed, upon which it leaves."""
        if self._worker is not None:
            self._worker.stdin.close()
            self._worker.stdout.close()
            self._worker.wait()
            self._worker = None


class _RemoteCandidate(Candidate):
    def __init__(self, remote: Remote):
        super().__init__(run=self.output)
        self._remote = remote

    def output(self) -> np.ndarray:
        """See Candidate."""
        shape, data = self._remote.ask("output")
        return np.frombuffer(data, np.float32).reshape(shape)

    def seconds(self, loops: int = 1) -> float:
        """See Candidate."""
        return self._remote.ask("seconds", loops)

    def busy_seconds(self) -> float:
        """See Candidate."""
        return super().busy_seconds() + self._remote.busy_seconds()
