"""The benchmarks' own parts: table of layers, counts of operations, checks of outputs, report.  Nothing is timed."""

import csv
import json
import re

import numpy as np
import pytest

from benchmarks import measure, operation_cases, operation_report, readme_table, report
from benchmarks.layers import LAYERS, PASSES, Case, MissingError, read
from fastconv.specs import conv_spec

CASES = {case.name: case for case in read()}
ROW = {
    **{"name": "small", "op": "conv2d", "batch": "2", "in_channels": "4", "size": "5x7", "out_channels": "6"},
    **{"kernel": "3", "stride": "2x1", "padding": "1", "dilation": "", "groups": "2", "from": "nowhere"},
}


def test_every_row_of_the_table_is_a_case():
    with LAYERS.open(newline="", encoding="utf-8") as file:
        assert list(CASES) == [row["name"] for row in csv.DictReader(file)]


def test_parse_spreads_single_sizes_and_fills_empty_ones():
    case = Case.parse(ROW)
    assert (case.kernel, case.stride, case.padding, case.dilation) == ((3, 3), (2, 1), (1, 1), (1, 1))
    assert (case.batch, case.groups, case.kind, case.passes) == (2, 2, "conv", PASSES)
    assert case.shapes == {"x": (2, 4, 5, 7), "gy": (2, 6, 3, 7), "w": (6, 2, 3, 3)}


def test_parse_refuses_a_wrong_number_of_sizes():
    with pytest.raises(ValueError, match=r"'3x3x3' has 3 sizes, the layer has 2 spatial dimensions"):
        Case.parse({**ROW, "kernel": "3x3x3"})


def test_an_adaptive_pool_has_its_output_size_in_the_channels_column():
    pool = CASES["gap_2048_7"]
    assert (pool.out_channels, pool.out_size, pool.unit, pool.passes) == (2048, (1, 1), "GB/s", ("fwd", "bwd_data"))


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("vgg_conv1_2", 2 * 224 * 224 * 64 * 64 * 9),
        ("vgg_conv5_1", 2 * 14 * 14 * 512 * 512 * 9),
        ("mobilenet_dw_32_112", 2 * 112 * 112 * 32 * 9),
        ("lenet_5x5_6_16_b64", 2 * 64 * 10 * 10 * 16 * 6 * 25),
        ("unet_up_256_128", 2 * 28 * 28 * 256 * 128 * 4),
        ("max3s2_64_112", 0),
    ],
)
def test_flops_of_known_layers(name, flops):
    assert CASES[name].flops == flops


def test_sizes_flops_and_bytes_agree_with_the_spec_of_every_convolution():
    for case in CASES.values():
        if case.kind == "conv":
            shapes = case.shapes
            settings = (case.stride, case.padding, case.dilation, case.groups)
            spec = conv_spec(case.op, case.ndim, shapes["x"], shapes["w"], None, *settings, "float32")
            assert (case.shapes["gy"], case.flops, case.bytes) == (spec.y_shape, spec.flops(), spec.bytes()), case.name


def test_sizes_of_transposed_convolutions_and_pools():
    assert CASES["hifigan_up_512_256"].shapes["gy"] == (1, 256, 800)
    assert CASES["fcn_up_21_16"].shapes["w"] == (21, 1, 16, 16)
    assert CASES["max3d_64"].shapes["gy"] == (1, 64, 4, 28, 28)


def test_batch_can_be_changed():
    case = CASES["vgg_conv5_1"]
    assert case.with_batch(None) is case
    assert case.with_batch(8).flops == 8 * case.flops


def test_inputs_are_seeded_and_outputs_of_order_one():
    case = Case.parse(ROW)
    first, second = case.arrays(), case.arrays()
    assert all(np.array_equal(first[name], second[name]) and first[name].dtype == np.float32 for name in case.shapes)
    assert first["w"].std() == pytest.approx((2 * 9) ** -0.5, rel=0.2)


@pytest.mark.smoke
@pytest.mark.parametrize("which", PASSES)
def test_a_small_layer_runs(which):
    case = Case.parse(ROW)
    result = case.functional(which, case.arrays())()
    assert result.shape == case.shapes[{"fwd": "gy", "bwd_data": "x", "bwd_weights": "w"}[which]]


def test_the_layer_and_the_function_agree():
    from fastconv import no_grad

    case = Case.parse(ROW)
    arrays = case.arrays()
    layer = case.layer(arrays)
    with no_grad():
        np.testing.assert_allclose(layer(arrays["x"]), case.functional("fwd", arrays)(), rtol=1e-5, atol=1e-5)


def test_a_missing_function_is_named():
    case = Case.parse({**ROW, "op": "unheard_of_conv2d"})
    with pytest.raises(MissingError, match=r"functional.unheard_of_conv2d"):
        case.functional("fwd", case.arrays())


def test_check_measures_errors_and_refuses_wrong_outputs():
    want = np.array([1.0, -1.0], np.float32)
    assert measure.check(want + np.float32(0.25), want, 1) == pytest.approx(0.25)
    with pytest.raises(measure.WrongResultError, match="differs by 2"):
        measure.check(-want, want, 1e-2)
    with pytest.raises(measure.WrongResultError, match=r"shape \(3,\), expected \(2,\)"):
        measure.check(np.zeros(3, np.float32), want, 1)
    with pytest.raises(measure.WrongResultError, match="nan"):
        measure.check(np.full(2, np.nan, np.float32), want, 1)


def test_interleave_gives_every_candidate_its_turns():
    calls = []
    candidates = {name: measure.Candidate(lambda name=name: calls.append(name)) for name in "ab"}
    samples = measure.interleave(candidates, repeat=4)
    assert {name: len(times) for name, times in samples.items()} == {"a": 4, "b": 4}
    assert set(calls) == {"a", "b"}


def test_ratio_ignores_noise_that_slows_a_whole_round():
    assert measure.ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.1]) == pytest.approx(2)


def sample_results():
    """Measurements as compare.py saves them: one layer, two libraries."""

    def entry(seconds):
        return {"seconds": seconds, "fastest": seconds, "rate": 0.2 / seconds, "error": 0.0, "share_of_peak": 0.5}

    row = {"case": "vgg", "op": "conv2d", "batch": 1, "pass": "fwd", "threads": 1, "unit": "GFLOP/s"}
    row["left_out"] = {"mnn": "its converter refuses the layer"}
    row["measured"] = {"fastconv": entry(0.002), "fastconv_layer": entry(0.001), "pytorch": entry(0.004)}
    row["ratios"] = {"fastconv": {"pytorch": 2.0}, "fastconv_layer": {"pytorch": 4.0}}
    about = {"cpu": "a CPU", "date": "today", "commit": "abc", "repeat": 3, "versions": {"numpy": "2"}}
    about |= {"threading layer": "omp", "load": 0.1}
    missing = [{"case": "shift", "pass": "fwd", "reason": "functional.shift2d is not there yet"}]
    peak = [{"threads": 1, "gflops": 100.0, "gbytes": 20.0}]
    return {**about, "absent": {"ncnn": "no module"}, "peak": peak, "not_there_yet": missing, "rows": [row]}


def test_report_names_speeds_ratios_and_what_is_missing():
    text = report.markdown(sample_results())
    assert "| vgg | GFLOP/s | **200.0** | 100.0 | 50.0 | 4.00 | 4.00 | 50% |" in text
    assert "4.00 times the best peer of each row (1 of 1 rows level or ahead)" in text
    assert "Absent: ncnn (no module)" in text
    assert "shift fwd: functional.shift2d is not there yet" in text
    assert "MNN, fwd: its converter refuses the layer (vgg)" in text


def test_report_is_written_with_a_plot_per_pass(tmp_path):
    pytest.importorskip("matplotlib")
    results = json.loads(json.dumps(sample_results()))
    assert [path.name for path in report.write(results, tmp_path)] == ["compare.md", "compare_fwd.png"]
    assert (tmp_path / "compare_fwd.png").stat().st_size > 5000


def test_the_readme_gets_its_table_and_keeps_the_rest(tmp_path):
    readme, results = tmp_path / "README.md", sample_results()
    readme.write_text(f"before\n{readme_table.BEGIN}\nold\n{readme_table.END}\nafter\n", encoding="utf-8")
    for _ in range(2):  # again with the same result
        readme_table.update(results, readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith(f"{readme_table.END}\nafter\n") and "old" not in text
    assert text.count("| layer |") == 1 and all(f"| {row['case']} |" in text for row in results["rows"][:1])


def test_every_operation_but_convolutions_is_measured():
    from fastconv import functional

    calls = []

    class Recorder:
        def __getattr__(self, name):
            calls.append(name)
            return lambda *args, **kwargs: [self]

    for case in operation_cases.read():
        case.call(Recorder(), **dict.fromkeys(case.operands))
    without = ("conv1d", "conv2d", "conv3d", "_input", "_weight", "_loss", "logits", "dropout", "depth", "upsample")
    names = {re.sub("[123]d$", "", name) for name in vars(functional) if not name.startswith("_") and name != "ops"}
    measured = {re.sub("[123]d$", "", name) for name in calls}
    missing = {name for name in names - measured if not any(word in name for word in without)}
    small = {"cat", "split", "stack", "flatten", "channel_split", "relu6", "leaky_relu", "prelu", "hardsigmoid", "conv"}
    variants = {"max_blur_pool", "gated_pool", "shift_groups", "sparse_shift", "active_conv", "deform_aggregate"}
    assert missing <= small | variants | {"adder_learning_rate"}


def test_the_operations_report_marks_what_reaches_its_goal(tmp_path):
    row = {"group": "Pooling", "name": "max", "goal": 3, "pass": "fwd", "threads": 1, "error": 0.0}
    row |= {"ours": 1e-3, "torch": 4e-3, "ratio": 4.0}
    about = {"cpu": "a CPU", "date": "today", "commit": "abc", "repeat": 3, "load": 0.1}
    about |= {"versions": {"torch": "2", "threading layer": "omp"}}
    results = {**about, "rows": [row, {**row, "pass": "bwd", "ratio": 2.0}]}
    text = operation_report.markdown(results)
    assert "| max | 3 | 1.000 / 4.000: **4.00** | 1.000 / 4.000: 2.00 |" in text
    assert "forward, 1 thread 4.00 (1 of 1 reach the goal)" in text
    pytest.importorskip("matplotlib")
    assert operation_report.write(results, tmp_path)[1].stat().st_size > 5000
