"""What every function on arrays and Tensors must keep, checked in one call."""

import numpy as np

from fastconv.autograd import Tensor, gradcheck, gradgradcheck


def check_op(fn, *arrays, second=True):
    """`fn(*arrays)`, arrays float64: gradients by central differences; types, dtypes, inputs left as they were.

    Also strided and read-only inputs, which must give the same numbers.
    """
    assert gradcheck(fn, list(arrays))
    if second:
        assert gradgradcheck(fn, list(arrays))
    before = [a.copy() for a in arrays]
    want = np.asarray(fn(*arrays))
    awkward = [_strided(a) for a in arrays]
    np.testing.assert_allclose(fn(*awkward), want, rtol=1e-12, atol=1e-12)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    small = fn(*(a.astype(np.float32) for a in arrays))
    assert not isinstance(small, Tensor) and small.dtype == np.float32 and np.shape(small) == want.shape
    np.testing.assert_allclose(small, want, rtol=1e-4, atol=1e-5)
    tensors = [Tensor(a.astype(np.float32), requires_grad=True) for a in arrays]
    out = fn(*tensors)
    assert isinstance(out, Tensor) and out.requires_grad and out.dtype == np.float32
    out.backward(np.ones(out.shape, np.float32))
    for t in tensors:
        assert t.grad is None or (t.grad.dtype == np.float32 and t.grad.shape == t.shape)


def _strided(a):
    """The same numbers, read-only, in memory that is neither C-contiguous nor dense."""
    wide = np.zeros((*a.shape, 2), a.dtype)
    wide[..., 0] = a
    out = wide[..., 0]
    out.flags.writeable = False
    return out
