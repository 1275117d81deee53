"""Print the table of all operations: functions, layers, passes, algorithms, dtypes.  OPS.md holds it.

The table is read from the package itself: functional.py, the layers' code, the registry.
"""

import ast
import importlib
import inspect
import re
from collections import defaultdict
from pathlib import Path

from .. import _registry, nn
from ..autograd import Op

ROOT = Path(__file__).parents[1]
PASSES = ("fwd", "bwd_data", "bwd_weights", "bwd")


def add_arguments(parser):
    del parser  # there are none


def run(args):
    del args
    print(table(), end="")


def table():
    """The table as Markdown."""
    functions, kernels = _functions(), _registered()
    layers, blocks = _layers({name: op for op, names in functions.items() for name in names})
    lines = [
        "# Operations",
        "",
        "Printed by `python -m fastconv ops`; do not edit. A row is one file of `ops/`. Derivatives: how often it can",
        "be differentiated. Algorithms: what the registry chooses from, pass by pass; in brackets the files of",
        "`kernels/` where there is nothing to choose; NumPy where nothing is compiled.",
        "",
        "| op | functions | layers | passes | derivatives | algorithms | dtypes |",
        "|---|---|---|---|---|---|---|",
    ]
    for op, names in sorted(functions.items()):
        module = importlib.import_module(f"..ops.{op}", __package__)
        passes = _passes(op, kernels)
        cells = [op, _join(_ranks(names)), _join(_ranks(layers[op])), _join_passes(passes), _derivatives(module)]
        lines.append("| " + " | ".join([*cells, _algorithms(op, passes), _dtypes(op, module)]) + " |")
    lines += ["", f"Layers made of other layers: {_join(_ranks(blocks))}.", ""]
    return "\n".join(lines)


def _join(names):
    return ", ".join(f"`{name}`" for name in names)


def _ranks(names):
    """Names in order, those that differ in 1d, 2d, 3d as one: conv1d/2d/3d."""
    groups = defaultdict(list)
    for name in sorted(names, key=lambda name: (name.lower(), name)):
        match = re.fullmatch(r"(\D*)([123]d)(\w*)", name)
        groups[(match[1], match[3]) if match else (name, None)].append(match[2] if match else "")
    return [head + "/".join(ranks) + (tail or "") for (head, tail), ranks in groups.items()]


def _functions():
    """Op file -> its public functions."""
    found = defaultdict(list)
    for node in ast.parse((ROOT / "functional.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ops."):
            found[node.module.removeprefix("ops.")] += [alias.asname or alias.name for alias in node.names]
    return found


# ---- layers


def _layers(op_of):
    """Op file -> layers that are named after one of its functions or call no other's; and all other layers."""
    layers, blocks = defaultdict(list), []
    for name in nn.__all__:
        cls = getattr(nn, name)
        if not inspect.isclass(cls) or name in ("Module", "Parameter"):
            continue
        named_after = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        own = [op_of[call] for call in (named_after, re.sub(r"[123]d$", "", named_after)) if call in op_of]
        ops = own[:1] or sorted({op_of[call] for call in _calls(cls) if call in op_of})
        if len(ops) == 1:
            layers[ops[0]].append(name)
        elif not name.endswith(("List", "Dict")):
            blocks.append(name)
    return layers, blocks


def _calls(cls):
    """The functions that a layer's own code and that of its bases name."""
    for base in cls.__mro__:
        if base.__module__.startswith(nn.__name__) and base is not nn.Module:
            for node in ast.walk(ast.parse(inspect.getsource(base))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "F":
                    yield node.attr


# ---- passes, algorithms, dtypes


def _ops(module):
    return [cls for cls in vars(module).values() if inspect.isclass(cls) and issubclass(cls, Op) and cls is not Op]


def _derivatives(module):
    return "once" if any(not op.twice for op in _ops(module) if op.__module__ == module.__name__) else "any"


def _registered():
    """Kernel file -> its implementations as (operation, algorithm's name)."""
    found = defaultdict(list)
    for operation in _registry.operations():
        for impl in _registry.implementations(operation):
            found[impl.__module__.rpartition(".")[2]].append((operation, impl.name))
    return found


def _kernels_of(op):
    """The files of kernels/ that an op's file imports."""
    found = []
    for node in ast.walk(ast.parse((ROOT / "ops" / f"{op}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            if node.module == "kernels":
                found += [alias.name for alias in node.names]
            elif node.module.startswith("kernels."):
                found.append(node.module.removeprefix("kernels."))
    return sorted(set(found))


def _compiles(op):
    """Whether the op's file has a kernel of its own."""
    return "@tile_body(" in (ROOT / "ops" / f"{op}.py").read_text(encoding="utf-8")


def _through(op):
    """The op files that do the work of one that has no kernels."""
    tree = ast.parse((ROOT / "ops" / f"{op}.py").read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
    return sorted(module for module in modules if module and (_kernels_of(module) or _compiles(module)))


def _passes(op, registered):
    """(family, pass) -> algorithms."""
    passes = defaultdict(list)
    for file in _kernels_of(op):
        for operation, name in registered[file]:
            family, _, which = operation.partition(".")
            passes[family, which].append(re.sub(rf"^({family}_)?({which}_)?", "", name))
    return dict(sorted(passes.items(), key=_pass_order))


def _join_passes(passes):
    """The names of the passes; an operation outside the registry has the two that every one has."""
    return ", ".join(dict.fromkeys(which for _, which in passes)) or "fwd, bwd"


def _algorithms(op, passes):
    files, through = _kernels_of(op), _through(op)
    if passes:
        several = len({family for family, _ in passes}) > 1
        return "; ".join(
            f"{f'{family}.' if several else ''}{which}: {', '.join(sorted(set(names)))}"
            for (family, which), names in passes.items()
        )
    if files:
        return f"({', '.join(files)})"
    if _compiles(op):
        return "(in its own file)"
    return f"through {', '.join(through)}" if through else "NumPy"


def _pass_order(item):
    family, which = item[0]
    return family, PASSES.index(which) if which in PASSES else len(PASSES), which


def _dtypes(op, module):
    """What the file says in DTYPES; else what kernels or NumPy compute."""
    kernels = _kernels_of(op) or _compiles(op) or _through(op)
    return getattr(module, "DTYPES", "float32, float64" if kernels else "floating point")
