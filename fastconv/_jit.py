"""How everything is compiled and cached: tile bodies, helpers, debug mode, cache stamp.

helper      a serial function that bodies call; compiled into them.  With NUMBA_DISABLE_JIT=1 it stays plain Python.
Block       the parameter block of a kernel: named addresses, lengths and numbers.
tile_body   a C callback body(block, tile, worker) that computes one tile of the output, serially.  Compiled at first
            use.
cached      a compiled function of Python arguments (the driver's loops) with the same cache.

The cache is our own, one file a kernel, because Numba's reuses code whose helpers in other files or whose options have
changed.  A file's name holds a hash of all that can change the machine code: the source of the package below `nn`, the
function and its closure, options, versions, CPU and its features.  A damaged file is compiled again; a folder that
can't be written is only read.
"""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

import gc
import hashlib
import os
import pickle
import sys
import tempfile
import threading
import types as python_types
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import llvmlite
import numba
import numpy as np
from numba.core import ccallback, compiler, config, types
from numba.core.caching import dumps
from numba.core.runtime import rtsys

from . import _config

OPTIONS = {"error_model": "numpy", "nogil": True, "boundscheck": _config.DEBUG}
# Kernels allocate nothing.  With counts of references there would be a call wherever a helper is given an array, for
# which all vectors go to the stack: in the middle of a product the 24 that it is about.
KERNEL_OPTIONS = {**OPTIONS, "_nrt": False}
JIT = not config.DISABLE_JIT

# Helpers are called by kernels only: without wrappers for Python and C they compile faster.  They become part of their
# caller: a call with six arrays is fifty stores and as many loads, and hides from LLVM that they are always the same.
_compiled_helper = numba.njit(**KERNEL_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def helper(function):
    """A decorator: a serial function that bodies call."""
    return _compiled_helper(_named_by_content(function))


# ---- the cache


_FOLDERS = ("kernels", "ops", "autograd")  # what kernels are made of, besides the files beside this one


def _package_stamp():
    """A hash of every source file that a kernel of the package may depend on."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("*.py"), *(path for folder in _FOLDERS for path in (root / folder).rglob("*.py"))]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _is_stamped(module):
    """Whether the stamp knows the source of a module."""
    package, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return package == __package__ and (folder in _FOLDERS or not (Path(__file__).parent / folder).is_dir())


def _code_names(code):
    """The names that a function's code and the functions inside it look up."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, python_types.CodeType):
            names |= _code_names(const)
    return names


def _describe_code(code):
    consts = [_describe_code(c) if isinstance(c, python_types.CodeType) else repr(c) for c in code.co_consts]
    return f"{hashlib.sha256(code.co_code).hexdigest()}{code.co_names}{consts}"


def _describe_function(function, seen):
    name = f"{function.__module__}.{function.__qualname__}"
    if function in seen:
        return name
    seen = (*seen, function)
    cells = [_describe(cell.cell_contents, seen) for cell in function.__closure__ or ()]
    used = []
    if not _is_stamped(function.__module__):  # a user's own kernel
        known = function.__globals__
        used = [(n, _describe_global(known[n], seen)) for n in sorted(_code_names(function.__code__)) if n in known]
    return f"{name}:{_describe_code(function.__code__)}{function.__defaults__}{cells}{used}"


def _describe_global(value, seen):
    try:
        return _describe(value, seen)
    except TypeError:
        if isinstance(value, np.ndarray):
            return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
        return repr(value)  # a repr with an address is never found again, which costs time but is never wrong


def _describe(value, seen=()):
    """A value of a closure as text that is the same in every process.

    Functions are described by name, code, closure and, outside the package, the globals that they use.
    """
    value = getattr(value, "py_func", getattr(value, "_defn", value))  # of a helper, of an intrinsic
    if isinstance(value, python_types.FunctionType):
        return _describe_function(value, seen)
    if isinstance(value, (tuple, list)):
        return f"({','.join(_describe(part, seen) for part in value)})"
    if value is None or isinstance(value, (int, float, str, bool, np.dtype, np.generic, type)):
        return repr(value)
    raise TypeError(f"a kernel's closure may hold numbers, strings, tuples and helpers, not {type(value).__name__}")


class KernelCache:
    """The compiled forms of one function on disk, with the interface that Numba's dispatchers and callbacks expect."""

    stats: ClassVar = {"hits": 0, "misses": 0, "stored": 0}  # of the whole process
    # Taken when the package is imported: what is imported later and what is compiled then come from the same files.
    _stamp = _package_stamp()

    def __init__(self, function):
        self._function = function
        self.cache_path = _config.cache_dir()

    def _path(self, sig, codegen):
        parts = (
            *(
                KernelCache._stamp,
                _describe(self._function),
                str(sig),
                codegen.magic_tuple(),
                sorted(KERNEL_OPTIONS.items()),
            ),
            *(_config.ISA, config.OPT, config.SLP_VECTORIZE, config.LOOP_VECTORIZE, config.DEBUGINFO_DEFAULT),
            *(numba.__version__, llvmlite.__version__, np.__version__, sys.version),
        )
        name = f"{self._function.__name__}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.kernel"
        return os.path.join(self.cache_path, name)

    def load_overload(self, sig, target_context):
        if not _config.CACHE:
            return None
        rtsys.initialize(target_context)  # all that machine code needs; `refresh` imports what compiling needs, 0.1 s
        try:
            with open(self._path(sig, target_context.codegen()), "rb") as file:
                digest, data = file.read(32), file.read()
        except OSError:
            digest, data = b"", b""
        if len(digest) < 32 or hashlib.sha256(data).digest() != digest:
            self.stats["misses"] += 1
            return None
        self.stats["hits"] += 1
        return compiler.CompileResult._rebuild(target_context, *pickle.loads(data))

    def save_overload(self, sig, result):
        if not _config.CACHE or _package_stamp() != KernelCache._stamp:
            return  # the source was edited after it was imported: this code belongs to no stamp
        data = dumps(result._reduce())
        path = self._path(sig, result.codegen)
        try:
            os.makedirs(self.cache_path, mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.cache_path)
        except OSError:
            return  # a cache that can't be written is only read
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(temporary, path)
            self.stats["stored"] += 1
        except OSError:
            os.unlink(temporary)

    def enable(self):
        """Part of the interface: the FASTCONV_CACHE switch decides instead."""

    disable = flush = enable


def cached(**options):
    """A decorator: compile with these further options, keep the result on disk."""

    def decorate(function):
        dispatcher = numba.njit(**OPTIONS, **options)(_named_by_content(function))
        if JIT:
            dispatcher._cache = KernelCache(function)
        return dispatcher

    return decorate


def _named_by_content(function):
    """The function, its qualified name ending in a hash of all that it captures.

    Numba names machine code by qualified name, argument types and a counter of the process.  Two variants of one
    factory, compiled in two processes, can so have one name, and a third process that loads both from the cache would
    run the first in place of the second.
    """
    if JIT:
        function.__qualname__ += f"_{hashlib.sha256(_describe(function).encode()).hexdigest()[:16]}"
    return function


# ---- tile bodies


class Block:
    """The layout of a kernel's parameters: every name is an 8-byte field of a NumPy structured scalar.

    buffers: names of arrays, or name -> dtype where it is not the kernel's own; each `x` has its length in elements
    beside it, in `x_size`. numbers: whole numbers.  reals: floating-point numbers.
    """

    def __init__(self, name, buffers, numbers="", reals=""):
        if isinstance(buffers, str):
            buffers = dict.fromkeys(buffers.split())
        self.name, self.buffers = name, buffers
        self.numbers, self.reals = tuple(numbers.split()), tuple(reals.split())
        fields = [(field, "i8") for buffer in buffers for field in (buffer, f"{buffer}_size")]
        fields += [(number, "i8") for number in self.numbers] + [(real, "f8") for real in self.reals]
        self.dtype = np.dtype(fields, align=True)

    @cached_property
    def signature(self):
        return types.void(types.CPointer(numba.from_dtype(self.dtype)), types.intp, types.intp)


@contextmanager
def _garbage_waits():
    """No collections of garbage while Numba makes its many objects: a kernel is compiled in 10 % less time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class TileBody:
    """One kernel: a function of (block, tile index, worker index); `address` compiles it or loads it from the cache."""

    _lock = threading.Lock()

    def __init__(self, function, block, dtype):
        self.python, self.block, self.dtype = function, block, np.dtype(dtype)
        self.name = function.__name__

    @cached_property
    def address(self):
        with TileBody._lock, _garbage_waits():
            return self.callback.address

    @cached_property
    def callback(self):
        signature = self.block.signature
        options = {**KERNEL_OPTIONS, "nopython": True}
        callback = ccallback.CFunc(self.python, (signature.args, signature.return_type), locals={}, options=options)
        callback._cache = KernelCache(self.python)
        callback.compile()
        return callback

    def __repr__(self):
        return f"<tile body {self.name} {self.dtype}>"


def tile_body(block, dtype):
    """A decorator: the function is a tile body with this parameter block, for arrays of this dtype."""

    def decorate(function):
        return TileBody(_named_by_content(function), block, dtype)

    return decorate
