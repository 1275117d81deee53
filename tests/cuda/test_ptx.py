"""Every kernel compiles for every compute capability that is promised, and none keeps arrays in local memory.

Each file of kernels has a function `kernels(dtype)`, which gives its kernels in the variants that are used most.  They
are compiled for all capabilities in float32, and the first variant of each for one in float64.
"""

import ast
import importlib
import inspect
import pkgutil
import re

import pytest

from fastconv import _device
from fastconv.kernels import cuda
from fastconv.kernels.cuda import gpu

MODULES = {m.name: importlib.import_module(f"{cuda.__name__}.{m.name}") for m in pkgutil.iter_modules(cuda.__path__)}
CAPABILITIES = {"float32": gpu.CAPABILITIES, "float64": gpu.CAPABILITIES[1:2]}


def _why_not():
    if gpu.SIMULATED:
        return "the simulator compiles nothing: run this file without NUMBA_ENABLE_CUDASIM"
    if not gpu.can_compile():
        return "numba-cuda, nvidia-nvvm and nvidia-cuda-nvrtc are not installed"
    return None


compiles = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))


def written(module):
    """The qualified names of the kernels in a module's source: functions under `@kernel(...)`, each in its factory."""
    return {
        f"{factory.name}.<locals>.{function.name}"
        for factory in ast.parse(inspect.getsource(module)).body
        if isinstance(factory, ast.FunctionDef)
        for function in ast.walk(factory)
        if isinstance(function, ast.FunctionDef)
        and any(isinstance(d, ast.Call) and getattr(d.func, "id", "") == "kernel" for d in function.decorator_list)
    }


WITH_KERNELS = [name for name, module in MODULES.items() if written(module)]


def test_every_rule_and_implementation_is_in_a_module_that_is_loaded():
    assert {rule.__module__.rpartition(".")[2] for rule in _device.rules["cuda"].values()} <= set(MODULES)
    assert "conv_gemm" in WITH_KERNELS and len(WITH_KERNELS) > 15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_no_kernel_is_left_out(name, dtype):
    listed = {kernel.function.__qualname__ for kernel in MODULES[name].kernels(dtype)}
    assert listed == written(MODULES[name])


def codes(kernel, capabilities):
    """PTX for each capability.  Nine tenths of the time go into what comes before the code of a capability is made, and
    is the same for all: where Numba's compiler lets us, that is done once."""
    from numba.cuda import compiler

    to_library = getattr(compiler, "_compile_pyfunc_with_fixup", None)
    if to_library is None:
        return [kernel.ptx(capability) for capability in capabilities]
    library, _ = to_library(kernel.function, kernel.signature, device=False, abi="numba", cc=capabilities[0])
    return [library.get_asm_str(cc=capability) for capability in capabilities]


@compiles
def test_the_short_way_gives_the_same_code():
    kernel, capabilities = next(MODULES["conv_direct"].kernels("float32")), gpu.CAPABILITIES
    for short, long in zip(codes(kernel, capabilities), map(kernel.ptx, capabilities), strict=True):
        short, long = (re.sub(r"_ZN\w+", "name", text) for text in (short, long))
        assert short == long


@compiles
@pytest.mark.parametrize("dtype", CAPABILITIES)
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_kernels_compile(name, dtype):
    seen = set()
    for kernel in MODULES[name].kernels(dtype):
        if dtype == "float64" and kernel.__name__ in seen:
            continue
        seen.add(kernel.__name__)
        for code, capability in zip(codes(kernel, CAPABILITIES[dtype]), CAPABILITIES[dtype], strict=True):
            assert f".target sm_{capability[0]}{capability[1]}" in code, kernel.__name__
            assert ".local" not in code, f"{kernel.__name__} keeps values in local memory"
