"""Arrays on the device: NumPy's protocols, views, indexing, and what is shared with other libraries."""

import numpy as np
import pytest

import fastconv as fc
from fastconv import _device
from fastconv.kernels import cuda
from fastconv.kernels.cuda import gpu

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 1)).astype(np.float32)
up = cuda.upload


def same(given, wanted, tolerance=1e-6):
    assert isinstance(given, _device.DeviceArray)
    assert given.dtype == wanted.dtype and given.shape == wanted.shape
    np.testing.assert_allclose(given.numpy(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["exp", "tanh", "sqrt", "log", "negative", "absolute", "sign", "square", "isfinite"])
def test_functions_of_one_array(name):
    x = np.abs(X) if name in ("sqrt", "log") else X
    same(getattr(np, name)(up(x)), getattr(np, name)(x))


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "true_divide", "maximum", "less", "not_equal"])
def test_functions_of_two_broadcast_arrays(name):
    same(getattr(np, name)(up(X), up(Y)), getattr(np, name)(X, Y))


def test_numbers_take_the_dtype_of_the_array():
    same(up(X) * 2 + 1.5, X * 2 + np.float32(1.5))
    same(1 / up(np.abs(X) + 1), 1 / (np.abs(X) + 1))
    same(up(X) ** 2.0, X**2)
    same(up(np.arange(3)) + 1, np.arange(3) + 1)


def test_in_place_and_into():
    x = up(X)
    x += 1
    x *= up(Y)
    same(x, (X + 1) * Y)
    np.add(x, x, out=x)
    same(x, 2 * (X + 1) * Y)


def test_six_axes_in_any_order():
    x = np.arange(2**6, dtype=np.float32).reshape((2,) * 6)
    same(up(x).transpose(5, 3, 1, 0, 2, 4) + 0, x.transpose(5, 3, 1, 0, 2, 4))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (0, 1, 2), ()])
def test_reductions(axis):
    same(up(X).sum(axis=axis), np.asarray(X.sum(axis=axis)), 1e-5)
    if axis != ():
        same(up(X).max(axis=axis, keepdims=True), X.max(axis=axis, keepdims=True))


def test_long_and_odd_sums():
    x = RNG.standard_normal((2, 37)).astype(np.float32)
    same(up(x).sum(), np.asarray(x.sum()), 1e-4)
    same(up(x).sum(1), x.sum(1), 1e-4)
    same(up(x).T.sum(0), x.sum(1), 1e-4)
    same((up(x) > 0).sum(1), (x > 0).sum(1))
    same(up(x).argmax(1), x.argmax(1))
    same(np.argmin(up(x), axis=0), x.argmin(0))


def test_nan_wins_as_in_numpy():
    x = np.array([1, np.nan, 3], np.float32)
    assert np.isnan(up(x).max().item()) and up(x).argmax().item() == 1
    same(np.maximum(up(x), 2), np.maximum(x, np.float32(2)))


def test_views_share_memory():
    x = up(X)
    part = x[1, ::2, 1:3]
    same(part, X[1, ::2, 1:3])
    x[1, 0] = 7
    assert part.numpy()[0, 0] == 7
    same(
        x.reshape(6, 4).T[2],
        np.where(np.arange(24).reshape(6, 4) // 12 * (np.arange(6)[:, None] == 3), 7, X.reshape(6, 4))
        .astype(np.float32)
        .T[2],
    )
    with pytest.raises(IndexError, match="out of range"):
        x[2]


def test_positions_and_bools():
    x = up(X)
    rows = np.array([[1, 0], [1, 1]])
    same(x[rows], X[rows])
    same(x[:, up(np.array([2, -1]))], X[:, [2, -1]])
    same(x[np.array([0, 1]), np.array([2, 0])], X[[0, 1], [2, 0]])
    same(x[X > 0], X[X > 0])
    with pytest.raises(IndexError, match="out of range"):
        x[np.array([2])]


def test_numpy_functions():
    x = up(X)
    same(np.where(x > 0, x, 0.5), np.where(X > 0, X, np.float32(0.5)))
    same(np.clip(x, -0.5, 0.5), X.clip(-0.5, 0.5))
    same(np.concatenate([x, x], 1), np.concatenate([X, X], 1))
    same(np.broadcast_to(up(Y), (2, 3, 4)), np.broadcast_to(Y, (2, 3, 4)))
    same(np.matmul(x, x.swapaxes(1, 2)), X @ X.swapaxes(1, 2), 1e-5)
    same(np.matmul(x, up(X[0, 0])), X @ X[0, 0], 1e-5)
    same(np.zeros_like(x), np.zeros_like(X))
    same(x.astype(np.float64), X.astype(np.float64))


def test_overlapping_assignment():
    x = up(np.arange(6, dtype=np.float32))
    x[1:] = x[:-1]
    same(x, np.array([0, 0, 1, 2, 3, 4], np.float32))


def test_nothing_becomes_a_numpy_array_by_itself():
    x = up(X)
    with pytest.raises(TypeError, match=r"\.numpy\(\) first"):
        np.asarray(x)
    with pytest.raises(TypeError, match="on the CPU"):
        x + X
    with pytest.raises(NotImplementedError, match=r"numpy.linalg|numpy.median"):
        np.median(x)
    with pytest.raises(NotImplementedError, match=r"arctan2.*cuda"):
        np.arctan2(x, x)
    with pytest.raises(TypeError, match="float16"):
        up(X.astype(np.float16))


def test_foreign_arrays_are_shared():
    numba_array = gpu.cuda.to_device(X)
    x = _device.adopt(numba_array)
    same(x, X)
    x[0, 0, 0] = 5
    assert numba_array.copy_to_host()[0, 0, 0] == 5
    strided = _device.adopt(gpu.cuda.to_device(X)[:, 1:, ::2])
    same(strided, X[:, 1:, ::2])
    y = fc.Tensor(gpu.cuda.to_device(X)) * 2
    assert y.device == "cuda"
    twice = 2 * np.eye(3, dtype=np.float32)[..., None]
    same(fc.functional.conv1d(gpu.cuda.to_device(X), gpu.cuda.to_device(twice)), 2 * X)


def test_shared_with_others():
    x = up(X)
    if gpu.SIMULATED:
        with pytest.raises(AttributeError, match="simulator"):
            _ = x.__cuda_array_interface__
        return
    back = gpu.cuda.as_cuda_array(x)
    np.testing.assert_array_equal(back.copy_to_host(), X)
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        np.testing.assert_array_equal(torch.from_dlpack(x).cpu().numpy(), X)
        np.testing.assert_array_equal(torch.as_tensor(x, device="cuda").cpu().numpy(), X)
        assert fc.from_dlpack(torch.ones(3, device="cuda")).device == "cuda"


def test_memory_is_used_again():
    first = cuda.empty((1000,), np.float32)
    buffer = first.buffer
    del first
    assert cuda.empty((990,), np.float32).buffer is buffer
    cuda.release()
    assert cuda.kept_bytes() == 0
