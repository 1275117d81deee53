"""Every layer of shapes/layers.csv with pytest-benchmark: forward and both gradients, one thread and all.

    python -m pytest benchmarks -m "not smoke" --benchmark-autosave --benchmark-compare

README.md has the options.  `pytest` alone does not collect this folder; `pytest benchmarks -m smoke` runs its small
cases.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.layers import PASSES, Case, MissingError, read
from benchmarks.peak import using_threads
from fastconv import driver

THREADS = sorted({1, driver.get_num_threads()})
CASES = [(case, which) for which in PASSES for case in read() if which in case.passes]


def small(case: Case) -> Case:
    """The same op with few channels and pixels."""
    groups = 1 if case.groups == 1 else 2
    size = tuple(max(k, 4 + axis) for axis, k in enumerate(case.kernel))
    return replace(case, batch=1, in_channels=4, out_channels=4, groups=groups, size=size, dilation=(1,) * case.ndim)


SMALL = [(small(case), which) for case, which in CASES if case.name in ("vgg_conv1_1", "max3s2_64_112", "gap_2048_7")]


def name_of(case_and_pass: tuple[Case, str]) -> str:
    """The id of a test: layer and pass."""
    return "-".join((case_and_pass[0].name, case_and_pass[1]))


def run(benchmark, case: Case, which: str, threads: int, peak_of=None):
    """Time one pass; rates go to extra_info unless timing is switched off."""
    try:
        call = case.functional(which, case.arrays())
    except MissingError as missing:
        pytest.skip(f"{missing} is not there yet")
    with using_threads(threads):
        result = benchmark(call)
    if peak_of is not None and benchmark.stats is not None:
        rate, limit = case.rate(benchmark.stats.stats.median), peak_of(threads)
        share = round(limit.share(rate, case.unit), 3)
        peaks = {"peak GFLOP/s": round(limit.gflops, 1), "peak GB/s": round(limit.gbytes, 1)}
        benchmark.extra_info |= {case.unit: round(rate, 2), "share of peak": share, "threads": threads, **peaks}
    return result


@pytest.mark.parametrize("threads", THREADS, ids="{}t".format)
@pytest.mark.parametrize("case_and_pass", CASES, ids=name_of)
def test_layer(benchmark, peak_of, case_and_pass, threads):
    run(benchmark, *case_and_pass, threads, peak_of)


@pytest.mark.smoke
@pytest.mark.parametrize("case_and_pass", SMALL, ids=name_of)
def test_small(benchmark, case_and_pass):
    case, which = case_and_pass
    result = np.asarray(run(benchmark, case, which, 1))
    assert result.shape == case.shapes[{"fwd": "gy", "bwd_data": "x", "bwd_weights": "w"}[which]]
    assert np.isfinite(result).all()
