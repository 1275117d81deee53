"""What networks.py measured, as tables (Markdown) and a plot.

    python benchmarks/networks_report.py benchmarks/results/networks.json

writes both anew beside the measurements.
"""

import json
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import MARKS, TITLES, geometric_mean

NAMES = tuple(name for name in TITLES if name != "fastconv_layer")
TITLE = {**TITLES, "fastconv": "fastconv", "pytorch": "PyTorch"}


def sections(results: dict) -> list[tuple[str, list[dict]]]:
    """(title, rows) for each batch and number of threads."""
    found = {}
    for row in results["rows"]:
        found.setdefault((row["batch"], row["threads"]), []).append(row)
    return [(f"Batch {batch}, {threads} thread{'s' * (threads > 1)}", rows) for (batch, threads), rows in found.items()]


def table(rows: list[dict]) -> list[str]:
    """Milliseconds, the best of a row in bold, and how many times as long the best other library takes."""
    names = [name for name in NAMES if any(name in row["measured"] for row in rows)]
    lines = ["| network, ms | " + " | ".join(TITLE[name] for name in names) + " | to best peer |"]
    lines.append("|---" + "|---:" * (len(names) + 1) + "|")
    for row in rows:
        times = {name: entry["seconds"] for name, entry in row["measured"].items()}
        best = min(times, key=times.get)
        cells = [f"{times[name] * 1e3:.3g}" if name in times else "-" for name in names]
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(names, cells, strict=True)]
        ratio = f"{min(row['ratios'].values()):.2f}" if row["ratios"] else "-"
        lines.append("| " + " | ".join([row["network"], *cells, ratio]) + " |")
    return lines


def summary(rows: list[dict]) -> str:
    """One sentence on a section."""
    best = [min(row["ratios"].values()) for row in rows if row["ratios"]]
    if not best:
        return "No other library ran."
    ahead = sum(ratio >= 1 for ratio in best)
    return (
        f"Geometric mean of the best peer's time over fastconv's: {geometric_mean(best):.2f}; level or ahead on "
        f"{ahead} of {len(best)} networks."
    )


def markdown(results: dict) -> str:
    """The whole report."""
    about = [f"{results['cpu']}, {results['date']}, {results['repeat']} interleaved rounds, commit {results['commit']}"]
    about.append("Versions: " + ", ".join(f"{name} {number}" for name, number in results["versions"].items()))
    if results["load"] is not None:
        about.append(f"Load of the machine before the run: {results['load']} (of other processes, if far above 0)")
    about += [f"Absent: {name} ({reason})" for name, reason in results["absent"].items()]
    about.append(
        "Times are medians over the rounds; `to best peer` is the median over the rounds of the best peer's time over "
        "fastconv's: above 1 fastconv leads. Weights are random: times do not depend on them."
    )
    parts = ["# Compiled networks and their peers", "\n".join(f"- {line}" for line in about)]
    for title, rows in sections(results):
        parts += [f"## {title}", summary(rows), "\n".join(table(rows))]
    reasons = {}
    for row in results["rows"]:
        for name, reason in row["left_out"].items():
            reasons.setdefault((TITLE[name], reason), {})[row["network"]] = None
    lines = [f"- {name}: {reason} ({', '.join(networks)})" for (name, reason), networks in reasons.items()]
    return "\n\n".join([*parts, *(["## Left out", "\n".join(lines)] if lines else [])]) + "\n"


def plot(results: dict, path: Path) -> None:
    """A panel per batch and number of threads: each peer's time relative to ours, one line per network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = sections(results)
    most = max(len(rows) for _, rows in panels)
    size = (2.5 + 4.2 * len(panels), 2 + 0.28 * most)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    handles = {}
    for axis, (title, rows) in zip(axes[0], panels, strict=True):
        _panel(axis, rows)
        axis.set_title(title)
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel("time relative to fastconv (dimensionless, log scale): right of the line the other is slower")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, rows: list[dict]) -> None:
    import matplotlib.ticker as ticker

    axis.axvline(1, color="0.0", linewidth=1.2, zorder=1, label="fastconv")
    for name, (marker, shade) in MARKS.items():
        points = [(row["ratios"][name], place) for place, row in enumerate(rows) if name in row["ratios"]]
        if points:
            style = {"marker": marker, "c": shade, "edgecolors": "0.0", "s": 30, "linewidths": 0.9, "zorder": 3}
            axis.scatter(*zip(*points, strict=True), label=TITLE[name], **style)
    labels = [f"{row['network']}  {row['measured']['fastconv']['seconds'] * 1e3:.3g} ms" for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.7), max(high, 1.5))
    axis.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.grid(True, color="0.87", linewidth=0.6, zorder=0)


def write(results: dict, folder: Path) -> list[Path]:
    """The tables and the plot into a folder; returns the files."""
    paths = [folder / "networks.md", folder / "networks.png"]
    paths[0].write_text(markdown(results), encoding="utf-8")
    plot(results, paths[1])
    return paths


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*write(json.loads(source.read_text(encoding="utf-8")), source.parent), sep="\n")
