"""Calls that were made before run on prepared programs: they must see what changed since."""

import copy
import pickle
import threading

import numpy as np
import pytest

import fastconv as fc
from fastconv import functional as F
from fastconv import nn, prepared

from . import oracle
from .tolerance import assert_close


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def right(layer, x):
    """Whether the layer says what the oracle does, twice: the second call is prepared."""
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    wanted = oracle.conv(x, w, b, layer.stride, layer.padding, layer.dilation, layer.groups)
    with fc.no_grad():
        for _ in range(2):
            assert_close(layer(x), wanted, "float32", w[0].size, scale=np.abs(wanted).max())


@pytest.fixture
def layer():
    return nn.Conv2d(6, 8, 3, padding=1).eval()


def test_layer_sees_changes(layer):
    right(layer, random(2, 6, 9, 9))
    right(layer, random(1, 6, 9, 9))  # another batch
    with fc.no_grad():
        layer.weight.data[...] = random(8, 6, 3, 3)
        layer.bias.data[...] = random(8)
    right(layer, random(2, 6, 9, 9))
    layer.weight, layer.bias = nn.Parameter(random(8, 6, 3, 3)), nn.Parameter(random(8))
    right(layer, random(2, 6, 9, 9))
    layer.stride = (2, 1)
    right(layer, random(2, 6, 9, 9))


def test_layer_takes_any_memory_order(layer):
    x = random(2, 9, 9, 6).transpose(0, 3, 1, 2)
    right(layer, x)
    x = random(2, 6, 9, 9)
    x.flags.writeable = False
    right(layer, x)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_of_a_layer_have_their_own_weights(layer, duplicate):
    x = random(2, 6, 9, 9)
    right(layer, x)
    other = duplicate(layer)
    with fc.no_grad():
        other.weight.data[...] = random(8, 6, 3, 3)
    right(other, x)
    right(layer, x)


def test_tensor_in_tensor_out(layer):
    x = random(2, 6, 9, 9)
    with fc.no_grad():
        first, second = layer(fc.Tensor(x)), layer(fc.Tensor(x))
        assert isinstance(first, fc.Tensor) and isinstance(second, fc.Tensor)
        assert isinstance(layer(x), np.ndarray)
        np.testing.assert_array_equal(first.numpy(), layer(x))
    assert layer(fc.Tensor(x)).requires_grad


def test_bad_input_is_refused_after_good_input(layer):
    with fc.no_grad():
        layer(random(2, 6, 9, 9))
        layer(random(2, 6, 9, 9))
        with pytest.raises(ValueError, match="expects 6 input channels, input has 5"):
            layer(random(2, 5, 9, 9))
        with pytest.raises(TypeError, match="float32"):
            layer(random(2, 6, 9, 9).astype(np.float64))


def test_one_array_in_two_roles():
    x = random(4, 4, 5, 5)
    other = random(4, 4, 5, 5)
    alone = F.conv2d(x, other), F.conv2d(x, x.copy())
    np.testing.assert_array_equal(F.conv2d(x, x), alone[1])
    np.testing.assert_array_equal(F.conv2d(x, other), alone[0])


def test_weights_packed_for_a_call_are_packed_for_each():
    """Winograd's transformed weights lie in working memory, which belongs to one call."""
    x, w = random(1, 32, 16, 16), random(32, 32, 3, 3)
    once = F.conv2d(x, w, padding=1)
    for factor in (2, 8):  # powers of two: every rounding is the same
        np.testing.assert_array_equal(F.conv2d(x, w * np.float32(factor), padding=1), factor * once)


def test_many_threads_run_one_call(layer):
    inputs = [random(1, 6, 40, 40) * (i + 1) for i in range(4)]
    wrong, start = [], threading.Barrier(len(inputs))
    with fc.no_grad():
        wanted = [layer(x) for x in inputs]

    def work(i):
        start.wait()
        with fc.no_grad():
            for _ in range(200):
                if not (layer(inputs[i]) == wanted[i]).all():
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_calls_are_bounded(monkeypatch):
    monkeypatch.setattr(prepared, "MOST_CALLS", len(prepared._calls) + 2)
    for width in range(3, 9):
        F.max_pool2d(random(1, 1, 4, width), 2)
    assert len(prepared._calls) <= prepared.MOST_CALLS


def test_calls_that_come_again_see_every_difference():
    """A function that was one program is only that program the next time: same results, same refusals."""
    x = random(1, 3, 8, 8)
    for _ in range(3):
        np.testing.assert_array_equal(F.max_pool2d(x, 2), x.reshape(1, 3, 4, 2, 4, 2).max((3, 5)))
        np.testing.assert_array_equal(F.max_pool2d(x, [2, 2]), F.max_pool2d(x, kernel_size=2))
        np.testing.assert_array_equal(F.max_pool2d(x, 2, return_indices=True)[0], F.max_pool2d(x, 2))
        np.testing.assert_array_equal(F.relu(x.transpose(0, 1, 3, 2)), np.maximum(x, 0).transpose(0, 1, 3, 2))
        np.testing.assert_array_equal(F.relu(x.astype(np.float16)), np.maximum(x, 0).astype(np.float16))
        np.testing.assert_array_equal(F.interpolate(x, scale_factor=2, mode="area"), x.repeat(2, 2).repeat(2, 3))
        with pytest.raises(TypeError, match="ceil_mode"):
            F.max_pool2d(x, 2, ceil_mode=0)
        assert F.max_pool2d(x, 2, ceil_mode=False).shape == (1, 3, 4, 4)
        assert isinstance(F.relu(fc.Tensor(x)), fc.Tensor)
    first, second = F.relu(x), F.relu(-x)
    np.testing.assert_array_equal(first - second, x)
