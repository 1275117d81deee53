"""Which implementation computes an operation: each one says by itself why it refuses a problem.  Pure Python.

An implementation is a class with the static methods below, registered under an operation such as "conv.fwd" by
`@implements(operation, rank)`. `select` takes, among those that accept the spec, the one of least estimated cost; equal
costs are decided by rank, the lower first. FASTCONV_IMPL names implementations that are taken wherever they accept.
"""

import difflib
from functools import lru_cache
from typing import NamedTuple

from . import _config

_implementations = {}  # (operation, device) -> implementations in rank order
_counts = [0]  # of all implementations


class Impl:
    """One way to compute an operation.  Subclasses are never instantiated."""

    name: str
    operation: str
    rank: int
    device: str
    epilogue = False  # whether `emit` honours the buffer "epilogue" (specs.Epilogue)
    repeatable = True  # whether what `emit` gives depends only on which buffers there are, not on what they hold

    @staticmethod
    def when(spec):
        """None if this implementation can compute the spec, else what it needs, in a few words."""
        return None

    @staticmethod
    def cost(spec):
        """Estimated nanoseconds on one thread: a small model of arithmetic and memory, not a table of measurements."""
        raise NotImplementedError

    @staticmethod
    def pack(spec, weight):
        """The weights as the kernel likes them best, which layers in evaluation mode keep and hand to `emit` as buffer
        "packed"; None if it reads them as they lie."""
        return None

    @staticmethod
    def layout(spec):
        """What `pack` depends on besides weights and groups; where it differs, weights are packed once more."""
        return None

    @staticmethod
    def pack_cost(spec):
        """Estimated nanoseconds on one thread of what `pack` does, which a call without packed weights pays each
        time."""
        return 0.0

    @staticmethod
    def emit(spec, buffers):
        """The rows of a program (`driver.Row`, on a device `kernels.cuda.launch.Row`) that compute the operation on the
        buffers (name -> array)."""
        raise NotImplementedError


class Candidate(NamedTuple):
    """What one implementation answered: a refusal, or an estimated cost in nanoseconds."""

    impl: type
    refusal: str | None
    cost: float | None


def implements(operation, rank, device="cpu"):
    """A class decorator: register an implementation.  Its name is the function-like `name` attribute it declares."""

    def register(impl):
        impl.operation, impl.rank, impl.device = operation, rank, device
        known = _implementations.setdefault((operation, device), [])
        if any(other.name == impl.name for other in known):
            raise ValueError(f"{operation} already has an implementation named {impl.name}")
        known.append(impl)
        _counts[0] += 1
        known.sort(key=lambda other: other.rank)
        _select.cache_clear()  # choices made before did not know of it
        _check_names.cache_clear()
        return impl

    return register


def registered():
    """How many implementations there are: a choice made when there were fewer may not stand."""
    return _counts[0]


def operations(device="cpu"):
    """The names of all operations that have implementations on a device."""
    return tuple(operation for operation, where in _implementations if where == device)


def implementations(operation, device="cpu"):
    """All implementations of an operation on a device, in rank order."""
    return tuple(_implementations.get((operation, device), ()))


def candidates(operation, spec, packed=False, device="cpu"):
    """What each implementation says to a spec, in rank order; packed: whether weights are packed beforehand."""
    answers = []
    for impl in implementations(operation, device):
        refusal, cost = impl.when(spec), None
        if refusal is None:
            cost = impl.cost(spec) + (0 if packed else impl.pack_cost(spec))
        answers.append(Candidate(impl, refusal, cost))
    return answers


@lru_cache
def _check_names(forced):
    """The names of FASTCONV_IMPL must exist."""
    known = sorted({impl.name for group in _implementations.values() for impl in group})
    for name in forced:
        if name not in known:
            near = difflib.get_close_matches(name, known, 5, 0.4) or known
            raise ValueError(f"FASTCONV_IMPL: no implementation is named {name!r}; near names: {', '.join(near)}")


@lru_cache(maxsize=4096)
def _select(operation, spec, forced, packed, device):
    _check_names(forced)
    accepting = [answer for answer in candidates(operation, spec, packed, device) if answer.refusal is None]
    if not accepting:
        answers = candidates(operation, spec, device=device)
        reasons = "; ".join(f"{answer.impl.name} {answer.refusal}" for answer in answers) or "there is none"
        where = "" if device == "cpu" else f" on {device}"
        raise NotImplementedError(f"no implementation of {operation}{where} takes {spec}: {reasons}")
    for answer in accepting:
        if answer.impl.name in forced:
            return answer.impl
    return min(accepting, key=lambda answer: (answer.cost, answer.impl.rank)).impl


def select(operation, spec, packed=False, device="cpu"):
    """The implementation that computes the spec; packed: for a caller that keeps the result of its `pack`."""
    if _config.batch_invariant():
        spec = spec.for_one_image()
    return _select(operation, spec, _config.IMPL, packed, device)


class Explanation(NamedTuple):
    """How `select` decides on one spec."""

    operation: str
    spec: object
    candidates: list
    choice: type
    forced: bool


def explain(operation, spec, packed=False, device="cpu"):
    """The candidates, their refusals and costs, and the choice."""
    choice = select(operation, spec, packed, device)
    return Explanation(
        operation, spec, candidates(operation, spec, packed, device), choice, choice.name in _config.IMPL
    )
