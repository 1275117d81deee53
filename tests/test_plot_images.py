"""Pictures of images, filters, sampling points, receptive fields, attention, histograms and trade-offs."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from fastconv import plot

pytestmark = pytest.mark.smoke

IMAGE = np.arange(20.0).reshape(4, 5)


def texts(figure):
    """Every text of a figure; drawing it must work, too."""
    assert figure._repr_png_().startswith(b"\x89PNG")
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def test_image_grid_shares_one_scale_or_none():
    figure = plot.image_grid([IMAGE, -IMAGE, IMAGE[:2]], ["a", "b", "c"], columns=2, colours="signed", bar="volts (V)")
    assert {"a", "b", "c", "volts (V)"} <= set(texts(figure))
    assert [axis.images[0].get_clim() for axis in figure.axes[:3]] == [(-19, 19)] * 3
    own = plot.image_grid([IMAGE, 2 * IMAGE], scale="own")
    assert [axis.images[0].get_clim() for axis in own.axes] == [(0, 19), (0, 38)]
    fixed = plot.image_grid([np.zeros((2, 2))], scale=(0, 1))
    assert fixed.axes[0].images[0].get_clim() == (0, 1)


def test_filters_and_feature_maps_name_their_channels():
    assert {"out 1", "in 2", "weight"} <= set(texts(plot.filters(np.ones((2, 3, 3, 3)))))
    assert len(plot.filters(np.ones((5, 1, 3, 3)), columns=4).axes) == 8 + 1
    assert {"input", "channel 2"} <= set(texts(plot.feature_maps(np.ones((3, 4, 5)), IMAGE)))
    assert {"rows", "columns", "value"} <= set(texts(plot.matrix(IMAGE, y="rows", x="columns")))


def test_taps_of_a_plain_and_of_a_deformed_kernel():
    plain = plot.tap_positions((1, 2), 3, stride=2, padding=2, dilation=2)
    np.testing.assert_array_equal(plain[[0, 4, 8]], [[0, 2], [2, 4], [4, 6]])
    offset = np.zeros((18, 3, 4))
    offset[2:4, 1, 2] = 0.5, -1
    moved = plot.tap_positions((1, 2), 3, stride=2, padding=2, dilation=2, offset=offset)
    np.testing.assert_array_equal(moved - plain, [[0, 0], [0.5, -1]] + [[0, 0]] * 7)
    figure = plot.sampling_points([IMAGE], [moved], regular=[plain], at=[(2, 4)], titles=["deformed"])
    assert {"deformed", "sampled", "without offsets", "output pixel", "5 x 4 pixels"} <= set(texts(figure))
    left, right = figure.axes[0].get_xlim()
    assert left < moved[:, 1].min() and right > moved[:, 1].max()  # nothing is cut off


def test_receptive_field_is_framed_and_counted_from_the_centre():
    influence = np.zeros((7, 9))
    influence[2:5, 3:6] = -2
    figure = plot.receptive_field({"one layer": influence})
    assert {"one layer", "pixels from the centre", "share of the strongest"} <= set(texts(figure))
    frame = figure.axes[0].patches[0]
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (-1.5, -1.5, 3, 3)


def test_attention_is_in_percent_beside_the_image():
    weights = np.full((2, 2), 0.25)
    figure = plot.attention(np.ones((4, 4)), [weights, weights], [(0, 1), (1, 0)])
    assert {"input", "attention of pixel (0, 1)", "weight (%)"} <= set(texts(figure))
    assert figure.axes[1].images[0].get_array().max() == 25


def test_histogram_counts_in_percent():
    figure = plot.histogram([0.0, 0.0, 0.0, 1.0], x="activation", bins=2, span=(0, 1))
    assert {"activation", "% of the values"} <= set(texts(figure))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [75, 25]


def test_trade_off_names_every_point_and_writes_plain_numbers():
    points = {"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (50.0, 3.0)}
    figure = plot.trade_off(points, x="parameters", y="time (ms)", log="xy")
    found = texts(figure)
    assert {"a", "b", "c", "parameters", "time (ms)"} <= set(found) and "20" in found
    names = [text for text in figure.axes[0].texts if text.get_text() in "ab"]
    boxes = [text.get_window_extent() for text in names]
    assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot.image_grid([IMAGE[0]]), r"images must be \(H, W\), got \(5,\)"),
        (lambda: plot.image_grid([IMAGE], ["a", "b"]), "1 images need as many titles, got 2"),
        (lambda: plot.image_grid([IMAGE], colours="red"), "must be one of ink, signed, photo, got 'red'"),
        (lambda: plot.image_grid([IMAGE], scale="own", bar="x"), "one scale cannot be drawn"),
        (lambda: plot.filters(IMAGE), r"weight must be \(O, C, kh, kw\), got \(4, 5\)"),
        (lambda: plot.feature_maps(IMAGE), r"maps must be \(C, H, W\), got \(4, 5\)"),
        (lambda: plot.matrix(IMAGE[0], x="", y=""), r"values must be \(rows, columns\), got \(5,\)"),
        (lambda: plot.tap_positions((0, 0), offset=np.zeros((9, 2, 2))), r"must be \(18, oh, ow\), got \(9, 2, 2\)"),
        (lambda: plot.sampling_points([IMAGE], []), "1 images need as many sets of points, got 0"),
        (lambda: plot.receptive_field({"a": IMAGE[0]}), r"a must be \(H, W\), got \(5,\)"),
        (lambda: plot.attention(IMAGE, [IMAGE], []), "1 maps of weights need as many pixels, got 0"),
        (lambda: plot.attention(IMAGE, [IMAGE[0]], [(0, 0)]), r"weights must be \(h, w\), got \(5,\)"),
        (lambda: plot.histogram([], x=""), "at least one value is wanted"),
        (lambda: plot.trade_off({}, x="", y=""), "at least one point is wanted"),
    ],
)
def test_mistakes_are_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
