"""What the layers of a network cost."""

from typing import TYPE_CHECKING

import numpy as np

from .fields import fields_on
from .style import label, lighten, picture, title_of

if TYPE_CHECKING:
    from ..summary import Summary

MOST_BARS = 40  # more can't be read; of a larger network the most expensive ones are drawn


def summary_picture(path, summary: "Summary"):
    """What a network's layers cost and see: `cost_picture` and `field_picture` on one page, as a PNG."""
    figure = picture(13, max(6, _height(summary)))
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1))[0]
    _costs(left, summary)
    fields_on(right, summary, 1)
    return figure.write(path)


def cost_picture(path, summary: "Summary"):
    """A bar for each layer: multiply-adds, memory traffic and, if it was timed, time, each as a share of the network.

    Of more than MOST_BARS layers those with the largest shares are drawn, in running order.
    """
    figure = picture(9, _height(summary))
    _costs(figure, summary)
    return figure.write(path)


def _height(summary):
    return 1.2 + 0.2 * min(len(summary.layers), MOST_BARS)


def _costs(figure, summary):
    quantities = {"multiply-adds": [layer.multiply_adds for layer in summary.layers]}
    quantities["memory traffic"] = [layer.bytes for layer in summary.layers]
    if summary.seconds:
        quantities["time"] = [layer.seconds for layer in summary.layers]
    shares = {name: 100 * np.array(v, float) / max(sum(v), 1e-30) for name, v in quantities.items()}
    order = np.argsort(-np.max(list(shares.values()), axis=0), kind="stable")[:MOST_BARS]
    rows = np.sort(order)
    axes = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for axis, (name, share) in zip(axes, shares.items(), strict=True):
        axis.barh(range(len(rows)), share[rows], color="0.45", height=0.75)
        label(lighten(axis, "x"), title=name, x="% of the network")
        axis.margins(y=0.01)
    names = [f"{summary.layers[i].name}  ({summary.layers[i].kind})" for i in rows]
    axes[0].set_yticks(range(len(rows)), names)
    axes[0].invert_yaxis()
    left_out = len(summary.layers) - len(rows)
    title_of(figure, f"{summary.model}: costs by layer" + (f" (the {len(rows)} largest)" if left_out else ""))
