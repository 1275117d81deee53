"""Read the text in a photograph: where it is, what it says, and both drawn.

    pip install "fastconv[onnx]" pillow
    pip download --no-deps rapidocr-onnxruntime==1.4.4 && unzip -j rapidocr_onnxruntime-1.4.4-*.whl '*.onnx'
    python notebooks/read_text.py photo.jpg read.png ch_PP-OCRv4_det_infer.onnx ch_PP-OCRv4_rec_infer.onnx

Two networks of PP-OCR (arXiv 2009.09941), run by `fc.InferenceSession` alone.  The detector says for every pixel how
likely it belongs to text; connected pixels are a line (Liao et al., arXiv 1911.08947).  The recogniser reads a line as
one character, or none, for every 8 columns; repeated ones count once (Graves et al. 2006, section 3.2).
"""

import argparse
import logging
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import fastconv as fc

LIKELY, MEAN_LIKELY, GROW = 0.3, 0.5, 1.6  # of a pixel, of a line; lines are found too thin by this factor
LINE, BUCKET = 48, 64  # height of a line for the recogniser; widths are rounded up, as every shape is planned once


def network_input(picture):
    """(1, 3, h, w) from -1 to 1, blue first, of an RGB picture."""
    pixels = np.asarray(picture, np.float32)[:, :, ::-1] / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def components(mask):
    """Labels from 1 on of connected pixels, 0 elsewhere: pixels take the least label beside them until none does."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        before = labels.copy()
        for axis in (0, 1):
            for turned in (labels, np.flip(labels, axis)):  # the least label runs along lines, both ways
                lines = np.moveaxis(turned, axis, 0)
                for previous, line in pairwise(lines):
                    np.copyto(line, previous, where=(previous > 0) & (line > previous))
        if np.array_equal(before, labels):
            return labels


def find_lines(picture, detector):
    """[(left, top, right, bottom)] of the lines of text, from top to bottom."""
    scale = min(960 / max(picture.size), max(1.0, 736 / min(picture.size)))
    width, height = (max(32, round(n * scale / 32) * 32) for n in picture.size)
    ratio = np.array([picture.width / width, picture.height / height] * 2)
    name = detector.get_inputs()[0].name
    likely = detector.run(None, {name: network_input(picture.resize((width, height)))})[0][0, 0]
    labels, boxes = components(likely > LIKELY), []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        w, h = np.ptp(columns) + 1, np.ptp(rows) + 1
        if min(w, h) < 3 or likely[rows, columns].mean() < MEAN_LIKELY:
            continue
        grow = GROW * w * h / (2 * (w + h))
        box = columns.min() - grow, rows.min() - grow, columns.max() + 1 + grow, rows.max() + 1 + grow
        boxes.append(tuple(np.clip(np.array(box) * ratio, 0, [*picture.size, *picture.size]).astype(int).tolist()))
    return sorted(boxes, key=lambda box: (box[1], box[0]))


def read_line(picture, recogniser):
    """(text, mean probability of its characters) of a picture of one line."""
    characters = ["", *recogniser.get_modelmeta().custom_metadata_map["character"].split("\n"), " "]
    width = max(8, round(picture.width * LINE / picture.height))
    x = np.zeros((1, 3, LINE, -(-width // BUCKET) * BUCKET), np.float32)
    x[..., :width] = network_input(picture.resize((width, LINE)))
    scores = recogniser.run(None, {recogniser.get_inputs()[0].name: x})[0][0]
    best = scores.argmax(1)
    new = (best > 0) & np.append(True, best[1:] != best[:-1])
    return "".join(characters[i] for i in best[new]), float(scores.max(1)[new].mean()) if new.any() else 0.0


def read(picture, detector, recogniser):
    """[(box, text, probability)] of a picture."""
    boxes = find_lines(picture, detector)
    return [(box, *read_line(picture.crop(box), recogniser)) for box in boxes]


def draw(picture, found):
    """The picture with a box around every line and, on a sheet to its right, what each says in its place."""
    drawn = Image.new("RGB", (2 * picture.width, picture.height), "white")
    drawn.paste(picture, (0, 0))
    pen = ImageDraw.Draw(drawn)
    for (left, top, right, bottom), text, _ in found:
        shown = text.encode("latin-1", "replace").decode("latin-1")  # what the built-in font has
        size = 4 * (bottom - top) // 5  # so that what sticks out below and above stays in the box
        while size > 6 and pen.textlength(shown, ImageFont.load_default(size)) > right - left:
            size -= 1
        pen.rectangle((left, top, right, bottom), outline=(220, 30, 30), width=2)
        at = picture.width + left, (top + bottom) / 2
        pen.text(at, shown, fill=(30, 60, 220), font=ImageFont.load_default(size), anchor="lm")
    return drawn


def main():
    parser = argparse.ArgumentParser(description="Read the text in a photograph.")
    for name in ("photo", "out", "detector", "recogniser"):
        parser.add_argument(name)
    args = parser.parse_args()
    picture = Image.open(args.photo).convert("RGB")
    found = read(picture, fc.InferenceSession(args.detector), fc.InferenceSession(args.recogniser))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for box, text, probability in found:
        logging.info("%-24s %4.2f  %s", box, probability, text)
    draw(picture, found).save(args.out)


if __name__ == "__main__":
    main()
