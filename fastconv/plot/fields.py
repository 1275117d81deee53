"""What part of the image the layers of a network see."""

from typing import TYPE_CHECKING

import numpy as np

from .style import STYLE, MaxNLocator, Rectangle, label, picture, title_of

if TYPE_CHECKING:
    from ..summary import Summary

MOST_FIELDS = 8


def field_picture(path, summary: "Summary"):
    """The receptive fields of the centre outputs of up to MOST_FIELDS layers, to scale, on the input image.

    Raises ValueError for a network without images of two axes.
    """
    figure = picture(5.5, 5.5)
    fields_on(figure, summary, 2)
    return figure.write(path)


def fields_on(figure, summary, columns):
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
        ticks.set_major_locator(MaxNLocator(integer=True))
    label(axis, x=f"pixels of the {width} x {height} input (broken line)", y="pixels")
    figure.legend(loc="outside lower center", fontsize=STYLE["tick"], frameon=False, ncols=columns)
    title_of(figure, "what the centre output sees")


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
