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


def test_nothing_of_cuda_is_imported():
    output("""
        import sys
        import numpy as np
        import fastconv as fc, fastconv.functional as F
        F.conv2d(np.ones((1, 1, 3, 3), "f4"), np.ones((1, 1, 2, 2), "f4"))
        fc.Tensor([1.0]).to("cpu")
        assert not [m for m in sys.modules if m.startswith(("numba.cuda", "fastconv.kernels.cuda"))]
    """)
