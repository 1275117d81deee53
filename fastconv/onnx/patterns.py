"""Activations that exporters spell out: several operators become the one operation with a kernel.

    x clip(x + 3, 0, 6) / 6    hardswish, in any order of the product and the division, or with a factor of 1/6
    clip(x + 3, 0, 6) / 6      hardsigmoid          x hardsigmoid(x)   hardswish          x sigmoid(x)   silu
    x (1 + erf(x / sqrt 2)) / 2                     gelu, in any order of the products
    (x - mean x) / sqrt(mean (x - mean x)^2 + eps) w + b       layer_norm, of the last axes; w and b may be missing
    x W + b                                         linear with a bias

What lies in between is left to the pass that removes what nobody reads.
"""

from math import prod

import numpy as np

from ..infer import Node


def fuse(low):
    """The steps of a `Lowering`, those that end a pattern replaced."""
    steps = low.steps = _without_ones(low)
    finder, rows = _Finder(steps, low.known), _Rows(low)
    made = []
    for step in steps:
        found = rows.replaced(step)
        made += [finder.replaced(step)] if found is None else found
    return made


def _without_ones(low):
    """The steps, products with one and quotients by it as identities that nobody reads."""
    same, made = {}, []
    for step in low.steps:
        inputs = tuple(same.get(name, name) for name in step.inputs)
        step = Node(step.op, inputs, step.outputs, step.attrs, step.name)
        if step.op in ("mul", "div") and not step.attrs and len(inputs) == 2:
            pairs = (inputs, inputs[::-1]) if step.op == "mul" else (inputs,)
            x = next((x for x, one in pairs if one in low.known and (low.known[one] == 1).all()), None)
            if x is not None and low.type(x) == low.type(step.outputs[0]) and low.sized(x):
                same[step.outputs[0]] = x
                step = Node("identity", (x,), step.outputs, {}, step.name)
        made.append(step)
    return made


class _Rows:
    """What ends in a sum, product or quotient and treats its operand as rows of a matrix."""

    def __init__(self, low):
        self._low = low
        self._made = {name: step for step in low.steps for name in step.outputs}

    def replaced(self, step):
        """The steps instead of this one, or None."""
        if step.op not in ("add", "mul", "div") or len(step.inputs) != 2 or set(step.attrs):
            return None
        if not all(self._low.sized(name) for name in (*step.inputs, *step.outputs)):
            return None
        return self._biased(step) or self._normalised(step)

    def _by(self, name, *ops):
        step = self._made.get(name)
        return step if step is not None and step.op in ops and not set(step.attrs) & {"low", "high"} else None

    def _split(self, step):
        """(the operand that is not constant, the constant one), of a sum or product of both."""
        for x, constant in (step.inputs, step.inputs[::-1]):
            if constant in self._low.known and x not in self._low.known:
                return x, constant
        return None, None

    def _is_row(self, constant, width):
        """Whether an array has a value for each place in the last axis and nothing else."""
        shape = self._low.shape(constant)
        return bool(shape) and shape[-1] == width == prod(shape)

    def _biased(self, step):
        """A product with weights, as rows, and then a value for each column."""
        x, constant = self._split(step) if step.op == "add" else (None, None)
        reshaped = self._by(x, "reshape")
        linear = self._by(reshaped.inputs[0] if reshaped else x, "linear")
        if linear is None or linear.inputs[2] is not None or self._low.shape(x) != self._low.shape(step.outputs[0]):
            return None
        if not self._is_row(constant, self._low.shape(linear.outputs[0])[-1]):
            return None
        bias = self._low.constant("flat", constant, lambda v: np.ascontiguousarray(v.reshape(-1)))
        inputs, attrs = (*linear.inputs[:2], bias), dict(linear.attrs)
        if reshaped is None:
            return [Node("linear", inputs, step.outputs, attrs, step.name)]
        made = self._fresh(f"{step.outputs[0]}/biased", linear.outputs[0])
        product = Node("linear", inputs, (made,), attrs, step.name)
        return [product, Node("reshape", (made,), step.outputs, dict(reshaped.attrs), step.name)]

    def _fresh(self, stem, like):
        name = self._low.fresh(stem)
        self._low.types[name] = self._low.type(like)
        return name

    # ---- normalisation

    def _normalised(self, step):
        shift, scale, inner = None, None, step
        if inner.op == "add":
            name, shift = self._split(inner)
            inner = self._by(name, "mul", "div")
        if inner is not None and inner.op == "mul":
            name, scale = self._split(inner)
            inner = self._by(name, "div")
        found = None if inner is None else self._quotient(inner)
        if found is None:
            return None
        x, eps = found
        width = self._low.shape(x)[-1]
        if any(name is not None and not self._is_row(name, width) for name in (shift, scale)):
            return None
        if self._low.shape(step.outputs[0]) != self._low.shape(x):
            return None
        return self._layer_norm(step, x, scale, shift, width, eps)

    def _layer_norm(self, step, x, scale, shift, width, eps):
        low, shape = self._low, self._low.shape(x)
        flat = [
            None if n is None else low.constant("flat", n, lambda v: np.ascontiguousarray(v.reshape(-1)))
            for n in (scale, shift)
        ]
        rows, made = self._fresh(f"{step.outputs[0]}/rows", x), self._fresh(f"{step.outputs[0]}/normalised", x)
        return [
            Node("reshape", (x,), (rows,), {"shape": (-1, width)}, step.name),
            Node("layer_norm", (rows, *flat), (made,), {"eps": eps}, step.name),
            Node("reshape", (made,), step.outputs, {"shape": shape}, step.name),
        ]

    def _quotient(self, step):
        """(x, eps) of (x - mean x) / sqrt(mean (x - mean x)^2 + eps), or None."""
        if step.op != "div":
            return None
        difference, root = self._by(step.inputs[0], "sub"), self._by(step.inputs[1], "sqrt")
        total = self._by(root.inputs[0], "add") if root else None
        if difference is None or total is None:
            return None
        variance, eps = self._split(total)
        square = self._mean_of(variance) if eps is not None and self._low.known[eps].size == 1 else None
        product = self._by(square, "mul") if square else None
        x, mean = difference.inputs
        if product is None or product.inputs != (step.inputs[0],) * 2 or self._mean_of(mean) != x:
            return None
        return x, float(self._low.known[eps].reshape(-1)[0])

    def _mean_of(self, name):
        """What a value is the mean of, over the last axis, which stays."""
        step = self._by(name, "adaptive_avg_pool", "mean")
        if step is None:
            return None
        shape = self._low.shape(step.inputs[0])
        if step.op == "mean":
            last = tuple(step.attrs["axes"]) == (len(shape) - 1,) and step.attrs["keepdim"]
        else:
            last = tuple(step.attrs["output_size"]) == (1,) and len(shape) == 3
        return step.inputs[0] if last else None


class _Finder:
    def __init__(self, steps, known):
        self._known = known
        self._made = {name: step for step in steps for name in step.outputs}

    def replaced(self, step):
        """The step, or the one that does the same as the pattern it ends."""
        if step.op not in ("mul", "div") or len(step.inputs) != 2:
            return step
        for op, find in (("hardswish", self._hardswish), ("gelu", self._gelu), ("silu", self._silu)):
            x = find(step)
            if x is not None:
                return Node(op, (x,), step.outputs, {}, step.name)
        inner = self._scaled(step, 1 / 6)
        x = None if inner is None else self._ramp(inner)
        return step if x is None else Node("hardsigmoid", (x,), step.outputs, {}, step.name)

    def _by(self, name, op):
        """The step that makes a value, if it is of this operation, without clamping."""
        step = self._made.get(name)
        plain = step is not None and step.op == op and (op == "clip" or not set(step.attrs) & {"low", "high"})
        return step if plain else None

    def _number(self, name):
        """The value of a constant of one element, or None."""
        array = self._known.get(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def _with_number(self, step, wanted):
        """The other operand of a sum or product with this number."""
        for a, b in (step.inputs, step.inputs[::-1]):
            number = self._number(b)
            if number is not None and np.isclose(number, wanted, rtol=1e-6, atol=0):
                return a
        return None

    def _scaled(self, step, factor):
        """x where the step is x times a factor: a product with it, or a division by its inverse."""
        if step is None:
            return None
        if step.op == "mul":
            return self._with_number(step, factor)
        number = self._number(step.inputs[1])
        return step.inputs[0] if number is not None and np.isclose(number * factor, 1, rtol=1e-6) else None

    def _product_or_quotient(self, name):
        return self._by(name, "mul") or self._by(name, "div")

    def _ramp(self, name):
        """x of clip(x + 3, 0, 6)."""
        clip = self._by(name, "clip")
        if clip is None or (clip.attrs.get("low"), clip.attrs.get("high")) != (0, 6):
            return None
        total = self._by(clip.inputs[0], "add")
        return None if total is None else self._with_number(total, 3)

    def _times(self, step, find):
        """x where the step is a product of x and of something that `find` says is made of the same x."""
        if step is None or step.op != "mul":
            return None
        for x, other in (step.inputs, step.inputs[::-1]):
            if x not in self._known and find(other) == x:
                return x
        return None

    def _hardsigmoid(self, name):
        """x of hardsigmoid(x), written out or not."""
        step = self._by(name, "hardsigmoid")
        if step is not None:
            return step.inputs[0]
        inner = self._scaled(self._product_or_quotient(name), 1 / 6)
        return None if inner is None else self._ramp(inner)

    def _hardswish(self, step):
        inner = self._scaled(step, 1 / 6)
        if inner is not None:
            return self._times(self._by(inner, "mul"), self._ramp)
        return self._times(step, self._hardsigmoid)

    def _silu(self, step):
        def sigmoid(name):
            found = self._by(name, "sigmoid")
            return None if found is None else found.inputs[0]

        return self._times(step, sigmoid)

    def _gelu(self, step):
        """x (1 + erf(x / sqrt 2)) / 2: a factor of a half on the whole, on x, or on the sum."""
        whole = self._scaled(step, 0.5)
        if whole is not None:
            return self._times(self._by(whole, "mul"), self._bell)
        if step.op != "mul":
            return None
        for a, b in (step.inputs, step.inputs[::-1]):
            half = self._scaled(self._product_or_quotient(a), 0.5)
            if half is not None and self._bell(b) == half:  # (x / 2) (1 + erf)
                return half
            if half is not None and self._bell(half) == b:  # x ((1 + erf) / 2)
                return b
        return None

    def _bell(self, name):
        """x of 1 + erf(x / sqrt 2)."""
        total = self._by(name, "add")
        inner = None if total is None else self._with_number(total, 1)
        erf = None if inner is None else self._by(inner, "erf")
        return None if erf is None else self._scaled(self._product_or_quotient(erf.inputs[0]), 0.5**0.5)
