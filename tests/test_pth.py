"""PyTorch's files: what they may hold, both formats, and that nothing in them ever runs."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from fastconv.state import load_state
from fastconv.state.pickled import read_pickle

torch = pytest.mark.torch


class Evil:
    """Runs a command when Python's own unpickler reads it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def tensor(key="0", kind="Float", size=6, offset=0, shape=(2, 3), strides=(3, 1)):
    """A tensor in the text instructions of a pickle, as torch describes it."""

    def numbers(values):
        return "(" + "".join(f"I{v}\n" for v in values) + "t"

    storage = f"(Vstorage\nctorch\n{kind}Storage\nV{key}\nVcpu\nI{size}\ntQ"
    return f"ctorch._utils\n_rebuild_tensor_v2\n({storage}I{offset}\n{numbers(shape)}{numbers(strides)}I00\nNtR"


def dictionary(**entries):
    return "}(" + "".join(f"V{name}\n{text}" for name, text in entries.items()) + "u"


def write(path, program, storages=None, **members):
    """A zip of torch's format; program: the instructions of data.pkl, text or bytes."""
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()} if storages is None else storages
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program if isinstance(program, bytes) else program.encode() + b".")
        for key, data in {**{f"data/{key}": data for key, data in storages.items()}, **members}.items():
            archive.writestr(f"archive/{key}", data)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


# ---- what is read


@pytest.mark.smoke
def test_views_of_one_storage_share_it(path):
    transposed, row = tensor(shape=(3, 2), strides=(1, 3)), tensor(offset=3, shape=(3,), strides=(1,))
    write(path, dictionary(a=tensor(), b=transposed, c=row, n="I7\n", e=tensor(shape=(0, 2), strides=(2, 1))))
    state = load_state(path)
    np.testing.assert_array_equal(state["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(state["b"], state["a"].T)
    assert state["c"].tolist() == [3, 4, 5] and state["n"] == 7 and state["e"].shape == (0, 2)
    state["a"][1, 2] = 9
    assert state["b"][2, 1] == state["c"][2] == 9


@pytest.mark.smoke
def test_repeated_elements_cost_no_memory(path):
    write(path, dictionary(a=tensor(shape=(10**6, 10**6, 2), strides=(0, 0, 1))))
    a = load_state(path)["a"]
    assert a.shape == (10**6, 10**6, 2) and a[5, 7].tolist() == [0, 1] and not a.flags.writeable


@pytest.mark.smoke
def test_big_endian_files(path):
    storages = {"0": np.arange(6, dtype=">f4").tobytes(), "1": bytes([0x3F, 0x80])}
    program = dictionary(a=tensor(), b=tensor("1", "BFloat16", 1, 0, (1,), (1,)))
    state = load_state(write(path, program, storages, byteorder="big"))
    assert state["a"].ravel().tolist() == [0, 1, 2, 3, 4, 5] and state["b"] == 1


def every_kind(torch):
    t = torch.arange(6.0).reshape(2, 3)
    bits = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    kinds = ["float16", "bfloat16", "float64", "bool", *bits]
    state = {kind: torch.tensor([[0, 1, 2], [3, 100, 5]]).to(getattr(torch, kind)) for kind in kinds}
    state |= {kind: torch.arange(256, dtype=torch.uint8).view(getattr(torch, kind)) for kind in FLOAT8}
    state |= {"t": t.t(), "row": t[1], "parameter": torch.nn.Parameter(t), "scalar": torch.tensor(2.5)}
    state |= {"expanded": torch.ones(1, 3).expand(2, 3), "empty": torch.zeros(0, 3), "columns": t[:, 1:].half()}
    return state | {"channels_last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)}


FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


@torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_dtype_and_layout_of_torch(path, zipped):
    torch = pytest.importorskip("torch")
    state = every_kind(torch)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = load_state(path)
    assert loaded.keys() == state.keys()
    for name, t in state.items():
        wide = t.dtype.is_floating_point and t.dtype != torch.float64
        np.testing.assert_array_equal(loaded[name], (t.float() if wide else t).detach().numpy(), err_msg=name)
        assert loaded[name].dtype == (np.float32 if wide else t.numpy().dtype)
    assert np.shares_memory(loaded["t"], loaded["parameter"]) and np.shares_memory(loaded["t"], loaded["row"])


@torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_has_parts(path, zipped):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(model.parameters())
    checkpoint = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "arguments": None}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    loaded = load_state(path, key="model")
    assert list(loaded) == list(model.state_dict())
    np.testing.assert_array_equal(loaded["0.weight"], model[0].weight.detach().numpy())
    with pytest.raises(ValueError, match=r"not tensors: 'model' \(dict\), 'optimizer' \(dict\).*states: key='model'$"):
        load_state(path)
    with pytest.raises(ValueError, match="no part 'weights'; it holds 'epoch', 'model', 'optimizer', 'arguments'"):
        load_state(path, key="weights")


@torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_model_is_refused_by_name(path, zipped):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Sequential(torch.nn.ReLU()), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"tries to import torch\.nn\.modules\.container\.Sequential"):
        load_state(path)


# ---- what is refused


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_ever_run(path, tmp_path, protocol):
    marker = tmp_path / "ran"
    name = rf"{os.system.__module__}\.system"
    write(path, pickle.dumps({"weight": Evil(marker)}, protocol))
    with pytest.raises(ValueError, match=f"tries to import {name}, which is neither tensor nor plain data"):
        load_state(path)
    path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    with pytest.raises(ValueError, match=f"tries to import {name}"):
        load_state(path)
    assert not marker.exists()


REFUSED = {
    "eval": ("c__builtin__\neval\n(V1\ntR", "tries to import __builtin__.eval"),
    "getattr": ("cbuiltins\ngetattr\n(ctorch\nFloatStorage\nV__class__\ntR", "tries to import builtins.getattr"),
    "a submodule's function": (
        "ctorch._utils\n_rebuild_tensor_v2.__globals__\n",
        "import torch._utils._rebuild_tensor_v2",
    ),
    "load by another": ("ctorch\nload\n(Vx\ntR", "tries to import torch.load"),
    "extension registry": ("\x82\x01", "the pickle instruction EXT1"),
    "old-style object": ("(Vx\nios\nsystem\n", "the pickle instruction INST"),
    "object": ("(cos\nsystem\nVx\no", "tries to import os.system"),
    "call of data": ("Vx\n)R", "tries to call a str"),
    "call of a dtype": ("ctorch\nFloatStorage\n)R", "tries to call a _Dtype"),
    "state of a function": ("ccollections\nOrderedDict\n}b", "tries to change collections.OrderedDict"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("program, message", REFUSED.values(), ids=REFUSED)
def test_programs_are_refused(path, program, message):
    write(path, program.encode("latin-1") + b".")
    with pytest.raises(ValueError, match=f"not a readable pth file: .*{message}"):
        load_state(path)


DAMAGED = {
    "beyond the storage": (dictionary(a=tensor(offset=1)), "reaches element 6 of a storage of 6"),
    "negative stride": (dictionary(a=tensor(strides=(3, -1))), "not whole numbers"),
    "negative offset": (dictionary(a=tensor(offset=-1)), "not whole numbers"),
    "fewer strides": (dictionary(a=tensor(strides=(1,))), "not whole numbers"),
    "storage of another size": (dictionary(a=tensor(size=7)), "storage 0 has 24 of its 28 bytes"),
    "no storage": (dictionary(a=tensor("1")), "storage 1 has none of its 24 bytes"),
    "path as a key": (dictionary(a=tensor("../../0")), "has none of its 24 bytes"),
    "untyped": (dictionary(a=tensor()).replace("torch\nFloat", "torch.storage\nUntyped"), "a tensor without a dtype"),
    "unknown storage": (dictionary(a=tensor(kind="QInt8")), "tries to import torch.QInt8Storage"),
    "no dict": ("(Vx\nl", "holds a list, a dict of tensors is wanted"),
    "text": (dictionary(a="Vx\n"), r"not tensors: 'a' \(str\)"),
    "mark for a value": ("((R", "damaged pickle"),
    "empty stack": ("t", "damaged pickle"),
    "unknown memo": ("g5\n", "damaged pickle"),
    "names that are lists": ("}(]I1\nu", "an entry named by a list"),
    "nested name": ("}(((ttI1\nu", "an entry named by a tuple"),
    "not a pickle": ("\xff", "damaged pickle"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("program, message", DAMAGED.values(), ids=DAMAGED)
def test_false_descriptions_are_refused(path, program, message):
    write(path, program)
    with pytest.raises(ValueError, match=f"not a readable pth file: .*{message}"):
        load_state(path)


@pytest.mark.smoke
def test_other_zips_are_refused(path):
    write(path, dictionary(a=tensor()), **{"code/model.py": "x"})
    with pytest.raises(ValueError, match="TorchScript program"):
        load_state(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"")
    with pytest.raises(ValueError, match=r"0 data\.pkl, 1 wanted"):
        load_state(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"}.")
    with pytest.raises(ValueError, match="compressed"):
        load_state(path)
    for content in (b"", b"nonsense", pickle.dumps(3), pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(7)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable pth file"):
            load_state(path)


@pytest.mark.smoke
def test_a_small_pickle_makes_no_large_value():
    """Doubling by reference: 2^60 leaves as data, 60 references in memory; no message may write it out."""
    program = b")" + b"2\x86" * 60 + b"."
    assert isinstance(read_pickle(program, {}), tuple)
    with pytest.raises(ValueError, match="named by a tuple"):
        read_pickle(b"}(" + program[:-1] + b"I1\nu.", {})


@torch
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_cut_and_changed_files_give_errors_and_nothing_else(path, zipped):
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2, 2).half()}, buffer, _use_new_zipfile_serialization=zipped)
    whole, random = buffer.getvalue(), np.random.default_rng(0)
    for end in random.choice(len(whole) - 1, 60, replace=False):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="not a readable pth file"):
            load_state(path)
    for place in random.choice(len(whole), 200, replace=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(random.integers(1, 256))]) + whole[place + 1 :])
        try:
            load_state(path)
        except ValueError as error:
            assert "not a readable pth file" in str(error)


@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_changed_programs_give_errors_and_nothing_else(path):
    """As above, behind the zip's checksums: the pickle itself is changed."""
    program, random = (
        dictionary(a=tensor(), b=tensor(shape=(3,), strides=(2,))).encode() + b".",
        np.random.default_rng(1),
    )
    for _ in range(400):
        changed = bytearray(program)
        for place in random.integers(0, len(program), random.integers(1, 4)):
            changed[place] = random.integers(0, 256)
        write(path, bytes(changed))
        try:
            load_state(path)
        except ValueError as error:
            assert "not a readable pth file" in str(error)
