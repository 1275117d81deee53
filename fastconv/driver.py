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

from . import _config, _jit, _memory, cores
from ._jit import TileBody
from .simd_sync import call_body, current_core, fetch_add, wait_until

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
    """An array that rows hand on to each other and nobody else sees, made when they run.  The first row that has it
    writes it, the others read it."""

    def __init__(self, size, dtype):
        self.size, self.dtype = size, np.dtype(dtype)


# ---- the loops.  All that a run needs is one array of 8-byte whole numbers, its image, since every array that is given
# to compiled code costs a third of a microsecond:
#
#     rows n, moved fields m, where bases begin, where counters begin
#     n lines: body address, where the row's block begins, number of tiles, whether to run them in parallel
#     m moved fields: where in the image, offset, number of the base it is added to
#     blocks, bases (addresses of the memory of one run)
#     counters, and the core that each worker began on (each a cache line apart; of parallel runs alone)

_HEAD, _LINE, _MOVED, _APART = 4, 4, 3, 8


@_jit.helper
def _place(image):
    """Write the addresses of this run's memory into the blocks."""
    first = _HEAD + _LINE * image[0]
    for i in range(first, first + _MOVED * image[1], _MOVED):
        image[image[i]] = image[i + 1] + image[image[2] + image[i + 2]]


@_jit.cached()
def _run_serial(image, first, last):
    _place(image)
    base = image.ctypes.data
    for row in range(first, last):
        line = _HEAD + _LINE * row
        for tile in range(image[line + 2]):
            call_body(image[line], base + 8 * image[line + 1], tile, 0)


@_jit.cached(parallel=True)
def _run_parallel(image, first, last, workers):
    """Parallel over: workers, each of which goes through all rows, waiting after each until all its tiles are done.

    A worker takes the tiles of its own share, in order, then what is left of the others' shares: the same part of one
    row's output and the next row's input is so mostly in the same core's cache.  Nobody waits for a worker to arrive,
    only for the tiles that it has taken: if the operating system gives a thread no core, the others do its work.
    Counters of a row: the tiles that are done, then those that are taken of each share.  Gives the core that two of the
    threads shared, or -1.
    """
    _place(image)
    base, each = image.ctypes.data, (workers + 1) * _APART
    for counter in range(image[3] + first * each, image[3] + last * each, _APART):
        image[counter] = 0
    began = image[3] + image[0] * each
    for worker in prange(workers):
        image[began + worker * _APART] = current_core()
        for row in range(first, last):
            line, done = _HEAD + _LINE * row, image[3] + row * each
            body, block, tiles = image[line], base + 8 * image[line + 1], image[line + 2]
            shares, run = (workers, 1) if image[line + 3] else (1, tiles)
            finished = 0
            for other in range(shares):
                share = (worker + other) % shares
                start, end = share * tiles // shares, (share + 1) * tiles // shares
                taken = done + (share + 1) * _APART
                tile = start + fetch_add(image, taken, run)
                while tile < end:
                    for part in range(tile, tile + run):
                        call_body(body, block, part, worker)
                    finished += run
                    tile = start + fetch_add(image, taken, run)
            if finished:
                fetch_add(image, done, finished)
            wait_until(image, done, tiles)
    for worker in range(1, workers):
        if image[began + worker * _APART] == image[began]:
            return image[began]
    return -1


# ---- threads


class _Threads:
    """The thread count, the lock of the parallel region, and why this process may have to run serially."""

    def __init__(self):
        self.lock = threading.Lock()
        self.serial_because = None
        self.count = min(cores.available(), numba.config.NUMBA_NUM_THREADS)
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


def _scratch_sizes(rows, workers):
    """(bytes of working memory for the largest row, bytes of one worker's part or None for a single worker); rows run
    one after the other and share it."""
    nbytes = max((row.scratch * row.body.dtype.itemsize for row in rows), default=0)
    part = -(-nbytes // 64) * 64 + 64  # the extra line keeps workers' parts from falling on the same cache sets
    return part * workers if nbytes else 0, part if workers > 1 else None


def _block(row, base, part):
    """The parameters of a row as 8-byte fields.

    base: of scratch; part: bytes of scratch per worker; None for a single worker, whose scratch has its true length:
    debug mode finds what lies beyond.
    """
    fields, block, values = [], row.body.block, row.values
    for name in block.buffers:
        if name == "scratch":
            fields += (base, part // row.body.dtype.itemsize if part else row.scratch)
        else:
            fields += _buffer(row, name)
    fields += [values[name] for name in block.numbers]
    return fields + [_REAL_BITS.unpack(_REAL.pack(values[name]))[0] for name in block.reals]


def _make_image(rows, split, base, part, workers, bases=0, move=None):
    """The image of rows; split: whether each runs in parallel; base, part: as for `_block`; workers: at most.

    move(address) gives (number of the base, its address) for buffers in memory that changes from run to run, or None.
    """
    blocks = [_block(row, base, part) for row in rows]
    moved = []  # row, field, address, base
    if move:
        for number, row in enumerate(rows):
            for field in range(0, 2 * len(row.body.block.buffers), 2):
                found = move(blocks[number][field])
                if found:
                    moved.append((number, field, blocks[number][field] - found[1], found[0]))
    place = _HEAD + _LINE * len(rows) + _MOVED * len(moved)
    starts = []
    for block in blocks:
        starts.append(place)
        place += len(block)
    image = [len(rows), len(moved), place, place + bases + _APART]
    for row, start, wide in zip(rows, starts, split, strict=True):
        image += (row.body.address if _jit.JIT else 0, start, row.tiles, wide)
    for number, field, offset, region in moved:
        image += (starts[number] + field, offset, region)
    for block in blocks:
        image += block
    image += [0] * (bases + 2 * _APART + (len(rows) * (workers + 1) + workers) * _APART * (workers > 1))
    return np.array(image, np.int64)


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
        nbytes, part = _scratch_sizes(rows, workers)
        scratch = _memory.borrow(nbytes)
        image = _make_image(rows, split, _memory.address(scratch), part, workers)
        _run(image, rows, 0, len(rows), workers)
        _memory.give_back(scratch)
    finally:
        if parallel:
            _threads.lock.release()


class Program:
    """Rows that are checked and laid out once, to run many times on memory that changes from run to run.

    rows: as for `launch`.  memory: arrays that stand for the memory of a run; a row's buffer that lies in one of them
    is found, at every run, at the same place in the memory given then.  All other buffers are constants.
    A row that touches none of that memory, such as one that packs weights, runs now, once.  Any number of threads may
    run a program at once, each on its own memory.

    counts: for each row given, whether it is left to run (0 or 1).
    """

    def __init__(self, rows, memory):
        rows = _with_temporaries(rows, np.empty)
        constant, held = _divide(rows, memory)
        launch(*(row._replace(temporaries=()) for row in constant))
        spans = [_span(array) for array in (*memory, *held)]
        self.counts = [int(row.tiles > 0 and not any(row is other for other in constant)) for row in rows]
        self._rows = [row for row, count in zip(rows, self.counts, strict=True) if count]
        self.threads = _usable_threads()
        self._split = _are_wide(self._rows, self.threads)
        workers = self.threads if any(self._split) else 1
        nbytes, part = _scratch_sizes(self._rows, workers)
        scratch = np.empty(nbytes, np.uint8)  # nobody touches it: it only lends its addresses
        spans.append(_span(scratch))

        def move(address):
            region = _region(address, spans)
            return None if region is None else (region, spans[region][0])

        self._image = _make_image(self._rows, self._split, spans[-1][0], part, workers, len(spans), move)
        self._idle = []  # copies of the image that no run is using
        self._own = [(number, place) for number, place in enumerate(_places(held, nbytes), len(memory))]
        self._own_bytes = self._own[-1][1] + nbytes if held or nbytes else 0
        self._base, self._wide = int(self._image[2]), any(self._split)
        if _jit.JIT:  # constants stay alive; what stood for the memory of a run need not
            found = (row.values[name] for row in self._rows for name in row.body.block.buffers if name != "scratch")
            self._constants = [array for array in found if _region(_span(array)[0], spans) is None]
            self._rows = [None] * len(self._rows)

    def run(self, memory, groups=None):
        """Run all rows; with `groups`, numbers of rows that add up to all of them, give the nanoseconds of each group.

        memory: arrays of at least the sizes that the program was made with.  They stay alive until the run is over.
        """
        return self.run_at([_memory.address(array) for array in memory], groups)

    def run_at(self, addresses, groups=None):
        """`run` on memory whose addresses the caller knows, and that it keeps alive."""
        try:
            image = self._idle.pop()
        except IndexError:
            image = self._image.copy()
        for number, address in enumerate(addresses, self._base):
            image[number] = address
        own = _memory.borrow(self._own_bytes) if self._own_bytes else None
        if own is not None:
            first = _memory.address(own)
            for number, place in self._own:
                image[self._base + number] = first + place
        parallel = self._wide and not _threads.serial_because and _threads.lock.acquire(blocking=False)
        try:
            workers = self.threads if parallel else 1
            if groups:
                return self._run_groups(image, groups, workers)
            return _run(image, self._rows, 0, len(self._rows), workers)
        finally:
            if parallel:
                _threads.lock.release()
            if own is not None:
                _memory.give_back(own)
            self._idle.append(image)

    def _run_groups(self, image, groups, workers):
        times, first = [], 0
        for count in groups:
            before = time.perf_counter_ns()
            several = workers > 1 and any(self._split[first : first + count])
            _run(image, self._rows, first, first + count, workers if several else 1)
            times.append(time.perf_counter_ns() - before)
            first += count
        return times


def _run(image, rows, first, last, workers):
    """Run some rows of an image."""
    if not _jit.JIT:
        _run_python(image, rows[first:last], first)
    elif workers > 1:
        _run_with_threads(image, first, last, workers)
    elif _config.DEBUG:
        _run_checked(image, first, last)
    else:
        _run_serial(image, first, last)


def _places(arrays, nbytes):
    """Where each array lies in one stretch of memory, and after them, on a cache line of its own, `nbytes` of
    scratch."""
    places, at = [], 0
    for size in (*(array.nbytes for array in arrays), nbytes):
        places.append(at)
        at += -(-size // 64) * 64 + 64
    return places


def _span(array):
    return _memory.address(array), array.nbytes


def _divide(rows, memory):
    """The rows that depend on constants alone, and the temporaries of the others."""
    spans, constant, known, held = [_span(array) for array in memory], [], set(), []
    for row in rows:
        varies = _touches(row, spans)
        if not varies:
            constant.append(row)
        for array in (row.values[name] for name in row.temporaries):
            if varies and id(array) not in known:
                spans.append(_span(array))
                held.append(array)
            known.add(id(array))
    return constant, held


def _touches(row, spans):
    """Whether a buffer of the row lies in one of the spans of memory."""
    buffers = [row.values[name] for name in row.body.block.buffers if name != "scratch"]
    return any(_region(_span(array)[0], spans) is not None for array in buffers)


def _region(address, spans):
    """The number of the span of memory that an address lies in, or None."""
    return next((i for i, (start, size) in enumerate(spans) if start <= address < start + size), None)


def _run_with_threads(image, first, last, workers):
    before = numba.get_num_threads()
    if before != workers:
        numba.set_num_threads(workers)
    try:
        core = _run_parallel(image, first, last, workers)
    finally:
        if before != workers:
            numba.set_num_threads(before)
    if core >= 0:
        cores.leave(core)


def _run_checked(image, first, last):
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
            _run_serial(image, first, last)
        finally:
            sys.unraisablehook = hook
    if errors:
        raise errors[0]


def _run_python(image, rows, first):
    _place(image)
    for number, row in enumerate(rows, first):
        dtype = row.body.block.dtype
        start = image[_HEAD + _LINE * number + 1]
        block = image[start : start + dtype.itemsize // 8].view(dtype)
        with np.errstate(all="ignore"):  # lanes that are not stored compute on whatever scratch holds
            for tile in range(row.tiles):
                row.body.python(block, tile, 0)
