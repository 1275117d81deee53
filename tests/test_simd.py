"""Vector operations against their plain-Python meaning, instruction sets other than the best, and the machine code."""

import ctypes
import mmap
import platform
import re

import numba
import numpy as np
import pytest

from fastconv import _jit, simd, simd_python, simd_sync, simd_vector
from fastconv.simd_isa import ISAS

from .processes import output, python

pytestmark = pytest.mark.skipif(not _jit.JIT, reason="without the JIT the operations are their own meaning")

TILES = [(8, 3), (6, 2), (3, 2), (1, 1)]
DTYPES = ["float32", "float64"]


@pytest.fixture(params=DTYPES)
def dtype(request, monkeypatch):
    """A dtype; the plain-Python twins take on the lanes that its vectors have here."""
    monkeypatch.setattr(simd_python, "LANES", simd.lanes(request.param))
    monkeypatch.setattr(simd_python._take, "__defaults__", (simd.lanes(request.param),))
    return request.param


def compiled(make, *numbers):
    """(the compiled function, its twin): make(simd, ...) and make(simd_python, ...)."""
    return numba.njit(error_model="numpy")(make(simd, *numbers)), make(simd_python, *numbers)


def same(functions, arrays, *arguments):
    """Both functions leave the same bits in the arrays, which hold whole numbers so that no order of sums matters."""
    results = []
    for function in functions:
        copies = [a.copy() for a in arrays]
        function(*copies, *arguments)
        results.append(copies)
    for actual, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def whole_numbers(dtype, *sizes):
    rng = np.random.default_rng(sum(sizes))
    return [rng.integers(-9, 10, size).astype(dtype) for size in sizes]


def guarded(dtype, size, before=False):
    """An array that ends at, or begins after, a page that nobody may touch: a stray access ends the process."""
    nbytes = size * np.dtype(dtype).itemsize
    pages = -(-nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbidden = start if before else start + pages * mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(forbidden), mmap.PAGESIZE, 0) == 0
    offset = mmap.PAGESIZE if before else pages * mmap.PAGESIZE - nbytes
    return np.frombuffer(memory, dtype, size, offset)


# ---- register tiles


def make_product(ops, MR, NR):
    def product(a, b, c, sums, bias, steps, ai, a_m, bi, first, last, ci, c_m, oi):
        acc = ops.fma_tile(ops.zero_tile(c, MR, NR), a, ai, a_m, b, bi, MR, NR)
        acc = ops.fma_loop(acc, a, ai, a_m, b, bi, steps, first, last, MR, NR)
        ops.prefetch_tile(c, ci, c_m, MR, NR)
        ops.store_tile(ops.add_bias(acc, bias, oi, MR, NR), c, ci, c_m, MR, NR)
        ops.store_tile(ops.clamp_tile(acc, -3.0, 5.0, MR, NR), sums, ci, c_m, MR, NR)

    return product


def make_part(ops, MR, NR):
    def part(c, sums, a, b, bias, ci, c_m, skip, columns):
        acc = ops.fma_tile(ops.zero_tile(c, MR, NR), a, 0, 1, b, 0, MR, NR)
        ops.store_part(ops.add_bias(acc, bias, 1, MR, NR), c, ci, c_m, skip, columns, MR, NR)
        ops.store_part(ops.add_part(acc, sums, ci, c_m, skip, columns, MR, NR), sums, ci, c_m, skip, columns, MR, NR)

    return part


@pytest.mark.parametrize(("mr", "nr"), TILES)
def test_products(mr, nr, dtype):
    lanes, functions = simd.lanes(dtype), compiled(make_product, mr, nr)
    size = mr * (nr * lanes + 5) + 9
    arrays = whole_numbers(dtype, 200, 40 * nr * lanes, size, size, mr + 3)
    steps = np.array([[7, 3], [0, 0], [11, 2 * lanes + 1], [2, 9], [5, 4]], np.int64).ravel()
    for first, last in ((0, 5), (1, 4), (2, 2), (4, 3)):
        same(functions, [*arrays, steps], 2, 17, 5, first, last, 3, nr * lanes + 5, 1)


@pytest.mark.parametrize(("mr", "nr"), [(8, 3), (3, 2)])
def test_parts(mr, nr, dtype):
    lanes = simd.lanes(dtype)
    functions = compiled(make_part, mr, nr)
    a, b, bias = whole_numbers(dtype, mr, nr * lanes, mr + 1)
    c_m = nr * lanes + 3
    for columns in (0, 1, lanes - 1, lanes, lanes + 1, nr * lanes - 1, nr * lanes):
        for skip in (0, 1, mr - 1):
            same(functions, whole_numbers(dtype, mr * c_m + 2, mr * c_m + 2), a, b, bias, 2, c_m, skip, columns)


def test_parts_touch_nothing_else(dtype):
    lanes, (function, _) = simd.lanes(dtype), compiled(make_part, 3, 2)
    a, b, bias = whole_numbers(dtype, 3, 2 * lanes, 4)
    for columns in (1, lanes - 1, lanes, lanes + 1):
        c_m = columns + 2
        c, sums = (guarded(dtype, 2 * c_m + columns) for _ in range(2))
        c[:] = sums[:] = 100
        function(c, sums, a, b, bias, 0, c_m, 0, columns)
        for out in (c, sums):
            assert (out[columns:c_m] == 100).all() and not (out[:columns] == 100).all()


# ---- windows and single vectors


def make_window(ops, STEP):
    def window(x, y, xi, step, low, high):
        ops.store_vector(ops.load_window(x, xi, step, low, high, STEP), y, 1)

    return window


@pytest.mark.parametrize(("fixed", "step"), [(1, 1), (2, 2), (0, 1), (0, 3), (0, 5)])
def test_windows(fixed, step, dtype):
    lanes, functions = simd.lanes(dtype), compiled(make_window, fixed)
    x, y = whole_numbers(dtype, 8 * lanes, lanes + 2)
    for low in (-3, 0, 1, lanes - 1, lanes, lanes + 5):
        for high in (-2, 0, 1, 2, lanes - 1, lanes, lanes + 7):
            same(functions, [x, y], 3, step, low, high)


@pytest.mark.parametrize(("fixed", "step"), [(1, 1), (2, 2), (0, 3)])
@pytest.mark.parametrize("before", [False, True], ids=["end", "begin"])
def test_windows_touch_nothing_else(fixed, step, before, dtype):
    lanes, functions = simd.lanes(dtype), compiled(make_window, fixed)
    for count in (1, lanes - 1):
        x, y = guarded(dtype, (count - 1) * step + 1, before), np.zeros(lanes + 2, dtype)
        x[:] = np.arange(1, x.size + 1)
        low, high = (lanes - count, lanes) if before else (0, count)
        functions[0](x, y, -low * step, step, low, high)
        assert y[1 : lanes + 1].tolist() == [0] * low + x[::step].tolist() + [0] * (lanes - high)


def make_copy(ops):
    def copy(x, y, xi, yi):
        ops.store_vector(ops.load_vector(x, xi), y, yi)
        ops.zero_vector(y, 0)

    return copy


def test_vectors(dtype):
    lanes = simd.lanes(dtype)
    x, y = whole_numbers(dtype, 3 * lanes, 3 * lanes)
    for xi in (0, 1, 2 * lanes):
        same(compiled(make_copy), [x, y], xi, lanes + 1)


def make_transpose(ops):
    def transpose(x, y, xi, x_row, yi, y_row):
        ops.transpose_block(x, xi, x_row, y, yi, y_row)

    return transpose


def test_transposes(dtype):
    lanes, functions = simd.lanes(dtype), compiled(make_transpose)
    x, y = (np.arange(2.0 * lanes * (lanes + 4), dtype=dtype) * sign for sign in (1, -1))
    for x_row, y_row in ((lanes, lanes), (lanes + 3, lanes + 1)):
        same(functions, [x, y], 2, x_row, 1, y_row)


def test_fetch_add():
    add = numba.njit(lambda counters, index, amount: simd_sync.fetch_add(counters, index, amount))
    counters = np.array([5, 7], np.int64)
    assert (add(counters, 1, 3), add(counters, 1, 1), add(counters, 0, 2)) == (7, 10, 5)
    assert counters.tolist() == [7, 11]


# ---- vector arithmetic


def make_arithmetic(ops, vector):
    def arithmetic(x, y, z, out):
        a, b, c = ops.load_vector(x, 0), ops.load_vector(y, 0), ops.load_vector(z, 0)
        ops.store_vector(vector.fma_vector(a, b, c), out, 0)
        ops.store_vector(vector.add_vector(a, b), out, LANES)
        ops.store_vector(vector.sub_vector(a, b), out, 2 * LANES)
        ops.store_vector(vector.mul_vector(a, b), out, 3 * LANES)
        ops.store_vector(vector.relu_vector(a), out, 4 * LANES)
        ops.store_vector(vector.step_vector(a), out, 5 * LANES)
        ops.store_vector(vector.splat_vector(out, x[1]), out, 6 * LANES)
        out[7 * LANES] = vector.sum_vector(a)
        vector.store_window(b, out, 7 * LANES + 1, 3)

    LANES = simd_python.LANES
    return arithmetic


def test_vector_arithmetic(dtype):
    lanes = simd.lanes(dtype)
    functions = numba.njit(make_arithmetic(simd, simd_vector)), make_arithmetic(simd_python, simd_python)
    same(functions, whole_numbers(dtype, lanes, lanes, lanes, 9 * lanes))


# ---- debug mode


def test_every_access_is_checked_in_debug_mode():
    """Each operation at the last place where it fits, and one element beyond either end."""
    code = """
        import numba
        import numpy as np
        from fastconv import simd
        from fastconv._jit import OPTIONS
        N = simd.lanes("float32")
        x, v, w = np.zeros(3 * N, "f4"), np.zeros(N * N, "f4"), np.zeros(N * N, "f4")
        bias, steps = np.zeros(2, "f4"), np.zeros(4, "i8")

        def tile(i, x, v, w, bias, steps): simd.fma_tile(simd.zero_tile(x, 2, 2), x, 0, 1, x, i, 2, 2)
        def scalar(i, x, v, w, bias, steps): simd.fma_tile(simd.zero_tile(x, 2, 1), x, i, 1, x, 0, 2, 1)
        def loop(i, x, v, w, bias, steps): simd.fma_loop(simd.zero_tile(x, 1, 2), x, 0, 1, x, i, steps, 0, 1, 1, 2)
        def table(i, x, v, w, bias, steps): simd.fma_loop(simd.zero_tile(x, 1, 1), x, 0, 1, x, 0, steps, i, i + 1, 1, 1)
        def store(i, x, v, w, bias, steps): simd.store_tile(simd.zero_tile(x, 2, 1), x, i, N, 2, 1)
        def added(i, x, v, w, bias, steps): simd.add_part(simd.zero_tile(x, 2, 1), x, i, N, 0, N, 2, 1)
        def biased(i, x, v, w, bias, steps):
            simd.store_tile(simd.add_bias(simd.zero_tile(x, 1, 1), bias, i, 1, 1), x, 0, N, 1, 1)
        def part(i, x, v, w, bias, steps): simd.store_part(simd.zero_tile(x, 1, 1), x, i, N, 0, 3, 1, 1)
        def wide(i, x, v, w, bias, steps): simd.store_part(simd.zero_tile(x, 1, 1), x, i, N, 0, 99, 1, 1)
        def window(i, x, v, w, bias, steps): simd.store_vector(simd.load_window(x, i, 1, 1, 3, 1), x, 0)
        def halves(i, x, v, w, bias, steps): simd.store_vector(simd.load_window(x, i, 2, 0, 3, 2), x, 0)
        def gather(i, x, v, w, bias, steps): simd.store_vector(simd.load_window(x, i, 3, 0, 2, 0), x, 0)
        def load(i, x, v, w, bias, steps): simd.store_vector(simd.load_vector(x, i), x, 0)
        def vector(i, x, v, w, bias, steps): simd.store_vector(simd.load_vector(x, 0), x, i)
        def zero(i, x, v, w, bias, steps): simd.zero_vector(x, i)
        def source(i, x, v, w, bias, steps): simd.transpose_block(v, i, N, w, 0, N)
        def target(i, x, v, w, bias, steps): simd.transpose_block(v, 0, N, w, i, N)

        for function, size, used in [
            (tile, 3 * N, 2 * N), (scalar, 3 * N, 2), (loop, 3 * N, 2 * N), (table, 2, 1), (store, 3 * N, 2 * N),
            (added, 3 * N, 2 * N), (biased, 2, 1), (part, 3 * N, 3), (wide, 3 * N, N), (window, 3 * N, 3),
            (halves, 3 * N, 5), (gather, 3 * N, 4), (load, 3 * N, N), (vector, 3 * N, N), (zero, 3 * N, N),
            (source, N * N, N * N), (target, N * N, N * N),
        ]:
            kernel = numba.njit(**OPTIONS)(function)
            first = -1 if function is window else 0  # its first lane is left out
            for i in (first, size - used):
                kernel(i, x, v, w, bias, steps)
            for i in (first - 1, size - used + 1):
                try:
                    kernel(i, x, v, w, bias, steps)
                    print(function.__name__, i)
                except IndexError:
                    pass
    """
    assert output(code, FASTCONV_DEBUG="1") == ""


# ---- instruction sets


def test_tiles_fit_the_registers():
    for isa in ISAS.values():
        for rows in range(1, 40):
            mr, nr = isa.tile(rows)
            assert 1 <= mr <= rows
            assert mr * nr + min(mr, nr) + 1 <= isa.registers, (isa.name, mr, nr)


def test_lanes():
    assert simd.isa.lanes(4) == 2 * simd.isa.lanes(8) == simd.isa.width // 4
    assert simd.lanes("float32") == simd.lanes(np.float32) == simd.isa.lanes(4)


SMOKE_CASES = """
import sys
from fastconv import simd
from tests.test_conv import accepted, check
from tests.cases import SMOKE
for row in accepted(SMOKE):
    if row.values[0].name.endswith(sys.argv[1]):
        check(*row.values, "float32")
print(simd.isa.name, simd.lanes("float32"))
"""

on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="an instruction set of x86")
runs_avx2 = pytest.mark.skipif(simd.isa.name not in ("avx512", "avx2"), reason="this machine has no AVX2")


@on_x86
@runs_avx2
def test_convolution_with_avx2():
    assert output(SMOKE_CASES, "", FASTCONV_ISA="avx2") == "avx2 8"


@on_x86
def test_convolution_without_any():
    """SSE2 alone: no fused multiply-add, no masks, no gathers.  One algorithm will do, compiling takes long."""
    assert output(SMOKE_CASES, "implicit_gemm", FASTCONV_ISA="generic") == "generic 4"


@pytest.mark.parametrize("wanted", ["neon", "avx512"])
def test_instruction_sets_that_this_machine_lacks(wanted):
    if wanted == simd.isa.name:
        pytest.skip(f"this machine has {wanted}")
    done = python("import fastconv.simd", FASTCONV_ISA=wanted)
    assert done.returncode == 1
    assert re.search(rf"ValueError: FASTCONV_ISA={wanted}: this machine has \w+ and can run \w+", done.stderr)


@on_x86
@runs_avx2
def test_numbas_own_choice_of_processor_is_followed():
    code = "from fastconv import simd; print(simd.isa.name)"
    assert output(code, NUMBA_CPU_NAME="x86-64-v3", NUMBA_CPU_FEATURES="") == "avx2"
    assert output(code, NUMBA_CPU_NAME="generic") == "generic"
    done = python(code, NUMBA_CPU_NAME="x86-64-v3", NUMBA_CPU_FEATURES="", FASTCONV_ISA="avx512")
    assert "this machine has avx2" in done.stderr


# ---- machine code

ASSEMBLY = """
from fastconv import simd
from fastconv._registry import implementations
from tests.cases import case
from tests.test_conv import operands
import fastconv.ops.conv
c = case((28, 28), 3, 1, 1, 1, (1, 64, 64))
print(*simd.isa.tile(64))
for operation in ("conv.fwd", "conv.bwd_weights"):
    impl = next(i for i in implementations(operation) if i.name.endswith("implicit_gemm"))
    for row in impl.emit(c.spec("float32"), operands(operation, c, "float32")):
        print(row.body.callback._library.get_asm_str())
"""


def loops(assembly):
    """The instructions of every innermost loop: from a label to the first jump back to it, no label between."""
    label, block = None, []
    for line in assembly.splitlines():
        line = line.strip()
        if line.endswith(":") and not line.startswith("#"):
            label, block = line[:-1], []
        elif line and not line.startswith((".", "#")):
            block.append(line)
            if re.match(r"j\w+\s", line) and line.split()[1] == label:
                yield block


@on_x86
@runs_avx2
@pytest.mark.parametrize(("isa", "register"), [("avx512", "zmm"), ("avx2", "ymm")])
def test_tile_loop_stays_in_registers(isa, register):
    """The loop of the widest tile is multiply-adds, MR of one weight and NR loads: nothing goes by way of the stack."""
    if isa == "avx512" and simd.isa.name != "avx512":
        pytest.skip("this machine has no AVX-512")
    sizes, assembly = output(ASSEMBLY, FASTCONV_ISA=isa, FASTCONV_CACHE="0").split("\n", 1)
    mr, nr = map(int, sizes.split())
    assert (mr, nr) == {"avx512": (8, 3), "avx2": (6, 2)}[isa]
    found = 0
    for block in loops(assembly):
        vectors = [line for line in block if f"%{register}" in line]
        fmas, splats = (sum(word in line for line in vectors) for word in ("vfmadd", "vbroadcastss"))
        splats += sum("{1to" in line for line in vectors)
        if fmas and fmas % (mr * nr) == 0 and splats * nr == fmas:  # maybe unrolled
            found += 1
            assert not [line for line in vectors if "(%rsp" in line], "\n".join(block)
            assert len(vectors) <= 1.1 * (fmas + splats + fmas // mr), "\n".join(block)
    assert found >= 2, "the loops of the forward pass and of the weight gradient were not found"
