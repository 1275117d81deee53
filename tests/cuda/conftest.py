"""Everything here but test_ptx.py needs a device or its simulator."""

import pytest

from fastconv import _device

from .turns import install


def _why_not():
    try:
        _device.leaf("cuda")
    except RuntimeError as problem:
        return str(problem)
    install()
    return None


def pytest_collection_modifyitems(items):
    here = [item for item in items if "/cuda/" in item.path.as_posix()]
    reason = _why_not() if here else None
    for item in here:
        if reason and item.path.name != "test_ptx.py":
            item.add_marker(pytest.mark.skip(reason=f"{reason}; NUMBA_ENABLE_CUDASIM=1 runs these without one"))
        # Where a device divides by zero in silence, the simulator has NumPy numbers that warn.
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
