"""Which pixels an output depends on, measured."""

import numpy as np

from .images import scale_bar
from .style import INK, MaxNLocator, Rectangle, label, panels


def receptive_field(influence, *, columns=None, size=2.6, title=None, bar="share of the strongest"):
    """How much each input pixel moves the centre output: what a receptive field is made of.

    influence: {name: (H, W)}, for instance magnitudes of gradients; each is drawn relative to its largest, axes count
    pixels from the centre, a broken line frames what is not zero.  Returns the figure.
    """
    columns = columns or len(influence)
    rows = -(-len(influence) // columns)
    figure, axes = panels(
        rows, columns, width=columns * size + 0.9, height=rows * (size + 0.45) + bool(title) * 0.3, title=title
    )
    for axis in axes.flat[len(influence) :]:
        axis.set_visible(False)
    for axis, (name, values) in zip(axes.flat, influence.items(), strict=False):
        values = np.abs(np.asarray(values, float))
        if values.ndim != 2:
            raise ValueError(f"receptive_field: {name} must be (H, W), got {values.shape}")
        height, width = values.shape
        top, left = -((height - 1) // 2), -((width - 1) // 2)
        extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
        drawn = axis.imshow(
            values / (values.max() or 1.0), cmap=INK, vmin=0, vmax=1, extent=extent, interpolation="nearest"
        )
        if values.any():
            (up, down), (first, last) = ((np.flatnonzero(values.any(i))[[0, -1]]) for i in (1, 0))
            corner, tall, wide = (first + left - 0.5, up + top - 0.5), down - up + 1, last - first + 1
            frame = Rectangle(corner, wide, tall, fill=False, edgecolor="0.4", linestyle="--", linewidth=1)
            axis.add_patch(frame)
        label(axis, title=name, x="pixels from the centre")
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(nbins=5, integer=True))
    scale_bar(figure, drawn, axes, bar)
    return figure
