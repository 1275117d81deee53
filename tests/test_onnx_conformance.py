"""The public conformance suite of ONNX, node by node and model by model, through `fastconv.onnx.backend`.

Each file of node cases is one test here; what is left out is named with its reason.
"""

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("onnx") is None:
    pytest.skip("the onnx package is not installed", allow_module_level=True)

import onnx
import onnx.backend.test

from fastconv.onnx import ModelError, backend

SUITE = Path(onnx.backend.test.__file__).parent
MODULES = sorted(p.stem for p in (SUITE / "case" / "node").glob("*.py") if p.stem != "__init__")
MODELS = sorted(
    p.parent.relative_to(SUITE / "data").as_posix()
    for kind in ("pytorch-converted", "pytorch-operator", "simple")
    for p in (SUITE / "data" / kind).glob("*/model.onnx")
)

TRAINING = "operators of the training domain: there is autograd for that"
TEXT = "operators on text"
TREES = "classical machine learning of the ai.onnx.ml domain"
LEFT_OUT = {  # a pattern of case names -> why
    r"test_adagrad|test_adam|test_momentum|test_nesterov|gradient_of": TRAINING,
    r"ai_onnx_ml": TREES,
    r"string_concat|string_split|strnorm|regex|tfidf": TEXT,
    r"image_decoder": "decoding images is left to Pillow and others",
    r"bernoulli": "draws from another random generator than the case's",
    r"cast_e8m0_FLOAT(16)?_to": "NumPy has no float8e8m0",
    r"attention.*bf16": "NumPy has no bfloat16",
    r"attention_4d_causal_fp16": "one unit of float16 beside the case: products are summed in float32 here",
}


def reason(name):
    return next((why for pattern, why in LEFT_OUT.items() if re.search(pattern, name)), None)


def node_cases(module):
    """The cases that a file of the suite adds when it is imported."""
    from onnx.backend.test.case import node

    if module not in node_cases.found:
        before = len(node._NodeTestCases)
        importlib.import_module(f"{node.__name__}.{module}")
        node_cases.found[module] = node._NodeTestCases[before:]
    return node_cases.found[module]


node_cases.found = {}


def array_of(value):
    """What the suite gives as an array, list or message, as arrays."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return [array_of(v) for v in value] if isinstance(value, list) else value


def difference(got, wanted, rtol, atol):
    """What is wrong with a result, or None."""
    if isinstance(wanted, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(wanted):
            return f"{type(got).__name__} for a list of {len(wanted)}"
        found = (difference(g, w, rtol, atol) for g, w in zip(got, wanted, strict=True))
        return next((text for text in found if text), None)
    if wanted is None:
        return None if got is None else f"{got} for nothing"
    wanted = np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{list(got.shape)} for {wanted.dtype}{list(wanted.shape)}"
    if wanted.dtype.kind in "OUSb":
        return None if np.array_equal(got, wanted) else "other elements"
    got, wanted = (a.astype(np.complex128 if a.dtype.kind == "c" else np.float64) for a in (got, wanted))
    if np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=True):
        return None
    return f"differs by {np.nanmax(np.abs(got - wanted))} at most"


def run_case(model, data_sets, rtol, atol, **options):
    """What is wrong with a case, or None."""
    try:
        prepared = backend.prepare(model, **options)
        for inputs, outputs in data_sets:
            got = prepared.run([array_of(a) for a in inputs])
            found = difference(got, [array_of(a) for a in outputs], rtol, atol)
            if found:
                return found
    except (ModelError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("module", MODULES)
def test_node_cases(module):
    cases = node_cases(module)
    run = [case for case in cases if reason(case.name) is None]
    found = {case.name: run_case(case.model, case.data_sets, case.rtol, case.atol, compiled=False) for case in run}
    problems = {name: text for name, text in found.items() if text}
    assert not problems, f"{len(problems)} of {len(run)}: {problems}"
    if cases and not run:
        pytest.skip(reason(cases[0].name))


def stored(path, info):
    data, kind = path.read_bytes(), info.type.WhichOneof("value")
    if kind == "sequence_type":
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def model_case(name):
    """(ModelProto, [(inputs, outputs)])."""
    folder = SUITE / "data" / name
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        pair = []
        for word, infos in (("input", model.graph.input), ("output", model.graph.output)):
            count = len(list(data.glob(f"{word}_*.pb")))
            pair.append([stored(data / f"{word}_{i}.pb", infos[i]) for i in range(count)])
        sets.append(tuple(pair))
    return model, sets


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_model_cases(name):
    why = reason(name)
    if why:
        pytest.skip(why)
    model, sets = model_case(name)
    assert run_case(model, sets, 1e-3, 1e-6, compiled=False) is None
