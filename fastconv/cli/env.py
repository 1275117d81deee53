"""Print what fastconv found on this machine: CPU, instruction set, threads, switches, packages."""

import platform
import sys
from importlib import metadata
from pathlib import Path

import numpy as np

from .. import _config, _device, driver
from .. import functional as F
from ..simd import isa
from .console import pairs

OPTIONAL = ("safetensors", "tqdm", "matplotlib", "onnx", "numba-cuda", "torch")


def add_arguments(parser):
    del parser  # there are none


def run(args):
    del args
    print(pairs(_machine(), indent=""))
    print("\nswitches (environment variables)")
    for switch in _config.SWITCHES.values():
        note = "" if switch.value == switch.default else "   (set)"
        print(f"  {switch.variable}={switch.value}{note}\n      {switch.meaning}")
    print("\noptional packages")
    print(pairs((name, _version(name)) for name in OPTIONAL))


def _machine():
    yield "fastconv", _version("fastconv", missing="run from its source, not installed")
    yield "python", f"{platform.python_version()} on {sys.platform}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in ("numba", "llvmlite", "numpy"))
    yield "cpu", _cpu_model()
    yield "instruction set", f"{isa.name}: {isa.registers} registers of {isa.lanes(4)} float32"
    rows, columns = isa.tile(8)
    yield "register tile", f"{rows} x {columns * isa.lanes(4)} float32 (for 8 and more output channels)"
    yield (
        "threads",
        f"{driver.get_num_threads()}" + (f" ({driver.serial_because()})" if driver.serial_because() else ""),
    )
    yield "threading layer", _threading_layer()
    yield "cache", _cache()
    yield "cuda", _cuda()


def _cuda():
    """The device that "cuda" means, or why there is none."""
    try:
        return _device.leaf("cuda").name()
    except RuntimeError as problem:
        return str(problem).removeprefix("cuda: ")


def _version(package, missing="not installed"):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return missing


def _cpu_model():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    except OSError:
        pass  # not Linux
    return f"{platform.processor() or 'unknown'} ({platform.machine()})"


def _threading_layer():
    """Numba chooses it when threads first run, so a convolution that is worth two threads is run."""
    F.conv2d(np.zeros((1, 64, 56, 56), np.float32), np.zeros((64, 64, 3, 3), np.float32), padding=1)
    return driver.threading_layer() or "none: everything runs in one thread"


def _cache():
    if not _config.CACHE:
        return "off (FASTCONV_CACHE=0)"
    folder = Path(_config.cache_dir())
    sizes = [file.stat().st_size for file in folder.glob("*.kernel")]
    return f"{folder} ({len(sizes)} kernels, {sum(sizes) / 2**20:.1f} MB)"
