"""Train a small network on handwritten digits, judge it, save it, load it back.

The 1,797 digits (8x8) come with the package; 360 of them, drawn from the seed, are held out.  With matplotlib
installed, a picture of the learned filters, the feature maps of one digit and the confusion matrix is written too.
"""

from importlib.util import find_spec

from ..data import digits
from ..training import small_network
from .classifier import named_network, resized, train_and_report
from .console import add_training_arguments

BLOCKS = ((16, False), (32, True), (32, True))
HIDDEN = 64
SHIFT = 0.5  # pixels; whole ones push ink out of an 8x8 image


def add_arguments(parser):
    add_training_arguments(parser, epochs=12, batch_size=32, lr=3e-3, out="fastconv-demo")


def run(args):
    size = args.size or (32 if args.model else 8)
    train, test = (
        (resized(images, size), labels) for images, labels in (digits(part, args.seed) for part in ("train", "test"))
    )

    def build():
        return named_network(args.model, 1, 10) if args.model else small_network((size, size), 10, BLOCKS, HIDDEN)

    result = train_and_report(build, train, test, args, SHIFT)
    if args.model:
        return  # the picture is of the small network's layers
    if not find_spec("matplotlib"):
        print('no picture: matplotlib is not installed (pip install "fastconv[plot]")')
        return
    from ..plot import network_picture

    path = result.folder / "demo.png"
    caption = f"A digit {test[1][0]}, read as {result.predicted[0]}"
    network_picture(path, result.model, test[0][0], result.confusion, caption)
    print(f"picture      {path}")
