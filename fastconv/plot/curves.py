"""Lines: something measured against something chosen."""

from .style import MARKS, STYLE, MaxNLocator, label, legend, lighten, log_scale, panels, picture


def line_plot(series, *, x, y, title=None, log="", axis=None, markers=True):
    """Lines that differ by shade, dashes and markers.

    series: {name: (xs, ys)}, at most six; x, y: labels with units; log: "", "x", "y" or "xy"; axis: where to draw (in
    a new picture, if None).  Returns the figure.
    """
    if len(series) > len(MARKS):
        raise ValueError(f"line_plot: at most {len(MARKS)} lines can be told apart, got {len(series)}")
    if axis is None:
        axis = panels(width=6, height=3.6)[1][0, 0]
    for (name, (xs, ys)), (shade, dashes, marker) in zip(series.items(), MARKS, strict=False):
        axis.plot(xs, ys, color=shade, linestyle=dashes, marker=marker if markers else None, markersize=4, label=name)
    places = sorted({float(place) for xs, _ in series.values() for place in xs})
    if all(place.is_integer() for place in places):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    log_scale(axis, log)
    if "x" in log and len(places) <= 10:  # the few places that were chosen
        axis.set_xticks(places, [f"{place:g}" for place in places])
    label(lighten(axis), title=title, x=x, y=y)
    if len(series) > 1:
        legend(axis)
    return axis.figure


def learning_curve(path, epochs):
    """The training loss of each epoch and, where they were measured, the validation accuracies.

    epochs: records {"epoch", "loss", and maybe "validation_accuracy"}, as `training.fit` returns them.
    """
    figure = picture(6, 3.6)
    axis = figure.subplots()
    numbers = [record["epoch"] for record in epochs]
    axis.plot(numbers, [record["loss"] for record in epochs], "k-o", markersize=3, label="training loss")
    label(axis, x="epoch", y="training loss")
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = list(axis.lines)
    judged = [record for record in epochs if "validation_accuracy" in record]
    if judged:
        right = axis.twinx()
        shares = [100 * record["validation_accuracy"] for record in judged]
        right.plot([record["epoch"] for record in judged], shares, "k--s", markersize=3, label="validation accuracy")
        label(right, y="validation accuracy (%)")
        lines += right.lines
    legend(axis, handles=lines, loc="center right")
    return figure.write(path)


def point_plot(points, *, x, y, title=None, log="", slopes=None):
    """Named points.

    points: {name: (x, y)}; x, y: labels with units; log: "", "x", "y" or "xy"; slopes: {text: slope} of lines through
    the origin, drawn behind and labelled (they need log "xy").  Returns the figure.
    """
    if slopes and set(log) != {"x", "y"}:
        raise ValueError(f'point_plot: slopes need log "xy", given {log!r}')
    figure, axes = panels(width=7, height=4.6)
    axis = axes[0, 0]
    log_scale(axis, log)
    axis.scatter(*zip(*points.values(), strict=True), s=28, color="black", zorder=3)
    axis.margins(0.14)
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    for text, slope in (slopes or {}).items():
        axis.plot([left, right], [slope * left, slope * right], color="0.6", linewidth=0.8, linestyle="--")
        end = min(right, high / slope)
        place = {"ha": "right", "va": "bottom", "rotation_mode": "anchor"}
        turned = {"rotation": 45, "transform_rotates_text": True}
        axis.text(end, end * slope, f"{text}  ", fontsize=STYLE["tick"], color="0.4", **place, **turned)
    axis.set(xlim=(left, right), ylim=(low, high))
    pixels = {name: axis.transData.transform(place) for name, place in points.items()}
    for name, place in points.items():
        steps = [other - pixels[name] for key, other in pixels.items() if key != name]
        crowded = any(
            0 <= step[0] < 90 and abs(step[1]) < 15 for step in steps
        )  # to its right: then it goes to the left
        offset, side = ((-5, 4), "right") if crowded else ((5, -10), "left")
        style = {"xytext": offset, "textcoords": "offset points", "ha": side, "fontsize": STYLE["tick"]}
        axis.annotate(name, place, **style)
    label(lighten(axis), title=title, x=x, y=y)
    return figure
