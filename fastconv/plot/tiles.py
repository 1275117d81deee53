"""Many small images side by side."""

from .style import image_on


def tiles(figure, images, *, colours, low, high, rows=2, first=None):
    """Small images in rows, `first` at the left of them and larger; `high` None: each is scaled to its own maximum."""
    columns = -(-len(images) // rows)
    start = 0 if first is None else 2
    grid = figure.add_gridspec(rows, start + columns)
    if first is not None:
        image_on(figure.add_subplot(grid[:, :2]), first, colours=colours, low=low, high=high)
    for i, image in enumerate(images):
        axis = figure.add_subplot(grid[i // columns, start + i % columns])
        image_on(axis, image, colours=colours, low=low, high=high)
