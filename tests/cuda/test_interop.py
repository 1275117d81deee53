"""Memory shared with other libraries, in both directions and without a copy, and who keeps it.

The simulator's arrays have no address, so here memory of the CPU stands for the device's: `addresses` gives them those,
and foreign libraries are made of NumPy arrays that say they were on a CUDA device.  With a GPU, test_arrays.py does the
same with Numba and PyTorch.
"""

import ctypes
import gc
import weakref

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import _device, nn
from fastconv.kernels import cuda
from fastconv.kernels.cuda import array, dlpack, gpu

pytestmark = pytest.mark.skipif(not gpu.SIMULATED, reason="memory of the CPU stands for the device's on the simulator")
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def numbers_at(address, count, dtype):
    """The memory there, as a NumPy array that owns nothing."""
    return np.frombuffer((ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(address), dtype)


@pytest.fixture
def addresses(monkeypatch):
    """Arrays of the simulator have the address of the CPU's memory that they are made of."""
    fake = type(gpu.cuda.device_array(1, np.float32))

    def described(self):
        return {"data": (self._ary.ctypes.data, False), "shape": self._ary.shape, "typestr": self._ary.dtype.str}

    def from_interface(given, owner):
        assert given["strides"] is None and len(given["shape"]) == 1
        out = fake(numbers_at(given["data"][0], given["shape"][0], given["typestr"]))
        out.owner = owner
        return out

    class Cuda:
        from_cuda_array_interface = staticmethod(from_interface)

        def __getattr__(self, name):
            return getattr(gpu.cuda, name)

    monkeypatch.setattr(fake, "__cuda_array_interface__", property(described), raising=False)
    monkeypatch.setattr(array, "cuda", Cuda())
    monkeypatch.setattr(array, "SIMULATED", False)


class ByInterface:
    """An array of a library with the CUDA array interface, such as Numba or CuPy."""

    def __init__(self, numbers, **changes):
        self.numbers, self.changes = numbers, changes

    @property
    def __cuda_array_interface__(self):
        a = self.numbers
        strides = None if a.flags.c_contiguous else a.strides
        data = a.ctypes.data, not a.flags.writeable
        own = {"shape": a.shape, "typestr": a.dtype.str, "data": data, "strides": strides, "version": 3}
        return {**own, **self.changes}


class ByDLPack:
    """An array of a library with DLPack, such as PyTorch or JAX: NumPy's own capsules, said to be on another device."""

    def __init__(self, numbers, device=(2, 0)):
        self.numbers, self.device = numbers, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None, **options):
        return on_device(self.numbers.__dlpack__(), self.device)


def on_device(capsule, device):
    """The capsule, with this device written into it."""
    tensor = dlpack._Managed.from_address(dlpack._get(id(capsule), dlpack._NAME)).tensor
    tensor.device_type, tensor.device_id = device
    return capsule


class Consumer:
    """What a library does with our capsules: NumPy takes those that say they are on the CPU."""

    def __init__(self, ours):
        self.ours = ours

    def __dlpack_device__(self):
        assert self.ours.__dlpack_device__() == (2, 0)
        return (1, 0)

    def __dlpack__(self, **options):
        return on_device(self.ours.__dlpack__(stream=options.get("stream")), (1, 0))


# ---- from other libraries


@pytest.mark.parametrize("foreign", [ByInterface, ByDLPack])
@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[:, 1:, ::2], lambda a: a.transpose(2, 0, 1)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_foreign_memory_is_shared(addresses, foreign, view, dtype):
    numbers = (X * 10).astype(dtype)
    x = _device.adopt(foreign(view(numbers)))
    assert isinstance(x, cuda.CudaArray) and x.dtype == numbers.dtype
    np.testing.assert_array_equal(x.numpy(), view(numbers))
    view(numbers)[1, 0, 0] = 77
    assert x.numpy()[1, 0, 0] == 77
    x[0, 0, 0] = -5
    assert view(numbers)[0, 0, 0] == -5


@pytest.mark.parametrize("foreign", [ByInterface, ByDLPack])
def test_functions_take_foreign_arrays_and_results_stay(addresses, foreign):
    w = np.random.default_rng(1).standard_normal((2, 3, 2)).astype(np.float32)
    y = F.conv1d(foreign(X.copy()), foreign(w.copy()))
    assert isinstance(y, cuda.CudaArray)
    np.testing.assert_allclose(y.numpy(), F.conv1d(X, w), rtol=1e-5, atol=1e-5)
    leaf = fc.Tensor(foreign(X.copy()), requires_grad=True)
    (F.relu(leaf) * 2).sum().backward()
    assert leaf.device == leaf.grad.device == "cuda"
    np.testing.assert_array_equal(leaf.grad.numpy(), 2 * (X > 0))
    assert fc.from_dlpack(ByDLPack(X.copy())).device == "cuda"


@pytest.mark.parametrize("foreign", [ByInterface, ByDLPack])
def test_the_owner_lives_as_long_as_any_view(addresses, foreign):
    class Numbers(np.ndarray):
        """An array that can be watched."""

    numbers = X.copy().view(Numbers)
    watched, given = weakref.ref(numbers), foreign(numbers)
    x = _device.adopt(given)
    view = x[1]
    del numbers, given, x
    gc.collect()
    assert watched() is not None
    np.testing.assert_array_equal(view.numpy(), X[1])
    del view
    gc.collect()
    assert watched() is None


def test_read_only_memory_stays_so(addresses):
    numbers = X.copy()
    numbers.flags.writeable = False
    x = _device.adopt(ByInterface(numbers))
    assert not x.flags.writeable
    with pytest.raises(BufferError, match="read-only"):
        x.__dlpack__()
    assert x.__cuda_array_interface__["data"] == (numbers.ctypes.data, True)


def test_what_cannot_be_shared_is_refused(addresses):
    with pytest.raises(TypeError, match=r"float32.*given float16"):
        _device.adopt(ByInterface(X.astype(np.float16)))
    with pytest.raises(ValueError, match="must be positive"):
        _device.adopt(ByInterface(X[::-1]))
    with pytest.raises(ValueError, match="whole elements"):
        _device.adopt(ByInterface(X, strides=(50, 18, 5)))
    with pytest.raises(BufferError, match="on device 1 "):
        _device.adopt(ByDLPack(X.copy(), (2, 1)))
    with pytest.raises(TypeError, match="must be an array or a Tensor, got ByDLPack"):
        F.relu(ByDLPack(X.copy(), (10, 0)))  # of another maker's GPU


def test_devices_are_not_mixed(addresses):
    w = np.zeros((2, 3, 2), np.float32)
    for x in (ByInterface(X.copy()), ByDLPack(X.copy()), cuda.upload(X), fc.Tensor(X).to("cuda")):
        with pytest.raises(TypeError, match=r"different devices: one on cuda.*\(2, 3, 2\).*move them together"):
            F.conv1d(x, w)
    with pytest.raises(TypeError, match="on the CPU"):
        _ = fc.Tensor(X).to("cuda") + fc.Tensor(X)
    with pytest.raises(TypeError, match="different devices"):
        nn.Conv1d(3, 2, 2).to("cuda")(fc.Tensor(X))


# ---- to other libraries


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[1, ::2], lambda a: a.transpose(2, 0, 1)])
def test_ours_is_shared_with_others(addresses, view):
    x = view(fc.Tensor(X).to("cuda").data)
    described = x.__cuda_array_interface__
    assert described["version"] == 3 and described["stream"] == 1 and described["shape"] == x.shape
    address = x.buffer.__cuda_array_interface__["data"][0] + 4 * x.offset
    assert described["data"] == (address, False)
    assert described["strides"] == (None if x.is_dense else x.strides)
    theirs = np.from_dlpack(Consumer(x))
    assert theirs.ctypes.data == address
    np.testing.assert_array_equal(theirs, view(X))
    x[...] = 3
    assert (theirs == 3).all()


def test_a_tensor_is_shared_too(addresses):
    t = fc.Tensor(X).to("cuda")
    assert t.__cuda_array_interface__ == t.data.__cuda_array_interface__
    np.testing.assert_array_equal(np.from_dlpack(Consumer(t)), X)
    t.requires_grad_()
    assert not hasattr(t, "__cuda_array_interface__")
    with pytest.raises(RuntimeError, match="detach"):
        t.__dlpack__()


def test_lent_memory_is_not_used_again_until_it_is_back(addresses):
    cuda.release()
    x = cuda.upload(X)
    buffer, theirs = x.buffer, np.from_dlpack(Consumer(x))
    del x
    gc.collect()
    assert cuda.empty(X.shape, X.dtype).buffer is not buffer and dlpack._lent
    np.testing.assert_array_equal(theirs, X)
    del theirs
    gc.collect()
    assert not dlpack._lent
    kept = [cuda.empty(X.shape, X.dtype) for _ in range(2)]
    assert any(array.buffer is buffer for array in kept)


def test_a_capsule_that_nobody_takes_is_given_up(addresses):
    x = cuda.upload(X)
    capsule = x.__dlpack__()
    assert len(dlpack._lent) == 1
    del capsule
    assert not dlpack._lent
    for options in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match="lends device memory as it is"):
            x.__dlpack__(**options)


# ---- Tensors, modules and states, there and back


def small_net():
    fc.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def test_a_module_goes_and_comes_back():
    net = small_net()
    before = {name: a.copy() for name, a in net.state_dict().items()}
    parameters = list(net.parameters())
    parameters[0].grad = fc.Tensor(np.ones_like(parameters[0].data))
    assert net.to("cuda") is net and net.cuda() is net
    assert all(a.device == "cuda" for a in net.state_dict().values())
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert parameters[0].grad.device == "cuda" and parameters[0].is_leaf
    net.to("cpu")
    assert parameters[0].grad.device == "cpu"
    for name, a in net.state_dict().items():
        assert type(a) is np.ndarray
        np.testing.assert_array_equal(a, before[name])


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_states_cross_between_devices(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    here, there = small_net(), small_net().to("cuda")
    for p in here.parameters():
        p.data[...] = 2
    there.load_state_dict(here.state_dict())
    assert there[0].weight.device == "cuda" and (there[0].weight.data.numpy() == 2).all()
    there[0].weight.data[...] = 3
    fc.save_state(there.state_dict(), tmp_path / f"net{ending}")
    assert (fc.load_state(tmp_path / f"net{ending}")["0.weight"] == 3).all()
    here.load_state_dict(there.state_dict())
    assert (here[0].weight.data == 3).all()


@pytest.mark.parametrize("make", [lambda p: fc.optim.SGD(p, lr=0.1, momentum=0.9), lambda p: fc.optim.Adam(p, lr=0.1)])
def test_a_run_goes_on_on_another_device(make):
    weights, going = [np.ones((2, 3), np.float32), np.ones(2, np.float32)], None
    found = []
    for devices in (("cpu", "cpu"), ("cpu", "cuda"), ("cuda", "cpu")):
        state = None
        values = weights
        for device in devices:
            parameters = [nn.Parameter(fc.Tensor(v.copy()).to(device).data) for v in values]
            going = make(parameters)
            if state is not None:
                going.load_state_dict(state)
            for p in parameters:
                p.grad = fc.Tensor(np.cos(np.arange(p.size, dtype=np.float32)).reshape(p.shape)).to(device)
            going.step()
            state, values = going.state_dict(), [p.detach().cpu().numpy().copy() for p in parameters]
        found.append(values)
    for values in found[1:]:
        for one, two in zip(found[0], values, strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-5)


def test_a_tensor_goes_and_comes_back():
    t = fc.Tensor(X, requires_grad=True)
    there = t.to("cuda")
    assert there.device == "cuda" and there.to("cuda:0") is there and there.cpu().device == "cpu"
    (there * there).sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), 2 * X, rtol=1e-6)
    assert t.grad.device == "cpu"
    with pytest.raises(ValueError, match="only device 0"):
        t.to("cuda:1")
