"""How every picture looks, and the only file that imports matplotlib.

Black, white and greys: series differ by shade, line, marker and hatching, never by colour.
"""

from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

__all__ = ["DIVERGING", "INK", "MARKS", "SHADES", "STYLE", "Axes", "MaxNLocator", "Picture", "Rectangle", "image_on"]

STYLE = {"title": 11, "label": 9, "tick": 8, "dpi": 150}
SCREEN_DPI = 90  # of pictures inside notebooks
DIVERGING = "gray"  # negative weights dark, positive ones light, zero mid-grey
INK = "Greys"  # more is darker
SHADES = ("0.2", "0.55", "0.8", "1.0")  # fills of bars side by side, with HATCHES where there are more
HATCHES = ("", "", "", "", "///", "...", "xxx", "\\\\\\")
MARKS = (
    ("0.0", "-", "o"),
    ("0.0", "--", "s"),
    ("0.45", "-", "^"),
    ("0.45", "--", "v"),
    ("0.0", ":", "D"),
    ("0.6", "-.", "x"),
)


class Picture(Figure):
    """A figure without a window; the last expression of a notebook's cell shows it."""

    def _repr_png_(self):
        buffer = BytesIO()
        self.savefig(buffer, dpi=SCREEN_DPI, format="png")
        return buffer.getvalue()

    def write(self, path):
        """Itself as a PNG at `path`, unless that is None; returns itself."""
        if path is not None:
            self.savefig(Path(path), dpi=STYLE["dpi"], format="png")
        return self


def picture(width, height):
    """An empty picture of so many inches."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(rows=1, columns=1, *, width=None, height=None, title=None, **subplots):
    """(picture, array (rows, columns) of axes); width and height in inches; `subplots` as for Figure.subplots."""
    figure = picture(width or min(11, 4.2 * columns), height or 3.2 * rows)
    if title:
        title_of(figure, title)
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def title_of(figure, text):
    figure.suptitle(text, fontsize=STYLE["title"])


def label(axis, *, title=None, x=None, y=None):
    """Title and axis labels, with their units, in the sizes of the style."""
    if title is not None:
        axis.set_title(title, fontsize=STYLE["title"])
    if x is not None:
        axis.set_xlabel(x, fontsize=STYLE["label"])
    if y is not None:
        axis.set_ylabel(y, fontsize=STYLE["label"])
    axis.tick_params(labelsize=STYLE["tick"])
    return axis


def lighten(axis, grid="both"):
    """No frame at the top and right, pale grid lines behind the data along `grid` ("x", "y" or "both")."""
    axis.grid(axis=grid, color="0.88", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return axis


def log_scale(axis, which):
    """Make axes ("", "x", "y" or "xy") logarithmic; those of less than three decades get more, plain numbers."""
    for name, ticks in (("x", axis.xaxis), ("y", axis.yaxis)):
        if name not in which:
            continue
        (axis.set_xscale if name == "x" else axis.set_yscale)("log")
        low, high = sorted(ticks.get_view_interval())
        if high < 1000 * low:
            ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ticks.set_major_formatter(FormatStrFormatter("%g"))
            ticks.set_minor_formatter(NullFormatter())


def legend(axis, **options):
    axis.legend(**{"fontsize": STYLE["tick"], "frameon": False, **options})


def image_on(axis, image, *, colours=INK, low=None, high=None, title=None):
    """An image (H, W) with square pixels, without ticks and with a thin frame."""
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("0.5")
    if title is not None:
        axis.set_title(title, fontsize=STYLE["label"])
    return axis.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
