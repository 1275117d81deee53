"""Designs side by side: several networks, or the ways to build one convolution."""

from dataclasses import dataclass, field

from .. import nn
from ..specs import whole_numbers
from .field import Field
from .report import columns, short, sizes, summary


@dataclass(frozen=True)
class Design:
    """One row of a Comparison: totals of a network, and the receptive field of its output.

    depth: layers with multiply-adds; bytes: memory traffic; seconds: of a forward pass, None if not timed.
    """

    name: str
    parameters: int
    multiply_adds: int
    bytes: int
    depth: int
    field: tuple[Field, ...]
    output_shape: tuple[int, ...]
    seconds: float | None = None


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` returns: rows, and as its text a table with every number relative to the first row's."""

    input_shape: tuple[int, ...]
    rows: tuple[Design, ...] = field(default=())

    def row(self, name):
        """The row of that name.  Raises KeyError."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no design {name!r}; there are {', '.join(row.name for row in self.rows)}")

    def __repr__(self):
        first = self.rows[0]
        timed = first.seconds is not None
        head = ["design", "parameters", "of first", "multiply-adds", "of first", "MB", "of first", "layers", "field"]
        lines = [head + (["ms", "of first"] if timed else [])]
        for row in self.rows:
            cells = [row.name, f"{row.parameters:,}", _ratio(row.parameters, first.parameters)]
            cells += [short(row.multiply_adds), _ratio(row.multiply_adds, first.multiply_adds)]
            cells += [f"{row.bytes / 1e6:.3g}", _ratio(row.bytes, first.bytes), f"{row.depth}"]
            cells.append(sizes(f.size for f in row.field) if row.field else "-")
            if row.seconds is not None and first.seconds:
                cells += [f"{row.seconds * 1e3:.3g}", _ratio(row.seconds, first.seconds)]
            lines.append(cells)
        return "\n".join(columns(lines, right=range(1, len(lines[0]))))


def _ratio(a, b):
    return f"{a / b:.3f}" if b else "-"


def compare(designs, input_shape, timed=0) -> Comparison:
    """Networks side by side on zeros of `input_shape`: parameters, multiply-adds, traffic, receptive field and time.

    designs: dict of name to Module; the first is what the others are measured by; timed: as in `summary`.
    Raises ValueError for no designs.
    """
    if not designs:
        raise ValueError("compare: at least one design is wanted, given none")
    rows = []
    for name, model in designs.items():
        found = summary(model, input_shape, timed)
        depth = sum(layer.multiply_adds > 0 for layer in found.layers)
        last = found.layers[-1]
        totals = found.parameters, found.multiply_adds, found.bytes, depth
        rows.append(Design(name, *totals, last.field, last.output_shape, found.seconds))
    return Comparison(tuple(input_shape), tuple(rows))


def compare_convolutions(in_channels, out_channels, kernel_size, size=56, groups=(2, 4, 8), timed=0) -> Comparison:
    """The ways to build one k x k convolution (k odd) of C to O channels, with padding k // 2 and without bias.

    full         one convolution: C O k^2 parameters
    stacked 3x3  (k - 1) / 2 of them see as much as one k x k (Simonyan and Zisserman 2015, arXiv 1409.1556, 2.3)
    asymmetric   1 x k, then k x 1: C O k + O^2 k (Szegedy et al. 2016, arXiv 1512.00567, section 3.2)
    flattened    channels, column, row: C O + 2 O k (Jin et al. 2015, arXiv 1412.5474, section 3)
    g groups     C O k^2 / g, for each of `groups` that divides C and O
    depthwise separable  C k^2 + C O (Howard et al. 2017, arXiv 1704.04861, section 3.1)

    size: height and width of the image, one number or two; timed: as in `summary`.  The rows are measured by building
    the layers and running them, not by these formulas.  Raises ValueError for numbers below 1 or an even kernel.
    """
    name = "compare_convolutions"
    c, o = (
        whole_numbers(name, what, n, 1, 1)[0]
        for what, n in (("in_channels", in_channels), ("out_channels", out_channels))
    )
    (k,) = whole_numbers(name, "kernel_size", kernel_size, 1, 1)
    height, width = whole_numbers(name, "size", size, 2, 1)
    if k % 2 == 0:
        raise ValueError(f"{name}: kernel_size must be odd, given {k}")
    settings = {"padding": k // 2, "bias": False}
    designs: dict[str, nn.Module] = {f"full {k}x{k}": nn.Conv2d(c, o, k, **settings)}
    if k > 3:
        stack = [nn.Conv2d(c if i == 0 else o, o, 3, padding=1, bias=False) for i in range(k // 2)]
        designs[f"{k // 2} stacked 3x3"] = nn.Sequential(*stack)
    if k > 1:
        designs["asymmetric"] = nn.SpatialSeparableConv2d(c, o, k, **settings)
        designs["flattened"] = nn.FlattenedConv2d(c, o, k, **settings)
    for g in groups:
        if g > 1 and not c % g and not o % g:
            designs[f"{g} groups"] = nn.Conv2d(c, o, k, groups=g, **settings)
    if k > 1:
        designs["depthwise separable"] = nn.DepthwiseSeparableConv2d(c, o, k, **settings)
    return compare(designs, (1, c, height, width), timed)
