"""Settings of all tests."""

from importlib.util import find_spec

import hypothesis
import pytest

# Machines differ in speed and kernels compile at first use: no deadline.  The same examples in every run.
hypothesis.settings.register_profile("fastconv", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fastconv")


def pytest_collection_modifyitems(items):
    if find_spec("torch") is None:
        skip = pytest.mark.skip(reason="PyTorch is not installed")
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(skip)
