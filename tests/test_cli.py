"""The command line: quick checks of every command, and a full run of the demo."""

import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from fastconv.cli import COMMANDS, main, train
from fastconv.cli.console import matrix, progress
from fastconv.data import digits
from fastconv.training import confusion_matrix, fit, predict, small_network, weights_digest

from .test_data import write_folder


def run(*args):
    """The command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "fastconv", *args], capture_output=True, text=True, timeout=600)


def refuse(capsys, *args):
    """The one line on stderr with which a command refuses."""
    try:
        code = main(list(args))
    except SystemExit as exit:  # argparse ends the process
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2 and captured.err.count("\n") == 1 and captured.err.startswith("fastconv")
    assert "Traceback" not in captured.err
    return captured.err


# ---- explain and env


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("1x64x56x56 64x64x3x3 p1", "1x64x56x56 * 64x64x3x3 -> 1x64x56x56, float32"),
        ("2x8x30 16x4x5 s2 g2 d3", "2x8x30 * 16x4x5 -> 2x16x9, float32"),
        ("1x3x9x20x21 5x3x3x3x3 p1x0x2 s1x2x1", "1x3x9x20x21 * 5x3x3x3x3 -> 1x5x9x9x23, float32"),
        ("1x4x12x11 6x4x3x4 psame --dtype float64", "1x4x12x11 * 6x4x3x4 -> 1x6x12x11, float64"),
        ("0x4x12x11 6x4x3x3 pvalid", "0x4x12x11 * 6x4x3x3 -> 0x6x10x9, float32"),
    ],
)
def test_explain_shows_the_problem_and_a_choice(capsys, words, wanted):
    assert main(["explain", "conv", *words.split()]) == 0
    text = capsys.readouterr().out
    assert wanted in text and text.count("conv.fwd\n") == 1
    choice = re.search(r"^choice: (conv_fwd_\w+)$", text, re.MULTILINE)
    assert choice and re.search(rf"^  {choice[1]} +accepts.*<- chosen$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("adder 1x8x9x9 8x8x3x3 p1 --pass all", "adder_bwd_data_patches"),
        ("deform_conv 1x8x9x9 4x8x3x3 p1 --pass bwd_weights", "deform_conv_bwd_weights_patches"),
        ("involution 1x8x9x9 2x3x3 s2 --pass bwd_data", "involution_bwd_data_gather   refuses: needs stride 1"),
        ("shift 1x8x9x9", "choice: shift_fwd_rows"),
        ("non_local 1x8x81 --pass all", "choice: non_local_bwd_streaming"),
    ],
)
def test_explain_other_operations(capsys, words, wanted):
    assert main(["explain", *words.split()]) == 0
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ("adder 1x8x9x9", "adder needs the shape of the weight"),
        ("shift 1x8x9x9 3x3", "shift needs the input n x c x h x w alone, given 1x8x9x9 3x3"),
        ("shift 1x8x9x9 --pass bwd_data", "shift has the passes fwd, bwd_displacement, given bwd_data"),
        ("involution 1x8x9x9 3x3x3", "groups (a divisor of c)"),
        ("non_local 1x8x9x9", "n x c x positions alone, given 1x8x9x9"),
        ("deform_conv 1x8x9 4x8x3", "two spatial dimensions, given 1"),
    ],
)
def test_explain_other_operations_refuse(capsys, words, message):
    assert message in refuse(capsys, "explain", *words.split())


def test_explain_all_passes(capsys):
    assert main(["explain", "conv", "1x8x9x9", "8x8x3x3", "--pass", "all"]) == 0
    choices = re.findall(r"^choice: (\w+)$", capsys.readouterr().out, re.MULTILINE)
    assert [re.match(r"conv_(fwd|bwd_data|bwd_weights)_", choice)[1] for choice in choices] == [
        "fwd",
        "bwd_data",
        "bwd_weights",
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        ("conv 1x64x56x56 64x32x3x3", "weight expects 32 input channels, input has 64"),
        ("conv 1x64x56x56 64x64x3", "weight must have 4 dimensions, given 3"),
        ("conv 1x64x2x2 64x64x3x3", "the kernel covers 3 in height, more than the padded input's 2"),
        ("conv 64x56 64x64x3x3", "3, 4 or 5 sizes (1, 2 or 3 spatial), given 2: 64x56"),
        ("conv 1xax56x56 64x64x3x3", "whole numbers with x between them, such as 1x64x56x56, given '1xax56x56'"),
        ("conv 1x64x56x56 64x64x3x3 q1", "unknown option 'q1'"),
        ("conv 1x64x56x56 64x64x3x3 p1 p2", "padding is given twice"),
        ("conv 1x64x56x56 64x64x3x3 s0", "stride must be at least 1, given 0"),
        ("conv 1x64x56x56 64x64x3x3 s", "the stride must be whole numbers"),
        ("conv 1x64x56x56 64x64x3x3 g3", "64 output channels can't be split into 3 groups"),
        ("conv 1x64x56x56 64x64x3x3 g2x2", "groups is one number, given 'g2x2'"),
        ("conv 1x64x56x56 64x64x3x3 --pass up", "invalid choice: 'up'"),
        ("pool 1x64x56x56 64x64x3x3", "invalid choice: 'pool'"),
        ("conv 1x64x56x56", "conv needs the shape of the weight"),
    ],
)
def test_explain_refuses(capsys, words, message):
    assert message in refuse(capsys, "explain", *words.split())


def test_env_names_everything(capsys, monkeypatch):
    monkeypatch.setenv("FASTCONV_POOL_MB", "100")
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    for word in (
        "cpu ",
        "instruction set ",
        "register tile ",
        "threads ",
        "threading layer ",
        "cache ",
        "numba ",
        "safetensors",
    ):
        assert re.search(rf"^ *{word}", text, re.MULTILINE) or word == "numba ", word
    assert re.search(r"numba 0\.\d+", text) and "FASTCONV_POOL_MB=100   (set)" in text and "FASTCONV_ISA=auto\n" in text


# ---- summary


def test_summary_shows_layers_times_and_a_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "lenet5.png"
    assert main(["summary", "lenet5", "--input", "2x1x32x32", "--time", "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^LeNet5 on 2x1x32x32: [\d,]+ parameters .* multiply-adds, .* MB moved, [\d.]+ ms$", text, re.M)
    assert f"picture      {picture}" in text and picture.stat().st_size > 10_000
    assert main(["summary", "lenet5"]) == 0
    assert re.search(r"^LeNet5 on 1x1x32x32: ", capsys.readouterr().out, re.M)


def test_summary_refuses(capsys, monkeypatch, tmp_path):
    assert "no network is called 'lenet'" in refuse(capsys, "summary", "lenet")
    assert "the input must be whole numbers with x between them" in refuse(
        capsys, "summary", "lenet5", "--input", "1,2"
    )
    assert "at least 1" in refuse(capsys, "summary", "lenet5", "--input", "0x1x32x32")
    monkeypatch.setattr("fastconv.cli.summary.find_spec", lambda name: None)
    assert "--plot needs matplotlib" in refuse(capsys, "summary", "lenet5", "--plot", str(tmp_path / "x.png"))


# ---- the command itself


def test_help_lists_the_commands():
    result = run("--help")
    assert result.returncode == 0 and not result.stderr
    assert all(name in result.stdout for name in COMMANDS)


def test_a_wrong_command_is_refused_in_one_line(capsys):
    assert "invalid choice: 'dance'" in refuse(capsys, "dance")
    assert "COMMAND" in refuse(capsys)


@pytest.mark.parametrize(
    "words", ["--epochs 0", "--epochs x", "--lr 0", "--lr nan", "--lr x", "--batch-size 0", "--seed -1", "--threads 0"]
)
def test_demo_refuses_bad_numbers(capsys, words):
    assert f"given {words.split()[1]!r}".replace("'", "") in refuse(capsys, "demo", *words.split()).replace("'", "")


def test_demo_refuses_too_many_threads_and_a_folder_that_is_a_file(capsys, tmp_path):
    assert "threads must be from 1 to" in refuse(capsys, "demo", "--threads", "4000", "--out", str(tmp_path))
    (tmp_path / "file").touch()
    assert "file" in refuse(capsys, "demo", "--out", str(tmp_path / "file"))


def test_train_refuses_a_folder_without_data(capsys, tmp_path):
    assert "not a folder" in refuse(capsys, "train", "--data", str(tmp_path / "nowhere"))
    assert "none of train-images-idx3-ubyte" in refuse(capsys, "train", "--data", str(tmp_path))
    write_folder(tmp_path, size=(3, 9))
    assert "images of 3x9 are too small for 2 poolings" in refuse(capsys, "train", "--data", str(tmp_path))


# ---- the progress bar


class _Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_a_bar_only_on_a_terminal_with_tqdm(monkeypatch, installed, terminal):
    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys, "stderr", _Terminal() if terminal else io.StringIO())
    with progress(3, "batch") as advance:
        for i in range(3):
            advance(f"loss {i}")
    assert ("0/3" in sys.stderr.getvalue()) == (installed and terminal)


# ---- training


def test_confusion_matrix_and_its_table():
    confusion = confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 2]), 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 2]]
    assert matrix(confusion, "true").splitlines() == ["  true 0 1 2", "     0 1 1 .", "     1 . 1 .", "     2 . . 2"]


def test_weights_digest_sees_names_shapes_and_bits():
    state = {"a": np.zeros((2, 3), np.float32), "b": np.ones(2, np.float32)}
    digests = {
        weights_digest(state),
        weights_digest({**state, "a": np.zeros((3, 2), np.float32)}),
        weights_digest({**state, "a": -np.zeros((2, 3), np.float32)}),
        weights_digest({"a": state["a"], "c": state["b"]}),
    }
    assert len(digests) == 4 and weights_digest(dict(reversed(state.items()))) == weights_digest(state)


def test_fit_refuses_bad_arguments():
    model, images, labels = small_network((8, 8), 10, ((2, True),), 4), *digits("test")
    with pytest.raises(ValueError, match="epochs must be at least 1, given 0"):
        fit(model, images, labels, epochs=0)
    with pytest.raises(ValueError, match="learning rate must be positive, given -1"):
        fit(model, images, labels, epochs=1, lr=-1)


@pytest.mark.smoke
def test_fit_learns_and_repeats_with_the_seed():
    images, labels = digits("test")
    images, labels = images[labels < 2][:24], labels[labels < 2][:24]

    def once(seed):
        model = small_network((8, 8), 2, ((2, True),), 4)
        random = np.random.default_rng(seed)
        for parameter in model.parameters():
            parameter.data[...] = random.uniform(-0.3, 0.3, parameter.data.shape)
        losses = []
        fit(
            model,
            images,
            labels,
            epochs=6,
            batch_size=8,
            lr=0.03,
            seed=seed,
            shift=0.3,
            on_step=lambda _, loss: losses.append(loss),
        )
        return model, losses

    model, losses = once(0)
    assert len(losses) == 18 and np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    assert (predict(model, images).argmax(1) == labels).mean() > 0.9
    assert (
        weights_digest(once(0)[0].state_dict())
        == weights_digest(model.state_dict())
        != weights_digest(once(1)[0].state_dict())
    )


def test_train_on_a_small_folder(capsys, tmp_path):
    write_folder(tmp_path, train=40, test=20, size=(12, 11), ending=".gz")
    out = tmp_path / "out"
    assert main(["train", "--data", str(tmp_path), "--epochs", "1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "held-out accuracy" in text and "same predictions, bit for bit" in text
    assert len(list(out.glob("weights.*"))) == 1


def test_train_goes_on_from_its_checkpoint_and_keeps_a_log(capsys, monkeypatch, tmp_path):
    write_folder(tmp_path, train=60, test=20, size=(12, 11), ending="")
    checkpoints, write_log = [], train._write_log

    def keep_checkpoint(path, *rest):
        checkpoints.append((path.parent / "checkpoint.npz").read_bytes())
        write_log(path, *rest)

    def trained(out, *more):
        recipe = ["--epochs", "3", "--batch-size", "16", "--validation", "0.2", "--patience", "3"]
        assert main(["train", "--data", str(tmp_path), "--out", str(out), *recipe, *more]) == 0
        log = json.loads((out / "log.json").read_text(encoding="utf-8"))
        assert [record["epoch"] for record in log["epochs"]] == [1, 2, 3] and log["settings"]["batch_size"] == 16
        assert all(0 <= record["validation_accuracy"] <= 1 for record in log["epochs"])
        return re.search(r"^sha256 +(\w{64})$", capsys.readouterr().out, re.MULTILINE)[1]

    monkeypatch.setattr(train, "_write_log", keep_checkpoint)
    straight, out = trained(tmp_path / "straight"), tmp_path / "resumed"
    out.mkdir()
    (out / "checkpoint.npz").write_bytes(checkpoints[0])  # after the first epoch
    assert trained(out, "--resume") == straight
    assert "no checkpoint to go on from" in refuse(
        capsys, "train", "--data", str(tmp_path), "--out", str(tmp_path / "new"), "--resume"
    )
    assert "must be below 1" in refuse(capsys, "train", "--data", str(tmp_path), "--validation", "1.5")


@pytest.mark.slow
def test_train_and_demo_take_a_network_by_name(capsys, tmp_path):
    write_folder(tmp_path, train=24, test=8, size=(12, 12), ending="")
    common = ["--epochs", "1", "--batch-size", "8", "--model", "lenet5"]
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *common]) == 0
    assert "same predictions, bit for bit" in capsys.readouterr().out
    assert "no network is called 'lenet6'" in refuse(
        capsys, "demo", "--out", str(tmp_path / "out"), "--model", "lenet6", "--epochs", "1"
    )


def demo(folder, *args):
    result = run("demo", "--out", str(folder), *args)
    assert result.returncode == 0, result.stderr
    assert not result.stderr  # no progress bar where there is no terminal
    return result.stdout, re.search(r"^sha256 +(\w{64})$", result.stdout, re.MULTILINE)[1]


@pytest.mark.slow
def test_demo_reads_digits_and_repeats_bit_for_bit_at_one_thread_and_two(tmp_path):
    text, digest = demo(tmp_path / "two")
    accuracy = float(re.search(r"held-out accuracy ([\d.]+) %", text)[1])
    assert accuracy >= 98
    assert "same predictions, bit for bit" in text
    assert (tmp_path / "two" / "demo.png").stat().st_size > 20_000
    assert demo(tmp_path / "one", "--threads", "1")[1] == digest


@pytest.mark.slow
def test_demo_without_the_optional_packages(tmp_path):
    """Neither safetensors, tqdm nor matplotlib: weights as npz, no picture, and it says so."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['safetensors', 'tqdm', 'matplotlib'])); "
        "from fastconv.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "demo", "--epochs", "1", "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.npz"]
    assert "no picture: matplotlib is not installed" in result.stdout and "same predictions" in result.stdout
