"""Tensors, recording, backward, gradient checks: against central differences and against what they promise."""

import copy
import pickle
import threading

import numpy as np
import pytest

import fastconv.autograd as ag
from fastconv.autograd import Op, Tensor, enable_grad, grad, gradcheck, gradgradcheck, is_grad_enabled, no_grad

pytestmark = pytest.mark.smoke


@pytest.fixture
def rng():
    return np.random.default_rng(0)


FUNCTIONS = {
    "add": lambda a, b: a + b,
    "radd": lambda a, b: 1 + a + b,
    "sub": lambda a, b: a - b * 2,
    "rsub": lambda a, b: 1.5 - a * b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (b + 4),
    "rdiv": lambda a, b: 2 / (a * a + 1) * b,
    "pow": lambda a, b: (a * a + 1) ** b,
    "pow_number": lambda a, b: a**3 * b**2,
    "rpow": lambda a, b: 2**a * b,
    "neg": lambda a, b: -a * b,
    "matvec": lambda a, b: a @ b,
    "vecmat": lambda a, b: b @ a.T,
    "dot": lambda a, b: (b @ b) * a,
    "matmat": lambda a, b: a.T @ a * b,
    "batched": lambda a, b: a.reshape(3, 2, 2) @ b.reshape(2, 2),
    "batched_vec": lambda a, b: a.unsqueeze(1) @ b,
    "vec_batched": lambda a, b: b @ a.reshape(3, 4, 1),
    "exp_log": lambda a, b: (a.exp() + 1).log() * b,
    "sqrt_tanh": lambda a, b: (a * a + 1).sqrt() * b.tanh(),
    "abs": lambda a, b: abs(a) * b.abs(),
    "clip": lambda a, b: a.clip(-0.5, 0.7) * b.clamp(min=0),
    "where": lambda a, b: ag.where(a > 0, a, b * 2),
    "sum": lambda a, b: a.sum(1, keepdim=True) * b + a.sum(),
    "mean": lambda a, b: a.mean((0, 1)) * b + a.mean(0),
    "var": lambda a, b: a.var(0) * b + a.var(correction=0) + a.std(1, keepdim=True),
    "max": lambda a, b: a.max() * b.min() + a.max(0).values * a.min(1, keepdim=True).values,
    "reshape": lambda a, b: a.reshape(4, 3).permute(1, 0) * b.view(-1),
    "squeeze": lambda a, b: a.unsqueeze(0).squeeze() * b.unsqueeze(0).squeeze(0),
    "flatten": lambda a, b: a.flatten() * b.sum(),
    "transpose": lambda a, b: a.transpose(0, 1) * a.mT + b.expand(3, -1).T,
    "index": lambda a, b: a[1] * b + a[:, 1:2] + a[..., -1, None],
    "index_array": lambda a, b: a[[0, 2, 2, 0]] * b[np.array([1, 1, 0, 3])],
    "index_bool": lambda a, b: a[np.array([True, False, True])] * b,
    "cat": lambda a, b: ag.cat([a, b.unsqueeze(0), a]) * 2,
    "stack": lambda a, b: ag.stack([b, b * b], dim=1).sum(0) * a.sum(),
    "split": lambda a, b: ag.split(a, [1, 3], dim=1)[1].sum(1) * ag.split(b, 3)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivative(name, rng):
    fn = FUNCTIONS[name]
    a, b = rng.standard_normal((3, 4)), rng.standard_normal(4)
    assert gradcheck(fn, [a, b])
    assert gradgradcheck(fn, [a, b])
    plain = fn(Tensor(a), Tensor(b))
    assert isinstance(plain, Tensor) and not plain.requires_grad


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"where", "index_array", "index_bool", "cat", "stack", "split"})
)
def test_values_and_gradients_as_in_torch(name, rng):
    import torch

    a, b = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    ours, theirs = [Tensor(x, True) for x in (a, b)], [torch.tensor(x, requires_grad=True) for x in (a, b)]
    y, want = FUNCTIONS[name](*ours), FUNCTIONS[name](*theirs)
    assert y.dtype == np.float32 and y.shape == tuple(want.shape)
    np.testing.assert_allclose(y.detach(), want.detach(), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    want.sum().backward()
    for x, t in zip(ours, theirs, strict=True):
        if t.grad is not None:
            np.testing.assert_allclose(x.grad, t.grad, rtol=1e-4, atol=1e-5)


def test_generic_functions_take_arrays(rng):
    a = rng.standard_normal((2, 3)).astype(np.float32)
    before = a.copy()
    for out in (ag.add(a, 1.5), ag.exp(a), ag.matmul(a, a.T), ag.sum(a, 0), ag.var(a), ag.cat([a, a]), ag.clip(a, 0)):
        assert not isinstance(out, Tensor) and out.dtype == np.float32
    np.testing.assert_array_equal(a, before)


# -- the array ---------------------------------------------------------------------------------------------------------


def test_dtypes():
    assert Tensor([1.0, 2.0]).dtype == np.float32
    assert Tensor(1.5).dtype == np.float32
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor(np.zeros(2)).dtype == np.float64
    assert (Tensor([1.0]) * 2.5 + 1).dtype == np.float32
    assert Tensor([1.0]).sum().dtype == np.float32 and Tensor([1.0]).sum().shape == ()
    assert (Tensor([1.0]) * np.ones(1)).dtype == np.float64
    assert Tensor([1.0]).double().dtype == np.float64
    for bad in ("text", [None], np.array([1j]), object()):
        with pytest.raises(TypeError, match="wants numbers"):
            Tensor(bad)


def test_gradient_has_the_dtype_of_its_tensor():
    a, b = Tensor(np.ones(3, np.float32), True), Tensor(np.ones(3), True)
    (a * b).sum().backward()
    assert a.grad.dtype == np.float32 and b.grad.dtype == np.float64


def test_comparisons_are_arrays():
    a = Tensor([1.0, 2.0])
    for result in (a > 1, a >= Tensor([1.0, 3.0]), a < 2, a <= 2, a == 1, a != 1):
        assert isinstance(result, np.ndarray) and result.dtype == bool
    assert len({a, a}) == 1


def test_array_on_the_left_and_numpy_functions():
    t = Tensor([1.0, 2.0], True)
    assert isinstance(np.ones(2, np.float32) * t, Tensor)
    assert isinstance(np.float32(2) - t, Tensor)
    with pytest.raises(TypeError):
        np.exp(t)
    with pytest.raises(RuntimeError, match="detach"):
        np.asarray(t)
    with pytest.raises(RuntimeError, match="detach"):
        t.numpy()
    assert np.asarray(t.detach()) is not None and t.detach().numpy().base is not None


def test_dlpack():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = ag.from_dlpack(a)
    assert np.shares_memory(t.data, a)
    assert np.shares_memory(np.from_dlpack(t), a)


@pytest.mark.torch
def test_dlpack_torch():
    import torch

    source = torch.arange(3.0)
    t = ag.from_dlpack(source)
    t.data[0] = 5
    assert source[0] == 5
    assert torch.equal(torch.from_dlpack(t), source)


def test_small_things():
    t = Tensor([[1.0, 2.0, 3.0]], True)
    assert len(t) == 1 and [float(x.sum()) for x in t] == [6.0]
    assert t.size == t.numel() == 3 and t.ndim == t.dim() == 2
    assert "requires_grad=True" in repr(t) and "grad_fn=mul" in repr(t * 2)
    assert f"{(t * 2).sum():.2f}" == "12.00"
    assert t.argmax() == 2 and t.argmin(1).tolist() == [0]
    values, indices = t.max(1)
    assert values.tolist() == [3.0] and indices.tolist() == [2]
    with pytest.raises(TypeError):
        len(t.sum())
    with pytest.raises(ValueError, match="3"):
        t.item()
    other = copy.deepcopy(t)
    assert other.requires_grad and not np.shares_memory(other.data, t.data)
    assert pickle.loads(pickle.dumps(t)).tolist() == t.tolist()
    with pytest.raises(RuntimeError):
        pickle.dumps(t * 2)


def test_item_assignment():
    t = Tensor([1.0, 2.0, 3.0])
    t[1:] = Tensor([7.0, 8.0])
    assert t.tolist() == [1, 7, 8]
    with pytest.raises(RuntimeError, match="item assignment"):
        t.requires_grad_()[0] = 1


def test_reading_data_counts_as_a_change():
    t = Tensor([1.0])
    before = t._version
    t.data[0] = 2
    assert t._version > before
    before = t._version
    assert t.shape == (1,) and (t * 2).tolist() == [4.0]
    assert t._version == before


def test_bad_shapes():
    a = Tensor(np.ones((2, 3), np.float32))
    for call in (
        lambda: a + Tensor(np.ones(4)),
        lambda: a @ a,
        lambda: a.reshape(4, 2),
        lambda: a.expand(3),
        lambda: a.permute(0, 0),
        lambda: ag.cat([a, a[0]]),
        lambda: ag.cat([a, a[:, :2]]),
        lambda: ag.cat([]),
        lambda: ag.stack([a, a.T]),
        lambda: ag.split(a, [1, 1], 1),
        lambda: a.sum((0, 0)),
        lambda: Tensor(np.ones((0, 2))).max(),
    ):
        with pytest.raises(ValueError):
            call()
    for call in (lambda: a.sum(2), lambda: a[5], lambda: a.unsqueeze(4), lambda: a.transpose(0, 2)):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(TypeError, match="float"):
        Tensor([1, 2]).mean()


# -- recording ---------------------------------------------------------------------------------------------------------


def test_modes():
    x = Tensor([1.0], True)
    assert (x * 2).requires_grad and not (x.detach() * 2).requires_grad
    with no_grad():
        assert not is_grad_enabled() and not (x * 2).requires_grad
        with enable_grad():
            assert (x * 2).requires_grad
    assert is_grad_enabled()

    @no_grad()
    def quiet(n):
        return (x * 2).requires_grad or (n > 0 and quiet(n - 1))

    assert quiet(3) is False
    assert is_grad_enabled()


def test_modes_are_per_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_capture():
    calls = []
    with ag.capture(lambda op, args, outputs: calls.append((op.name, len(args), outputs[0].shape))):
        y = Tensor([1.0, 2.0], True) * 2
        ag.sum(np.ones((2, 2)))
    assert calls == [("mul", 2, (2,)), ("sum", 3, ())]
    y.sum().backward()
    assert len(calls) == 2


def test_accumulates_in_place():
    x = Tensor([1.0, 2.0], True)
    (x * x).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    assert x.grad is first and x.grad.tolist() == [5.0, 7.0]


def test_gradients_share_nothing():
    a, b = Tensor(np.ones(3), True), Tensor(np.ones(3), True)
    seed = np.ones(3)
    (a + b).backward(seed)
    a.grad.data[:] = 9
    assert b.grad.tolist() == [1, 1, 1] and seed.tolist() == [1, 1, 1]


def test_one_tensor_in_many_places():
    x = Tensor(np.array([3.0]), True)
    y = x * x + x * x.detach() + x * x.data
    y.sum().backward()
    assert x.grad.tolist() == [12.0]
    (g,) = grad((x * x.detach()).sum(), x, create_graph=True)
    assert not g.requires_grad or grad(g.sum(), x, allow_unused=True) == (None,)


def test_graph_is_freed():
    x = Tensor([2.0], True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(RuntimeError, match=r"mul.*retain_graph"):
        y.backward()
    z = (x + 1).sum()
    z.backward()
    z.backward()  # sums keep nothing


def test_errors_of_backward():
    x = Tensor(np.ones(3), True)
    with pytest.raises(RuntimeError, match=r"only a scalar.*\(3,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not require"):
        Tensor([1.0]).backward()
    with pytest.raises(RuntimeError, match=r"\(2,\).*\(3,\)"):
        (x * 2).backward(np.ones(2))
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        x.grad = np.ones(2)
    with pytest.raises(ValueError, match="float32"):
        x.grad = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="int64"):
        Tensor([1], True)
    with pytest.raises(RuntimeError, match="leaf"):
        (x * 2).requires_grad = False


def test_grad_function():
    x, y = Tensor(np.array([2.0]), True), Tensor(np.array([3.0]), True)
    h = x * y
    out = h * h
    gx, gh = grad(out, [x, h])
    assert gx.item() == 36 and gh.item() == 12 and x.grad is None
    with pytest.raises(RuntimeError, match=r"input 1.*allow_unused"):
        grad(x * 2, [x, y])
    assert grad(x * 2, [x, y], allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match="does not require"):
        grad(x * 2, Tensor([1.0]))
    with pytest.raises(ValueError, match="2 gradients given for 1"):
        grad(x * 2, x, [1, 2])
    (a,) = grad([x * 2, x * 3], x, [np.array([1.0]), np.array([10.0])])
    assert a.item() == 32


def test_third_derivative():
    x = Tensor(np.array([2.0]), True)
    g = x**4
    for want in (32, 48, 48):
        (g,) = grad(g.sum(), x, create_graph=True)
        assert g.item() == pytest.approx(want)


def test_create_graph_in_backward():
    x = Tensor(np.array(3.0), True)
    (x * x * x).backward(create_graph=True)
    first = x.grad
    x.grad = None
    first.backward()
    assert x.grad.item() == 18


def test_long_chain_needs_no_recursion():
    x = Tensor(np.ones(1), True)
    y = x
    for _ in range(20_000):
        y = y + 1
    y.sum().backward()
    assert x.grad.item() == 1
    del y


def test_same_bits_every_time(rng):
    a = rng.standard_normal((20, 30)).astype(np.float32)

    def once():
        x = Tensor(a, True)
        (((x @ x.T).tanh() * x.mean()).sum() + (x.exp() * x).sum()).backward()
        return x.grad.numpy().tobytes()

    assert once() == once()


# -- own ops -----------------------------------------------------------------------------------------------------------


class Square(Op):
    name = "square"

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save(x)
        ctx.scale = scale
        return scale * x * x, np.argsort(x)

    @staticmethod
    def backward(ctx, g, g_order):
        assert g_order is None
        (x,) = ctx.saved
        return g * (2 * ctx.scale) * x, None


class Once(Op):
    name = "once_only"
    twice = False

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


class Wrong(Op):
    name = "wrong"

    @staticmethod
    def forward(ctx, x, mode):
        ctx.mode = mode
        ctx.save(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved
        if ctx.mode == "shape":
            return g[:1], None
        return (g,) if ctx.mode == "count" else (g * x, None)


def test_own_op(rng):
    x = rng.standard_normal(4)
    out, order = Square.apply(x, 3.0)
    assert type(out) is np.ndarray and type(order) is np.ndarray
    t, order = Square.apply(Tensor(x, True), 3.0)
    assert t.requires_grad and not order.requires_grad
    assert gradcheck(lambda x: Square.apply(x, 3.0), [x])
    assert gradgradcheck(lambda x: Square.apply(x, 3.0)[0], [x])


def test_op_without_second_derivative():
    x = Tensor(np.ones(2), True)
    assert grad(Once.apply(x).sum(), x)[0].tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="once_only"):
        grad(Once.apply(x).sum(), x, create_graph=True)


def test_wrong_rules_are_named():
    x = Tensor(np.ones(2), True)
    with pytest.raises(RuntimeError, match=r"wrong.*\(1,\).*\(2,\)"):
        Wrong.apply(x, "shape").sum().backward()
    with pytest.raises(RuntimeError, match=r"wrong.*1 gradients for 2"):
        Wrong.apply(x, "count").sum().backward()
    with pytest.raises(AssertionError, match=r"output 0\[0\] / d input 0\[0\] is 1 by backward and 2"):
        gradcheck(lambda x: Wrong.apply(x, "value"), [x])


def test_gradcheck_inputs():
    x = Tensor(np.ones(2, np.float32), True)
    constant = Tensor(np.ones(2, np.float32))
    assert gradcheck(lambda x, c, n: x * c.detach() * n, [x, constant, 3])
    with pytest.raises(ValueError, match="no input"):
        gradcheck(lambda x: x, [np.arange(3)])
