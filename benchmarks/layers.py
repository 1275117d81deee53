"""The layers that are measured: one row of shapes/layers.csv is one Case.

A Case knows its operands (seeded), the fastconv call of each pass, its arithmetic and its memory traffic.  It imports
fastconv only when a call is asked for, so that a worker in another environment can read the same rows with NumPy alone.
"""

import csv
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from types import ModuleType

import numpy as np

LAYERS = Path(__file__).with_name("shapes") / "layers.csv"
PASSES = ("fwd", "bwd_data", "bwd_weights")
WEIGHTED = ("conv", "conv_transpose", "deform_conv", "adder")  # the kinds of op that have weights and count in GFLOP/s


class MissingError(Exception):
    """fastconv does not have the function, layer or gradient that a row needs."""


def sizes(text: str, ndim: int) -> tuple[int, ...]:
    """'3' or '3x5' -> one int per spatial dimension; () for an empty field."""
    values = tuple(int(part) for part in text.split("x")) if text else ()
    if len(values) not in (0, 1, ndim):
        raise ValueError(f"{text!r} has {len(values)} sizes, the layer has {ndim} spatial dimensions")
    return values * ndim if len(values) == 1 else values


@dataclass(frozen=True)
class Case:
    """One layer: sizes as in torch; `kernel` of an adaptive pool is its output size."""

    name: str
    op: str
    batch: int
    in_channels: int
    size: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    source: str

    @classmethod
    def parse(cls, row: dict[str, str]) -> "Case":
        """A case from one row of the table (column name -> text)."""
        ndim, adaptive = row["size"].count("x") + 1, row["op"].startswith("adaptive")
        text = dict(row, stride=row["stride"] or "1", padding=row["padding"] or "0", dilation=row["dilation"] or "1")
        if adaptive:  # the table gives the size of its output where others have the number of channels
            text.update(kernel=row["out_channels"], out_channels="")
        spatial = {name: sizes(text[name], ndim) for name in ("size", "kernel", "stride", "padding", "dilation")}
        return cls(
            name=row["name"],
            op=row["op"],
            batch=int(row["batch"]),
            in_channels=int(row["in_channels"]),
            out_channels=int(text["out_channels"] or row["in_channels"]),
            groups=int(row["groups"] or 1),
            source=row["from"],
            **spatial,
        )

    @property
    def ndim(self) -> int:
        """Number of spatial dimensions."""
        return len(self.size)

    @property
    def kind(self) -> str:
        """The op without its rank: 'conv', 'conv_transpose', 'max_pool', ..."""
        return self.op.removesuffix(f"{self.ndim}d")

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes that this op has."""
        return PASSES if self.kind in WEIGHTED else PASSES[:2]

    @property
    def out_size(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        if self.kind.startswith("adaptive"):
            return self.kernel
        if self.kind == "blur_pool":
            return tuple((i - 1) // s + 1 for i, s in zip(self.size, self.stride, strict=True))
        if self.kind == "shift":
            return self.size
        steps = zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        if self.kind == "conv_transpose":
            return tuple((i - 1) * s - 2 * p + d * (k - 1) + 1 for i, k, s, p, d in steps)
        return tuple((i + 2 * p - d * (k - 1) - 1) // s + 1 for i, k, s, p, d in steps)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of input x, output (and its gradient) gy, and, where there are any, weights w and offsets."""
        shapes = {
            "x": (self.batch, self.in_channels, *self.size),
            "gy": (self.batch, self.out_channels, *self.out_size),
        }
        if self.kind == "conv_transpose":
            shapes["w"] = (self.in_channels, self.out_channels // self.groups, *self.kernel)
        elif self.kind in WEIGHTED:
            shapes["w"] = (self.out_channels, self.in_channels // self.groups, *self.kernel)
        if self.kind == "deform_conv":
            shapes["offset"] = (self.batch, 2 * prod(self.kernel), *self.out_size)
        return shapes

    @property
    def flops(self) -> int:
        """Floating-point operations of any pass, a multiply-add counted as two; 0 for ops that only move or compare."""
        if self.kind not in WEIGHTED:
            return 0
        pixels = self.size if self.kind == "conv_transpose" else self.out_size  # each meets every weight of its group
        return 2 * self.batch * prod(pixels) * prod(self.shapes["w"])

    @property
    def bytes(self) -> int:
        """Least memory traffic of any pass: every operand once, in float32."""
        return 4 * sum(prod(shape) for shape in self.shapes.values())

    @property
    def unit(self) -> str:
        """What `rate` is in."""
        return "GFLOP/s" if self.flops else "GB/s"

    def rate(self, seconds: float) -> float:
        """Speed of a pass that took `seconds`, in `unit`."""
        return (self.flops or self.bytes) / seconds / 1e9

    def with_batch(self, batch: int | None) -> "Case":
        """The same layer for another batch size (None: as in the table)."""
        return self if batch is None else replace(self, batch=batch)

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random float32 operands by name; weights are scaled so that outputs are of the order of one."""
        rng = np.random.default_rng(seed)
        arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in self.shapes.items()}
        if "w" in arrays:
            arrays["w"] *= np.float32((2 * prod(self.shapes["gy"]) / self.flops) ** 0.5)
        return arrays

    def functional(self, which: str, arrays: dict[str, np.ndarray]) -> Callable[[], object]:
        """The call of fastconv.functional for one pass; raises MissingError naming what is missing.

        Gradients of convolutions are the functions conv2d_input and conv2d_weight; every other op is run forward once
        here, and the call is its backward pass.
        """
        import fastconv
        from fastconv import functional as F

        if which == "fwd":
            return self.bind(F, **arrays)
        if self.kind == "conv":
            settings = (self.stride, self.padding, self.dilation, self.groups)
            if which == "bwd_data":
                call = _attribute(F, f"{self.op}_input")
                return lambda: call(self.shapes["x"], arrays["w"], arrays["gy"], *settings)
            call = _attribute(F, f"{self.op}_weight")
            return lambda: call(arrays["x"], self.shapes["w"], arrays["gy"], *settings)
        wanted = "x" if which == "bwd_data" else "w"
        tensor = _attribute(fastconv, "Tensor")(arrays[wanted], requires_grad=True)
        output = self.bind(F, **{**arrays, wanted: tensor})()
        grad = _attribute(fastconv.autograd, "grad")  # as PyTorch is asked: the gradient alone, not added to a tensor's
        return lambda: grad(output, tensor, arrays["gy"], retain_graph=True)[0].numpy()

    def bind(self, F: ModuleType, x, gy=None, w=None, offset=None) -> Callable[[], object]:
        """The forward call, with its arguments, of F: a module with torch's names; gy is not used."""
        call = functools.partial(_attribute(F, self.op), x)
        if self.kind == "conv":
            return functools.partial(call, w, None, self.stride, self.padding, self.dilation, self.groups)
        if self.kind == "conv_transpose":
            return functools.partial(call, w, None, self.stride, self.padding, 0, self.groups, self.dilation)
        if self.kind == "deform_conv":
            return functools.partial(call, offset, w, None, self.stride, self.padding, self.dilation)
        if self.kind == "adder":
            return functools.partial(call, w, stride=self.stride, padding=self.padding)
        if self.kind in ("max_pool", "avg_pool"):
            return functools.partial(call, self.kernel, self.stride, self.padding)
        if self.kind == "lp_pool":
            return functools.partial(call, 2, self.kernel, self.stride)
        if self.kind in ("soft_pool", "blur_pool"):
            return functools.partial(call, self.kernel, self.stride)
        if self.kind == "shift":
            return functools.partial(call, _attribute(F, "shift_groups")(self.in_channels, self.kernel[0]))
        return functools.partial(call, self.kernel)  # adaptive pools

    def layer(self, arrays: dict[str, np.ndarray]) -> Callable[[np.ndarray], object]:
        """The layer of fastconv.nn in evaluation mode with the case's weights; raises MissingError."""
        from fastconv import nn

        make = _attribute(nn, "".join(part.capitalize() for part in self.op.split("_")).replace("Lp", "LP"))
        if self.kind == "deform_conv":
            raise MissingError("nn.DeformConv2d predicts its own offsets")
        if "w" in arrays:
            settings = {"stride": self.stride, "padding": self.padding}
            if self.kind != "adder":
                settings |= {"dilation": self.dilation, "groups": self.groups, "bias": False}
            module = make(self.in_channels, self.out_channels, self.kernel, **settings)
            module.load_state_dict({"weight": arrays["w"]})
        elif self.kind in ("max_pool", "avg_pool"):
            module = make(self.kernel, self.stride, self.padding)
        elif self.kind == "lp_pool":
            module = make(2, self.kernel, self.stride)
        elif self.kind in ("soft_pool", "blur_pool"):
            module = make(self.kernel, self.stride)
        elif self.kind == "shift":
            module = make(self.in_channels, self.kernel[0])
        else:
            module = make(self.kernel)
        return module.eval()


def _attribute(module: ModuleType, name: str):
    if not hasattr(module, name):
        raise MissingError(f"{module.__name__.rpartition('.')[2]}.{name}")
    return getattr(module, name)


def read(path: Path = LAYERS) -> list[Case]:
    """All cases of a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Case.parse(row) for row in csv.DictReader(file)]
