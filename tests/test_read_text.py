"""The example that reads text, with stand-ins for its two networks, and with the published ones if given."""

import importlib.util
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("onnx") is None or find_spec("PIL") is None:
    pytest.skip("the onnx package or Pillow is not installed", allow_module_level=True)

from PIL import Image, ImageDraw, ImageFont

import fastconv as fc

from .test_onnx import model, node

FILE = Path(__file__).resolve().parents[1] / "notebooks" / "read_text.py"
SIZE = 48  # of the letters: squares of one colour
COLOURS = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255)}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("read_text", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks():
    """(detector, recogniser), ModelProtos: all that is not white is text; a letter is the colour of its square.

    The recogniser sees the greatest of -x under 48 by 8 pixels: -1 for a colour that is everywhere, blue first.
    """
    ones = np.full((1, 3, 1, 1), -8, np.float32)
    nodes = [node("Conv", "x w b", "c"), node("Sigmoid", "c")]
    detector = model(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], {"w": ones, "b": np.full(1, 8, np.float32)})
    weights = np.zeros((5, 3, 1, 1), np.float32)  # none, r, g, b, space
    weights[0], weights[1:4], weights[4] = -10, 10, 0
    weights[1, 2] = weights[2, 1] = weights[3, 0] = -10
    nodes = [
        node("Neg", "x", "n"),
        node("MaxPool", "n", "p", kernel_shape=[48, 8], strides=[48, 8]),
        node("Conv", "p w b", "c"),
        node("Squeeze", "c two", "s"),
        node("Transpose", "s", "t", perm=[0, 2, 1]),
        node("Softmax", "t", axis=2),
    ]
    constants = {"w": weights, "b": np.array([5, 0, 0, 0, -50], np.float32), "two": np.array([2])}
    recogniser = model(nodes, {"x": ["n", 3, 48, "w"]}, ["y"], constants)
    recogniser.metadata_props.add(key="character", value="r\ng\nb")
    return detector, recogniser


def picture(*lines):
    """Words of coloured squares under each other on white."""
    image = Image.new("RGB", (400, 150 * len(lines)), "white")
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        for j, letter in enumerate(line):
            at = 60 + SIZE * j, 50 + 150 * i
            pen.rectangle((*at, at[0] + SIZE - 1, at[1] + SIZE - 1), fill=COLOURS[letter])
    return image


def test_lines_are_found_and_read(example):
    sessions = [fc.InferenceSession(proto.SerializeToString()) for proto in networks()]
    image = picture("rgr", "rb")
    found = example.read(image, *sessions)
    assert [text for _, text, _ in found] == ["rgr", "rb"]
    for i, ((left, top, right, bottom), text, probability) in enumerate(found):
        first, last = 60, 60 + SIZE * len(text)
        assert first - 40 < left <= first and last <= right < last + 40 and probability > 0.9
        assert 150 * i < top <= 50 + 150 * i and 50 + SIZE + 150 * i <= bottom < 150 * (i + 1)
    drawn = example.draw(image, found)
    assert drawn.size == (2 * image.width, image.height)
    box, sheet = found[0][0], np.asarray(drawn)[:, image.width :]
    assert drawn.getpixel(box[:2]) == (220, 30, 30)
    assert (sheet[box[1] : box[3]] != 255).any() and (sheet[box[3] : found[1][0][1]] == 255).all()


def test_nothing_to_read(example):
    sessions = [fc.InferenceSession(proto.SerializeToString()) for proto in networks()]
    assert example.read(Image.new("RGB", (100, 60), "white"), *sessions) == []


def test_the_program(example, tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("photo.png", "read.png", "detector.onnx", "recogniser.onnx")]
    picture("rg").save(paths[0])
    for path, proto in zip(paths[2:], networks(), strict=True):
        path.write_bytes(proto.SerializeToString())
    monkeypatch.setattr(sys, "argv", ["read_text.py", *map(str, paths)])
    example.main()
    with Image.open(paths[1]) as drawn:
        assert drawn.size == (800, 150)


def test_published_networks(example, request):
    folder = request.config.getoption("--onnx-models")
    if folder is None:
        pytest.skip("only with --onnx-models FOLDER: the models are not part of this repository")
    files = [next(Path(folder).rglob(f"ch_PP-OCRv4_{kind}_infer.onnx")) for kind in ("det", "rec")]
    image = Image.new("RGB", (640, 240), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    pen.text((40, 40), "Convolution 2026", fill="black", font=font)
    pen.text((40, 140), "reads text", fill="navy", font=font)
    found = example.read(image, *map(fc.InferenceSession, files))
    assert [text for _, text, _ in found] == ["Convolution 2026", "reads text"]
