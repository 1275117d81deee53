"""Pictures, drawn by matplotlib without a screen; readable in print without colour."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .autograd import no_grad

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
