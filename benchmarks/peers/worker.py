"""The other end of remote.py: serves one library of this folder over standard input and output.

    python -m benchmarks.peers.worker ncnn

A request is a pickled (name, arguments), an answer a pickled (True, result) or (False, reason).  Arrays travel as
(shape, bytes), so that the two environments may have different versions of NumPy.
"""

import importlib
import os
import pickle
import sys

import numpy as np

from ..layers import Case
from ..measure import Candidate, UnsupportedError


class Service:
    """The requests that the worker answers."""

    def __init__(self, module: str):
        self._module = module
        self._candidate = Candidate(lambda: None)

    def versions(self) -> dict[str, str]:
        self._library = importlib.import_module(f".{self._module}", __package__)
        return self._library.versions()

    def prepare(self, name: str, case: dict, which: str, flat: dict, threads: int) -> None:
        arrays = {key: np.frombuffer(data, np.float32).reshape(shape).copy() for key, (shape, data) in flat.items()}
        self._candidate = self._library.candidate(name, Case(**case), which, arrays, threads)

    def prepare_network(self, name: str, path: str, x: tuple, threads: int) -> None:
        array = np.frombuffer(x[1], np.float32).reshape(x[0]).copy()
        self._candidate = self._library.network(name, None, path, array, threads)

    def output(self) -> tuple[tuple[int, ...], bytes]:
        output = np.ascontiguousarray(self._candidate.output(), np.float32)
        return output.shape, output.tobytes()

    def seconds(self, loops: int) -> float:
        return self._candidate.seconds(loops)


def serve(service: Service, requests, answers) -> None:
    """Answer until the other side closes."""
    while True:
        try:
            request, arguments = pickle.load(requests)
        except EOFError:
            return
        try:
            answer = True, getattr(service, request)(*arguments)
        except (ImportError, UnsupportedError) as error:
            answer = False, str(error)
        except Exception as error:
            answer = False, f"{type(error).__name__}: {error}"
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the libraries print must not get between the answers
    serve(Service(sys.argv[1]), sys.stdin.buffer, replies)
