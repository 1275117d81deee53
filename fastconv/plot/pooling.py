"""Pooling drawn: numbers in their windows, and many small results side by side."""

import numpy as np

from .style import INK, STYLE, Rectangle, image_on, panels, picture


def value_grids(grids, *, windows=None, marked=None, form="{:.0f}", high=None):
    """Small images as tables of numbers, side by side, with windows framed and some pixels marked.

    grids: {title: array (H, W)}; windows: {title: (height, width)}, the frames to draw; marked: {title: mask (H, W)},
    True where a number stands out in a circle; form: how numbers are written; high: what is black (the largest value
    of each, if None).  Returns the figure.
    """
    shapes = {title: np.shape(grid) for title, grid in grids.items()}
    flat = {title: shape for title, shape in shapes.items() if len(shape) != 2}
    if flat:
        raise ValueError(f"value_grids: every grid must be (H, W), got {flat}")
    widths = [shape[1] for shape in shapes.values()]
    scale = min(0.36, 12.5 / (sum(widths) + 1.5 * len(widths)))
    tall = max(shape[0] for shape in shapes.values())
    size = scale * (sum(widths) + 1.5 * len(widths)), scale * tall + 0.5
    figure, axes = panels(1, len(grids), width=size[0], height=size[1], width_ratios=widths)
    for axis, (title, grid) in zip(axes[0], grids.items(), strict=True):
        _numbers(axis, np.asarray(grid), form, high, (marked or {}).get(title))
        axis.set_title(title, fontsize=STYLE["label"])
        if windows and title in windows:
            _frames(axis, shapes[title], windows[title])
    return figure


def _numbers(axis, grid, form, high, marked):
    top = high or max(float(grid.max()), 1e-9)
    image_on(axis, grid, low=0, high=1.6 * top)  # black numbers stay readable
    for (row, column), value in np.ndenumerate(grid):
        chosen = marked is not None and marked[row, column]
        circle = {"boxstyle": "circle,pad=0.18", "facecolor": "white", "edgecolor": "black"} if chosen else None
        weight = "bold" if chosen else "normal"
        axis.text(column, row, form.format(value), ha="center", va="center", fontsize=6.5, weight=weight, bbox=circle)


def _frames(axis, shape, window):
    for top in range(0, shape[0], window[0]):
        for left in range(0, shape[1], window[1]):
            corner = left - 0.5, top - 0.5
            axis.add_patch(Rectangle(corner, window[1], window[0], fill=False, edgecolor="black", linewidth=1.2))


def gallery(rows, *, low=0.0, high=1.0, size=1.5, colours=INK, scaled=False):
    """Images in rows, each under its title, drawn equally large whatever their numbers of pixels.

    rows: [{title: array (H, W)}]; low, high: the values of white and black; scaled: every image from its own smallest
    to its own largest value; size: inches of one image.  Returns the figure.
    """
    columns = max(len(row) for row in rows)
    figure = picture(size * columns, (size + 0.25) * len(rows))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis in line[len(row) :]:
            axis.set_visible(False)
        for axis, (title, image) in zip(line, row.items(), strict=False):
            limits = (None, None) if scaled else (low, high)
            image_on(axis, image, colours=colours, low=limits[0], high=limits[1], title=title)
    return figure
