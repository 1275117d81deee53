"""The one parallel loop that every kernel runs under, and its serial twin.  Threads live here alone.

A kernel is a tile body; a `Row` is one launch of it: the body, the number of tiles, its arrays and numbers.  `launch`
runs rows in order and the tiles of a row in parallel.  Each tile owns its part of the output and computes it in a fixed
order, so the thread count never changes a bit.

What this file promises for all kernels:
* small work runs serially, in the caller's thread;
* calls from many Python threads at once are safe on every threading layer: one of them has the threads, the others
  run serially;
* after a fork of a process whose OpenMP threads have run, or while any threads ran, the child runs serially, since
  GNU OpenMP would end it;
* arrays are checked, turned into addresses here and nowhere else, and kept alive for the run;
* in debug mode tiles run one by one, with bounds checks, and an error inside a kernel is raised.
"""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

import os
import struct
import sys
import threading
import time
from typing import NamedTuple

import numba
import numpy as np
from numba import prange

from . import _config, _jit, _memory
from ._jit import TileBody
from .simd_sync import call_body, fetch_add, wait_until

_REAL, _REAL_BITS = struct.Struct("=d"), struct.Struct("=q")  # a real number travels in a field of whole-number bits


class Row(NamedTuple):
    """One launch of a tile body.

    values: the block's fields by name (arrays for buffers, numbers for the rest); work: estimated nanoseconds on one
    thread; scratch: elements of working memory per worker, found by the body in the block's buffer `scratch`;
    temporaries: names of the buffers that are given as a `Temporary`.
    """

    body: TileBody
    tiles: int
    values: dict
    work: float
    scratch: int = 0
    temporaries: tuple = ()


class Temporary:
    """An array that rows hand on to each other and nobody else sees: it is made when they run."""

    def __init__(self, size, dtype):
        self.size, self.dtype = size, np.dtype(dtype)


# ---- the loops; a program has one line per row: body address, block address, number of tiles, whether to run them in
# parallel


@_jit.cached()
def _run_serial(program):
    for row in range(program.shape[0]):
        for tile in range(program[row, 2]):
            call_body(program[row, 0], program[row, 1], tile, 0)


_APART = 8  # counters lie in cache lines of their own


@_jit.cached(parallel=True)
def _run_parallel(program, counters, workers):
    """Parallel over: workers, each of which goes through all rows, waiting after each until all its tiles are done.

    A worker takes the tiles of its own share, in order, then what is left of the others' shares: the same part of one
    row's output and the next row's input is so mostly in the same core's cache.  Nobody waits for a worker to arrive,
    only for the tiles that it has taken: if the operating system gives a thread no core, the others do its work.
    Counters of a row: the tiles that are done, then those that are taken of each share.
    """
    for worker in prange(workers):
        for row in range(program.shape[0]):
            body, block, tiles = program[row, 0], program[row, 1], program[row, 2]
            shares = workers if program[row, 3] else 1
            done, first = 0, row * (workers + 1) * _APART
            for other in range(shares):
                share = (worker + other) % shares
                start, end = share * tiles // shares, (share + 1) * tiles // shares
                step = 1 if program[row, 3] else tiles
                tile = start + fetch_add(counters, first + (share + 1) * _APART, step)
                while tile < end:
                    for each in range(tile, tile + step):
                        call_body(body, block, each, worker)
                    done += step
                    tile = start + fetch_add(counters, first + (share + 1) * _APART, step)
            if done:
                fetch_add(counters, first, done)
            wait_until(counters, first, tiles)


# ---- threads


def _available_threads():
    """The cores this process may use: its affinity, and the quota of its control group if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()[:2]
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control group, or one without a quota
    return min(cores, numba.config.NUMBA_NUM_THREADS)


class _Threads:
    """The thread count, the lock of the parallel region, and why this process may have to run serially."""

    def __init__(self):
        self.lock = threading.Lock()
        self.serial_because = None
        self.count = _available_threads()
        if _config.THREADS is not None:
            given, most = _config.THREADS, numba.config.NUMBA_NUM_THREADS
            if given > most:
                _config.refuse(f"FASTCONV_THREADS must be from 1 to {most} (NUMBA_NUM_THREADS), given {given}")
            self.count = given

    def set_count(self, count):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise TypeError(f"the number of threads must be a whole number, given {count!r}")
        most = numba.config.NUMBA_NUM_THREADS
        if not 1 <= count <= most:
            raise ValueError(f"the number of threads must be from 1 to {most} (NUMBA_NUM_THREADS), given {count}")
        self.count = int(count)

    def after_fork_in_child(self):
        if self.lock.locked():  # the child has none of the threads that were running, and the layer may wait for them
            self.serial_because = "forked while another thread ran a parallel kernel"
        self.lock = threading.Lock()
        if threading_layer() == "omp":
            self.serial_because = "forked from a process that had used OpenMP threads"


def threading_layer():
    """The threading layer that runs parallel kernels: tbb, omp or workqueue; None before the first parallel run."""
    try:
        return numba.threading_layer()
    except ValueError:
        return None


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork_in_child)


def set_num_threads(count):
    """Use `count` threads from now on, in every Python thread (at most NUMBA_NUM_THREADS; the default is all available
    cores)."""
    _threads.set_count(count)


def get_num_threads():
    """The number of threads that large work is spread over."""
    return _threads.count


def serial_because():
    """Why this process runs everything serially, or None."""
    return _threads.serial_because


# ---- launching


def _buffer(row, name):
    array = row.values[name]
    dtype = row.body.block.buffers[name] or row.body.dtype
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        given = getattr(array, "dtype", type(array))
        raise TypeError(f"{row.body.name}: {name} must be an array of {np.dtype(dtype)}, given {given}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(
            f"{row.body.name}: {name} must be C-contiguous and aligned; shape {array.shape}, strides {array.strides}"
        )
    return _memory.address(array), array.size


def _scratch(rows, workers):
    """Working memory for the largest row, one aligned part per worker; rows run one after the other and share it."""
    nbytes = max((row.scratch * row.body.dtype.itemsize for row in rows), default=0)
    part = -(-nbytes // 64) * 64 + 64  # the extra line keeps workers' parts from falling on the same cache sets
    memory = _memory.empty((part * workers + 64,), np.uint8) if nbytes else np.empty(0, np.uint8)
    return memory, part if workers > 1 else None


def _blocks(rows, memory, part):
    """The parameters of all rows in one array of 8-byte fields, and where each row's begin.

    part: bytes of scratch per worker; None for a single worker, whose scratch has its true length: debug mode finds
    what lies beyond.
    """
    base = _memory.address(memory)
    fields, starts = [], []
    for row in rows:
        starts.append(len(fields))
        block, values = row.body.block, row.values
        for name in block.buffers:
            if name == "scratch":
                fields += (-(-base // 64) * 64, part // row.body.dtype.itemsize if part else row.scratch)
            else:
                fields += _buffer(row, name)
        fields += [values[name] for name in block.numbers]
        fields += [_REAL_BITS.unpack(_REAL.pack(values[name]))[0] for name in block.reals]
    return np.array(fields, np.int64), starts


def _usable_threads():
    return 1 if _threads.serial_because or _config.DEBUG or not _jit.JIT else _threads.count


_SHARED_US = 4  # a row of more is worth sharing once the threads are awake


def _are_wide(rows, threads):
    """For each row, whether its tiles are spread over threads: none if all that can be are too little to wake them."""
    if threads < 2 or sum(row.work for row in rows if row.tiles > 1) <= _config.PARALLEL_US * 1000:
        return [False] * len(rows)
    least = min(_SHARED_US, _config.PARALLEL_US) * 1000
    return [row.tiles > 1 and row.work > least for row in rows]


def _with_temporaries(rows, make):
    """The rows with arrays in place of their temporaries; make(shape, dtype) gives an array."""
    made = {}

    def array(temporary):
        if id(temporary) not in made:
            made[id(temporary)] = make((temporary.size,), temporary.dtype)
        return made[id(temporary)]

    return [
        row._replace(values={**row.values, **{name: array(row.values[name]) for name in row.temporaries}})
        if row.temporaries
        else row
        for row in rows
    ]


def launch(*rows):
    """Run the rows in order, each row's tiles in parallel where that pays."""
    rows = _with_temporaries([row for row in rows if row.tiles > 0], _memory.empty)
    if not rows:
        return
    threads = _usable_threads()
    split = _are_wide(rows, threads)
    parallel = any(split) and _threads.lock.acquire(blocking=False)
    try:
        workers = threads if parallel else 1
        memory, part = _scratch(rows, workers)
        blocks, starts = _blocks(rows, memory, part)
        if not _jit.JIT:
            _run_python(rows, blocks, starts)
            return
        base = _memory.address(blocks)
        lines = [
            (row.body.address, base + 8 * start, row.tiles, wide)
            for row, start, wide in zip(rows, starts, split, strict=True)
        ]
        program = np.array(lines, np.int64)
        if parallel:
            _run_with_threads(program, workers)
        elif _config.DEBUG:
            _run_checked(program)
        else:
            _run_serial(program)
    finally:
        if parallel:
            _threads.lock.release()


class Program:
    """Rows that are checked and laid out once, to run many times on memory that changes from run to run.

    rows: as for `launch`.  memory: arrays of bytes that stand for the memory of a run; a row's buffer that lies in one
    of them is found, at every run, at the same place in the memory given then.  All other buffers are constants.
    A row that touches none of that memory, such as one that packs weights, runs now, once.  A program is never written
    to after it is made: any number of threads may run it at once, each on its own memory.

    counts: for each row given, whether it is left to run (0 or 1).
    """

    def __init__(self, rows, memory):
        held = []
        rows = _with_temporaries(rows, lambda *array: held.append(np.empty(*array)) or held[-1])
        self._held = [(array.shape, array.dtype) for array in held]
        spans = [_span(array) for array in (*memory, *held)]
        constant = [row for row in rows if not _touches(row, spans)]
        launch(*constant)
        self.counts = [int(row.tiles > 0 and not any(row is other for other in constant)) for row in rows]
        self._rows = [row for row, count in zip(rows, self.counts, strict=True) if count]
        self.threads = _usable_threads()
        self._split = _are_wide(self._rows, self.threads)
        workers = self.threads if any(self._split) else 1
        scratch, part = _scratch(self._rows, workers)
        blocks, starts = _blocks(self._rows, scratch, part)
        self._scratch_bytes = scratch.nbytes
        self._blocks, self._starts = blocks, starts
        spans.append(_span(scratch))
        fields = [
            start + 2 * index
            for row, start in zip(self._rows, starts, strict=True)
            for index in range(len(row.body.block.buffers))
        ]
        found = [_region(int(blocks[place]), spans) for place in fields]
        moved = [(place, region) for place, region in zip(fields, found, strict=True) if region is not None]
        self._places = np.array([place for place, _ in moved], np.int64)
        self._regions = np.array([region for _, region in moved], np.int64)
        blocks[self._places] -= np.array([address for address, _ in spans], np.int64)[self._regions]
        lines = [
            (row.body.address if _jit.JIT else 0, 8 * start, row.tiles, wide)
            for row, start, wide in zip(self._rows, starts, self._split, strict=True)
        ]
        self._lines = np.array(lines, np.int64).reshape(-1, 4)

    def run(self, memory, groups=None):
        """Run all rows; with `groups`, numbers of rows that add up to all of them, give the nanoseconds of each group.

        memory: arrays of at least the sizes that the program was made with.  They stay alive until the run is over.
        """
        scratch = _memory.empty((self._scratch_bytes,), np.uint8)
        held = [_memory.empty(*array) for array in self._held]
        bases = np.array([_memory.address(array) for array in (*memory, *held, scratch)], np.int64)
        blocks, lines = self._blocks.copy(), self._lines.copy()
        blocks[self._places] += bases[self._regions]
        lines[:, 1] += _memory.address(blocks)
        parallel = any(self._split) and not _threads.serial_because and _threads.lock.acquire(blocking=False)
        try:
            if groups is None:
                self._run(lines, blocks, 0, parallel)
                return None
            times, first = [], 0
            for count in groups:
                before = time.perf_counter_ns()
                self._run(lines[first : first + count], blocks, first, parallel)
                times.append(time.perf_counter_ns() - before)
                first += count
            return times
        finally:
            if parallel:
                _threads.lock.release()

    def _run(self, lines, blocks, first, parallel):
        if not _jit.JIT:
            _run_python(self._rows[first : first + len(lines)], blocks, self._starts[first : first + len(lines)])
        elif parallel and lines[:, 3].any():
            _run_with_threads(lines, self.threads)
        elif _config.DEBUG:
            _run_checked(lines)
        else:
            _run_serial(lines)


def _span(array):
    return _memory.address(array), array.nbytes


def _touches(row, spans):
    """Whether a buffer of the row lies in one of the spans of memory."""
    buffers = [row.values[name] for name in row.body.block.buffers if name != "scratch"]
    return any(_region(_span(array)[0], spans) is not None for array in buffers)


def _region(address, spans):
    """The number of the span of memory that an address lies in, or None."""
    return next((i for i, (start, size) in enumerate(spans) if start <= address < start + size), None)


def _run_with_threads(program, workers):
    before = numba.get_num_threads()
    if before != workers:
        numba.set_num_threads(workers)
    try:
        _run_parallel(program, np.zeros(len(program) * (workers + 1) * _APART, np.int64), workers)
    finally:
        if before != workers:
            numba.set_num_threads(before)


def _run_checked(program):
    """Run, and raise the first error in a kernel: a C callback can only give it to the process's unraisable hook."""
    errors = []

    def collect(unraisable):
        if "numba" in str(unraisable.object):
            errors.append(unraisable.exc_value)
        else:
            hook(unraisable)

    with _threads.lock:
        hook, sys.unraisablehook = sys.unraisablehook, collect
        try:
            _run_serial(program)
        finally:
            sys.unraisablehook = hook
    if errors:
        raise errors[0]


def _run_python(rows, blocks, starts):
    for row, start in zip(rows, starts, strict=True):
        dtype = row.body.block.dtype
        block = blocks[start : start + dtype.itemsize // 8].view(dtype)
        with np.errstate(all="ignore"):  # lanes that are not stored compute on whatever scratch holds
            for tile in range(row.tiles):
                row.body.python(block, tile, 0)
