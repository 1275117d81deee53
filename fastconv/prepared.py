"""Calls that were made before: the rows of an operation on one spec, checked and laid out once, then run on the arrays
of each call.

For this the rows that an implementation emits may depend on which buffers there are, never on what they hold
(`Impl.repeatable`).  Pure Python.
"""

import threading

import numpy as np

from . import _config, _jit, _memory, driver
from ._registry import registered, select
from .driver import Program

MOST_CALLS = 1024
_calls = {}


class _Watch(threading.local):
    runs: list | None = None  # while this thread's programs are watched


_watch = _Watch()


def settings():
    """What a prepared call depends on besides its spec."""
    return driver.get_num_threads(), _config.IMPL, _config.batch_invariant(), registered()


def can_prepare(impl):
    return impl.repeatable and _jit.JIT and not _config.DEBUG


def call(impl, spec, buffers):
    """The program of an operation by one implementation on one spec; it runs on the buffers' arrays, in their order.

    buffers: name -> dense array of the size and dtype that the spec says; here it only matters which there are.
    """
    key = impl, spec, tuple(buffers), settings()
    known = _calls.get(key)
    if known is None:
        stand_ins = {name: np.empty(array.shape, array.dtype) for name, array in buffers.items()}
        known = _keep(key, Program(impl.emit(spec, stand_ins), list(stand_ins.values())))
    return known


def run_rows(emit, arrays, *numbers):
    """Run the rows `emit(*arrays, *numbers)`, which depend on numbers and on the arrays' shapes and dtypes alone.

    arrays: dense ones, or None; numbers: what can be a key of a dictionary.
    """
    if not _jit.JIT or _config.DEBUG:
        driver.launch(*emit(*arrays, *numbers))
        return
    given = [array for array in arrays if array is not None]
    key = emit, numbers, settings(), *[None if array is None else (array.shape, array.dtype) for array in arrays]
    known = _calls.get(key)
    if known is None:
        stand_ins = [None if array is None else np.empty(array.shape, array.dtype) for array in arrays]
        memory = [array for array in stand_ins if array is not None]
        known = _keep(key, Program(emit(*stand_ins, *numbers), memory))
    start(known, given)


def start(program, arrays):
    """Run a program on dense arrays."""
    addresses = list(map(_memory.address, arrays))
    program.run_at(addresses)
    if _watch.runs is not None:
        _watch.runs.append([program, *addresses])


def watched(function, *args, **kwargs):
    """(what the function gives, [program, addresses of its arrays] of each program that ran here meanwhile)."""
    before, runs = _watch.runs, []
    _watch.runs = runs
    try:
        return function(*args, **kwargs), runs
    finally:
        _watch.runs = before
        if before is not None:
            before.extend(runs)


def _keep(key, program):
    while len(_calls) >= MOST_CALLS:
        _calls.pop(next(iter(_calls)), None)
    _calls[key] = program
    return program


def run(operation, spec, buffers, impl=None):
    """Run an operation on dense arrays; None: a buffer that is not there.

    impl: the implementation to take; default: the one that the registry selects.
    """
    arrays = [array for array in buffers.values() if array is not None]
    names = tuple([name for name, array in buffers.items() if array is not None])
    key = operation, impl, spec, names, settings()
    known = _calls.get(key)  # those of `call`, found without asking the registry
    if known is None or _config.DEBUG:
        impl = impl or select(operation, spec)
        if not can_prepare(impl):
            driver.launch(*impl.emit(spec, buffers))
            return
        known = _keep(key, call(impl, spec, dict(zip(names, arrays, strict=True))))
    start(known, arrays)
