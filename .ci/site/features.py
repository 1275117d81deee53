"""What there is, as tables: operations with their functions, layers and algorithms, and networks.

The first is what `fastconv ops` prints, in two parts that fit a page, with links to the reference.
"""

import importlib
import inspect
import re

from fastconv import models
from fastconv.cli.ops import table


def operations(places):
    """The page of operations; `places`: name -> its place in the reference."""
    head, *lines = table().split("\n")
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if line.startswith("| ")]
    names, rows = rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    if names != ["op", "functions", "layers", "passes", "derivatives", "algorithms", "dtypes"]:
        raise ValueError(f"the table of `fastconv ops` has other columns: {names}")
    rest = [line for line in lines if line.startswith("Layers made")]
    parts = [
        "---\nhide: [navigation]\n---",
        head,
        "A row is one file of `fastconv/ops`. Derivatives: how often it can be differentiated.",
        _table(["op", "what", "functions", "layers", "derivatives", "dtypes"], map(_described, rows)),
        *rest,
        "## Algorithms",
        "What the registry chooses from, pass by pass (`fastconv explain` shows the choice and its reasons); in "
        "brackets the files of `fastconv/kernels` where there is nothing to choose; NumPy where nothing is compiled.",
        _table(["op", "passes", "algorithms"], map(_split, rows)),
    ]
    return re.sub(r"`([^`]+)`", lambda match: _link(match, places), "\n\n".join(parts)) + "\n"


def _described(row):
    """A row and the first sentence of its file."""
    text = inspect.getdoc(importlib.import_module(f"fastconv.ops.{row['op']}")) or ""
    text = re.sub(r"\s*\([^()]*\d{4}[^()]*\)", "", text.partition("\n\n")[0])  # without its source
    return row | {"what": re.split(r"\.\s|, as in torch", f"{' '.join(text.split())} ")[0]}


def _split(row):
    """A row with every pass on a line of its own."""
    return row | {"algorithms": row["algorithms"].replace("; ", "<br>")}


def _table(names, rows):
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row[name] for name in names)} |" for row in rows)])


def _link(match, places):
    name = match[1].partition("/")[0]
    return f"[{match[0]}](reference/{places[name]})" if name in places else match[0]


def networks():
    """The page of networks."""
    lines = [
        "---\nhide: [toc]\n---",
        "# Networks",
        "What `fastconv models` lists. Multiply-adds are those of one input of the size beside them.",
        "| network | parameters | multiply-adds | input | paper |\n|---|---:|---:|---|---|",
    ]
    rows = []
    for network in models.NETWORKS.values():
        size = " x ".join(map(str, network.input_shape))
        name = f"[`{network.name}`](reference/models.md#{network.name})"
        millions = f"{network.multiply_adds / 1e6:,.{0 if network.multiply_adds > 1e7 else 1}f} M"
        rows.append(f"| {name} | {network.parameters:,} | {millions} | {size} | {network.paper} |")
    return "\n\n".join(lines) + "\n" + "\n".join(rows) + "\n"
