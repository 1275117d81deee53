"""Pictures: they are made, say what they show and in which units.  `labels(figure)` serves the other files."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fastconv import plot

pytestmark = pytest.mark.smoke


def labels(figure):
    """Every text of a figure: titles, axis labels, ticks, legends."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def png(figure):
    return figure._repr_png_().startswith(b"\x89PNG")


def test_lines_have_labels_and_differ_without_colour():
    figure = plot.line_plot({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, x="size (pixels)", y="time (ms)", log="y")
    assert {"size (pixels)", "time (ms)", "a", "b"} <= set(labels(figure)) and png(figure)
    first, second = figure.axes[0].lines
    assert first.get_linestyle() != second.get_linestyle() and first.get_marker() != second.get_marker()
    with pytest.raises(ValueError, match="at most 6 lines can be told apart, got 7"):
        plot.line_plot({str(i): ([0], [0]) for i in range(7)}, x="", y="")


def test_learning_curve_has_both_axes(tmp_path):
    epochs = [{"epoch": 1, "loss": 2.0, "validation_accuracy": 0.5}, {"epoch": 2, "loss": 1.0}]
    figure = plot.learning_curve(tmp_path / "curve.png", epochs)
    assert {"epoch", "training loss", "validation accuracy (%)"} <= set(labels(figure))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_confusion_matrix_counts():
    figure = plot.confusion_matrix(np.array([[3, 1], [0, 4]]), ["cat", "dog"])
    assert {"cat", "dog", "true", "3", "1", "4", "87.50 % of 8 held-out images right"} <= set(labels(figure))
    with pytest.raises(ValueError, match=r"\(classes, classes\), got \(2, 3\)"):
        plot.confusion_matrix(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="2 classes need as many names, got 1"):
        plot.confusion_matrix(np.zeros((2, 2)), ["cat"])
