"""The README's table of measured results, written from what compare.py measured.

    python benchmarks/readme_table.py [compare.json]

replaces what stands between the two marks in README.md; a full run of compare.py does it by itself.
"""

import json
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import TITLES, best_of_ours, best_peer, summary

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def _rows(results: dict, which: str, threads: int) -> dict[str, dict]:
    return {row["case"]: row for row in results["rows"] if (row["pass"], row["threads"]) == (which, threads)}


def _against(row: dict | None) -> str:
    """Our speed over the best peer's."""
    ratios = row["ratios"].get(best_of_ours(row), {}) if row else {}
    return f"{min(ratios.values()):.2f}" if ratios else ""


def _gradient(row: dict | None) -> str:
    """Our rate and, in brackets, our speed over PyTorch's in its better layout."""
    if row is None:
        return ""
    ratio = _against(row)
    return f"{row['measured'][best_of_ours(row)]['rate']:.0f}" + (f" ({ratio})" if ratio else "")


def table(results: dict) -> list[str]:
    """One line a layer: forward on one thread, ratios to the best peer on one and all threads, gradients."""
    counts = sorted({row["threads"] for row in results["rows"]})
    forward, most = _rows(results, "fwd", counts[0]), _rows(results, "fwd", counts[-1])
    gradients = [_rows(results, which, counts[0]) for which in ("bwd_data", "bwd_weights")]
    titles = ["layer", "fastconv", "of peak", "PyTorch", "channels_last", "best peer", "ours / best"]
    titles += [f"on {counts[-1]} threads", "data gradient", "weight gradient"]
    lines = ["| " + " | ".join(titles) + " |", "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|"]
    for name, row in forward.items():
        own, peer = row["measured"][best_of_ours(row)], best_peer(row)
        rates = {key: f"{entry['rate']:.1f}" for key, entry in row["measured"].items()}
        cells = [name, rates[best_of_ours(row)] + (" GB/s" if row["unit"] == "GB/s" else "")]
        cells += [f"{own['share_of_peak']:.0%}", rates.get("pytorch", ""), rates.get("pytorch_channels_last", "")]
        cells += [f"{TITLES[peer]} {rates[peer]}" if peer else "", _against(row), _against(most.get(name))]
        lines.append("| " + " | ".join([*cells, *(_gradient(rows.get(name)) for rows in gradients)]) + " |")
    return lines


def section(results: dict) -> str:
    """What stands between the marks."""
    counts = sorted({row["threads"] for row in results["rows"]})
    peak = results["peak"][0]
    lines = [
        f"GFLOP/s (pooling: GB/s) on one thread of an {results['cpu']}, measured peak {peak['gflops']:.0f} GFLOP/s and "
        f"{peak['gbytes']:.0f} GB/s, {results['date'][:10]}, commit {results['commit']}, float32, medians of "
        f"{results['repeat']} interleaved rounds.",
        "",
        *table(results),
        "",
    ]
    for threads in dict.fromkeys((counts[0], counts[-1])):
        rows = list(_rows(results, "fwd", threads).values())
        lines += [f"* Forward, {threads} thread{'s' * (threads > 1)}: {line}" for line in summary(rows)]
    return "\n".join(lines)


def update(results: dict, readme: Path = ROOT / "README.md") -> None:
    """Write the section into the README."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{section(results)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results" / "compare.json"
    update(json.loads(source.read_text(encoding="utf-8")))
