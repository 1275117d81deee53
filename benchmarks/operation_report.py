"""What operations.py measured, as a table (Markdown) and a plot.

    python benchmarks/operation_report.py benchmarks/results/operations.json

writes both anew beside the measurements.
"""

import json
import sys
from math import exp, log
from pathlib import Path

PASSES = {"fwd": "forward", "bwd": "backward"}


def columns(results: dict) -> list[tuple[str, int]]:
    """(pass, threads) in the order of the report."""
    keys = {(row["pass"], row["threads"]) for row in results["rows"]}
    return sorted(keys, key=lambda key: (key[1], list(PASSES).index(key[0])))


def groups(results: dict) -> dict[str, dict[str, dict[tuple[str, int], dict]]]:
    """Rows by group, operation, and (pass, threads)."""
    found: dict[str, dict[str, dict[tuple[str, int], dict]]] = {}
    for row in results["rows"]:
        found.setdefault(row["group"], {}).setdefault(row["name"], {})[row["pass"], row["threads"]] = row
    return found


def title(key: tuple[str, int]) -> str:
    """'forward, 2 threads'."""
    return f"{PASSES[key[0]]}, {key[1]} thread" + "s" * (key[1] > 1)


def _mean(rows: list[dict]) -> float:
    return exp(sum(log(row["ratio"]) for row in rows) / len(rows))


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    ratio = f"{row['ratio']:.2f}"
    return f"{1e3 * row['ours']:.3f} / {1e3 * row['torch']:.3f}: " + (
        f"**{ratio}**" if row["ratio"] >= row["goal"] else ratio
    )


def summary(name: str, rows: list[dict], keys: list[tuple[str, int]]) -> str:
    """One line on a group: geometric means of the ratios, and how many reach the goal."""
    parts = []
    for key in keys:
        chosen = [row for row in rows if (row["pass"], row["threads"]) == key]
        reached = sum(row["ratio"] >= row["goal"] for row in chosen)
        parts.append(f"{title(key)} {_mean(chosen):.2f} ({reached} of {len(chosen)} reach the goal)")
    return f"{name}, geometric means: {'; '.join(parts)}."


def markdown(results: dict) -> str:
    """The whole report."""
    about = [
        f"{results['cpu']}, {results['date']}, commit {results['commit']}, "
        f"up to {results['repeat']} interleaved rounds.",
        f"PyTorch {results['versions']['torch']}; threading layer of fastconv: "
        f"{results['versions']['threading layer'] or 'not used'}.",
        f"Load of the machine before the run: {results['load']}.",
        "A cell has fastconv's and PyTorch's milliseconds, and PyTorch's time over fastconv's, median of the rounds; "
        "bold where it reaches the goal. PyTorch's side is its own function or, where it has none, the composition of "
        "`benchmarks/compositions.py`. Backward is the gradient of every real operand.",
    ]
    keys, parts = columns(results), ["# Operations and PyTorch", "\n".join(f"- {line}" for line in about)]
    for group, operations in groups(results).items():
        lines = [
            "| operation | goal | " + " | ".join(map(title, keys)) + " |",
            "|---|---:|" + "---:|" * len(keys),
        ]
        for name, cells in operations.items():
            goal = next(iter(cells.values()))["goal"]
            lines.append(f"| {name} | {goal:g} | " + " | ".join(_cell(cells.get(key)) for key in keys) + " |")
        rows = [row for cells in operations.values() for row in cells.values()]
        parts += [f"## {group}", summary(group, rows, keys), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def plot(results: dict, path: Path) -> None:
    """A panel per pass: PyTorch's time over ours, one line per operation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    passes = list(dict.fromkeys(which for which, _ in columns(results)))
    names = [(group, name) for group, operations in groups(results).items() for name in operations]
    figure, axes = plt.subplots(
        1, len(passes), figsize=(3 + 4.2 * len(passes), 1.6 + 0.155 * len(names)), squeeze=False, layout="constrained"
    )
    for axis, which in zip(axes[0], passes, strict=True):
        _panel(axis, [row for row in results["rows"] if row["pass"] == which], names, axis is axes[0][0])
        axis.set_title(PASSES[which])
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.supxlabel(
        "PyTorch's time relative to fastconv's (dimensionless, log scale): right of the line fastconv leads"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, rows: list[dict], names: list[tuple[str, str]], labelled: bool) -> None:
    import matplotlib.ticker as ticker

    places = {name: place for place, name in enumerate(names)}
    axis.axvline(1, color="0.0", linewidth=1.2, zorder=1, label="equal")
    goals = {places[row["group"], row["name"]]: row["goal"] for row in rows}
    axis.scatter(list(goals.values()), list(goals), marker="|", c="0.45", s=60, zorder=2, label="goal")
    counts = sorted({row["threads"] for row in rows})
    for threads, face in zip(counts, ("0.0", "1.0", "0.6", "0.8"), strict=False):
        points = [(row["ratio"], places[row["group"], row["name"]]) for row in rows if row["threads"] == threads]
        label = f"{threads} thread" + "s" * (threads > 1)
        axis.scatter(*zip(*points, strict=True), c=face, edgecolors="0.0", s=22, linewidths=0.9, zorder=3, label=label)
    texts = [name for _, name in names] if labelled else [""] * len(names)
    axis.set_yticks(range(len(names)), texts, fontsize=7)
    for place in range(1, len(names)):
        if names[place][0] != names[place - 1][0]:
            axis.axhline(place - 0.5, color="0.6", linewidth=0.8, zorder=0)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 3)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.grid(True, color="0.87", linewidth=0.6, zorder=0)


def write(results: dict, folder: Path) -> list[Path]:
    """The table and the plot into a folder; returns the files."""
    paths = [folder / "operations.md", folder / "operations.png"]
    paths[0].write_text(markdown(results), encoding="utf-8")
    plot(results, paths[1])
    return paths


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*write(json.loads(source.read_text(encoding="utf-8")), source.parent), sep="\n")
