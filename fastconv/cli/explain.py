"""Show which algorithm computes a convolution or one of its kin, and why the others do not.

The shapes are input and weight as in torch: 1x64x56x56 64x64x3x3 (one image, 64 channels, 56x56; 64 filters of 64x3x3).
Then, in any order: p1 padding, s1 stride, d1 dilation, g1 groups.  A letter may take one number for all dimensions or
one for each (p1x2); psame and pvalid work too.  One and three spatial dimensions go by the number of sizes:
1x16x100 32x16x5, 1x8x9x20x20 16x8x3x3x3.

adder and deform_conv take the same shapes in two dimensions; involution the input and groups x kernel, 1x64x56x56
4x7x7; shift the input alone; non_local the input with its positions as one size, 1x32x3136.
"""

import re

from .. import _registry
from ..kernels.deform import DeformSpec
from ..kernels.involution import InvolutionSpec
from ..kernels.non_local import SOFTMAX, NonLocalSpec
from ..kernels.shift import ShiftSpec
from ..specs import conv_spec
from .console import pairs

LETTERS = {"p": "padding", "s": "stride", "d": "dilation", "g": "groups"}


def add_arguments(parser):
    parser.add_argument("operation", choices=SPECS, metavar="operation", help=", ".join(SPECS))
    parser.add_argument("input", help="shape of the input, such as 1x64x56x56")
    parser.add_argument("weight", nargs="?", help="shape of the weight, such as 64x64x3x3")
    parser.add_argument("options", nargs="*", help="p1 s1 d1 g1")
    names = sorted({name for operation in SPECS for name in _passes(operation)})
    parser.add_argument("--pass", dest="passes", choices=[*names, "all"], default="fwd", help="default fwd")
    parser.add_argument("--packed", action="store_true", help="for a layer in evaluation, which keeps packed weights")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default float32")


def run(args):
    shapes = [_sizes("input", args.input)] + ([_sizes("weight", args.weight)] if args.weight else [])
    known = _passes(args.operation)
    if args.passes not in (*known, "all"):
        raise ValueError(f"{args.operation} has the passes {', '.join(known)}, given {args.passes}")
    spec, conv = SPECS[args.operation](args, *shapes)
    if conv is not None:
        print(pairs(_describe(conv), indent=""))
    for name in known if args.passes == "all" else (args.passes,):
        print()
        print(_explain(_registry.explain(f"{args.operation}.{name}", spec, args.packed and name == "fwd")))


def _passes(operation):
    found = [name.partition(".") for name in _registry.operations()]
    names = {name for family, _, name in found if family == operation}
    return sorted(names, key=lambda name: (name != "fwd", name))


# ---- what each operation's shapes mean: (spec, the convolution to describe or None)


def _conv(args, x_shape, w_shape=None):
    if len(x_shape) not in (3, 4, 5):
        raise ValueError(
            f"the input's shape needs 3, 4 or 5 sizes (1, 2 or 3 spatial), given {len(x_shape)}: {args.input}"
        )
    if w_shape is None:
        raise ValueError(f"{args.operation} needs the shape of the weight, such as 64x64x3x3")
    ndim, name = len(x_shape) - 2, args.operation if args.operation != "conv" else f"conv{len(x_shape) - 2}d"
    spec = conv_spec(name, ndim, x_shape, w_shape, None, **_options(args.options), dtype=args.dtype)
    return spec, spec


def _deform_conv(args, x_shape, w_shape=None):
    conv, _ = _conv(args, x_shape, w_shape)
    if conv.ndim != 2:
        raise ValueError(f"deform_conv has two spatial dimensions, given {conv.ndim}: {args.input}")
    taps = tuple((i * conv.dh - conv.ph, j * conv.dw - conv.pw) for i in range(conv.kh) for j in range(conv.kw))
    sizes = (conv.n, conv.ic, conv.oc, conv.g, 1, conv.ih, conv.iw, conv.oh, conv.ow, conv.sh, conv.sw)
    return DeformSpec(*sizes, taps, True, conv.dtype), conv


def _involution(args, x_shape, kernel=None):
    if kernel is None or len(kernel) != 3 or len(x_shape) != 4 or not kernel[0] or x_shape[1] % kernel[0]:
        given = f"{args.input} {args.weight or ''}"
        raise ValueError(f"involution needs n x c x h x w and groups (a divisor of c) x kh x kw, given {given}")
    channels = x_shape[1]
    options = {**_options(args.options), "groups": channels}
    conv = conv_spec("involution", 2, x_shape, (channels, 1, *kernel[1:]), None, **options, dtype=args.dtype)
    return InvolutionSpec(conv, kernel[0]), conv


def _shift(args, x_shape, extra=None):
    if len(x_shape) != 4 or extra is not None:
        raise ValueError(f"shift needs the input n x c x h x w alone, given {args.input} {args.weight or ''}".rstrip())
    n, channels, height, width = x_shape
    return ShiftSpec(n, channels, height, width, args.dtype), None


def _non_local(args, x_shape, extra=None):
    if len(x_shape) != 3 or extra is not None:
        raise ValueError(f"non_local needs the input n x c x positions alone, given {args.input} {args.weight or ''}")
    n, channels, positions = x_shape
    return NonLocalSpec(n, channels, channels, positions, positions, SOFTMAX, args.dtype), None


SPECS = {
    "conv": _conv,
    "adder": _conv,
    "deform_conv": _deform_conv,
    "involution": _involution,
    "shift": _shift,
    "non_local": _non_local,
}


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
