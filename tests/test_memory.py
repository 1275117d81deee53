"""The pool of output buffers: memory is used again only when nobody looks at it."""

import gc
import os
import threading

import numpy as np
import pytest

from fastconv import _config, _memory

from .processes import output

SHAPE = (3, 101, 997)  # 1.2 MB of float32


def address(array):
    return array.__array_interface__["data"][0]


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    _memory.release()
    yield
    _memory.release()


@pytest.mark.smoke
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (7, 3), SHAPE, (1 << 20,)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_arrays(shape, dtype):
    array = _memory.empty(shape, dtype)
    assert array.shape == shape and array.dtype == np.dtype(dtype)
    assert array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
    array[...] = 1
    assert (_memory.zeros(shape, dtype) == 0).all() and (array == 1).all()
    if array.nbytes >= 1 << 16:
        assert address(array) % 64 == 0


@pytest.mark.smoke
def test_used_again_when_dead():
    array = _memory.empty(SHAPE, "float32")
    place = address(array)
    assert _memory.kept_bytes() == 0
    del array
    assert _memory.kept_bytes() >= 4 * np.prod(SHAPE)
    again = _memory.empty(SHAPE, "float32")
    assert address(again) == place and _memory.kept_bytes() == 0
    assert address(_memory.empty(SHAPE, "float32")) != place


def test_size_classes():
    """Close sizes and other dtypes share buffers; at most an eighth is wasted."""
    place = address(_memory.empty((1000, 1000), "float64"))
    assert address(_memory.empty((1990, 1000), "float32")) == place
    for nbytes in (1 << 15, (1 << 20) + 1, 3_333_333, 10**8):
        assert nbytes <= _memory._size_class(nbytes) <= nbytes * 9 / 8 + 1


@pytest.mark.parametrize(
    "look",
    [
        lambda a: a[1, 2:5, ::3],
        lambda a: a.reshape(-1),
        lambda a: a.T,
        lambda a: a.view(np.int32),
        lambda a: memoryview(a),
        lambda a: np.asarray(a[0])[None],
        lambda a: np.frombuffer(memoryview(a).cast("B"), np.uint8),
        lambda a: np.from_dlpack(a),
        lambda a: [a],
    ],
    ids=["slice", "reshape", "transpose", "view", "memoryview", "new axis", "frombuffer", "dlpack", "list"],
)
def test_not_used_again_while_seen(look):
    array = _memory.empty(SHAPE, "float32")
    place = address(array)
    view = look(array)
    del array
    other = _memory.empty(SHAPE, "float32")
    assert address(other) != place
    del view
    assert address(_memory.empty(SHAPE, "float32")) == place


@pytest.mark.torch
def test_not_used_again_while_torch_sees():
    torch = pytest.importorskip("torch")
    array = _memory.empty(SHAPE, "float32")
    place = address(array)
    tensor = torch.from_numpy(array)[1]
    del array
    assert address(_memory.empty(SHAPE, "float32")) != place
    del tensor
    gc.collect()
    assert place in [address(a) for a in [_memory.empty(SHAPE, "float32") for _ in range(2)]]


def test_collected_in_a_cycle():
    array = _memory.empty(SHAPE, "float32")
    place, knot = address(array), [array]
    knot.append(knot)
    del array, knot
    gc.collect()
    assert address(_memory.empty(SHAPE, "float32")) == place


def test_never_more_than_the_cap(monkeypatch):
    monkeypatch.setattr(_config, "POOL_BYTES", 5_000_000)
    arrays = [_memory.empty((size,), "uint8") for size in (4_000_000, 1_000_000, 2_000_000, 6_000_000, 40_000)]
    while arrays:
        arrays.pop()
        assert _memory.kept_bytes() <= 5_000_000
    kept = _memory.kept_bytes()
    assert kept > 0
    _memory.empty((6_000_000,), "uint8")
    assert _memory.kept_bytes() == kept, "a buffer that can't be kept must not push out others"
    _memory.release()
    assert _memory.kept_bytes() == 0


def test_full_pool_takes_new_sizes(monkeypatch):
    """A network whose shapes have changed must not find the pool full of sizes that it no longer uses."""
    monkeypatch.setattr(_config, "POOL_BYTES", 5_000_000)
    old = [_memory.empty((1_000_000,), "uint8") for _ in range(4)]
    del old
    place = address(_memory.empty((3_000_000,), "uint8"))
    assert address(_memory.empty((3_000_000,), "uint8")) == place
    assert _memory.kept_bytes() <= 5_000_000


def test_nothing_is_kept_without_a_pool(monkeypatch):
    monkeypatch.setattr(_config, "POOL_BYTES", 0)
    _memory.empty(SHAPE, "float32")
    assert _memory.kept_bytes() == 0


def test_threads():
    """No two threads ever hold the same memory."""
    wrong = []

    def work(mine):
        rng = np.random.default_rng(mine)
        held = []
        for _ in range(300):
            array = _memory.empty((int(rng.integers(9_000, 40_000)),), "float32")
            array.fill(mine)
            held.append(array)
            if len(held) > 5:
                gone = held.pop(int(rng.integers(len(held))))
                wrong.extend([mine] * bool((gone != mine).any()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_while_another_thread_holds_the_lock():
    code = """
        import os
        from fastconv import _memory
        a = _memory.empty((1 << 20,), "float32")
        with _memory._lock:
            child = os.fork()
            if not child:
                a = None
                os._exit(7 if _memory.empty((1 << 20,), "float32").size == 1 << 20 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output(code, timeout=30) == "7"


def test_nothing_is_said_at_exit():
    code = """
        from fastconv import _memory
        class Knot: pass
        kept = _memory.empty((1 << 20,), "float32")
        knot = Knot(); knot.self, knot.array = knot, _memory.empty((1 << 20,), "float32")
        import threading
        threading.local().array = kept
    """
    assert output(code) == ""


def test_pooled_arrays_are_told_from_their_views():
    array = _memory.empty((100_000,), np.float32)
    assert _memory.is_pooled(array)
    assert not _memory.is_pooled(array[1:]) and not _memory.is_pooled(array.reshape(2, -1))
    assert not _memory.is_pooled(np.empty(3))
