"""What the driver's loops are made of: calling a tile body, and counters that threads share."""

# Numba's internals are untyped.
# pyright: reportAttributeAccessIssue=false, reportPrivateImportUsage=false, reportCallIssue=false

import os
import platform
import sys

from llvmlite import ir
from numba.core import cgutils, types

from .simd_place import _call, _i32, _i64, operation

_SPINS = 500  # some 10 us; who waits for longer lets other threads have the core
_X86, _ARM = ("llvm.x86.sse2.pause", ()), ("llvm.aarch64.hint", (_i32(1),))  # leave the core's other thread alone
_PAUSE = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}.get(platform.machine().lower())


@operation
def call_body(typing, body, block, tile, worker):
    """Call the tile body at an address."""

    def codegen(context, b, sig, args):
        function = ir.FunctionType(ir.VoidType(), [_i64] * 3)
        b.call(b.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), codegen


@operation
def fetch_add(typing, counters, index, amount):
    """Add to counters[index] atomically; the value before.  What this thread wrote before is seen by whoever finds the
    new value with `wait_until`."""

    def codegen(context, b, sig, args):
        data = context.make_array(counters)(context, b, args[0]).data
        return b.atomic_rmw("add", b.gep(data, [args[1]]), args[2], "acq_rel")

    return types.intp(counters, types.intp, types.intp), codegen


@operation
def wait_until(typing, counters, index, value):
    """Wait until counters[index] is at least `value`."""

    def codegen(context, b, sig, args):
        place = b.gep(context.make_array(counters)(context, b, args[0]).data, [args[1]])
        turns = cgutils.alloca_once_value(b, _i64(0))
        check, wait, done = (b.append_basic_block(name) for name in ("check", "wait", "done"))
        b.branch(check)
        b.position_at_end(check)
        b.cbranch(b.icmp_signed(">=", b.load_atomic(place, "acquire", 8), args[2]), done, wait)
        b.position_at_end(wait)
        turn = b.add(b.load(turns), _i64(1))
        b.store(turn, turns)
        if _PAUSE:
            _call(b, _PAUSE[0], ir.VoidType(), *_PAUSE[1])
        if os.name == "posix":
            with b.if_then(b.icmp_signed(">", turn, _i64(_SPINS)), likely=False):
                _call(b, "sched_yield", _i32)
        b.branch(check)
        b.position_at_end(done)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.intp), codegen


@operation
def current_core(typing):
    """The number of the core that this thread runs on; -1 where the operating system does not tell."""

    def codegen(context, b, sig, args):
        return b.sext(_call(b, "sched_getcpu", _i32), _i64) if sys.platform == "linux" else _i64(-1)

    return types.intp(), codegen
