"""How values are spread."""

import numpy as np

from .style import label, lighten, panels


def histogram(values, *, x, y="% of the values", title=None, bins=41, span=None, axis=None):
    """Shares of `values` in `bins` equal parts of `span` (low, high), all of their range by default.

    x: what the values are, with their unit; axis: where to draw (a new picture, if None).  Returns the figure.
    """
    values = np.asarray(values).ravel()
    if not values.size:
        raise ValueError("histogram: at least one value is wanted, given none")
    if axis is None:
        axis = panels(width=4.5, height=3.2)[1][0, 0]
    axis.hist(values, bins=bins, range=span, color="0.45", weights=np.full(values.size, 100 / values.size))
    label(lighten(axis, "y"), title=title, x=x, y=y)
    return axis.figure
