"""Show which algorithm computes a convolution, and why the others do not.

The shapes are input and weight as in torch: 1x64x56x56 64x64x3x3 (one image, 64 channels, 56x56; 64 filters of 64x3x3).
Then, in any order: p1 padding, s1 stride, d1 dilation, g1 groups.  A letter may take one number for all dimensions or
one for each (p1x2); psame and pvalid work too.  One and three spatial dimensions go by the number of sizes:
1x16x100 32x16x5, 1x8x9x20x20 16x8x3x3x3.
"""

import re

from .. import _registry
from ..ops import conv  # noqa: F401  (registers the implementations)
from ..specs import conv_spec
from .console import pairs

PASSES = ("fwd", "bwd_data", "bwd_weights")
LETTERS = {"p": "padding", "s": "stride", "d": "dilation", "g": "groups"}


def add_arguments(parser):
    parser.add_argument("operation", choices=["conv"], help="conv")
    parser.add_argument("input", help="shape of the input, such as 1x64x56x56")
    parser.add_argument("weight", help="shape of the weight, such as 64x64x3x3")
    parser.add_argument("options", nargs="*", help="p1 s1 d1 g1")
    parser.add_argument("--pass", dest="passes", choices=[*PASSES, "all"], default="fwd", help="default fwd")
    parser.add_argument("--packed", action="store_true", help="for a layer in evaluation, which keeps packed weights")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default float32")


def run(args):
    x_shape, w_shape = _sizes("input", args.input), _sizes("weight", args.weight)
    if len(x_shape) not in (3, 4, 5):
        raise ValueError(
            f"the input's shape needs 3, 4 or 5 sizes (1, 2 or 3 spatial), given {len(x_shape)}: {args.input}"
        )
    ndim = len(x_shape) - 2
    spec = conv_spec(f"conv{ndim}d", ndim, x_shape, w_shape, None, **_options(args.options), dtype=args.dtype)
    print(pairs(_describe(spec), indent=""))
    for name in PASSES if args.passes == "all" else (args.passes,):
        print()
        print(_explain(_registry.explain(f"conv.{name}", spec, args.packed and name == "fwd")))


def _sizes(name, text):
    """ "1x64x56" -> (1, 64, 56)."""
    if not re.fullmatch(r"\d+(x\d+)*", text, re.ASCII):
        raise ValueError(f"the {name} must be whole numbers with x between them, such as 1x64x56x56, given {text!r}")
    return tuple(int(size) for size in text.split("x"))


def _options(words):
    """["p1", "s2x1"] -> the arguments of conv_spec; what is not given has its usual default."""
    given = {}
    for word in words:
        name, text = LETTERS.get(word[:1]), word[1:]
        if name is None:
            raise ValueError(
                f"unknown option {word!r}; known are p (padding), s (stride), d (dilation), g (groups): p1 s2"
            )
        if name in given:
            raise ValueError(f"{name} is given twice: {' '.join(words)}")
        if name == "padding" and text in ("same", "valid"):
            given[name] = text
            continue
        values = _sizes(name, text)
        if name == "groups" and len(values) > 1:
            raise ValueError(f"groups is one number, given {word!r}")
        given[name] = values[0] if len(values) == 1 else values
    return {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **given}


def _describe(spec):
    def shape(sizes):
        return "x".join(map(str, sizes))

    yield "convolution", f"{shape(spec.x_shape)} * {shape(spec.w_shape)} -> {shape(spec.y_shape)}, {spec.dtype}"
    sizes = (("kernel", "k"), ("stride", "s"), ("padding", "p"), ("dilation", "d"))
    axes = "dhw"[3 - spec.ndim :]
    words = [f"{name} {shape(getattr(spec, letter + axis) for axis in axes)}" for name, letter in sizes]
    yield "", ", ".join([*words, f"groups {spec.g}"])
    yield "work", f"{spec.flops() / 1e9:.4g} GFLOP, {spec.bytes() / 1e6:.4g} MB in and out"


def _explain(explanation):
    choice = explanation.choice.name
    rows = []
    for candidate in explanation.candidates:
        if candidate.refusal is not None:
            verdict = f"refuses: {candidate.refusal}"
        else:
            verdict = f"accepts, about {candidate.cost / 1000:,.1f} us on one thread"
            if candidate.impl.name == choice:
                verdict += "  <- chosen" + (" by FASTCONV_IMPL" if explanation.forced else "")
        rows.append((candidate.impl.name, verdict))
    return f"{explanation.operation}\n{pairs(rows)}\nchoice: {choice}"
