"""Lines: something measured against something chosen."""

from .style import MARKS, MaxNLocator, label, legend, lighten, log_scale, panels, picture


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
    if "x" in log and len(places) <= 10:  # the few places that were chosen say more than powers of ten
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.set_xticks([], minor=True)
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
