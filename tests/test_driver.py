"""Threads, forks and the checks of a launch, under every threading layer that this machine has."""

import functools
import os
import sys
import threading

import numpy as np
import pytest

from fastconv import _config, _jit, cores, driver
from fastconv._jit import Block, tile_body
from fastconv.driver import Row, launch
from fastconv.simd import array_at, fields

from .processes import output, python
from .sample_kernels import BIG, make_churn, make_scale, run_churn, run_reverse, run_scale

MOST = driver.numba.config.NUMBA_NUM_THREADS
needs_jit = pytest.mark.skipif(not _jit.JIT, reason="nothing runs in threads without the JIT")
needs_threads = pytest.mark.skipif(MOST < 2 or not _jit.JIT or _config.DEBUG, reason="everything runs in one thread")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def choose(layer):
    """The environment that chooses a threading layer; TBB comes as a package, in a folder that nobody searches."""
    folders = (f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH"))
    path = {"LD_LIBRARY_PATH": ":".join(filter(None, folders))} if layer == "tbb" else {}
    return {"NUMBA_THREADING_LAYER": layer, **path}


@functools.cache
def layer_problem(layer):
    """Why a threading layer can't be used here, or None."""
    done = python("from tests.sample_kernels import run_churn; run_churn(range(9), 9)", **choose(layer))
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.fixture(params=["omp", "workqueue", "tbb"])
def layer(request):
    """The environment that chooses a threading layer, which is then really used."""
    if MOST < 2:
        pytest.skip("one thread only")
    problem = layer_problem(request.param)
    if problem:
        pytest.skip(f"{request.param}: {problem}")
    return choose(request.param)


@pytest.fixture
def threads():
    """driver.set_num_threads, undone afterwards."""
    before = driver.get_num_threads()
    yield driver.set_num_threads
    driver.set_num_threads(before)


# The start of every process below: a large parallel run, and a check of one that takes a moment.
START = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: that is what is tested
import numpy as np
from fastconv import driver
from tests.sample_kernels import run_churn, run_scale
def right(rounds=2000):
    starts = np.arange(64)
    return bool(np.allclose(run_churn(starts, rounds), np.sqrt(starts.astype(float)**2 + rounds)))
"""


# ---- concurrency


@needs_jit
def test_many_python_threads(layer):
    code = (
        START
        + """
wrong, start = [], threading.Barrier(4)
def work(mine):
    x = np.full(5000 + mine, mine, np.float32)
    start.wait()
    for i in range(400):
        if not (run_scale(x, factor=i, part=256) == np.float32(i * mine)).all() or (i % 20 == 0 and not right()):
            wrong.append((mine, i))
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(wrong, driver.threading_layer())
"""
    )
    assert output(code, **layer) == f"[] {layer['NUMBA_THREADING_LAYER']}"


@needs_threads
def test_scratch_belongs_to_one_run():
    """Concurrent runs of a kernel with scratch: none sees another's."""
    wrong = []

    def work(mine):
        x = np.arange(mine, mine + 4000, dtype=np.float32).reshape(40, 100)
        wrong.extend(mine for _ in range(200) if not (run_reverse(x) == x[:, ::-1]).all())

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_threads
def test_another_thread_holds_the_threads():
    """A run that finds the parallel loop taken doesn't wait for it."""
    with driver._threads.lock:
        x = np.arange(1000, dtype=np.float32)
        np.testing.assert_array_equal(run_scale(x), 2 * x)


@needs_threads
def test_an_error_gives_the_threads_back():
    with pytest.raises(TypeError):
        launch(Row(make_scale("float32"), 4, {"x": None, "y": None, "n": 4, "part": 1, "factor": 1.0}, BIG))
    assert not driver._threads.lock.locked()


# ---- forks


@needs_jit
@needs_fork
def test_fork_after_a_parallel_run(layer):
    """Children, and their children, compute and exit; under OpenMP serially, which they can say."""
    code = (
        START
        + """
assert right() and driver.serial_because() is None
child = os.fork()
if not child:
    ok = right() and (driver.serial_because() is None) == (driver.threading_layer() != "omp")
    grandchild = os.fork()
    if not grandchild:
        os._exit(0 if right() else 1)
    ok = ok and os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
    os._exit(0 if ok and right() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), right(), driver.serial_because(), driver.threading_layer())
"""
    )
    assert output(code, timeout=60, **layer) == f"0 True None {layer['NUMBA_THREADING_LAYER']}"


@needs_jit
@needs_fork
def test_fork_before_any_parallel_run(layer):
    """A child of a process that has only compiled and run serially has threads of its own."""
    code = (
        START
        + """
run_scale(np.zeros(10), work=0.0)
child = os.fork()
if not child:
    ok = right() and driver.serial_because() is None and driver.threading_layer() is not None
    os._exit(0 if ok else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), right())
"""
    )
    assert output(code, timeout=60, **layer) == "0 True"


@needs_jit
@needs_fork
def test_fork_while_another_thread_runs(layer):
    """The child inherits a parallel run that will never end; it must not wait for it, nor be ended by it."""
    code = (
        START
        + """
import time
assert right()
def long():
    run_churn(np.arange(64), 3_000_000)
codes = []
for _ in range(3):
    other = threading.Thread(target=long)
    other.start()
    time.sleep(0.05)
    child = os.fork()
    if not child:
        os._exit(0 if right() and driver.serial_because() and right() else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    other.join()
print(codes, right())
"""
    )
    assert output(code, timeout=120, **layer).endswith("[0, 0, 0] True")  # TBB prints a remark before it


@needs_jit
@needs_fork
def test_multiprocessing_pool_of_forks(layer):
    code = (
        START
        + """
import multiprocessing
def work(i):
    x = np.full(3000, i, np.float32)
    return float(run_scale(x).sum()), right()
if right():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(work, range(6)) == [(6000.0 * i, True) for i in range(6)], right())
"""
    )
    assert output(code, timeout=60, **layer) == "True True"


# ---- the number of threads


@needs_threads
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_for_any_number_of_threads(dtype, threads):
    x = np.random.default_rng(0).standard_normal((301, 7)).astype(dtype)
    results = []
    for count in range(1, MOST + 1):
        threads(count)
        results.append((run_scale(x, 0.1).tobytes(), run_reverse(x).tobytes()))
    assert len(set(results)) == 1


@pytest.mark.smoke
def test_setting(threads):
    threads(1)
    assert driver.get_num_threads() == 1
    threads(np.int64(MOST))
    assert driver.get_num_threads() == MOST and type(driver.get_num_threads()) is int


@pytest.mark.smoke
@pytest.mark.parametrize("count", [0, -1, MOST + 1, 10**9])
def test_numbers_out_of_range(count):
    with pytest.raises(ValueError, match=rf"from 1 to {MOST} \(NUMBA_NUM_THREADS\), given {count}"):
        driver.set_num_threads(count)


@pytest.mark.smoke
@pytest.mark.parametrize("count", [1.0, "2", None, True, [1], np.float64(2)])
def test_not_a_number_of_threads(count):
    with pytest.raises(TypeError, match="must be a whole number, given"):
        driver.set_num_threads(count)


def test_from_the_environment():
    code = "from fastconv import driver; print(driver.get_num_threads())"
    assert output(code, FASTCONV_THREADS="1") == "1"
    assert output(code, FASTCONV_THREADS="3", NUMBA_NUM_THREADS="3") == "3"
    assert output(code, FASTCONV_THREADS="", NUMBA_NUM_THREADS="1") == "1"
    done = python(code, FASTCONV_THREADS="3", NUMBA_NUM_THREADS="2")
    assert "ValueError: FASTCONV_THREADS must be from 1 to 2 (NUMBA_NUM_THREADS), given 3" in done.stderr


@needs_jit
def test_more_threads_than_cores():
    code = START + "print(driver.get_num_threads(), right())"
    assert output(code, FASTCONV_THREADS="5", NUMBA_NUM_THREADS="5") == "5 True"


@needs_threads
def test_numbas_own_setting_is_left_alone(threads):
    """In this thread and in every other; Numba's setting is the user's, for the user's own kernels."""
    seen = []

    def work(mine):
        driver.numba.set_num_threads(mine)
        threads(MOST + 1 - mine)
        run_churn(range(64), 100)
        seen.append(driver.numba.get_num_threads() == mine)

    for mine in (1, MOST):
        worker = threading.Thread(target=work, args=(mine,))
        worker.start()
        worker.join()
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("text", "count"),
    [("max 100000\n", 64), ("200000 100000\n", 2), ("50000 100000\n", 1), ("350000 100000\n", 3), ("nonsense", 64)],
)
def test_quota_of_the_control_group(text, count, monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    monkeypatch.setattr(cores, "open", lambda path: quota.open(), raising=False)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert cores.available() == count


# ---- what runs in parallel


@pytest.fixture
def parallel_runs(monkeypatch):
    """The number of workers of every parallel run."""
    runs = []
    original = driver._run_with_threads

    def watched(*arguments):
        runs.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(driver, "_run_with_threads", watched)
    return runs


@needs_threads
def test_small_work_runs_serially(parallel_runs, threads):
    threads(2)
    x = np.zeros(1000, np.float32)
    run_scale(x, work=0.0)
    run_scale(x, work=_config.PARALLEL_US * 1000)
    run_scale(x, part=1000)  # one tile
    assert parallel_runs == []
    run_scale(x, work=_config.PARALLEL_US * 1000 + 1)
    assert parallel_runs == [2]
    threads(1)
    run_scale(x)
    assert parallel_runs == [2]


def test_small_rows_share_threads_that_are_awake(monkeypatch):
    monkeypatch.setattr(_config, "PARALLEL_US", 60)

    def row(tiles, work):
        return Row(make_scale("float32"), tiles, {}, work)

    assert driver._are_wide([row(8, 5e4), row(1, 5e4), row(8, 2e4), row(8, 1e3)], 2) == [True, False, True, False]
    assert driver._are_wide([row(8, 5e4), row(1, 5e4)], 2) == [False, False]
    assert driver._are_wide([row(8, 5e4), row(8, 5e4)], 1) == [False, False]


@needs_threads
def test_more_workers_than_threads_do_all_the_work():
    """Workers that come one after the other, as where the operating system gives a program one core."""
    x = np.arange(1000, dtype=np.float32)
    y = np.empty_like(x)
    values = {"x": x, "y": y, "n": 1000, "part": 10, "factor": 2.0}
    rows = [Row(make_scale("float32"), 100, values, BIG)] * 3
    image = driver._make_image(rows, [True, False, True], 0, None, 5)
    driver._run_parallel(image, 0, 3, 5)
    np.testing.assert_array_equal(y, 2 * x)


@needs_threads
def test_threshold_from_the_environment(parallel_runs, monkeypatch, threads):
    threads(2)
    x = np.zeros(1000, np.float32)
    monkeypatch.setattr(_config, "PARALLEL_US", 10**9)
    run_scale(x, work=1e11)
    assert parallel_runs == []
    monkeypatch.setattr(_config, "PARALLEL_US", 0)
    run_scale(x, work=1.0)
    assert parallel_runs == [2]


@needs_jit
def test_rows_run_in_order():
    """Later rows see what earlier ones wrote, whichever of them run in parallel."""
    x, y, z = np.arange(10_000.0), np.zeros(10_000), np.zeros(10_000)
    scale = make_scale("float64")
    for works in [(BIG, BIG), (0.0, BIG), (BIG, 0.0), (0.0, 0.0)]:
        y[:] = z[:] = 0
        pairs = zip(((x, y), (y, z)), works, strict=True)
        numbers = {"n": x.size, "part": 100, "factor": 3.0}
        launch(*(Row(scale, 100, {"x": a, "y": b, **numbers}, work) for (a, b), work in pairs))
        np.testing.assert_array_equal(z, 9 * x)


@pytest.mark.smoke
def test_every_tile_runs_once():
    starts = np.arange(997)
    np.testing.assert_allclose(run_churn(starts, 3), np.sqrt(starts.astype(float) ** 2 + 3))


# ---- the checks of a launch


def scale_row(x, y, tiles=1, **numbers):
    return Row(make_scale("float32"), tiles, {"x": x, "y": y, "n": 6, "part": 6, "factor": 2.0, **numbers}, 0.0)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros(6), TypeError, "scale: x must be an array of float32, given float64"),
        (np.zeros(6, ">f4"), TypeError, "scale: x must be an array of float32, given >f4"),
        (np.zeros(6, "i4"), TypeError, "scale: x must be an array of float32, given int32"),
        (None, TypeError, "scale: x must be an array of float32, given .*NoneType"),
        ([0.0] * 6, TypeError, "scale: x must be an array of float32, given .*list"),
        (np.zeros(12, "f4")[::2], ValueError, r"scale: x must be C-contiguous .* shape \(6,\), strides \(8,\)"),
        (np.zeros((2, 3), "f4").T, ValueError, r"scale: x must be C-contiguous .* shape \(3, 2\), strides \(4, 12\)"),
        (np.zeros(25, "u1")[1:].view("f4"), ValueError, "scale: x must be C-contiguous and aligned"),
    ],
    ids=["float64", "bytes swapped", "int32", "None", "list", "strided", "transposed", "unaligned"],
)
def test_wrong_arrays(x, error, message):
    y = np.full(6, 7, np.float32)
    with pytest.raises(error, match=message):
        launch(scale_row(x, y))
    assert (y == 7).all()


@pytest.mark.smoke
def test_missing_and_wrong_numbers():
    x = np.zeros(6, np.float32)
    row = scale_row(x, x.copy())
    with pytest.raises(KeyError, match="factor"):
        launch(row._replace(values={k: v for k, v in row.values.items() if k != "factor"}))
    with pytest.raises((TypeError, ValueError)):
        launch(scale_row(x, x.copy(), n="six"))


@pytest.mark.smoke
def test_nothing_to_do():
    launch()
    launch(scale_row(None, None, tiles=0))
    x = np.empty((3, 0), np.float32)
    assert run_scale(x, part=1).shape == (3, 0)


@pytest.mark.smoke
def test_other_dtypes_in_one_block():
    y = run_churn([3, 4], 0)
    assert y.tolist() == [3.0, 4.0]
    with pytest.raises(TypeError, match="churn: x must be an array of int64, given float64"):
        launch(Row(make_churn("float64"), 2, {"x": np.zeros(2), "y": np.zeros(2), "rounds": 0}, 0.0))


@pytest.mark.smoke
def test_arrays_are_kept_alive_for_the_run():
    """Only the launch holds them."""
    y = np.empty(1 << 16, np.float32)
    values = {"y": y, "n": y.size, "part": 64, "factor": 2.0}
    launch(Row(make_scale("float32"), y.size // 64, {"x": np.ones(y.size, np.float32), **values}, BIG))
    assert (y == 2).all()


@pytest.mark.smoke
def test_real_numbers_arrive_exactly():
    x = np.ones(1, np.float64)
    for factor in (0.1, -0.0, 1e-310, 1.7e308, np.inf, np.float32(0.3), 3):
        assert run_scale(x, factor=factor).tobytes() == np.float64(factor).tobytes()


@pytest.mark.smoke
def test_whole_numbers_arrive_exactly():
    @tile_body(Block("WideBlock", {"y": "i8"}, numbers="n"), "int64")
    def wide(block, tile, worker):
        a = fields(block)
        y = array_at(a.y, a.y_size, "i8")
        y[0] = a.n

    for n in (0, -1, 2**53 + 1, -(2**63), 2**63 - 1, np.int32(-5), np.int64(7)):
        y = np.zeros(1, np.int64)
        launch(Row(wide, 1, {"y": y, "n": n}, 0.0))
        assert y[0] == n


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the operating system does not let a thread choose")
def test_a_thread_leaves_a_core_and_may_use_it_afterwards():
    before = os.sched_getaffinity(0)
    cores.leave(min(before))
    assert os.sched_getaffinity(0) == before
    with open("/proc/thread-self/stat") as file:
        core = int(file.read().rsplit(")", 1)[1].split()[36])
    assert core in before
    try:
        os.sched_setaffinity(0, {min(before)})
        cores.leave(min(before))  # the only core: nowhere to go
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
