"""Every FASTCONV_* switch: name, default, meaning.  The only place that reads the environment.

A switch is read once, when fastconv is imported.  `batch_invariant` and the thread count can also be changed at run
time.  A bad value is a ValueError there; the command line, which imports fastconv before it can catch anything, says
the same in one line and ends with exit code 2.
"""

import os
import sys
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Switch:
    """One environment variable: `FASTCONV_<name>`, its default as text and what it means."""

    name: str
    default: str
    meaning: str

    @property
    def variable(self):
        return f"FASTCONV_{self.name}"

    @property
    def value(self):
        return os.environ.get(self.variable, self.default)


SWITCHES = {
    switch.name: switch
    for switch in (
        Switch("THREADS", "", "number of threads; default: the cores this process may use, cgroup quota included"),
        Switch("ISA", "auto", "instruction set of the kernels: auto, avx512, avx2, neon or generic"),
        Switch("IMPL", "", "comma-separated implementation names; each is used wherever it accepts the problem"),
        Switch("CACHE_DIR", "", "folder of compiled kernels; default: fastconv/kernels in the user's cache folder"),
        Switch("CACHE", "1", "0: compile afresh in every process, neither read nor write compiled kernels"),
        Switch("DEBUG", "0", "1: kernels check every index, run serially, and errors inside them are raised"),
        Switch("PARALLEL_US", "40", "work of fewer microseconds (estimated, one thread) runs serially"),
        Switch("POOL_MB", "512", "at most this much memory of freed outputs is kept for reuse; 0 keeps none"),
        Switch("BATCH_INVARIANT", "0", "1: an image gives the same bits alone and in any batch"),
    )
}


def _is_command_line():
    """Whether the process is `fastconv ...` or `python -m fastconv ...`."""
    if sys.argv[:1] == ["-m"]:
        after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return after[:1] == [__package__]
    return os.path.basename(sys.argv[0] if sys.argv else "").removesuffix(".exe") == __package__


def refuse(message) -> NoReturn:
    """A switch has a bad value."""
    if _is_command_line():
        sys.stderr.write(f"{__package__}: {message}\n")
        raise SystemExit(2)
    raise ValueError(message)


def _flag(name):
    value = SWITCHES[name].value
    if value not in ("0", "1"):
        refuse(f"{SWITCHES[name].variable} must be 0 or 1, given {value!r}")
    return value == "1"


def _number(name, low, high):
    text = SWITCHES[name].value
    try:
        value = int(text)
    except ValueError:
        refuse(f"{SWITCHES[name].variable} must be a whole number from {low} to {high}, given {text!r}")
    if not low <= value <= high:
        refuse(f"{SWITCHES[name].variable} must be from {low} to {high}, given {value}")
    return value


DEBUG = _flag("DEBUG")
CACHE = _flag("CACHE")
ISA = SWITCHES["ISA"].value
IMPL = tuple(name.strip() for name in SWITCHES["IMPL"].value.split(",") if name.strip())
PARALLEL_US = _number("PARALLEL_US", 0, 10**9)
POOL_BYTES = _number("POOL_MB", 0, 10**6) << 20
THREADS = _number("THREADS", 1, 4096) if SWITCHES["THREADS"].value else None
_batch_invariant = _flag("BATCH_INVARIANT")


def cache_dir():
    """The folder of compiled kernels."""
    given = SWITCHES["CACHE_DIR"].value
    if given:
        return os.path.expanduser(given)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "fastconv", "kernels")


def batch_invariant(enabled=None):
    """Whether the choice of algorithm ignores the batch size; with an argument, sets it first."""
    global _batch_invariant
    if enabled is not None:
        _batch_invariant = bool(enabled)
    return _batch_invariant
