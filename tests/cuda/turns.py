"""Numba's simulator with threads that take turns.

There each thread of a block is a Python thread, and the main one asks them in a loop whether all wait at a barrier:
most of the time goes into that loop and into Python's turns of 5 ms.  Here a thread runs until it ends or comes to a
barrier, then the next one does.  It takes a fifth of the time, and what goes wrong goes wrong each time: who reads what
another thread writes, without a barrier between them, reads it too early in one of the two orders in which blocks run.
"""

import sys
import threading

import numpy as np

from fastconv.kernels.cuda import gpu


def install():
    """Change the simulator that `gpu.cuda` is, in this process; nothing else is changed, nor a device."""
    if not gpu.SIMULATED:
        return
    simulator = sys.modules[type(gpu.cuda.jit(lambda: None)).__module__]

    class Turns(simulator.BlockThread):
        """A thread of a block that runs from one `go` to the next."""

        def __init__(self, function, manager, block, thread, debug):
            super().__init__(function, manager, block, thread, debug)
            self.go, self.ended = threading.Semaphore(0), False

        def run(self):
            self.go.acquire()
            try:
                super().run()
            finally:
                self.ended = True
                self._manager.back.release()

        def syncthreads(self):
            self._manager.back.release()
            self.go.acquire()
            if self.abort:
                raise RuntimeError("another thread of the block failed")

    def run(manager, grid_point, *arguments):
        manager.back = threading.Semaphore(0)
        threads = [
            Turns(lambda: manager._f(*arguments), manager, grid_point, point, manager._debug)
            for point in np.ndindex(*manager._block_dim)
        ]
        live = threads[:: -1 if sum(grid_point) % 2 else 1]
        for thread in live:
            thread.start()
        failed = None
        while live:
            for thread in live:
                thread.abort = failed is not None
                thread.go.release()
                manager.back.acquire()
                failed = failed or thread.exception
            live = [thread for thread in live if not thread.ended]
        if failed:
            raise failed[0].with_traceback(failed[1])

    simulator.BlockManager.run = run
