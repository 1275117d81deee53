"""Gradients against central differences, in float64.

For f with analytic Jacobian J, column j is compared with (f(x + eps e_j) - f(x - eps e_j)) / (2 eps), whose error is of
order eps^2 from the curvature and machine-epsilon / eps from rounding; eps = 1e-6 balances the two in float64.
"""

import numpy as np

from .engine import grad
from .op import Variable, value
from .tensor import Tensor


def gradcheck(fn, inputs, eps=1e-6, atol=1e-5, rtol=1e-3) -> bool:
    """Compare the gradients of `fn(*inputs)` with central differences.

    inputs: a Tensor, an array, or a sequence of them and of anything else (passed on as it is). They are copied to
    float64. Checked are the Tensors that require a gradient; if there is none, every floating-point array. `fn` returns
    one Tensor or several. Returns True, or raises AssertionError naming input, output, position and both numbers.
    """
    args, checked = _prepare(inputs)
    outputs = _outputs(fn, args)
    for k, out in enumerate(outputs):
        if not isinstance(out, Variable) or out._data.dtype.kind != "f":
            continue
        exact = _analytic(out, [args[i] for i in checked])
        for i, jacobian in zip(checked, exact, strict=True):
            numeric = _numeric(fn, args, i, k, eps)
            _compare(jacobian, numeric, atol, rtol, f"output {k}", f"input {i}", out._data.shape, args[i].shape)
    return True


def gradgradcheck(fn, inputs, grad_outputs=None, eps=1e-6, atol=1e-5, rtol=1e-3) -> bool:
    """`gradcheck` of the gradients of `fn`: second derivatives. `grad_outputs` are drawn at random unless given."""
    args, checked = _prepare(inputs)
    outputs = [o for o in _outputs(fn, args) if isinstance(o, Variable) and o._needs]
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        grad_outputs = [rng.standard_normal(o._data.shape) for o in outputs]
    grad_outputs = [Tensor(np.array(g, np.float64), requires_grad=True) for g in grad_outputs]

    def first_derivative(*everything):
        inner, weights = everything[: len(args)], everything[len(args) :]
        outs = [o for o in _outputs(fn, inner) if isinstance(o, Variable) and o._needs]
        gradients = grad(outs, [inner[i] for i in checked], weights, create_graph=True, allow_unused=True)
        return tuple(g for g in gradients if g is not None and g._needs)

    return gradcheck(first_derivative, [*args, *grad_outputs], eps, atol, rtol)


def _prepare(inputs):
    """Float64 copies, and the positions to check."""
    inputs = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    any_tensor = any(isinstance(x, Variable) and x._needs for x in inputs)
    args, checked = [], []
    for i, x in enumerate(inputs):
        array = value(x)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f":
            needs = x._needs if isinstance(x, Variable) else not any_tensor
            x = Tensor(np.array(array, np.float64), requires_grad=needs)
            if needs:
                checked.append(i)
        args.append(x)
    if not checked:
        raise ValueError("gradcheck: no input is a floating-point array or a Tensor that requires a gradient")
    return args, checked


def _outputs(fn, args):
    out = fn(*args)
    return list(out) if isinstance(out, (tuple, list)) else [out]


def _analytic(out, inputs):
    """One Jacobian (output size, input size) per input: a backward pass per output element."""
    jacobians = [np.zeros((out.size, x.size)) for x in inputs]
    if not out._needs:
        return jacobians
    for row in range(out.size):
        seed = np.zeros(out.size)
        seed[row] = 1
        seed = seed.reshape(out.shape).astype(out.dtype)
        gradients = grad(out, inputs, seed, retain_graph=True, allow_unused=True)
        for jacobian, g in zip(jacobians, gradients, strict=True):
            if g is not None:
                jacobian[row] = g._data.ravel()
    return jacobians


def _numeric(fn, args, i, k, eps):
    flat = args[i]._data.reshape(-1)
    columns = []
    for j in range(flat.size):
        before = flat[j]
        values = []
        for step in (eps, -eps):
            flat[j] = before + step
            values.append(_flat_output(fn, args, k))
        flat[j] = before
        columns.append((values[0] - values[1]) / (2 * eps))
    return np.stack(columns, axis=1) if columns else np.zeros((_flat_output(fn, args, k).size, 0))


def _flat_output(fn, args, k):
    """Output k, flat. Recording stays on, since the function may itself ask for gradients."""
    return np.array(_outputs(fn, args)[k]._data, np.float64).ravel()


def _compare(exact, numeric, atol, rtol, output, source, out_shape, in_shape):
    wrong = ~np.isclose(exact, numeric, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return
    error = np.where(wrong, np.abs(exact - numeric), -1)
    row, column = (int(n) for n in np.unravel_index(np.nanargmax(error), error.shape))
    at_out = tuple(map(int, np.unravel_index(row, out_shape))) if out_shape else ()
    at_in = tuple(map(int, np.unravel_index(column, in_shape))) if in_shape else ()
    raise AssertionError(
        f"gradcheck: d {output}{list(at_out)} / d {source}{list(at_in)} is {exact[row, column]:.8g} by backward and "
        f"{numeric[row, column]:.8g} by central differences; {int(wrong.sum())} of {wrong.size} entries differ by "
        f"more than {atol:g} + {rtol:g} * |value| (shapes: {output} {out_shape}, {source} {in_shape})"
    )
