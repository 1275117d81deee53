"""Matrix products by the convolutions of the device: the three passes of a 1-d convolution of kernel size 1, as in
`ops/matmul.py`.
"""

from ..._device import Rule
from ...specs import conv_spec
from .array import empty, zeros
from .launch import counterpart, run


def _product(operation, sizes, shape, names, a, b):
    """One pass with (channels, rows, pixels) = sizes; names: of the two inputs and the output in the pass."""
    if 0 in sizes:
        return zeros(shape, a.dtype)
    channels, rows, pixels = sizes
    shapes = (1, channels, pixels), (rows, channels, 1)
    spec = conv_spec("matmul", 1, *shapes, None, 1, 0, 1, 1, a.dtype.name)
    out = empty(shape, a.dtype)
    inputs = {names[0]: a, names[1]: b}
    run(operation, spec, {names[2]: out}, **({"b": None} if operation == "conv.fwd" else {}), **inputs)
    return out


@counterpart("matmul.ProductNT")
class ProductNT(Rule):
    """a bT."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = b.shape[0], a.shape[0], a.shape[1]
        return _product("conv.bwd_weights", sizes, (a.shape[0], b.shape[0]), ("gy", "x", "gw"), a, b)


@counterpart("matmul.ProductNN")
class ProductNN(Rule):
    """a b."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = b.shape[0], a.shape[0], b.shape[1]
        return _product("conv.fwd", sizes, (a.shape[0], b.shape[1]), ("w", "x", "y"), a, b)


@counterpart("matmul.ProductTN")
class ProductTN(Rule):
    """aT b."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = a.shape[1], a.shape[0], b.shape[1]
        return _product("conv.bwd_data", sizes, (a.shape[1], b.shape[1]), ("w", "gy", "gx"), a, b)
