"""The limits of this machine, measured: float32 arithmetic in GFLOP/s and memory bandwidth in GB/s.

    python benchmarks/peak.py

Arithmetic: the register tile that fastconv's kernels are built on, fed from the first-level cache.  Bandwidth: x + 3 y
on arrays that no cache holds, counted as in STREAM (McCalpin 1995): two reads and one write per element, no traffic for
fetching what is overwritten.  Both take the best of several short runs, since other work can only slow a run down.
"""

import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

if __package__ in (None, ""):  # run as a file
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fastconv import driver
from fastconv._jit import Block, tile_body
from fastconv.simd import array_at, fields, fma_tile, isa, lanes, store_tile, zero_tile

DEPTH = 64  # rows of the two panels: 14 KB in all for the largest tile
SPAN = 1 << 14  # elements of one tile of the bandwidth kernel
ELEMENTS = 1 << 24  # of one array of the bandwidth kernel: 64 MB


@dataclass(frozen=True)
class Peak:
    """What `threads` threads reach together."""

    threads: int
    gflops: float
    gbytes: float

    def share(self, rate: float, unit: str) -> float:
        """A rate in GFLOP/s or GB/s as a part of the limit; data that stays in the caches can exceed the bandwidth."""
        return rate / (self.gflops if unit == "GFLOP/s" else self.gbytes)


def make_arithmetic(MR, NR, LANES, ROWS):
    """A tile body of `rounds` products of two panels of ROWS rows.  Tile: (MR, NR * LANES) of c."""

    @tile_body(Block("arithmetic", "a b bias c", "rounds"), np.float32)
    def arithmetic(block, tile, worker):
        block = fields(block)
        a, b = array_at(block.a, block.a_size, "f4"), array_at(block.b, block.b_size, "f4")
        c = array_at(block.c, block.c_size, "f4")
        acc = zero_tile(b, MR, NR)
        for _ in range(block.rounds):
            for k in range(ROWS):
                acc = fma_tile(acc, a, k * MR, 1, b, k * NR * LANES, MR, NR)
        store_tile(acc, c, tile * MR * NR * LANES, NR * LANES, MR, NR)

    return arithmetic


def make_triad(LENGTH):
    """A tile body.  Tile: LENGTH elements of z = x + 3 y."""

    @tile_body(Block("triad", "x y z"), np.float32)
    def triad(block, tile, worker):
        block = fields(block)
        first = 4 * LENGTH * tile  # bytes
        x, y = array_at(block.x + first, LENGTH, "f4"), array_at(block.y + first, LENGTH, "f4")
        z = array_at(block.z + first, LENGTH, "f4")
        for i in range(LENGTH):
            z[i] = x[i] + np.float32(3) * y[i]

    return triad


@contextmanager
def using_threads(threads: int):
    """fastconv's thread count inside a with block."""
    before = driver.get_num_threads()
    driver.set_num_threads(threads)
    try:
        yield
    finally:
        driver.set_num_threads(before)


def _best(row: driver.Row, runs: int) -> float:
    """Seconds of the quickest of `runs` launches."""
    driver.launch(row)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        driver.launch(row)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure_gflops(threads: int, rounds: int = 500, runs: int = 100) -> float:
    """Multiply-adds of register tiles, in GFLOP/s; a run takes a few milliseconds."""
    MR, NR = isa.tile(8)
    width, tiles = NR * lanes(np.float32), 8 * threads
    rng = np.random.default_rng(0)
    values = {
        "a": rng.standard_normal(DEPTH * MR, np.float32),
        "b": rng.standard_normal(DEPTH * width, np.float32),
        "bias": np.zeros(MR, np.float32),
        "c": np.zeros(tiles * MR * width, np.float32),
        "rounds": rounds,
    }
    body = make_arithmetic(MR, NR, lanes(np.float32), DEPTH)
    with using_threads(threads):
        seconds = _best(driver.Row(body, tiles, values, work=1e9), runs)
    return 2 * DEPTH * rounds * tiles * MR * width / seconds / 1e9


def measure_gbytes(threads: int, elements: int = ELEMENTS, runs: int = 8) -> float:
    """Bandwidth of z = x + 3 y in GB/s; `elements` is rounded down to whole tiles."""
    tiles = elements // SPAN
    values = {name: np.ones(tiles * SPAN, np.float32) for name in "xyz"}
    with using_threads(threads):
        seconds = _best(driver.Row(make_triad(SPAN), tiles, values, work=1e9), runs)
    return 12 * tiles * SPAN / seconds / 1e9


def measure(threads: int) -> Peak:
    """Both limits for a thread count; takes about a second."""
    return Peak(threads, measure_gflops(threads), measure_gbytes(threads))


def best(one: Peak, other: Peak) -> Peak:
    """Of two measurements the higher values: what else runs on the machine can only lower them."""
    return Peak(one.threads, max(one.gflops, other.gflops), max(one.gbytes, other.gbytes))


if __name__ == "__main__":
    for count in sorted({1, driver.get_num_threads()}):
        peak = measure(count)
        print(f"{isa.name}, {count} thread{'s' * (count > 1)}: {peak.gflops:.1f} GFLOP/s, {peak.gbytes:.1f} GB/s")
