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


def test_bars_of_one_part_and_of_two():
    figure = plot.timing_bars({"one": 1.5, "two": 3.0}, x="time (ms)", title="forward")
    assert {"one", "two", "time (ms)", "forward", "1.5", "3"} <= set(labels(figure)) and png(figure)
    figure = plot.timing_bars({"one": {"forward": 1, "backward": 2}, "two": {"forward": 4, "backward": 5}}, log=True)
    assert {"forward", "backward", "time (ms)"} <= set(labels(figure))
    shades = [bars[0].get_facecolor() for bars in figure.axes[0].containers]
    assert len(set(shades)) == 2
    with pytest.raises(ValueError, match=r"need the parts .'a'.; two has .'b'."):
        plot.timing_bars({"one": {"a": 1}, "two": {"b": 1}})
    with pytest.raises(ValueError, match="at most 8 parts can be told apart, got 9"):
        plot.timing_bars({"one": {str(i): i for i in range(9)}})


def test_roofline_has_units_a_roof_and_all_points():
    figure = plot.roofline_plot(
        {"wide": ([10.0, 40.0], [80.0, 100.0]), "depthwise": ([2.0], [20.0])},
        gflops=110.0,
        gbytes=20.0,
        named={"conv1": (10.0, 80.0)},
    )
    expected = {"operations per byte moved (FLOP/byte)", "speed (GFLOP/s)", "wide", "depthwise", "110 GFLOP/s", "conv1"}
    assert expected <= set(labels(figure)) and png(figure)
    roof = figure.axes[0].lines[0]
    np.testing.assert_allclose(roof.get_ydata(), np.minimum(110, 20 * roof.get_xdata()))
    with pytest.raises(ValueError, match=r"must be positive, got 0 GFLOP/s and 20 GB/s"):
        plot.roofline_plot({"a": ([1], [1])}, gflops=0, gbytes=20)
    with pytest.raises(ValueError, match="at most 6 groups can be told apart, got 7"):
        plot.roofline_plot({str(i): ([1], [1]) for i in range(7)}, gflops=1, gbytes=1)


def test_value_grids_write_numbers_and_frame_windows():
    grids = {"image": np.arange(16).reshape(4, 4), "maxima": np.array([[5, 7], [13, 15]])}
    figure = plot.value_grids(grids, windows={"image": (2, 2)}, marked={"image": grids["image"] % 2 == 1})
    assert {"image", "maxima", "0", "15"} <= set(labels(figure)) and png(figure)
    assert len(figure.axes[0].patches) == 4 and not figure.axes[1].patches
    with pytest.raises(ValueError, match=r"must be \(H, W\), got \{'line': \(3,\)\}"):
        plot.value_grids({"line": np.zeros(3)})


def test_gallery_draws_rows_of_different_length():
    image = np.eye(5)
    figure = plot.gallery([{"a": image, "b": image}, {"c": image}], scaled=True)
    assert {"a", "b", "c"} <= set(labels(figure)) and png(figure)
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]
