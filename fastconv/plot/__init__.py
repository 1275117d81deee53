"""Pictures in one style: no screen is needed, nothing depends on colour, axes carry their units.

`*_picture` functions and `learning_curve` write a PNG to `path` (None: nothing is written); all functions return the
figure, which a notebook shows and `.savefig(path)` writes.  Needs the extra `plot`.
"""

from .attention import attention
from .bars import timing_bars
from .confusion import confusion_matrix
from .costs import cost_picture, summary_picture
from .curves import learning_curve, line_plot
from .fields import field_picture
from .histogram import histogram
from .images import feature_maps, filters, image_grid, matrix
from .influence import receptive_field
from .network import network_picture
from .pooling import gallery, value_grids
from .profile import profile_picture
from .roofline import roofline_plot
from .sampling import sampling_points, tap_positions
from .scatter import trade_off
from .style import Picture, panels

__all__ = [
    "Picture",
    "attention",
    "confusion_matrix",
    "cost_picture",
    "feature_maps",
    "field_picture",
    "filters",
    "gallery",
    "histogram",
    "image_grid",
    "learning_curve",
    "line_plot",
    "matrix",
    "network_picture",
    "panels",
    "profile_picture",
    "receptive_field",
    "roofline_plot",
    "sampling_points",
    "summary_picture",
    "tap_positions",
    "timing_bars",
    "trade_off",
    "value_grids",
]
