"""Which implementation is chosen, and how the choice is explained."""

from dataclasses import dataclass, replace

import pytest

from fastconv import _config, _registry
from fastconv._registry import Impl, candidates, explain, implementations, implements, select
from fastconv.specs import conv_spec

from .processes import output

pytestmark = pytest.mark.smoke


@dataclass(frozen=True)
class Spec:
    """A problem of the tests: its size and batch."""

    size: int
    n: int = 1

    def for_one_image(self):
        return replace(self, n=min(self.n, 1))


@pytest.fixture
def operation():
    """An operation of three implementations: one refuses large problems, two cost the same."""
    name = "test.operation"

    @implements(name, rank=20)
    class Second(Impl):
        name = "second"
        cost = staticmethod(lambda spec: 10.0 * spec.n)

    @implements(name, rank=10)
    class First(Impl):
        name = "first"
        cost = staticmethod(lambda spec: 10.0 * spec.n)

    @implements(name, rank=30)
    class Small(Impl):
        name = "small"
        when = staticmethod(lambda spec: None if spec.size < 5 else f"needs a size below 5, has {spec.size}")
        cost = staticmethod(lambda spec: 4.0 + 5 * spec.n)

    yield name
    del _registry._implementations[name, "cpu"]
    _registry._select.cache_clear()


def test_order_and_choice(operation):
    assert operation in _registry.operations()
    assert [impl.name for impl in implementations(operation)] == ["first", "second", "small"]
    assert all(impl.operation == operation for impl in implementations(operation))
    assert select(operation, Spec(3)).name == "small"  # the least cost
    assert select(operation, Spec(9)).name == "first"  # equal costs: the lowest rank


def test_candidates_and_explanation(operation):
    answers = [(answer.impl.name, answer.refusal, answer.cost) for answer in candidates(operation, Spec(9))]
    assert answers == [("first", None, 10.0), ("second", None, 10.0), ("small", "needs a size below 5, has 9", None)]
    explanation = explain(operation, Spec(9))
    assert explanation.choice.name == "first" and not explanation.forced
    assert explanation.candidates == candidates(operation, Spec(9))


def test_forced(operation, monkeypatch):
    monkeypatch.setattr(_config, "IMPL", ("second", "small"))
    assert select(operation, Spec(3)).name == "second"
    assert explain(operation, Spec(9)).forced
    monkeypatch.setattr(_config, "IMPL", ("small",))
    assert select(operation, Spec(3)).name == "small"
    assert select(operation, Spec(9)).name == "first"  # it refuses


def test_forced_from_the_environment():
    code = "from fastconv import _config; print(_config.IMPL)"
    assert output(code, FASTCONV_IMPL=" a, b ,") == "('a', 'b')"
    assert output(code, FASTCONV_IMPL="") == "()"


def test_batch_invariance(operation):
    assert select(operation, Spec(3, n=1)).name == "small"
    assert select(operation, Spec(3, n=0)).name == "first"
    before = _config.batch_invariant()
    try:
        _config.batch_invariant(False)
        many = select(operation, Spec(3, n=4)).name
        _config.batch_invariant(True)
        assert select(operation, Spec(3, n=4)) is select(operation, Spec(3, n=1))
    finally:
        _config.batch_invariant(before)
    assert many == "small"


def test_nobody_accepts():
    name = "test.refused"

    @implements(name, rank=1)
    class Never(Impl):
        name = "never"
        when = staticmethod(lambda spec: "needs what nobody has")

    try:
        with pytest.raises(
            NotImplementedError, match=r"no implementation of test.refused takes Spec\(size=3.*needs what"
        ):
            select(name, Spec(3))
    finally:
        del _registry._implementations[name, "cpu"]
    with pytest.raises(NotImplementedError, match=r"no implementation of test.unknown"):
        select("test.unknown", Spec(3))
    assert implementations("test.unknown") == ()


def test_names_are_unique(operation):
    with pytest.raises(ValueError, match="already has an implementation named first"):

        @implements(operation, rank=1)
        class Again(Impl):
            name = "first"


def test_late_implementations_are_seen(operation):
    """Registered in a notebook after the problem has been computed once."""
    assert select(operation, Spec(9)).name == "first"

    @implements(operation, rank=1)
    class Late(Impl):
        name = "late"
        cost = staticmethod(lambda spec: 1.0)

    assert select(operation, Spec(9)).name == "late"


def test_convolutions_state_costs_and_refusals():
    """Every implementation of convolution answers every question about plain and odd problems."""
    from fastconv.ops import conv  # noqa: F401  (registers them)

    settings = [(1, 1, 1, 1), (3, 0, 2, 1), (1, "same", 2, 2), (1, 1, 1, 4)]
    specs = [
        conv_spec("conv2d", 2, (n, 4, 9, 11), (8, 4 // s[3], 3, 3), None, *s, "float32")
        for s in settings
        for n in (0, 1, 3)
    ]
    for name in ("conv.fwd", "conv.bwd_data", "conv.bwd_weights"):
        assert implementations(name)
        for spec in specs:
            for answer in candidates(name, spec):
                assert answer.impl.name.startswith(name.replace(".", "_"))
                assert (answer.refusal is None) == (answer.cost is not None)
                assert answer.refusal is None or (isinstance(answer.refusal, str) and answer.refusal)
                assert answer.cost is None or answer.cost >= 0
            assert select(name, spec) in implementations(name)


def test_what_has_no_other_algorithm_is_explained_too():
    from fastconv.kernels.deform import DeformSpec
    from fastconv.kernels.involution import InvolutionSpec
    from fastconv.kernels.non_local import NonLocalSpec
    from fastconv.kernels.shift import ShiftSpec
    from fastconv.specs import conv_spec

    depthwise = conv_spec("involution2d", 2, (1, 8, 9, 9), (8, 1, 3, 3), None, 2, 1, 1, 8, "float32")
    deform = DeformSpec(1, 8, 4, 1, 1, 9, 9, 7, 7, 1, 1, ((0, 0), (0, 1)), True, "float32")
    cases = {
        "shift.fwd": (ShiftSpec(1, 8, 9, 9, "float32"), "shift_fwd_rows"),
        "shift.bwd_displacement": (ShiftSpec(1, 8, 9, 9, "float32"), "shift_bwd_displacement_channels"),
        "involution.bwd_data": (InvolutionSpec(depthwise, 2), "involution_bwd_data_scatter"),
        "non_local.fwd": (NonLocalSpec(1, 8, 8, 81, 81, 0, "float32"), "non_local_fwd_streaming"),
        "deform_conv.fwd": (deform, "deform_conv_fwd_patches"),
        "deform_conv.bwd_weights": (deform, "deform_conv_bwd_weights_patches"),
        "adder.fwd": (depthwise, "adder_fwd_patches"),
    }
    for operation, (spec, name) in cases.items():
        explanation = _registry.explain(operation, spec)
        assert explanation.choice.name == name and explanation.candidates[0].cost != 0
    refusal = _registry.explain("involution.bwd_data", InvolutionSpec(depthwise, 2)).candidates[0].refusal
    assert refusal == "needs stride 1"
