"""What a pixel looks at."""

import numpy as np

from .images import scale_bar
from .sampling import cross_on
from .style import INK, image_on, panels


def attention(image, weights, at, *, titles=None, size=2.4, title=None):
    """An image and, for each pixel of it, the weights with which a non-local block looks at all positions.

    image: (H, W); weights: for each pixel (h, w), each adding up to 1; at: the pixels (row, column), in positions of
    the weights.  Each map has its own scale, given in percent.  Returns the figure.
    """
    image, weights = np.asarray(image), [np.asarray(one) for one in weights]
    if len(at) != len(weights):
        raise ValueError(f"attention: {len(weights)} maps of weights need as many pixels, got {len(at)}")
    figure, axes = panels(
        1, 1 + len(at), width=(1 + len(at)) * (size + 0.25), height=size + 0.35 + bool(title) * 0.3, title=title
    )
    image_on(axes[0, 0], image, title="input")
    for number, (axis, one, pixel) in enumerate(zip(axes[0, 1:], weights, at, strict=True)):
        if one.ndim != 2:
            raise ValueError(f"attention: weights must be (h, w), got {one.shape}")
        name = titles[number] if titles else f"attention of pixel {tuple(int(i) for i in pixel)}"
        drawn = image_on(axis, 100 * one, colours=INK, low=0, high=100 * one.max(), title=name)
        scale_bar(figure, drawn, axis, "weight (%)")
        cross_on(axis, pixel)
        scaled = [(i + 0.5) * n / m - 0.5 for i, n, m in zip(pixel, image.shape, one.shape, strict=True)]
        cross_on(axes[0, 0], scaled)
    return figure
