"""Where the taps of a convolution fall."""

import numpy as np

from .images import image_grid
from .style import STYLE, label


def tap_positions(at, kernel_size=3, *, stride=1, padding=1, dilation=1, offset=None):
    """(taps, 2): row and column of every tap of the output `at` (row, column), in pixels of the input.

    offset: (2 * taps, oh, ow), what a deformable convolution adds to them (dy and dx of each tap in turn).
    """
    row, column = at
    steps = np.arange(kernel_size) * dilation - padding
    grid = np.stack(np.meshgrid(row * stride + steps, column * stride + steps, indexing="ij"), -1).reshape(-1, 2)
    if offset is None:
        return grid.astype(float)
    offset = np.asarray(offset)
    if offset.ndim != 3 or len(offset) != 2 * len(grid):
        raise ValueError(f"tap_positions: offset must be ({2 * len(grid)}, oh, ow), got {offset.shape}")
    return grid + offset[:, row, column].reshape(-1, 2)


NAMES = "sampled", "without offsets", "output pixel"


def sampling_points(
    images, points, *, regular=None, at=None, titles=None, size=2.6, title=None, colours="ink", names=NAMES
):
    """Sampling points on images, and lines from where they would be without offsets.

    images: a list of (H, W); points, regular: for each image (taps, 2), rows and columns in pixels; at: for each image
    the output pixel that samples them; names: of these three, for the legend.  Points beyond an image are drawn beside
    it.  Returns the figure.
    """
    if len(points) != len(images):
        raise ValueError(f"sampling_points: {len(images)} images need as many sets of points, got {len(points)}")
    figure = image_grid(images, titles, colours=colours, scale="own", size=size, title=title)
    for i, axis in enumerate(figure.axes[: len(images)]):
        where = np.asarray(points[i], float)
        if regular is not None:
            fixed = np.asarray(regular[i], float)
            for (y0, x0), (y1, x1) in zip(fixed, where, strict=True):
                axis.plot([x0, x1], [y0, y1], color="white", linewidth=2.4, zorder=3)
                axis.plot([x0, x1], [y0, y1], color="0.3", linewidth=1.0, zorder=4)
            _points(axis, fixed, names[1], marker="s", facecolor="white", edgecolor="0.3", s=16, zorder=5)
        _points(axis, where, names[0], marker="o", facecolor="black", edgecolor="white", s=34, zorder=6)
        if at is not None:
            cross_on(axis, at[i], names[2])
        height, width = images[i].shape
        rows, columns = np.concatenate([where, [[0, 0], [height - 1, width - 1]]]).T
        axis.set_xlim(columns.min() - 0.7, columns.max() + 0.7)
        axis.set_ylim(rows.max() + 0.7, rows.min() - 0.7)
        label(axis, x=f"{width} x {height} pixels")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=len(names), fontsize=STYLE["tick"], frameon=True,
        facecolor="0.75", edgecolor="none",
    )  # fmt: skip
    return figure


def _points(axis, where, name, **style):
    rows, columns = np.asarray(where, float).T
    axis.scatter(columns, rows, label=name, **style)


def cross_on(axis, pixel, name=None):
    """A cross, white with a black edge, at (row, column)."""
    _points(axis, [pixel], None, marker="+", color="black", s=170, linewidth=4, zorder=7)
    _points(axis, [pixel], name, marker="+", color="white", s=120, linewidth=1.8, zorder=8)
