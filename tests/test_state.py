"""State files: both kinds, atomic writing, damaged and wrong files."""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from fastconv import nn
from fastconv.autograd import Tensor
from fastconv.state import load_state, save_state

pytestmark = pytest.mark.smoke

needs_safetensors = pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is not installed")
ENDINGS = [pytest.param(".safetensors", marks=needs_safetensors), ".npz"]


@pytest.fixture
def state():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((2, 3, 3)).astype(np.float32),
        "double": rng.standard_normal(4),
        "count": np.array(7, np.int64),
        "mask": np.array([True, False]),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "empty": np.zeros((0, 3), np.float32),
        "file": np.ones(2, np.float16),
    }


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, state, ending):
    path = tmp_path / f"weights{ending}"
    save_state({**state, "tensor": Tensor([1.0], True)}, path)
    loaded = load_state(str(path))
    assert loaded.pop("tensor").tolist() == [1.0]
    assert loaded.keys() == state.keys()
    for name, a in state.items():
        wanted = np.float32 if a.dtype == np.float16 else a.dtype
        assert loaded[name].dtype == wanted and loaded[name].shape == a.shape
        np.testing.assert_array_equal(loaded[name], a)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_same_state_same_bytes(tmp_path, state, ending):
    first, second = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    save_state(state, first)
    save_state(state, second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_module(tmp_path, ending):
    one, two = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    one.running_mean[:] = 5
    save_state(one.state_dict(), tmp_path / f"m{ending}")
    two.load_state_dict(load_state(tmp_path / f"m{ending}"))
    assert two.running_mean.tolist() == [5, 5, 5]


def test_a_failed_write_leaves_the_old_file(tmp_path, state):
    path = tmp_path / "weights.npz"
    save_state(state, path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="second must be an array of numbers, got list"):
        save_state({"first": np.ones(2), "second": [1, 2]}, path)
    with pytest.raises(TypeError, match="dtype object"):
        save_state({"first": np.array([None])}, path)
    with pytest.raises(TypeError, match="names must be text, got 3"):
        save_state({3: np.ones(2)}, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_write_cut_short_leaves_the_old_file(tmp_path, state, monkeypatch):
    path = tmp_path / "weights.npz"
    save_state(state, path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        save_state(state, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_files(tmp_path, state, ending):
    path = tmp_path / f"weights{ending}"
    save_state(state, path)
    whole = path.read_bytes()
    for damaged in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable"):
            load_state(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_byte_may_be_damaged(tmp_path, ending):
    path = tmp_path / f"weights{ending}"
    save_state({"a": np.arange(4.0), "b": np.ones((2, 2), np.float16)}, path)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for place in random.choice(len(whole), 150, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1 :])
        try:
            load_state(path)
        except ValueError as error:
            assert "not a readable" in str(error)


@needs_safetensors
def test_numbers_that_numpy_lacks(tmp_path):
    """bfloat16 1.0 is 0x3f80; float8 e4m3fn 0x38 is 1.0 and 0x7e its largest, 448; e5m2 0x3c is 1.0."""
    header = {
        "bf": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "e4": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [4, 6]},
        "e5": {"dtype": "F8_E5M2", "shape": [1], "data_offsets": [6, 7]},
    }
    text = json.dumps(header).encode()
    body = bytes([0x80, 0x3F, 0x80, 0xBF, 0x38, 0x7E, 0x3C])
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    state = load_state(tmp_path / "x.safetensors")
    assert {name: a.tolist() for name, a in state.items()} == {"bf": [1, -1], "e4": [1, 448], "e5": [1]}
    assert all(a.dtype == np.float32 for a in state.values())


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "single.npy", np.ones(2))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    for name in ("bad.npz", "single.npz"):
        with pytest.raises(ValueError, match="not a readable npz"):
            load_state(tmp_path / name)


def test_wrong_paths(tmp_path, state):
    for path in ("weights.pth", "weights"):
        with pytest.raises(ValueError, match=r"\.safetensors or \.npz to be written, got 'weights"):
            save_state(state, tmp_path / path)
    with pytest.raises(ValueError, match=r"\.safetensors, \.npz, \.pth or \.pt, got 'weights'"):
        load_state(tmp_path / "weights")
    with pytest.raises(ValueError, match=r"only \.pth files have parts; key='model'"):
        save_state(state, tmp_path / "weights.npz")
        load_state(tmp_path / "weights.npz", key="model")
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.npz"):
        load_state(tmp_path / "missing.npz")
    with pytest.raises(FileNotFoundError):
        save_state(state, tmp_path / "folder" / "weights.npz")


def test_without_safetensors(tmp_path, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"fastconv\[data\]"):
        save_state(state, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())
