"""Advice by the four guidelines of Ma et al. 2018, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
Design", arXiv 1807.11164, section 2, with the measured share of the time.

1  Equal channel widths minimise memory access: a 1x1 convolution of B multiply-adds on hw pixels moves at least
   2 sqrt(hw B) + B / hw numbers, and does so where input and output channels are equal (equation 1).
2  Group convolution raises memory access for the same multiply-adds (equation 2).
3  Fragmentation, many small operations side by side, lowers parallelism.
4  Element-wise operations are not negligible; a depthwise convolution counts as one.
"""

from dataclasses import dataclass
from math import sqrt

UNEQUAL = 1.2  # times the least traffic, from where on guideline 1 speaks: 1:4 on a large map
GROUPED = 1.5  # times the traffic of the dense layer with the same multiply-adds
BRANCHES = 3
SHARE = 0.01  # of the time, below which nothing is said
_NOT_ELEMENTWISE = ("pool", "mean", "sum", "extreme", "softmax", "interpolate", "sample", "roi", "fold")


@dataclass(frozen=True)
class Advice:
    """One warning: the guideline's number, the layer or block, what is the matter, and its share of the time."""

    guideline: int
    layer: str
    text: str
    share: float

    def __str__(self):
        return f"guideline {self.guideline}: {self.layer} ({100 * self.share:.1f} % of the time): {self.text}"


def guidelines(trace, seconds):
    """All advice on a timed trace, the largest share of the time first."""
    total = sum(seconds) or 1.0
    found = [*_convolutions(trace, seconds, total), *_fragments(trace, seconds, total)]
    found += _elementwise(trace, seconds, total)
    return sorted((a for a in found if a.share >= SHARE), key=lambda advice: -advice.share)


def _traffic(spec, ic, oc, groups):
    """Numbers that a convolution reads and writes."""
    return spec.in_pixels * ic + spec.out_pixels * oc + ic * oc * spec.taps / groups


def _convolutions(trace, seconds, total):
    """Guidelines 1 and 2, layer by layer."""
    for row, taken in zip(trace.rows, seconds, strict=True):
        spec = row.conv
        if spec is None:
            continue
        moved = _traffic(spec, spec.ic, spec.oc, spec.g)
        if spec.taps == spec.g == 1 and spec.in_pixels == spec.out_pixels:
            products = spec.out_pixels * spec.ic * spec.oc
            least = 2 * sqrt(spec.out_pixels * products) + products / spec.out_pixels
            if moved > UNEQUAL * least:
                width = f"{sqrt(spec.ic * spec.oc):.0f}"
                text = f"{spec.ic} channels to {spec.oc} move {moved / least:.2f} times what {width} to {width} would"
                yield Advice(1, row.name, text, taken / total)
        elif spec.g > 1 and spec.icg > 1:
            dense = _traffic(spec, spec.ic, spec.oc / spec.g, 1)
            if moved > GROUPED * dense:
                text = (
                    f"{spec.g} groups move {moved / dense:.2f} times what a dense layer of as many multiply-adds would"
                )
                yield Advice(2, row.name, text, taken / total)


def _fragments(trace, seconds, total):
    """Guideline 3: blocks that join branches which they have computed side by side."""
    overall = sum(row.multiply_adds for row in trace.rows) / total
    for index, step in enumerate(trace.steps):
        if step.name != "cat":
            continue
        number, path = step.calls[-1]
        inside = [i for i, s in enumerate(trace.steps[:index]) if any(n == number for n, _ in s.calls)]
        own = set(inside)
        branches = [i for i in step.sources if i in own and not _feeds(trace, i, step.sources, own)]
        if len(branches) < BRANCHES:
            continue
        rows = {trace.steps[i].row for i in inside} - {None}
        taken = sum(seconds[row] for row in rows)
        heavy = sum(trace.steps[i].name == "conv" or "pool" in trace.steps[i].name for i in inside)
        rate = sum(trace.rows[row].multiply_adds for row in rows) / taken if taken else 0.0
        text = f"{len(branches)} branches of {heavy} convolutions, poolings do {rate / 1e9:.1f} G multiply-adds/s"
        yield Advice(3, path or "the network", f"{text}, all layers {overall / 1e9:.1f} G", taken / total)


def _feeds(trace, step, others, own):
    """Whether one of `others` is computed from `step`."""
    waiting, seen = [i for i in others if i != step], set()
    while waiting:
        for source in trace.steps[waiting.pop()].sources:
            if source == step:
                return True
            if source in own and source not in seen:
                seen.add(source)
                waiting.append(source)
    return False


def _elementwise(trace, seconds, total):
    """Guideline 4: all of them, and each that matters."""
    rows = [(row, taken) for row, taken in zip(trace.rows, seconds, strict=True) if _is_elementwise(row)]
    share = sum(taken for _, taken in rows) / total
    if rows:
        text = f"{len(rows)} element-wise operations (depthwise convolutions among them) do "
        products = sum(row.multiply_adds for row in trace.rows) or 1
        part = sum(row.multiply_adds for row, _ in rows) / products
        yield Advice(4, "the network", f"{text}{100 * part:.1f} % of the multiply-adds", share)
    for row, taken in rows:
        moved = (row.read + row.written + row.constants) / 1e6
        speed = moved / 1e3 / taken if taken else 0.0
        yield Advice(4, row.name, f"{row.kind} moves {moved:.3g} MB at {speed:.3g} GB/s", taken / total)


def _is_elementwise(row):
    if row.conv is not None:
        return row.conv.g > 1 and row.conv.icg == 1
    mixes = any(word in name for name in row.operations for word in _NOT_ELEMENTWISE)
    return row.written > 0 and not row.multiply_adds and not mixes
