"""Where the time of a compiled network goes."""

from .style import STYLE, label, lighten, picture


def profile_picture(path, profile, most=40):
    """Where a compiled network's time goes: one bar for each of the `most` slowest nodes, in running order.

    path: where the PNG goes; profile: from `net.profile()`.  Bars are labelled with the algorithm and its GFLOP/s.
    """
    slowest = sorted(profile.nodes, key=lambda node: -node.milliseconds)[:most]
    nodes = [node for node in profile.nodes if any(node is other for other in slowest)]
    figure = picture(9, 1.2 + 0.19 * len(nodes))
    axis = figure.subplots()
    places = range(len(nodes))
    axis.barh(places, [node.milliseconds for node in nodes], color="0.45")
    for place, node in zip(places, nodes, strict=True):
        speed = f", {node.gflops:.0f} GFLOP/s" if node.gflops >= 1 else ""
        axis.text(node.milliseconds, place, f" {node.algorithm}{speed}", va="center", fontsize=STYLE["tick"] - 2)
    shown = sum(node.share for node in nodes)
    title = f"{profile.milliseconds:.2f} ms; these nodes: {shown:.0%}"
    label(lighten(axis, "x"), title=title, x="milliseconds")
    axis.set_yticks(places, [node.name for node in nodes], fontsize=STYLE["tick"] - 2)
    axis.invert_yaxis()
    axis.margins(x=0.35, y=0.01)
    return figure.write(path)
