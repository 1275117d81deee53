"""Without a device: asking for one is a clear error, and nobody else notices that there could be one."""

import numpy as np
import pytest

import fastconv as fc
from benchmarks import cuda as benchmark
from fastconv import _device, nn

from .processes import output

pytestmark = pytest.mark.smoke


def has_device():
    try:
        return bool(_device.leaf("cuda"))
    except RuntimeError:
        return False


without = pytest.mark.skipif(has_device(), reason="there is a device")


@without
@pytest.mark.parametrize("ask", [lambda: fc.Tensor([1.0]).to("cuda"), lambda: nn.Linear(2, 3).to("cuda:0")])
def test_asking_for_a_device_says_why_there_is_none(ask):
    with pytest.raises(RuntimeError, match=r"cuda: no device can be used: .+"):
        ask()


@without
def test_the_benchmark_refuses(capsys):
    assert benchmark.main([]) == 2
    assert "nothing was measured" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:-1"])
def test_other_names_are_no_devices(name):
    with pytest.raises(ValueError, match="device must be 'cpu' or one of 'cuda'"):
        _device.leaf(name)


def test_the_cpu_is_a_device():
    t = fc.Tensor(np.ones(3, np.float32), requires_grad=True)
    assert t.device == "cpu" and t.to("cpu") is t and t.cpu() is t
    assert t.to(np.float64).dtype == np.float64
    layer = nn.Linear(2, 3)
    assert layer.to("cpu") is layer and layer.weight.device == "cpu"


WAYS = {  # what a machine without a device lacks -> how that looks to numba.cuda, and what the error says
    "package": ("__file__ = '/site-packages/numba/cuda/__init__.py'", "numba-cuda is not installed", "fastconv[cuda]"),
    "driver": ("cuda_error = lambda: 'CUDA driver library cannot be found'", "driver library cannot be found", ""),
    "device": ("cuda_error = lambda: None", "no CUDA device was found", ""),
}


@pytest.mark.parametrize("missing", WAYS)
def test_each_reason_has_its_words(missing):
    """In a process whose numba.cuda lacks one thing: the same words in errors and in `fastconv env`."""
    setting, *words = WAYS[missing]
    given = output(
        f"""
        import sys, types
        fake = types.ModuleType("numba.cuda")
        class Any:
            def __getattr__(self, name): return Any()
            def __call__(self, *args, **kwargs): return args[0] if args and callable(args[0]) else Any()
        fake.__getattr__ = lambda name: Any()
        fake.__file__ = "/site-packages/numba_cuda/numba/cuda/__init__.py"
        fake.is_available = lambda: False
        fake.{setting}
        import numba
        sys.modules["numba.cuda"] = numba.cuda = fake
        import fastconv as fc
        from fastconv import nn
        from fastconv.cli import env
        for ask in (lambda: fc.Tensor([1.0]).to("cuda"), lambda: nn.Linear(2, 3).to("cuda")):
            try:
                ask()
            except RuntimeError as problem:
                print(problem)
        print(env._cuda())
        """
    ).splitlines()
    assert len(given) == 3 and given[0] == given[1] == f"cuda: {given[2]}"
    assert given[2].startswith("no device can be used: ")
    assert all(word in given[2] for word in words)


def test_numba_without_a_cuda_target_is_a_reason_too():
    given = output("""
        import sys
        sys.modules["numba.cuda"] = None
        import fastconv as fc
        try:
            fc.Tensor([1.0]).to("cuda")
        except RuntimeError as problem:
            print(problem)
    """)
    assert "cuda: no device can be used: " in given and "fastconv[cuda]" in given


def test_nothing_of_cuda_is_imported():
    output("""
        import sys
        import numpy as np
        import fastconv as fc, fastconv.functional as F
        F.conv2d(np.ones((1, 1, 3, 3), "f4"), np.ones((1, 1, 2, 2), "f4"))
        fc.Tensor([1.0]).to("cpu")
        assert not [m for m in sys.modules if m.startswith(("numba.cuda", "fastconv.kernels.cuda"))]
    """)
