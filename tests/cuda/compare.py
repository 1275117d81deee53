"""One function on the CPU and on the device: equal results, equal gradients."""

import numpy as np

import fastconv as fc


def tensors(arrays, device, grads):
    return [
        None if a is None else fc.Tensor(a.copy()).to(device).requires_grad_(grads and a.dtype.kind == "f")
        for a in arrays
    ]


def results(fn, arrays, device, seed, grads=True):
    """Outputs and gradients of fn(*tensors), as NumPy arrays; the gradients of outputs are drawn from `seed`."""
    inputs = tensors(arrays, device, grads)
    out = fn(*inputs)
    outs = out if isinstance(out, tuple) else (out,)
    found = [o.detach().cpu().numpy() if isinstance(o, fc.Tensor) else o for o in outs]
    if grads:
        rng = np.random.default_rng(seed)
        g = fc.Tensor(rng.standard_normal(outs[0].shape).astype(outs[0].dtype)).to(device)
        outs[0].backward(g)
        assert all(o.device == device for o in outs)
        assert all(t is None or t.grad is None or t.grad.device == device for t in inputs)
        found += [None if t is None or t.grad is None else t.grad.cpu().numpy() for t in inputs]
    return found


def check(fn, *arrays, tol=2e-5, grads=True):
    """fn, a function of Tensors, gives the same on both; tol: of values about 1, in float32."""
    expected, given = (results(fn, arrays, device, 1, grads) for device in ("cpu", "cuda"))
    assert len(expected) == len(given)
    for e, g in zip(expected, given, strict=True):
        assert (e is None) == (g is None)
        if e is not None:
            assert e.dtype == g.dtype and e.shape == g.shape
            np.testing.assert_allclose(g, e, rtol=tol, atol=tol)
