"""What is paid against what is gained."""

from .style import STYLE, label, lighten, log_scale, panels


def trade_off(points, *, x, y, title=None, log="", width=6.5, height=4.0, slopes=None, axis=None):
    """A dot with its name for each of `points`, {name: (x, y)}.

    x, y: labels with units; log: "", "x", "y" or "xy"; slopes: {text: slope} of lines through the origin, drawn behind
    and named at their ends; axis: where to draw (a new picture, if None).  Returns the figure.
    """
    if not points:
        raise ValueError("trade_off: at least one point is wanted, given none")
    if axis is None:
        axis = panels(width=width, height=height)[1][0, 0]
    axis.margins(x=0.2, y=0.12)
    taken = []
    for name, (across, up) in sorted(points.items(), key=lambda item: item[1][1]):
        axis.plot([across], [up], color="black", marker="o", markersize=5, linestyle="none")
        taken.append(axis.annotate(name, (across, up), (6, 0), textcoords="offset points", fontsize=STYLE["tick"]))
    log_scale(axis, log)
    label(lighten(axis), title=title, x=x, y=y)
    _slopes(axis, slopes or {})
    _spread(axis, taken)
    return axis.figure


def _slopes(axis, slopes):
    """Broken lines from edge to edge, with their names where they leave at the top or on the right."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    places = [left + (right - left) * i / 500 for i in range(501)]
    for text, slope in slopes.items():
        axis.plot(places, [slope * place for place in places], color="0.6", linewidth=0.8, linestyle="--", zorder=1)
        end = min(right, high / slope)
        at_top = end < right
        side = {"ha": "right", "va": "top"} if at_top else {"ha": "right", "va": "bottom"}
        axis.text(end, end * slope, f"{text} ", fontsize=STYLE["tick"], color="0.4", **side)
    axis.set(xlim=(left, right), ylim=(low, high))


def _spread(axis, texts):
    """Move names that would lie on each other apart, upward."""
    axis.figure.draw_without_rendering()
    placed = []
    for text in texts:
        box = text.get_window_extent()
        lift = 0.0
        while any(box.translated(0, lift).overlaps(other) for other in placed):
            lift += 1.0
        text.set_position((6, lift * 72 / axis.figure.dpi))
        placed.append(box.translated(0, lift))
