"""The roofline: how fast something can be, given how many operations it does for each byte it moves.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures",
Communications of the ACM 52(4).
"""

import numpy as np

from .style import MARKS, STYLE, label, legend, lighten, log_scale, panels


def roofline_plot(groups, *, gflops, gbytes, title=None, axis=None, named=None):
    """Measured speeds under the roof of the machine, both axes logarithmic.

    groups: {name: (intensities in FLOP/byte, speeds in GFLOP/s)}, at most six, told apart by markers; gflops, gbytes:
    what the machine can do, in GFLOP/s and GB/s; named: {text: (intensity, speed)} of points to label; axis: where to
    draw (in a new picture, if None).  Returns the figure.
    """
    if min(gflops, gbytes) <= 0:
        raise ValueError(f"roofline_plot: the limits must be positive, got {gflops} GFLOP/s and {gbytes} GB/s")
    if len(groups) > len(MARKS):
        raise ValueError(f"roofline_plot: at most {len(MARKS)} groups can be told apart, got {len(groups)}")
    if axis is None:
        axis = panels(width=7.5, height=4.6)[1][0, 0]
    xs = np.concatenate([np.asarray(x, float) for x, _ in groups.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in groups.values()])
    ridge = gflops / gbytes
    low, high = min(xs.min(), ridge) / 2, max(xs.max(), ridge) * 2
    roof = np.geomspace(low, high, 200)
    axis.plot(roof, np.minimum(gflops, roof * gbytes), color="black", linewidth=1.8)
    axis.set_ylim(min(ys.min(), gflops / 20) / 1.6, max(ys.max(), gflops) * 2)
    log_scale(axis, "xy")
    axis.text(high, gflops * 1.08, f"{gflops:.0f} GFLOP/s", ha="right", fontsize=STYLE["label"])
    for (name, (x, y)), (_, _, marker) in zip(groups.items(), MARKS, strict=False):
        face = "none" if marker in "sv" else "0.45"
        style = {"color": "0.2"} if marker == "x" else {"facecolors": face, "edgecolors": "black"}
        axis.scatter(x, y, s=26, marker=marker, linewidths=0.8, label=name, zorder=3, **style)
    for text, (x, y) in (named or {}).items():
        axis.annotate(text, (x, y), xytext=(4, -9), textcoords="offset points", fontsize=STYLE["tick"] - 1)
    label(lighten(axis), title=title, x="operations per byte moved (FLOP/byte)", y="speed (GFLOP/s)")
    legend(axis, loc="lower right")
    return axis.figure
