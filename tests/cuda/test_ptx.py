"""Every kernel compiles for every compute capability that is promised, and none keeps arrays in local memory.

Each file of kernels has a function `kernels()`, which gives its kernels in the variants that are used most.
"""

import importlib
import inspect
import pkgutil

import pytest

from fastconv import _device
from fastconv.kernels import cuda
from fastconv.kernels.cuda import gpu

FILES = [m.name for m in pkgutil.iter_modules(cuda.__path__)]
MODULES = {name: importlib.import_module(f"{cuda.__name__}.{name}") for name in FILES}
WITH_KERNELS = [name for name, module in MODULES.items() if hasattr(module, "kernels")]


def _why_not():
    if gpu.SIMULATED:
        return "the simulator compiles nothing: run this file without NUMBA_ENABLE_CUDASIM"
    if not gpu.can_compile():
        return "numba-cuda, nvidia-nvvm and nvidia-cuda-nvrtc are not installed"
    return None


pytestmark = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))


def test_files_with_kernels_list_them():
    assert _device.rules["cuda"]
    made = [name for name, module in MODULES.items() if "@kernel(" in inspect.getsource(module) and name != "gpu"]
    assert sorted(made) == sorted(WITH_KERNELS)


@pytest.mark.parametrize("capability", gpu.CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_kernels_compile(name, capability):
    for kernel in MODULES[name].kernels():
        code = kernel.ptx(capability)
        assert f".target sm_{capability[0]}{capability[1]}" in code, kernel.__name__
        assert ".local" not in code, f"{kernel.__name__} keeps values in local memory"
