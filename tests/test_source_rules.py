"""The rules of the source, read from the source: import arrows, where Numba may be, sizes, what must be tested."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).parents[1]
MAX_FILE = 500
MAX_FUNCTION = 60

# Module or folder of the package -> what it may import of the package, besides its own folder.
_CORE = {
    "_config",
    "_device",
    "_jit",
    "_memory",
    "_registry",
    "driver",
    "packing",
    "pool_specs",
    "simd",
    "simd_collect",
    "simd_depthwise",
    "simd_depthwise_backward",
    "simd_formulas",
    "simd_math",
    "simd_normal",
    "simd_permute",
    "simd_place",
    "simd_spread",
    "simd_sync",
    "simd_taps",
    "simd_vector",
    "simd_isa",
    "simd_window",
    "simd_winograd",
    "simd_winograd_backward",
    "simd_winograd_pieces",
    "specs",
}
ARROWS = {
    "_config": set(),
    "_device": set(),
    "_random": set(),
    "cores": set(),
    "data": set(),
    "simd_formulas": set(),
    "simd_python": {"simd_formulas"},
    "simd_python_masked": {"simd_python"},
    "simd_python_winograd": {"simd_python"},
    "_jit": {"_config"},
    "_memory": {"_config"},
    "_registry": {"_config"},
    "packing": {"_config"},
    "specs": {"_config"},
    "pool_specs": {"_config", "specs"},
    "simd": {"_config", "simd_isa", "simd_place"},
    "simd_place": {"_config", "simd_isa", "simd_python", "simd_python_masked", "simd_python_winograd"},
    "simd_collect": {"_config", "simd_place", "simd_window"},
    "simd_depthwise": {"_config", "simd_place", "simd_window"},
    "simd_depthwise_backward": {"_config", "simd_depthwise", "simd_place", "simd_window"},
    "simd_vector": {"_config", "simd_place"},
    "simd_math": {"simd_formulas", "simd_normal", "simd_place", "simd_vector"},
    "simd_normal": {"simd_place"},
    "simd_isa": {"_config"},
    "simd_permute": {"_config", "simd_isa", "simd_place", "simd_window", "simd_winograd"},
    "simd_window": {"_config", "simd_place"},
    "simd_winograd": {"_config", "simd_place", "simd_python_winograd"},
    "simd_winograd_backward": {"simd_place", "simd_python_winograd", "simd_winograd", "simd_winograd_pieces"},
    "simd_winograd_pieces": {"simd_place", "simd_python_winograd", "simd_winograd"},
    "simd_spread": {"_config", "simd_place", "simd_vector"},
    "simd_sync": {"simd_place"},
    "simd_taps": {"simd_place", "simd_vector"},
    "driver": {"cores", "_config", "_jit", "_memory", "simd_sync"},
    "prepared": {"_config", "_jit", "_memory", "_registry", "driver"},
    "autograd": {"_config", "_device", "_memory"},
    "kernels": _CORE | {"_random", "prepared"},
    "ops": _CORE | {"_random", "autograd", "kernels", "prepared"},
    "functional": {"ops"},
    "nn": {"_device", "_random", "autograd", "functional", "ops"},
    "optim": {"_device", "autograd", "functional", "ops"},
    "models": {"nn"},
    "infer": _CORE | {"autograd", "kernels", "ops", "prepared"},
    "onnx": {"_config", "_registry", "infer"},
    "views": {"specs"},
}
ANYTHING = {"__init__", "__main__", "checkpoint", "cli", "plot", "state", "summary", "training"}

# Third-party module -> the files that may import it; the standard library and NumPy are free.
THIRD_PARTY = {
    "numba": r"(_jit|simd|simd_(?!python|formulas)\w+|driver)\.py|kernels/cuda/gpu\.py",
    "llvmlite": r"(_jit|simd|simd_(?!python|formulas)\w+|driver)\.py|kernels/cuda/gpu\.py",
    "matplotlib": r"plot/style\.py",
    "safetensors": r"state/files\.py",
    "tqdm": r"cli/.*",
    "onnx": r"onnx/.*",
    "google": r"onnx/.*",
    "ml_dtypes": r"onnx/.*",
}


def python_files(root, *folders):
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


# ---- imports


def imports(path, package):
    """(line, parts of the absolute module name) of every import in a file; relative ones begin with "fastconv"."""
    here = path.relative_to(package).parent.parts
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, tuple(alias.name.split(".")), False
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level == 0:
                yield node.lineno, module, False
                continue
            base = here[: len(here) - (node.level - 1)] + module
            for alias in node.names:
                yield node.lineno, ("fastconv", *(base or (alias.name,))), True


def import_problems(root):
    package = root / "fastconv"
    for path in python_files(root, "fastconv"):
        relative = path.relative_to(package)
        unit = relative.parts[0].removesuffix(".py")
        if unit not in ARROWS and unit not in ANYTHING:
            yield f"{relative}: {unit} is not in the table of arrows"
            continue
        for line, module, is_relative in imports(path, package):
            where = f"{relative}:{line}"
            if module[0] == "fastconv":
                if not is_relative:
                    yield f"{where}: imports inside the package are relative"
                elif unit in ARROWS and module[1] != unit and module[1] not in ARROWS[unit]:
                    yield f"{where}: {unit} may not import {module[1]}"
            elif module[0] in THIRD_PARTY and not re.fullmatch(THIRD_PARTY[module[0]], relative.as_posix()):
                yield f"{where}: {module[0]} may not be imported here"


# ---- sizes


def size_problems(root):
    for path in python_files(root, "fastconv", "tests", "benchmarks"):
        relative = path.relative_to(root)
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines >= MAX_FILE:
            yield f"{relative}: {lines} lines; fewer than {MAX_FILE} wanted"
        for node in ast.walk(parse(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length >= MAX_FUNCTION:
                    yield f"{relative}:{node.lineno}: {node.name} has {length} lines; fewer than {MAX_FUNCTION} wanted"


# ---- printing and the environment


def call_problems(root):
    package = root / "fastconv"
    for path in python_files(root, "fastconv"):
        relative = path.relative_to(package)
        for node in ast.walk(parse(path)):
            name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
            if name == "print" and relative.parts[0] != "cli":
                yield f"{relative}:{node.lineno}: only the command line prints"
            if name in ("environ", "getenv") and relative.name != "_config.py":
                yield f"{relative}:{node.lineno}: only _config.py reads the environment"


# ---- what must be tested


def public_names(path):
    """The names that a module gives its users: imported, defined or assigned at top level, without an underscore
    before.
    """
    for node in parse(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names = [node.name]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def defines_op(path):
    bases = [base for node in ast.walk(parse(path)) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(isinstance(base, ast.Name) and base.id == "Op" for base in bases)


def untested_problems(root):
    tests = "\n".join(path.read_text(encoding="utf-8") for path in python_files(root, "tests"))
    for name in public_names(root / "fastconv/functional.py"):
        by_rank = re.sub(r"[123](?=d)", r"\\{\\w+\\}", name)  # "conv2d" may be named as "conv{ndim}d"
        if not re.search(rf"(?<!\w)({name}|{by_rank})(?!\w)", tests):
            yield f"functional.py: no test names {name}"
    for path in python_files(root, "fastconv/ops"):
        if defines_op(path) and not list((root / "tests").glob(f"test_{path.stem}*.py")):
            yield f"ops/{path.name}: tests/test_{path.stem}.py is missing"


# ---- paths of one machine

_FOLDERS = "work|home|root|Users|opt|mnt|tmp"
MACHINE_PATH = re.compile(rf"(?<![\w.~}}$-])/({_FOLDERS})/(?!me\b)\w")  # someone's home is no one's
TEXT = {".py", ".md", ".toml", ".csv", ".json", ".ipynb", ".txt", ".yml", ""}


def path_problems(root):
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") and part != ".ci" for part in relative.parts[:-1])
        if (
            hidden
            or path.name == ".git"
            or not path.is_file()
            or path.suffix not in TEXT
            or "__pycache__" in relative.parts
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                yield f"{relative}:{number}: a path of one machine: {line.strip()[:80]}"


CHECKS = {
    "imports": import_problems,
    "sizes": size_problems,
    "calls": call_problems,
    "tests": untested_problems,
    "paths": path_problems,
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_source_keeps_the_rule(check):
    problems = list(check(ROOT))
    assert not problems, "\n" + "\n".join(problems)


PLANTED = {
    "arrow": ("specs.py", "from .kernels import gemm", "specs may not import kernels"),
    "arrow by name": ("specs.py", "from . import driver", "specs may not import driver"),
    "arrow from a folder": ("kernels/gemm.py", "from ..ops.conv import x", "kernels may not import ops"),
    "arrow inside a function": ("autograd/op.py", "def f():\n    from .. import ops", "autograd may not import ops"),
    "not relative": ("nn/conv.py", "import fastconv.functional", "imports inside the package are relative"),
    "unknown module": ("misc.py", "", "misc is not in the table of arrows"),
    "numba": ("specs.py", "import numba.core", "numba may not be imported here"),
    "numba from": ("ops/conv.py", "from numba import njit", "numba may not be imported here"),
    "long file": ("specs.py", "#\n" * 500, "500 lines"),
    "long function": ("specs.py", "def f():\n" + "    x = 1\n" * 59, "f has 60 lines"),
    "print": ("nn/conv.py", "print(1)", "only the command line prints"),
    "environment": ("driver.py", "import os\nos.environ['X']", "only _config.py reads the environment"),
    "untested function": ("functional.py", "from .ops.conv import conv9d", "no test names conv9d"),
    "untested op": ("ops/conv.py", "class Conv(Op):\n    pass", "test_conv.py is missing"),
    "path": ("specs.py", "# see /" + "home/user/notes", "a path of one machine"),
}


@pytest.mark.parametrize("name, source, message", PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(tmp_path, name, source, message):
    path = tmp_path / "fastconv" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "fastconv" / "functional.py").touch()
    path.write_text(source)
    problems = [problem for check in CHECKS.values() for problem in check(tmp_path)]
    assert any(message in problem for problem in problems), problems
