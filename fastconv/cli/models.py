"""List the networks of fc.models: input, parameters and multiply-adds in millions, paper.

With words, only the networks whose names contain one of them: fastconv models vgg resnet.
"""

from ..models import list_models, table


def add_arguments(parser):
    parser.add_argument("words", nargs="*", help="parts of names; all networks without them")


def run(args):
    names = [name for name in list_models() if not args.words or any(word in name for word in args.words)]
    if not names:
        raise ValueError(f"no network's name contains {' or '.join(args.words)}; there are {', '.join(list_models())}")
    print(table(names))
