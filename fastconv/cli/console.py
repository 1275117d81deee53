"""What the commands share: arguments, a progress bar, tables."""

import argparse
import sys
from contextlib import contextmanager


def whole_number(low):
    """An argparse type: a whole number of at least `low`."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"a whole number is wanted, given {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"at least {low} is wanted, given {value}")
        return value

    return parse


def positive_number(text):
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number is wanted, given {text!r}") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is wanted, given {text}")
    return value


def add_training_arguments(parser, *, epochs, batch_size, lr, out):
    """The arguments of a command that trains; `run` finds them as attributes."""
    parser.add_argument(
        "--epochs", type=whole_number(1), default=epochs, help=f"passes over the data (default {epochs})"
    )
    parser.add_argument("--batch-size", type=whole_number(1), default=batch_size, help=f"default {batch_size}")
    parser.add_argument("--lr", type=positive_number, default=lr, help=f"highest learning rate (default {lr})")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="same seed, same weights, bit for bit (default 0)"
    )
    parser.add_argument("--out", default=out, help=f"folder for the results (default {out})")
    parser.add_argument("--threads", type=whole_number(1), help="number of threads (default: all cores)")
    parser.add_argument("--model", metavar="NAME", help="a network that `fastconv models` lists (default: a small one)")
    parser.add_argument(
        "--size",
        type=whole_number(8),
        help="images get this height and width (default: as they are; with --model 32)",
    )


@contextmanager
def progress(total, unit):
    """A progress bar on a terminal where tqdm is installed, else nothing.  Gives advance(text), `total` times."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda text: None
        return
    with tqdm(total=total, unit=unit, disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True) as bar:

        def advance(text):
            bar.set_postfix_str(text, refresh=False)
            bar.update()

        yield advance


def pairs(rows, indent="  "):
    """Lines of (name, value), the values in one column."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{indent}{name:<{width}}  {value}" for name, value in rows)


def matrix(numbers, corner=""):
    """A square table of whole numbers with row and column numbers; zeros are dots, so that the rest stands out."""
    names = [str(i) for i in range(len(numbers))]
    width = max(len(str(numbers.max())), len(names[-1])) + 1
    lines = [f"{corner:>6}" + "".join(f"{name:>{width}}" for name in names)]
    for name, row in zip(names, numbers, strict=True):
        lines.append(f"{name:>6}" + "".join(f"{value or '.':>{width}}" for value in row))
    return "\n".join(lines)
