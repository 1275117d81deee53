"""Recorded operations: what an op is, when it is recorded, and how gradients flow back.

An op is a class with two static functions, `forward` on plain NumPy arrays and `backward` from the gradients of its
outputs to the gradients of its arguments; `Op.apply` is the only way to call it. The graph is a set of `Node` objects,
each with edges to the nodes (or leaves) that made its arguments; `engine.py` walks it. This file knows of tensors only
their base, `Variable`; `tensor.py` adds the arithmetic.
"""

import contextlib
import itertools
import threading
from typing import Any

import numpy as np

from .._device import ARRAYS, Rule, placed, rules


class _State(threading.local):
    """What differs from thread to thread; a new thread starts with these values."""

    grad_enabled = True
    callback = None


_state = _State()
_numbers = itertools.count()


# -- tensors, as far as the engine needs them --------------------------------------------------------------------------


class Variable:
    """An array, whether it needs a gradient, and where it came from. `fc.Tensor` is the public face."""

    __slots__ = ("__weakref__", "_data", "_grad", "_index", "_needs", "_node", "_version")

    _data: np.ndarray
    _grad: "Variable | None"
    _needs: bool
    _node: "Node | None"
    _index: int
    _version: int


_tensor_class: type[Variable] = Variable


def tensor_class(cls):
    """Class decorator: results of ops are instances of `cls`."""
    global _tensor_class
    _tensor_class = cls
    return cls


def wrap(array, node=None, index=0) -> Any:
    """A Tensor around `array`, without checks or copies; with a node, output `index` of it."""
    out: Any = _tensor_class.__new__(_tensor_class)
    out._data = array
    out._grad = None
    out._needs = node is not None
    out._node = node
    out._index = index
    out._version = 0
    return out


def value(x):
    """The plain array (or number) behind `x`: for masks and other constants of a backward rule."""
    return x._data if isinstance(x, Variable) else x


# -- modes -------------------------------------------------------------------------------------------------------------


class _GradMode(contextlib.ContextDecorator):
    """Context and decorator that sets whether ops are recorded, in this thread only."""

    _enabled = True

    def __init__(self):
        self._before = []

    def __enter__(self):
        self._before.append(_state.grad_enabled)
        _state.grad_enabled = self._enabled
        return self

    def __exit__(self, *exc):
        _state.grad_enabled = self._before.pop()
        return False

    def _recreate_cm(self):
        return type(self)()


class no_grad(_GradMode):
    """Nothing is recorded: `with no_grad():` or `@no_grad()`."""

    _enabled = False


class enable_grad(_GradMode):
    """Ops are recorded, also inside `no_grad`."""

    _enabled = True


def is_grad_enabled() -> bool:
    """Whether ops called now, in this thread, are recorded."""
    return _state.grad_enabled


def is_watched() -> bool:
    """Whether ops called now, in this thread, are told to a callback of `capture`."""
    return _state.callback is not None


@contextlib.contextmanager
def capture(callback):
    """Call `callback(op, args, outputs)` after every op applied in this thread while the context is open.

    `args` are as given (Tensors stay Tensors), `outputs` is a tuple as returned to the caller.
    """
    before = _state.callback
    _state.callback = callback
    try:
        yield
    finally:
        _state.callback = before


# -- ops ---------------------------------------------------------------------------------------------------------------


class Context:
    """What `forward` leaves for `backward`. Any attribute may be set; arrays that carry gradients go to `save`.

    `needs` has one bool per argument of `forward`: whether its gradient is wanted.
    """

    def __init__(self, needs, recording):
        self.needs = needs
        self.recording = recording
        self.saved = ()
        self.rule: type[Rule] | None = None  # the op's counterpart on a device, if that was used

    def save(self, *arrays):
        """Keep arguments or outputs of `forward` for `backward`, where `ctx.saved` returns them.

        When a second derivative is wanted, each of them comes back as a Tensor joined to the graph. They are recognised
        by identity: save the very argument or output, not a copy. Anything else is taken for a constant.
        """
        if self.recording:
            self.saved = arrays


class Op:
    """One differentiable operation. Subclass it, write `forward` and `backward`, call `apply`.

    `forward(ctx, *args)` gets plain arrays (Tensors unwrapped) and attributes, and returns an array or a tuple of
    arrays. `backward(ctx, *grads)` gets one gradient per output (None where there is none) and returns one gradient, or
    None, per argument. Written with public functions and operators, which take arrays and Tensors alike, the rule is
    itself differentiable. An op whose rule is not sets `twice = False`.

    The engine may write into an array that `backward` returns, unless it is one of the incoming gradients or a saved
    array.

    `anywhere` says that forward and backward are NumPy functions on arrays alone, in which arrays on a device take
    part; any other op needs a counterpart there (`_device.Rule`).
    """

    name = "op"
    twice = True
    anywhere = False

    @staticmethod
    def forward(ctx, *args):
        raise NotImplementedError

    @staticmethod
    def backward(ctx, *grads):
        raise NotImplementedError

    @classmethod
    def apply(cls, *args) -> Any:
        """Arrays in, arrays out. Any Tensor in, Tensors out, recorded if gradients are on and an argument needs one."""
        for a in args:
            if isinstance(a, Variable):
                result = _apply_variables(cls, args)
                break
        else:
            chosen, args = placed(cls, args) if rules else (cls, args)
            result = chosen.forward(Context((False,) * len(args), False), *args)
        if _state.callback is not None:
            _state.callback(cls, args, result if isinstance(result, tuple) else (result,))
        return result


def _apply_variables(op, args):
    values, needs = _unwrap(args, _state.grad_enabled)
    recording = True in needs
    ctx = Context(needs, recording)
    if rules:
        chosen, values = placed(op, values)
        ctx.rule = None if chosen is op else chosen
    result = (ctx.rule or op).forward(ctx, *values)
    if type(result) is np.ndarray:  # the usual case
        one = (result,)
        tensor = wrap(result)
        if recording:
            node = Node(op, ctx, args, values, one, one)
            if result.dtype.kind == "f":
                tensor._node, tensor._needs = node, True
        return tensor
    raw = result if isinstance(result, tuple) else (result,)
    outputs = tuple(r if r is None or isinstance(r, ARRAYS) else np.asarray(r) for r in raw)
    node = Node(op, ctx, args, values, raw, outputs) if recording else None
    tensors = tuple(
        None if o is None else wrap(o, node if o.dtype.kind == "f" else None, i) for i, o in enumerate(outputs)
    )
    return tensors if isinstance(result, tuple) else tensors[0]


def _unwrap(args, grad_enabled):
    """(plain values, whether each needs a gradient); two different arguments never share one array object, so that
    `save` can tell them apart."""
    owner = {}
    values, needs = [], []
    for a in args:
        v, need = a, False
        if isinstance(a, Variable):
            v, need = a._data, grad_enabled and a._needs
        elif not isinstance(a, ARRAYS):
            values.append(a)
            needs.append(False)
            continue
        if owner.setdefault(id(v), a) is not a:
            v = v.view()
        values.append(v)
        needs.append(need)
    return values, tuple(needs)


class ArrayOp(Op):
    """An op of NumPy functions on arrays alone."""

    anywhere = True


def _position(objects, wanted):
    """Where an object is, or None."""
    for i, one in enumerate(objects):
        if one is wanted:
            return i
    return None


class Node:
    """One recorded call. `edges[i]` leads from argument i: None, a leaf, or (node, index of its output)."""

    __slots__ = ("ctx", "edges", "metas", "number", "op", "origins")

    def __init__(self, op, ctx, args, values, raw, outputs):
        self.op = op
        self.ctx: Any = ctx
        self.edges = tuple(
            [
                None if not need else a if a._node is None else (a._node, a._index)
                for a, need in zip(args, ctx.needs, strict=True)
            ]
        )
        self.metas = tuple([None if o is None else (o.shape, o.dtype) for o in outputs])
        self.number = next(_numbers)
        self._trace(values, raw, outputs)

    def _trace(self, values, raw, outputs):
        """Note where each saved array came from: argument i as i, output k as -1 - k, a constant as None."""
        saved, origins = [], []
        for s in self.ctx.saved:
            origin = None if s is None else _position(values, s)
            if origin is None and s is not None:
                k = _position(raw, s)
                if k is not None:
                    origin, s = -1 - k, outputs[k]
            saved.append(s)
            origins.append(origin)
        self.ctx.saved = tuple(saved)
        self.origins = origins

    def saved_tensors(self):
        """The saved arrays as Tensors joined to the graph."""
        return tuple(map(self._rejoin, self.ctx.saved, self.origins))

    def _rejoin(self, s, origin):
        if not isinstance(s, ARRAYS):
            return s
        if origin is None:
            return wrap(s)
        if origin < 0:
            return wrap(s, self, -1 - origin)
        edge = self.edges[origin]
        if isinstance(edge, tuple):
            return wrap(s, *edge)
        return wrap(s) if edge is None else edge

    def release(self):
        """Drop arrays kept for backward; a node that kept none can be used again."""
        if self.ctx.saved or any(isinstance(v, ARRAYS) for v in vars(self.ctx).values()):
            self.ctx = None

    def meta(self, i):
        """(shape, dtype) of argument i, which needs a gradient."""
        edge = self.edges[i]
        if isinstance(edge, tuple):
            return edge[0].metas[edge[1]]
        return edge._data.shape, edge._data.dtype

    def run(self, grads, needs, create_graph):
        """Gradients of the arguments, one per argument."""
        ctx = self.ctx
        if ctx is None:
            raise RuntimeError(
                f"{self.op.name}: backward a second time through a graph whose saved arrays were freed; "
                "pass retain_graph=True to the first backward"
            )
        if create_graph and not (self.op.twice and (ctx.rule is None or ctx.rule.twice)):
            raise RuntimeError(f"{self.op.name}: has no second derivative; create_graph=True cannot pass through it")
        arrays, wanted = ctx.saved, ctx.needs
        ctx.needs = needs
        if create_graph:
            ctx.saved = self.saved_tensors()
        try:
            backward = ctx.rule.backward if ctx.rule and not create_graph else None
            out = (backward or self.op.backward)(ctx, *grads)
        finally:
            ctx.saved, ctx.needs = arrays, wanted
        out = out if isinstance(out, tuple) else (out,)
        if len(out) != len(self.edges):
            given = f"{len(out)} gradients for {len(self.edges)} arguments"
            raise RuntimeError(f"{self.op.name}: backward returned {given}")
        return out
