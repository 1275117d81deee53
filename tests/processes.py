"""Python in a fresh process: for switches that are read at import, other instruction sets, forks, what may crash."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(**switches):
    """This process's environment without the switches that change how kernels are compiled or run, and with these."""
    kept = ("FASTCONV_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
    base = {k: v for k, v in os.environ.items() if k in kept or not k.startswith(("FASTCONV_", "NUMBA_", "PYTEST_"))}
    return {**base, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **switches}


def python(code, *args, cwd=None, timeout=300, **switches):
    """Run the code in a fresh process with these environment variables; warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    options = {"cwd": cwd, "timeout": timeout, "capture_output": True, "text": True}
    return subprocess.run(command, env=environment(**switches), **options)


def output(code, *args, **options):
    """What the code prints; it must end well and have nothing to say to stderr."""
    done = python(code, *args, **options)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout.strip()
