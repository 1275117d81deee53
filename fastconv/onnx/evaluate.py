"""Models run node by node: the reference for every plan, and the way for what a plan can't hold (sequences, text)."""

import numpy as np

from .table import ModelError, lookup

REFUSALS = ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, TypeError, ValueError


class Scope:
    """Values by name, of one graph and those around it."""

    def __init__(self, values, outer=None):
        self.values, self._outer = values, outer

    def __getitem__(self, name):
        scope = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope._outer
        raise KeyError(name)


def run_body(body, feeds, outer=None, wanted=None):
    """[value] of the outputs (or of the names wanted), for {input name: value}."""
    scope = Scope({**body.constants, **feeds}, outer)
    names = [value.name for value in body.outputs] if wanted is None else list(wanted)
    kept = set(names)
    for index, node in enumerate(body.nodes):
        results = run_node(node, scope)
        scope.values.update((name, r) for name, r in zip(node.outputs, results, strict=False) if name)
        for name in body.last_use.get(index, ()):
            if name not in kept:
                scope.values.pop(name, None)
    return [scope[name] if name else None for name in names]


def run_node(node, scope):
    """The outputs of one node, a tuple; ModelError naming it where its function refuses."""
    inputs = [None if name is None else scope[name] for name in node.inputs]
    return apply(node, inputs, scope)


def apply(node, inputs, scope=None):
    """The outputs of a node for these inputs, a tuple of values."""
    entry = lookup(node.op, node.domain)
    if entry is None:
        raise ModelError(f"{node}: there is no such operator")
    check_dtypes(node, [getattr(a, "dtype", None) for a in inputs])
    try:
        with np.errstate(all="ignore"):
            results = entry.function(node, scope, *inputs) if entry.scope else entry.function(node, *inputs)
    except ModelError:
        raise
    except REFUSALS as error:
        reason = f"{error}" if not isinstance(error, KeyError) else f"needs {error}"
        given = ", ".join("-" if a is None else described(a) for a in inputs)
        raise ModelError(f"{node}: {reason or type(error).__name__}; inputs {given}") from error
    results = results if isinstance(results, tuple) else (results,)
    return tuple(as_value(r) for r in results)


NUMPY = frozenset(map(str, map(np.dtype, "?bhilBHILefdFDO")))  # others are left to the functions


def check_dtypes(node, dtypes):
    """ModelError where inputs that must have one dtype have several, or one that the operator doesn't take."""
    for group, names in node.dtypes:
        given = {str(dtypes[p]) for p in group if dtypes[p] is not None}
        if len(given) > 1 or (given - names) & NUMPY:
            where, wanted = ", ".join(map(str, group)), "one dtype" if len(given) > 1 else f"one of {sorted(names)}"
            raise ModelError(f"{node}: inputs {where} must have {wanted}, given {', '.join(sorted(given))}")


def as_value(value):
    """NumPy's scalars are arrays of no axes."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def described(value):
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, tuple)) else type(value).__name__
