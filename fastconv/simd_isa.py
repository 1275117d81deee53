"""Instruction sets: what each one offers, which ones this machine has, and which one the kernels use."""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from dataclasses import dataclass

import llvmlite.binding as llvm
from numba.core import config

from . import _config


@dataclass(frozen=True)
class Isa:
    """One instruction set: bytes of a vector register, number of registers, whether it has fused multiply-add."""

    name: str
    width: int
    registers: int
    fma: bool

    def lanes(self, itemsize):
        return self.width // itemsize

    def tile(self, rows):
        """(MR, NR) for a product of `rows` rows: MR*NR accumulators, NR loaded vectors and one broadcast must fit the
        registers.

        Measured on AVX-512: 8x3, 6x4 and 4x6 reach 95-98 % of peak; 4x7 spills and drops to a third.
        """
        wide = {8: 3, 4: 6, 3: 8, 2: 8, 1: 8} if self.registers >= 32 else {8: 1, 4: 2, 3: 3, 2: 4, 1: 6}
        if self.registers < 32 and rows >= 6:
            return 6, 2
        for height in (8, 4, 3, 2, 1):
            if rows >= height:
                return height, wide[height]
        return 1, wide[1]


ISAS = {
    isa.name: isa
    for isa in (
        Isa("avx512", 64, 32, True),
        Isa("avx2", 32, 16, True),
        Isa("neon", 16, 32, True),
        Isa("generic", 16, 16, False),
    )
}
_MICROARCHITECTURES = {
    "x86-64-v4": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma"},
    "x86-64-v3": {"avx2", "fma"},
}


def _host_isa():
    """The widest instruction set among the features that Numba compiles for."""
    architecture = llvm.get_process_triple().split("-")[0]
    if architecture in ("aarch64", "arm64"):
        return "neon"
    if config.CPU_NAME in _MICROARCHITECTURES and not config.CPU_FEATURES:
        features = _MICROARCHITECTURES[config.CPU_NAME]
    elif config.CPU_NAME == "generic":
        features = set()
    else:
        features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    for name, needed in (("avx512", _MICROARCHITECTURES["x86-64-v4"]), ("avx2", _MICROARCHITECTURES["x86-64-v3"])):
        if needed <= features:
            return name
    return "generic"


def _choose_isa():
    host = _host_isa()
    name = host if _config.ISA == "auto" else _config.ISA
    if name not in ISAS:
        _config.refuse(f"FASTCONV_ISA must be auto or one of {', '.join(ISAS)}, given {name!r}")
    supported = {"avx512": ("avx512", "avx2", "generic"), "avx2": ("avx2", "generic")}.get(host, (host,))
    if name not in supported:
        _config.refuse(f"FASTCONV_ISA={name}: this machine has {host} and can run {', '.join(supported)}")
    if name != host and config.CPU_NAME is None:
        # Without this LLVM would still use the host's wider registers and masks around our narrower vectors.
        config.CPU_NAME, config.CPU_FEATURES = {"avx2": "x86-64-v3", "generic": "x86-64"}[name], ""
    return ISAS[name]


isa = _choose_isa()
