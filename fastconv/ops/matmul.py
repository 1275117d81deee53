"""Matrix products on the library's own kernels: the same bits for any thread count, which a BLAS does not promise.

The three forms are the three passes of a 1-d convolution of kernel size 1 whose pixels are columns:

    a bT  (I, K) x (J, K) -> (I, J)   weight gradient   sum over pixels k of a[i, k] b[j, k]
    a b   (I, K) x (K, J) -> (I, J)   forward           sum over channels k of a[i, k] b[k, j]
    aT b  (K, I) x (K, J) -> (I, J)   data gradient     sum over channels k of a[k, i] b[k, j]

and closed under differentiation as they are.
"""

from .. import _memory, prepared
from ..autograd import Op
from ..kernels import direct, implicit_gemm, small_maps  # noqa: F401  (they register their implementations)
from ..packing import dense
from ..specs import conv_spec


def _spec(sizes, dtype):
    """A convolution of kernel size 1, sizes (channels, rows, pixels): (1, channels, pixels) -> (1, rows, pixels)."""
    channels, rows, pixels = sizes
    shapes = (1, channels, pixels), (rows, channels, 1)
    return conv_spec("matmul", 1, *shapes, None, 1, 0, 1, 1, dtype)


def _product(operation, sizes, shape, names, *arrays):
    """One pass of `_spec(sizes)` into a new matrix; names: of the two inputs and the output in the pass."""
    dtype = arrays[0].dtype
    if 0 in sizes:
        return _memory.zeros(shape, dtype)
    spec = _spec(sizes, dtype)
    out = _memory.empty(shape, dtype)
    buffers = dict(zip(names, (*map(dense, arrays), out), strict=True))
    prepared.run(operation, spec, buffers)
    return out


class ProductNT(Op):
    """a bT."""

    name = "matmul"

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = b.shape[0], a.shape[0], a.shape[1]
        return _product("conv.bwd_weights", sizes, (a.shape[0], b.shape[0]), ("gy", "x", "gw"), a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved
        return (ProductNN.apply(g, b) if ctx.needs[0] else None, ProductTN.apply(g, a) if ctx.needs[1] else None)


class ProductNN(Op):
    """a b."""

    name = "matmul"

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = b.shape[0], a.shape[0], b.shape[1]
        return _product("conv.fwd", sizes, (a.shape[0], b.shape[1]), ("w", "x", "y"), a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved
        return (ProductNT.apply(g, b) if ctx.needs[0] else None, ProductTN.apply(a, g) if ctx.needs[1] else None)


class ProductTN(Op):
    """aT b."""

    name = "matmul"

    @staticmethod
    def forward(ctx, a, b):
        ctx.save(a, b)
        sizes = a.shape[1], a.shape[0], b.shape[1]
        return _product("conv.bwd_data", sizes, (a.shape[1], b.shape[1]), ("w", "gy", "gx"), a, b)

    @staticmethod
    def backward(ctx, g):
        a, b = ctx.saved
        return (ProductNT.apply(b, g) if ctx.needs[0] else None, ProductNN.apply(a, g) if ctx.needs[1] else None)
