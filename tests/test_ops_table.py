"""The table of operations in the documentation is the one that the package gives."""

from pathlib import Path

from fastconv import _registry, functional, nn
from fastconv.cli import main, ops

FILE = Path(ops.__file__).parents[1] / "OPS.md"


def test_the_file_is_current(capsys):
    assert main(["ops"]) == 0
    assert FILE.read_text() == capsys.readouterr().out, "run: python -m fastconv ops > fastconv/OPS.md"


def test_nothing_is_missing():
    text = ops.table().replace("`", "")
    for name in vars(functional):
        if not name.startswith("_") and name != "ops" and callable(getattr(functional, name)):
            assert _is_in(name, text), name
    for name in nn.__all__:
        if name[0].isupper() and name not in ("Module", "ModuleDict", "ModuleList", "Parameter"):
            assert _is_in(name, text), name
    for operation in _registry.operations():
        assert operation.rpartition(".")[2] in text


def _is_in(name, text):
    """conv2d is also in conv1d/2d/3d."""
    for rank in ("1d", "2d", "3d"):
        head, found, tail = name.partition(rank)
        if found and any(f"{head}{ranks}{tail}" in text for ranks in ("1d/2d/3d", "2d/3d", rank)):
            return True
    return name in text
