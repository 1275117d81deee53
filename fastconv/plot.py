"""Pictures, drawn by matplotlib without a screen; readable in print without colour."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

STYLE = {"title": 11, "label": 9, "tick": 8, "dpi": 150}
DIVERGING = "gray"  # negative weights dark, positive ones light, zero mid-grey
INK = "Greys"  # more is darker


def network_picture(path, model, image, confusion, caption):
    """What a small classifier has learned: first-layer filters, feature maps of one image, the confusion matrix.

    path: where the PNG goes; model: an nn.Sequential that begins with Conv2d of one input channel, a norm and ReLU;
    image: (1, H, W); confusion: (classes, classes); caption: what the image shows and how it was read.
    """
    filters = model[0].weight.data[:, 0]
    maps = np.asarray(model[:3].eval()(image[None]))[0]
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    upper, lower = left.subfigures(2, 1, height_ratios=(1, 1))
    limit = np.abs(filters).max()
    _tiles(
        upper,
        filters,
        f"Filters of the first layer ({_size(filters)}; dark -{limit:.2f}, light +{limit:.2f})",
        DIVERGING,
        -limit,
        limit,
    )
    _tiles(
        lower, [image[0], *maps], f"{caption.capitalize()} (first tile), and its {len(maps)} feature maps", INK, 0, None
    )
    _confusion(right, confusion)
    figure.savefig(Path(path), dpi=STYLE["dpi"])


def _size(images):
    return "x".join(map(str, images.shape[1:]))


def _tiles(figure, images, title, colours, low, high):
    """Small images in rows of six or nine, each without axes; `high` None: each scaled to its own maximum."""
    columns = 9 if len(images) > 16 else 8
    rows = -(-len(images) // columns)
    figure.suptitle(title, fontsize=STYLE["title"])
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, image in zip(axes, images, strict=False):
        axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axis.add_patch(_frame(image.shape))


def _frame(shape):
    return Rectangle((-0.5, -0.5), shape[1], shape[0], fill=False, edgecolor="0.5", linewidth=0.8)


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
    axis.set_xlabel("predicted", fontsize=STYLE["label"])
    axis.set_ylabel("true", fontsize=STYLE["label"])
    right = 100 * np.trace(confusion) / confusion.sum()
    axis.set_title(
        f"Held-out images: {right:.2f} % right (counts; shade is the share of a row)", fontsize=STYLE["title"]
    )
