"""Compiled networks: equal to eager, for any shape, thread and thread count; errors before anything runs."""

import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import fastconv as fc
import fastconv.functional as F
from fastconv import nn
from fastconv.infer import CompiledNetwork, Graph, Node, OpDef, Type, register
from fastconv.infer.ops import known

from .processes import output

f32 = np.dtype("float32")


def array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(f32)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


class Net(nn.Module):
    """A little of everything."""

    def __init__(self):
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1)
        self.block, self.depthwise = Block(16), nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.excite, self.head = nn.SqueezeExcite(16, 4), nn.Linear(32, 10)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)

    def forward(self, x):
        x = self.pool(F.relu6(self.stem(x)))
        x = F.hardswish(self.depthwise(self.block(x)))
        x = F.cat([self.excite(x), F.channel_shuffle(F.silu(x), 4)], 1)
        x = x + F.gelu(F.cat([self.up(F.avg_pool2d(x[:, 16:], 2)), x[:, :16]], 1)) * 0.5
        return F.softmax(self.head(x.mean((2, 3))), 1)


def randomised(model, seed=0):
    rng = np.random.default_rng(seed)
    for name, b in model.named_buffers():
        if "running" in name:
            b[...] = rng.random(b.shape) + 0.5
    return model.eval()


def eager(model, *inputs):
    with fc.no_grad():
        return model(*inputs)


@pytest.fixture(scope="module")
def net():
    model = randomised(Net())
    return model, fc.compile(model, array(1, 3, 32, 32))


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 3, 32, 32), (1, 3, 48, 32), (2, 3, 32, 48)])
def test_equal_to_eager_for_any_shape(net, shape):
    model, compiled = net
    x = array(*shape, seed=1)
    before = x.copy()
    y = compiled(x)
    np.testing.assert_allclose(y, eager(model, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(x, before)
    assert y.flags.writeable and y.base is not x


def test_same_bits_for_any_thread_count(net, monkeypatch):
    monkeypatch.setattr("fastconv._config.PARALLEL_US", 0)
    x, before, results = array(2, 3, 64, 64), fc.get_num_threads(), []
    try:
        for threads in (1, 2):
            fc.set_num_threads(threads)
            results.append(net[1](x))
    finally:
        fc.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_results_are_new_arrays(net):
    x = array(1, 3, 32, 32)
    first = net[1](x)
    kept = first.copy()
    net[1](x + 1)
    np.testing.assert_array_equal(first, kept)


def test_any_memory_order(net):
    x = array(1, 3, 32, 32)
    y = net[1](x)
    readonly = x.copy()
    readonly.flags.writeable = False
    wide = array(1, 3, 32, 64)
    wide[..., ::2] = x
    for same in (np.asfortranarray(x), readonly, wide[..., ::2], fc.Tensor(x)):
        np.testing.assert_array_equal(net[1](same), y)


def test_out(net):
    x = array(1, 3, 32, 32)
    y, out = net[1](x), np.empty((1, 10), f32)
    assert net[1](x, out=out) is out
    np.testing.assert_array_equal(out, y)
    strided = np.zeros((1, 20), f32)[:, ::2]
    np.testing.assert_array_equal(net[1](x, out=strided), y)
    with pytest.raises(ValueError, match=r"shape \(1, 10\).*given float32\[1, 9\]"):
        net[1](x, out=np.empty((1, 9), f32))


def test_many_threads_at_once(net):
    images = [array(1, 3, 32 + 16 * (i % 2), 32, seed=i) for i in range(8)]
    wanted = [net[1](x) for x in images]
    wrong = []

    def work(i):
        for _ in range(20):
            if not np.array_equal(net[1](images[i]), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_pickle():
    model = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    compiled, x = fc.compile(model, array(1, 2, 8, 8)), array(1, 2, 8, 8)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(compiled))(x), compiled(x))


def test_rewritten_weights_go_once_they_are_packed():
    model = randomised(nn.Sequential(nn.Conv2d(16, 64, 1), nn.BatchNorm2d(64), nn.ReLU()))
    compiled = fc.compile(model, array(1, 16, 8, 8))
    (plan,) = compiled._plans.values()
    assert plan.graph.constants == {} and not plan._constants
    forms = len(compiled._packed._forms)
    np.testing.assert_allclose(compiled(array(2, 16, 8, 8)), eager(model, array(2, 16, 8, 8)), rtol=1e-4, atol=1e-5)
    assert len(compiled._packed._forms) == forms  # made again, found by what they were made of


def test_constants_that_python_reads_stay():
    table = array(8, 3)
    compiled = fc.compile(lambda x: F.relu(x @ fc.Tensor(table)).sum(1), array(4, 8))
    np.testing.assert_allclose(
        compiled(array(4, 8, seed=2)), np.maximum(array(4, 8, seed=2) @ table, 0).sum(1), rtol=1e-5
    )


def test_plans_are_bounded():
    compiled = fc.compile(nn.ReLU(), array(1, 1))
    for n in range(1, 20):
        assert compiled(array(n, 1)).shape == (n, 1)
    assert len(compiled._plans) == 8


def test_results_are_built_as_the_model_builds_them():
    def model(a, b):
        return {"sum": a + b, "both": [F.relu(a), (b, a)], "same": a}

    a, b = array(2, 3), array(2, 3, seed=1)
    compiled = fc.compile(model, (a, b))
    result = compiled(a, b)
    np.testing.assert_array_equal(result["sum"], a + b)
    np.testing.assert_array_equal(result["both"][1][0], b)
    assert compiled.input_names == ("a", "b") and compiled.output_names[0] == "sum"
    result["same"][...] = 0
    np.testing.assert_array_equal(a, array(2, 3))


def test_run_by_name():
    compiled = fc.compile(lambda x: (x * 2, x + 1), {"image": array(3)})
    assert compiled.input_names == ("image",)
    (plus,) = compiled.run(["output_1"], {"image": array(3)})
    np.testing.assert_array_equal(plus, array(3) + 1)
    assert len(compiled.run(None, {"image": array(3)})) == 2
    with pytest.raises(ValueError, match="wants inputs image; given picture"):
        compiled.run(None, {"picture": array(3)})
    with pytest.raises(ValueError, match="outputs of output_0, output_1; given nothing"):
        compiled.run(["nothing"], {"image": array(3)})


def test_inputs_that_do_not_fit(net):
    compiled = net[1]
    with pytest.raises(TypeError, match=r"takes 1 inputs .*given 2"):
        compiled(array(1), array(1))
    with pytest.raises(TypeError, match="dtype float32, given float64"):
        compiled(np.zeros((1, 3, 32, 32)))
    with pytest.raises(ValueError, match=r"4 dimensions.*given \(3, 32, 32\)"):
        compiled(array(3, 32, 32))
    with pytest.raises(ValueError, match="3 input channels, input has 4"):
        compiled(array(1, 4, 32, 32))
    with pytest.raises(TypeError, match="must be an array, given list"):
        compiled([1.0])
    with pytest.raises(TypeError, match="must be an array, given list"):
        fc.compile(net[0], ([1.0],))
    with pytest.raises(TypeError, match="not float"):
        fc.compile(lambda x: 1.0, array(1))


def test_a_network_that_depends_on_numbers_is_refused():
    with pytest.raises(ValueError, match="does not do the same"):
        fc.compile(lambda x: F.relu(x) if x.data[0] > 0 else x * 2, np.ones(1, f32))
    with pytest.raises(ValueError, match="no recorded operation"):
        fc.compile(lambda x: x * fc.Tensor(np.sort(x.numpy())), array(4))


def test_detached_tensors_are_followed():
    x = array(4)
    np.testing.assert_array_equal(fc.compile(lambda x: F.relu(x).detach() * 2, x)(x), F.relu(x) * 2)


def test_training_mode_comes_back():
    model = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout()))
    x = array(1, 2, 8, 8)
    wanted = eager(model, x)
    model.train()
    np.testing.assert_allclose(fc.compile(model, x)(x), wanted, rtol=1e-5, atol=1e-6)
    assert all(module.training for module in model.modules())


MOVES = np.array([[0, 1], [-1, 0], [2, -3], [9, 0]])
OPERATIONS = {
    "unfold": lambda x: F.unfold(x, 3),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "index": lambda x: x[:, [3, 1, 0]] + x[:, -1:],
    "permute": lambda x: x.reshape(2, 2, 2, 6, 6).permute(0, 2, 1, 4, 3) * 1.0,
    "where": lambda x: fc.autograd.where(np.arange(6) > 2, x, x * 0.0),
    "maximum": lambda x: x.max(),
    "matmul": lambda x: x @ x,
    "stack": lambda x: F.stack([x, x * 2.0], 1),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 4) + F.adaptive_max_pool2d(x, 4),
    "indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1), "reflect"),
    "expand": lambda x: x.mean((2, 3), True) + fc.autograd.expand(x[:, :, :1], (2, 4, 6, 6)),
    "prelu": lambda x: F.prelu(x, np.full(4, 0.1, f32)) / (x * x + 1.0),
    "rsub": lambda x: 1.0 - x**2,
    "conv3d": lambda x: F.conv3d(x[:, :, None], np.ones((2, 4, 1, 3, 3), f32), padding=1),
    "unbatched": lambda x: F.max_pool2d(F.conv2d(x[0], np.ones((2, 4, 2, 2), f32)), 2, ceil_mode=True),
    "dynamic weights": lambda x: F.conv2d(x[:1], F.conv2d(x[1:], np.ones((16, 4, 4, 4), f32)).reshape(4, 4, 3, 3)),
    "dynamic transposed": lambda x: F.conv_transpose2d(x[:1], x[1:, :, :2, :2].reshape(4, 1, 2, 2), x[0, 0, 0, :1]),
    "squeeze": lambda x: (y := F.silu(x)) * F.adaptive_avg_pool2d(y, 1),
    "shift": lambda x: F.shift2d(x, MOVES) + F.sparse_shift2d(x, np.array(MOVES * 0.7, f32)),
    "rows": lambda x: F.relu(F.linear(x.reshape(8, 36), np.ones((3, 36), f32), np.ones(3, f32))),
}


@pytest.mark.parametrize("function", OPERATIONS.values(), ids=OPERATIONS)
def test_every_kind_of_operation(function):
    x = array(2, 4, 6, 6)
    compiled = fc.compile(function, x)
    given, wanted = compiled(x), function(fc.Tensor(x))
    for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (given, wanted)), strict=True):
        np.testing.assert_allclose(a, np.asarray(b), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["interpolate", "squeeze", "shift", "rows"])
def test_no_python_between_layers(name):
    algorithms = {node.algorithm for node in fc.compile(OPERATIONS[name], array(2, 4, 6, 6)).profile(repeats=1).nodes}
    assert "Python" not in algorithms, algorithms


def test_float64_and_empty_batches():
    model = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).double())
    x = np.random.default_rng(0).standard_normal((2, 2, 8, 8))
    compiled = fc.compile(model, x)
    np.testing.assert_allclose(compiled(x), eager(model, x), rtol=1e-12, atol=1e-12)
    assert compiled(x[:0]).shape == (0, 4, 6, 6)


def test_shapes_that_only_running_tells():
    if not known("test.positive"):
        register("test.positive", OpDef(lambda attrs, x: x[x > 0], lambda attrs, x: ((None, x.dtype),)))
    nodes = [
        Node("tanh", ("x",), ("t",)),
        Node("test.positive", ("t",), ("p",)),
        Node("add", ("p", "p"), ("y",)),
        Node("relu", ("t",), ("z",)),
    ]
    x = array(20)
    compiled = fc.compile(Graph(nodes, {"x": Type((20,), f32)}, ("y", "z")), x)
    y, z = compiled(x)
    np.testing.assert_allclose(y, 2 * np.tanh(x)[x > 0], rtol=1e-5)
    np.testing.assert_allclose(z, np.maximum(np.tanh(x), 0), rtol=1e-5)


def test_a_graph_for_each_shape():
    def make(types):
        size = types["x"].shape[0]
        return Graph([Node("reshape", ("x",), ("y",), {"shape": (1, size)})], types, ("y",))

    network = CompiledNetwork(make, {"x": array(3)})
    assert network(array(5)).shape == (1, 5)


def test_profile_and_explain(net):
    profile = net[1].profile(array(1, 3, 32, 32), repeats=3)
    assert sum(node.share for node in profile.nodes) == pytest.approx(1)
    conv = next(node for node in profile.nodes if node.op == "conv")
    assert conv.algorithm.startswith("conv_fwd") and conv.gflops > 0 and conv.milliseconds > 0
    assert "GFLOP/s" in str(profile) and next(iter(profile.by_algorithm().values())) > 0
    text = net[1].explain()
    for part in ("folded into the weights", "added in registers", "a view of", "made in its place", "in place of"):
        assert part in text


def test_a_picture_of_the_profile(net, tmp_path):
    pytest.importorskip("matplotlib")
    from fastconv.plot import profile_picture

    profile_picture(tmp_path / "profile.png", net[1].profile(repeats=2))
    assert (tmp_path / "profile.png").stat().st_size > 10_000


def small_network():
    model = randomised(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    return fc.compile(model, array(1, 2, 8, 8))


def test_another_process_compiles_nothing(tmp_path):
    compiled, x = small_network(), array(1, 2, 8, 8)
    (tmp_path / "network").write_bytes(pickle.dumps((compiled, x, compiled(x))))
    code = """
        import pickle, sys
        import numpy as np
        from fastconv._jit import KernelCache
        with open(sys.argv[1], "rb") as file:
            network, x, y = pickle.load(file)
        np.testing.assert_array_equal(network(x), y)
        print(KernelCache.stats["misses"])
    """
    assert output(code, tmp_path / "network") == "0"


def test_a_pool_of_processes():
    compiled, images = small_network(), [array(1, 2, 8, 8, seed=i) for i in range(4)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for image, y in zip(images, pool.map(compiled, images), strict=True):
            np.testing.assert_array_equal(y, compiled(image))


def test_dask_blocks():
    dask_array = pytest.importorskip("dask.array")
    compiled, x = small_network(), array(6, 2, 8, 8)
    blocks = dask_array.from_array(x, chunks=(2, 2, 8, 8))
    y = blocks.map_blocks(compiled, drop_axis=(2, 3), chunks=((2, 2, 2), (3,)), dtype=f32)
    np.testing.assert_allclose(y.compute(scheduler="threads"), compiled(x), rtol=1e-5, atol=1e-6)


def test_compiling_leaves_no_trace_in_layers():
    layer = nn.Conv2d(8, 8, 3).eval()
    x = array(1, 8, 6, 6)
    with fc.no_grad():
        layer(x)
    before = layer._kept
    net = fc.compile(layer, x)
    net(array(1, 8, 9, 9))
    assert layer._kept is before
