"""Shared by the benchmarks: what the machine can do, measured once per run and written into the saved JSON."""

from collections.abc import Callable
from functools import lru_cache

import pytest

from benchmarks import peak


@pytest.fixture(scope="session")
def peak_of() -> Callable[[int], peak.Peak]:
    """Thread count -> the limits of this machine."""
    return lru_cache(maxsize=None)(peak.measure)
