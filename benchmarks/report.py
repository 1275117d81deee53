"""What compare.py measured, as a table (Markdown) and a plot.

    python benchmarks/report.py benchmarks/results/compare.json

writes both anew beside the measurements.
"""

import json
import sys
from math import exp, log
from pathlib import Path

OURS = ("fastconv_layer", "fastconv")
TITLES = {
    "fastconv_layer": "fastconv layer",
    "fastconv": "fastconv F.*",
    "pytorch": "PyTorch",
    "pytorch_channels_last": "channels_last",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "ncnn": "ncnn",
    "mnn": "MNN",
}
PASSES = {"fwd": "Forward", "bwd_data": "Data gradient", "bwd_weights": "Weight gradient"}
# marker, face and edge: told apart by shape and by light and dark, without colour
MARKS = {
    "fastconv": ("|", "0.0"),
    "pytorch": ("o", "0.0"),
    "pytorch_channels_last": ("o", "1.0"),
    "onnxruntime": ("s", "0.55"),
    "openvino": ("D", "1.0"),
    "ncnn": ("^", "0.0"),
    "mnn": ("v", "0.75"),
}


def best_of_ours(row: dict) -> str:
    """The name that the peers are compared with: the layer, or the function where there is no layer."""
    return next(name for name in OURS if name in row["measured"])


def best_peer(row: dict) -> str | None:
    """The quickest library other than fastconv; None where no other has the op."""
    peers = {name: entry["seconds"] for name, entry in row["measured"].items() if name not in OURS}
    return min(peers, key=peers.get) if peers else None


def geometric_mean(values: list[float]) -> float:
    """The mean of ratios."""
    return exp(sum(map(log, values)) / len(values))


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def sections(results: dict) -> list[tuple[str, int, list[dict]]]:
    """(pass, threads, rows) in the order of the report."""
    keys = sorted({(list(PASSES).index(row["pass"]), row["threads"]) for row in results["rows"]})
    chosen = [(list(PASSES)[index], threads) for index, threads in keys]
    return [(p, t, [row for row in results["rows"] if (row["pass"], row["threads"]) == (p, t)]) for p, t in chosen]


def summary(rows: list[dict]) -> list[str]:
    """Sentences on one section; a ratio is the median over the rounds of the peer's time to ours."""
    lines = []
    for ours in OURS:
        ratios = [row["ratios"][ours] for row in rows if row["ratios"].get(ours)]
        if not ratios:
            continue
        best = [min(ratio.values()) for ratio in ratios]
        level = sum(ratio >= 1 for ratio in best)
        parts = [
            f"{geometric_mean(best):.2f} times the best peer of each row ({level} of {len(best)} rows level or ahead)"
        ]
        default = [ratio["pytorch"] for ratio in ratios if "pytorch" in ratio]
        if default:
            parts.append(f"{geometric_mean(default):.2f} times PyTorch's default layout")
        layouts = [
            min(v for k, v in ratio.items() if k.startswith("pytorch")) for ratio in ratios if "pytorch" in ratio
        ]
        if layouts:
            parts.append(f"{geometric_mean(layouts):.2f} times its better layout")
        lines.append(f"{TITLES[ours]}, geometric means of speed: {', '.join(parts)}.")
    return lines


def _cell(row: dict, name: str, best: str) -> str:
    if name not in row["measured"]:
        return "-"
    text = f"{row['measured'][name]['rate']:.1f}"
    return f"**{text}**" if name == best else text


def table(rows: list[dict]) -> list[str]:
    """One section as a Markdown table: speeds, the best of a row in bold, and two ratios."""
    names = [name for name in TITLES if any(name in row["measured"] for row in rows)]
    header = ["layer", "unit", *(TITLES[name] for name in names), "to best peer", "to PyTorch", "of peak"]
    lines = ["| " + " | ".join(header) + " |", "|---|---" + "|---:" * (len(header) - 2) + "|"]
    for row in rows:
        ours = best_of_ours(row)
        best = min(row["measured"], key=lambda name: row["measured"][name]["seconds"])
        ratios = row["ratios"].get(ours, {})
        to_best = f"{min(ratios.values()):.2f}" if ratios else "-"
        to_torch = f"{ratios['pytorch']:.2f}" if "pytorch" in ratios else "-"
        cells = [row["case"], row["unit"], *(_cell(row, name, best) for name in names), to_best, to_torch]
        lines.append("| " + " | ".join([*cells, f"{row['measured'][ours]['share_of_peak']:.0%}"]) + " |")
    return lines


def markdown(results: dict) -> str:
    """The whole report."""
    about = [
        f"{results['cpu']}, {results['date']}, commit {results['commit']}, {results['repeat']} interleaved rounds."
    ]
    about.append("Versions: " + ", ".join(f"{name} {number}" for name, number in results["versions"].items()) + ".")
    if results["load"] is not None:
        about.append(f"Load of the machine before the run: {results['load']} (of another process, if far above 0).")
    about.append(f"Threading layer of fastconv: {results['threading layer'] or 'not used'}.")
    for peak in results["peak"]:
        about.append(
            f"Measured peak, {_threads(peak['threads'])}: {peak['gflops']:.0f} GFLOP/s, {peak['gbytes']:.0f} GB/s."
        )
    about += [f"Absent: {name} ({reason})." for name, reason in results["absent"].items()]
    about.append(
        "Speeds are effective rates: the arithmetic of direct convolution, or each operand's bytes once, by the median "
        "time. 'to best peer', 'to PyTorch': the peer's time over ours, median of the rounds; above 1 fastconv leads. "
        "Data that stays in the caches can exceed the memory bandwidth."
    )
    parts = ["# fastconv and its peers", "\n".join(f"- {line}" for line in about)]
    for which, threads, rows in sections(results):
        parts.append(f"## {PASSES[which]}, {_threads(threads)}")
        parts += ["\n".join(summary(rows)), "\n".join(table(rows))]
    parts += _left_out(results)
    return "\n\n".join(parts) + "\n"


def _left_out(results: dict) -> list[str]:
    """Rows and cells without a time, with the reason."""
    lines = [f"- {entry['case']} {entry['pass']}: {entry['reason']}" for entry in results["not_there_yet"]]
    parts = ["## Not there yet", "\n".join(lines)] if lines else []
    reasons = {}
    for row in results["rows"]:
        for name, reason in row["left_out"].items():
            cases = reasons.setdefault((TITLES[name], row["pass"], reason), [])
            if row["case"] not in cases:
                cases.append(row["case"])
    lines = [f"- {name}, {which}: {reason} ({', '.join(cases)})" for (name, which, reason), cases in reasons.items()]
    lines = [line for line in lines if "gradients" not in line]  # that no other library has them is no news
    return [*parts, "## Left out", "\n".join(lines)] if lines else parts


def plot(results: dict, path: Path) -> None:
    """A panel per pass and thread count: each peer's time relative to ours, one line per layer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = sections(results)
    most = max(len(rows) for _, _, rows in panels)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 + 4.3 * len(panels), 2.4 + 0.21 * most), squeeze=False, layout="constrained"
    )
    for axis, (which, threads, rows) in zip(axes[0], panels, strict=True):
        _panel(axis, rows)
        axis.set_title(f"{PASSES[which]}, {_threads(threads)}")
    handles = {}
    for axis in axes[0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=min(len(handles), 4 * len(panels)),
        frameon=False,
    )
    figure.supxlabel(
        "time relative to fastconv (dimensionless, log scale): right of the line the other library is slower"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis, rows: list[dict]) -> None:
    import matplotlib.ticker as ticker

    axis.axvline(1, color="0.0", linewidth=1.2, zorder=1, label="fastconv")
    for name, (marker, shade) in MARKS.items():
        points = [(row["ratios"].get(best_of_ours(row), {}) | _own(row), place) for place, row in enumerate(rows)]
        points = [(ratios[name], place) for ratios, place in points if name in ratios]
        if points:
            style = {
                "marker": marker,
                "c": shade,
                "edgecolors": None if marker == "|" else "0.0",
                "s": 80 if marker == "|" else 30,
                "linewidths": 0.9,
            }
            axis.scatter(*zip(*points, strict=True), label=TITLES[name], zorder=3, **style)
    labels = [f"{row['case']}  {row['measured'][best_of_ours(row)]['rate']:.3g} {row['unit']}" for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.8), max(high, 1.25))
    axis.xaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.grid(True, color="0.87", linewidth=0.6, zorder=0)


def _own(row: dict) -> dict[str, float]:
    """The function beside the layer, as a ratio of medians."""
    if "fastconv" not in row["measured"] or best_of_ours(row) == "fastconv":
        return {}
    return {"fastconv": row["measured"]["fastconv"]["seconds"] / row["measured"]["fastconv_layer"]["seconds"]}


def write(results: dict, folder: Path, name: str = "compare") -> list[Path]:
    """The table and one plot per pass into a folder; returns the files."""
    paths = [folder / f"{name}.md"]
    paths[0].write_text(markdown(results), encoding="utf-8")
    for which in dict.fromkeys(row["pass"] for row in results["rows"]):
        paths.append(folder / f"{name}_{which}.png")
        plot({**results, "rows": [row for row in results["rows"] if row["pass"] == which]}, paths[-1])
    return paths


if __name__ == "__main__":
    source = Path(sys.argv[1])
    print(*write(json.loads(source.read_text(encoding="utf-8")), source.parent, source.stem), sep="\n")
