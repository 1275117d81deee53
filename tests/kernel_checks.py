"""What tests of a single convolution kernel share: run one implementation by itself, compare it with the oracle."""

import numpy as np

from fastconv import driver
from fastconv.driver import launch

from .cases import ConvCase
from .test_conv import RESULT, expected, operands
from .tolerance import assert_close


def conv_case(size, kernel=1, stride=1, padding=0, dilation=1, groups=1, icg=1, ocg=1, n=1, bias=True):
    """A case in which a whole number stands for all dimensions."""
    size = (size,) if isinstance(size, int) else size
    ndim = len(size)
    kernel, stride, dilation = ((v,) * ndim if isinstance(v, int) else v for v in (kernel, stride, dilation))
    padding = (padding,) * ndim if isinstance(padding, int) else padding
    return ConvCase(size, kernel, stride, padding, dilation, groups, icg, ocg, n, bias)


def run(impl, case, dtype="float32", packed=False, **changed):
    """The result of an implementation on a case's operands, some of them changed."""
    spec, buffers = case.spec(dtype), {**operands(impl.operation, case, dtype), **changed}
    assert impl.when(spec) is None, impl.when(spec)
    if packed:
        buffers["packed"] = impl.pack(spec, buffers["w"])
    launch(*impl.emit(spec, buffers))
    return buffers[RESULT[impl.operation]]


def check(impl, case, dtype="float32", packed=False):
    """The implementation gives what the oracle gives."""
    wanted, scale = expected(impl.operation, case, dtype)
    assert_close(run(impl, case, dtype, packed), wanted, dtype, case.terms[impl.operation], scale, impl.name)


def check_threads(impl, case, packed=False):
    """One thread and two give the same bits."""
    before, results = driver.get_num_threads(), []
    try:
        for count in (1, 2):
            driver.set_num_threads(count)
            results.append(run(impl, case, packed=packed))
    finally:
        driver.set_num_threads(before)
    np.testing.assert_array_equal(*results)
