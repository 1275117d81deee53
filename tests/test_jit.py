"""Compiling and keeping kernels: what is reused from the disk, what must not be, and what happens when it misbehaves.

Every process here has its own cache folder, given by FASTCONV_CACHE_DIR.
"""

import gc
import os
import shutil

import numpy as np
import pytest

from fastconv import _jit
from fastconv._jit import Block

from .processes import ROOT, output, python
from .sample_kernels import make_power, run_power, run_reader, run_reverse, run_scale

needs_jit = pytest.mark.skipif(not _jit.JIT, reason="nothing is compiled")

# One kernel of each kind: a family by a closure over a number and a helper, scratch, and both loops of the driver.
USE = """
import numpy as np
from tests.sample_kernels import run_power, run_reverse, run_scale
from fastconv._jit import KernelCache
x = np.arange(1.0, 301.0, dtype=np.float32).reshape(3, 100)
assert (run_scale(x) == 2 * x).all() and (run_power(x, 2) == x * x).all() and (run_power(x, 3) == x * x * x).all()
assert (run_scale(x, work=0.0) == 2 * x).all() and (run_reverse(x) == x[:, ::-1]).all()
print(KernelCache.stats["hits"], KernelCache.stats["misses"], KernelCache.stats["stored"])
"""


def copy_package(folder):
    """A copy of the package: every process must see the same source, even while someone edits this one."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastconv", folder / "fastconv", ignore=skip)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "sample_kernels.py", folder / "tests")
    return folder


@pytest.fixture(scope="module")
def use(tmp_path_factory):
    """A function: run USE with this cache folder; (hits, misses, stored)."""
    root = copy_package(tmp_path_factory.mktemp("copy"))

    def run(folder, **switches):
        switches = {"FASTCONV_CACHE_DIR": str(folder), "PYTHONPATH": str(root), **switches}
        return tuple(map(int, output(USE, cwd=root, **switches).split()))

    return run


@pytest.fixture(scope="module")
def filled(use, tmp_path_factory):
    """A cache folder that one process has filled, and how many kernels that process compiled."""
    folder = tmp_path_factory.mktemp("kernels")
    hits, misses, stored = use(folder)
    assert hits == 0 and misses == stored == len(list(folder.iterdir()))
    return folder, stored


@pytest.fixture
def copied(filled, tmp_path):
    """A copy of the filled folder, to be damaged."""
    return shutil.copytree(filled[0], tmp_path / "kernels"), filled[1]


# ---- what is reused


@needs_jit
def test_second_process_compiles_nothing(use, filled):
    folder, count = filled
    before = sorted(folder.iterdir())
    assert use(folder) == (count, 0, 0)
    assert sorted(folder.iterdir()) == before


@needs_jit
def test_switched_off(use, tmp_path):
    assert use(tmp_path / "kernels", FASTCONV_CACHE="0") == (0, 0, 0)
    assert not (tmp_path / "kernels").exists()


@needs_jit
def test_options_do_not_share(use, filled, tmp_path):
    folder = shutil.copytree(filled[0], tmp_path / "kernels")
    for switches in ({"FASTCONV_DEBUG": "1"}, {"NUMBA_OPT": "1"}, {"FASTCONV_ISA": "generic"}):
        hits, misses, stored = use(folder, **switches)
        assert hits == 0 and misses == stored > 0, switches
    assert use(folder) == (filled[1], 0, 0)


SAMPLE_HELPER = """
from .._jit import helper

SHIFT = {shift}

@helper
def term(value):
    return value {operation} SHIFT
"""
SAMPLE_KERNEL = """
import numpy as np
from .._jit import Block, tile_body
from ..driver import Row, launch
from ..simd import array_at, fields
from .sample_helper import term

@tile_body(Block("SampleBlock", "x"), "float32")
def sample(block, tile, worker):
    a = fields(block)
    x = array_at(a.x, a.x_size, "f4")
    x[tile] = term(x[tile])

x = np.full(1, 10, np.float32)
launch(Row(sample, 1, {"x": x}, 0.0))
"""


@needs_jit
def test_edited_helper_recompiles(tmp_path):
    """A kernel depends on every file of the package: on a helper in another file, and on the constants there."""
    package = copy_package(tmp_path) / "fastconv"
    (package / "kernels" / "sample.py").write_text(SAMPLE_KERNEL)

    def run(**edit):
        (package / "kernels" / "sample_helper.py").write_text(SAMPLE_HELPER.format(**edit))
        code = """
            from fastconv.kernels.sample import x
            from fastconv._jit import KernelCache
            print(x[0], KernelCache.stats["misses"])
        """
        switches = {"FASTCONV_CACHE_DIR": str(tmp_path / "kernels"), "PYTHONPATH": str(tmp_path)}
        return output(code, cwd=tmp_path, **switches).split()

    assert run(operation="+", shift=1) == ["11.0", "2"]
    assert run(operation="+", shift=1) == ["11.0", "0"]
    assert run(operation="-", shift=1) == ["9.0", "2"]
    assert run(operation="-", shift=2) == ["8.0", "2"]


USERS_KERNEL = """
import numpy as np
from fastconv._jit import Block, KernelCache, helper, tile_body
from fastconv.driver import Row, launch
from fastconv.simd import array_at, fields

FACTOR = {factor}

@helper
def term(value):
    return value {operation} 3.0

@tile_body(Block("UsersBlock", "x"), "float64")
def users(block, tile, worker):
    a = fields(block)
    x = array_at(a.x, a.x_size, "f8")
    x[tile] = FACTOR * term(x[tile]) + {constant}

x = np.full(1, 10.0)
launch(Row(users, 1, {{"x": x}}, 0.0))
print(x[0], KernelCache.stats["misses"])
"""


@needs_jit
def test_edited_kernel_of_the_user_recompiles(tmp_path):
    """Outside the package there is no stamp: constants, helpers and globals of the kernel itself count."""
    root = copy_package(tmp_path)

    def run(**edit):
        edit = {"factor": 2, "operation": "+", "constant": 1.0, **edit}
        switches = {"FASTCONV_CACHE_DIR": str(tmp_path / "kernels"), "PYTHONPATH": str(root)}
        return output(USERS_KERNEL.format(**edit), cwd=root, **switches).split()

    assert run() == ["27.0", "2"]
    assert run() == ["27.0", "0"]
    assert run(constant=2.0) == ["28.0", "1"]
    assert run(operation="-") == ["15.0", "1"]
    assert run(factor=3) == ["40.0", "1"]


@needs_jit
def test_closures_are_told_apart():
    x = np.array([2.0, 3.0], np.float32)
    assert run_power(x, 2).tolist() == [4, 9]
    assert run_power(x, 4).tolist() == [16, 81]
    described = {_jit._describe(make_power(dtype, e).python) for dtype in ("float32", "float64") for e in (2, 4)}
    assert len(described) == 4


@needs_jit
@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_as_it_was_after_compiling(enabled):
    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        assert make_power("float64", 5 + enabled).address
        assert gc.isenabled() == enabled
    finally:
        gc.enable() if before else gc.disable()


def test_closures_over_anything_else_are_refused():
    array = np.zeros(3)

    def kernel():
        return array

    with pytest.raises(TypeError, match="closure may hold numbers, strings, tuples and helpers, not ndarray"):
        _jit._describe(kernel)


# ---- damage


DAMAGES = [
    lambda data: b"",
    lambda data: data[:20],  # less than the digest
    lambda data: data[:32],  # the digest alone
    lambda data: data[: len(data) // 2],
    lambda data: b"\0" * len(data),
    lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    lambda data: data + b"more",
]


@needs_jit
@pytest.mark.parametrize("first", [0, 4])
def test_damaged_files_are_compiled_again(use, copied, first):
    folder, count = copied
    for i, path in enumerate(sorted(folder.iterdir())):
        path.write_bytes(DAMAGES[(first + i) % len(DAMAGES)](path.read_bytes()))
    assert use(folder) == (0, count, count)
    assert use(folder) == (count, 0, 0)


@needs_jit
def test_file_in_place_of_a_kernel_folder(use, copied):
    """A folder where a kernel's file should be can be neither read nor replaced."""
    folder, count = copied
    paths = list(folder.iterdir())
    for path in paths:
        path.unlink()
        path.mkdir()
    assert use(folder) == (0, count, 0)
    assert sorted(folder.iterdir()) == sorted(paths), "temporary files were left behind"


@needs_jit
@pytest.mark.parametrize("where", ["/proc/fastconv", "{file}/kernels"])
def test_folder_that_cannot_be_made(use, tmp_path, where):
    file = tmp_path / "file"
    file.write_text("not a folder")
    hits, misses, stored = use(where.format(file=file))
    assert hits == stored == 0 and misses > 0


@needs_jit
def test_folder_that_can_only_be_read(use, copied):
    folder, count = copied
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write to read-only folders")
        assert use(folder) == (count, 0, 0)
    finally:
        folder.chmod(0o700)


@needs_jit
def test_missing_folder_is_made(use, tmp_path):
    folder = tmp_path / "not" / "yet" / "there"
    assert use(folder)[2] == len(list(folder.iterdir()))


@needs_jit
def test_default_folder_follows_xdg(tmp_path):
    code = "from fastconv import _config; print(_config.cache_dir())"
    assert output(code, FASTCONV_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / "fastconv" / "kernels")
    assert output(code, FASTCONV_CACHE_DIR="", XDG_CACHE_HOME="", HOME="/home/me") == "/home/me/.cache/fastconv/kernels"
    assert output(code, FASTCONV_CACHE_DIR="~/mine", HOME="/home/me") == "/home/me/mine"


@needs_jit
def test_many_threads_compile_at_once(tmp_path):
    code = """
        import threading
        import numpy as np
        from tests.sample_kernels import run_power
        x = np.arange(1.0, 500.0)
        right, start = [], threading.Barrier(6)
        def work(exponent):
            start.wait()
            right.append(np.allclose(run_power(x, exponent), x**exponent))
        threads = [threading.Thread(target=work, args=(2 + i % 3,)) for i in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(right)
    """
    assert output(code, FASTCONV_CACHE_DIR=str(tmp_path)) == str([True] * 6)


# ---- debug mode


@pytest.mark.smoke
def test_reads_inside_the_array():
    x = np.arange(5, dtype=np.float32)
    assert run_reader(x, 0).tolist() == x.tolist()


@needs_jit
@pytest.mark.parametrize("offset", [1, 1000000], ids=["next", "far"])
def test_planted_fault_is_an_error_in_debug_mode(offset):
    code = f"""
        import numpy as np
        from tests.sample_kernels import run_reader
        x = np.arange(5, dtype=np.float32)
        assert run_reader(x, 0).tolist() == x.tolist()
        try:
            run_reader(x, {offset})
        except IndexError as error:
            print("IndexError")
        assert run_reader(x, 0).tolist() == x.tolist()
    """
    assert output(code, FASTCONV_DEBUG="1") == "IndexError"
    assert output(code, NUMBA_DISABLE_JIT="1") == "IndexError"


@needs_jit
def test_planted_fault_in_scratch_is_an_error_in_debug_mode():
    code = """
        import numpy as np
        from tests.sample_kernels import run_reverse
        x = np.arange(15, dtype=np.float32).reshape(3, 5)
        assert (run_reverse(x) == x[:, ::-1]).all()
        try:
            run_reverse(x, reach=1)
        except IndexError as error:
            print("IndexError")
    """
    assert output(code, FASTCONV_DEBUG="1") == "IndexError"
    assert output(code, NUMBA_DISABLE_JIT="1") == "IndexError"


@needs_jit
def test_debug_mode_in_many_threads():
    """Each thread gets its own errors and no one else's, and sys.unraisablehook is left as it was."""
    code = """
        import sys, threading
        import numpy as np
        from tests.sample_kernels import run_reader
        hook, wrong = sys.unraisablehook, []
        x = np.arange(50, dtype=np.float32)
        run_reader(x, 0)
        def work(offset):
            for _ in range(200):
                try:
                    run_reader(x, offset)
                    raised = False
                except IndexError:
                    raised = True
                if raised != (offset > 0):
                    wrong.append(offset)
        threads = [threading.Thread(target=work, args=(i % 2 * 100,)) for i in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(len(wrong), sys.unraisablehook is hook)
    """
    assert output(code, FASTCONV_DEBUG="1") == "0 True"


# ---- without the JIT


def test_plain_python_gives_the_same():
    code = """
        import numpy as np
        from tests.sample_kernels import run_power, run_reverse, run_scale
        x = np.arange(1.0, 31.0, dtype=np.float32).reshape(3, 10)
        print((run_scale(x) == 2 * x).all(), (run_power(x, 3) == x ** 3).all(), (run_reverse(x) == x[:, ::-1]).all())
    """
    assert output(code, NUMBA_DISABLE_JIT="1") == "True True True"


@pytest.mark.smoke
def test_blocks():
    block = Block("B", {"x": None, "i": "i8"}, numbers="n m", reals="f")
    assert block.dtype.names == ("x", "x_size", "i", "i_size", "n", "m", "f")
    assert block.dtype.itemsize == 8 * 7
    assert Block("B", "x y").buffers == {"x": None, "y": None}


@pytest.mark.smoke
def test_sample_kernels():
    x = np.arange(1.0, 31.0, dtype=np.float32).reshape(3, 10)
    np.testing.assert_array_equal(run_scale(x), 2 * x)
    np.testing.assert_array_equal(run_power(x, 3), x * x * x)
    np.testing.assert_array_equal(run_reverse(x), x[:, ::-1])


@pytest.mark.parametrize(
    ("switch", "value", "message"),
    [
        ("FASTCONV_DEBUG", "yes", "FASTCONV_DEBUG must be 0 or 1, given 'yes'"),
        ("FASTCONV_THREADS", "two", "FASTCONV_THREADS must be a whole number from 1 to 4096, given 'two'"),
        ("FASTCONV_THREADS", "0", "FASTCONV_THREADS must be from 1 to 4096, given 0"),
        ("FASTCONV_POOL_MB", "-1", "FASTCONV_POOL_MB must be from 0 to 1000000, given -1"),
        ("FASTCONV_ISA", "avx1024", "FASTCONV_ISA must be auto or one of avx512, avx2, neon, generic, given 'avx1024'"),
    ],
)
def test_wrong_switches(switch, value, message):
    done = python("import fastconv.driver", **{switch: value})
    assert done.returncode == 1
    assert f"ValueError: {message}" in done.stderr
