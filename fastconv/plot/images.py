"""Images side by side: feature maps, filters, matrices."""

import numpy as np

from .style import DIVERGING, INK, STYLE, image_on, label, panels

COLOURS = {"ink": INK, "signed": DIVERGING, "photo": DIVERGING}
MOST_FILTERS = 16  # rows and columns of filters; more can't be read


def image_grid(images, titles=None, *, columns=None, colours="ink", scale="shared", bar=None, size=1.6, title=None):
    """Arrays (H, W), which may differ in size, in rows of `columns` (None: all in one row).

    colours: "ink" (more is darker), "photo" (more is lighter) or "signed" (negative dark, zero grey, positive light);
    scale: "shared", "own" (each image its own) or a pair (low, high); bar: what the values are, with their unit, beside
    a scale for all images; size: inches of one image; title: of the picture.  Returns the figure.
    """
    images = [np.asarray(image) for image in images]
    for image in images:
        if image.ndim != 2:
            raise ValueError(f"image_grid: images must be (H, W), got {image.shape}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"image_grid: {len(images)} images need as many titles, got {len(titles)}")
    if colours not in COLOURS:
        raise ValueError(f"image_grid: colours must be one of {', '.join(COLOURS)}, got {colours!r}")
    if bar is not None and scale == "own":
        raise ValueError("image_grid: one scale cannot be drawn for images that each have their own")
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    head = (0.3 if titles is not None else 0.05) + size * max(image.shape[0] / image.shape[1] for image in images)
    figure, axes = panels(
        rows, columns, width=columns * (size + 0.1) + (0.8 if bar else 0.1), height=rows * head + bool(title) * 0.35,
        title=title,
    )  # fmt: skip
    for axis in axes.flat[len(images) :]:
        axis.set_visible(False)
    for i, image in enumerate(images):
        low, high = limits([image] if scale == "own" else images, colours) if isinstance(scale, str) else scale
        drawn = image_on(
            axes.flat[i], image, colours=COLOURS[colours], low=low, high=high, title=titles[i] if titles else None
        )
    if bar is not None:
        scale_bar(figure, drawn, axes, bar)
    return figure


def limits(images, colours):
    """(low, high) of a scale: symmetric for signed values, from 0 for ink that is nowhere negative."""
    low, high = min(float(np.min(i)) for i in images), max(float(np.max(i)) for i in images)
    if colours == "signed":
        high = max(abs(low), abs(high)) or 1.0
        return -high, high
    low = min(low, 0.0) if colours == "ink" else low
    return low, high if high > low else low + 1.0


def scale_bar(figure, drawn, axes, text):
    bar = figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.02, aspect=25)
    bar.set_label(text, fontsize=STYLE["label"])
    bar.ax.tick_params(labelsize=STYLE["tick"])


def filters(weight, *, columns=8, size=0.75, title=None, bar="weight"):
    """The kernels of a convolution, dark negative and light positive.

    weight: (O, C, kh, kw), a row for each output channel and a column for each input channel, or, where C is 1, in rows
    of `columns`; of more than MOST_FILTERS channels the first are drawn.  Returns the figure.
    """
    weight = np.asarray(weight)
    if weight.ndim != 4:
        raise ValueError(f"filters: weight must be (O, C, kh, kw), got {weight.shape}")
    if weight.shape[1] == 1:
        return image_grid(
            weight[:, 0], columns=min(columns, len(weight)), colours="signed", size=size, bar=bar, title=title
        )
    shown = weight[:MOST_FILTERS, :MOST_FILTERS]
    outputs, inputs = shown.shape[:2]
    figure = image_grid(
        shown.reshape(-1, *shown.shape[2:]), columns=inputs, colours="signed", size=size, bar=bar, title=title
    )
    axes = figure.axes[: outputs * inputs]
    for o in range(outputs):
        label(axes[o * inputs], y=f"out {o}")
    for i in range(inputs):
        label(axes[(outputs - 1) * inputs + i], x=f"in {i}")
    return figure


def feature_maps(maps, image=None, *, columns=8, size=1.0, title=None, bar=None):
    """The channels (C, H, W) that a layer gives, after their input (H, W).  Each has its own scale, without a bar."""
    maps = np.asarray(maps)
    if maps.ndim != 3:
        raise ValueError(f"feature_maps: maps must be (C, H, W), got {maps.shape}")
    shown = [*maps] if image is None else [np.asarray(image), *maps]
    names = [f"channel {i}" for i in range(len(maps))]
    names = names if image is None else ["input", *names]
    scale = "own" if bar is None else "shared"
    return image_grid(shown, names, columns=min(columns, len(shown)), scale=scale, bar=bar, size=size, title=title)


def matrix(values, *, x, y, title=None, colours="signed", bar="value", width=5.0, height=3.5, axis=None):
    """A matrix, rows and columns counted; x, y: what they are.  axis: where to draw (a new picture, if None)."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"matrix: values must be (rows, columns), got {values.shape}")
    if axis is None:
        axis = panels(width=width, height=height)[1][0, 0]
    low, high = limits([values], colours)
    drawn = axis.imshow(values, cmap=COLOURS[colours], vmin=low, vmax=high, interpolation="nearest", aspect="auto")
    label(axis, title=title, x=x, y=y)
    if bar is not None:
        scale_bar(axis.figure, drawn, axis, bar)
    return axis.figure
