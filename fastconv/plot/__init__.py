"""Pictures in one style: no screen is needed, nothing depends on colour, axes carry their units.

`*_picture` functions and `learning_curve` write a PNG to `path` (None: nothing is written); all functions return the
figure, which a notebook shows and `.savefig(path)` writes.  Needs the extra `plot`.
"""

from .bars import timing_bars
from .confusion import confusion_matrix
from .costs import cost_picture, summary_picture
from .curves import learning_curve, line_plot, point_plot
from .fields import field_picture
from .network import network_picture
from .pooling import gallery, value_grids
from .profile import profile_picture
from .roofline import roofline_plot
from .style import Picture, panels

__all__ = [
    "Picture",
    "confusion_matrix",
    "cost_picture",
    "field_picture",
    "gallery",
    "learning_curve",
    "line_plot",
    "network_picture",
    "panels",
    "point_plot",
    "profile_picture",
    "roofline_plot",
    "summary_picture",
    "timing_bars",
    "value_grids",
]
