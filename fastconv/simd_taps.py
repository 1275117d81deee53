"""Loops for depthwise kernels whose rows of taps fill vectors: a lane is a tap.  Conventions as in `simd.py`."""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from numba.core import cgutils, types

from .simd_place import Place, _fma, _i64, _literals, _splat, _vec_of, operation
from .simd_vector import _phi_loop


@operation
def window_dots(typing, acc, x, xi, x_row, step, w, wi, w_row, rows, N):
    """acc[n] + the sum over r < rows, at least one, of x[xi + r*x_row + n*step : +LANES] * w[wi + r*w_row : +LANES]."""
    sizes = _literals(N)
    if sizes is None:
        return None
    (count,) = sizes

    def codegen(context, b, sig, args):
        vec, image, taps = _vec_of(x), Place(context, b, x, *args[1:3]), Place(context, b, w, *args[5:7])
        steps = [b.mul(args[4], _i64(n)) for n in range(count)]

        def each_row(r, tile):
            weights, row = taps.load(b.mul(r, args[7])), b.mul(r, args[3])
            pixels = [image.load(b.add(row, step)) for step in steps]
            return [_fma(b, vec, pixel, weights, value) for pixel, value in zip(pixels, tile, strict=True)]

        tile = _phi_loop(b, list(cgutils.unpack_tuple(b, args[0], count)), args[8], each_row)
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, x, *(types.intp,) * 3, w, *(types.intp,) * 3, N), codegen


@operation
def window_sums(typing, acc, g, gi, x, xi, x_row, step, count, R):
    """acc[r] + the sum over k < count, at least one, of g[gi + k] * x[xi + r*x_row + k*step : +LANES]."""
    sizes = _literals(R)
    if sizes is None:
        return None
    (height,) = sizes

    def codegen(context, b, sig, args):
        vec, values, image = _vec_of(x), Place(context, b, g, *args[1:3]), Place(context, b, x, *args[3:5])
        rows = [b.mul(args[5], _i64(r)) for r in range(height)]

        def each_window(k, tile):
            splat, first = _splat(b, vec, b.load(values.scalar(k))), b.mul(k, args[6])
            pixels = [image.load(b.add(first, row)) for row in rows]
            return [_fma(b, vec, splat, pixel, value) for pixel, value in zip(pixels, tile, strict=True)]

        tile = _phi_loop(b, list(cgutils.unpack_tuple(b, args[0], height)), args[7], each_window)
        return context.make_tuple(b, sig.return_type, tile)

    return acc(acc, g, types.intp, x, *(types.intp,) * 4, R), codegen
