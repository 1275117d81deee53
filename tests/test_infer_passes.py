"""Every pass: the graph before, the graph after, the same outputs."""

import numpy as np
import pytest

from fastconv.infer import Graph, Node
from fastconv.infer.passes import (
    Derived,
    activation,
    apart,
    batch_norm,
    chains,
    channels,
    constants,
    dead,
    means,
    optimise,
    pad,
    residual,
    scale,
    simple,
)

f32 = np.dtype("float32")
RNG = np.random.default_rng(0)
CONSTANTS = {
    "w": RNG.standard_normal((8, 8, 3, 3)).astype(f32),
    "b": RNG.standard_normal(8).astype(f32),
    "m": RNG.standard_normal(8).astype(f32),
    "v": RNG.random(8).astype(f32) + 0.5,
    "g": RNG.standard_normal(8).astype(f32),
    "l": RNG.standard_normal((8, 8)).astype(f32),
    "wt": RNG.standard_normal((8, 4, 3, 3)).astype(f32),
    "depth": RNG.standard_normal((8, 1, 3, 3)).astype(f32),
    "whole": RNG.standard_normal((8, 8, 1, 1)).astype(f32),
    "point": RNG.standard_normal((8, 4, 1, 1)).astype(f32),
    "one": np.full(1, 1.5, f32),
    "col": RNG.standard_normal((8, 1, 1)).astype(f32),
    "img": RNG.standard_normal((6, 6)).astype(f32),
}
SAME = {"padding": 1}


def graph_of(text, outputs=("y",), shape=(1, 8, 6, 6), **attrs):
    """A graph from lines "y = op(a, b)"; attrs: of the node that makes the value of this name."""
    nodes = []
    for line in text.strip().splitlines():
        made, _, call = line.strip().partition(" = ")
        op, _, given = call.partition("(")
        inputs = tuple(None if name == "-" else name for name in given.rstrip(")").split(", "))
        nodes.append(Node(op, inputs, (made,), attrs.get(made, {}), made))
    return Graph(nodes, {"x": (shape, f32), "z": (shape, f32)}, outputs, CONSTANTS).check()


def check(run, before, after):
    """`run` turns the graph into these lines ("y = op(a, b)", attributes aside) with the same outputs."""
    result = run(before.copy(), Derived()).check()
    lines = [
        f"{node.outputs[0]} = {node.op}({', '.join(name or '-' for name in node.inputs)})" for node in result.nodes
    ]
    assert lines == [line.strip() for line in after.strip().splitlines()]
    feeds = {name: RNG.standard_normal(t.shape).astype(f32) for name, t in before.inputs.items()}
    wanted, given = before.evaluate(feeds), result.evaluate(feeds)
    for name in before.outputs:
        np.testing.assert_allclose(given[name], wanted[name], rtol=1e-4, atol=1e-4)
    return result


def test_dead_code():
    before = graph_of("a = relu(x)\ny = tanh(x)\nc = add(a, y)")
    assert set(check(dead.run, before, "y = tanh(x)").constants) == set()


def test_identities_go():
    before = graph_of("a = identity(x)\nc = reshape(a)\ny = relu(c)", c={"shape": (1, 8, 6, 6)})
    check(simple.run, before, "y = relu(x)")


def test_a_mean_over_the_image_is_a_pooling():
    before = graph_of("y = mean(x)", y={"axes": (2, 3), "keepdim": False})
    check(simple.run, before, "y_pooled = adaptive_avg_pool(x)\ny = reshape(y_pooled)")


def test_constant_folding():
    before = graph_of("a = add(b, m)\nc = sqrt(v)\nd = mul(a, c)\ny = affine(x, d, b)")
    result = check(constants.run, before, "y = affine(x, d, b)")
    np.testing.assert_allclose(result.constants["d"], (CONSTANTS["b"] + CONSTANTS["m"]) * np.sqrt(CONSTANTS["v"]))


PADS = {"pads": ((0, 0), (0, 0), (0, 1), (2, 0)), "mode": "constant", "fill": 0}


def test_padding_goes_into_the_convolution():
    before = graph_of("a = pad(x)\ny = conv(a, w, b)", a=PADS, y={**SAME, "stride": 2})
    result = check(pad.run, before, "y = conv(x, w, b)")
    assert result.nodes[0].attrs["padding"] == ((1, 2), (3, 1))


@pytest.mark.parametrize("change, why", [({"fill": 1}, "zeros"), ({"mode": "reflect"}, "zeros")])
def test_other_padding_stays(change, why):
    pads = {**PADS, "pads": ((0, 0), (0, 0), (1, 1), (1, 1)), **change}
    result = check(pad.run, graph_of("a = pad(x)\ny = conv(a, w, b)", a=pads), "a = pad(x)\ny = conv(a, w, b)")
    assert why in result.nodes[0].notes[0]


def test_what_nobody_holds_is_made_again():
    derived, calls = Derived(), []

    def double(array, times):
        calls.append(times)
        return array * times

    w = np.ones(5000, f32)
    first = derived(double, w, times=2)
    assert derived(double, w, times=2) is first and derived.key(first) != derived.key(w)
    key = derived.key(first)
    del first
    again = derived(double, w, times=2)
    assert calls == [2, 2] and derived.key(again) == key and derived.key(derived(double, again, times=3)) != key


LAST, FIRST = {"axes": (0, 2, 3, 1)}, {"axes": (0, 3, 1, 2)}
ROWS, IMAGE = {"shape": (36, 8)}, {"shape": (1, 6, 6, 8)}


def test_channels_last_stretches_are_turned_round():
    before = graph_of(
        """a = permute(x)
        c = reshape(a)
        d = layer_norm(c, g, b)
        e = linear(d, l, b)
        f = gelu(e)
        h = mul(f, m)
        i = reshape(h)
        j = add(i, a)
        y = permute(j)""",
        **{"a": LAST, "c": ROWS, "d": {"eps": 1e-5}, "i": IMAGE, "y": FIRST},
    )
    after = """d_image = channel_norm(x, g, b)
        e_image = conv(d_image, l_1x1, b)
        f_image = gelu(e_image)
        h_image = mul(f_image, m_column)
        j_image = add(h_image, x)
        y = identity(j_image)"""
    check(channels.run, before, after)


def test_channels_stay_last_where_turning_saves_nothing():
    before = graph_of("a = permute(x)\nc = reshape(a)\ny = linear(c, l, b)", a=LAST, c=ROWS)
    result = check(channels.run, before, "a = permute(x)\nc = reshape(a)\ny = linear(c, l, b)")
    assert "channels stay last" in result.nodes[0].notes[0]


@pytest.mark.parametrize("op", ["mul", "add", "sub", "div"])
def test_numbers_for_each_channel_go_into_the_weights(op):
    before = graph_of(f"a = conv(x, w, -)\nc = reshape(m)\ny = {op}(a, c)", a=SAME, c={"shape": (8, 1, 1)})
    before = constants.run(before, Derived())
    check(scale.run, before, "y = conv(x, w_scaled, w_scaled_bias)")
    if op != "div":
        before.nodes[-1].inputs = before.nodes[-1].inputs[::-1]
        check(scale.run, before, "y = conv(x, w_scaled, w_scaled_bias)")


def test_other_numbers_stay():
    check(scale.run, graph_of("a = conv(x, w, b)\ny = mul(a, z)", a=SAME), "a = conv(x, w, b)\ny = mul(a, z)")
    before = graph_of("a = relu(x)\nc = conv(a, w, b)\ny = mul(c, v)", c=SAME, shape=(1, 8, 6, 8))  # v: by column
    check(scale.run, before, "a = relu(x)\nc = conv(a, w, b)\ny = mul(c, v)")


def test_batch_norm_goes_into_the_convolution():
    before = graph_of("a = conv(x, w, -)\ny = batch_norm(a, m, v, g, b)", a=SAME, y={"eps": 1e-3})
    check(batch_norm.run, before, "y = conv(x, w_folded, w_folded_bias)")


def test_batch_norm_goes_into_other_layers():
    before = graph_of(
        "a = conv_transpose(x, wt, b)\ny = batch_norm(a, m, v, -, -)", a={"groups": 2, "stride": 2}, y={"eps": 1e-5}
    )
    check(batch_norm.run, before, "y = conv_transpose(x, wt_folded, wt_folded_bias)")
    before = graph_of("a = linear(x, l, b)\ny = batch_norm(a, m, v, g, b)", shape=(3, 8))
    check(batch_norm.run, before, "y = linear(x, l_folded, l_folded_bias)")


def test_batch_norm_alone_is_scale_and_shift():
    before = graph_of("a = conv(x, w, b)\ny = batch_norm(a, m, v, g, b)", ("y", "a"), a=SAME)
    result = check(batch_norm.run, before, "a = conv(x, w, b)\ny = affine(a, y_scale, y_shift)")
    assert "read by others" in result.nodes[1].notes[0]


def test_chains_of_scales_and_shifts_become_one():
    before = graph_of("a = mul(x, one)\nb1 = add(col, a)\nd = div(b1, one)\ny = sub(d, col)")
    result = check(chains.run, before, "y = affine(x, y_scale, y_shift)")
    assert "a, b1, d, y as one" in result.nodes[0].notes[0]


def test_scales_go_into_the_convolution_before_them():
    before = graph_of("a = conv(x, w, b)\nd = mul(a, one)\ny = add(d, col)", a=SAME)
    check(optimise_with(chains, batch_norm, dead), before, "y = conv(x, w_folded, w_folded_bias)")


def test_scales_go_into_the_convolution_after_them():
    before = graph_of("r = relu(x)\na = mul(r, one)\nd = add(a, col)\ny = conv(d, point, b)", y={"groups": 2})
    check(optimise_with(chains, dead), before, "r = relu(x)\ny = conv(r, point_scaled, point_shifted)")
    padded = graph_of("r = relu(x)\na = mul(r, one)\nd = add(a, col)\ny = conv(d, w)", y=SAME)
    after = "r = relu(x)\nd = affine(r, d_scale, d_shift)\ny = conv(d, w)"
    check(chains.run, padded, after)


def test_scales_that_stay():
    for line in ("y = mul(x, one)", "a = mul(x, img)\ny = add(a, img)", "a = sub(one, x)\ny = div(one, a)"):
        check(chains.run, graph_of(line), line)
    twice = "a = mul(x, one)\nd = add(a, one)\ny = mul(a, d)"
    check(chains.run, graph_of(twice), twice)


def optimise_with(*passes):
    def run(graph, derived):
        for each in passes:
            graph = each.run(graph, derived)
        return graph

    return run


def test_folded_weights_are_made_once():
    derived = Derived()
    graph = graph_of("a = conv(x, w, -)\ny = batch_norm(a, m, v, g, b)", a=SAME)
    first, second = (batch_norm.run(graph.copy(), derived) for _ in range(2))
    assert first.constants["w_folded"] is second.constants["w_folded"]


def test_a_residual_is_added_in_the_later_convolution():
    before = graph_of("a = conv(x, w, b)\nc = conv(z, w, b)\ny = add(a, c)", a=SAME, c=SAME)
    check(residual.run, before, "a = conv(x, w, b)\ny = conv(z, w, b, a)")


def test_a_residual_waits_for_the_other_operand():
    before = graph_of("a = conv(x, w, -)\nc = tanh(z)\ny = add(c, a)", a=SAME)
    check(residual.run, before, "c = tanh(z)\ny = conv(x, w, -, c)")


def test_sums_that_no_convolution_does():
    before = graph_of("a = conv(x, w, b)\nc = add(a, x)\ny = add(a, c)", a=SAME)
    check(residual.run, before, "a = conv(x, w, b)\nc = add(a, x)\ny = add(a, c)")
    before = graph_of("a = conv(x, w, b)\ny = add(a, g)", a=SAME, shape=(1, 8, 6, 8))  # broadcast
    check(residual.run, before, "a = conv(x, w, b)\ny = add(a, g)")


def test_activations_that_clamp():
    before = graph_of(
        "a = conv(x, w, b)\nc = relu6(a)\nd = add(c, z)\ne = relu(d)\ny = clip(e)", a=SAME, y={"low": -1.0, "high": 2.0}
    )
    result = check(activation.run, before, "c = conv(x, w, b)\ny = add(c, z)")
    bounds = [(node.attrs["low"], node.attrs["high"]) for node in result.nodes]
    assert bounds == [(0.0, 6.0), (0.0, 2.0)]


@pytest.mark.parametrize("first", [(0.0, 6.0), (-1.0, None), (None, 1.0)])
@pytest.mark.parametrize("second", [(7.0, 9.0), (None, -2.0), (-3.0, 0.5), (0.5, None)])
def test_clamping_twice(first, second):
    x = np.linspace(-10, 10, 101)
    low, high = activation._both(first, second)
    np.testing.assert_array_equal(np.clip(x, low, high), np.clip(np.clip(x, *first), *second))


def test_the_mean_of_an_activation():
    before = graph_of(
        "a = conv(x, w, b)\nc = silu(a)\nd = adaptive_avg_pool(c)\ne = sigmoid(d)\ny = mul(c, e)",
        a=SAME,
        d={"output_size": 1},
    )
    after = "a = conv(x, w, b)\nc = activation_mean(a)\ne = sigmoid(d)\ny = mul(c, e)"
    result = check(means.run, before, after)
    assert result.nodes[1].outputs == ("c", "d")
    parts = graph_of("c = silu(x)\ny = adaptive_avg_pool(c)", y={"output_size": 2})
    check(means.run, parts, "c = silu(x)\ny = adaptive_avg_pool(c)")


def test_why_nodes_stay_apart():
    before = graph_of(
        "a = conv(x, depth, b)\nc = conv(a, whole, b)\nd = silu(c)\ne = sigmoid(z)\nf = mul(d, e)\ny = max_pool(f)",
        a={"padding": 1, "groups": 8},
        y={"kernel": 2},
    )
    result = check(
        apart.run, before, "\n".join(f"{n.outputs[0]} = {n.op}({', '.join(n.inputs)})" for n in before.nodes)
    )
    notes = {node.outputs[0]: " ".join(node.notes) for node in result.nodes}
    assert "block by block" in notes["c"] and "arithmetic" in notes["d"] and notes["a"] == notes["f"] == ""


def test_an_activation_that_others_bypass_stays():
    before = graph_of("a = conv(x, w, b)\nc = relu(a)\ny = add(a, c)", a=SAME)
    result = check(activation.run, before, "a = conv(x, w, b)\nc = relu(a)\ny = add(a, c)")
    assert "read by others" in result.nodes[1].notes[0]


def test_all_together():
    before = graph_of(
        """a = conv(x, w, -)
        n = batch_norm(a, m, v, g, b)
        r = relu(n)
        p = pad(r)
        c = conv(p, w, b)
        k = batch_norm(c, m, v, -, -)
        s = add(k, x)
        y = relu(s)""",
        a=SAME,
        p={"pads": ((0, 0), (0, 0), (1, 1), (1, 1)), "mode": "constant", "fill": 0},
    )
    after = "r = conv(x, w_folded, w_folded_bias)\ny = conv(r, w_folded_1, w_folded_bias_1, x)"
    result = check(optimise, before, after)
    assert len(result.nodes[1].notes) == 4
