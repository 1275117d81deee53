"""Products whose left factors lie in short runs anywhere in an array; conventions as in `simd.py`."""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

from numba.core import cgutils, types

from . import _config
from .simd_place import Place, _check_inside, _fma, _i64, _literals, _splat, _vec_of, operation
from .simd_vector import _phi_loop


@operation
def spread_fma_loop(typing, acc, a, ai, rows, ri, b_, bi, b_step, steps, first, count, R, T, NR):
    """acc[r*T + t, n] + the sum over k < count, at least one, of a[ai + rows[ri + r] + steps[first + k] + t] *
    b[bi + k*b_step + n*LANES : +LANES]."""
    sizes = _literals(R, T, NR)
    if sizes is None:
        return None
    height, width, nr = sizes

    def codegen(context, b, sig, args):
        acc_in, a_in, ai_in, rows_in, ri_in, b_in, bi_in, b_step_in, steps_in, first_in, count_in = args[:11]
        vec, right = _vec_of(a), Place(context, b, b_, b_in, bi_in)
        table, offsets = (context.make_array(kind)(context, b, it) for kind, it in ((steps, steps_in), (rows, rows_in)))
        if _config.DEBUG:
            _check_inside(context, b, first_in, count_in, b.extract_value(table.shape, 0))
            _check_inside(context, b, ri_in, _i64(height), b.extract_value(offsets.shape, 0))
        indices = [b.add(ai_in, b.load(b.gep(offsets.data, [b.add(ri_in, _i64(r))]))) for r in range(height)]
        places = [Place(context, b, a, a_in, index) for index in indices]

        def each_term(k, tile):
            a_offset, b_offset = b.load(b.gep(table.data, [b.add(first_in, k)])), b.mul(k, b_step_in)
            columns = [right.load(b.add(b_offset, _i64(n * vec.lanes))) for n in range(nr)]
            result = []
            for place in places:
                for t in range(width):
                    splat = _splat(b, vec, b.load(place.scalar(b.add(a_offset, _i64(t)))))
                    result += [_fma(b, vec, splat, column, tile[len(result) + n]) for n, column in enumerate(columns)]
            return result

        tile = _phi_loop(b, list(cgutils.unpack_tuple(b, acc_in, height * width * nr)), count_in, each_term)
        return context.make_tuple(b, sig.return_type, tile)

    ints = types.intp
    return acc(acc, a, ints, rows, ints, b_, ints, ints, steps, ints, ints, R, T, NR), codegen
