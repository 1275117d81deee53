"""Confusion matrices."""

import numpy as np

from .style import INK, STYLE, label, picture, title_of


def confusion_matrix(counts, names=None, *, figure=None):
    """How often class `row` was taken for class `column`: counts in cells shaded by their share of the row.

    counts: (classes, classes) whole numbers, rows true; names: of the classes (their numbers, if None); figure: a
    picture or subfigure to draw in (a new picture, if None).  Returns the figure.
    """
    counts = np.asarray(counts)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"confusion_matrix: counts must be (classes, classes), got {counts.shape}")
    if names is not None and len(names) != len(counts):
        raise ValueError(f"confusion_matrix: {len(counts)} classes need as many names, got {len(names)}")
    if figure is None:
        figure = picture(0.42 * len(counts) + 1.4, 0.42 * len(counts) + 1.3)
    axis = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap=INK, vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if share[row, column] > 0.5 else "black"
            axis.text(column, row, f"{count}", ha="center", va="center", color=ink, fontsize=STYLE["label"])
    classes = range(len(counts))
    axis.set_yticks(classes, names or map(str, classes))
    axis.set_xticks(classes, names or map(str, classes), rotation=45 if names else 0, ha="right" if names else "center")
    label(axis, x="predicted (number of images; shade: share of the row)", y="true")
    title_of(figure, f"{100 * np.trace(counts) / max(counts.sum(), 1):.2f} % of {counts.sum()} held-out images right")
    return figure
