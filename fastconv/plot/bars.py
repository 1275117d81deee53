"""Bars: times and other quantities of several designs side by side."""

import numpy as np

from .style import HATCHES, SHADES, STYLE, label, legend, lighten, log_scale, panels


def timing_bars(times, *, x="time (ms)", title=None, form=None, axis=None, log=False):
    """Horizontal bars in groups, with their numbers written at their ends.

    times: {name: value}, or {name: {part: value}} with the same parts for all names: one bar for each part, told apart
    by shade; x: what the numbers are, with the unit; form: how they are written, such as "{:.2f}"; axis: where to draw
    (in a new picture, if None).  Returns the figure.
    """
    groups = {name: value if isinstance(value, dict) else {"": value} for name, value in times.items()}
    parts = list(next(iter(groups.values())))
    different = [name for name, group in groups.items() if list(group) != parts]
    if different:
        raise ValueError(
            f"timing_bars: all names need the parts {parts}; {different[0]} has {list(groups[different[0]])}"
        )
    if len(parts) > len(HATCHES):
        raise ValueError(f"timing_bars: at most {len(HATCHES)} parts can be told apart, got {len(parts)}")
    if axis is None:
        axis = panels(width=7, height=0.9 + len(groups) * (0.14 + 0.17 * len(parts)))[1][0, 0]
    thick = 0.8 / len(parts)
    for number, part in enumerate(parts):
        values = [group[part] for group in groups.values()]
        places = np.arange(len(groups)) + thick * (number - (len(parts) - 1) / 2)
        style = {"color": SHADES[number % 4] if len(parts) > 1 else "0.45", "hatch": HATCHES[number]}
        bars = axis.barh(places, values, thick, label=part, edgecolor="black", linewidth=0.5, **style)
        axis.bar_label(
            bars,
            [form.format(value) if form else _short(value) for value in values],
            padding=2,
            fontsize=STYLE["tick"] - 1,
        )
    log_scale(axis, "x" if log else "")
    label(lighten(axis, "x"), title=title, x=x)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.margins(x=0.12, y=0.02)
    if len(parts) > 1:  # above the bars, below the title
        legend(axis, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(parts))
        axis.set_title(title or "", fontsize=STYLE["title"], pad=22)
    return axis.figure


def _short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
