"""Settings of all tests."""

import os
from importlib.util import find_spec

import hypothesis
import pytest

# Test processes share the cores: threads that spin while they wait would keep the other processes from them.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Machines differ in speed and kernels compile at first use: no deadline.  The same examples in every run.
hypothesis.settings.register_profile("fastconv", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fastconv")


def pytest_addoption(parser):
    parser.addoption("--large", action="store_true", help="all nine published classifiers, a million nodes")
    parser.addoption("--onnx-models", metavar="FOLDER", help="published models to test with, at any depth in FOLDER")


def pytest_collection_modifyitems(items):
    if find_spec("torch") is None:
        skip = pytest.mark.skip(reason="PyTorch is not installed")
        for item in items:
            if item.get_closest_marker("torch"):
                item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Processes take long runs of tests, not turns: those of a file share kernels, which are then compiled once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None
