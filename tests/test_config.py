"""Bad switches: one clear line, as an exception of `import fastconv` or from the command line."""

import subprocess
import sys

import pytest

from fastconv import _config, _registry

from .processes import environment, python

BAD = {
    "DEBUG": ("yes", "FASTCONV_DEBUG must be 0 or 1, given 'yes'"),
    "PARALLEL_US": ("1e3", "FASTCONV_PARALLEL_US must be a whole number from 0 to 1000000000, given '1e3'"),
    "POOL_MB": ("-1", "FASTCONV_POOL_MB must be from 0 to 1000000, given -1"),
    "THREADS": ("0", "FASTCONV_THREADS must be from 1 to 4096, given 0"),
    "ISA": ("avx1024", "FASTCONV_ISA must be auto or one of avx512, avx2, neon, generic, given 'avx1024'"),
}


@pytest.mark.parametrize("name", BAD)
def test_import_refuses(name):
    value, message = BAD[name]
    done = python("import fastconv", **{f"FASTCONV_{name}": value})
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ValueError: {message}"


@pytest.mark.parametrize("name", ["DEBUG", "ISA"])
def test_command_line_refuses(name):
    value, message = BAD[name]
    command = [sys.executable, "-m", "fastconv", "env"]
    switches = environment(**{f"FASTCONV_{name}": value})
    done = subprocess.run(command, env=switches, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fastconv: {message}\n")


@pytest.mark.parametrize(
    "argv, orig, expected",
    [
        (["bin/fastconv", "env"], [], True),
        (["Scripts/fastconv.exe"], [], True),
        (["-m"], ["python", "-m", "fastconv", "env"], True),
        (["-m"], ["python", "-m", "pytest", "fastconv"], False),
        (["train.py", "fastconv"], ["python", "train.py", "fastconv"], False),
        ([], [], False),
    ],
)
def test_what_is_the_command_line(argv, orig, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig)
    assert _config._is_command_line() is expected


def test_unknown_implementation(monkeypatch):
    from fastconv.specs import conv_spec

    spec = conv_spec("conv2d", 2, (1, 3, 5, 5), (4, 3, 3, 3), None, 1, 0, 1, 1, "float32")
    monkeypatch.setattr(_config, "IMPL", ("conv_fwd_implicit_gem",))
    with pytest.raises(ValueError, match=r"FASTCONV_IMPL: no implementation is named 'conv_fwd_implicit_gem'; near"):
        _registry.select("conv.fwd", spec)
    monkeypatch.setattr(_config, "IMPL", ("conv_fwd_implicit_gemm",))
    assert _registry.select("conv.fwd", spec).name == "conv_fwd_implicit_gemm"
    command = [sys.executable, "-m", "fastconv", "explain", "conv", "1x3x5x5", "4x3x3x3"]
    switches = environment(FASTCONV_IMPL="winogard")
    done = subprocess.run(command, env=switches, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "winograd" in done.stderr
