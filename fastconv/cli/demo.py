"""Train a small network on handwritten digits, judge it, save it, load it back.

The 1,797 digits (8x8) come with the package; 360 of them, drawn from the seed, are held out.  With matplotlib
installed, a picture of the learned filters, the feature maps of one digit and the confusion matrix is written too.
"""

from importlib.util import find_spec

from ..data import digits
from ..training import small_network
from .classifier import train_and_report
from .console import add_training_arguments

BLOCKS = ((16, False), (32, True), (32, True))
HIDDEN = 64
SHIFT = 0.5  # pixels; whole ones push ink out of an 8x8 image


def add_arguments(parser):
    add_training_arguments(parser, epochs=12, batch_size=32, lr=3e-3, out="fastconv-demo")


def run(args):
    train, test = digits("train", args.seed), digits("test", args.seed)
    result = train_and_report(lambda: small_network((8, 8), 10, BLOCKS, HIDDEN), train, test, args, SHIFT)
    if not find_spec("matplotlib"):
        print('no picture: matplotlib is not installed (pip install "fastconv[plot]")')
        return
    from ..plot import network_picture

    path = result.folder / "demo.png"
    caption = f"A digit {test[1][0]}, read as {result.predicted[0]}"
    network_picture(path, result.model, test[0][0], result.confusion, caption)
    print(f"picture      {path}")
