"""Pictures, drawn by matplotlib without a screen; readable in print without colour."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from .autograd import no_grad

if TYPE_CHECKING:
    from .summary import Summary

STYLE = {"title": 11, "label": 9, "tick": 8, "dpi": 150}
DIVERGING = "gray"  # negative weights dark, positive ones light, zero mid-grey
INK = "Greys"  # more is darker


def network_picture(path, model, image, confusion, caption):
    """What a small classifier has learned: first-layer filters, feature maps of one image, the confusion matrix.

    path: where the PNG goes; model: an nn.Sequential that begins with Conv2d of one input channel, a norm and ReLU;
    image: (1, H, W); confusion: (classes, classes) counts, rows true; caption: what the image is.
    """
    filters = model[0].weight.data[:, 0]
    with no_grad():
        maps = model[:3].eval()(image[None])[0]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.3, 1))[0]
    upper, lower = left.subfigures(2, 1, squeeze=False)[:, 0]
    limit = np.abs(filters).max()
    _title(upper, f"{len(filters)} filters of the first layer (dark -{limit:.2f}, light +{limit:.2f})")
    _tiles(upper, filters, colours=DIVERGING, low=-limit, high=limit)
    _title(lower, f"{caption}, and its {len(maps)} feature maps (more is darker)")
    _tiles(lower, maps, colours=INK, low=0, high=None, first=image[0])
    _confusion(right, confusion)
    figure.savefig(Path(path), dpi=STYLE["dpi"])


def learning_curve(path, epochs):
    """The training loss of each epoch and, where they were measured, the validation accuracies, as a PNG.

    epochs: records {"epoch", "loss", and maybe "validation_accuracy"}, as `training.fit` returns them.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    numbers = [record["epoch"] for record in epochs]
    axis.plot(numbers, [record["loss"] for record in epochs], "k-o", markersize=3, label="training loss")
    axis.set(xlabel="epoch", ylabel="training loss")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = list(axis.lines)
    judged = [record for record in epochs if "validation_accuracy" in record]
    if judged:
        right = axis.twinx()
        shares = [100 * record["validation_accuracy"] for record in judged]
        right.plot([record["epoch"] for record in judged], shares, "k--s", markersize=3, label="validation accuracy")
        right.set_ylabel("validation accuracy (%)")
        lines += right.lines
    axis.legend(handles=lines, loc="center right", fontsize=STYLE["label"])
    figure.savefig(Path(path), dpi=STYLE["dpi"])


def _title(figure, text):
    figure.suptitle(text, fontsize=STYLE["title"])


def _tiles(figure, images, *, colours, low, high, first=None):
    """Small images in two rows; `first` twice as large at the left; `high` None: each is scaled to its own maximum."""
    columns = -(-len(images) // 2)
    start = 0 if first is None else 2
    grid = figure.add_gridspec(2, start + columns)
    if first is not None:
        _tile(figure.add_subplot(grid[:, :2]), first, colours, low, high)
    for i, image in enumerate(images):
        _tile(figure.add_subplot(grid[i // columns, start + i % columns]), image, colours, low, high)


def _tile(axis, image, colours, low, high):
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("0.5")
    axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _confusion(figure, confusion):
    """Cells shaded by their share of the row, with the counts written in them."""
    axis = figure.subplots()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap=INK, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            ink = "white" if share[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count}", ha="center", va="center", color=ink, fontsize=STYLE["label"])
    classes = range(len(confusion))
    axis.set_xticks(classes, classes, fontsize=STYLE["tick"])
    axis.set_yticks(classes, classes, fontsize=STYLE["tick"])
    axis.set_xlabel("predicted (number of images; shade: share of the row)", fontsize=STYLE["label"])
    axis.set_ylabel("true", fontsize=STYLE["label"])
    right, total = np.trace(confusion), confusion.sum()
    _title(figure, f"{100 * right / total:.2f} % of {total} held-out images right")


# ---- summaries

MOST_BARS = 40  # more can't be read; of a larger network the most expensive ones are drawn
MOST_FIELDS = 8


def summary_picture(path, summary: "Summary"):
    """What a network's layers cost and see: `cost_picture` and `field_picture` on one page, as a PNG."""
    figure = Figure(figsize=(13, max(6, 1.2 + 0.2 * min(len(summary.layers), MOST_BARS))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.5, 1))[0]
    _costs(left, summary)
    _fields(right, summary, 1)
    figure.savefig(Path(path), dpi=STYLE["dpi"], format="png")


def cost_picture(path, summary: "Summary"):
    """A bar for each layer: multiply-adds, memory traffic and, if it was timed, time, each as a share of the network.

    Of more than MOST_BARS layers those with the largest shares are drawn, in running order.
    """
    figure = Figure(figsize=(9, 1.2 + 0.2 * min(len(summary.layers), MOST_BARS)), layout="constrained")
    FigureCanvasAgg(figure)
    _costs(figure, summary)
    figure.savefig(Path(path), dpi=STYLE["dpi"], format="png")


def field_picture(path, summary: "Summary"):
    """The receptive fields of the centre outputs of up to MOST_FIELDS layers, to scale, on the input image.

    Raises ValueError for a network without images of two axes.
    """
    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    _fields(figure, summary, 2)
    figure.savefig(Path(path), dpi=STYLE["dpi"], format="png")


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
        axis.set_title(name, fontsize=STYLE["title"])
        axis.set_xlabel("% of the network", fontsize=STYLE["label"])
        axis.tick_params(labelsize=STYLE["tick"])
        axis.margins(y=0.01)
        axis.grid(axis="x", color="0.85")
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    names = [f"{summary.layers[i].name}  ({summary.layers[i].kind})" for i in rows]
    axes[0].set_yticks(range(len(rows)), names, fontsize=STYLE["tick"])
    axes[0].invert_yaxis()
    left_out = len(summary.layers) - len(rows)
    _title(figure, f"{summary.model}: costs by layer" + (f" (the {len(rows)} largest)" if left_out else ""))


def _fields(figure, summary, columns):
    """Windows as rectangles around the image's centre output, the largest lightest."""
    layers = _growing(summary)
    if not layers:
        raise ValueError("field_picture: the network has no layer with a receptive field of two axes")
    height, width = summary.input_shapes[0][-2:]
    axis = figure.subplots()
    frame = Rectangle((0, 0), width, height, fill=False, edgecolor="black", linewidth=2, linestyle="--", zorder=100)
    axis.add_patch(frame)
    low, high = [0.0, 0.0], [float(width), float(height)]
    for number, layer in enumerate(reversed(layers)):
        (top, left), (tall, wide) = zip(*map(_centre_window, layer.field, layer.output_shape[-2:]), strict=True)
        shade = f"{0.92 - 0.7 * number / max(len(layers) - 1, 1):.2f}"
        box = Rectangle((left, top), wide, tall, facecolor=shade, edgecolor="black", linewidth=0.6, alpha=0.8)
        box.set_zorder(1 + number)
        box.set_label(f"{layer.name}: {tall:g} x {wide:g}, jump {layer.field[0].jump:g}")
        axis.add_patch(box)
        low = [min(low[0], left), min(low[1], top)]
        high = [max(high[0], left + wide), max(high[1], top + tall)]
    margin = 0.03 * max(high[0] - low[0], high[1] - low[1])
    axis.set_xlim(low[0] - margin, high[0] + margin)
    axis.set_ylim(high[1] + margin, low[1] - margin)
    axis.set_aspect("equal")
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.get_major_locator().set_params(integer=True)
    axis.tick_params(labelsize=STYLE["tick"])
    axis.set_xlabel(f"pixels of the {width} x {height} input (broken line)", fontsize=STYLE["label"])
    figure.legend(loc="outside lower center", fontsize=STYLE["tick"], frameon=False, ncols=columns)
    _title(figure, "what the centre output sees")


def _growing(summary):
    """Layers whose field is larger than all before, thinned out to MOST_FIELDS, first and last among them."""
    growing, largest = [], 0.0
    for layer in summary.layers:
        if len(layer.field) == 2 and len(layer.output_shape) == 4 and layer.field[0].size > largest:
            largest = layer.field[0].size
            growing.append(layer)
    keep = np.unique(np.linspace(0, len(growing) - 1, min(len(growing), MOST_FIELDS)).round().astype(int))
    return [growing[i] for i in keep]


def _centre_window(field, count):
    """(first pixel, size) of the window of the middle one of `count` outputs."""
    return field.low + (count - 1) // 2 * field.jump, field.size


def profile_picture(path, profile, most=40):
    """Where a compiled network's time goes: one bar for each of the `most` slowest nodes, in running order.

    path: where the PNG goes; profile: from `net.profile()`.  Bars are labelled with the algorithm and its GFLOP/s.
    """
    slowest = sorted(profile.nodes, key=lambda node: -node.milliseconds)[:most]
    nodes = [node for node in profile.nodes if any(node is other for other in slowest)]
    figure = Figure(figsize=(9, 1.2 + 0.19 * len(nodes)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    places = range(len(nodes))
    axis.barh(places, [node.milliseconds for node in nodes], color="0.45")
    for place, node in zip(places, nodes, strict=True):
        speed = f", {node.gflops:.0f} GFLOP/s" if node.gflops >= 1 else ""
        axis.text(node.milliseconds, place, f" {node.algorithm}{speed}", va="center", fontsize=STYLE["tick"] - 2)
    axis.set_yticks(places, [node.name for node in nodes], fontsize=STYLE["tick"] - 2)
    axis.invert_yaxis()
    axis.margins(x=0.35, y=0.01)
    axis.set_xlabel("milliseconds", fontsize=STYLE["label"])
    shown = sum(node.share for node in nodes)
    axis.set_title(f"{profile.milliseconds:.2f} ms; these nodes: {shown:.0%}", fontsize=STYLE["title"])
    figure.savefig(Path(path), dpi=STYLE["dpi"])
