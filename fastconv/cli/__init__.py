"""The command line: `fastconv COMMAND`, also `python -m fastconv COMMAND`.  Each command is one file of this folder.

A mistake of the user gives one line on stderr and exit code 2; with FASTCONV_DEBUG=1 it gives the traceback.
"""

import argparse
import sys

from .. import _config
from . import bench, demo, env, explain, models, ops, run, summary, train, warmup

COMMANDS = {
    "demo": demo,
    "train": train,
    "env": env,
    "explain": explain,
    "models": models,
    "ops": ops,
    "summary": summary,
    "run": run,
    "bench": bench,
    "warmup": warmup,
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser():
    parser = _Parser(prog="fastconv", description="Convolution on the CPU at the hardware's limit.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").strip()  # none under python -OO
        sub = commands.add_parser(
            name,
            help=text.partition("\n")[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
    return parser


def main(argv=None):
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        COMMANDS[args.command].run(args)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; Python would complain once more at exit
        return 0
    except KeyboardInterrupt:
        print(f"fastconv {args.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        if _config.DEBUG:
            raise
        print(f"fastconv {args.command}: {error}", file=sys.stderr)
        return 2
    return 0
