"""Show what a network costs and sees, layer by layer.

Each layer's output shape, parameters, multiply-adds, memory traffic and receptive field (size, jump from one output to
the next, centre of the first).  With --time a forward pass is timed layer by layer, and the four guidelines of
ShuffleNet v2 (arXiv 1807.11164) say where time goes that a better shape would save.  Sizes are as in torch: 1x3x224x224
is one image of 3 channels, 224x224.
"""

from importlib.util import find_spec

from .. import driver
from ..models import NETWORKS, get_model
from ..summary import summary
from .console import whole_number
from .explain import _sizes

PASSES = 10


def add_arguments(parser):
    parser.add_argument("name", help="name of the network, such as resnet50, or an ONNX file")
    parser.add_argument("--input", help="shape of the input (default: the network's own, one image)")
    parser.add_argument("--time", action="store_true", help=f"time the layers too, medians of {PASSES} passes")
    parser.add_argument("--plot", metavar="FILE", help="write a picture of costs and receptive fields to FILE, a PNG")
    parser.add_argument("--threads", type=whole_number(1), help="number of threads (default: all cores)")


def run(args):
    if args.plot and not find_spec("matplotlib"):
        raise ValueError('--plot needs matplotlib: pip install "fastconv[plot]"')
    if args.threads is not None:
        driver.set_num_threads(args.threads)
    if args.name.endswith(".onnx"):
        from .onnx_summary import onnx_summary

        print(onnx_summary(args.name, [args.input] if args.input else []))
        return
    model = get_model(args.name)
    shape = _sizes("input", args.input) if args.input else (1, *NETWORKS[args.name].input_shape)
    found = summary(model, shape, PASSES if args.time else 0)
    print(found)
    if args.plot:
        from ..plot import summary_picture

        summary_picture(args.plot, found)
        print(f"picture      {args.plot}")
