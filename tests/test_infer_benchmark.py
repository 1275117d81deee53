"""The benchmark of compiled networks: what it keeps of earlier runs, and its report."""

import json

import numpy as np
import pytest

import fastconv as fc
from benchmarks import networks, networks_report


def row(network, batch=1, threads=1, ours=2.0, peer=3.0):
    measured = {"fastconv": {"seconds": ours / 1e3}, "onnxruntime": {"seconds": peer / 1e3}}
    keys = {"network": network, "batch": batch, "threads": threads}
    left_out = {"ncnn": "no converter in its Python package"}
    return {**keys, "measured": measured, "ratios": {"onnxruntime": peer / ours}, "left_out": left_out}


def results(*rows):
    about = {"cpu": "a processor", "date": "today", "repeat": 3, "commit": "abc", "load": 0.1, "absent": {}}
    return {**about, "versions": {"fastconv": "1"}, "rows": list(rows)}


def test_networks_exist():
    assert set(networks.NETWORKS) <= set(fc.models.list_models())
    assert set(networks.QUICK) <= set(networks.NETWORKS)


def test_a_part_measured_anew_replaces_only_itself():
    before = results(row("resnet18"), row("alexnet", threads=2), row("alexnet", ours=9.0))
    after = networks.merged(before, results(row("alexnet", ours=1.0)))
    assert [networks.row_key(r) for r in after["rows"]] == [("alexnet", 1, 1), ("resnet18", 1, 1), ("alexnet", 1, 2)]
    assert after["rows"][0]["measured"]["fastconv"]["seconds"] == 1e-3


def test_report(tmp_path):
    pytest.importorskip("matplotlib")
    given = results(row("resnet18"), row("alexnet", ours=4.0), row("resnet18", threads=2))
    paths = networks_report.write(json.loads(json.dumps(given)), tmp_path)
    text = paths[0].read_text()
    assert "## Batch 1, 1 thread\n" in text and "## Batch 1, 2 threads\n" in text
    assert "| resnet18 | **2** | 3 | 1.50 |" in text and "| alexnet | 4 | **3** | 0.75 |" in text
    assert "level or ahead on 1 of 2 networks" in text and "ncnn: no converter" in text
    assert paths[1].stat().st_size > 1000


def test_example_has_the_same_weights_for_all():
    (name, state, model), x = networks.example("squeezenet1_0", 2)
    assert name == "squeezenet1_0" and x.shape == (2, 3, 224, 224) and not model.training
    assert all(state[key] is array or np.array_equal(state[key], array) for key, array in model.state_dict().items())
