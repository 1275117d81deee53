"""Activations that exporters spell out: several operators become the one operation with a kernel.

    x clip(x + 3, 0, 6) / 6    hardswish, in any order of the product and the division, or with a factor of 1/6
    clip(x + 3, 0, 6) / 6      hardsigmoid          x hardsigmoid(x)   hardswish          x sigmoid(x)   silu
    x (1 + erf(x / sqrt 2)) / 2                     gelu, in any order of the products

What lies in between is left to the pass that removes what nobody reads.
"""

import numpy as np

from ..infer import Node


def fuse(steps, known):
    """The steps, those that end a pattern replaced.  known: {name: array} of constants."""
    finder = _Finder(steps, known)
    return [finder.replaced(step) for step in steps]


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
