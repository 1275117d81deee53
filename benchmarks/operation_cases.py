"""Operations other than convolutions, with PyTorch's function or the usual composition of its functions as the peer.

An Operation knows its operands (seeded), one call that both libraries understand or one for each, and how many times
faster than PyTorch it is meant to be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

Shapes = dict[str, tuple[int, ...] | Callable[[np.random.Generator], np.ndarray]]


@dataclass(frozen=True)
class Operation:
    """operands: by name, the shape of a normally distributed float32 array, or what makes it from a generator.

    call(F, **operands) of fastconv.functional, and of torch.nn.functional unless there is a `peer(compositions,
    **operands)`.  wanted: the operands that get gradients; comparable: whether PyTorch's gradients mean the same.
    """

    group: str
    name: str
    goal: float
    operands: Shapes
    call: Callable[..., Any]
    peer: Callable[..., Any] | None = None
    wanted: tuple[str, ...] = ("x",)
    comparable: bool = True

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray]:
        """The operands."""
        rng = np.random.default_rng(seed)
        return {
            name: make(rng) if callable(make) else rng.standard_normal(make, np.float32)
            for name, make in self.operands.items()
        }


# ---- operands


def near_identity(shape: tuple[int, ...]) -> Callable[[np.random.Generator], np.ndarray]:
    """A sampling grid (n, *size, rank) that turns and stretches the image a little, and leaves it at some places."""

    def make(rng):
        n, *size, rank = shape
        axes = np.meshgrid(*[np.linspace(-1, 1, s) for s in size], indexing="ij")[::-1]
        turn = np.eye(rank) + 0.15 * rng.standard_normal((n, rank, rank))
        return np.ascontiguousarray(np.einsum("nij,...j->n...i", turn, np.stack(axes, -1)), np.float32)

    return make


def scattered(shape: tuple[int, ...]) -> Callable[[np.random.Generator], np.ndarray]:
    """A sampling grid without any order."""
    return lambda rng: rng.uniform(-1.05, 1.05, shape).astype(np.float32)


def boxes(count: int, size: int) -> Callable[[np.random.Generator], np.ndarray]:
    """(count, 5): boxes inside an image of `size` pixels, at whole multiples of 16."""

    def make(rng):
        first, sides = rng.integers(0, size // 32, (count, 2)), rng.integers(8, size // 32 - 2, (count, 2))
        corners = np.concatenate([np.zeros((count, 1)), 16 * first, 16 * (first + sides)], 1)
        return corners.astype(np.float32)

    return make


def spread(shape: tuple[int, ...], scale: float) -> Callable[[np.random.Generator], np.ndarray]:
    """Normally distributed with this standard deviation."""
    return lambda rng: (scale * rng.standard_normal(shape)).astype(np.float32)


def positions(shape: tuple[int, ...], windows: int) -> Callable[[np.random.Generator], np.ndarray]:
    """Positions of the maxima of 2x2 windows that don't overlap, in planes twice as wide and high."""

    def make(rng):
        *planes, h, w = shape
        rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
        tap = rng.integers(0, windows, (*planes, h, w))
        return (2 * rows + tap // 2) * (2 * w) + 2 * columns + tap % 2

    return make


@cache
def shifts(channels: int) -> np.ndarray:
    """The displacements of fastconv.functional.shift_groups."""
    from fastconv.functional import shift_groups

    return shift_groups(channels, 3)


# ---- the rows


def _image(channels: int, height: int, width: int | None = None) -> Shapes:
    return {"x": (1, channels, height, width or height)}


def _pools() -> list[Operation]:
    row = partial(Operation, "Pooling", goal=3)
    volume = {"x": (1, 64, 8, 56, 56)}
    return [
        row("max 2x2 s2, 64x224x224", operands=_image(64, 224), call=lambda F, x: F.max_pool2d(x, 2)),
        row("max 3x3 s2, 64x112x112", operands=_image(64, 112), call=lambda F, x: F.max_pool2d(x, 3, 2, 1)),
        row("max 3x3 s1, 480x14x14", operands=_image(480, 14), call=lambda F, x: F.max_pool2d(x, 3, 1, 1)),
        row("max 13x13 s1, 256x13x13", operands=_image(256, 13), call=lambda F, x: F.max_pool2d(x, 13, 1, 6)),
        row("max 1-d k3 s2, 64x8192", operands={"x": (1, 64, 8192)}, call=lambda F, x: F.max_pool1d(x, 3, 2, 1)),
        row("max 3x3x3 s2, 64x8x56x56", operands=volume, call=lambda F, x: F.max_pool3d(x, 3, 2, 1)),
        row(
            "max 3x3 s2 with indices, 64x112x112",
            operands=_image(64, 112),
            call=lambda F, x: F.max_pool2d(x, 3, 2, 1, return_indices=True)[0],
        ),
        row("avg 3x3 s1, 192x28x28", operands=_image(192, 28), call=lambda F, x: F.avg_pool2d(x, 3, 1, 1)),
        row("avg 3x3 s2, 128x56x56", operands=_image(128, 56), call=lambda F, x: F.avg_pool2d(x, 3, 2, 1)),
        row("avg 2x2 s2, 256x56x56", operands=_image(256, 56), call=lambda F, x: F.avg_pool2d(x, 2)),
        row("avg 2x2x2 s2, 64x8x56x56", operands=volume, call=lambda F, x: F.avg_pool3d(x, 2)),
        row("avg global, 2048x7x7", operands=_image(2048, 7), call=lambda F, x: F.adaptive_avg_pool2d(x, 1)),
        row("avg adaptive 6x6, 256x13x13", operands=_image(256, 13), call=lambda F, x: F.adaptive_avg_pool2d(x, 6)),
        row("avg adaptive 7x7, 512x16x16", operands=_image(512, 16), call=lambda F, x: F.adaptive_avg_pool2d(x, 7)),
        row("max adaptive 6x6, 128x64x64", operands=_image(128, 64), call=lambda F, x: F.adaptive_max_pool2d(x, 6)),
        row("max adaptive 7x7, 512x16x16", operands=_image(512, 16), call=lambda F, x: F.adaptive_max_pool2d(x, 7)),
    ]


def _other_pools() -> list[Operation]:
    row = partial(Operation, "Pooling", goal=3)
    return [
        row("lp 2x2 s2, 128x56x56", operands=_image(128, 56), call=lambda F, x: F.lp_pool2d(x, 2, 2)),
        row(
            "fractional max 2x2, 64x112x112 to 79x79",
            operands={**_image(64, 112), "samples": lambda rng: rng.random((1, 64, 2), np.float32)},
            call=lambda F, x, samples: F.fractional_max_pool2d(x, 2, 79, _random_samples=samples),
        ),
        row(
            "max unpool 2x2, 64x56x56",
            operands={**_image(64, 56), "at": positions((1, 64, 56, 56), 4)},
            call=lambda F, x, at: F.max_unpool2d(x, at, 2),
        ),
        row(
            "soft 2x2 s2, 128x56x56",
            operands=_image(128, 56),
            call=lambda F, x: F.soft_pool2d(x, 2),
            peer=lambda C, x: C.soft_pool2d(x, 2),
        ),
        row(
            "blur 3x3 s2, 128x56x56",
            operands=_image(128, 56),
            call=lambda F, x: F.blur_pool2d(x, 3, 2),
            peer=lambda C, x: C.blur_pool2d(x, 3, 2),
        ),
        row(
            "stochastic 2x2 s2 in evaluation, 128x56x56",
            operands=_image(128, 56),
            call=lambda F, x: F.stochastic_pool2d(x, 2, training=False),
            peer=lambda C, x: C.stochastic_pool2d(x, 2),
        ),
        row(
            "mixed 2x2 s2, 128x56x56",
            operands=_image(128, 56),
            call=lambda F, x: F.mixed_pool2d(x, 0.5, 2, 2),
            peer=lambda C, x: C.mixed_pool2d(x, 0.5, 2, 2),
        ),
        row(
            "pyramid 4, 2, 1, 256x13x13",
            operands=_image(256, 13),
            call=lambda F, x: F.spatial_pyramid_pool2d(x, (4, 2, 1)),
            peer=lambda C, x: C.spatial_pyramid_pool2d(x, (4, 2, 1)),
        ),
        row(
            "RoI align 7x7, 100 boxes, 64x50x50",
            operands={**_image(64, 50), "boxes": boxes(100, 800)},
            call=lambda F, x, boxes: F.roi_align(x, boxes, 7, 1 / 16, 2, True),
            peer=lambda C, x, boxes: C.roi_align(x, boxes, 7, 1 / 16, 2),
        ),
        row(
            "RoI pool 7x7, 100 boxes, 64x50x50",
            operands={**_image(64, 50), "boxes": boxes(100, 800)},
            call=lambda F, x, boxes: F.roi_pool(x, boxes, 7, 1 / 16),
            peer=lambda C, x, boxes: C.roi_pool(x, boxes, 7, 1 / 16),
        ),
    ]


def _transposed() -> list[Operation]:
    row = partial(Operation, "Transposed convolution", goal=1.5, wanted=("x", "w"))

    def case(name, x, w, *settings):
        rank = len(x) - 2
        return row(
            name,
            operands={"x": x, "w": spread(w, (x[1] * np.prod(w[2:])) ** -0.5)},
            call=lambda F, x, w: getattr(F, f"conv_transpose{rank}d")(x, w, None, *settings),
        )

    return [
        case("U-Net 2x2 s2, 256x28x28 to 128", (1, 256, 28, 28), (256, 128, 2, 2), 2),
        case("DCGAN 4x4 s2, 512x8x8 to 256", (1, 512, 8, 8), (512, 256, 4, 4), 2, 1),
        case("FCN 16x16 s8, 21x32x32, 21 groups", (1, 21, 32, 32), (21, 1, 16, 16), 8, 4, 0, 21),
        case("HiFi-GAN 16 s8, 512x100 to 256", (1, 512, 100), (512, 256, 16), 8, 4),
        case("3-D U-Net 2x2x2 s2, 64x8x16x16 to 32", (1, 64, 8, 16, 16), (64, 32, 2, 2, 2), 2),
        case("super-resolution 9x9 s3, 56x64x64 to 1", (1, 56, 64, 64), (56, 1, 9, 9), 3, 4, 2),
        case("inverse STFT 1024 s256, 1026x128 to 1", (1, 1026, 128), (1026, 1, 1024), 256),
    ]


def _special() -> list[Operation]:
    row = partial(Operation, "Special convolutions")
    deform = {"x": (1, 256, 28, 28), "offset": (1, 18, 28, 28), "w": spread((256, 256, 3, 3), 0.02)}
    return [
        row(
            "deformable 3x3, 256x28x28",
            10,
            deform,
            lambda F, x, offset, w: F.deform_conv2d(x, offset, w, None, 1, 1),
            lambda C, x, offset, w: C.deform_conv2d(x, offset, w),
            ("x", "offset", "w"),
        ),
        row(
            "deformable 3x3, 256x28x28, against nine grid_sample",
            1,
            deform,
            lambda F, x, offset, w: F.deform_conv2d(x, offset, w, None, 1, 1),
            lambda C, x, offset, w: C.deform_conv2d_sampled(x, offset, w),
            ("x", "offset", "w"),
        ),
        row(
            "deformable 3x3 with mask, 64x56x56",
            10,
            {
                "x": (1, 64, 56, 56),
                "offset": (1, 18, 56, 56),
                "w": spread((64, 64, 3, 3), 0.04),
                "mask": lambda rng: rng.random((1, 9, 56, 56), np.float32),
            },
            lambda F, x, offset, w, mask: F.deform_conv2d(x, offset, w, None, 1, 1, 1, mask),
            lambda C, x, offset, w, mask: C.deform_conv2d(x, offset, w, mask),
            ("x", "offset", "w", "mask"),
        ),
    ]


def _sums_and_shifts() -> list[Operation]:
    row = partial(Operation, "Special convolutions")
    return [
        row(
            "adder 3x3, 64x32x32",
            20,
            {"x": (1, 64, 32, 32), "w": (64, 64, 3, 3)},
            lambda F, x, w: F.adder2d(x, w, None, 1, 1),
            lambda C, x, w: C.adder2d(x, w),
            ("x", "w"),
            comparable=False,
        ),
        row(
            "shift 3x3, 256x28x28",
            3,
            _image(256, 28),
            lambda F, x: F.shift2d(x, shifts(256)),
            lambda C, x: C.shift2d(x, shifts(256)),
        ),
        row(
            "shift 3x3, 64x56x56",
            3,
            _image(64, 56),
            lambda F, x: F.shift2d(x, shifts(64)),
            lambda C, x: C.shift2d(x, shifts(64)),
        ),
        row(
            "active shift, 256x28x28",
            3,
            {**_image(256, 28), "displacement": spread((256, 2), 1)},
            lambda F, x, displacement: F.active_shift2d(x, displacement),
            lambda C, x, displacement: C.active_shift2d(x, displacement),
            ("x", "displacement"),
        ),
    ]


def _by_position() -> list[Operation]:
    row = partial(Operation, "Special convolutions")
    return [
        row(
            "involution 7x7, 256x28x28, 16 groups",
            1,
            {**_image(256, 28), "k": (1, 16, 49, 28, 28)},
            lambda F, x, k: F.involution2d(x, k, 7, 1, 3),
            lambda C, x, k: C.involution2d(x, k, 7),
            ("x", "k"),
        ),
        row(
            "non-local softmax, 128 of 28x28",
            1,
            {"theta": spread((1, 128, 784), 0.3), "phi": spread((1, 128, 784), 0.3), "g": (1, 128, 784)},
            lambda F, theta, phi, g: F.non_local(theta, phi, g),
            lambda C, theta, phi, g: C.non_local(theta, phi, g),
            ("theta", "phi", "g"),
        ),
        row(
            "locally connected 3x3, 16x28x28 to 16",
            1,
            {"x": (1, 16, 28, 28), "w": spread((16, 16, 3, 3, 28, 28), 0.1)},
            lambda F, x, w: F.locally_connected2d(x, w, None, 1, 1),
            lambda C, x, w: C.locally_connected2d(x, w),
            ("x", "w"),
        ),
    ]


def _sampling() -> list[Operation]:
    row = partial(Operation, "Grid sampling", goal=1)

    def case(name, x, grid, mode, padding, align=False):
        wanted = ("x",) if mode == "nearest" else ("x", "grid")  # the nearest pixel's gradient of the grid is 0
        call = partial(_grid_sample, mode, padding, align)
        return row(name, operands={"x": x, "grid": grid}, call=call, wanted=wanted)

    image, grid = (1, 64, 56, 56), near_identity((1, 56, 56, 2))
    rows = [
        case(f"{mode}, {padding}{', align_corners' * align}, 64x56x56", image, grid, mode, padding, align)
        for mode in ("bilinear", "nearest", "bicubic")
        for padding, align in (("zeros", False), ("border", True), ("reflection", False))
    ]
    volume = (1, 16, 16, 28, 28)
    rows += [
        case(
            "bilinear, scattered, 3x224x224", (1, 3, 224, 224), scattered((1, 224, 224, 2)), "bilinear", "zeros", False
        ),
        case(
            "bilinear, 16 images of 8x28x28",
            (16, 8, 28, 28),
            near_identity((16, 28, 28, 2)),
            "bilinear",
            "zeros",
            False,
        ),
        case("bilinear, 16x16x28x28", volume, near_identity((1, 16, 28, 28, 3)), "bilinear", "zeros"),
        case("nearest, 16x16x28x28", volume, near_identity((1, 16, 28, 28, 3)), "nearest", "border"),
    ]
    return [
        *rows,
        Operation(
            "Grid sampling",
            "affine grid, 8x64x64",
            1,
            {"theta": (8, 2, 3)},
            lambda F, theta: F.affine_grid(theta, (8, 3, 64, 64), align_corners=False),
            wanted=("theta",),
        ),
    ]


def _grid_sample(mode, padding, align, F, x, grid):
    return F.grid_sample(x, grid, mode, padding, align)


def _resizing() -> list[Operation]:
    row = partial(Operation, "Interpolation", goal=1)
    sizes = {1: ("64x2048", (1, 64, 2048)), 2: ("64x56x56", (1, 64, 56, 56)), 3: ("16x8x28x28", (1, 16, 8, 28, 28))}
    modes = {1: ("nearest", "linear", "area"), 2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area")}
    modes[3] = ("nearest", "trilinear", "area")
    rows = []
    for rank, (text, shape) in sizes.items():
        for mode in modes[rank]:
            corners = (None,) if mode in ("nearest", "nearest-exact", "area") else (False, True)
            for scale in (2, 0.4):
                rows += [
                    row(
                        f"{mode} x{scale}{', align_corners' * bool(align)}, {text}",
                        operands={"x": shape},
                        call=partial(_interpolate, scale, mode, align),
                    )
                    for align in corners
                ]
    return rows


def _interpolate(scale, mode, align, F, x):
    return F.interpolate(x, None, scale, mode, align)


def _around() -> list[Operation]:
    row = partial(Operation, "Around them", goal=1)
    image, labels = (8, 64, 28, 28), lambda rng: rng.integers(0, 1000, 256)
    channel = {"mean": spread((64,), 1), "var": lambda rng: rng.random(64, np.float32) + 0.5, "w": (64,), "b": (64,)}
    activations = ("relu", "gelu", "silu", "hardswish", "mish", "elu", "sigmoid", "tanh")
    pads = [("constant", 1), ("reflect", 3), ("replicate", 2), ("circular", 2)]
    return [
        row("unfold 3x3, 64x56x56", operands=_image(64, 56), call=lambda F, x: F.unfold(x, 3, 1, 1)),
        row("fold 3x3, 64x28x28", operands={"x": (1, 576, 784)}, call=lambda F, x: F.fold(x, 28, 3, 1, 1)),
        *[row(f"pad {mode} {n}, 64x56x56", operands=_image(64, 56), call=partial(_pad, mode, n)) for mode, n in pads],
        row("pixel shuffle 2, 256x28x28", operands=_image(256, 28), call=lambda F, x: F.pixel_shuffle(x, 2)),
        row("pixel unshuffle 2, 64x56x56", operands=_image(64, 56), call=lambda F, x: F.pixel_unshuffle(x, 2)),
        row(
            "channel shuffle 3, 240x28x28",
            operands=_image(240, 28),
            call=lambda F, x: F.channel_shuffle(x, 3),
            peer=lambda C, x: C.torch.channel_shuffle(x, 3),
        ),
        row(
            "batch norm in training, 8x64x28x28",
            operands={"x": image, "w": (64,), "b": (64,)},
            call=lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True),
            wanted=("x", "w", "b"),
        ),
        row(
            "batch norm in evaluation, 8x64x28x28",
            operands={"x": image, **channel},
            call=lambda F, x, mean, var, w, b: F.batch_norm(x, mean, var, w, b),
            wanted=("x", "w", "b"),
        ),
        row(
            "group norm 8, 8x64x28x28",
            operands={"x": image, "w": (64,), "b": (64,)},
            call=lambda F, x, w, b: F.group_norm(x, 8, w, b),
            wanted=("x", "w", "b"),
        ),
        row(
            "layer norm, 784x384",
            operands={"x": (784, 384), "w": (384,), "b": (384,)},
            call=lambda F, x, w, b: F.layer_norm(x, (384,), w, b),
            wanted=("x", "w", "b"),
        ),
        row("instance norm, 8x64x28x28", operands={"x": image}, call=lambda F, x: F.instance_norm(x)),
        row("local response norm 5, 64x56x56", operands=_image(64, 56), call=lambda F, x: F.local_response_norm(x, 5)),
        *[row(f"{name}, 64x56x56", operands=_image(64, 56), call=partial(_activate, name)) for name in activations],
        row("softmax, 256x1000", operands={"x": (256, 1000)}, call=lambda F, x: F.softmax(x, 1)),
        row("log softmax, 256x1000", operands={"x": (256, 1000)}, call=lambda F, x: F.log_softmax(x, 1)),
        row(
            "cross entropy, 256x1000",
            operands={"x": (256, 1000), "at": labels},
            call=lambda F, x, at: F.cross_entropy(x, at),
        ),
        row(
            "linear, 64x512 to 1000",
            operands={"x": (64, 512), "w": spread((1000, 512), 0.05), "b": (1000,)},
            call=lambda F, x, w, b: F.linear(x, w, b),
            wanted=("x", "w", "b"),
        ),
    ]


def _pad(mode, n, F, x):
    return F.pad(x, (n, n, n, n), mode)


def _activate(name, F, x):
    return getattr(F, name)(x)


def read() -> list[Operation]:
    """All operations, in the order of the report."""
    pools, special = [*_pools(), *_other_pools()], [*_special(), *_sums_and_shifts(), *_by_position()]
    return [*pools, *_transposed(), *special, *_sampling(), *_resizing(), *_around()]
